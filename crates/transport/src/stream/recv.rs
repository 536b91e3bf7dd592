//! The receiving half of a stream.

use adit_core::code::Code;
use bytes::Bytes;
use futures_util::FutureExt;
use quinn::ReadError;

use super::{RecvError, StreamLifetimeGuard};
use crate::budget::StallCharge;
use crate::endpoint::{QuicConnection, varint};
use crate::stream_credit::{ReceiveCredit, StreamCredits};

/// The receiving half of a stream. Dropped before its end was seen, it stops the sender with
/// [`Code::Internal`].
///
/// There is no waiting for a reset without reading: quinn 0.11.12 has one (`received_reset`), and keeps
/// the waker of whoever stopped waiting until the connection ends, or panics where assertions are on.
/// A sender that gives up stops its other direction as well ([`super::SendStream::stopped`]).
#[derive(Debug)]
pub struct RecvStream {
    inner: quinn::RecvStream,
    connection: QuicConnection,
    /// The way it ended, once it has. quinn answers a read after a reset with the end of the stream, which
    /// would turn an error into a clean end for whoever asks twice.
    ended: Option<Result<(), RecvError>>,
    held: Option<StreamLifetimeGuard>,
    /// The stream's credit, if QUIC's windows alone do not bound it.
    credit: Option<ReceiveCredit>,
}

impl RecvStream {
    pub(crate) fn new(inner: quinn::RecvStream, connection: QuicConnection) -> Self {
        let grant = connection.credits().map(StreamCredits::begin_receiving);
        Self { inner, connection, ended: None, held: None, credit: grant }
    }

    /// Exempts a stream that carries credit, for which none is needed.
    pub(crate) fn carry_credits(&mut self) {
        self.credit = None;
    }

    /// Keeps something for as long as this half lives: it is dropped with it.
    pub(crate) fn hold(&mut self, what: StreamLifetimeGuard) {
        self.held = Some(what);
    }

    /// Reads what has arrived, in order and without copying, and returns how many of `chunks` it
    /// replaced: at least one, `None` at the end. Waits until there is something.
    ///
    /// # Errors
    /// [`RecvError`], see there. What arrived before a reset may be lost.
    pub async fn read_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Option<usize>, RecvError> {
        if let Some(end) = self.ended {
            return end.map(|()| None);
        }
        let read = self.inner.read_chunks(chunks).await;
        let read = self.record_end(read)?;
        let bytes = chunks[..read.unwrap_or_default()].iter().map(Bytes::len).sum();
        self.bytes_taken(bytes, read.unwrap_or_default());
        Ok(read)
    }

    /// Reads the next piece, of at most `max` bytes; `None` at the end.
    ///
    /// # Errors
    /// [`RecvError`], see there.
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, RecvError> {
        if let Some(end) = self.ended {
            return end.map(|()| None);
        }
        let read = self.inner.read_chunk(max, true).await;
        let bytes = self.record_end(read)?.map(|chunk| chunk.bytes);
        self.bytes_taken(bytes.as_ref().map_or(0, Bytes::len), 1);
        Ok(bytes)
    }

    /// Copies what has arrived into `buffer`, and returns how many bytes; `None` at the end.
    ///
    /// # Errors
    /// [`RecvError`], see there.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, RecvError> {
        if let Some(end) = self.ended {
            return end.map(|()| None);
        }
        let read = self.inner.read(buffer).await;
        let read = self.record_end(read)?;
        self.bytes_taken(read.unwrap_or_default(), 1);
        Ok(read)
    }

    /// Tells the peer that the rest is not wanted, and why. What arrives from here on is thrown away. Does
    /// nothing if the stream has ended already.
    pub fn stop(&mut self, code: Code) {
        if self.ended.is_none() {
            self.discard();
            self.ended = Some(Err(RecvError::Ended));
            // The only error is that it ended before.
            drop(self.inner.stop(varint(code)));
        }
    }

    /// True if it ended by the peer's reset, as far as it was read.
    #[must_use]
    pub fn was_reset(&self) -> bool {
        matches!(self.ended, Some(Err(RecvError::Reset(_))))
    }

    /// Declares that nobody will take what arrives for a while, for as long as the result lives: the other
    /// streams of the connection go on, and what this one may hold is charged to the peer. `None` if the
    /// connection's peer is not known yet.
    #[must_use]
    pub fn stall(&self) -> Option<StallCharge> {
        StallCharge::begin(&self.connection, self.window())
    }

    /// Bytes that may come before any more are taken, or have come.
    #[must_use]
    pub fn window(&self) -> u64 {
        self.credit.as_ref().map_or_else(|| self.connection.stream_window(), ReceiveCredit::window)
    }

    fn bytes_taken(&mut self, bytes: usize, pieces: usize) {
        self.connection.bytes_taken(bytes, pieces);
        let id = self.id();
        if let Some(grant) = self.credit.as_mut().filter(|_| self.ended.is_none()) {
            self.connection.grant_credit(id, grant, bytes as u64);
        }
    }

    /// Takes what has arrived off the stream that is about to be stopped, if the amount matters: quinn does
    /// not tell it.
    fn discard(&mut self) {
        let conn = self.connection.clone();
        let Some((windows, _)) = conn.windows().filter(|(windows, _)| windows.owes()) else {
            return;
        };
        while let Some(Ok(Some(chunk))) = self.inner.read_chunk(usize::MAX, true).now_or_never() {
            windows.bytes_discarded(chunk.bytes.len() as u64);
        }
    }

    /// The stream's number, the same on both sides of its connection.
    #[must_use]
    pub fn id(&self) -> u64 {
        quinn::VarInt::from(self.inner.id()).into_inner()
    }

    /// The connection that it belongs to.
    #[must_use]
    pub fn connection(&self) -> &QuicConnection {
        &self.connection
    }

    /// Remembers how the stream ended, if this read was the last one.
    fn record_end<T>(
        &mut self,
        read: Result<Option<T>, ReadError>,
    ) -> Result<Option<T>, RecvError> {
        let read = read.map_err(|error| match error {
            ReadError::Reset(code) => RecvError::Reset(Code::from_number(code.into_inner())),
            ReadError::ConnectionLost(error) => {
                RecvError::ConnectionLost(self.connection.lost_code(&error))
            }
            ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => RecvError::Ended,
        });
        match &read {
            Ok(Some(_)) => {}
            Ok(None) => self.ended = Some(Ok(())),
            Err(error) => self.ended = Some(Err(*error)),
        }
        read
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.stop(Code::Internal);
        if let Some(credits) = self.connection.credits().filter(|_| self.credit.is_some()) {
            credits.end_receiving(self.id());
        }
        self.connection.half_closed(self.inner.id());
    }
}
