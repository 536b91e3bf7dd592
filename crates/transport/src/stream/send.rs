//! The sending half of a stream.

use std::future::Future;

use adit_core::code::Code;
use bytes::Bytes;
use quinn::{StoppedError, WriteError};
use tokio::time::Instant;

use super::{Held, SendError};
use crate::endpoint::{Connection, varint};

/// The sending half of a stream. Dropped unfinished, it resets with [`Code::Internal`].
#[derive(Debug)]
pub struct SendStream {
    inner: quinn::SendStream,
    connection: Connection,
    ended: bool,
    last: Option<Instant>,
    held: Option<Held>,
}

impl SendStream {
    pub(crate) fn new(inner: quinn::SendStream, connection: Connection) -> Self {
        Self { inner, connection, ended: false, last: None, held: None }
    }

    /// Keeps something for as long as this half lives: it is dropped with it.
    pub(crate) fn hold(&mut self, what: Held) {
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
        if chunks.iter().all(Bytes::is_empty) {
            return Ok(0);
        }
        match self.inner.write_chunks(chunks).await {
            Ok(written) => {
                self.last = Some(Instant::now());
                self.connection.sent(written.bytes);
                Ok(written.bytes)
            }
            Err(error) => Err(self.error(error)),
        }
    }

    /// When [`SendStream::send_some`] last sent something.
    #[must_use]
    pub fn last_sent(&self) -> Option<Instant> {
        self.last
    }

    /// Copies and sends all of `bytes`: for short messages. A cancelled call may have sent a part.
    ///
    /// # Errors
    /// [`SendError`], see there.
    pub async fn send_all(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.inner.write_all(bytes).await.map_err(|error| self.error(error))?;
        self.connection.sent(bytes.len());
        Ok(())
    }

    /// Says that everything was sent: the reader will see the end, after the last byte. This only
    /// queues it; [`SendStream::stopped`] tells when the peer has all.
    ///
    /// # Errors
    /// [`SendError::Ended`] where it was finished or reset before.
    pub fn finish(&mut self) -> Result<(), SendError> {
        self.ended = true;
        self.inner.finish().map_err(|_| SendError::Ended)
    }

    /// Gives up: the reader will see a reset with this code, and may not see bytes that were sent
    /// before. Does nothing where the stream has ended already.
    pub fn reset(&mut self, code: Code) {
        self.ended = true;
        // The only error is that it ended before.
        drop(self.inner.reset(varint(code)));
    }

    /// Waits until nothing more will happen: `Ok` once the peer has acknowledged everything up to the
    /// end, an error once it wants no more or the connection is gone. The future borrows nothing and
    /// may be polled beside other operations; on a stream that is not finished it tells of the errors
    /// only. Acknowledged means that the peer's node has the bytes, not that anybody read them.
    pub fn stopped(&self) -> impl Future<Output = Result<(), SendError>> + Send + Sync + 'static {
        let (stopped, connection) = (self.inner.stopped(), self.connection.clone());
        async move {
            match stopped.await {
                Ok(None) => Ok(()),
                Ok(Some(code)) => Err(SendError::Stopped(Code::from_number(code.into_inner()))),
                Err(StoppedError::ConnectionLost(error)) => {
                    Err(SendError::ConnectionLost(connection.lost(&error)))
                }
                // No early data is ever sent.
                Err(StoppedError::ZeroRttRejected) => Err(SendError::Ended),
            }
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

    fn error(&self, error: WriteError) -> SendError {
        match error {
            WriteError::Stopped(code) => SendError::Stopped(Code::from_number(code.into_inner())),
            WriteError::ConnectionLost(error) => {
                SendError::ConnectionLost(self.connection.lost(&error))
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
        self.connection.half_gone(self.inner.id());
    }
}
