//! The other nodes of this cluster, found by name and by address.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use crate::name::NodeName;
use crate::shared_map::SharedMap;

type SiblingAddresses = SharedMap<NodeName, Vec<SocketAddr>>;

/// The other nodes of a cluster and where they can be dialled: a map by name, cheap to copy.
#[derive(Debug, Clone, Default)]
pub struct SiblingTable {
    nodes: SiblingAddresses,
    /// Their addresses, in canonical form: made when one is first looked for, and shared by all copies. A
    /// walk through thousands of nodes for each connection of an unknown source would cost too much.
    addresses: Arc<OnceLock<HashSet<IpAddr>>>,
}

impl SiblingTable {
    /// True if one of them is at this address, which is in its canonical form.
    #[must_use]
    pub fn is_at(&self, ip: IpAddr) -> bool {
        let all = || self.nodes.values().flatten().map(|a| a.ip().to_canonical()).collect();
        self.addresses.get_or_init(all).contains(&ip)
    }
}

impl Deref for SiblingTable {
    type Target = SiblingAddresses;

    fn deref(&self) -> &SiblingAddresses {
        &self.nodes
    }
}

impl DerefMut for SiblingTable {
    fn deref_mut(&mut self) -> &mut SiblingAddresses {
        // Other copies keep theirs.
        self.addresses = Arc::default();
        &mut self.nodes
    }
}

impl PartialEq for SiblingTable {
    fn eq(&self, other: &Self) -> bool {
        self.nodes == other.nodes
    }
}

impl Eq for SiblingTable {}

impl From<SiblingAddresses> for SiblingTable {
    fn from(nodes: SiblingAddresses) -> Self {
        Self { nodes, addresses: Arc::default() }
    }
}

impl From<BTreeMap<NodeName, Vec<SocketAddr>>> for SiblingTable {
    fn from(nodes: BTreeMap<NodeName, Vec<SocketAddr>>) -> Self {
        SiblingAddresses::from(nodes).into()
    }
}

impl<const N: usize> From<[(NodeName, Vec<SocketAddr>); N]> for SiblingTable {
    fn from(nodes: [(NodeName, Vec<SocketAddr>); N]) -> Self {
        nodes.into_iter().collect()
    }
}

impl FromIterator<(NodeName, Vec<SocketAddr>)> for SiblingTable {
    fn from_iter<I: IntoIterator<Item = (NodeName, Vec<SocketAddr>)>>(nodes: I) -> Self {
        nodes.into_iter().collect::<SiblingAddresses>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> (NodeName, Vec<SocketAddr>) {
        (format!("e{n}").parse().unwrap(), vec![SocketAddr::from(([172, 18, 1, n], 7843))])
    }

    #[test]
    fn addresses_follow_the_nodes_and_are_found_once_for_all_copies() {
        let at = |table: &SiblingTable, n: u8| table.is_at([172, 18, 1, n].into());
        let mut table: SiblingTable = [node(2), node(3)].into();
        let before = table.clone();
        assert_eq!([1, 2, 3, 4].map(|n| at(&table, n)), [false, true, true, false]);
        assert!(before.addresses.get().is_some(), "found for the copy, too");
        table.insert(node(4).0, node(4).1);
        table.remove(&node(2).0);
        assert_eq!([1, 2, 3, 4].map(|n| at(&table, n)), [false, false, true, true]);
        assert_eq!([2, 4].map(|n| at(&before, n)), [true, false]);
        table.extend([node(1)]);
        assert!(at(&table, 1));
    }
}
