//! Whoever knocks is bounded, and a flood of strangers does not keep friends out.

use std::net::SocketAddr;
use std::time::Duration;

use adit_core::code::Code;
use adit_tests::hostile::first_packet::{InitialSealer, client_hello, crumbs};
use adit_tests::pair::{BANK, EDGE, NodePair, PATH_DELAY, PORT, bind, stream};
use adit_transport::Tuning;
use adit_transport::endpoint::{AcceptError, DialError};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Accepts in the background, as a daemon would: each handshake in a task of its own.
fn serve(pair: &NodePair) -> JoinSet<()> {
    let bank = pair.bank.clone();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut handshakes = JoinSet::new();
        while let Some(incoming) = bank.accept(0).await {
            handshakes.spawn(async move {
                if let Ok(connection) = incoming.accept().await {
                    connection.closed().await;
                }
            });
        }
    });
    server
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_first_packets_is_asked_to_prove_its_address() {
    const FLOOD: u64 = 400;
    let tuning = Tuning::default();
    let pair = NodePair::new(tuning, 1);
    let _server = serve(&pair);
    // They never hear an answer, as if their addresses were not their own.
    pair.network.set_filter(|(_, from, ..), _| from.ip() != BANK);
    let mut flood = JoinSet::new();
    for _ in 0..FLOOD {
        let (edge, dial) = (pair.edge.clone(), pair.dial());
        let (address, class, domain) = (dial.address, dial.class, dial.trust_domain.clone());
        flood.spawn(async move {
            let dial = adit_transport::DialRequest { address, class, trust_domain: &domain };
            edge.dial(0, dial).await.map(drop)
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let counters = pair.bank.counters();
    assert_eq!(counters.handshakes, tuning.handshakes.retry_above as u64);
    assert!(counters.retried >= FLOOD - counters.handshakes, "{counters:?}");

    // A peer that does hear is let in meanwhile, at the cost of one more round trip.
    pair.network.set_filter(|_, _| true);
    let begun = Instant::now();
    let friend = pair.edge.dial(0, pair.dial()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    assert_eq!(friend.peer_id().as_str(), "spiffe://bank.example/adit/node/b1");
    flood.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn handshakes_that_lead_nowhere_end() {
    let tuning = Tuning::default();
    let pair = NodePair::new(tuning, 1);
    pair.network.set_filter(|(_, from, ..), _| from.ip() != BANK);
    let begun = Instant::now();
    let (dialled, accepted) = pair.try_connect(pair.dial()).await;
    let limit = tuning.handshakes.timeout;
    assert!(matches!(dialled, Err(DialError::TimedOut(l)) if l == limit), "{dialled:?}");
    assert_eq!(dialled.unwrap_err().code(), Code::LinkDown);
    assert_eq!(accepted, Err(AcceptError::TimedOut(limit)));
    assert!(begun.elapsed() < limit + Duration::from_secs(1));
    let counters = pair.bank.counters();
    assert_eq!((counters.timed_out, counters.handshakes), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_in_crumbs_is_ended_by_the_packet_that_brings_too_many() {
    let pair = NodePair::new(Tuning::default(), 1);
    let _server = serve(&pair);
    let (from, to) = (SocketAddr::new(EDGE, 40_000), SocketAddr::new(BANK, PORT));
    let (mut nth, mut client) = (0, InitialSealer::new(1));
    let mut counts = async |packets: usize| {
        for _ in 0..packets {
            let datagram = client.seal(&crumbs(&mut nth, client.room()));
            pair.network.inject(from, to, &datagram);
        }
        tokio::time::sleep(2 * PATH_DELAY).await;
        let counters = pair.bank.counters();
        (counters.handshakes, counters.too_many_pieces)
    };
    assert_eq!(counts(1).await, (1, 0), "it may be a strange client");
    assert_eq!(counts(1).await, (1, 0));
    assert_eq!(counts(1).await, (0, 1), "a second before it would have timed out");
    assert_eq!(counts(200).await, (0, 1));

    // A whole hello on the way is one handshake, and a node that has one to make is let in.
    pair.network.inject(from, to, &InitialSealer::new(2).seal(&client_hello()));
    tokio::time::sleep(2 * PATH_DELAY).await;
    assert_eq!(pair.bank.counters().handshakes, 1);
    assert!(pair.edge.dial(0, pair.dial()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn lost_first_packets_are_sent_again_soon() {
    let pair = NodePair::new(Tuning::default(), 1);
    pair.network.set_filter(|_, _| false);
    let begun = pair.network.sent().len();
    assert!(pair.edge.dial(0, pair.dial()).await.is_err());
    let sent = pair.network.sent();
    let mut tries: Vec<_> = sent[begun..].iter().map(|(at, ..)| at.as_millis()).collect();
    tries.dedup();
    // The last one is the news that it was given up.
    assert_eq!(tries[..6], [0, 150, 450, 1050, 2250, 4650]);
}

#[tokio::test(start_paused = true)]
async fn handshakes_beyond_the_bound_wait_until_there_is_room() {
    let mut tuning = Tuning::default();
    tuning.handshakes.handshakes = 1;
    let pair = NodePair::new(tuning, 1);
    let waiting = async {
        // Held and not answered: it is a handshake under way.
        let first = pair.bank.accept(0).await.unwrap();
        assert_eq!(first.remote().ip(), EDGE);
        let second = tokio::time::timeout(Duration::from_secs(1), pair.bank.accept(0)).await;
        assert!(second.is_err());
        first.accept().await
    };
    let dial = pair.edge.dial(0, pair.dial());
    let later = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        pair.edge.dial(0, pair.dial()).await
    };
    let then = async {
        let first = waiting.await;
        (first, pair.bank.accept(0).await.unwrap().accept().await)
    };
    let (accepted, dialled, later) = tokio::join!(then, dial, later);
    assert!(accepted.0.is_ok() && dialled.is_ok());
    // It was not answered at first, and sent its packet again.
    assert!(accepted.1.is_ok() && later.is_ok());
    let counters = pair.bank.counters();
    assert!(counters.refused_busy > 0, "{counters:?}");
    assert_eq!((counters.accepted, counters.handshakes), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn one_source_does_not_take_the_places_of_others() {
    let mut tuning = Tuning::default();
    (tuning.handshakes.retry_above, tuning.handshakes.per_source) = (0, 2);
    let pair = NodePair::new(tuning, 1);
    let friend = pair.clusters.0.node("e2", &[&pair.clusters.1]);
    let friend = bind(&pair.network, "10.0.1.2".parse().unwrap(), &friend, 1, tuning);
    let knocking = async {
        let all = (0..5).map(|_| pair.edge.dial(0, pair.dial()));
        futures_util::future::join_all(all).await
    };
    let held = async {
        // Held and not answered: they are handshakes under way.
        let mut held = Vec::new();
        let soon = Duration::from_millis(300);
        while let Ok(incoming) = tokio::time::timeout(soon, pair.bank.accept(0)).await {
            held.push(incoming.unwrap());
        }
        assert_eq!(held.len(), 2);
        let accept = async { pair.bank.accept(0).await.unwrap().accept().await };
        let (dialled, accepted) = tokio::join!(friend.dial(0, pair.dial()), accept);
        assert!(dialled.is_ok() && accepted.is_ok());
        drop(held);
        // What was not answered comes again.
        pair.bank.accept(0).await.unwrap().accept().await.unwrap();
    };
    tokio::select! {
        _ = knocking => panic!("somebody was let in late"),
        () = held => {}
    }
}

#[tokio::test(start_paused = true)]
async fn strangers_at_many_addresses_do_not_take_the_places_of_known_peers() {
    let mut tuning = Tuning::default();
    let admission = &mut tuning.handshakes;
    (admission.retry_above, admission.per_source) = (0, 4);
    (admission.handshakes, admission.reserved) = (20, 10);
    let pair = NodePair::new(tuning, 1);
    let strangers: Vec<_> = (0..20)
        .map(|n| {
            let node = pair.clusters.0.node("e9", &[&pair.clusters.1]);
            bind(&pair.network, std::net::IpAddr::from([10, 9, 9, n]), &node, 1, tuning)
        })
        .collect();
    let knocking = async {
        let all = strangers.iter().map(|s| s.dial(0, pair.dial()));
        futures_util::future::join_all(all).await
    };
    let held = async {
        // Held and not answered: they are handshakes under way.
        let mut held = Vec::new();
        let soon = Duration::from_millis(300);
        while let Ok(incoming) = tokio::time::timeout(soon, pair.bank.accept(0)).await {
            held.push(incoming.unwrap());
        }
        assert_eq!(held.len(), 10, "what is not reserved");
        pair.bank.set_known_addresses(&"edge".parse().unwrap(), [EDGE]);
        let accept = async {
            let friend = pair.bank.accept(0).await.unwrap();
            assert_eq!(friend.remote().ip(), EDGE);
            friend.accept().await
        };
        let (dialled, accepted) = tokio::join!(pair.edge.dial(0, pair.dial()), accept);
        assert!(dialled.is_ok() && accepted.is_ok());
    };
    tokio::select! {
        _ = knocking => panic!("somebody was let in late"),
        () = held => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_drains_takes_nothing_new_and_keeps_what_it_has() {
    let pair = NodePair::new(Tuning::default(), 1);
    let (edge, bank) = pair.connect().await;
    let _server = serve(&pair);
    pair.bank.drain();
    let refused = pair.edge.dial(0, pair.dial()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Draining);
    assert_eq!(pair.bank.counters().refused_draining, 1);
    stream(&edge, &bank).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_was_here_is_not_asked_again() {
    let mut tuning = Tuning::default();
    tuning.handshakes.retry_above = 0;
    let pair = NodePair::new(tuning, 1);
    let first = pair.connect().await;
    assert_eq!(pair.bank.counters().retried, 1);
    // It was given tokens meanwhile; each is good for one dial.
    stream(&first.0, &first.1).await;
    pair.connect().await;
    assert_eq!(pair.bank.counters().retried, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_knock_is_a_refusal_and_leaves_no_trace() {
    let mut tuning = Tuning::default();
    tuning.handshakes.retry_above = 1;
    let pair = NodePair::new(tuning, 1);
    for _ in 0..3 {
        let ignore = async { drop(pair.bank.accept(0).await.unwrap()) };
        let (dialled, ()) = tokio::join!(pair.edge.dial(0, pair.dial()), ignore);
        assert_eq!(dialled.unwrap_err().code(), Code::Draining);
    }
    let counters = pair.bank.counters();
    assert_eq!((counters.handshakes, counters.retried), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn garbage_is_not_answered() {
    let pair = NodePair::new(Tuning::default(), 1);
    let _server = serve(&pair);
    let before = pair.network.sent().len();
    let to = pair.bank.addresses()[0];
    let mut state = 1u64;
    for len in (0..1400).step_by(7) {
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        for first in [0x00, 0x40, 0x80, 0xc0] {
            let mut bytes = bytes.clone();
            if let Some(byte) = bytes.first_mut() {
                *byte = first | (*byte & 0x3f);
            }
            pair.network.inject(SocketAddr::new(EDGE, 9), to, &bytes);
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answered = pair.network.sent()[before..].iter().filter(|(_, from, ..)| *from == to).count();
    // Long headers of unknown versions are answered with those that are spoken, at full size only.
    assert!(answered <= 60, "{answered} answers");
    pair.edge.dial(0, pair.dial()).await.unwrap();
}
