//! Makes any string safe to show: in a log line, in JSON, in a terminal's table.
//!
//! A peer, a workload or a file decides what many strings hold. Control characters (C0, DEL, C1) can drive
//! a terminal or fake a line; bidirectional and invisible format characters can make one text look like
//! another. All of them become visible escapes. What is ordinary passes without a copy.

use std::borrow::Cow;
use std::fmt::Write;

/// True if a terminal or a reader could be misled by `c`.
#[must_use]
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, Arabic letter mark, zero-width and directional marks, separators.
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            // Word joiner, invisible operators, isolates, byte order mark, interlinear annotation, tags.
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `s` with each hostile character written as Rust would write it, e.g. `\u{1b}`.
#[must_use]
pub fn text(s: &str) -> Cow<'_, str> {
    escaped(s, is_hostile, |out, c| out.extend(c.escape_default()))
}

/// `s` as the inside of a JSON string; hostile characters as `\u001b`.
#[must_use]
pub fn json(s: &str) -> Cow<'_, str> {
    let special = |c| is_hostile(c) || c == '"' || c == '\\';
    escaped(s, special, |out, c| match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\t' => out.push_str("\\t"),
        c => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                #[expect(clippy::let_underscore_must_use, reason = "a String takes every write")]
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    })
}

fn escaped(
    s: &str,
    special: impl Fn(char) -> bool,
    escape: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    let Some(first) = s.find(&special) else { return Cow::Borrowed(s) };
    let mut out = String::with_capacity(s.len() + 16);
    out.push_str(&s[..first]);
    for c in s[first..].chars() {
        if special(c) { escape(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hostile_passes_and_the_rest_does() {
        let all: String = (0..=0x10_ffff).filter_map(char::from_u32).collect();
        for out in [text(&all), json(&all)] {
            assert!(!out.chars().any(is_hostile));
            assert!(out.contains('é') && out.contains('日'));
        }
        let parsed: String = serde_json::from_str(&format!("\"{}\"", json(&all))).unwrap();
        assert_eq!(parsed, all, "JSON escapes lose nothing");
    }

    #[test]
    fn ordinary_text_is_borrowed() {
        assert!(matches!(text("fraud-bot → b1"), Cow::Borrowed(_)));
        assert_eq!(text("a\u{1b}[31m\r\nb"), "a\\u{1b}[31m\\r\\nb");
        assert_eq!(json("a\"\\\n\u{1f600}\u{e0041}"), "a\\\"\\\\\\n\u{1f600}\\udb40\\udc41");
    }
}
