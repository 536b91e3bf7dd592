//! Ends all links in order: nothing new, open streams may finish, then an end that every peer receives.

use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::wire::control::ControlMessage;
use tokio::time::{Instant, sleep, timeout};

use super::inner::LinksInner;

/// After a go-away the peer should not be back before this process has gone or its successor serves.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Time after which a peer that was sent a go-away opens no more streams, from when it was sent.
const GO_AWAY_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval at which open streams are counted.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The longest time that the ends of connections may take to be received, and tasks to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

impl LinksInner {
    /// The message that a node sends on every connection when it drains. If a successor serves already, peers
    /// are to come at once: see [`super::successor`].
    pub(super) fn go_away_message(&self) -> ControlMessage {
        let wait =
            if self.endpoints.is_reading_paused() { Duration::ZERO } else { RECONNECT_DELAY };
        let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        ControlMessage::GoAway { code: Code::Draining, retry_after_ms }
    }

    /// See [`super::Links::announce_leaving`].
    pub(super) fn announce_leaving(&self) {
        self.runtime.shutdown.leaving.cancel();
        self.endpoints.drain();
        for (conn, _) in self.connections.all() {
            conn.send_control(self.go_away_message());
        }
    }

    /// See [`super::Links::drain`].
    pub(super) async fn drain(self: &Arc<Self>, within: Duration) -> usize {
        let is_announced = self.runtime.shutdown.leaving.is_cancelled();
        self.runtime.shutdown.draining.cancel();
        self.endpoints.drain();
        for (conn, _) in self.connections.all() {
            if !is_announced {
                conn.send_control(self.go_away_message());
            }
            self.connections.mark_leaving(&conn, Code::Draining);
        }
        let (deadline, all_have_heard) =
            (Instant::now() + within, Instant::now() + GO_AWAY_TIMEOUT);
        // What peers sent before they received the go-away arrives within a round trip or so.
        let all = self.connections.all();
        let slowest = all.iter().map(|(conn, _)| conn.quic.stats().rtt).max();
        let heard_until = Instant::now() + slowest.unwrap_or_default().saturating_mul(3);
        drop(all);
        while Instant::now() < deadline && (self.open_streams() > 0 || Instant::now() < heard_until)
        {
            sleep(POLL_INTERVAL.min(deadline - Instant::now())).await;
            if Instant::now() >= all_have_heard {
                self.runtime.shutdown.peers_informed.cancel();
            }
        }
        self.close_all().await
    }

    /// Ends everything now; gives the number of streams that this broke.
    async fn close_all(self: &Arc<Self>) -> usize {
        let broken = self.open_streams();
        let code = if broken == 0 { Code::Draining } else { Code::Drained };
        self.runtime.shutdown.ended.cancel();
        for (conn, _) in self.connections.all() {
            conn.quic.close(code, "");
        }
        self.endpoints.close(code, "");
        self.endpoints.idle(CLOSE_TIMEOUT).await;
        self.runtime.tasks.close();
        if timeout(CLOSE_TIMEOUT, self.runtime.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.runtime.tasks.len(), "tasks of links did not end in time");
        }
        broken
    }

    /// Data streams on all connections.
    fn open_streams(&self) -> usize {
        self.connections.all().iter().map(|(conn, _)| conn.usage_counts().streams).sum()
    }
}
