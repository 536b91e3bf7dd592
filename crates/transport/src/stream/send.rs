//! The sending half of a stream.
//!
//! quinn would tell by an event when the peer stops a stream or has acknowledged all of it
//! (`quinn::SendStream::stopped`). But the event's slot stays in the connection's tables until one of the two
//! has come, and neither comes once the stream is reset here (quinn 0.11.12): some hundred bytes for each,
//! for as long as the connection lives. So [`SendStream::stopped`] polls, at growing intervals, and is for
//! cases in which nothing else would tell: a peer that gives up resets its own direction as well.

use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use quinn::{StoppedError, WriteError};
use tokio::time::{Instant, timeout};

use super::{SendError, StreamLifetimeGuard};
use crate::endpoint::{QuicConnection, varint};
use crate::stream_credit::SendCredit;

/// The sending half of a stream. Dropped unfinished, it resets with [`Code::Internal`].
#[derive(Debug)]
pub struct SendStream {
    inner: quinn::SendStream,
    connection: QuicConnection,
    ended: bool,
    last_sent_at: Option<Instant>,
    /// Number of streams that the peer had stopped on the connection when this one was last polled.
    stops_seen: u64,
    held: Option<StreamLifetimeGuard>,
    sent_bytes: u64,
    /// The stream's credit, if QUIC's windows alone do not bound it.
    credit: Option<Arc<SendCredit>>,
}

/// [`SendStream::stopped`] polls for the second time after this or a round trip, whichever is longer, …
const FIRST_LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// … and then after twice the time, up to this.
const MAX_LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl SendStream {
    pub(crate) fn new(inner: quinn::SendStream, connection: QuicConnection) -> Self {
        let number = quinn::VarInt::from(inner.id()).into_inner();
        let grant = connection.credits().map(|credits| credits.begin_sending(number));
        Self {
            inner,
            connection,
            ended: false,
            last_sent_at: None,
            stops_seen: 0,
            held: None,
            sent_bytes: 0,
            credit: grant,
        }
    }

    /// Exempts a stream that carries credit: it waits for none, and goes before the streams that do.
    pub(crate) fn carry_credits(&mut self) {
        self.credit = None;
        // The only error is that it has ended.
        drop(self.inner.set_priority(1));
    }

    /// Keeps something for as long as this half lives: it is dropped with it.
    pub(crate) fn hold(&mut self, what: StreamLifetimeGuard) {
        self.held = Some(what);
    }

    /// Sends all of `bytes`, without copying them. What was taken is taken off the front of `bytes`, so
    /// after a cancelled call the rest is still there. Waits while the peer reads slowly or the
    /// connection's send window is full.
    ///
    /// # Errors
    /// [`SendError`], see there.
    pub async fn send(&mut self, bytes: &mut Bytes) -> Result<(), SendError> {
        while !bytes.is_empty() {
            self.send_some(std::slice::from_mut(bytes)).await?;
        }
        Ok(())
    }

    /// Sends a part of what `chunks` hold, in order and without copying, and returns how many bytes.
    /// They are taken off the chunks' fronts, so whole ones are left empty. Waits until at least one
    /// byte went; returns 0 only where all chunks are empty.
    ///
    /// # Errors
    /// [`SendError`], see there.
    pub async fn send_some(&mut self, chunks: &mut [Bytes]) -> Result<usize, SendError> {
        let whole: usize = chunks.iter().map(Bytes::len).sum();
        let Some(next) = chunks.iter().position(|chunk| !chunk.is_empty()) else { return Ok(0) };
        let left = self.wait_for_credit().await?;
        let written = if whole <= left {
            self.inner.write_chunks(chunks).await.map(|written| written.bytes)
        } else {
            let next = &mut chunks[next];
            let mut part = next.slice(..left.min(next.len()));
            let written = self.inner.write_chunks(std::slice::from_mut(&mut part)).await;
            written.map(|written| {
                next.advance(written.bytes);
                written.bytes
            })
        };
        match written {
            Ok(written) => {
                self.last_sent_at = Some(Instant::now());
                self.sent_bytes += written as u64;
                self.connection.bytes_sent(written);
                Ok(written)
            }
            Err(error) => Err(self.error(error)),
        }
    }

    /// Waits until something more may be sent, and gives the number of bytes.
    async fn wait_for_credit(&mut self) -> Result<usize, SendError> {
        let Some(grant) = self.credit.clone() else { return Ok(usize::MAX) };
        let mut has_waited = false;
        loop {
            match grant.remaining(self.sent_bytes) {
                0 if !has_waited => {
                    // The peer gives credit at once as a rule, and polling for an end costs more than that.
                    has_waited = timeout(FIRST_LOOK_INTERVAL, grant.wait_raised()).await.is_err();
                }
                0 => tokio::select! {
                    biased;
                    () = grant.wait_raised() => {}
                    end = self.stopped() => end?,
                },
                left => return Ok(left),
            }
        }
    }

    /// The time at which [`SendStream::send_some`] last sent something.
    #[must_use]
    pub fn last_sent(&self) -> Option<Instant> {
        self.last_sent_at
    }

    /// Copies and sends all of `bytes`: for short messages. A cancelled call may have sent a part.
    ///
    /// # Errors
    /// [`SendError`], see there.
    pub async fn send_all(&mut self, mut bytes: &[u8]) -> Result<(), SendError> {
        while !bytes.is_empty() {
            let left = self.wait_for_credit().await?;
            let (part, rest) = bytes.split_at(left.min(bytes.len()));
            self.inner.write_all(part).await.map_err(|error| self.error(error))?;
            self.sent_bytes += part.len() as u64;
            self.connection.bytes_sent(part.len());
            bytes = rest;
        }
        Ok(())
    }

    /// Declares that everything was sent: the reader will see the end, after the last byte. This only queues
    /// it; [`SendStream::stopped`] tells when the peer has all.
    ///
    /// # Errors
    /// [`SendError::Ended`] if it was finished or reset before.
    pub fn finish(&mut self) -> Result<(), SendError> {
        self.ended = true;
        self.inner.finish().map_err(|_| SendError::Ended)
    }

    /// Gives up: the reader will see a reset with this code, and may not see bytes that were sent before.
    /// Does nothing if the stream has ended already.
    pub fn reset(&mut self, code: Code) {
        self.ended = true;
        // The only error is that it ended before.
        drop(self.inner.reset(varint(code)));
    }

    /// Waits until nothing more will happen: `Ok` once the peer has acknowledged everything up to the end, an
    /// error once it wants no more or the connection is gone. On a stream that is not finished only errors
    /// end the wait. Acknowledged means that the peer's node has the bytes, not that anybody read them. The
    /// end of the connection is noticed at once, everything else at the next poll, a second late at most. May
    /// be cancelled.
    ///
    /// # Errors
    /// [`SendError`], see there.
    pub async fn stopped(&mut self) -> Result<(), SendError> {
        let connection = self.connection.clone();
        let mut interval = connection.stats().rtt.max(FIRST_LOOK_INTERVAL);
        loop {
            if let Some(end) = self.poll_end() {
                return end;
            }
            // Either way it is time to poll.
            drop(timeout(interval, connection.closed()).await);
            interval = (interval * 2).min(MAX_LOOK_INTERVAL);
        }
    }

    /// The stream's end as [`SendStream::stopped`] gives it, without waiting: `None` if something may still
    /// happen.
    pub fn poll_end(&mut self) -> Option<Result<(), SendError>> {
        if self.connection.is_closed().is_some() {
            return self.end_from_quinn();
        }
        if self.ended {
            // quinn forgets a stream once all of it is acknowledged, and accepts a second finish of one that
            // the peer has stopped meanwhile.
            let is_over = self.inner.priority().is_err() || self.inner.finish().is_ok();
            return if is_over { self.end_from_quinn() } else { None };
        }
        let stops = self.connection.stops_received();
        if stops == self.stops_seen {
            return None;
        }
        self.stops_seen = stops;
        // Nothing is written, but quinn tells whether it could be.
        let written = self.inner.write_chunks(&mut []).now_or_never()?;
        written.err().map(|error| Err(self.error(error)))
    }

    /// quinn's word on a stream of which it knows that nothing more will happen: so it keeps nothing to tell
    /// it with.
    fn end_from_quinn(&self) -> Option<Result<(), SendError>> {
        Some(match self.inner.stopped().now_or_never()? {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(SendError::Stopped(Code::from_number(code.into_inner()))),
            Err(StoppedError::ConnectionLost(error)) => {
                Err(SendError::ConnectionLost(self.connection.lost_code(&error)))
            }
            // No early data is ever sent.
            Err(StoppedError::ZeroRttRejected) => Err(SendError::Ended),
        })
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

    fn error(&self, error: WriteError) -> SendError {
        match error {
            WriteError::Stopped(code) => SendError::Stopped(Code::from_number(code.into_inner())),
            WriteError::ConnectionLost(error) => {
                SendError::ConnectionLost(self.connection.lost_code(&error))
            }
            WriteError::ClosedStream | WriteError::ZeroRttRejected => SendError::Ended,
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(Code::Internal);
        }
        if let Some(credits) = self.connection.credits() {
            credits.end_sending(self.id());
        }
        self.connection.half_closed(self.inner.id());
    }
}
