//! Messages of [`adit_core::wire::join`] on a stream.

use adit_core::wire::WireError;
use adit_core::wire::join::{JoinMessage, MAX_DOCUMENT_LEN};
use bytes::BytesMut;
use quinn::{ReadError, RecvStream};

/// The reason why there is no next message.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoinMessageError {
    /// The bytes are no message.
    #[error("what came is no message: {0}")]
    Wire(#[from] WireError),
    /// The stream ended before.
    #[error("the other side ended without an answer")]
    Ended,
    /// The stream or its connection broke.
    #[error("{0}")]
    Read(#[from] ReadError),
}

/// The bytes that are read at once.
const READ_LEN: usize = 16 * 1024;
/// The type and the length before a body, at most.
const MAX_HEAD_LEN: usize = 16;

/// Reads the next message; may not be cancelled and called again.
pub(super) async fn read_message(recv: &mut RecvStream) -> Result<JoinMessage, JoinMessageError> {
    let mut read = BytesMut::new();
    loop {
        if let Some(message) = JoinMessage::decode(&mut &read[..])? {
            return Ok(message);
        }
        // A head that says more than this was refused by then.
        let room = (MAX_DOCUMENT_LEN + MAX_HEAD_LEN).saturating_sub(read.len()).min(READ_LEN);
        match recv.read_chunk(room, true).await? {
            Some(chunk) => read.extend_from_slice(&chunk.bytes),
            None => return Err(JoinMessageError::Ended),
        }
    }
}
