//! Lines for people: time, level, what happened, then `name=value` for the rest.
//!
//! The event of a stream ([`STREAM`]) becomes one sentence-like line, because an operator reads
//! hundreds of them: who, to what, over which node, how it ended, how much, how long.

use std::borrow::Cow;
use std::fmt::{self, Write};

use adit_core::text::{escape, human_bytes, human_millis};
use tracing::Level;

use super::record::{FieldValue, LogRecord, LogTimestamp, STREAM, level};

pub(super) fn line(record: &LogRecord, colour: bool) -> String {
    let mut out = String::with_capacity(160);
    // A String takes every write.
    render(&mut out, record, colour).ok();
    out
}

fn render(out: &mut String, record: &LogRecord, colour: bool) -> fmt::Result {
    let name = level(record.level).to_ascii_uppercase();
    write!(out, "{} ", LogTimestamp(record.at))?;
    match (colour, record.level) {
        (true, Level::ERROR) => write!(out, "\u{1b}[31m{name:<5}\u{1b}[0m ")?,
        (true, Level::WARN) => write!(out, "\u{1b}[33m{name:<5}\u{1b}[0m ")?,
        (true, Level::INFO) => write!(out, "\u{1b}[32m{name:<5}\u{1b}[0m ")?,
        _ => write!(out, "{name:<5} ")?,
    }
    let mut rest: Vec<&(&str, FieldValue)> = record.fields.iter().collect();
    if record.module == STREAM {
        stream(out, &mut rest)?;
    } else {
        write!(out, "{}", escape(&record.message))?;
    }
    for (name, value) in rest {
        write!(out, " {}={}", escape(name), quoted(value))?;
    }
    // Our own modules are told by what they say; a dependency's line says whose it is.
    if !record.module.starts_with("adit") {
        write!(out, " ({})", escape(&record.module))?;
    }
    out.write_char('\n')
}

/// Renders what it knows of a stream's fields and takes them out of `rest`.
fn stream(out: &mut String, rest: &mut Vec<&(&str, FieldValue)>) -> fmt::Result {
    let mut take = |name: &str| -> Option<&FieldValue> {
        let at = rest.iter().position(|(n, _)| *n == name)?;
        Some(&rest.remove(at).1)
    };
    let word = |value: Option<&FieldValue>, missing: &str| match value {
        Some(value) => escape(&value.to_string()).into_owned(),
        None => missing.to_owned(),
    };
    let direction = word(take("direction"), "stream");
    let source = word(take("source"), "");
    let address = word(take("address"), "unknown source");
    let asserted = take("asserted") == Some(&FieldValue::Bool(true));
    write!(out, "{direction} {}", if source.is_empty() { &address } else { &source })?;
    if asserted {
        out.write_str(" (asserted)")?;
    }
    write!(out, " → {}", word(take("target"), "unknown target"))?;
    if let Some(cluster) = take("peer_cluster") {
        write!(out, " via {}", escape(&cluster.to_string()))?;
        if let Some(node) = take("peer_node") {
            write!(out, "/{}", escape(&node.to_string()))?;
        }
    }
    if let Some(backend) = take("backend") {
        write!(out, " at {}", escape(&backend.to_string()))?;
    }
    let refused = take("refused") == Some(&FieldValue::Bool(true));
    write!(out, ": {}{}", if refused { "refused, " } else { "" }, word(take("code"), "no code"))?;
    if let Some(reason) = take("reason").map(ToString::to_string).filter(|r| !r.is_empty()) {
        write!(out, ": {}", escape(&reason))?;
    }
    if take("hop") == Some(&FieldValue::Bool(true)) {
        out.write_str("; with an extra hop")?;
    }
    if let Some(retries) = take("retries").filter(|n| **n != FieldValue::Unsigned(0)) {
        write!(out, "; after {retries} refusals")?;
    }
    let bytes = (take("bytes_out"), take("bytes_in"));
    if !refused && let (Some(sent), Some(received)) = bytes {
        write!(out, "; {} sent, {} received", size(sent), size(received))?;
    }
    match take("duration_ms") {
        Some(FieldValue::Unsigned(ms)) => {
            write!(out, " in {}", human_millis(u64::try_from(*ms).unwrap_or(u64::MAX)))
        }
        Some(other) => write!(out, " in {other} ms"),
        None => Ok(()),
    }
}

/// A value after `name=`: in quotes where it would not stand as one word.
fn quoted(value: &FieldValue) -> Cow<'_, str> {
    let FieldValue::Text(s) = value else { return value.to_string().into() };
    if s.is_empty() || s.contains([' ', '"', '=']) {
        format!("\"{}\"", escape(s).replace('"', "\\\"")).into()
    } else {
        escape(s)
    }
}

fn size(value: &FieldValue) -> String {
    if let FieldValue::Unsigned(n) = value {
        return human_bytes(u64::try_from(*n).unwrap_or(u64::MAX));
    }
    value.to_string()
}
