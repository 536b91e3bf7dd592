//! The windows of one connection: what its peer may have under way, and what that is charged.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use adit_core::name::ClusterName;
use adit_runtime::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{BufferBudget, UnsentCharge};

/// A connection as far as its windows go: quinn's, but in unit tests.
pub(crate) trait WindowedConnection {
    /// Sets how many bytes the peer may have sent that were not taken here.
    fn set_receive_window(&self, bytes: u64);
    /// Sets how many bytes may wait here for the peer's acknowledgement.
    fn set_send_window(&self, bytes: u64);
    /// The round trip, smoothed.
    fn rtt(&self) -> Duration;
}

/// Sizes of a connection's windows, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowLimits {
    /// The size of both windows when the connection was made; nobody is charged for it.
    pub(crate) first: u64,
    /// The sizes once the peer is known, if its budget has room.
    pub(crate) base: WindowSizes,
    /// The sizes that they never exceed, but for stalled streams.
    pub(crate) max: WindowSizes,
}

/// Sizes of both windows, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowSizes {
    pub(crate) receive: u64,
    pub(crate) send: u64,
}

/// A window of which no half was used within this time is not used.
const UNUSED_WINDOW_TIMEOUT: Duration = Duration::from_secs(30);

/// The windows of one connection. Gives everything back when it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionWindows {
    budget: BufferBudget,
    cluster: ClusterName,
    /// The size that nobody is charged for.
    first: u64,
    /// The sizes to which unused windows shrink.
    base: WindowSizes,
    received: WindowProgress,
    sent: WindowProgress,
    state: Mutex<WindowState>,
}

/// Bytes since a window was last checked.
#[derive(Debug)]
struct WindowProgress {
    bytes: AtomicU64,
    /// The number of bytes after which the window is checked again.
    check_at: AtomicU64,
}

#[derive(Debug)]
struct WindowState {
    /// The sizes that the windows may reach.
    max: WindowSizes,
    /// The receive window without what stalled streams add.
    receive: u64,
    send: u64,
    /// The bytes that stalled streams add to the receive window.
    stalled: u64,
    /// The bytes that the peer may still use of windows that shrank: quinn takes nothing back, but gives the
    /// next bytes no new credit. Charged as window until then.
    owed: u64,
    receive_checked: Instant,
    send_checked: Instant,
}

impl WindowProgress {
    fn new(look_at: u64) -> Self {
        Self { bytes: AtomicU64::new(0), check_at: AtomicU64::new(look_at) }
    }

    /// Counts bytes, and gives the number since the last check if it is time for the next one.
    fn add(&self, bytes: u64) -> Option<u64> {
        let sum = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        (sum >= self.check_at.load(Relaxed)).then(|| self.bytes.swap(0, Relaxed))
    }
}

impl ConnectionWindows {
    /// Takes over the windows of a connection whose peer's cluster is known from here on.
    pub(crate) fn new(
        conn: &impl WindowedConnection,
        budget: BufferBudget,
        cluster: ClusterName,
        limits: WindowLimits,
    ) -> Self {
        let WindowLimits { first, base, max: most } = limits;
        let extra = base.receive.saturating_sub(first) + base.send.saturating_sub(first);
        let has_room = budget.try_reserve(&cluster, bytes(extra));
        let WindowSizes { receive, send } =
            if has_room { base } else { WindowSizes { receive: first, send: first } };
        if has_room {
            conn.set_receive_window(receive);
            conn.set_send_window(send);
        }
        let now = Instant::now();
        let state = WindowState {
            max: most,
            receive,
            send,
            stalled: 0,
            owed: 0,
            receive_checked: now,
            send_checked: now,
        };
        Self {
            budget,
            cluster,
            first,
            base,
            received: WindowProgress::new(receive / 2),
            sent: WindowProgress::new(send),
            state: Mutex::new(state),
        }
    }

    /// Changes what the windows may become. One that is larger already stays so.
    pub(crate) fn limit(&self, limits: WindowLimits) {
        self.state().max = limits.max;
    }

    /// Bytes that came from the peer were taken.
    ///
    /// Half a window within two round trips means that the window is what holds the peer back, and it is
    /// doubled; so it follows the product of rate and round trip (as TCP's receivers do: Semke, Mahdavi,
    /// Mathis, "Automatic TCP Buffer Tuning", 1998).
    pub(crate) fn bytes_taken(&self, conn: &impl WindowedConnection, count: u64) {
        let Some(taken) = self.received.add(count) else { return };
        let mut state = self.state();
        let settled = taken.min(state.owed);
        state.owed -= settled;
        self.budget.release(&self.cluster, bytes(settled));
        let now = Instant::now();
        let is_held_back = now.duration_since(state.receive_checked) <= conn.rtt() * 2;
        state.receive_checked = now;
        let most = state.max.receive;
        if is_held_back && self.grow(&mut state.receive, most) {
            conn.set_receive_window(state.receive + state.stalled);
        }
        self.received.check_at.store(state.receive / 2, Relaxed);
    }

    /// Bytes were given to the connection to send. A whole window within two round trips means that the
    /// peer acknowledges as fast as the window lets it, which is the proof that it deserves a larger one.
    pub(crate) fn bytes_sent(&self, conn: &impl WindowedConnection, count: u64) {
        if self.sent.add(count).is_none() {
            return;
        }
        let mut state = self.state();
        let now = Instant::now();
        let is_held_back = now.duration_since(state.send_checked) <= conn.rtt() * 2;
        state.send_checked = now;
        let most = state.max.send;
        if is_held_back && self.grow(&mut state.send, most) {
            conn.set_send_window(state.send);
        }
        self.sent.check_at.store(state.send, Relaxed);
    }

    /// Doubles a window, within its limit and the peer's budget.
    fn grow(&self, window: &mut u64, most: u64) -> bool {
        let more = (*window).min(most.saturating_sub(*window));
        let grows = more > 0 && self.budget.try_reserve(&self.cluster, bytes(more));
        if grows {
            *window += more;
        }
        grows
    }

    /// Lets windows that have grown, and of which little was used for a while, be what they were at first.
    ///
    /// What a peer was granted stays granted, and charged: quinn gives no new credit for as many of the bytes
    /// that come next. What may wait to be sent is free at once, because all that did was acknowledged or
    /// the connection would be gone.
    pub(crate) fn shrink_if_unused(&self, conn: &impl WindowedConnection) {
        let mut state = self.state();
        let now = Instant::now();
        let is_unused = |looked: Instant| now.duration_since(looked) >= UNUSED_WINDOW_TIMEOUT;
        if state.receive > self.base.receive && is_unused(state.receive_checked) {
            state.owed += state.receive - self.base.receive;
            state.receive = self.base.receive;
            conn.set_receive_window(state.receive + state.stalled);
            self.received.check_at.store(state.receive / 2, Relaxed);
        }
        if state.send > self.base.send && is_unused(state.send_checked) {
            self.budget.release(&self.cluster, bytes(state.send - self.base.send));
            state.send = self.base.send;
            conn.set_send_window(state.send);
            self.sent.check_at.store(state.send, Relaxed);
        }
    }

    /// A stream of the connection stalls that may hold `window` bytes: the others get as much again.
    pub(super) fn begin_stall(
        &self,
        conn: &impl WindowedConnection,
        window: u64,
    ) -> (u64, u64, Arc<Notify>) {
        let evict = Arc::new(Notify::new());
        let (number, may_grow) = self.budget.stall(&self.cluster, bytes(window), &evict);
        let added = if may_grow { window } else { 0 };
        if may_grow {
            let mut state = self.state();
            state.stalled += added;
            conn.set_receive_window(state.receive + state.stalled);
        }
        (number, added, evict)
    }

    /// The stream goes on: what it was granted is a window from here on, and nobody resets it for that.
    pub(super) fn pause_stall(&self, number: u64, added: u64) {
        self.budget.ledger().end_stall(&self.cluster, number);
        self.budget.reserve(&self.cluster, bytes(added));
    }

    /// The stream stalls again, with what it was granted before.
    pub(super) fn resume_stall(&self, window: u64, added: u64, evict: &Arc<Notify>) -> u64 {
        self.budget.release(&self.cluster, bytes(added));
        self.budget.stall(&self.cluster, bytes(window), evict).0
    }

    /// A stall has ended that was paused, so what it was granted is charged as a window already.
    pub(super) fn end_stall(&self, conn: &impl WindowedConnection, added: u64) {
        if added == 0 {
            return;
        }
        let mut state = self.state();
        state.stalled -= added;
        state.owed += added;
        conn.set_receive_window(state.receive + state.stalled);
    }

    /// Bytes were thrown away with their stream: quinn takes them off what is owed, as if they had been taken.
    pub(crate) fn bytes_discarded(&self, count: u64) {
        let mut state = self.state();
        let settled = count.min(state.owed);
        state.owed -= settled;
        self.budget.release(&self.cluster, bytes(settled));
    }

    /// True if its peer's stalled streams hold so much that no window should be larger than at first.
    pub(crate) fn is_pressed(&self) -> bool {
        self.budget.ledger().is_pressed(&self.cluster)
    }

    /// Charges what waits to be sent on one of its streams.
    pub(crate) fn charge_unsent(&self, count: usize) -> UnsentCharge {
        UnsentCharge::begin(&self.budget, &self.cluster, count)
    }

    /// True if there is anything that discarded bytes would settle.
    pub(crate) fn owes(&self) -> bool {
        self.state().owed > 0
    }

    fn state(&self) -> MutexGuard<'_, WindowState> {
        self.state.lock()
    }
}

impl Drop for ConnectionWindows {
    fn drop(&mut self) {
        let (first, state) = (self.first, self.state());
        let windows = state.receive.saturating_sub(first) + state.send.saturating_sub(first);
        self.budget.release(&self.cluster, bytes(windows + state.owed));
    }
}

fn bytes(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
