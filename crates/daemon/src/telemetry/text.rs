//! Lines for people: time, level, what happened, then `name=value` for the rest.
//!
//! The event of a stream ([`super::STREAM`]) becomes one sentence-like line, because an operator reads
//! hundreds of them: who, to what, over which node, how it ended, how much, how long.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::time::Duration;

use adit_pki::UnixTime;
use adit_pki::time::rfc3339;
use tracing::Level;

use super::layer::{Entry, Value};
use super::{STREAM, escape};

pub(super) fn line(entry: &Entry, colour: bool) -> String {
    let mut out = String::with_capacity(160);
    // A String takes every write.
    render(&mut out, entry, colour).ok();
    out
}

fn render(out: &mut String, entry: &Entry, colour: bool) -> fmt::Result {
    let name = level(entry.level).to_ascii_uppercase();
    write!(out, "{} ", Stamp(entry.at))?;
    match (colour, entry.level) {
        (true, Level::ERROR) => write!(out, "\u{1b}[31m{name:<5}\u{1b}[0m ")?,
        (true, Level::WARN) => write!(out, "\u{1b}[33m{name:<5}\u{1b}[0m ")?,
        (true, Level::INFO) => write!(out, "\u{1b}[32m{name:<5}\u{1b}[0m ")?,
        _ => write!(out, "{name:<5} ")?,
    }
    let mut rest: Vec<&(&str, Value)> = entry.fields.iter().collect();
    if entry.module == STREAM {
        stream(out, &mut rest)?;
    } else {
        write!(out, "{}", escape::text(&entry.message))?;
    }
    for (name, value) in rest {
        write!(out, " {}={}", escape::text(name), quoted(value))?;
    }
    // Our own modules are told by what they say; a dependency's line says whose it is.
    if !entry.module.starts_with("adit") {
        write!(out, " ({})", escape::text(&entry.module))?;
    }
    out.write_char('\n')
}

/// Renders what it knows of a stream's fields and takes them out of `rest`.
fn stream(out: &mut String, rest: &mut Vec<&(&str, Value)>) -> fmt::Result {
    let mut take = |name: &str| -> Option<&Value> {
        let at = rest.iter().position(|(n, _)| *n == name)?;
        Some(&rest.remove(at).1)
    };
    let word = |value: Option<&Value>, missing: &str| match value {
        Some(value) => escape::text(&value.to_string()).into_owned(),
        None => missing.to_owned(),
    };
    let direction = word(take("direction"), "stream");
    let source = word(take("source"), "");
    let address = word(take("address"), "unknown source");
    let asserted = take("asserted") == Some(&Value::Bool(true));
    write!(out, "{direction} {}", if source.is_empty() { &address } else { &source })?;
    if asserted {
        out.write_str(" (asserted)")?;
    }
    write!(out, " → {}", word(take("target"), "unknown target"))?;
    if let Some(cluster) = take("peer_cluster") {
        write!(out, " via {}", escape::text(&cluster.to_string()))?;
        if let Some(node) = take("peer_node") {
            write!(out, "/{}", escape::text(&node.to_string()))?;
        }
    }
    if let Some(backend) = take("backend") {
        write!(out, " at {}", escape::text(&backend.to_string()))?;
    }
    let refused = take("refused") == Some(&Value::Bool(true));
    write!(out, ": {}{}", if refused { "refused, " } else { "" }, word(take("code"), "no code"))?;
    if let Some(reason) = take("reason").map(ToString::to_string).filter(|r| !r.is_empty()) {
        write!(out, ": {}", escape::text(&reason))?;
    }
    let bytes = (take("bytes_out"), take("bytes_in"));
    if !refused && let (Some(sent), Some(received)) = bytes {
        write!(out, "; {} sent, {} received", size(sent), size(received))?;
    }
    match take("duration_ms") {
        Some(Value::Unsigned(ms)) => {
            write!(out, " in {}", span(u64::try_from(*ms).unwrap_or(u64::MAX)))
        }
        Some(other) => write!(out, " in {other} ms"),
        None => Ok(()),
    }
}

/// A value after `name=`: in quotes where it would not stand as one word.
fn quoted(value: &Value) -> Cow<'_, str> {
    let Value::Text(s) = value else { return value.to_string().into() };
    if s.is_empty() || s.contains([' ', '"', '=']) {
        format!("\"{}\"", escape::text(s).replace('"', "\\\"")).into()
    } else {
        escape::text(s)
    }
}

fn size(value: &Value) -> String {
    if let Value::Unsigned(n) = value {
        return bytes(u64::try_from(*n).unwrap_or(u64::MAX));
    }
    value.to_string()
}

/// A size for people, in binary units with at most one decimal.
#[must_use]
pub(crate) fn bytes(n: u64) -> String {
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

/// A span of time for people, from milliseconds.
#[must_use]
pub(crate) fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s}.{} s", ms % 1000 / 100),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

pub(super) const fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// A point in time as RFC 3339 in UTC with milliseconds, from the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp(pub(crate) Duration);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = rfc3339(UnixTime::since_unix_epoch(self.0));
        write!(f, "{}.{:03}Z", seconds.trim_end_matches('Z'), self.0.subsec_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_rfc_3339_with_milliseconds() {
        let stamp = Stamp(Duration::from_millis(951_782_399_007)).to_string();
        assert_eq!(stamp, "2000-02-28T23:59:59.007Z");
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
        assert!(sizes.iter().all(|(n, s)| bytes(*n) == *s), "{:?}", sizes.map(|(n, _)| bytes(n)));
        let spans = [
            (7, "7 ms"),
            (1250, "1.2 s"),
            (61_000, "1 min 1 s"),
            (7_260_000, "2 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ];
        assert!(spans.iter().all(|(n, s)| span(*n) == *s), "{:?}", spans.map(|(n, _)| span(n)));
    }
}
