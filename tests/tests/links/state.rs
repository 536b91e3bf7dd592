//! The state that clusters learn of each other, from whom, and what that costs.

use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::{NodeKey, ServiceName};
use adit_core::routing::is_hub_for;
use adit_core::snapshot::{Backend, Export, Link};
use adit_pki::UnixTime;
use adit_tests::identity::EPOCH;
use adit_tests::sites::{RunningNode, Site, eventually};
use adit_transport::Tuning;
use adit_transport::links::{LinkSettings, LinkState};

use crate::{LinkWorld, SECOND, two};

/// All nodes of both clusters, linked by each other's first two nodes.
fn everyone(
    world: &LinkWorld,
    edge: &Site,
    bank: &Site,
    each: u8,
) -> (Vec<RunningNode>, Vec<RunningNode>) {
    let start = |site, other| (1..=each).map(move |n| world.run(site, n, &[(other, &[1, 2])]));
    (start(edge, bank).collect(), start(bank, edge).collect())
}

fn ready(node: &RunningNode, of: &Site, n: u8) -> Option<u32> {
    let view = node.view(of)?;
    view.view.exports.get(&of.service())?.ports[0].ready.get(&of.node(n)).copied()
}

#[tokio::test(start_paused = true)]
async fn a_link_comes_up_and_carries_a_stream_both_ways() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let b1 = world.run(&bank, 1, &[(&edge, &[1])]);
    eventually("both know each other", SECOND, || {
        e1.view(&bank).is_some() && b1.view(&edge).is_some()
    })
    .await;
    let view = e1.view(&bank).unwrap();
    assert_eq!(view.view.nodes[&bank.node(1)], [bank.address(1)]);
    assert_eq!(ready(&e1, &bank, 1), Some(1));
    assert_eq!(e1.links.status().links[0].state, LinkState::Up);
    e1.echo(&bank, &bank.node(1), &[7; 100_000]).await.unwrap();
    b1.echo(&edge, &edge.node(1), &[8; 100_000]).await.unwrap();
    assert_eq!(b1.echo.served()[0].id.as_str(), "spiffe://edge.example/adit/node/e1");
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_with_the_certificate_that_it_rests_on() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let _b1 = world.run(&bank, 1, &[(&edge, &[])]);
    eventually("bank is known", SECOND, || e1.view(&bank).is_some()).await;
    // Certificates of tests are good for a day from the epoch on.
    let at = |hours: u64| UnixTime::since_unix_epoch(Duration::from_secs(EPOCH + hours * 3600));
    for (now, ends) in [(at(23), false), (at(25), true)] {
        let mut stream = e1.echo(&bank, &bank.node(1), b"before").await.unwrap();
        e1.links.recheck_certificates(None, now);
        let sent = stream.send.send_all(b"after").await;
        let read = stream.recv.read_chunk(99).await;
        if ends {
            assert_eq!(read.unwrap_err().code(), Code::CertificateEnded);
            tokio::time::sleep(SECOND).await;
        } else {
            assert!(sent.is_ok() && read.unwrap().unwrap() == "after");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_node_learns_through_its_hubs_and_what_stands_is_not_nodes_times_nodes() {
    const EACH: u8 = 6;
    let world = LinkWorld::new();
    let (edge, bank) = two(EACH, EACH);
    let (edges, banks) = everyone(&world, &edge, &bank, EACH);
    eventually("all 12 nodes know the other cluster", 5 * SECOND, || {
        edges.iter().all(|e| ready(e, &bank, EACH).is_some())
            && banks.iter().all(|b| ready(b, &edge, EACH).is_some())
    })
    .await;
    // Connections by seeds that turned out not to be hubs go when they are idle.
    tokio::time::sleep(400 * SECOND).await;
    let (mut across, mut within) = (0, 0);
    for node in edges.iter().chain(&banks) {
        let status = node.links.status();
        let dialled = |c: &&adit_transport::links::ConnectionStatus| c.peer.dialled;
        across += status.links[0].connections.iter().filter(dialled).count();
        within += status.siblings.iter().filter(dialled).count();
        let hub = status.links[0].hub;
        let from = status.links[0].view.as_ref().unwrap().source.cluster.clone();
        let this = node.snapshot.borrow().local.cluster.clone();
        assert_eq!(from == this, !hub, "a hub learns from the peer, another node from its hub");
        assert!(hub || status.links[0].connections.is_empty(), "only hubs are connected across");
        let all = status.links[0].connections.iter().chain(&status.siblings);
        for connection in all.filter(|c| c.peer.dialled) {
            assert!(
                connection.standing && connection.age > 390 * SECOND,
                "it stands: {connection:?}"
            );
        }
        assert_eq!(status.links[0].state, LinkState::Up, "{:?}", status.links[0].reason);
    }
    assert_eq!(across, 2 * 2 * 2, "two hubs with two hubs, dialled from both sides");
    assert_eq!(within, 2 * 4 * 2, "the four others of each cluster with its two hubs");
}

/// A thousand exports more than the one.
fn export_a_thousand(node: &RunningNode, of: &Site) {
    node.believe(|now| {
        let template = Export::clone(&now.exports[&of.service()]);
        for n in 0..1000 {
            let service: ServiceName = format!("agents/bot-{n}").parse().unwrap();
            let export = Export { service: service.clone(), ..template.clone() };
            now.exports.insert(service, Arc::new(export));
        }
    });
}

/// All that was sent so far, by anybody, as UDP payload.
fn sent_bytes(world: &LinkWorld) -> usize {
    world.network.sent().iter().map(|(_, _, _, len)| len).sum()
}

#[tokio::test(start_paused = true)]
async fn a_change_costs_the_record_that_changed_and_arrives_at_once() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let b1 = world.run(&bank, 1, &[(&edge, &[])]);
    export_a_thousand(&b1, &bank);
    let bytes = || sent_bytes(&world);
    let before = bytes();
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    eventually("all is known", 60 * SECOND, || {
        e1.view(&bank).is_some_and(|v| v.view.exports.len() >= 1000)
    })
    .await;
    let whole = bytes() - before;
    // Past the handshakes, path probes and first acknowledgements.
    tokio::time::sleep(5 * SECOND).await;

    let service = "agents/bot-500".parse().unwrap();
    let before = bytes();
    b1.believe(|now| {
        now.exports.remove(&"agents/bot-400".parse().unwrap());
        let backend = now.exports[&service].ports[0].backends[0].clone();
        let mut export = Export::clone(&now.exports[&service]);
        export.ports[0]
            .backends
            .push(Backend { address: "10.244.9.9:80".parse().unwrap(), ..backend });
        now.exports.insert(service.clone(), Arc::new(export));
    });
    let count = || {
        let view = e1.view(&bank).unwrap().view;
        view.exports[&service].ports[0].ready.values().sum::<u32>()
    };
    eventually("the change is known", SECOND / 10, || count() == 2).await;
    assert_eq!(e1.view(&bank).unwrap().view.exports.len(), 1000);
    tokio::time::sleep(SECOND).await;
    let change = bytes() - before;
    assert!(whole > 60_000 && change < 600, "whole {whole} bytes, one change {change}");
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_comes_back_continues_where_it_was() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let b1 = world.run(&bank, 1, &[(&edge, &[])]);
    export_a_thousand(&b1, &bank);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let known = || e1.view(&bank).map_or(0, |v| v.view.exports.len());
    eventually("all is known", 60 * SECOND, || known() == 1001).await;
    tokio::time::sleep(5 * SECOND).await;
    world.cut(&[bank.ip(1)]);
    tokio::time::sleep(60 * SECOND).await;
    b1.believe(|now| {
        now.exports.pop_first();
    });
    let before = sent_bytes(&world);
    world.cut(&[]);
    eventually("what changed is known", 40 * SECOND, || known() == 1000).await;
    let bytes = sent_bytes(&world) - before;
    // Handshakes of both sides, one of them perhaps for nothing, and one record.
    assert!(bytes < 30_000, "{bytes} bytes to catch up");
}

#[tokio::test(start_paused = true)]
async fn another_hub_tells_when_the_first_dies() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 2);
    let e1 = world.run(&edge, 1, &[(&bank, &[1, 2])]);
    let banks = [world.run(&bank, 1, &[(&edge, &[])]), world.run(&bank, 2, &[(&edge, &[])])];
    eventually("both hubs are connected", 5 * SECOND, || e1.links.connected(&bank.name).len() == 2)
        .await;
    eventually("one tells", SECOND, || e1.view(&bank).is_some()).await;
    let teller = e1.view(&bank).unwrap().source.node;
    let dead = if teller == bank.node(1) { 1 } else { 2 };
    world.cut(&[bank.ip(dead)]);
    eventually("the other tells", 31 * SECOND, || {
        e1.view(&bank).unwrap().source.node == bank.node(3 - dead)
    })
    .await;
    assert!(e1.view(&bank).unwrap().age() < SECOND);
    // And goes on telling.
    let other = &banks[usize::from(2 - dead)];
    other.believe(|now| now.exports.clear());
    eventually("news arrive", SECOND, || e1.view(&bank).unwrap().view.exports.is_empty()).await;
    world.cut(&[]);
}

#[tokio::test(start_paused = true)]
async fn a_view_ages_while_nobody_confirms_it_and_stays() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let b1 = world.run(&bank, 1, &[(&edge, &[])]);
    eventually("known", SECOND, || e1.view(&bank).is_some()).await;
    let woken = e1.links.views();
    for _ in 0..20 {
        tokio::time::sleep(5 * SECOND).await;
        assert!(e1.view(&bank).unwrap().age() <= 11 * SECOND, "a heartbeat confirms it");
    }
    assert!(!woken.has_changed().unwrap(), "heartbeats wake nobody");
    world.cut(&[bank.ip(1)]);
    tokio::time::sleep(100 * SECOND).await;
    let view = e1.view(&bank).unwrap();
    assert!(view.age() > 89 * SECOND && view.is_stale(), "{:?}", view.age());
    assert_eq!(view.view.exports.len(), 1, "what was known is kept");
    let link = e1.links.status().links.remove(0);
    assert_eq!(link.state, LinkState::Down, "{:?}", link.reason);
    world.cut(&[]);
    eventually("back", 31 * SECOND, || e1.view(&bank).unwrap().age() < SECOND).await;
    assert_eq!(e1.links.status().links[0].state, LinkState::Up);
    drop(b1);
}

#[tokio::test(start_paused = true)]
async fn a_relayed_view_is_as_old_as_its_origin() {
    let world = LinkWorld::new();
    let (edge, bank) = two(4, 1);
    let all = |n: u8| world.run(&edge, n, &[(&bank, &[1])]);
    let edges: Vec<RunningNode> = (1..=4).map(all).collect();
    let b1 = world.run(&bank, 1, &[(&edge, &[])]);
    eventually("all know", 5 * SECOND, || edges.iter().all(|e| e.view(&bank).is_some())).await;
    world.cut(&[bank.ip(1)]);
    tokio::time::sleep(60 * SECOND).await;
    for edge in &edges {
        let age = edge.view(&bank).unwrap().age();
        assert!(age >= 49 * SECOND, "a relay must not make a view younger: {age:?}");
    }
    drop(b1);
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_lost_its_reach_learns_from_its_fellow_and_passes_nothing_on() {
    let world = LinkWorld::new();
    let (edge, bank) = two(3, 1);
    let edges: Vec<RunningNode> = (1..=3).map(|n| world.run(&edge, n, &[(&bank, &[1])])).collect();
    let _b1 = world.run(&bank, 1, &[(&edge, &[])]);
    eventually("all know", 5 * SECOND, || edges.iter().all(|e| e.view(&bank).is_some())).await;
    let is_hub = |e: &&RunningNode| is_hub_for(&e.snapshot.borrow(), &bank.name);
    let third = edges.iter().find(|e| !is_hub(e)).unwrap();
    let told_by = third.view(&bank).unwrap().source;
    let this = |e: &RunningNode| NodeKey::new(&edge.name, &e.snapshot.borrow().local.node);
    let blind = edges.iter().find(|e| this(e) == told_by).unwrap();
    let seeing = edges.iter().filter(is_hub).find(|e| this(e) != told_by).unwrap();

    world.divide(blind.endpoints.addresses()[0].ip(), bank.ip(1));
    for listener in [blind, third] {
        eventually("the other hub tells", 60 * SECOND, || {
            listener.view(&bank).unwrap().source == this(seeing)
        })
        .await;
    }
    for _ in 0..100 {
        tokio::time::sleep(SECOND).await;
        let view = third.view(&bank).unwrap();
        assert_eq!(view.source, this(seeing), "what the blind hub knows is hearsay");
        // Two heartbeats, the origin's and the hub's, which do not keep step.
        assert!(view.age() < 22 * SECOND, "{:?}", view.age());
    }
}

#[tokio::test(start_paused = true)]
async fn others_hear_from_the_hubs_that_a_cluster_is_lost_before_its_view_is_old() {
    let world = LinkWorld::new();
    let (edge, bank) = two(4, 1);
    let edges: Vec<RunningNode> = (1..=4).map(|n| world.run(&edge, n, &[(&bank, &[1])])).collect();
    let _b1 = world.run(&bank, 1, &[(&edge, &[])]);
    eventually("all know", 5 * SECOND, || edges.iter().all(|e| e.view(&bank).is_some())).await;
    let others: Vec<_> =
        edges.iter().filter(|e| !is_hub_for(&e.snapshot.borrow(), &bank.name)).collect();
    assert_eq!(others.len(), 2);
    let lost = |e: &&RunningNode| e.view(&bank).unwrap().lost;
    assert!(!others.iter().any(lost));
    world.cut(&[bank.ip(1)]);
    let hubs_know = || {
        let hubs = edges.iter().filter(|e| is_hub_for(&e.snapshot.borrow(), &bank.name));
        hubs.map(|e| e.links.connected(&bank.name).len()).sum::<usize>() == 0
    };
    eventually("the hubs know", 20 * SECOND, hubs_know).await;
    eventually("the others hear", 3 * SECOND, || others.iter().all(lost)).await;
    assert!(others.iter().all(|e| !e.view(&bank).unwrap().is_stale()), "and it is not old yet");
    world.cut(&[]);
    eventually("and that it is back", 60 * SECOND, || !others.iter().any(lost)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_hubs_are_silent_acts_as_one_until_they_are_back() {
    let world = LinkWorld::new();
    let (edge, bank) = two(3, 1);
    let edges: Vec<RunningNode> = (1..=3).map(|n| world.run(&edge, n, &[(&bank, &[1])])).collect();
    let _b1 = world.run(&bank, 1, &[(&edge, &[])]);
    eventually("all know", 5 * SECOND, || edges.iter().all(|e| e.view(&bank).is_some())).await;
    let is_hub = |n: u8| is_hub_for(&edges[usize::from(n - 1)].snapshot.borrow(), &bank.name);
    let hubs: Vec<_> = (1..=3).filter(|n| is_hub(*n)).map(|n| edge.ip(n)).collect();
    let third = (1..=3).find(|n| !is_hub(*n)).unwrap();
    let third = &edges[usize::from(third - 1)];
    assert!(third.links.connected(&bank.name).is_empty());
    world.cut(&hubs);
    // Their connections end after the idle timeout; the silence counts from there.
    eventually("it learns from the peer itself", 60 * SECOND, || {
        third.view(&bank).unwrap().source.cluster == bank.name
    })
    .await;
    assert!(third.view(&bank).unwrap().age() < SECOND);
    world.cut(&[]);
    eventually("its hubs tell again", 60 * SECOND, || {
        third.view(&bank).unwrap().source.cluster == edge.name
    })
    .await;
    tokio::time::sleep(320 * SECOND).await;
    assert!(third.links.connected(&bank.name).is_empty(), "an idle connection goes");
}

#[tokio::test(start_paused = true)]
async fn links_appear_and_disappear_while_others_run() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let lab = Site::new("lab", 3, 1);
    let with_lab = [bank.link(&[1]), lab.link(&[1])];
    let (settings, tuning) = (LinkSettings::default(), Tuning::default());
    let e1 = world.run_with(&edge, 1, &[&bank, &lab], &with_lab[..1], settings, tuning);
    let b1 = world.run(&bank, 1, &[(&edge, &[])]);
    let l1 = world.run(&lab, 1, &[(&edge, &[])]);
    eventually("bank is known", SECOND, || e1.view(&bank).is_some()).await;
    let mut stream = e1.echo(&bank, &bank.node(1), b"before").await.unwrap();
    let standing = e1.links.status().links[0].connections[0].age;

    let link = |l: &Link| (l.cluster.clone(), Arc::new(l.clone()));
    e1.believe(|now| now.links = with_lab.iter().map(link).collect());
    eventually("lab is known", SECOND, || e1.view(&lab).is_some() && l1.view(&edge).is_some())
        .await;

    // Other seeds break nothing.
    let elsewhere = Link { seeds: edge.link(&[1]).seeds, ..bank.link(&[]) };
    e1.believe(|now| {
        now.links.insert(bank.name.clone(), Arc::new(elsewhere));
    });
    tokio::time::sleep(SECOND).await;
    assert!(e1.links.status().links[0].connections[0].age > standing);

    e1.believe(|now| {
        now.links.remove(&lab.name);
    });
    eventually("lab is gone", SECOND / 10, || {
        e1.view(&lab).is_none() && l1.links.connected(&edge.name).is_empty()
    })
    .await;
    let refused = e1.echo(&lab, &lab.node(1), b"x").await.unwrap_err();
    assert!(refused.starts_with("link-down") && refused.contains("no link"), "{refused}");
    stream.send.send_all(b"after").await.unwrap();
    assert_eq!(stream.recv.read_chunk(99).await.unwrap().unwrap(), "after");

    e1.believe(|now| now.links.clear());
    let ended = stream.recv.read_chunk(99).await.unwrap_err();
    assert_eq!(ended.code(), Code::Unlinked);
    eventually("b1 says why", SECOND, || {
        let link = b1.links.status().links.remove(0);
        link.state == LinkState::Down && link.reason.unwrap().1.contains("no node of edge")
    })
    .await;
}
