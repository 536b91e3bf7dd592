//! Paths that change under a connection: it carries what a fresh one would, ten seconds later at most.

use std::time::Duration;

use adit_core::snapshot::Class;
use adit_tests::pair::{NodePair, stream};
use adit_transport::{DialRequest, RecvStream, SendStream, Tuning};
use bytes::Bytes;
use tokio::time::{Instant, sleep};

/// The rate of the path, in bytes a second.
const RATE: u32 = 2_000_000;
/// The time that datagrams beyond the rate may wait.
const QUEUE_DELAY: Duration = Duration::from_millis(50);
/// For how long a rate is measured: a lost datagram holds a stream up for a round trip of half a second.
const MEASURED_INTERVAL: Duration = Duration::from_secs(8);
const SECOND: Duration = Duration::from_secs(1);

/// A transfer that goes on until it is dropped, and how much has arrived of it.
struct Transfer {
    send: SendStream,
    recv: RecvStream,
    // The other halves, whose end would be a reset.
    _back: (RecvStream, SendStream),
}

impl Transfer {
    async fn begin(pair: &NodePair, class: Class) -> Self {
        let (edge, bank) = pair.try_connect(DialRequest { class, ..pair.dial() }).await;
        let (edge, bank) = (edge.unwrap(), bank.unwrap());
        let ((send, ours), (theirs, recv)) = stream(&edge, &bank).await;
        Self { send, recv, _back: (ours, theirs) }
    }

    /// Bytes a second over so long.
    async fn go_on(&mut self, time: Duration) -> u64 {
        let until = Instant::now() + time;
        let sending = async {
            loop {
                self.send.send(&mut Bytes::from_static(&[7; 1 << 16])).await.unwrap();
            }
        };
        let mut received = 0;
        let receiving = async {
            while let Ok(Some(chunk)) = self.recv.read_chunk(usize::MAX).await {
                received += chunk.len() as u64;
            }
        };
        tokio::select! {
            () = sending => {}
            () = receiving => {}
            () = tokio::time::sleep_until(until) => {}
        }
        received * 1000 / time.as_millis() as u64
    }
}

fn pair(round_trip: Duration, loss: bool) -> NodePair {
    let pair = NodePair::new(Tuning::default(), 1);
    pair.network.set_delay(round_trip / 2);
    pair.network.set_rate(RATE, QUEUE_DELAY);
    let mut random = 88_172_645_463_325_252u64;
    pair.network.set_filter(move |_, _| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        !(loss && random.is_multiple_of(100))
    });
    pair
}

/// The rate of a connection, in percent of a fresh one, from ten seconds after its path changed; while it
/// changes, the connection carries as much as it can or nothing.
async fn carried_after(change: (Duration, Duration), is_busy: bool, loss: bool) -> u64 {
    let (before, after) = change;
    let fresh = {
        let pair = pair(after, loss);
        let mut transfer = Transfer::begin(&pair, Class::Bulk).await;
        transfer.go_on(2 * SECOND).await;
        transfer.go_on(MEASURED_INTERVAL).await
    };
    let pair = pair(before, loss);
    let mut transfer = Transfer::begin(&pair, Class::Bulk).await;
    transfer.go_on(2 * SECOND).await;
    pair.network.set_delay(after / 2);
    if is_busy {
        transfer.go_on(10 * SECOND).await;
    } else {
        sleep(10 * SECOND).await;
        transfer.go_on(4 * SECOND).await;
    }
    transfer.go_on(MEASURED_INTERVAL).await * 100 / fresh
}

/// Ten times as long as real paths, because simulated datagrams move once a millisecond.
const LOCAL_DELAY: Duration = Duration::from_millis(5);
const FAR_DELAY: Duration = Duration::from_millis(500);

#[tokio::test(start_paused = true)]
async fn a_path_that_becomes_longer_carries_what_a_fresh_connection_would() {
    for before in [LOCAL_DELAY, Duration::from_millis(40), Duration::from_millis(200)] {
        let percent = carried_after((before, FAR_DELAY), true, false).await;
        assert!(percent >= 80, "{before:?} to {FAR_DELAY:?}: {percent} %");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_idle_meanwhile_carries_as_much() {
    let percent = carried_after((LOCAL_DELAY, FAR_DELAY), false, false).await;
    assert!(percent >= 80, "{percent} %");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_becomes_longer_and_loses_carries_what_a_fresh_connection_would() {
    let percent = carried_after((LOCAL_DELAY, FAR_DELAY), true, true).await;
    assert!(percent >= 80, "{percent} %");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_becomes_shorter_carries_what_a_fresh_connection_would() {
    let percent = carried_after((FAR_DELAY, LOCAL_DELAY), true, false).await;
    assert!(percent >= 80, "{percent} %");
}
