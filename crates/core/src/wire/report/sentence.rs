//! Sentences for people in a report.

use crate::text::shorten;

use super::super::tlv::{TlvValue, WireError};

/// The longest sentence in a report, in bytes. What is longer is cut by the sender, and refused by the receiver.
pub const MAX_SENTENCE_LEN: usize = 400;

/// A text as it may stand in a report: control characters are blanks, and what is too long is cut.
pub(super) fn truncated_sentence(text: &str) -> String {
    let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shorten(&shown, MAX_SENTENCE_LEN).into_owned()
}

pub(super) fn read_sentence(value: TlvValue<'_>) -> Result<String, WireError> {
    let text = value.text("sentence")?;
    if text.len() > MAX_SENTENCE_LEN || text.chars().any(char::is_control) {
        return Err(WireError::Invalid("sentence"));
    }
    Ok(text.to_owned())
}
