//! The release in a report.

use super::super::tlv::{TlvValue, WireError};

/// The longest release in a report, in bytes. What is longer is cut by the sender, and refused by the receiver.
pub const MAX_VERSION_LEN: usize = 64;

/// A release as it may stand in a report: visible ASCII characters alone, and what is too long is cut.
pub(super) fn truncated_version(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(MAX_VERSION_LEN).collect()
}

pub(super) fn read_version(value: TlvValue<'_>) -> Result<String, WireError> {
    let text = value.text("version")?;
    if text.len() > MAX_VERSION_LEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(WireError::Invalid("version"));
    }
    Ok(text.to_owned())
}
