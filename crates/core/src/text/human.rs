//! Numbers, sizes and times as people read them, the same in logs, in status and in conditions.

use std::fmt::Display;

/// The number and its noun: `1 stream`, `2 streams`. For nouns whose plural ends in `s` and nothing else.
#[must_use]
pub fn count_noun(n: impl Into<u128> + Display + Copy, noun: &str) -> String {
    let s = if n.into() == 1 { "" } else { "s" };
    format!("{n} {noun}{s}")
}

/// The number, its noun and the verb: `1 stream is`, `2 streams are`.
#[must_use]
pub fn count_noun_is(n: impl Into<u128> + Display + Copy, noun: &str) -> String {
    let verb = if n.into() == 1 { "is" } else { "are" };
    format!("{} {verb}", count_noun(n, noun))
}

/// A size in binary units, with at most one decimal.
#[must_use]
pub fn human_bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let power = (n.ilog2() / 10) as usize;
    let unit = 1_u64 << (10 * power);
    let tenths = u128::from(n) * 10 / u128::from(unit);
    let name = UNITS[power - 1];
    if tenths < 100 {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    } else {
        format!("{} {name}", tenths / 10)
    }
}

/// A span of time, from milliseconds.
#[must_use]
pub fn human_millis(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s}.{} s", ms % 1000 / 100),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// A span of time, from whole seconds.
#[must_use]
pub fn human_seconds(s: u64) -> String {
    if s < 60 { format!("{s} s") } else { human_millis(s.saturating_mul(1000)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one() {
        let said = |n: u64| (count_noun(n, "stream"), count_noun_is(n, "stream"));
        assert_eq!(said(0), ("0 streams".into(), "0 streams are".into()));
        assert_eq!(said(1), ("1 stream".into(), "1 stream is".into()));
        assert_eq!(said(21), ("21 streams".into(), "21 streams are".into()));
    }

    #[test]
    fn sizes_and_spans_are_short() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10_240, "10 KiB"),
            (u64::MAX, "15 EiB"),
        ];
        let shown = sizes.map(|(n, _)| human_bytes(n));
        assert_eq!(shown, sizes.map(|(_, text)| text));
        let spans = [
            (7, "7 ms"),
            (1250, "1.2 s"),
            (61_000, "1 min 1 s"),
            (7_260_000, "2 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ];
        assert_eq!((human_seconds(0), human_seconds(90)), ("0 s".into(), "1 min 30 s".into()));
        let shown = spans.map(|(n, _)| human_millis(n));
        assert_eq!(shown, spans.map(|(_, text)| text));
    }
}
