//! Workloads whose every byte is known.
//!
//! What is said follows the pattern of [`crate::workload`], by position, in each direction: a byte that is lost,
//! doubled or changed shows at once, and a short end by its length.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use adit_dataplane::tcp::{ReadBuffer, Tcp, TcpAcceptor, TcpNetwork};
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::timeout;

use crate::net::pipe::{Accepting, MemoryPipe, Pipes};
pub use crate::workload::DirectionEnd;
use crate::workload::pattern;

/// The time that anything here may take before a test is stuck, in its own time.
pub(super) const PARTY_TIMEOUT: Duration = Duration::from_secs(600);

/// An end of a workload's connection.
#[derive(Debug)]
pub struct Party {
    pipe: MemoryPipe,
    room: ReadBuffer,
    said: u64,
    heard: u64,
}

/// A backend's listening socket.
#[derive(Debug)]
pub struct BackendListener(Accepting);

impl BackendListener {
    /// Listens.
    ///
    /// # Panics
    /// Where somebody does already.
    #[must_use]
    pub fn listen(pods: &Pipes, at: SocketAddr) -> Self {
        Self(pods.listen(at, false).expect("a free address"))
    }

    /// The next connection, a probe's or another.
    ///
    /// # Panics
    /// Where nobody listens any more.
    pub async fn touched(&self) {
        self.0.accept().await.expect("a listener");
    }

    /// The next connection that is no probe.
    ///
    /// # Panics
    /// Where there is none for [`PARTY_TIMEOUT`].
    pub async fn accept(&self) -> Party {
        loop {
            let next = timeout(PARTY_TIMEOUT, self.0.accept()).await.expect("a connection");
            let pipe = next.expect("a listener");
            if !pipe.is_abandoned() {
                return Party::new(pipe);
            }
        }
    }
}

impl Party {
    fn new(pipe: MemoryPipe) -> Self {
        Self { pipe, room: ReadBuffer::new(), said: 0, heard: 0 }
    }

    /// Connects.
    ///
    /// # Panics
    /// Where nobody listens.
    pub async fn connect(pods: &Pipes, from: &str, to: SocketAddr) -> Self {
        let from = from.parse().expect("an address");
        Self::new(pods.connect(from, to).await.expect("a listener"))
    }

    /// Says the next `n` bytes.
    ///
    /// # Errors
    /// Where the connection is broken.
    pub async fn say(&mut self, n: u64) -> io::Result<()> {
        let bytes: Bytes = (self.said..self.said + n).map(pattern).collect();
        self.pipe.write(&mut [bytes]).await?;
        self.said += n;
        Ok(())
    }

    /// Says as much as is taken, in small pieces, until nothing has been for a minute. How much it is in all.
    ///
    /// # Panics
    /// Where the connection is broken.
    pub async fn fill(&mut self) -> u64 {
        self.fill_for(Duration::from_secs(60)).await
    }

    /// The same until nothing has been taken for this long.
    ///
    /// # Panics
    /// Where the connection is broken.
    pub async fn fill_for(&mut self, quiet: Duration) -> u64 {
        loop {
            let mut piece = [(self.said..self.said + 1024).map(pattern).collect::<Bytes>()];
            let write = self.pipe.write(&mut piece);
            let taken = timeout(quiet, write).await;
            self.said += 1024 - piece[0].len() as u64;
            match taken {
                Ok(taken) => taken.expect("a connection"),
                Err(_) => return self.said,
            }
        }
    }

    /// Waits until it has heard `total` bytes in all.
    ///
    /// # Panics
    /// Where one of them is not the right one, or the connection ends before.
    pub async fn hear(&mut self, total: u64) {
        while self.heard < total {
            let more = self.next().await;
            assert_eq!(more.ok(), Some(true), "an end after {} bytes of {total}", self.heard);
        }
    }

    /// Hears all there is, and says how it ended.
    ///
    /// # Panics
    /// Where a byte is not the right one.
    pub async fn end(&mut self) -> DirectionEnd {
        loop {
            match self.next().await {
                Ok(true) => {}
                Ok(false) => return DirectionEnd::Finished(self.heard),
                Err(_) => return DirectionEnd::Reset(self.heard),
            }
        }
    }

    async fn next(&mut self) -> io::Result<bool> {
        let next = timeout(PARTY_TIMEOUT, self.pipe.read(&mut self.room));
        let Some(bytes) = next.await.expect("bytes or an end")? else { return Ok(false) };
        for byte in &bytes {
            assert_eq!(*byte, pattern(self.heard), "byte {}", self.heard);
            self.heard += 1;
        }
        Ok(true)
    }

    /// Says that this is all.
    ///
    /// # Panics
    /// Never in practice.
    pub async fn finish(&self) {
        self.pipe.finish().await.expect("a connection");
    }

    /// True if a reset has arrived.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.pipe.broken().now_or_never().is_some()
    }

    /// Sends RST.
    pub fn reset(self) {
        self.pipe.reset();
    }
}
