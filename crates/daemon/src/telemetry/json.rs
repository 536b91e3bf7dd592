//! Lines for machines: a flat JSON object each, with `time`, `level`, `module`, `message`, then the fields.

use std::fmt::Write;

use adit_core::text::escape_json;

use super::record::{FieldValue, LogRecord, LogTimestamp, level};

/// Names that the line itself uses; a field of such a name gets the prefix `field_`.
const RESERVED: [&str; 4] = ["time", "level", "module", "message"];

pub(super) fn line(record: &LogRecord) -> String {
    let mut out = String::with_capacity(256);
    render(&mut out, record).ok();
    out
}

fn render(out: &mut String, record: &LogRecord) -> std::fmt::Result {
    write!(out, r#"{{"time":"{}","level":"{}""#, LogTimestamp(record.at), level(record.level))?;
    write!(out, r#","module":"{}""#, escape_json(&record.module))?;
    if !record.message.is_empty() {
        write!(out, r#","message":"{}""#, escape_json(&record.message))?;
    }
    for (name, value) in &record.fields {
        let prefix = if RESERVED.contains(name) { "field_" } else { "" };
        write!(out, r#","{prefix}{}":"#, escape_json(name))?;
        match value {
            FieldValue::Text(s) => write!(out, r#""{}""#, escape_json(s))?,
            // JSON has no infinity and no NaN; readers lose integers beyond 2^53 silently.
            FieldValue::Float(x) if !x.is_finite() => write!(out, r#""{x}""#)?,
            FieldValue::Signed(n) if n.unsigned_abs() > 1 << 53 => write!(out, r#""{n}""#)?,
            FieldValue::Unsigned(n) if *n > 1 << 53 => write!(out, r#""{n}""#)?,
            FieldValue::Signed(_)
            | FieldValue::Unsigned(_)
            | FieldValue::Float(_)
            | FieldValue::Bool(_) => {
                write!(out, "{value}")?;
            }
        }
    }
    out.write_str("}\n")
}
