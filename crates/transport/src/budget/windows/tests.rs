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
    let windows = ConnectionWindows::new(&conn, budget.clone(), "bank".parse().unwrap(), LIMITS);
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
