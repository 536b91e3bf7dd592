//! The receiving half of a stream.

use adit_core::code::Code;
use bytes::Bytes;
use futures_util::FutureExt;
use quinn::ReadError;

use super::{Held, RecvError};
use crate::budget::Stall;
use crate::endpoint::{Connection, varint};
use crate::grants::{GrantBook, ReceiveGrant};

/// The receiving half of a stream. Dropped before its end was seen, it stops the sender with
/// [`Code::Internal`].
///
/// There is no waiting for a reset without reading: quinn 0.11.12 has one (`received_reset`), and keeps
/// the waker of whoever stopped waiting until the connection ends, or panics where assertions are on.
/// A sender that gives up stops its other direction as well ([`super::SendStream::stopped`]).
#[derive(Debug)]
pub struct RecvStream {
    inner: quinn::RecvStream,
    connection: Connection,
    /// How it ended, once it has. quinn answers a read after a reset with the end of the stream, which
    /// would turn an error into a clean end for whoever asks twice.
    end: Option<Result<(), RecvError>>,
    held: Option<Held>,
    /// How far it may come, where QUIC's windows do not say.
    grant: Option<ReceiveGrant>,
}

impl RecvStream {
    pub(crate) fn new(inner: quinn::RecvStream, connection: Connection) -> Self {
        let grant = connection.grants().map(GrantBook::begin_receiving);
        Self { inner, connection, end: None, held: None, grant }
    }

    /// It brings grants, for which none are needed.
    pub(crate) fn brings_grants(&mut self) {
        self.grant = None;
    }

    /// Keeps something for as long as this half lives: it is dropped with it.
    pub(crate) fn hold(&mut self, what: Held) {
        self.held = Some(what);
    }

    /// Reads what has arrived, in order and without copying, and returns how many of `chunks` it
    /// replaced: at least one, `None` at the end. Waits until there is something.
    ///
    /// # Errors
    /// [`RecvError`], see there. What arrived before a reset may be lost.
    pub async fn read_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Option<usize>, RecvError> {
        if let Some(end) = self.end {
            return end.map(|()| None);
        }
        let read = self.inner.read_chunks(chunks).await;
        let read = self.note(read)?;
        let bytes = chunks[..read.unwrap_or_default()].iter().map(Bytes::len).sum();
        self.taken(bytes);
        Ok(read)
    }

    /// Reads the next piece, of at most `max` bytes; `None` at the end.
    ///
    /// # Errors
    /// [`RecvError`], see there.
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, RecvError> {
        if let Some(end) = self.end {
            return end.map(|()| None);
        }
        let read = self.inner.read_chunk(max, true).await;
        let bytes = self.note(read)?.map(|chunk| chunk.bytes);
        self.taken(bytes.as_ref().map_or(0, Bytes::len));
        Ok(bytes)
    }

    /// Copies what has arrived into `buffer`, and returns how many bytes; `None` at the end.
    ///
    /// # Errors
    /// [`RecvError`], see there.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, RecvError> {
        if let Some(end) = self.end {
            return end.map(|()| None);
        }
        let read = self.inner.read(buffer).await;
        let read = self.note(read)?;
        self.taken(read.unwrap_or_default());
        Ok(read)
    }

    /// Says that the rest is not wanted, and why. What arrives from here on is thrown away. Does
    /// nothing where the stream has ended already.
    pub fn stop(&mut self, code: Code) {
        if self.end.is_none() {
            self.discard();
            self.end = Some(Err(RecvError::Ended));
            // The only error is that it ended before.
            drop(self.inner.stop(varint(code)));
        }
    }

    /// Whether it ended by the peer's reset, as far as it was read.
    #[must_use]
    pub fn was_reset(&self) -> bool {
        matches!(self.end, Some(Err(RecvError::Reset(_))))
    }

    /// Says that nobody will take what arrives for a while, for as long as the result lives: the other
    /// streams of the connection go on, and what this one may hold is charged to the peer. `None` where
    /// the connection's peer is not known yet.
    #[must_use]
    pub fn stall(&self) -> Option<Stall> {
        Stall::begin(&self.connection, self.window())
    }

    /// Bytes that may come before any more are taken, or have come.
    #[must_use]
    pub fn window(&self) -> u64 {
        self.grant.as_ref().map_or_else(|| self.connection.stream_window(), ReceiveGrant::window)
    }

    fn taken(&mut self, bytes: usize) {
        self.connection.taken(bytes);
        let id = self.id();
        if let Some(grant) = self.grant.as_mut().filter(|_| self.end.is_none()) {
            self.connection.grant(id, grant, bytes as u64);
        }
    }

    /// Takes what has arrived off the stream that is about to be stopped, where it counts how much that is:
    /// quinn does not tell.
    fn discard(&mut self) {
        let conn = self.connection.clone();
        let Some((windows, _)) = conn.windows().filter(|(windows, _)| windows.owes()) else {
            return;
        };
        while let Some(Ok(Some(chunk))) = self.inner.read_chunk(usize::MAX, true).now_or_never() {
            windows.discarded(chunk.bytes.len() as u64);
        }
    }

    /// The stream's number, the same on both sides of its connection.
    #[must_use]
    pub fn id(&self) -> u64 {
        quinn::VarInt::from(self.inner.id()).into_inner()
    }

    /// The connection that it belongs to.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Remembers how the stream ended, if this read was the last one.
    fn note<T>(&mut self, read: Result<Option<T>, ReadError>) -> Result<Option<T>, RecvError> {
        let read = read.map_err(|error| match error {
            ReadError::Reset(code) => RecvError::Reset(Code::from_number(code.into_inner())),
            ReadError::ConnectionLost(error) => {
                RecvError::ConnectionLost(self.connection.lost(&error))
            }
            ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => RecvError::Ended,
        });
        match &read {
            Ok(Some(_)) => {}
            Ok(None) => self.end = Some(Ok(())),
            Err(error) => self.end = Some(Err(*error)),
        }
        read
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.stop(Code::Internal);
        self.connection.half_gone(self.inner.id());
    }
}
