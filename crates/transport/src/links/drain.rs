//! Ends all links politely: nothing new, what runs may finish, then an end that every peer hears.

use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::wire::control::Control;
use tokio::time::{Instant, sleep, timeout};

use super::shared::Shared;

/// After a go-away the peer should not be back before this process has gone or its successor serves.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// A peer that opens a stream so long after it was told to go away is not going to.
const HEARD_TIMEOUT: Duration = Duration::from_secs(10);
/// How often is looked whether streams are left.
const LOOK: Duration = Duration::from_millis(50);
/// How long the ends of connections may take to be heard, and tasks to notice.
const FAREWELL: Duration = Duration::from_secs(3);

impl Shared {
    /// What a node that drains says on every connection. Where a successor serves already, peers are to come
    /// at once: see [`super::successor`].
    pub(super) fn go_away(&self) -> Control {
        let wait = if self.endpoints.is_aside() { Duration::ZERO } else { RETRY_AFTER };
        let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Control::GoAway { code: Code::Draining, retry_after_ms }
    }

    /// See [`super::Links::announce_leaving`].
    pub(super) fn announce_leaving(&self) {
        self.work.stages.leaving.cancel();
        self.endpoints.drain();
        for (conn, _) in self.register.all() {
            conn.tell(self.go_away());
        }
    }

    /// See [`super::Links::drain`].
    pub(super) async fn drain(self: &Arc<Self>, within: Duration) -> usize {
        let is_announced = self.work.stages.leaving.is_cancelled();
        self.work.stages.draining.cancel();
        self.endpoints.drain();
        for (conn, _) in self.register.all() {
            if !is_announced {
                conn.tell(self.go_away());
            }
            self.register.leave(&conn, Code::Draining);
        }
        let (deadline, all_have_heard) = (Instant::now() + within, Instant::now() + HEARD_TIMEOUT);
        // What peers sent before they heard arrives within a round trip or so.
        let all = self.register.all();
        let slowest = all.iter().map(|(conn, _)| conn.quic.stats().rtt).max();
        let heard = Instant::now() + slowest.unwrap_or_default().saturating_mul(3);
        drop(all);
        while Instant::now() < deadline && (self.streams() > 0 || Instant::now() < heard) {
            sleep(LOOK.min(deadline - Instant::now())).await;
            if Instant::now() >= all_have_heard {
                self.work.stages.heard.cancel();
            }
        }
        self.end().await
    }

    /// Ends everything now; says how many streams that broke.
    async fn end(self: &Arc<Self>) -> usize {
        let broken = self.streams();
        let code = if broken == 0 { Code::Draining } else { Code::Drained };
        self.work.stages.ended.cancel();
        for (conn, _) in self.register.all() {
            conn.quic.close(code, "");
        }
        self.endpoints.close(code, "");
        self.endpoints.idle(FAREWELL).await;
        self.work.tasks.close();
        if timeout(FAREWELL, self.work.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.work.tasks.len(), "tasks of links did not end in time");
        }
        broken
    }

    /// Data streams on all connections.
    fn streams(&self) -> usize {
        self.register.all().iter().map(|(conn, _)| conn.doing().streams).sum()
    }
}
