//! The charge of one stream that stalls.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::endpoint::QuicConnection;

/// A stream that is stalled, for as long as this lives.
#[derive(Debug)]
pub struct StallCharge {
    conn: QuicConnection,
    /// Its number among those that are stalled, while it is.
    number: Option<u64>,
    window: u64,
    added: u64,
    evict: Arc<Notify>,
}

/// If a peer's windows are spent, a stalled stream gets nothing for its connection's others, which it may
/// stop. So it has only this long, from when it stalls.
const UNGRANTED_STALL_TIMEOUT: Duration = Duration::from_secs(5);

impl StallCharge {
    /// A stream of `conn` whose reader does not keep up and which may hold `window` bytes. `None` if the
    /// connection has no budget: its peer is not known yet.
    pub(crate) fn begin(conn: &QuicConnection, window: u64) -> Option<Self> {
        let (windows, quinn) = conn.windows()?;
        let (number, added, evict) = windows.begin_stall(quinn, window);
        Some(Self { conn: conn.clone(), number: Some(number), window, added, evict })
    }

    /// Waits until the budget wants this stream's memory back.
    pub async fn evicted(&self) {
        if self.added > 0 {
            return self.evict.notified().await;
        }
        // Either way its time is over.
        drop(tokio::time::timeout(UNGRANTED_STALL_TIMEOUT, self.evict.notified()).await);
    }

    /// The reader took something: the stream is not reset for its memory any more. What its peer was granted
    /// stays granted, and charged.
    pub fn reader_resumed(&mut self) {
        let Some((windows, _)) = self.conn.windows() else { return };
        if let Some(number) = self.number.take() {
            windows.pause_stall(number, self.added);
            // An eviction that it has escaped is not to be found later.
            self.evict = Arc::new(Notify::new());
        }
    }

    /// True if a stream that may hold so much is charged enough.
    #[must_use]
    pub fn covers(&self, window: u64) -> bool {
        window <= self.window
    }

    /// The reader takes nothing again.
    pub fn reader_stalled(&mut self) {
        let Some((windows, _)) = self.conn.windows() else { return };
        if self.number.is_none() {
            self.number = Some(windows.resume_stall(self.window, self.added, &self.evict));
        }
    }
}

impl Drop for StallCharge {
    fn drop(&mut self) {
        self.reader_resumed();
        if let Some((windows, quinn)) = self.conn.windows() {
            windows.end_stall(quinn, self.added);
        }
    }
}
