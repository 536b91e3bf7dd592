//! Choices about links: the standing connections of a node, and the sources of its views.
//!
//! A hub for a peer cluster is connected with that cluster's hubs and learns from one of them; every
//! other node is connected with its own hubs and learns from one of those. So what stands grows with the
//! number of links, and with nodes plus nodes, never with nodes times nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::{hubs, stable_hash};
use crate::name::{ClusterName, NodeKey, NodeName};
use crate::shared_map::SharedMap;
use crate::snapshot::{ClusterView, Link, Seed, Snapshot};

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

/// True if this node is one of its cluster's hubs for `peer`.
#[must_use]
pub fn is_hub_for(now: &Snapshot, peer: &ClusterName) -> bool {
    own_hubs(now, peer).contains(&&now.local.node)
}

/// This cluster's hubs for `peer`.
#[must_use]
pub fn own_hubs<'a>(now: &'a Snapshot, peer: &ClusterName) -> Vec<&'a NodeName> {
    let this = Some(&now.local.node).filter(|node| !node.is_controller());
    hubs(now.siblings.keys().chain(this), peer)
}

/// The hubs of both sides of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkHubs {
    /// This cluster's.
    pub ours: Vec<NodeName>,
    /// The peer's, as far as its view is known.
    pub theirs: Vec<NodeName>,
}

type NodeAddresses = SharedMap<NodeName, Vec<SocketAddr>>;

/// The hubs of each link as they were found last. Finding them takes a look at every node of a cluster, and
/// they are wanted whenever any peer changes anything, for all links: so they are found anew only if the
/// nodes have changed.
#[derive(Debug, Default)]
pub struct HubCache {
    siblings: NodeAddresses,
    ours: BTreeMap<ClusterName, Vec<NodeName>>,
    theirs: BTreeMap<ClusterName, (NodeAddresses, Vec<NodeName>)>,
    /// Number of times that hubs were searched for.
    #[cfg(test)]
    found: usize,
}

impl HubCache {
    /// The hubs of the link with `peer`. `now` is always the same node's.
    pub fn hubs_of(
        &mut self,
        now: &Snapshot,
        peer: &ClusterName,
        view: Option<&ClusterView>,
    ) -> LinkHubs {
        if !self.siblings.is_same(&now.siblings) {
            self.siblings = SharedMap::clone(&now.siblings);
            self.ours.clear();
        }
        let owned = |nodes: Vec<&NodeName>| nodes.into_iter().cloned().collect::<Vec<_>>();
        let ours = match self.ours.get(peer) {
            Some(known) => known.clone(),
            None => {
                self.note_find();
                let found = owned(own_hubs(now, peer));
                self.ours.insert(peer.clone(), found.clone());
                found
            }
        };
        let Some(ClusterView { nodes, .. }) = view else {
            self.theirs.remove(peer);
            return LinkHubs { ours, theirs: Vec::new() };
        };
        let known = self.theirs.get(peer).filter(|(of, _)| of.is_same(nodes));
        let theirs = match known {
            Some((_, known)) => known.clone(),
            None => {
                self.note_find();
                let found = owned(hubs(nodes.keys(), &now.local.cluster));
                self.theirs.insert(peer.clone(), (nodes.clone(), found.clone()));
                found
            }
        };
        LinkHubs { ours, theirs }
    }

    /// Forgets all links but those that `keep` wants.
    pub fn retain(&mut self, keep: impl Fn(&ClusterName) -> bool) {
        self.ours.retain(|cluster, _| keep(cluster));
        self.theirs.retain(|cluster, _| keep(cluster));
    }

    fn note_find(&mut self) {
        #[cfg(test)]
        {
            self.found += 1;
        }
    }
}

/// The targets with which this node keeps standing connections for `link`, of which `hubs` are the hubs.
#[must_use]
pub fn standing_targets(
    now: &Snapshot,
    link: &Link,
    view: Option<&ClusterView>,
    hubs: &LinkHubs,
    reach: LinkReach,
) -> BTreeSet<StandingTarget> {
    let LinkHubs { ours, theirs } = hubs;
    let named_hub = ours.contains(&now.local.node);
    let mut targets = BTreeSet::new();
    let may_dial = !now.local.node.is_controller() && !link.seeds.is_empty();
    if (named_hub || reach.hubs_silent) && may_dial {
        let addresses = |n: &NodeName| view.and_then(|v| v.nodes.get(n));
        let can_dial = |n: &&NodeName| addresses(n).is_some_and(|a| is_dialable(a, &link.seeds));
        let node = |n: &NodeName| StandingTarget::Node(NodeKey::new(&link.cluster, n));
        targets.extend(theirs.iter().filter(can_dial).map(node));
        if targets.is_empty() || !reach.connected {
            targets.insert(StandingTarget::Seeds(link.cluster.clone()));
        }
    }
    if !named_hub || reach.stale {
        let others = ours.iter().filter(|n| now.siblings.get(*n).is_some_and(|a| !a.is_empty()));
        targets.extend(others.map(|n| StandingTarget::Node(NodeKey::new(&now.local.cluster, n))));
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
    now: &Snapshot,
    peer: &ClusterName,
    view: Option<&ClusterView>,
    connected: &BTreeSet<NodeKey>,
) -> Vec<(SourceRank, NodeKey)> {
    let this = &now.local;
    let ours = own_hubs(now, peer);
    let theirs = hubs(view.into_iter().flat_map(|v| v.nodes.keys()), &this.cluster);
    let is_hub = ours.contains(&&this.node);
    let rank = |NodeKey { cluster, node }: &NodeKey| match () {
        () if cluster == peer && is_hub && theirs.contains(&node) => Some(SourceRank::Preferred),
        () if cluster == peer => Some(SourceRank::Peer),
        () if *cluster != this.cluster || !ours.contains(&node) => None,
        () if is_hub => Some(SourceRank::SiblingHub),
        () => Some(SourceRank::Preferred),
    };
    let mut all: Vec<_> = connected.iter().filter_map(|c| Some((rank(c)?, c.clone()))).collect();
    all.sort_by_cached_key(|(rank, NodeKey { node, .. })| {
        (*rank, stable_hash([this.node.as_str(), node.as_str()]))
    });
    all
}

/// Those of a peer's announced addresses that may be dialled. Loopback and link-local addresses mean another
/// machine there than here, so they count only if our own seeds are such, too: on one machine.
#[must_use]
pub fn dialable_addresses(announced: &[SocketAddr], seeds: &[Seed]) -> Vec<SocketAddr> {
    let seeds_are_near = are_machine_local(seeds);
    announced.iter().filter(|a| may_dial(a, seeds_are_near)).copied().collect()
}

/// True if any of a peer's announced addresses may be dialled; see [`dialable_addresses`].
#[must_use]
pub fn is_dialable(announced: &[SocketAddr], seeds: &[Seed]) -> bool {
    let mut far = announced.iter().filter(|a| may_dial(a, true));
    // Most addresses need no look at the seeds.
    far.any(|a| !is_machine_local(a) || are_machine_local(seeds))
}

fn may_dial(address: &SocketAddr, seeds_are_near: bool) -> bool {
    let ip = address.ip().to_canonical();
    let never = ip.is_unspecified() || ip.is_multicast() || address.port() == 0;
    !never && (seeds_are_near || !is_machine_local(address))
}

fn is_machine_local(address: &SocketAddr) -> bool {
    match address.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        std::net::IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

fn are_machine_local(seeds: &[Seed]) -> bool {
    seeds.iter().any(|seed| match seed {
        Seed::Address(address) => is_machine_local(address),
        Seed::Name { host, .. } => &**host == "localhost",
    })
}

#[cfg(test)]
mod tests;
