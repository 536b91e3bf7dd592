//! The windows of one connection: what its peer may have under way, and what that is charged.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_core::name::ClusterName;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::BufferBudget;

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
    fn begin_stall(&self, conn: &impl WindowedConnection, window: u64) -> (u64, u64, Arc<Notify>) {
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
    fn pause_stall(&self, number: u64, added: u64) {
        self.budget.ledger().end_stall(&self.cluster, number);
        self.budget.reserve(&self.cluster, bytes(added));
    }

    /// The stream stalls again, with what it was granted before.
    fn resume_stall(&self, window: u64, added: u64, evict: &Arc<Notify>) -> u64 {
        self.budget.release(&self.cluster, bytes(added));
        self.budget.stall(&self.cluster, bytes(window), evict).0
    }

    /// A stall has ended that was paused, so what it was granted is charged as a window already.
    fn end_stall(&self, conn: &impl WindowedConnection, added: u64) {
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

    /// True if there is anything that discarded bytes would settle.
    pub(crate) fn owes(&self) -> bool {
        self.state().owed > 0
    }

    fn state(&self) -> MutexGuard<'_, WindowState> {
        // No code that holds it can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionWindows {
    fn drop(&mut self) {
        let (first, state) = (self.first, self.state());
        let windows = state.receive.saturating_sub(first) + state.send.saturating_sub(first);
        self.budget.release(&self.cluster, bytes(windows + state.owed));
    }
}

/// A stream that is stalled, for as long as this lives.
#[derive(Debug)]
pub struct StallCharge {
    conn: crate::QuicConnection,
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
    pub(crate) fn begin(conn: &crate::QuicConnection, window: u64) -> Option<Self> {
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

fn bytes(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::advance;

    use super::*;
    use crate::budget::{BufferCharges, BufferLimits};

    const KIB: u64 = 1024;
    const PATH_DELAY: Duration = Duration::from_millis(50);
    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Default)]
    struct FakeWindows {
        receive: Cell<u64>,
        send: Cell<u64>,
    }

    impl WindowedConnection for FakeWindows {
        fn set_receive_window(&self, bytes: u64) {
            self.receive.set(bytes);
        }
        fn set_send_window(&self, bytes: u64) {
            self.send.set(bytes);
        }
        fn rtt(&self) -> Duration {
            PATH_DELAY
        }
    }

    const LIMITS: WindowLimits = WindowLimits {
        first: 32 * KIB,
        base: WindowSizes { receive: 512 * KIB, send: 128 * KIB },
        max: WindowSizes { receive: 4096 * KIB, send: 1024 * KIB },
    };
    const BASE: usize = (480 + 96) * 1024;

    fn begin(peer: u64) -> (FakeWindows, BufferBudget, ConnectionWindows) {
        let budget = BufferBudget::new(BufferLimits { process: 1 << 30, peer: bytes(peer) });
        let conn = FakeWindows::default();
        let windows =
            ConnectionWindows::new(&conn, budget.clone(), "bank".parse().unwrap(), LIMITS);
        (conn, budget, windows)
    }

    fn charged(budget: &BufferBudget) -> usize {
        budget.charges().windows
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_follows_what_is_taken_up_to_its_limit_and_is_charged() {
        let (conn, budget, windows) = begin(16 << 20);
        assert_eq!((conn.receive.get(), conn.send.get()), (512 * KIB, 128 * KIB));
        assert_eq!(charged(&budget), BASE);
        for expected in [1024, 2048, 4096, 4096] {
            advance(PATH_DELAY).await;
            windows.bytes_taken(&conn, conn.receive.get() / 2);
            assert_eq!(conn.receive.get(), expected * KIB);
        }
        windows.bytes_sent(&conn, conn.send.get());
        assert_eq!(conn.send.get(), 128 * KIB, "that took long");
        for expected in [256, 512, 1024, 1024] {
            advance(PATH_DELAY).await;
            windows.bytes_sent(&conn, conn.send.get());
            assert_eq!(conn.send.get(), expected * KIB);
        }
        let most = bytes(LIMITS.max.receive + LIMITS.max.send - 2 * LIMITS.first);
        assert_eq!(charged(&budget), most);
        drop(windows);
        assert_eq!(budget.charges(), BufferCharges::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_slow_or_whose_bytes_nobody_takes_gets_no_more() {
        let (conn, budget, windows) = begin(16 << 20);
        for _ in 0..100 {
            advance(PATH_DELAY * 3).await;
            windows.bytes_taken(&conn, 256 * KIB);
            windows.bytes_sent(&conn, 128 * KIB);
        }
        assert_eq!(charged(&budget), BASE);
        assert_eq!(conn.receive.get(), 512 * KIB);
    }

    #[tokio::test(start_paused = true)]
    async fn windows_that_grew_and_are_not_used_shrink_and_give_their_charge_back() {
        let (conn, budget, windows) = begin(16 << 20);
        for _ in 0..3 {
            advance(PATH_DELAY).await;
            windows.bytes_taken(&conn, conn.receive.get() / 2);
            windows.bytes_sent(&conn, conn.send.get());
        }
        let grown = (conn.receive.get(), conn.send.get());
        assert_eq!(grown, (4096 * KIB, 1024 * KIB));
        advance(UNUSED_WINDOW_TIMEOUT / 2).await;
        windows.shrink_if_unused(&conn);
        assert_eq!((conn.receive.get(), conn.send.get()), grown, "that was a pause");
        advance(UNUSED_WINDOW_TIMEOUT).await;
        windows.shrink_if_unused(&conn);
        assert_eq!((conn.receive.get(), conn.send.get()), (512 * KIB, 128 * KIB));
        let granted = 3584 * KIB;
        assert_eq!(charged(&budget), BASE + bytes(granted), "the peer may still use it");
        windows.shrink_if_unused(&conn);
        assert_eq!(charged(&budget), BASE + bytes(granted), "once");
        for _ in 0..14 {
            advance(SECOND).await;
            windows.bytes_taken(&conn, granted / 14);
        }
        assert_eq!((charged(&budget), conn.receive.get()), (BASE, 512 * KIB));
        advance(PATH_DELAY).await;
        windows.bytes_taken(&conn, 256 * KIB);
        assert_eq!(conn.receive.get(), 1024 * KIB, "it grows again");
        drop(windows);
        assert_eq!(budget.charges(), BufferCharges::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_for_which_there_is_no_room_keeps_what_it_began_with() {
        let (conn, budget, windows) = begin(256 * KIB);
        assert_eq!((conn.receive.get(), conn.send.get()), (0, 0), "nothing is set");
        windows.bytes_taken(&conn, 16 * KIB);
        assert_eq!(conn.receive.get(), 64 * KIB, "it grows like any other");
        drop(windows);
        assert_eq!(budget.charges(), BufferCharges::default());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_granted_for_a_stall_is_charged_until_it_is_used_up() {
        let (conn, budget, windows) = begin(1 << 20);
        let window = 256 * KIB;
        let (number, added, _evict) = windows.begin_stall(&conn, window);
        assert_eq!(conn.receive.get(), 768 * KIB, "the others have as much as before");
        assert_eq!((budget.charges().stalled, charged(&budget)), (bytes(window), BASE));
        windows.pause_stall(number, added);
        assert_eq!(conn.receive.get(), 768 * KIB, "what it was granted stays granted");
        windows.end_stall(&conn, added);
        assert_eq!(conn.receive.get(), 512 * KIB);
        assert_eq!((budget.charges().stalled, charged(&budget)), (0, BASE + bytes(window)));
        windows.bytes_discarded(100 * KIB);
        assert_eq!(charged(&budget), BASE + 156 * 1024, "what a stream held is settled with it");
        advance(PATH_DELAY * 9).await;
        windows.bytes_taken(&conn, 256 * KIB);
        assert_eq!(charged(&budget), BASE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_went_on_is_not_evicted_and_stalls_again_for_what_it_has() {
        let (conn, budget, windows) = begin(1 << 20);
        let window = 512 * KIB;
        let (number, added, evict) = windows.begin_stall(&conn, window);
        windows.pause_stall(number, added);
        let others: Vec<_> = (0..3).map(|_| windows.begin_stall(&conn, window)).collect();
        assert_eq!(budget.charges().streams, 2, "the oldest that still stalls was evicted");
        assert!(futures_util::FutureExt::now_or_never(evict.notified()).is_none());
        let granted = conn.receive.get();
        windows.resume_stall(window, added, &evict);
        assert_eq!(conn.receive.get(), granted, "nothing more is granted for it");
        drop(others);
    }

    #[tokio::test(start_paused = true)]
    async fn stalls_that_come_and_go_do_not_add_up_to_more_than_the_budget() {
        let (conn, budget, windows) = begin(1 << 20);
        let mut granted = conn.receive.get();
        for _ in 0..1000 {
            let (number, added, _evict) = windows.begin_stall(&conn, 256 * KIB);
            granted += added;
            windows.pause_stall(number, added);
            windows.end_stall(&conn, added);
        }
        assert!(granted <= 512 * KIB + (1 << 20) + 256 * KIB, "{granted} bytes were granted");
        drop(windows);
        assert_eq!(budget.charges(), BufferCharges::default());
    }
}
