//! JSON documents, one a line, over standard input and output; lines have a bound.

use std::io;

use adit_core::invitation::MAX_LINE_LEN;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The reason why there is no next line, or none can be written.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The system's.
    #[error("cannot read from or write to the command: {0}")]
    Io(#[from] io::Error),
    /// Not what was expected. The text of a line is not repeated: it may be a secret.
    #[error(
        "the command says what this version does not understand: are both of the same version?"
    )]
    NotUnderstood,
}

/// Reads the next line; `None` at the end.
pub(super) async fn read_line<T: DeserializeOwned>(
    input: &mut (impl AsyncBufRead + Unpin),
) -> Result<Option<T>, LineError> {
    let mut line = Vec::new();
    input.take(MAX_LINE_LEN as u64).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(|_| LineError::NotUnderstood)
}

/// Writes a line, at once.
pub(super) async fn write_line<T: Serialize>(
    output: &mut (impl AsyncWrite + Unpin),
    line: &T,
) -> Result<(), LineError> {
    let mut text = serde_json::to_vec(line).map_err(|_| LineError::NotUnderstood)?;
    text.push(b'\n');
    output.write_all(&text).await?;
    Ok(output.flush().await?)
}
