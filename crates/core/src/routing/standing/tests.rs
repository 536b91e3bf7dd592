use std::net::SocketAddr;

use super::*;
use crate::fault::BackendFault;
use crate::routing::{HubCache, dialable_addresses, is_hub_for};
use crate::snapshot::Seed;
use crate::snapshot::tests::edge;

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn bank() -> Link {
    Link {
        cluster: cluster("bank"),
        trust_domain: "bank.trustusbank.example".parse().unwrap(),
        seeds: vec![Seed::Address("172.18.2.2:7843".parse().unwrap())],
    }
}

/// `edge` with six nodes, as its node `this` sees it.
fn six(this: &str) -> Snapshot {
    let mut snapshot = edge();
    let address = |n: usize| vec![format!("172.18.1.{n}:7843").parse().unwrap()];
    let all = (1..=6).map(|n| (format!("e{n}").parse().unwrap(), address(n)));
    snapshot.siblings = all.collect();
    snapshot.local.node = this.parse().unwrap();
    snapshot.siblings.remove(&snapshot.local.node);
    snapshot
}

fn bank_view() -> ClusterView {
    let address = |n: usize| vec![format!("172.18.2.{n}:7843").parse().unwrap()];
    let nodes = (1..=6).map(|n| (format!("b{n}").parse().unwrap(), address(n)));
    ClusterView { nodes: nodes.collect(), ..ClusterView::default() }
}

fn everyone() -> Vec<Snapshot> {
    (1..=6).map(|n| six(&format!("e{n}"))).collect()
}

fn standing(
    snapshot: &Snapshot,
    link: &Link,
    view: Option<&ClusterView>,
    reach: LinkReach,
) -> BTreeSet<StandingTarget> {
    let hubs = HubCache::default().hubs_of(snapshot, &link.cluster, view);
    standing_targets(snapshot, link, view, &hubs, reach)
}

const UP: LinkReach = LinkReach { connected: true, hubs_silent: false, stale: false };

#[test]
fn all_nodes_agree_on_their_hubs() {
    let hubs: BTreeSet<Vec<String>> = everyone()
        .iter()
        .map(|snapshot| {
            own_hubs(snapshot, &cluster("bank")).iter().map(|n| n.to_string()).collect()
        })
        .collect();
    assert_eq!(hubs.len(), 1);
    assert_eq!(
        everyone().iter().filter(|snapshot| is_hub_for(snapshot, &cluster("bank"))).count(),
        2
    );
}

#[test]
fn hubs_are_looked_for_again_only_where_nodes_are_others() {
    let (mut snapshot, mut view) = (six("e1"), bank_view());
    let peers: Vec<ClusterName> = (0..10).map(|n| cluster(&format!("peer{n}"))).collect();
    let mut memory = HubCache::default();
    let check = |memory: &mut HubCache, snapshot: &Snapshot, view: &ClusterView| {
        for peer in &peers {
            let hubs_now = LinkHubs {
                own: own_hubs(snapshot, peer).into_iter().cloned().collect(),
                peers: hubs(view.nodes.keys(), &snapshot.local.cluster)
                    .into_iter()
                    .cloned()
                    .collect(),
            };
            assert_eq!(memory.hubs_of(snapshot, peer, Some(view)), hubs_now);
        }
        std::mem::take(&mut memory.found)
    };
    assert_eq!(check(&mut memory, &snapshot, &view), 20);
    view.exports.clear();
    snapshot.down.insert("10.0.0.1:80".parse().unwrap(), BackendFault::Refused);
    assert_eq!(check(&mut memory, &snapshot.clone(), &view.clone()), 0);
    view.nodes.remove(&"b1".parse().unwrap());
    assert_eq!(check(&mut memory, &snapshot, &view), 10);
    snapshot.siblings.insert("e9".parse().unwrap(), vec![]);
    assert_eq!(check(&mut memory, &snapshot, &view), 10);
    assert_eq!(memory.hubs_of(&snapshot, &peers[0], None).peers, []);
    memory.retain(|peer| *peer == peers[1]);
    assert_eq!(check(&mut memory, &snapshot, &view), 18);
}

#[test]
fn what_stands_is_hubs_times_hubs_and_others_times_hubs() {
    let view = bank_view();
    let (mut across, mut within) = (0, 0);
    for snapshot in everyone() {
        for target in standing(&snapshot, &bank(), Some(&view), UP) {
            match target {
                StandingTarget::Node(key) if key.cluster == snapshot.local.cluster => within += 1,
                StandingTarget::Node(..) => across += 1,
                StandingTarget::Seeds(_) => panic!("a hub that is connected needs no seed"),
            }
        }
    }
    assert_eq!((across, within), (2 * 2, 4 * 2));
}

#[test]
fn a_hub_begins_with_seeds_and_another_node_with_its_hubs() {
    let nothing = LinkReach { stale: true, ..LinkReach::default() };
    for snapshot in everyone() {
        let targets = standing(&snapshot, &bank(), None, nothing);
        let seeds = targets.contains(&StandingTarget::Seeds(cluster("bank")));
        assert_eq!(seeds, is_hub_for(&snapshot, &cluster("bank")));
        let siblings = targets.len() - usize::from(seeds);
        assert_eq!(siblings, if seeds { 1 } else { 2 }, "a hub that knows nothing asks its fellow");
        let silent = LinkReach { hubs_silent: true, ..nothing };
        let acting = standing(&snapshot, &bank(), None, silent);
        assert!(
            acting.contains(&StandingTarget::Seeds(cluster("bank"))),
            "nobody heard: dials itself"
        );
    }
}

#[test]
fn a_hub_that_lost_all_connections_goes_back_to_the_seeds_too() {
    let snapshot =
        everyone().into_iter().find(|snapshot| is_hub_for(snapshot, &cluster("bank"))).unwrap();
    let lost = LinkReach { connected: false, ..UP };
    let targets = standing(&snapshot, &bank(), Some(&bank_view()), lost);
    assert_eq!(targets.len(), 3);
    assert!(targets.contains(&StandingTarget::Seeds(cluster("bank"))));
}

#[test]
fn a_link_without_seeds_is_dialled_by_the_other_side_only() {
    let accepted = Link { seeds: vec![], ..bank() };
    for snapshot in everyone().iter().filter(|snapshot| is_hub_for(snapshot, &cluster("bank"))) {
        assert!(standing(snapshot, &accepted, Some(&bank_view()), UP).is_empty());
    }
}

#[test]
fn a_hub_asks_the_peers_hubs_first_and_another_node_its_own() {
    let view = bank_view();
    let bank = cluster("bank");
    let peer_hubs = hubs(view.nodes.keys(), &cluster("edge"));
    for snapshot in everyone() {
        let peers = view.nodes.keys().map(|n| NodeKey::new(&bank, n));
        let siblings = snapshot.siblings.keys().map(|n| NodeKey::new(&snapshot.local.cluster, n));
        let connected: BTreeSet<_> = peers.chain(siblings).collect();
        let order = view_sources(&snapshot, &bank, Some(&view), &connected);
        let own = own_hubs(&snapshot, &bank);
        let ranks: Vec<SourceRank> = order.iter().map(|(rank, _)| *rank).collect();
        let proper = order.iter().filter(|(rank, _)| *rank == SourceRank::Preferred);
        let proper: Vec<_> = proper.map(|(_, source)| source).collect();
        if is_hub_for(&snapshot, &bank) {
            assert!(proper.iter().all(|s| s.cluster == bank && peer_hubs.contains(&&s.node)));
            assert_eq!(
                ranks,
                [
                    &[SourceRank::Preferred; 2][..],
                    &[SourceRank::Peer; 4],
                    &[SourceRank::SiblingHub]
                ]
                .concat()
            );
        } else {
            assert!(
                proper
                    .iter()
                    .all(|s| s.cluster == snapshot.local.cluster && own.contains(&&s.node))
            );
            assert_eq!(ranks, [&[SourceRank::Preferred; 2][..], &[SourceRank::Peer; 6]].concat());
        }
        assert!(view_sources(&snapshot, &bank, Some(&view), &BTreeSet::new()).is_empty());
    }
}

#[test]
fn the_controller_listens_to_hubs_and_is_none() {
    let mut snapshot = six("e1");
    let hubs: Vec<NodeName> = {
        let all = everyone();
        own_hubs(&all[0], &cluster("bank")).into_iter().cloned().collect()
    };
    snapshot.siblings.insert("e1".parse().unwrap(), vec!["172.18.1.1:7843".parse().unwrap()]);
    snapshot.local.node = NodeName::controller();
    // Of a hundred peers it would be a hub for some, were it a node.
    for n in 0..100 {
        assert!(!is_hub_for(&snapshot, &cluster(&format!("peer{n}"))));
    }
    let lost = LinkReach { connected: false, hubs_silent: true, stale: true };
    let own = |n: &NodeName| StandingTarget::Node(NodeKey::new(&cluster("edge"), n));
    let expected: BTreeSet<_> = hubs.iter().map(own).collect();
    assert_eq!(
        standing(&snapshot, &bank(), Some(&bank_view()), lost),
        expected,
        "it dials no other cluster"
    );
    assert_eq!(standing(&snapshot, &bank(), None, UP), expected);
}

#[test]
fn near_addresses_are_dialled_on_one_machine_only() {
    let addresses: Vec<SocketAddr> = [
        "10.0.0.1:1",
        "127.0.0.1:1",
        "[::1]:1",
        "169.254.0.9:1",
        "[fe80::1]:1",
        "[::ffff:127.0.0.1]:1",
        "0.0.0.0:1",
        "[::]:1",
        "224.0.0.1:1",
        "10.0.0.1:0",
    ]
    .map(|a| a.parse().unwrap())
    .into();
    assert_eq!(dialable_addresses(&addresses, &bank().seeds), addresses[..1]);
    let here = [Seed::Address("127.0.0.9:5".parse().unwrap())];
    assert_eq!(dialable_addresses(&addresses, &here), addresses[..6]);
    let named = [Seed::Name { host: "localhost".into(), port: 5 }];
    assert_eq!(dialable_addresses(&addresses, &named), addresses[..6]);
    assert_eq!(dialable_addresses(&addresses, &[]), addresses[..1]);
}
