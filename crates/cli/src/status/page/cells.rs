//! Cells of the status page that several tables share.

use adit_core::text::{escape, human_bytes};
use adit_daemon::status::{ImportPort, Reason, StreamCounts};

use crate::status::tables::{CellStyle, cell, number, styled_cell};

/// Formats a sentence with its code; both are text of strangers.
pub(super) fn describe_reason(reason: &Reason) -> String {
    let text = match (reason.sentence.as_str(), reason.code.as_str()) {
        ("", "") => "for no reason that was told".to_owned(),
        (sentence, "") => sentence.to_owned(),
        ("", code) => code.to_owned(),
        (sentence, code) => format!("{sentence} ({code})"),
    };
    escape(&text).into_owned()
}

/// Returns a cell that says whether something is ready.
pub(super) fn ready(ready: bool, reason: Option<&Reason>) -> comfy_table::Cell {
    if ready {
        styled_cell("yes", CellStyle::Good)
    } else {
        styled_cell(format!("no: {}", reason.map_or("unknown", |r| &r.code)), CellStyle::Bad)
    }
}

/// Describes the backends of an import's port, by node.
pub(super) fn backends(port: &ImportPort) -> String {
    let each: Vec<_> = port.backends.iter().map(|(node, n)| format!("{n} on {node}")).collect();
    if each.is_empty() { "none".into() } else { each.join(", ") }
}

/// Returns the cells of a row about streams.
pub(super) fn traffic_cells(streams: &StreamCounts) -> [comfy_table::Cell; 7] {
    [
        number(streams.open),
        number(streams.total),
        number(streams.refused),
        number(streams.failed),
        number(human_bytes(streams.bytes_out)),
        number(human_bytes(streams.bytes_in)),
        cell(streams.last_failure.as_ref().map_or_else(|| "–".to_owned(), describe_reason)),
    ]
}
