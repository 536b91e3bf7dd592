//! When, where and how often is dialled.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use adit_core::code::Code;
use adit_core::name::NodeName;
use adit_core::snapshot::{Class, Link, Seed};
use adit_tests::sites::{PORT, RunningNode, Site, eventually};
use adit_transport::Tuning;
use adit_transport::links::{LinkSettings, LinkState};

use crate::{LinkWorld, SECOND, two};

/// The number of dials that a node has begun: each has a source port of its own.
fn dials(world: &LinkWorld, from: &Site, n: u8) -> usize {
    let sent = world.network.sent();
    let ports = sent.iter().filter(|(_, f, _, _)| f.ip() == from.ip(n) && f.port() != PORT);
    ports.map(|(_, f, _, _)| f.port()).collect::<BTreeSet<_>>().len()
}

fn named(site: &Site, host: &str) -> Link {
    Link { seeds: vec![Seed::Name { host: host.into(), port: PORT }], ..site.link(&[]) }
}

fn start(world: &LinkWorld, site: &Site, n: u8, other: &Site, link: Link) -> RunningNode {
    world.run_with(site, n, &[other], &[link], LinkSettings::default(), Tuning::default())
}

#[tokio::test(start_paused = true)]
async fn a_dead_seed_is_dialled_ever_less_often_and_each_time_from_another_port() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    tokio::time::sleep(600 * SECOND).await;
    let attempts = e1.links.status().links[0].dials.attempts;
    // Each takes five seconds to fail, and waits up to thirty: about thirty in ten minutes.
    assert!((18..=60).contains(&attempts), "{attempts} attempts");
    let ports = dials(&world, &edge, 1) as u64;
    assert!((attempts..=attempts + 1).contains(&ports), "a fresh port for each");
    let link = e1.links.status().links.remove(0);
    assert_eq!((link.state, link.dials.failures), (LinkState::Down, attempts));
    let reason = link.reason.unwrap().1;
    assert!(reason.contains("10.0.2.1:7843: no answer within 5s"), "{reason}");
    // And once it is there, it is found within the longest wait.
    let _b1 = world.run(&bank, 1, &[(&edge, &[])]);
    eventually("up", 36 * SECOND, || e1.links.status().links[0].state == LinkState::Up).await;
    assert_eq!(e1.links.status().links[0].dials.failures, 0);
}

#[tokio::test(start_paused = true)]
async fn those_who_lost_a_peer_together_do_not_come_back_together() {
    let world = LinkWorld::new();
    let bank = Site::new("bank", 1, 1);
    let others: Vec<Site> =
        (2..=21).map(|n| Site::new(&format!("{}other", char::from(b'a' + n)), n, 1)).collect();
    let links: Vec<Link> = others.iter().map(|o| o.link(&[])).collect();
    let everyone: Vec<&Site> = others.iter().collect();
    let (settings, tuning) = (LinkSettings::default(), Tuning::default());
    let b1 = world.run_with(&bank, 1, &everyone, &links, settings, tuning);
    let _others: Vec<RunningNode> =
        others.iter().map(|o| start(&world, o, 1, &bank, bank.link(&[1]))).collect();
    let connected = || b1.links.status().links.iter().filter(|l| !l.connections.is_empty()).count();
    eventually("all are there", 5 * SECOND, || connected() == 20).await;
    let begun = world.network.sent().len();
    b1.believe(|now| now.links.clear());
    eventually("all are gone", SECOND / 10, || b1.links.connected(&others[0].name).is_empty())
        .await;
    b1.believe(|now| {
        now.links = links.iter().map(|l| (l.cluster.clone(), Arc::new(l.clone()))).collect();
    });
    eventually("all are back", 5 * SECOND, || connected() == 20).await;
    let mut arrivals = BTreeMap::<SocketAddr, u128>::new();
    for (at, from, ..) in &world.network.sent()[begun..] {
        if from.port() >= 20_000 + 20 {
            arrivals.entry(*from).or_insert(at.as_millis());
        }
    }
    let first = arrivals.values().min().unwrap();
    let last = arrivals.values().max().unwrap();
    let distinct: BTreeSet<_> = arrivals.values().collect();
    assert!(last - first > 50 && distinct.len() >= 10, "{arrivals:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_is_resolved_again_at_each_failure() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 2);
    let name = "hubs.bank.example";
    world.network.name(name, [bank.ip(1)]);
    let e1 = start(&world, &edge, 1, &bank, named(&bank, name));
    let _b2 = world.run(&bank, 2, &[(&edge, &[])]);
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(e1.links.status().links[0].state, LinkState::Down, "the name leads to a dead node");
    world.network.name(name, [bank.ip(2)]);
    eventually("the new address", 36 * SECOND, || !e1.links.connected(&bank.name).is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_name_says_so() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = start(&world, &edge, 1, &bank, named(&bank, "nowhere.example"));
    tokio::time::sleep(SECOND).await;
    let link = e1.links.status().links.remove(0);
    let reason = link.reason.unwrap().1;
    assert!(reason.contains("nowhere.example"), "{reason}");
    assert!(link.dials.next_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn seeds_are_raced_and_a_dead_one_costs_a_quarter_of_a_second() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 4);
    let _b4 = world.run(&bank, 4, &[(&edge, &[])]);
    let began = tokio::time::Instant::now();
    let e1 = world.run(&edge, 1, &[(&bank, &[1, 2, 3, 4])]);
    eventually("connected", SECOND, || !e1.links.connected(&bank.name).is_empty()).await;
    assert!(began.elapsed() < SECOND * 9 / 10, "{:?}", began.elapsed());
    assert_eq!(e1.links.status().links[0].dials.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn both_sides_dial_at_once_and_nothing_is_killed() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let b1 = world.run(&bank, 1, &[(&edge, &[1])]);
    eventually("two connections", SECOND, || {
        e1.links.status().links[0].connections.len() == 2
            && b1.links.status().links[0].connections.len() == 2
    })
    .await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(e1.echo(&bank, &bank.node(1), b"to bank").await.unwrap());
        streams.push(b1.echo(&edge, &edge.node(1), b"to edge").await.unwrap());
    }
    tokio::time::sleep(900 * SECOND).await;
    for running in [&e1, &b1] {
        let connections = &running.links.status().links[0].connections;
        assert_eq!(connections.len(), 2, "both still live");
        assert!(connections.iter().all(|c| c.unusable.is_none()));
    }
    for stream in &mut streams {
        stream.send.send_all(b"still").await.unwrap();
        assert_eq!(stream.recv.read_chunk(99).await.unwrap().unwrap(), "still");
    }
}

#[tokio::test(start_paused = true)]
async fn where_only_one_side_can_dial_streams_run_both_ways() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 2);
    // Nobody can reach edge: what is not an answer to it is lost.
    let e = edge.ip(1);
    world.network.set_filter(move |(_, _, to, _), _| to.ip() != e || to.port() != PORT);
    let banks = [world.run(&bank, 1, &[(&edge, &[])]), world.run(&bank, 2, &[(&edge, &[])])];
    let e1 = world.run(&edge, 1, &[(&bank, &[2])]);
    for b in &banks {
        eventually("bank's hubs know edge", 5 * SECOND, || b.view(&edge).is_some()).await;
        b.echo(&edge, &edge.node(1), b"hello").await.unwrap();
        assert_eq!(b.links.status().links[0].dials.attempts, 0, "bank never dials");
    }
    e1.echo(&bank, &bank.node(1), b"hello").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_down_refuses_at_once_without_dialling() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    tokio::time::sleep(60 * SECOND).await;
    // Between two attempts of the supervisor's.
    eventually("a pause", 40 * SECOND, || {
        let next = e1.links.status().links[0].dials.next_at;
        next.is_some_and(|next| next > tokio::time::Instant::now() + SECOND)
    })
    .await;
    let before = (tokio::time::Instant::now(), dials(&world, &edge, 1));
    for _ in 0..100 {
        let refused = e1.echo(&bank, &bank.node(1), b"x").await.unwrap_err();
        assert!(refused.contains("no node of bank can be reached"), "{refused}");
    }
    assert_eq!(before, (tokio::time::Instant::now(), dials(&world, &edge, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_of_a_live_cluster_costs_one_dial_and_not_one_per_stream() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 3);
    let alive: Vec<u8> = (1..=3).collect();
    let banks: Vec<RunningNode> =
        alive.iter().map(|n| world.run(&bank, *n, &[(&edge, &[])])).collect();
    let e1 = world.run(&edge, 1, &[(&bank, &[1, 2, 3])]);
    eventually("known", 5 * SECOND, || e1.view(&bank).is_some()).await;
    let connected = |n: &NodeName| e1.links.connected(&bank.name).contains(n);
    tokio::time::sleep(5 * SECOND).await;
    let Some(dead) = (1..=3).find(|n| !connected(&bank.node(*n))) else {
        panic!("the hubs are two of three")
    };
    world.cut(&[bank.ip(dead)]);
    let (before, began) = (dials(&world, &edge, 1), tokio::time::Instant::now());
    let node = bank.node(dead);
    let streams = (0..50).map(|_| e1.echo(&bank, &node, b"x"));
    let results = futures_util::future::join_all(streams).await;
    assert!(results.iter().all(|r| r.as_ref().unwrap_err().starts_with("link-down")));
    assert_eq!(began.elapsed().as_secs(), 2, "all wait for the one dial");
    for _ in 0..50 {
        e1.echo(&bank, &node, b"x").await.unwrap_err();
    }
    assert_eq!(began.elapsed().as_secs(), 2, "who comes later is refused at once");
    assert_eq!(dials(&world, &edge, 1), before + 1);
    // Not for ever.
    world.cut(&[]);
    tokio::time::sleep(4 * SECOND).await;
    e1.echo(&bank, &node, b"x").await.unwrap();
    drop(banks);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_refuses_costs_one_dial_and_not_one_per_stream() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let b1 = world.run(&bank, 1, &[(&edge, &[])]);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    eventually("known", 5 * SECOND, || e1.view(&bank).is_some()).await;
    // What is connected stays, and nothing new is let in.
    b1.endpoints.drain();
    let before = dials(&world, &edge, 1);
    for _ in 0..50 {
        let opened = e1.links.open(0, &bank.name, &bank.node(1), Class::Bulk).await.unwrap();
        assert_eq!(opened.peer.class, Class::Interactive, "what there is");
    }
    assert_eq!(dials(&world, &edge, 1), before + 1);
    assert_eq!(e1.links.status().links[0].dials.last_code, Some(Code::Draining));
}

#[tokio::test(start_paused = true)]
async fn a_dial_over_a_long_path_lasts_longer_than_a_stream_waits_for_it() {
    let world = LinkWorld::far(SECOND / 2);
    let (edge, bank) = two(1, 1);
    let _b1 = world.run(&bank, 1, &[(&edge, &[])]);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    eventually("known", 10 * SECOND, || e1.view(&bank).is_some()).await;
    let open = async || e1.links.open(0, &bank.name, &bank.node(1), Class::Bulk).await.unwrap();
    let (before, began) = (dials(&world, &edge, 1), tokio::time::Instant::now());
    assert_eq!(open().await.peer.class, Class::Interactive, "what there is");
    assert_eq!(began.elapsed().as_secs(), 2);
    assert_eq!(open().await.peer.class, Class::Interactive);
    assert_eq!(began.elapsed().as_secs(), 2, "nobody waits for what takes so long already");
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(open().await.peer.class, Class::Bulk);
    assert_eq!(dials(&world, &edge, 1), before + 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_data_connection_goes_and_a_standing_one_stays() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 3);
    let banks: Vec<RunningNode> = (1..=3).map(|n| world.run(&bank, n, &[(&edge, &[])])).collect();
    let e1 = world.run(&edge, 1, &[(&bank, &[1, 2, 3])]);
    eventually("known", 5 * SECOND, || e1.view(&bank).is_some()).await;
    for n in 1..=3 {
        e1.echo(&bank, &bank.node(n), b"x").await.unwrap();
    }
    assert_eq!(e1.links.connected(&bank.name).len(), 3);
    let other = (1..=3).find(|n| {
        let status = e1.links.status();
        !status.links[0].connections.iter().any(|c| c.standing && c.peer.node == bank.node(*n))
    });
    let other = other.unwrap();
    // In use for longer than the limit.
    let stream = e1.echo(&bank, &bank.node(other), b"x").await.unwrap();
    tokio::time::sleep(1000 * SECOND).await;
    assert_eq!(e1.links.connected(&bank.name).len(), 3, "a silent stream is a use");
    drop(stream);
    tokio::time::sleep(299 * SECOND).await;
    assert_eq!(e1.links.connected(&bank.name).len(), 3);
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(e1.links.connected(&bank.name).len(), 2);
    let standing = e1.links.status().links.remove(0).connections;
    assert!(standing.iter().all(|c| c.standing && c.age > 1000 * SECOND), "and never went");
    let b = &banks[usize::from(other - 1)];
    assert!(b.links.status().links[0].connections.is_empty(), "its peer knows");
    // The next stream has it dialled again.
    e1.echo(&bank, &bank.node(other), b"x").await.unwrap();
}
