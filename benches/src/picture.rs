//! The report as a picture: each figure a dot with whiskers on one logarithmic axis.
//!
//! The axis says how many times the gate's value a figure is, turned so that left is better: what is
//! left of the line passes. Drawn by hand, since it is two hundred shapes.

use std::fmt::Write as _;

use crate::report::{ReportLine, number, range};

/// Height of a figure's line.
const ROW: f64 = 26.0;
/// The height of the first line.
const TOP: f64 = 110.0;
/// The beginning and end of the axis.
const AXIS: (f64, f64) = (270.0, 800.0);
/// The width of the whole picture.
const WIDTH: f64 = 1120.0;
/// The values at which the axis may be labelled.
const TICKS: [f64; 10] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0];
const GOOD: &str = "#1a7f4b";
const BAD: &str = "#b3441e";

/// The axis: the least and the greatest value that it shows.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// An axis that shows all marks of these lines.
    fn for_lines(lines: &[ReportLine<'_>]) -> Self {
        let mut shown: Vec<f64> = vec![0.7, 1.4];
        for (figure, spread) in lines {
            let marks = figure.prototype.map_or([spread.median; 2], |(low, high)| [low, high]);
            let all = [spread.ends.0, spread.ends.1, marks[0], marks[1]];
            shown.extend(
                all.map(|value| figure.behind(value, figure.gate)).iter().filter(|v| **v > 0.0),
            );
        }
        let low = shown.iter().copied().fold(f64::MAX, f64::min).max(0.02) * 0.9;
        let high = shown.iter().copied().fold(f64::MIN, f64::max).min(100.0) * 1.1;
        Self { low, high }
    }

    /// Where a value stands.
    fn x(self, value: f64) -> f64 {
        let Self { low, high } = self;
        let share = (value.clamp(low, high) / low).ln() / (high / low).ln();
        AXIS.0 + share * (AXIS.1 - AXIS.0)
    }
}

/// Draws it.
pub(crate) fn draw(lines: &[ReportLine<'_>], how: &str) -> String {
    let axis = Axis::for_lines(lines);
    let bottom = TOP + ROW * lines.len() as f64;
    let height = bottom + 56.0;
    let mut svg = String::new();
    let mut put = |shape: String| svg.push_str(&(shape + "\n"));
    put(format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#222">
<rect width="{WIDTH}" height="{height}" fill="#fff"/>
<text x="20" y="30" font-size="18" font-weight="bold">Adit against its gates</text>
<text x="20" y="52" fill="#666">{}</text>"##,
        escape(how)
    ));
    put(text(axis.x(1.0), TOP - 34.0, "middle", "#222", "gate"));
    put(text(axis.x(1.0) - 40.0, TOP - 34.0, "end", GOOD, "◀ better"));
    put(text(axis.x(1.0) + 40.0, TOP - 34.0, "start", BAD, "worse ▶"));
    put(text(AXIS.1 + 16.0, TOP - 12.0, "start", "#666", "median, prototype, gate"));
    for tick in TICKS.into_iter().filter(|tick| (axis.low..=axis.high).contains(tick)) {
        let (at, colour) = (axis.x(tick), if tick == 1.0 { "#222" } else { "#ddd" });
        put(line((at, TOP - 8.0), (at, bottom), colour, 1.0));
        put(text(at, TOP - 14.0, "middle", "#666", &format!("{tick}")));
    }
    for (nth, line) in lines.iter().enumerate() {
        draw_line(nth, line, axis, &mut put);
    }
    put(text(
        20.0,
        bottom + 26.0,
        "start",
        "#666",
        "Axis: times the gate's value, turned so that left is better. Dot: median (hollow: other programs \
         disturbed it). Thick: quartiles.",
    ));
    put(text(
        20.0,
        bottom + 44.0,
        "start",
        "#666",
        "Thin: least and most over the rounds. Blue: what the prototype of the design reached.",
    ));
    // Writing to a String cannot fail.
    writeln!(svg, "</svg>").ok();
    svg
}

/// Draws one figure: its name, the prototype's range, whiskers, dot, and its numbers.
fn draw_line(
    nth: usize,
    (figure, spread): &ReportLine<'_>,
    axis: Axis,
    put: &mut impl FnMut(String),
) {
    let y = TOP + ROW * (nth as f64 + 0.5);
    let place = |value: f64| axis.x(figure.behind(value, figure.gate));
    let met = figure.behind(spread.median, figure.gate) <= 1.0;
    let colour = if met { GOOD } else { BAD };
    if nth.is_multiple_of(2) {
        let (top, wide) = (y - ROW / 2.0, WIDTH - 20.0);
        put(format!(
            r##"<rect x="10" y="{top:.1}" width="{wide}" height="{ROW}" fill="#000" opacity="0.03"/>"##
        ));
    }
    put(text(20.0, y + 4.5, "start", "#222", &format!("{}  {}", figure.row, figure.what)));
    if let Some((from, to)) = figure.prototype {
        let (a, b) = (place(from).min(place(to)), place(from).max(place(to)));
        let (left, top, wide) = (a - 2.5, y - 8.0, b - a + 5.0);
        put(format!(
            r##"<rect x="{left:.1}" y="{top:.1}" width="{wide:.1}" height="16" fill="#5b7fb5" opacity="0.5"/>"##
        ));
    }
    put(line((place(spread.ends.0), y), (place(spread.ends.1), y), colour, 1.5));
    put(line((place(spread.quartiles.0), y), (place(spread.quartiles.1), y), colour, 5.0));
    let (at, fill) = (place(spread.median), if spread.noisy { "#fff" } else { colour });
    put(format!(
        r##"<circle cx="{at:.1}" cy="{y:.1}" r="5" fill="{fill}" stroke="{colour}" stroke-width="2"/>"##
    ));
    let prototype = figure.prototype.map_or_else(|| "–".to_owned(), range);
    let words = format!(
        "{}, {prototype}, {} {}",
        number(spread.median),
        number(figure.gate),
        figure.unit()
    );
    put(text(AXIS.1 + 16.0, y + 4.5, "start", colour, &words));
}

fn line(from: (f64, f64), to: (f64, f64), colour: &str, width: f64) -> String {
    let ((a, b), (c, d)) = (from, to);
    format!(
        r#"<line x1="{a:.1}" y1="{b:.1}" x2="{c:.1}" y2="{d:.1}" stroke="{colour}" stroke-width="{width}"/>"#
    )
}

fn text(x: f64, y: f64, anchor: &str, colour: &str, words: &str) -> String {
    let words = escape(words);
    format!(
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}" xml:space="preserve">{words}</text>"#
    )
}

fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;")
}
