//! Reads the messages of a control or state stream, one after the other.
//!
//! Owns the bytes that have arrived and are not yet a whole message: at most one message and one
//! piece. What the messages are, and how long they may be, is `adit_core::wire`'s.

use std::time::Duration;

use adit_core::admission::rate_limit::{RateLimit, TokenBucket};
use adit_core::code::Code;
use adit_core::wire::WireError;
use bytes::{Buf, BytesMut};
use tokio::time::{Instant, sleep};

use crate::stream::{RecvError, RecvStream};

/// The most that is taken off a stream at once, in bytes.
const READ_SIZE: usize = 16 * 1024;

/// Reads a message off the front of what has arrived; see [`adit_core::wire::control::ControlMessage::decode`].
type DecodeMessage<T> = fn(&[u8]) -> Result<Option<(Option<T>, usize)>, WireError>;

/// The reason why there is no next message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    /// The bytes that arrived are no message.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The stream or its connection ended, other than by a finish.
    #[error("{0}")]
    Stream(#[from] RecvError),
    /// The peer finished the stream between two messages.
    #[error("the peer finished the stream")]
    Finished,
    /// The peer finished the stream within a message.
    #[error("the peer finished the stream within a message")]
    CutShort,
    /// More messages came than a peer ever has to send.
    #[error("too many messages came at once")]
    TooMany,
}

impl MessageError {
    /// The reason as one of the list.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Wire(_) | Self::CutShort | Self::TooMany => Code::ProtocolError,
            Self::Stream(error) => error.code(),
            Self::Finished => Code::Finished,
        }
    }
}

/// The messages that arrive on a stream.
#[derive(Debug)]
pub(super) struct MessageReader<T> {
    recv: RecvStream,
    unread: BytesMut,
    decode: DecodeMessage<T>,
    bytes_read: u64,
    skipped: u32,
    limit: Option<MessageLimit>,
}

/// Messages that are skipped without a pause; see [`MessageReader::next`].
const MAX_SKIPPED_AT_ONCE: u32 = 64;
/// The pause after them.
const SKIP_INTERVAL: Duration = Duration::from_millis(10);

/// The limit on the messages that may come; those that are skipped count, too.
#[derive(Debug)]
struct MessageLimit {
    allowed: RateLimit,
    pace: TokenBucket,
    began: Instant,
}

impl<T> MessageReader<T> {
    /// Reads `recv` from here on.
    pub(super) fn new(recv: RecvStream, decode: DecodeMessage<T>) -> Self {
        Self { recv, unread: BytesMut::new(), decode, bytes_read: 0, skipped: 0, limit: None }
    }

    /// Reads `recv` from here on, and no more messages than are `allowed`.
    pub(super) fn limited(recv: RecvStream, decode: DecodeMessage<T>, allowed: RateLimit) -> Self {
        let limit = MessageLimit { allowed, pace: TokenBucket::default(), began: Instant::now() };
        Self { limit: Some(limit), ..Self::new(recv, decode) }
    }

    /// The next message; those that are to be skipped are. Nothing is lost when it is cancelled.
    pub(super) async fn next(&mut self) -> Result<T, MessageError> {
        loop {
            if let Some((message, taken)) = (self.decode)(&self.unread)? {
                self.unread.advance(taken);
                self.bytes_read += taken as u64;
                if let Some(MessageLimit { allowed, pace, began }) = &mut self.limit
                    && !pace.try_take(began.elapsed(), *allowed)
                {
                    return Err(MessageError::TooMany);
                }
                match message {
                    Some(message) => return Ok(message),
                    None => self.skip().await,
                }
                continue;
            }
            match self.recv.read_chunk(READ_SIZE).await? {
                Some(bytes) => self.unread.extend_from_slice(&bytes),
                None if self.unread.is_empty() => return Err(MessageError::Finished),
                None => return Err(MessageError::CutShort),
            }
        }
    }

    /// A later version may send what this one skips, but that costs, and nothing that counts messages sees
    /// it.
    async fn skip(&mut self) {
        self.skipped += 1;
        if self.skipped.is_multiple_of(MAX_SKIPPED_AT_ONCE) {
            sleep(SKIP_INTERVAL).await;
        }
    }

    /// Bytes of all messages so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Tells the peer that no more messages are wanted, and why.
    pub(super) fn stop(&mut self, code: Code) {
        self.recv.stop(code);
    }
}
