//! Streams carry every byte, and never look finished when they are not.

use std::time::Duration;

use adit_core::code::Code;
use adit_core::snapshot::Class;
use adit_tests::pair::{NodePair, PATH_DELAY, read_all, stream};
use adit_transport::budget::{BufferBudget, BufferLimits};
use adit_transport::endpoint::OpenBiError;
use adit_transport::{DialRequest, RecvError, SendError, Tuning};
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const SOON_TIMEOUT: Duration = Duration::from_secs(1);

/// Whose streams have the windows that nodes agree on at first: without a hello there are only QUIC's.
fn pair() -> NodePair {
    let mut tuning = Tuning::default();
    tuning.interactive.max_stream_window = tuning.interactive.stream_window;
    NodePair::new(tuning, 1)
}

fn body(len: usize) -> Bytes {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn bytes_go_both_ways_and_each_way_ends_on_its_own() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    let (ours, theirs) = stream(&edge, &bank).await;
    let (mut send, mut recv) = ours;
    let (mut back, mut there) = theirs;

    let request = async {
        send.send(&mut body(300_000)).await.unwrap();
        send.finish().unwrap();
        assert_eq!(send.stopped().await, Ok(()));
    };
    let (got, ()) = tokio::join!(read_all(&mut there), request);
    assert!(got.unwrap() == body(300_000));

    // The request has ended for an hour; the answer still comes.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let answer = async {
        let mut chunks = [body(100_000), Bytes::new(), body(50_000)];
        while back.send_some(&mut chunks).await.unwrap() > 0 {}
        assert!(chunks.iter().all(Bytes::is_empty));
        back.finish().unwrap();
    };
    let (got, ()) = tokio::join!(read_all(&mut recv), answer);
    assert!(got.unwrap() == [body(100_000), body(50_000)].concat());
    assert_eq!(recv.read(&mut [0; 8]).await, Ok(None), "an end stays an end");
}

#[tokio::test(start_paused = true)]
async fn chunks_are_read_in_batches() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    let ((mut send, _recv), (_back, mut there)) = stream(&edge, &bank).await;
    send.send(&mut body(40_000)).await.unwrap();
    send.finish().unwrap();
    tokio::time::sleep(SOON_TIMEOUT).await;
    let mut chunks = vec![Bytes::new(); 64];
    let count = there.read_chunks(&mut chunks).await.unwrap().unwrap();
    assert!(count > 20, "{count} packets at once");
    assert!(chunks[..count].concat() == body(40_000));
    assert_eq!(there.read_chunks(&mut chunks).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_dies_half_way_is_a_reset_and_no_end() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    let ((mut send, _recv), (_back, mut there)) = stream(&edge, &bank).await;

    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        for _ in 0..10 {
            send.send(&mut body(10_000)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        send.finish().unwrap();
    });
    tokio::time::sleep(Duration::from_millis(90)).await;
    tasks.shutdown().await;

    assert_eq!(read_all(&mut there).await, Err(RecvError::Reset(Code::Internal)));
    // Whoever asks again must not be told of an end.
    assert_eq!(there.read(&mut [0; 8]).await, Err(RecvError::Reset(Code::Internal)));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_dropped_stops_the_sender() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    let ((mut send, _recv), (_back, there)) = stream(&edge, &bank).await;
    drop(there);
    assert_eq!(send.stopped().await, Err(SendError::Stopped(Code::Internal)));
    assert_eq!(send.send(&mut body(1)).await, Err(SendError::Stopped(Code::Internal)));
}

#[tokio::test(start_paused = true)]
async fn codes_travel_both_ways() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    let ((mut send, mut recv), (mut back, mut there)) = stream(&edge, &bank).await;
    send.reset(Code::SourceReset);
    recv.stop(Code::Revoked);
    assert_eq!(read_all(&mut there).await, Err(RecvError::Reset(Code::SourceReset)));
    assert_eq!(back.stopped().await, Err(SendError::Stopped(Code::Revoked)));
    assert_eq!(back.send(&mut body(1)).await, Err(SendError::Stopped(Code::Revoked)));
    // What this side ended is no clean end to this side either.
    assert_eq!(recv.read(&mut [0; 8]).await, Err(RecvError::Ended));
    assert_eq!(send.send(&mut body(1)).await, Err(SendError::Ended));
    assert_eq!(send.finish(), Err(SendError::Ended));
}

#[tokio::test(start_paused = true)]
async fn a_finished_stream_is_not_reset_when_dropped() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    let ((mut send, recv), (_back, mut there)) = stream(&edge, &bank).await;
    send.send(&mut body(5000)).await.unwrap();
    send.finish().unwrap();
    drop((send, recv));
    assert!(read_all(&mut there).await.unwrap() == body(5000));
}

#[tokio::test(start_paused = true)]
async fn stopped_waits_for_the_acknowledgement() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    let ((mut send, _recv), (_back, _there)) = stream(&edge, &bank).await;
    tokio::time::sleep(SOON_TIMEOUT).await;
    let begun = Instant::now();
    send.send(&mut body(1000)).await.unwrap();
    send.finish().unwrap();
    assert_eq!(send.stopped().now_or_never(), None);
    assert_eq!(send.stopped().await, Ok(()));
    assert!(begun.elapsed() >= 2 * PATH_DELAY, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_send_loses_nothing() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    let ((mut send, _recv), (_back, mut there)) = stream(&edge, &bank).await;
    let write = async {
        // Four times the stream's window, so that it waits again and again.
        let mut rest = body(1 << 20);
        let mut cancelled = 0;
        while timeout(Duration::from_millis(7), send.send(&mut rest)).await.is_err() {
            cancelled += 1;
        }
        assert!(cancelled > 3, "{cancelled}");
        send.finish().unwrap();
    };
    let read = async {
        let (mut all, mut chunks) = (Vec::new(), vec![Bytes::new(); 8]);
        loop {
            match timeout(Duration::from_millis(3), there.read_chunks(&mut chunks)).await {
                Ok(Ok(Some(n))) => chunks[..n].iter().for_each(|c| all.extend_from_slice(c)),
                Ok(end) => break end.map(|_| all),
                Err(_) => {}
            }
        }
    };
    let ((), got) = tokio::join!(write, read);
    assert!(got.unwrap() == body(1 << 20));
}

#[tokio::test(start_paused = true)]
async fn a_stream_beyond_the_limit_times_out_and_does_not_hang() {
    let pair = NodePair::new(Tuning { streams: 4, ..Tuning::default() }, 1);
    let (edge, bank) = pair.connect().await;
    let mut open = Vec::new();
    for _ in 0..4 + Tuning::OWN_STREAMS {
        open.push(stream(&edge, &bank).await);
    }
    let begun = Instant::now();
    let refused = edge.open_bi(SOON_TIMEOUT).await.unwrap_err();
    assert_eq!((refused, begun.elapsed()), (OpenBiError::TimedOut(SOON_TIMEOUT), SOON_TIMEOUT));
    assert_eq!(refused.code(), Code::OpenTimeout);
    assert!(edge.open_bi(Duration::ZERO).await.is_err());

    // Room comes back once both sides are done with more than an eighth of the streams.
    open.truncate(open.len() - 2);
    edge.open_bi(SOON_TIMEOUT).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_bound_on_streams_grows_with_its_use() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    let mut open = Vec::new();
    for _ in 0..Tuning::default().streams + Tuning::OWN_STREAMS {
        open.push(stream(&edge, &bank).await);
    }
    assert_eq!(edge.open_bi(SOON_TIMEOUT).await.unwrap_err(), OpenBiError::TimedOut(SOON_TIMEOUT));

    // It grows for what is open at once, not for how many there have been.
    let (edge, bank) = pair.connect().await;
    for _ in 0..1000 {
        drop(stream(&edge, &bank).await);
    }
    tokio::time::sleep(SOON_TIMEOUT).await;
    let mut open = Vec::new();
    while let Ok(mut stream) = edge.open_bi(SOON_TIMEOUT).await {
        stream.0.send_all(&[0]).await.unwrap();
        open.push(stream);
    }
    // quinn gives room back in portions of an eighth.
    let first = Tuning::STREAMS_AT_FIRST as usize;
    assert!((first / 8 * 7..=first).contains(&open.len()), "{}", open.len());
}

#[tokio::test(start_paused = true)]
async fn stalled_readers_do_not_stop_the_others() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    let (mut stalled, mut stalls) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let (mut ours, theirs) = stream(&edge, &bank).await;
        // Beyond the window, so that each would take more if it could.
        stalls.push(theirs.1.stall());
        assert!(timeout(SOON_TIMEOUT, ours.0.send(&mut body(1 << 20))).await.is_err());
        stalled.push((ours, theirs));
    }
    let ((mut send, _recv), (_back, mut there)) = stream(&edge, &bank).await;
    send.send(&mut body(10_000)).await.unwrap();
    send.finish().unwrap();
    assert!(timeout(SOON_TIMEOUT, read_all(&mut there)).await.unwrap().unwrap() == body(10_000));
    let charges = pair.budgets.1.charges();
    assert_eq!((charges.streams, charges.stalled), (100, 100 << 18));
    drop(stalls);
    assert_eq!(pair.budgets.1.charges().stalled, 0);
}

/// A stall for which nothing more can be granted may stop the connection's other streams.
#[tokio::test(start_paused = true)]
async fn where_the_windows_of_a_peer_are_spent_a_stream_may_stall_for_five_seconds() {
    let mut pair = pair();
    // No room for a connection's windows, and for one stalled stream.
    pair.budgets.1 = BufferBudget::new(BufferLimits { process: 1 << 30, peer: 300 << 10 });
    let (edge, bank) = pair.connect().await;
    let (_ours, (_back, there)) = stream(&edge, &bank).await;
    let mut granted = Vec::new();
    for _ in 0..2 {
        let mut stall = there.stall().unwrap();
        assert!(timeout(3600 * SOON_TIMEOUT, stall.evicted()).await.is_err(), "within the budget");
        stall.reader_resumed();
        granted.push(stall);
    }
    let (begun, stall) = (Instant::now(), there.stall().unwrap());
    timeout(3600 * SOON_TIMEOUT, stall.evicted()).await.unwrap();
    assert_eq!(begun.elapsed(), 5 * SOON_TIMEOUT);
    drop((stall, granted));
    drop((edge, bank, there));
    assert_eq!(pair.budgets.1.charges().stalled, 0);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_takes_is_held_up_to_the_connections_window_and_no_more() {
    const MUCH: usize = 16 << 20;
    for class in [Class::Interactive, Class::Bulk] {
        let pair = pair();
        let (edge, bank) = pair.try_connect(DialRequest { class, ..pair.dial() }).await;
        let (edge, bank) = (edge.unwrap(), bank.unwrap());
        let mut sent = 0;
        let mut streams = Vec::new();
        for _ in 0..64 {
            // Once the window is full, not even a stream's first byte arrives.
            let Ok((mut ours, theirs)) = timeout(SOON_TIMEOUT, stream(&edge, &bank)).await else {
                break;
            };
            let mut rest = Bytes::from(vec![0; MUCH]);
            assert!(timeout(SOON_TIMEOUT, ours.0.send(&mut rest)).await.is_err());
            sent += MUCH - rest.len();
            streams.push((ours, theirs));
        }
        // Of both windows a transfer has a little more.
        let most = match class {
            Class::Interactive => Tuning::BASE_RECEIVE_WINDOW + Tuning::BASE_SEND_WINDOW,
            Class::Bulk => 4 * Tuning::BASE_RECEIVE_WINDOW + 8 * Tuning::BASE_SEND_WINDOW,
        };
        assert!(sent <= most as usize, "{class:?}: {sent} bytes are held");
    }
}

/// Between clusters a lost datagram is rarely a full queue, so it must not be taken for one: CUBIC needs
/// ten seconds for this.
#[tokio::test(start_paused = true)]
async fn one_loss_in_a_hundred_does_not_starve_a_transfer() {
    for class in [Class::Interactive, Class::Bulk] {
        let pair = pair();
        pair.network.set_delay(Duration::from_millis(25));
        let (edge, bank) = pair.try_connect(DialRequest { class, ..pair.dial() }).await;
        let (edge, bank) = (edge.unwrap(), bank.unwrap());
        let ((mut send, _recv), (_back, mut there)) = stream(&edge, &bank).await;
        let mut random = 88_172_645_463_325_252u64;
        pair.network.set_filter(move |_, _| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            !random.is_multiple_of(100)
        });
        let begun = Instant::now();
        let write = async {
            send.send(&mut body(4_000_000)).await.unwrap();
            send.finish().unwrap();
        };
        let (got, ()) = tokio::join!(read_all(&mut there), write);
        assert!(got.unwrap() == body(4_000_000));
        assert!(begun.elapsed() < 3 * SOON_TIMEOUT, "{class:?}: {:?}", begun.elapsed());
        assert!(edge.stats().lost > 20, "{:?}", edge.stats());
    }
}
