//! A diagnosis as people read it: hop by hop, with what mends the first that fails.

use adit_core::doctor::{Diagnosis, DoctorSubject, HopFinding, HopOutcome};
use adit_core::text::escape;

use crate::status::tables::{CellStyle, Style, cell, styled_cell, table, text};

/// The page of one import, export or link.
pub(super) fn render(found: &Diagnosis, style: Style) -> String {
    let from = escape(found.from.as_deref().unwrap_or("no cluster that is known"));
    let (service, caller) = (escape(&found.service), escape(&found.caller));
    let mut page = match found.subject {
        DoctorSubject::Import => format!("{service} from {from}, as {caller}\n"),
        DoctorSubject::Export => format!("export of {service} by {from}\n"),
        DoctorSubject::Link => format!("link with {from}, as {caller} has it\n"),
    };
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
    let (well, bad, unsaid) = match found.subject {
        DoctorSubject::Import | DoctorSubject::Export => {
            ("A request is answered", "A request is not answered", "if a request is answered")
        }
        DoctorSubject::Link => ("The link is up", "The link does not work", "if the link is up"),
    };
    match (found.first(), found.is_answered) {
        (Some(first), _) => {
            format!("{bad}, for the {}. What mends it:{}\n", first.hop.name(), mend(first))
        }
        (None, Some(true)) => {
            let notes: String = notes.map(mend).collect();
            let also =
                if notes.is_empty() { String::new() } else { format!(" Worth doing:{notes}") };
            format!("{well}.{also}\n")
        }
        (None, _) => {
            let unknown = found.findings.iter().find(|f| f.outcome == HopOutcome::Unknown);
            let why = unknown.map_or_else(String::new, |f| format!(": {}", escape(&f.seen)));
            format!("It cannot be said {unsaid}{why}{}\n", unknown.map_or_else(String::new, mend))
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
            subject: DoctorSubject::Import,
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
