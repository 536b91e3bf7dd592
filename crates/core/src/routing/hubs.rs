//! Hubs: the nodes of a cluster that hold its standing connections to one other cluster.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::name::{ClusterName, NodeName};
use crate::shared_map::SharedMap;
use crate::snapshot::{ClusterView, Snapshot};

/// Number of nodes of a cluster that hold its standing connections to one other cluster: one, and one more in
/// case that one dies.
pub const HUBS: usize = 2;

/// A 64-bit hash that is the same on every node, build and version (FNV-1a with SplitMix64's finish),
/// because all nodes of a cluster must agree on its hubs.
pub(super) fn stable_hash(parts: [&str; 2]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|p| p.bytes().chain([0])) {
        h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix_bits(h)
}

pub(super) fn mix_bits(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The hubs of a cluster for its link with `peer`: the first [`HUBS`] of `members` by rendezvous hash, so
/// that one node more or less moves no other hub. (Thaler & Ravishankar, 1998.)
pub fn hubs<'a>(
    members: impl IntoIterator<Item = &'a NodeName>,
    peer: &ClusterName,
) -> Vec<&'a NodeName> {
    let mut best: Vec<(Reverse<u64>, &NodeName)> = Vec::with_capacity(HUBS + 1);
    for member in members {
        let ranked = (Reverse(stable_hash([peer.as_str(), member.as_str()])), member);
        // There are two of them and may be thousands of members: nothing else is kept or sorted.
        if let Err(at) = best.binary_search(&ranked) {
            best.insert(at, ranked);
            best.truncate(HUBS);
        }
    }
    best.into_iter().map(|(_, node)| node).collect()
}

/// True if this node is a hub for one of its links.
#[must_use]
pub fn is_any_hub(snapshot: &Snapshot) -> bool {
    let this = &snapshot.local.node;
    let members = || snapshot.siblings.keys().chain([this]);
    snapshot.links.keys().any(|peer| hubs(members(), peer).contains(&this))
}

/// True if this node is one of its cluster's hubs for `peer`.
#[must_use]
pub fn is_hub_for(snapshot: &Snapshot, peer: &ClusterName) -> bool {
    own_hubs(snapshot, peer).contains(&&snapshot.local.node)
}

/// This cluster's hubs for `peer`.
#[must_use]
pub fn own_hubs<'a>(snapshot: &'a Snapshot, peer: &ClusterName) -> Vec<&'a NodeName> {
    let this = Some(&snapshot.local.node).filter(|node| !node.is_controller());
    hubs(snapshot.siblings.keys().chain(this), peer)
}

/// The hubs of both sides of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkHubs {
    /// This cluster's.
    pub own: Vec<NodeName>,
    /// The peer's, as far as its view is known.
    pub peers: Vec<NodeName>,
}

type NodeAddresses = SharedMap<NodeName, Vec<SocketAddr>>;

/// The hubs of each link as they were found last. Finding them takes a look at every node of a cluster, and
/// they are wanted whenever any peer changes anything, for all links: so they are found anew only if the
/// nodes have changed.
#[derive(Debug, Default)]
pub struct HubCache {
    siblings: NodeAddresses,
    own: BTreeMap<ClusterName, Vec<NodeName>>,
    peers: BTreeMap<ClusterName, (NodeAddresses, Vec<NodeName>)>,
    /// Number of times that hubs were searched for.
    #[cfg(test)]
    pub(super) found: usize,
}

impl HubCache {
    /// The hubs of the link with `peer`. `snapshot` is always of the same node.
    pub fn hubs_of(
        &mut self,
        snapshot: &Snapshot,
        peer: &ClusterName,
        view: Option<&ClusterView>,
    ) -> LinkHubs {
        if !self.siblings.is_same(&snapshot.siblings) {
            self.siblings = SharedMap::clone(&snapshot.siblings);
            self.own.clear();
        }
        let owned = |nodes: Vec<&NodeName>| nodes.into_iter().cloned().collect::<Vec<_>>();
        let own = match self.own.get(peer) {
            Some(known) => known.clone(),
            None => {
                self.note_find();
                let found = owned(own_hubs(snapshot, peer));
                self.own.insert(peer.clone(), found.clone());
                found
            }
        };
        let Some(ClusterView { nodes, .. }) = view else {
            self.peers.remove(peer);
            return LinkHubs { own, peers: Vec::new() };
        };
        let known = self.peers.get(peer).filter(|(of, _)| of.is_same(nodes));
        let peers = match known {
            Some((_, known)) => known.clone(),
            None => {
                self.note_find();
                let found = owned(hubs(nodes.keys(), &snapshot.local.cluster));
                self.peers.insert(peer.clone(), (nodes.clone(), found.clone()));
                found
            }
        };
        LinkHubs { own, peers }
    }

    /// Forgets all links but those that `keep` wants.
    pub fn retain(&mut self, keep: impl Fn(&ClusterName) -> bool) {
        self.own.retain(|cluster, _| keep(cluster));
        self.peers.retain(|cluster, _| keep(cluster));
    }

    fn note_find(&mut self) {
        #[cfg(test)]
        {
            self.found += 1;
        }
    }
}
