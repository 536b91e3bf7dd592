//! The reasons that each side gives for a link that does not come up: nothing comes back, packets pass one way only, or one side
//! refuses the other's certificate.

use std::time::Duration;

use adit_core::code::Code;
use adit_tests::hostile::first_packet::{InitialSealer, client_hello};
use adit_tests::identity::TestNode;
use adit_tests::sites::{RunningNode, Site, eventually, start};
use adit_transport::links::{LinkSettings, LinkState};
use adit_transport::{DialRequest, Endpoints, Tuning, Worker};

use crate::{LinkWorld, SECOND, two};

fn said(of: &RunningNode) -> (LinkState, Option<Code>, String) {
    let link = of.links.status().links.remove(0);
    let (code, text) = link.reason.map_or((None, String::new()), |(code, text)| (Some(code), text));
    (link.state, code, text)
}

/// Waits until a node says this code of its link, which is down, with these words.
async fn says(of: &RunningNode, code: Code, words: &[&str]) {
    let right = || {
        let (state, said, text) = said(of);
        let is_down = state == LinkState::Down && said == Some(code);
        is_down && words.iter().all(|word| text.contains(word))
    };
    let within = tokio::time::timeout(30 * SECOND, async {
        while !right() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(within.await.is_ok(), "{code} {words:?}: {:?}", said(of));
}

async fn up(of: &RunningNode) {
    eventually("up", 60 * SECOND, || said(of).0 == LinkState::Up).await;
}

#[tokio::test(start_paused = true)]
async fn udp_that_is_blocked_both_ways_is_nothing_that_comes_back() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    world.cut(&[bank.ip(1)]);
    let b1 = world.run(&bank, 1, &[(&edge, &[1])]);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    says(&e1, Code::LinkDown, &["nothing comes back from bank", "10.0.2.1:7843"]).await;
    says(&b1, Code::LinkDown, &["nothing comes back from edge"]).await;
    world.cut(&[]);
    up(&e1).await;
    up(&b1).await;
}

#[tokio::test(start_paused = true)]
async fn udp_that_passes_one_way_is_said_by_the_side_that_hears() {
    for was_up in [false, true] {
        let world = LinkWorld::new();
        let (edge, bank) = two(1, 1);
        let (e1_ip, b1_ip) = (edge.ip(1), bank.ip(1));
        if !was_up {
            world.block(&[(b1_ip, e1_ip)]);
        }
        let b1 = world.run(&bank, 1, &[(&edge, &[1])]);
        let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
        if was_up {
            up(&e1).await;
            up(&b1).await;
            tokio::time::sleep(60 * SECOND).await;
            world.block(&[(b1_ip, e1_ip)]);
        }
        let began = tokio::time::Instant::now();
        let words =
            ["packets of edge reach this node", "this node's do not reach edge", "10.0.1.1"];
        says(&b1, Code::OneWay, &words).await;
        // It hears, so that its connections live on for another while: what is not acknowledged says it before.
        let took = began.elapsed();
        assert!(took <= 8 * SECOND, "{took:?}");
        // Who hears nothing cannot know more.
        says(&e1, Code::LinkDown, &["nothing comes back from bank"]).await;
        // It stays what it is, dial by dial.
        for _ in 0..60 {
            tokio::time::sleep(SECOND).await;
            assert_eq!(said(&b1).1, Some(Code::OneWay), "{:?}", said(&b1));
            assert_eq!(said(&e1).1, Some(Code::LinkDown), "{:?}", said(&e1));
        }
        assert!(b1.endpoints.counters().timed_out > 1);
        world.block(&[]);
        up(&e1).await;
        up(&b1).await;
        assert_eq!(b1.links.status().links[0].fault, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_packet_that_claims_a_friends_address_says_nothing_of_the_path() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let b1 = world.run(&bank, 1, &[(&edge, &[1])]);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    up(&e1).await;
    up(&b1).await;
    for nth in 0..10 {
        let from = std::net::SocketAddr::new(edge.ip(1), 50_000 + nth);
        let datagram = InitialSealer::new(nth.into()).seal(&client_hello());
        world.network.inject(from, bank.address(1), &datagram);
        tokio::time::sleep(6 * SECOND).await;
        let link = b1.links.status().links.remove(0);
        assert_eq!((link.state, link.fault, link.reason), (LinkState::Up, None, None));
    }
    assert_eq!(b1.endpoints.counters().timed_out, 10, "nobody goes on with it");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_loses_much_is_not_one_way_and_neither_is_a_short_cut() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let (e1_ip, b1_ip) = (edge.ip(1), bank.ip(1));
    let b1 = world.run(&bank, 1, &[(&edge, &[1])]);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    up(&e1).await;
    up(&b1).await;
    for _ in 0..20 {
        world.block(&[(b1_ip, e1_ip)]);
        tokio::time::sleep(4 * SECOND).await;
        world.block(&[]);
        for _ in 0..100 {
            tokio::time::sleep(SECOND / 10).await;
            assert_ne!(said(&b1).1, Some(Code::OneWay), "{:?}", said(&b1));
        }
        up(&b1).await;
    }
    // A sequence that is the same each time (xorshift), of which a quarter is lost.
    let mut seed = 0x9e37_79b9_u32;
    world.network.set_filter(move |_, _| {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        !seed.is_multiple_of(4)
    });
    for _ in 0..3000 {
        tokio::time::sleep(SECOND / 10).await;
        for node in [&e1, &b1] {
            assert_ne!(said(node).1, Some(Code::OneWay), "{:?}", said(node));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_hear_for_a_while_is_used_again_once_it_does() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let (e1_ip, b1_ip) = (edge.ip(1), bank.ip(1));
    let b1 = world.run(&bank, 1, &[(&edge, &[1])]);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    up(&e1).await;
    up(&b1).await;
    tokio::time::sleep(10 * SECOND).await;
    world.block(&[(b1_ip, e1_ip)]);
    says(&b1, Code::OneWay, &["acknowledges nothing"]).await;
    world.block(&[]);
    eventually("up again", 10 * SECOND, || said(&b1).0 == LinkState::Up).await;
    eventually("up again", 10 * SECOND, || said(&e1).0 == LinkState::Up).await;
    assert_eq!(b1.links.status().links[0].fault, None);
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_is_not_the_one_in_force_is_said_by_both_sides() {
    // `edge` has a bundle of bank from before its authority was made anew.
    for dials in [&[true, true], &[true, false], &[false, true]] {
        let world = LinkWorld::new();
        let (edge, bank) = two(1, 1);
        let renewed = Site::new("bank", 2, 1);
        let seeds = |dials: bool| if dials { &[1_u8][..] } else { &[] };
        let e1 = world.run(&edge, 1, &[(&bank, seeds(dials[0]))]);
        let b1 = world.run(&renewed, 1, &[(&edge, seeds(dials[1]))]);
        let why = ["wrong-signature", "the trust bundle of bank that this node has is not"];
        if dials[0] {
            let words = ["this node refuses the certificate of bank", why[0], why[1]];
            says(&e1, Code::CertificateRefused, &words).await;
        }
        if dials[1] {
            let words = ["edge refuses this node's certificate", why[0]];
            says(&b1, Code::RefusedByPeer, &words).await;
        }
        match dials {
            // From addresses that are known each of them knows it from the other's handshakes alone.
            [true, true] => {
                eventually("both", 40 * SECOND, || {
                    let faults = [&e1, &b1].map(|n| n.links.status().links.remove(0).fault);
                    faults[0].as_ref().is_some_and(|(code, _)| *code == Code::CertificateRefused)
                        && faults[1].as_ref().is_some_and(|(code, _)| *code == Code::RefusedByPeer)
                })
                .await;
            }
            // Where nobody is known a name that nothing proves is counted.
            [false, true] => {
                let (_, code, text) = said(&e1);
                assert_eq!(code, Some(Code::LinkDown));
                assert!(text.contains("certificates that claim its name were refused"), "{text}");
                assert!(!text.contains("spiffe") && !text.contains("10.0.2"), "{text}");
            }
            [_, _] => {}
        }
    }
}

/// `edge` has one node, and so has `bank`, whose certificate was issued so long ago.
fn issued(world: &LinkWorld, ago: Duration) -> (RunningNode, RunningNode) {
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let node = bank.authority.node(bank.node(1).as_str(), &[&edge.authority]);
    node.identity.set(bank.authority.issue(bank.node(1).as_str(), ago));
    let snapshot = bank.snapshot(1, &[edge.link(&[1])]);
    let net = world.network.host(bank.ip(1));
    let b1 = start(net, &node, snapshot, 1, LinkSettings::default(), Tuning::default());
    (e1, b1)
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_has_ended_is_told_with_both_times_on_both_sides() {
    let world = LinkWorld::new();
    let (e1, b1) = issued(&world, Duration::from_secs(2 * 24 * 3600));
    let words = ["this node refuses the certificate of bank", "expired", "it is 2026-11-21"];
    says(&e1, Code::CertificateRefused, &words).await;
    says(&b1, Code::RefusedByPeer, &["edge refuses this node's certificate", "expired"]).await;
}

/// Somebody whose certificate claims to be of `bank`, elsewhere.
fn stranger(world: &LinkWorld, bank: &Site, edge: &Site) -> Endpoints {
    let impostor = Site::new("bank", 2, 1);
    let node: TestNode = impostor.authority.node("evil", &[&edge.authority]);
    let ip = bank.ip(66);
    let (net, worker) = (world.network.host(ip), vec![Worker::current()]);
    let at = [bank.address(66)];
    Endpoints::bind(net, worker, &at, &node.secret, node.tls(), Tuning::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn strangers_who_claim_a_linked_name_are_counted_and_never_named() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let _b1 = world.run(&bank, 1, &[(&edge, &[1])]);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    up(&e1).await;
    let stranger = stranger(&world, &bank, &edge);
    for _ in 0..20 {
        let dial = DialRequest {
            address: edge.address(1),
            trust_domain: edge.authority.trust_domain(),
            class: adit_core::snapshot::Class::Interactive,
        };
        if let Ok(quic) = stranger.dial(0, dial).await {
            quic.closed().await;
        }
    }
    assert!(e1.endpoints.counters().certificate_refused >= 20);
    let link = e1.links.status().links.remove(0);
    assert_eq!((link.state, link.fault, link.reason), (LinkState::Up, None, None));
}
