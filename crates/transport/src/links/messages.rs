//! Reads the messages of a control or state stream, one after the other.
//!
//! Owns the bytes that have arrived and are not yet a whole message: at most one message and one
//! piece. What the messages are, and how long they may be, is `adit_core::wire`'s.

use std::time::Duration;

use adit_core::admission::pace::{Allowance, Pace};
use adit_core::code::Code;
use adit_core::wire::WireError;
use bytes::{Buf, BytesMut};
use tokio::time::{Instant, sleep};

use crate::stream::{RecvError, RecvStream};

/// The most that is taken off a stream at once, in bytes.
const PIECE: usize = 16 * 1024;

/// Reads a message off the front of what has arrived; see [`adit_core::wire::control::Control::decode`].
type Decode<T> = fn(&[u8]) -> Result<Option<(Option<T>, usize)>, WireError>;

/// Why there is no next message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    /// What arrived is no message.
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
    /// More messages came than a peer ever has to say.
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
pub(super) struct Messages<T> {
    recv: RecvStream,
    unread: BytesMut,
    decode: Decode<T>,
    taken: u64,
    skipped: u32,
    limit: Option<MessageLimit>,
}

/// Messages that are skipped without a pause; see [`Messages::skip`].
const SKIPPED_AT_ONCE: u32 = 64;
/// The pause after them.
const SKIP_INTERVAL: Duration = Duration::from_millis(10);

/// How many messages may come; those that are skipped count, too.
#[derive(Debug)]
struct MessageLimit {
    allowed: Allowance,
    pace: Pace,
    began: Instant,
}

impl<T> Messages<T> {
    /// Reads `recv` from here on.
    pub(super) fn new(recv: RecvStream, decode: Decode<T>) -> Self {
        Self { recv, unread: BytesMut::new(), decode, taken: 0, skipped: 0, limit: None }
    }

    /// The same, and takes no more messages than are `allowed`.
    pub(super) fn limited(recv: RecvStream, decode: Decode<T>, allowed: Allowance) -> Self {
        let limit = MessageLimit { allowed, pace: Pace::default(), began: Instant::now() };
        Self { limit: Some(limit), ..Self::new(recv, decode) }
    }

    /// The next message; those that are to be skipped are. Nothing is lost when it is cancelled.
    pub(super) async fn next(&mut self) -> Result<T, MessageError> {
        loop {
            if let Some((message, taken)) = (self.decode)(&self.unread)? {
                self.unread.advance(taken);
                self.taken += taken as u64;
                if let Some(MessageLimit { allowed, pace, began }) = &mut self.limit
                    && !pace.take(began.elapsed(), *allowed)
                {
                    return Err(MessageError::TooMany);
                }
                match message {
                    Some(message) => return Ok(message),
                    None => self.skip().await,
                }
                continue;
            }
            match self.recv.read_chunk(PIECE).await? {
                Some(bytes) => self.unread.extend_from_slice(&bytes),
                None if self.unread.is_empty() => return Err(MessageError::Finished),
                None => return Err(MessageError::CutShort),
            }
        }
    }

    /// A later version may say what this one skips, but that costs, and nobody who counts messages sees it.
    async fn skip(&mut self) {
        self.skipped += 1;
        if self.skipped.is_multiple_of(SKIPPED_AT_ONCE) {
            sleep(SKIP_INTERVAL).await;
        }
    }

    /// Bytes of all messages so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Says that no more messages are wanted, and why.
    pub(super) fn stop(&mut self, code: Code) {
        self.recv.stop(code);
    }
}
