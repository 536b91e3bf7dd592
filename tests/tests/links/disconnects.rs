//! The reasons that status gives for a link once a connection that it had is gone.

use std::time::Duration;

use adit_core::code::Code;
use adit_core::snapshot::Class;
use adit_tests::sites::{RunningNode, Site, eventually};
use adit_transport::links::{LinkState, LinkStatus};

use crate::{LinkWorld, SECOND, two};

fn link(of: &RunningNode) -> LinkStatus {
    of.links.status().links.remove(0)
}

fn reason(of: &RunningNode) -> String {
    link(of).reason.map(|(_, text)| text).unwrap_or_default()
}

async fn up(of: &RunningNode) {
    eventually("up", 40 * SECOND, || link(of).state == LinkState::Up).await;
}

async fn lost(of: &RunningNode, site: &Site) {
    eventually("lost", 10 * SECOND, || of.links.connected(&site.name).is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_link_whose_only_node_died_is_down_from_then_on_until_it_is_back() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let _b1 = world.run(&bank, 1, &[(&edge, &[])]);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    up(&e1).await;
    tokio::time::sleep(60 * SECOND).await;
    world.cut(&[bank.ip(1)]);
    lost(&e1, &bank).await;
    let text = reason(&e1);
    assert!(text.contains("node b1: its connection ended 0 s ago"), "{text}");
    assert!(text.contains("connection-lost"), "{text}");
    while link(&e1).dials.failures < 2 {
        assert_eq!(link(&e1).state, LinkState::Down, "{}", reason(&e1));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(reason(&e1).contains("no answer within 5s"), "what came later: {}", reason(&e1));
    world.cut(&[]);
    up(&e1).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_dies_silently_is_lost_as_soon_to_whom_it_dialled_as_to_who_dialled_it() {
    for edge_dials in [true, false] {
        let world = LinkWorld::new();
        let (edge, bank) = two(1, 1);
        let (of_edge, of_bank): (&[u8], &[u8]) = if edge_dials { (&[1], &[]) } else { (&[], &[1]) };
        let _b1 = world.run(&bank, 1, &[(&edge, of_bank)]);
        let e1 = world.run(&edge, 1, &[(&bank, of_edge)]);
        up(&e1).await;
        tokio::time::sleep(60 * SECOND).await;
        world.cut(&[bank.ip(1)]);
        eventually("lost", SECOND * 15 / 2, || e1.links.connected(&bank.name).is_empty()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_whose_only_node_goes_away_is_down_at_once_and_says_so() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let b1 = world.run(&bank, 1, &[(&edge, &[])]);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    up(&e1).await;
    // An outage that is over is no reason for the next.
    world.cut(&[bank.ip(1)]);
    eventually("in vain", 40 * SECOND, || link(&e1).dials.last_error.is_some()).await;
    world.cut(&[]);
    up(&e1).await;
    tokio::time::sleep(60 * SECOND).await;
    let stream = e1.echo(&bank, &bank.node(1), b"long").await.unwrap();
    let notice = async {
        lost(&e1, &bank).await;
        let refused = e1.links.open(0, &bank.name, &bank.node(1), stream.peer.class).await;
        assert_eq!(refused.unwrap_err().code, Code::Draining);
        for connections in [1, 0] {
            eventually("ends", 10 * SECOND, || link(&e1).connections.len() == connections).await;
            assert_eq!(link(&e1).state, LinkState::Down, "{}", reason(&e1));
            let text = reason(&e1);
            assert!(text.contains("node b1: it said ") && text.contains("going away"), "{text}");
            assert!(!text.contains("no answer"), "{text}");
            assert_eq!(link(&e1).reason.unwrap().0, Code::Draining);
        }
    };
    tokio::join!(b1.links.drain(5 * SECOND), notice);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_more_than_a_second_once_a_cluster_is_known_to_be_lost() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 3);
    let seeds: &[u8] = &[1, 2, 3];
    let _banks = [1, 2, 3].map(|n| world.run(&bank, n, &[(&edge, &[])]));
    let e1 = world.run(&edge, 1, &[(&bank, seeds)]);
    up(&e1).await;
    for n in 1..=3 {
        e1.echo(&bank, &bank.node(n), b"x").await.unwrap();
    }
    tokio::time::sleep(60 * SECOND).await;
    world.cut(&[1, 2, 3].map(|n| bank.ip(n)));
    lost(&e1, &bank).await;
    // A thousand who come by and by, in either lane, and try each node.
    let lanes = [Class::Interactive, Class::Bulk];
    let (cluster, nodes) = (&bank.name, [1, 2, 3].map(|n| bank.node(n)));
    let asks = (0..1000_u32).map(|n| {
        let (links, nodes) = (&e1.links, &nodes);
        async move {
            tokio::time::sleep(Duration::from_millis(30) * n).await;
            let began = tokio::time::Instant::now();
            for node in nodes {
                let lane = lanes[n as usize % 2];
                links.open(0, cluster, node, lane).await.unwrap_err();
            }
            began.elapsed()
        }
    });
    let longest = futures_util::future::join_all(asks).await.into_iter().max().unwrap();
    assert!(longest <= SECOND, "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_was_lost_is_missing_for_the_reason_for_which_it_was_lost() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 2);
    let banks = [1, 2].map(|n| world.run(&bank, n, &[(&edge, &[])]));
    let e1 = world.run(&edge, 1, &[(&bank, &[1, 2])]);
    up(&e1).await;
    tokio::time::sleep(60 * SECOND).await;
    world.cut(&[bank.ip(1)]);
    let missing = |n| !e1.links.connected(&bank.name).contains(&bank.node(n));
    eventually("lost", 10 * SECOND, || missing(1)).await;
    assert_eq!(link(&e1).state, LinkState::Degraded);
    let text = reason(&e1);
    let expected = "hub b1 of bank is not connected: its connection ended 0 s ago: nothing heard";
    assert!(text.contains(expected), "{text}");
    world.cut(&[]);
    up(&e1).await;
    let notice = async {
        eventually("leaves", SECOND, || missing(2)).await;
        assert_eq!(link(&e1).state, LinkState::Degraded);
        let expected = "hub b2 of bank is not connected: it said 0 s ago that it is going away";
        assert_eq!(reason(&e1), expected);
        assert_eq!(link(&e1).reason.unwrap().0, Code::Draining);
    };
    tokio::join!(banks[1].links.drain(SECOND), notice);
    let notice = async {
        eventually("leaves", SECOND, || missing(1)).await;
        let going = (Code::Draining, "this node is going away".to_owned());
        assert_eq!((link(&e1).state, link(&e1).reason), (LinkState::Degraded, Some(going)));
    };
    tokio::join!(e1.links.drain(SECOND), notice);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_needs_no_connection_does_not_call_the_link_down() {
    let world = LinkWorld::new();
    let (edge, bank) = two(3, 2);
    let _banks = [1, 2].map(|n| world.run(&bank, n, &[(&edge, &[])]));
    let edges = [1, 2, 3].map(|n| world.run(&edge, n, &[(&bank, &[1, 2])]));
    for e in &edges {
        up(e).await;
    }
    tokio::time::sleep(60 * SECOND).await;
    let other = edges.iter().find(|e| !link(e).hub).unwrap();
    other.echo(&bank, &bank.node(1), b"x").await.unwrap();
    assert_eq!(other.links.connected(&bank.name), [bank.node(1)]);
    // The other node can be dialled.
    world.cut(&[bank.ip(1)]);
    lost(other, &bank).await;
    assert_eq!(link(other).state, LinkState::Up, "{}", reason(other));
    other.echo(&bank, &bank.node(2), b"x").await.unwrap();
    world.cut(&[]);
    // What is closed because nothing uses it is not lost.
    tokio::time::sleep(400 * SECOND).await;
    assert!(other.links.connected(&bank.name).is_empty());
    assert_eq!(link(other).state, LinkState::Up, "{}", reason(other));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_refused_is_told_in_our_words_only() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let impostor = Site::new("bank", 2, 1);
    let _b1 = world.run(&impostor, 1, &[(&edge, &[])]);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    eventually("in vain", 10 * SECOND, || link(&e1).dials.failures > 0).await;
    let expected = "10.0.2.1:7843: its certificate is refused: wrong-signature: an authority of \
                    bank.example has the issuer's name, and another key signed the certificate claimed by \
                    spiffe://bank.example/adit/node/b1";
    assert_eq!(link(&e1).dials.last_error.unwrap(), expected);
}
