//! A diagnosis as people read it: hop by hop, with what mends the first that fails.

use adit_core::doctor::{Diagnosis, HopFinding, HopOutcome};
use adit_core::text::escape;

use crate::status::tables::{CellStyle, Style, cell, styled_cell, table, text};

/// The page of one import.
pub(super) fn render(found: &Diagnosis, style: Style) -> String {
    let from = found.from.as_deref().unwrap_or("no cluster that is known");
    let mut page =
        format!("{} from {}, as {}\n", escape(&found.service), escape(from), escape(&found.caller));
    let mut hops = table(style, &[]);
    for HopFinding { hop, outcome, seen, .. } in &found.findings {
        let (mark, meaning) = match outcome {
            HopOutcome::Good => ("✓", CellStyle::Good),
            HopOutcome::Note => ("·", CellStyle::Doubtful),
            HopOutcome::Failed => ("✗", CellStyle::Bad),
            HopOutcome::Unknown => ("?", CellStyle::Doubtful),
        };
        hops.add_row([styled_cell(mark, meaning), cell(hop.name()), cell(seen)]);
    }
    page += &text(&hops);
    page += &verdict(found);
    page
}

/// The last lines: the answer, and what to do first. A command stands on a line of its own, to be copied.
fn verdict(found: &Diagnosis) -> String {
    let mend = |finding: &HopFinding| {
        finding.mend.as_ref().map_or_else(String::new, |mend| format!("\n    {}", escape(mend)))
    };
    let notes = found.findings.iter().filter(|f| f.outcome == HopOutcome::Note && f.mend.is_some());
    match (found.first(), found.is_answered) {
        (Some(first), _) => {
            format!(
                "A request is not answered, for the {}. What mends it:{}\n",
                first.hop.name(),
                mend(first)
            )
        }
        (None, Some(true)) => {
            let notes: String = notes.map(mend).collect();
            let also =
                if notes.is_empty() { String::new() } else { format!(" Worth doing:{notes}") };
            format!("A request is answered.{also}\n")
        }
        (None, _) => {
            let unknown = found.findings.iter().find(|f| f.outcome == HopOutcome::Unknown);
            let why = unknown.map_or_else(String::new, |f| format!(": {}", escape(&f.seen)));
            format!(
                "It cannot be said if a request is answered{why}{}\n",
                unknown.map_or_else(String::new, mend)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use adit_core::doctor::DoctorHop;

    use super::*;

    #[test]
    fn a_page_ends_with_the_command_that_mends_the_first_hop_that_fails() {
        let finding = |hop, outcome, seen: &str, mend: Option<&str>| HopFinding {
            hop,
            outcome,
            seen: seen.to_owned(),
            mend: mend.map(str::to_owned),
        };
        let found = Diagnosis {
            service: "agents/fraud-bot".to_owned(),
            from: Some("bank".to_owned()),
            caller: "agents/support-bot".to_owned(),
            is_answered: Some(false),
            first_failed: Some(DoctorHop::ExportGrant),
            findings: vec![
                finding(DoctorHop::Link, HopOutcome::Good, "connected", None),
                finding(
                    DoctorHop::ExportGrant,
                    HopOutcome::Failed,
                    "for others\u{1b}",
                    Some("adit export a/b"),
                ),
            ],
        };
        let page = render(&found, Style { width: None, colour: false });
        assert_eq!(
            page,
            "agents/fraud-bot from bank, as agents/support-bot\n  \
             ✓  link          connected\n  \
             ✗  export grant  for others\\u{1b}\n\
             A request is not answered, for the export grant. What mends it:\n    adit export a/b\n"
        );
    }
}
