//! Peers that make more connections than anybody needs. Nobody else is the worse for it.

use std::sync::Arc;

use adit_core::code::Code;
use adit_core::wire::control::{ControlMessage, Hello};
use adit_tests::sites::{RunningNode, Site, eventually};
use adit_transport::Tuning;
use adit_transport::links::LinkSettings;
use adit_transport::{QuicConnection, RecvStream, SendStream};

use crate::hostile::{Stranger, control, open};
use crate::{LinkWorld, SECOND, two};

/// A connection whose hello has been said, and its control stream.
type SaidHello = (QuicConnection, (SendStream, RecvStream));

async fn connect(stranger: &Stranger, edge: &Site, boot: u8, slot: u64) -> SaidHello {
    let quic = stranger.dial(edge).await;
    let hello = Hello { slot, boot: [boot; 16], ..stranger.hello() };
    let control = open(&quic, &control(&ControlMessage::Hello(hello))).await;
    (quic, control)
}

/// The number of connections that live, and the codes with which the others ended.
fn ends(all: &[SaidHello]) -> (usize, Vec<Code>) {
    let ended: Vec<Code> =
        all.iter().filter_map(|(quic, _)| quic.is_closed()).map(|c| c.code).collect();
    (all.len() - ended.len(), ended)
}

/// `edge`'s node with room for so many connections, and whom it is linked with.
fn crowded(world: &LinkWorld, connections: usize) -> (RunningNode, Site, Arc<Site>, Site) {
    let (edge, bank) = two(1, 3);
    let shop = Site::new("shop", 3, 1);
    let settings = LinkSettings {
        parallel_connections: 1,
        max_connections: connections,
        ..LinkSettings::default()
    };
    let links = [bank.link(&[]), shop.link(&[])];
    let e1 = world.run_with(&edge, 1, &[&bank, &shop], &links, settings, Tuning::default());
    (e1, edge, Arc::new(bank), shop)
}

#[tokio::test(start_paused = true)]
async fn a_node_has_as_many_connections_as_an_honest_one_makes() {
    const SLOTS: u64 = 16;
    let world = LinkWorld::new();
    let (e1, edge, bank, _shop) = crowded(&world, 1000);
    let stranger = Stranger::new(&world, &bank, 1, &edge);
    let mut all = Vec::new();
    // Four generations, of which each makes one connection too many.
    for boot in 0..4 {
        for slot in 0..=SLOTS {
            all.push(connect(&stranger, &edge, boot, slot).await);
        }
        tokio::time::sleep(SECOND).await;
    }
    let (live, ended) = ends(&all);
    assert_eq!((live, ended), (64, vec![Code::OverLimit; 4]), "two lanes' worth, twice");
    let one_more = connect(&stranger, &edge, 5, 0).await;
    assert_eq!(one_more.0.closed().await.code, Code::OverLimit);
    assert_eq!(e1.links.status().links[0].connections.len(), 64);
    // Its end gives the place back.
    all[3].0.close(Code::ConnectionUnused, "");
    tokio::time::sleep(SECOND).await;
    let again = connect(&stranger, &edge, 5, 0).await;
    tokio::time::sleep(SECOND).await;
    assert!(again.0.is_closed().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_connection_takes_the_place_of_its_like_and_a_third_one_is_refused() {
    let world = LinkWorld::new();
    let (e1, edge, bank, _shop) = crowded(&world, 1000);
    let stranger = Stranger::new(&world, &bank, 1, &edge);
    let first = connect(&stranger, &edge, 1, 7).await;
    let (_send, mut recv) = open(&first.0, b"\x02busy").await;
    assert_eq!(recv.read_chunk(9).await.unwrap().unwrap(), "busy");
    let second = connect(&stranger, &edge, 1, 7).await;
    tokio::time::sleep(10 * SECOND).await;
    // The second carries nothing, and what is idle makes room; the first does, and stays.
    let third = connect(&stranger, &edge, 1, 7).await;
    assert_eq!(second.0.closed().await.code, Code::Replaced);
    let (_send, mut recv) = open(&third.0, b"\x02busy").await;
    assert_eq!(recv.read_chunk(9).await.unwrap().unwrap(), "busy");
    for _ in 0..5 {
        let more = connect(&stranger, &edge, 1, 7).await;
        assert_eq!(more.0.closed().await.code, Code::OverLimit);
    }
    assert!(first.0.is_closed().is_none() && third.0.is_closed().is_none());
    let other = connect(&stranger, &edge, 1, 8).await;
    tokio::time::sleep(SECOND).await;
    assert!(other.0.is_closed().is_none(), "another slot is another matter");
    assert_eq!(e1.links.status().links[0].connections.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_of_invented_names_neither_fills_the_node_nor_keeps_an_honest_peer_out() {
    const ALL: usize = 200;
    let world = LinkWorld::new();
    let (e1, edge, bank, shop) = crowded(&world, ALL);
    let mut all = Vec::new();
    for n in 0..ALL {
        let stranger = Stranger::named(&world, &bank, 1, &format!("invented-{n}"), &edge);
        all.push(connect(&stranger, &edge, 1, 0).await);
        // Whoever asks is not told of a node, so that the view stays unknown; then the quarter holds.
        if n == ALL / 2 {
            tokio::time::sleep(SECOND).await;
            assert_eq!(e1.links.status().links[0].connections.len(), ALL / 4);
        }
    }
    tokio::time::sleep(SECOND).await;
    let (live, ended) = ends(&all);
    assert_eq!(live, ALL / 4, "a quarter of all places");
    assert!(ended.iter().all(|code| *code == Code::OverLimit));
    let honest = world.run(&shop, 1, &[(&edge, &[1])]);
    eventually("the honest peer", SECOND, || e1.links.connected(&shop.name).len() == 1).await;
    eventually("known", 5 * SECOND, || honest.view(&edge).is_some()).await;
    honest.echo(&edge, &edge.node(1), b"hello").await.unwrap();
}

/// Dials, closes before any hello, so that places are never few, and says whether the dial was over the limit.
async fn is_refused(stranger: &Stranger, edge: &Site) -> bool {
    let quic = stranger.dial(edge).await;
    tokio::time::sleep(SECOND / 20).await;
    let refused = quic.is_closed().is_some_and(|closed| closed.code == Code::OverLimit);
    quic.close(Code::ConnectionUnused, "");
    refused
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_connects_without_end_is_told_to_stop_before_its_hello() {
    let world = LinkWorld::new();
    let (e1, edge, bank, shop) = crowded(&world, 8192);
    // From then on it is known how small the cluster is.
    let _b2 = world.run(&bank, 2, &[(&edge, &[1])]);
    eventually("known", 5 * SECOND, || e1.view(&bank).is_some()).await;
    let dials = Stranger::new(&world, &bank, 1, &edge);
    let mut closed = 0;
    for _ in 0..300 {
        closed += usize::from(is_refused(&dials, &edge).await);
    }
    assert!((50..=180).contains(&closed), "a burst and so many a second: {closed} refused");
    // Whom it has announced and who has no connection is let in all the same, once in a while: just after the
    // pace let one in.
    let mut passed = false;
    loop {
        let refused = is_refused(&dials, &edge).await;
        if refused && passed {
            break;
        }
        passed = !refused;
    }
    let b3 = Stranger::new(&world, &bank, 3, &edge);
    let mut all = Vec::new();
    for slot in 0..3 {
        all.push(connect(&b3, &edge, 1, slot).await);
    }
    let invented = Stranger::named(&world, &bank, 4, "invented", &edge);
    all.push(connect(&invented, &edge, 1, 0).await);
    tokio::time::sleep(SECOND / 10).await;
    let ended: Vec<_> = all.iter().map(|(quic, _)| quic.is_closed().is_some()).collect();
    assert_eq!(
        ended,
        [false, true, true, true],
        "its first, and neither its second nor an invented one's"
    );
    all[0].0.close(Code::ConnectionUnused, "");
    tokio::time::sleep(SECOND / 10).await;
    let (mut closed, began) = (0, tokio::time::Instant::now());
    while began.elapsed() < 20 * SECOND {
        closed += usize::from(is_refused(&b3, &edge).await);
    }
    assert!(closed > 100, "it cannot pass by coming and going: {closed} refused");
    let honest = world.run(&shop, 1, &[(&edge, &[1])]);
    eventually("the honest peer", SECOND, || e1.links.connected(&shop.name).len() == 1).await;
    eventually("known", 5 * SECOND, || honest.view(&edge).is_some()).await;
    honest.echo(&edge, &edge.node(1), b"hello").await.unwrap();
    // After a while it may come again.
    tokio::time::sleep(2 * SECOND).await;
    let again = connect(&dials, &edge, 2, 0).await;
    tokio::time::sleep(SECOND).await;
    assert!(again.0.is_closed().is_none());
}
