//! `adit check`: all problems of a configuration file at once.
//!
//! The checks and their texts are in `adit-config`, and for the files that it refers to where the
//! node reads them; here are colours and JSON.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use adit_config::{ConfigReport, ProblemSeverity};
use adit_core::deny_list::DenyEntry;
use owo_colors::{OwoColorize as _, Style};

use crate::output::print;

/// Check a node's configuration file, without starting anything
///
/// Says everything that is wrong with FILE at once: where it is, what was expected and, where that can be
/// guessed, what was meant. The files that it refers to (identity, trust bundles) have to be there, and good. A
/// running node takes a changed FILE by itself, so check it before you put it in place.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 the file can be used (there may be warnings), 1 it cannot, \
                        2 used wrongly."
)]
pub(crate) struct Args {
    /// The configuration file, YAML
    file: PathBuf,
    /// Print one JSON object: file, usable, problems (severity, kind, place, path, message, hint), denied
    #[arg(long)]
    json: bool,
}

/// Checks the file.
///
/// # Errors
/// Only if the result cannot be printed.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Read as the node reads it, so that the result is the node's own.
    let report = adit_daemon::node::check(&args.file);
    let mut denied = Vec::new();
    if report.errors().next().is_none()
        && let Ok((config, _)) = adit_config::load(&args.file)
    {
        denied.clone_from(&config.denied);
    }
    let usable = report.errors().next().is_none();
    let coloured = std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    print(&if args.json {
        as_json(&report, usable, &denied)?
    } else {
        as_denied(&denied) + &as_text(&report, usable, coloured)
    })?;
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(serde::Serialize)]
struct CheckOutput<'a> {
    usable: bool,
    #[serde(flatten)]
    report: &'a ConfigReport,
    denied: Vec<DeniedEntry<'a>>,
}

#[derive(serde::Serialize)]
struct DeniedEntry<'a> {
    entry: String,
    reason: Option<&'a str>,
}

fn as_json(report: &ConfigReport, usable: bool, denied: &[DenyEntry]) -> anyhow::Result<String> {
    let denied = denied
        .iter()
        .map(|e| DeniedEntry { entry: e.peer.to_string(), reason: e.reason.as_deref() })
        .collect();
    Ok(serde_json::to_string_pretty(&CheckOutput { usable, report, denied })? + "\n")
}

/// Lists the peers that would be refused: nobody should have to look for them.
fn as_denied(denied: &[DenyEntry]) -> String {
    let one = |entry: &DenyEntry| match &entry.reason {
        Some(reason) => format!("{} ({reason})\n", entry.peer),
        None => format!("{}\n", entry.peer),
    };
    denied.iter().map(one).collect()
}

fn as_text(report: &ConfigReport, usable: bool, coloured: bool) -> String {
    let style = |style: Style| if coloured { style } else { Style::new() };
    let mut text = String::new();
    for problem in &report.problems {
        let colour = match problem.severity {
            ProblemSeverity::Error => style(Style::new().red().bold()),
            ProblemSeverity::Warning => style(Style::new().yellow().bold()),
        };
        let problem_text = problem.to_string();
        let mut lines = problem_text.lines();
        let first = lines.next().unwrap_or_default();
        text += &format!("{}: {first}\n", report.location(problem).style(colour));
        for hint in lines {
            text += &format!("{}\n", hint.style(style(Style::new().cyan())));
        }
    }
    let count = |n: usize, what: &str| match n {
        0 => None,
        1 => Some(format!("1 {what}")),
        n => Some(format!("{n} {what}s")),
    };
    let counts = [
        count(report.errors().count(), "error"),
        count(report.warnings().count(), "warning"),
        (report.omitted > 0).then(|| format!("{} more", report.omitted)),
    ];
    let counts: Vec<_> = counts.into_iter().flatten().collect();
    let verdict = if usable { "can be used" } else { "cannot be used" };
    let file = report.name();
    match &counts[..] {
        [] => text + &format!("{file} {verdict}\n"),
        counts => text + &format!("{file} {verdict}: {}\n", counts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str) -> ConfigReport {
        match adit_config::parse(text.as_bytes(), "f\u{7}.yaml".as_ref()) {
            Ok((_, report)) | Err(report) => report,
        }
    }

    #[test]
    fn people_read_lines_with_a_verdict() {
        let bad = report("cluster: Edge\nlimits: {keepAlive: 20s}\n");
        let plain = as_text(&bad, false, false);
        assert!(plain.contains("f\\u{7}.yaml:1:10: cluster: \"Edge\" is not a valid cluster name"));
        assert!(plain.contains("\n  hint: did you mean \"edge\"?\n"));
        assert!(plain.contains("f\\u{7}.yaml:2:21: warning: limits.keepAlive: more than 15s"));
        assert!(plain.ends_with("\nf\\u{7}.yaml cannot be used: 3 errors, 1 warning\n"), "{plain}");
        let coloured = as_text(&bad, false, true);
        assert!(coloured.contains("\u{1b}["));
        assert_eq!(
            as_text(&report(adit_config::EXAMPLE), true, true),
            "f\\u{7}.yaml can be used\n"
        );
    }

    #[test]
    fn who_is_denied_is_said() {
        let (config, report) =
            adit_config::parse(adit_config::EXAMPLE.as_bytes(), "f".as_ref()).unwrap();
        let said = as_denied(&config.denied);
        assert!(said.contains("\ndenied.nodes: edge/e9 (its disk was stolen)\n"), "{said}");
        let json = as_json(&report, true, &config.denied).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["denied"][0]["entry"], "denied.clusters: lab");
    }

    #[test]
    fn machines_read_json() {
        let bad = report("cluster: Edge\n");
        let json: serde_json::Value =
            serde_json::from_str(&as_json(&bad, false, &[]).unwrap()).unwrap();
        assert_eq!(json["usable"], false);
        assert_eq!(json["file"], "f\u{7}.yaml");
        let first = &json["problems"][0];
        assert_eq!(first["kind"], "missing-key");
        assert_eq!(first["path"], "trustDomain");
        assert_eq!(first["place"], serde_json::json!({"line": 1, "column": 1}));
        assert_eq!(first["severity"], "error");
        assert_eq!(json["problems"][2]["hint"], "did you mean \"edge\"?");
    }
}
