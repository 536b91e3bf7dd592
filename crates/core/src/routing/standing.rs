//! Standing connections: with whom a node keeps them, and from whom it gets views.
//!
//! A hub for a peer cluster is connected with that cluster's hubs and subscribes to one of them; every
//! other node is connected with its own hubs and subscribes to one of those. So what stands grows with the
//! number of links, and with nodes plus nodes, never with nodes times nodes.

use std::collections::BTreeSet;

use super::addresses::is_dialable;
use super::hubs::{LinkHubs, hubs, own_hubs, stable_hash};
use crate::name::{ClusterName, NodeKey, NodeName};
use crate::snapshot::{ClusterView, Link, Snapshot};

/// The other end of a standing connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StandingTarget {
    /// Any node of this cluster that its seeds lead to.
    Seeds(ClusterName),
    /// This node of this cluster; of our own cluster if it is a sibling.
    Node(NodeKey),
}

impl StandingTarget {
    /// The cluster of the other end.
    #[must_use]
    pub fn cluster(&self) -> &ClusterName {
        match self {
            Self::Seeds(cluster) => cluster,
            Self::Node(key) => &key.cluster,
        }
    }
}

/// The state of a node's relation with another cluster at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkReach {
    /// A connection with one of its nodes exists, whoever dialled it.
    pub connected: bool,
    /// None of our own hubs for it has been connected for so long that this node acts as one.
    pub hubs_silent: bool,
    /// The view of it is too old, or there is none.
    pub stale: bool,
}

/// The targets with which this node keeps standing connections for `link`, of which `hubs` are the hubs.
#[must_use]
pub fn standing_targets(
    snapshot: &Snapshot,
    link: &Link,
    view: Option<&ClusterView>,
    hubs: &LinkHubs,
    reach: LinkReach,
) -> BTreeSet<StandingTarget> {
    let LinkHubs { own, peers } = hubs;
    let named_hub = own.contains(&snapshot.local.node);
    let mut targets = BTreeSet::new();
    let may_dial = !snapshot.local.node.is_controller() && !link.seeds.is_empty();
    if (named_hub || reach.hubs_silent) && may_dial {
        let addresses = |n: &NodeName| view.and_then(|v| v.nodes.get(n));
        let can_dial = |n: &&NodeName| addresses(n).is_some_and(|a| is_dialable(a, &link.seeds));
        let node = |n: &NodeName| StandingTarget::Node(NodeKey::new(&link.cluster, n));
        targets.extend(peers.iter().filter(can_dial).map(node));
        if targets.is_empty() || !reach.connected {
            targets.insert(StandingTarget::Seeds(link.cluster.clone()));
        }
    }
    if !named_hub || reach.stale {
        let others =
            own.iter().filter(|n| snapshot.siblings.get(*n).is_some_and(|a| !a.is_empty()));
        targets
            .extend(others.map(|n| StandingTarget::Node(NodeKey::new(&snapshot.local.cluster, n))));
    }
    targets
}

/// The rank of a source of a cluster's view, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceRank {
    /// The source that is meant: a hub of the peer's if this node is a hub, else a hub of our own cluster.
    Preferred,
    /// Any node of the peer.
    Peer,
    /// The other hub of our own cluster, which may reach nodes that we cannot.
    SiblingHub,
}

/// The sources from which to subscribe to the view of `peer`, best first, of those that are connected:
/// `connected` holds the nodes of `peer` and of our own cluster with which there is a connection. Among
/// equals the order differs from node to node, so that the hubs share the work.
#[must_use]
pub fn view_sources(
    snapshot: &Snapshot,
    peer: &ClusterName,
    view: Option<&ClusterView>,
    connected: &BTreeSet<NodeKey>,
) -> Vec<(SourceRank, NodeKey)> {
    let this = &snapshot.local;
    let own = own_hubs(snapshot, peer);
    let peers = hubs(view.into_iter().flat_map(|v| v.nodes.keys()), &this.cluster);
    let is_hub = own.contains(&&this.node);
    let rank = |NodeKey { cluster, node }: &NodeKey| match () {
        () if cluster == peer && is_hub && peers.contains(&node) => Some(SourceRank::Preferred),
        () if cluster == peer => Some(SourceRank::Peer),
        () if *cluster != this.cluster || !own.contains(&node) => None,
        () if is_hub => Some(SourceRank::SiblingHub),
        () => Some(SourceRank::Preferred),
    };
    let mut all: Vec<_> = connected.iter().filter_map(|c| Some((rank(c)?, c.clone()))).collect();
    all.sort_by_cached_key(|(rank, NodeKey { node, .. })| {
        (*rank, stable_hash([this.node.as_str(), node.as_str()]))
    });
    all
}

#[cfg(test)]
mod tests;
