//! The report: tables for people, JSON for machines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::figures::{Figure, Sample, Spread, summary};
use crate::picture;
use crate::scenario::Scenario;
use crate::subject::SubjectKind;

/// A figure that was measured.
pub(crate) type ReportLine<'a> = (&'a Figure, Spread);

/// A number with three digits that mean something.
pub(crate) fn number(value: f64) -> String {
    let digits = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

/// Writes one number, or a range.
pub(crate) fn range((low, high): (f64, f64)) -> String {
    if low == high { number(low) } else { format!("{}..{}", number(low), number(high)) }
}

/// The tables in Markdown, which reads well on a terminal, too.
pub(crate) fn tables(lines: &[ReportLine<'_>], samples: &[Sample]) -> String {
    format!("{}\nMedians of what was measured:\n\n{}", figures(lines), medians(samples))
}

fn figures(lines: &[ReportLine<'_>]) -> String {
    let mut rows = vec![
        [
            "row",
            "what",
            "adit, median",
            "min..max",
            "unit",
            "prototype",
            "gate",
            "verdict",
            "rounds",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for (figure, spread) in lines {
        let behind = figure.behind_prototype(spread);
        let met = figure.behind(spread.median, figure.gate) <= 1.0;
        let verdict = match behind {
            _ if met => "gate met".to_owned(),
            Some(behind) if behind > 1.15 => {
                format!("{:.0} % behind prototype", behind * 100.0 - 100.0)
            }
            Some(_) | None => "gate not met".to_owned(),
        };
        rows.push(vec![
            figure.row.into(),
            figure.what.into(),
            number(spread.median),
            range(spread.ends),
            figure.unit(),
            figure.prototype.map_or_else(|| "–".into(), range),
            number(figure.gate),
            verdict,
            format!("{}{}", spread.rounds, if spread.noisy { ", disturbed" } else { "" }),
        ]);
    }
    table(&rows)
}

fn medians(samples: &[Sample]) -> String {
    let mut values: BTreeMap<(Scenario, &str), BTreeMap<SubjectKind, Vec<f64>>> = BTreeMap::new();
    for sample in samples {
        for (key, value) in &sample.values {
            let subjects = values.entry((sample.scenario, key)).or_default();
            subjects.entry(sample.subject).or_default().push(*value);
        }
    }
    let kinds = [
        SubjectKind::Direct,
        SubjectKind::HaproxyTcp,
        SubjectKind::HaproxyMtls,
        SubjectKind::Adit,
        SubjectKind::AditJumbo,
    ];
    let mut rows = vec![["load", "value"].map(str::to_owned).to_vec()];
    rows[0].extend(kinds.map(|kind| kind.name().to_owned()));
    for ((scenario, key), subjects) in &values {
        let name = json!(scenario).as_str().unwrap_or_default().to_owned();
        let mut row = vec![name, (*key).to_owned()];
        row.extend(kinds.map(|kind| {
            let spread = subjects.get(&kind).and_then(|values| summary(values.clone(), false));
            spread.map_or_else(|| "–".to_owned(), |spread| number(spread.median))
        }));
        rows.push(row);
    }
    table(&rows)
}

/// Rows in Markdown, padded.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (nth, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            text += &format!("| {cell:width$} ");
        }
        text += "|\n";
        if nth == 0 {
            text += &widths
                .iter()
                .map(|width| format!("|{}", "-".repeat(width + 2)))
                .collect::<String>();
            text += "|\n";
        }
    }
    text
}

/// The machine, as far as it explains numbers.
pub(crate) fn machine() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores of {}, Linux {kernel}", model.map_or("an unknown CPU", |(_, name)| name))
}

/// Writes report.md, report.json and report.svg.
pub(crate) fn write(
    folder: &Path,
    lines: &[ReportLine<'_>],
    samples: &[Sample],
    how: &str,
) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut text = format!("# Adit beside direct TCP and haproxy\n\n{how}\n\n");
    write!(text, "![](report.svg)\n\n{}", tables(lines, samples))?;
    fs::write(folder.join("report.md"), text)?;
    fs::write(folder.join("report.svg"), picture::draw(lines, how))?;
    let figures: Vec<_> = lines
        .iter()
        .map(|(figure, spread)| {
            json!({
                "row": figure.row, "what": figure.what, "unit": figure.unit(), "spread": spread,
                "prototype": figure.prototype, "gate": figure.gate,
            })
        })
        .collect();
    let document = json!({ "how": how, "figures": figures, "samples": samples });
    fs::write(folder.join("report.json"), serde_json::to_string_pretty(&document)?)?;
    Ok(())
}
