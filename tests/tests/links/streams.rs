//! Which connection a stream takes, and what happens to it when connections come and go.

use std::collections::BTreeSet;

use adit_core::code::Code;
use adit_core::routing::connections::Unusable;
use adit_core::snapshot::Class;
use adit_tests::sites::{Site, eventually, start, start_on};
use adit_transport::links::{LinkSettings, Links};
use adit_transport::{PeerStream, Tuning, Worker};
use tokio::runtime::Handle;

use crate::{LinkWorld, SECOND, two};

async fn answered(stream: &mut PeerStream, body: &'static str) {
    stream.send.send_all(body.as_bytes()).await.unwrap();
    assert_eq!(stream.recv.read_chunk(999).await.unwrap().unwrap(), body);
}

fn carried(links: &Links) -> Vec<(Class, bool, usize)> {
    let connections = links.status().links.remove(0).connections;
    connections.iter().map(|c| (c.peer.class, c.peer.dialled, c.streams)).collect()
}

#[tokio::test(start_paused = true)]
async fn each_lane_has_connections_of_its_own() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let b1 = world.run(&bank, 1, &[(&edge, &[])]);
    eventually("up", SECOND, || e1.view(&bank).is_some()).await;
    let bulk = e1.links.open(0, &bank.name, &bank.node(1), Class::Bulk).await.unwrap();
    let quick = e1.links.open(0, &bank.name, &bank.node(1), Class::Interactive).await.unwrap();
    assert_eq!((bulk.peer.class, quick.peer.class), (Class::Bulk, Class::Interactive));
    let expected = [(Class::Interactive, true, 1), (Class::Bulk, true, 1)];
    assert_eq!(carried(&e1.links), expected);
    // Who cannot dial takes what there is.
    drop((bulk, quick));
    e1.echo(&bank, &bank.node(1), b"x").await.unwrap();
    let back = b1.links.open(0, &edge.name, &edge.node(1), Class::Bulk).await.unwrap();
    assert_eq!(back.peer.class, Class::Bulk);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_dial_takes_the_other_lane_rather_than_none() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let _e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let b1 = world.run(&bank, 1, &[(&edge, &[])]);
    eventually("up", SECOND, || b1.view(&edge).is_some()).await;
    let stream = b1.links.open(0, &edge.name, &edge.node(1), Class::Bulk).await.unwrap();
    assert_eq!(stream.peer.class, Class::Interactive);
}

#[tokio::test(start_paused = true)]
async fn a_full_connection_has_a_further_one_dialled_and_an_end_is_an_end() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let few = Tuning { streams: 8, ..Tuning::default() };
    let settings = LinkSettings { parallel_connections: 3, ..LinkSettings::default() };
    let e1 = world.run_with(&edge, 1, &[&bank], &[bank.link(&[1])], settings, Tuning::default());
    let _b1 = world.run_with(&bank, 1, &[&edge], &[edge.link(&[])], LinkSettings::default(), few);
    eventually("up", SECOND, || e1.view(&bank).is_some()).await;
    let began = tokio::time::Instant::now();
    let mut streams = Vec::new();
    // Beside the eight there are eight for the nodes' own use. One of them is the control stream, one says what
    // is granted, one state; the rest serves for data, too.
    for n in 0..13 + 14 + 14 {
        streams
            .push(e1.echo(&bank, &bank.node(1), b"x").await.unwrap_or_else(|e| panic!("{n}: {e}")));
    }
    assert!(began.elapsed() < 2 * SECOND, "nobody waited for room: {:?}", began.elapsed());
    let connections = e1.links.status().links.remove(0).connections;
    assert_eq!(connections.len(), 3);
    assert!(connections.iter().all(|c| c.unusable.is_none()), "none took another's place");
    let slots: BTreeSet<u64> = connections.iter().map(|c| c.peer.slot).collect();
    assert_eq!(slots.len(), 3);

    let began = tokio::time::Instant::now();
    let refused =
        e1.links.open(0, &bank.name, &bank.node(1), Class::Interactive).await.unwrap_err();
    assert_eq!(refused.code, Code::OpenTimeout);
    assert!(refused.code.is_retryable() && began.elapsed() <= SECOND);
    // Room comes back as streams end: QUIC grants it an eighth of the limit at a time.
    for mut done in streams.drain(38..) {
        done.send.finish().unwrap();
        assert_eq!(done.recv.read_chunk(9).await.unwrap(), None);
    }
    for stream in &mut streams {
        answered(stream, "still there").await;
    }
    e1.echo(&bank, &bank.node(1), b"x").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_allows_one_stream_can_be_linked_with_and_used() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let one = Tuning { streams: 1, ..Tuning::default() };
    let settings = LinkSettings::default();
    let e1 = world.run_with(&edge, 1, &[&bank], &[bank.link(&[1])], settings, one);
    let b1 = world.run_with(&bank, 1, &[&edge], &[edge.link(&[])], settings, one);
    eventually("up", SECOND, || e1.view(&bank).is_some() && b1.view(&edge).is_some()).await;
    e1.echo(&bank, &bank.node(1), b"x").await.unwrap();
    b1.echo(&edge, &edge.node(1), b"x").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_burst_waits_for_the_peer_to_grant_room_and_needs_no_further_connection() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let _b1 = world.run(&bank, 1, &[(&edge, &[])]);
    eventually("up", SECOND, || e1.view(&bank).is_some()).await;
    let began = tokio::time::Instant::now();
    let node = bank.node(1);
    let burst = futures_util::future::join_all((0..600).map(|_| e1.echo(&bank, &node, b"x"))).await;
    assert!(burst.iter().all(Result::is_ok));
    assert!(began.elapsed() < SECOND / 2, "{:?}", began.elapsed());
    assert_eq!(carried(&e1.links), [(Class::Interactive, true, 600)]);
}

#[tokio::test(start_paused = true)]
async fn a_burst_beyond_one_connection_takes_as_many_as_there_may_be() {
    // What the caller knows of the other side's limit, and what it does not.
    for (own_streams, longest) in [(8, SECOND / 4), (1024, 2 * SECOND)] {
        let world = LinkWorld::new();
        let (edge, bank) = two(1, 1);
        let tuning = |streams| Tuning { streams, ..Tuning::default() };
        let settings = LinkSettings::default();
        let e1 =
            world.run_with(&edge, 1, &[&bank], &[bank.link(&[1])], settings, tuning(own_streams));
        let _b1 = world.run_with(&bank, 1, &[&edge], &[edge.link(&[])], settings, tuning(8));
        eventually("up", SECOND, || e1.view(&bank).is_some()).await;
        let (began, node) = (tokio::time::Instant::now(), bank.node(1));
        let all =
            futures_util::future::join_all((0..13 + 3 * 14).map(|_| e1.echo(&bank, &node, b"x")));
        let refused: Vec<String> =
            all.await.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
        assert_eq!(refused, [""; 0], "beside {own_streams}");
        assert!(began.elapsed() < longest, "{:?} beside {own_streams}", began.elapsed());
        assert_eq!(carried(&e1.links).len(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn another_workers_connection_serves_at_once_and_the_own_one_later() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let workers = (0..2).map(|n| Worker::new(n, Handle::current())).collect();
    let identity = edge.authority.node("e1", &[&bank.authority]);
    let snapshot = edge.snapshot(1, &[bank.link(&[1])]);
    let (settings, tuning) = (LinkSettings::default(), Tuning::default());
    let net = world.network.host(edge.ip(1));
    let e1 = start_on(workers, net, &identity, snapshot, 1, settings, tuning);
    let b1 = world.run(&bank, 1, &[(&edge, &[])]);
    eventually("up", SECOND, || e1.view(&bank).is_some()).await;

    let node = bank.node(1);
    let open = || e1.links.open(1, &bank.name, &node, Class::Interactive);
    let began = tokio::time::Instant::now();
    let borrowed = open().await.unwrap();
    assert_eq!((borrowed.worker, began.elapsed().as_millis()), (0, 0), "nobody waits");
    tokio::time::sleep(SECOND).await;
    let own = open().await.unwrap();
    assert_eq!((own.worker, own.peer.slot), (1, 1));
    let connections = b1.links.status().links.remove(0).connections;
    assert_eq!(connections.len(), 2, "one for each worker");
    assert!(connections.iter().all(|c| c.unusable.is_none()), "and neither took the other's place");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_drains_takes_nothing_new_and_finishes_what_runs() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 2);
    let e1 = world.run(&edge, 1, &[(&bank, &[1, 2])]);
    let b1 = world.run(&bank, 1, &[(&edge, &[1])]);
    let _b2 = world.run(&bank, 2, &[(&edge, &[1])]);
    eventually("both connected", 5 * SECOND, || e1.links.connected(&bank.name).len() == 2).await;
    let mut theirs = e1.echo(&bank, &bank.node(1), b"x").await.unwrap();
    let mut ours = b1.echo(&edge, &edge.node(1), b"x").await.unwrap();

    let drain = async {
        let began = tokio::time::Instant::now();
        let broken = b1.links.drain(60 * SECOND).await;
        (broken, began.elapsed())
    };
    let meanwhile = async {
        tokio::time::sleep(SECOND).await;
        assert_eq!(e1.links.connected(&bank.name), [bank.node(2)]);
        let refused = e1.echo(&bank, &bank.node(1), b"x").await.unwrap_err();
        assert!(refused.starts_with("draining") || refused.starts_with("link-down"), "{refused}");
        let refused = b1.echo(&edge, &edge.node(1), b"x").await.unwrap_err();
        assert!(refused.starts_with("draining"), "{refused}");
        e1.echo(&bank, &bank.node(2), b"x").await.unwrap();
        tokio::time::sleep(20 * SECOND).await;
        answered(&mut theirs, "late").await;
        answered(&mut ours, "late").await;
        drop((theirs, ours));
    };
    let ((broken, took), ()) = tokio::join!(drain, meanwhile);
    assert_eq!(broken, 0);
    assert!((21..25).contains(&took.as_secs()), "as soon as the last stream ended: {took:?}");
    assert_eq!(e1.view(&bank).unwrap().source.node, bank.node(2));
}

#[tokio::test(start_paused = true)]
async fn a_drain_has_a_deadline_and_says_what_it_broke() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let b1 = world.run(&bank, 1, &[(&edge, &[])]);
    eventually("up", SECOND, || e1.view(&bank).is_some()).await;
    let mut stream = e1.echo(&bank, &bank.node(1), b"x").await.unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(b1.links.drain(5 * SECOND).await, 1);
    assert!(began.elapsed() < 9 * SECOND, "{:?}", began.elapsed());
    assert_eq!(stream.recv.read_chunk(9).await.unwrap_err().code(), Code::Drained);

    // Without streams it takes no longer than it takes peers to hear.
    let began = tokio::time::Instant::now();
    assert_eq!(e1.links.drain(60 * SECOND).await, 0);
    assert!(began.elapsed() < 4 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_went_away_is_dialled_again_when_it_wants_to_be() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let b1 = world.run(&bank, 1, &[(&edge, &[])]);
    eventually("up", SECOND, || e1.view(&bank).is_some()).await;
    let began = tokio::time::Instant::now();
    let attempts = || e1.links.status().links[0].dials.attempts;
    let before = attempts();
    b1.links.drain(SECOND).await;
    drop(b1);
    // Its sockets close with their drivers.
    tokio::time::sleep(SECOND / 100).await;
    let again = world.run(&bank, 1, &[(&edge, &[])]);
    eventually("back", 6 * SECOND, || e1.links.connected(&bank.name) == [bank.node(1)]).await;
    assert!(began.elapsed() >= SECOND, "{:?}", began.elapsed());
    assert!(attempts() <= before + 2, "dialled {} times meanwhile", attempts() - before);
    e1.echo(&bank, &bank.node(1), b"x").await.unwrap();
    drop(again);
}

#[tokio::test(start_paused = true)]
async fn streams_go_to_the_new_process_of_a_node_and_the_old_one_finishes_its_own() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[])]);
    let old = world.run(&bank, 1, &[(&edge, &[1])]);
    eventually("up", SECOND, || e1.view(&bank).is_some()).await;
    let mut before = e1.echo(&bank, &bank.node(1), b"x").await.unwrap();

    // The same node, started beside it: another address, another boot ID.
    let elsewhere = Site::new("bank", 7, 1);
    let identity = bank.authority.node("b1", &[&edge.authority]);
    let mut snapshot = bank.snapshot(1, &[edge.link(&[1])]);
    snapshot.local.advertise = vec![elsewhere.address(1)];
    let net = world.network.host(elsewhere.ip(1));
    let (settings, tuning) = (LinkSettings::default(), Tuning::default());
    let new = start(net, &identity, snapshot, 99, settings, tuning);
    eventually("both connected", SECOND, || carried(&e1.links).len() == 2).await;
    for _ in 0..10 {
        e1.echo(&bank, &bank.node(1), b"x").await.unwrap();
    }
    assert_eq!(new.echo.served().len(), 10);
    answered(&mut before, "old").await;
    let connections = e1.links.status().links.remove(0).connections;
    let passed: Vec<_> = connections.iter().map(|c| c.unusable).collect();
    assert_eq!(passed, [Some(Unusable::OlderBoot), None]);
    tokio::time::sleep(600 * SECOND).await;
    answered(&mut before, "never closed for it").await;
    drop(old);
}
