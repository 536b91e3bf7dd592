use std::net::SocketAddr;

use super::hubs::stable_hash;
use super::*;
use crate::code::Code;
use crate::name::{ClusterName, NodeName};
use crate::policy::Permit;
use crate::snapshot::Snapshot;
use crate::snapshot::tests::edge;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn nodes(n: usize) -> Vec<NodeName> {
    (0..n).map(|i| format!("n{i}").parse().unwrap()).collect()
}

fn permit(snapshot: &Snapshot) -> Permit {
    let import = snapshot.imports.iter().next().unwrap();
    let target = crate::policy::Target {
        service: import.service.clone(),
        port: import.ports[0].name.clone(),
    };
    let who = crate::spiffe::Workload {
        namespace: "trustusbank-bank-agents".parse().unwrap(),
        service_account: "support-bot".parse().unwrap(),
    };
    crate::policy::authorize_outbound(snapshot, import, &target, &who).unwrap()
}

#[test]
fn hubs_are_two_whatever_the_order_and_spread_over_peers() {
    let all = nodes(50);
    let mut used = BTreeSet::new();
    for peer in ["bank", "shop", "lab", "home", "dc1", "dc2"] {
        let peer = peer.parse().unwrap();
        let forward = hubs(&all, &peer);
        let backward = hubs(all.iter().rev(), &peer);
        assert_eq!(forward, backward);
        assert_eq!(forward.len(), HUBS);
        used.extend(forward);
    }
    assert!(used.len() >= 6, "six links share {} hubs", used.len());
    assert_eq!(hubs(&nodes(1), &"bank".parse().unwrap()).len(), 1);
}

#[test]
fn the_hash_of_hubs_is_part_of_the_wire() {
    // Changing it would make old and new nodes of a cluster disagree on their hubs.
    assert_eq!(stable_hash(["bank", "e1"]), 0x53cd_efc1_732c_41e0);
}

#[test]
fn nodes_are_drawn_by_their_ready_backends() {
    let edge = edge();
    let permit = permit(&edge);
    let bank = "bank".parse().unwrap();
    let mut first: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..3000 {
        let route = route(&edge, &bank, &permit, seed).unwrap();
        assert_eq!(route.nodes.len(), 2);
        *first.entry(route.nodes[0].to_string()).or_default() += 1;
    }
    let share = f64::from(first["b1"]) / 3000.0;
    assert!((0.63..0.70).contains(&share), "b1 has 2 of 3 backends and {share} of the draws");
}

#[test]
fn no_ready_backend_and_no_view_have_different_codes() {
    let mut edge = edge();
    let permit = permit(&edge);
    let bank: ClusterName = "bank".parse().unwrap();
    let mut view = (*edge.views[&bank]).clone();
    for export in view.exports.values_mut() {
        let export = std::sync::Arc::make_mut(export);
        export.ports[0].ready.clear();
    }
    edge.views.insert(bank.clone(), view.into());
    assert_eq!(route(&edge, &bank, &permit, 0), Err(Code::NoBackend));
    edge.views.clear();
    assert_eq!(route(&edge, &bank, &permit, 0), Err(Code::LinkDown));
}

/// `edge` with a bank whose export is ready at `ready`, and which announces the first `announced` of those.
fn edge_with(ready: &[(NodeName, u32)], announced: usize) -> Snapshot {
    let mut edge = edge();
    let bank: ClusterName = "bank".parse().unwrap();
    let mut view = (*edge.views[&bank]).clone();
    view.nodes = ready[..announced].iter().map(|(n, _)| (n.clone(), vec![])).collect();
    for export in view.exports.values_mut() {
        std::sync::Arc::make_mut(export).ports[0].ready = ready.iter().cloned().collect();
    }
    edge.views.insert(bank, view.into());
    edge
}

#[test]
fn backends_on_nodes_that_are_not_announced_do_not_count() {
    let bank = "bank".parse().unwrap();
    let ready: Vec<_> = nodes(5000).into_iter().map(|n| (n, u32::MAX)).collect();
    let few = edge_with(&ready, 3);
    let announced: BTreeSet<_> = ready[..3].iter().map(|(n, _)| n.clone()).collect();
    let mut drawn = BTreeSet::new();
    for seed in 0..50 {
        let route = route(&few, &bank, &permit(&few), seed).unwrap();
        assert!(!route.nodes.is_empty() && route.nodes.iter().all(|n| announced.contains(n)));
        drawn.extend(route.nodes);
    }
    assert_eq!(drawn, announced);
    let none = edge_with(&ready, 0);
    assert_eq!(route(&none, &bank, &permit(&none), 0), Err(Code::NoBackend));
}

#[test]
fn a_route_names_a_few_nodes_of_thousands_and_one_nodes_boast_does_not_take_all_streams() {
    let bank = "bank".parse().unwrap();
    let boast = |i: usize| if i == 0 { u32::MAX } else { 10 };
    let ready: Vec<_> = nodes(4990).into_iter().enumerate().map(|(i, n)| (n, boast(i))).collect();
    let edge = edge_with(&ready, 4990);
    let permit = permit(&edge);
    let routes = (0..300).map(|seed| route(&edge, &bank, &permit, seed).unwrap().nodes);
    let routes: Vec<_> = routes.collect();
    assert!(routes.iter().all(|nodes| nodes.len() == ROUTE_NODES));
    let first = routes.iter().filter(|nodes| nodes[0] == ready[0].0).count();
    // It counts as 10,000 of 59,890 backends.
    assert!((25..=80).contains(&first), "{first} of 300");
}

#[test]
fn addresses_take_turns_by_family() {
    let list: Vec<SocketAddr> =
        ["1.1.1.1:1", "2.2.2.2:1", "[::1]:1", "3.3.3.3:1"].map(|s| s.parse().unwrap()).into();
    let order: Vec<String> = interleave_families(&list).iter().map(ToString::to_string).collect();
    assert_eq!(order, ["[::1]:1", "1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1"]);
}

proptest! {
    #[test]
    fn one_node_less_moves_no_other_hub(n in 3usize..40, gone in 0usize..40) {
        let all = nodes(n);
        let peer = "bank".parse().unwrap();
        let before = hubs(&all, &peer);
        let gone = &all[gone % n];
        let after = hubs(all.iter().filter(|m| *m != gone), &peer);
        for hub in before.iter().filter(|h| **h != gone) {
            prop_assert!(after.contains(hub));
        }
    }

}
