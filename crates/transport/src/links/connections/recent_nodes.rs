//! Records of nodes of late, bounded for each cluster.
//!
//! A peer's certificate names its node, so a cluster can have as many names as it likes. Records of nodes
//! that their cluster announces are kept for a while, and of some others, the latest only; each cluster has
//! room of its own.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use adit_core::name::{ClusterName, NodeKey, NodeName};
use adit_runtime::Mutex;
use tokio::time::Instant;

/// Announced nodes of one cluster of which something is kept: as many as it may be connected with, half
/// of the time.
const MAX_ANNOUNCED: usize = 1024;
/// The most records of other nodes: enough for status to say what became of one.
const MAX_OTHERS: usize = 16;

/// A record of each of the nodes that were recorded lately.
#[derive(Debug)]
pub(crate) struct RecentNodes<T> {
    lifetime: Duration,
    clusters: Mutex<HashMap<ClusterName, RecentEntries<T>>>,
}

/// The records of one cluster.
#[derive(Debug)]
struct RecentEntries<T> {
    announced: BTreeMap<NodeName, (Instant, T)>,
    others: BTreeMap<NodeName, (Instant, T)>,
}

impl<T> Default for RecentEntries<T> {
    fn default() -> Self {
        Self { announced: BTreeMap::new(), others: BTreeMap::new() }
    }
}

impl<T: Clone> RecentNodes<T> {
    /// A record is kept so long at least, if there is room; it goes when another of its cluster is inserted
    /// later.
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { lifetime, clusters: Mutex::default() }
    }

    /// Inserts the record of a node, in the place of the one before.
    pub(crate) fn insert(&self, NodeKey { cluster, node }: &NodeKey, is_announced: bool, value: T) {
        let now = Instant::now();
        let mut clusters = self.clusters.lock();
        let RecentEntries { announced, others } = clusters.entry(cluster.clone()).or_default();
        let (into, other, most) = match is_announced {
            true => (announced, others, MAX_ANNOUNCED),
            false => (others, announced, MAX_OTHERS),
        };
        other.remove(node);
        into.retain(|_, (at, _)| *at + self.lifetime > now);
        into.insert(node.clone(), (now, value));
        if into.len() > most
            && let Some(oldest) = into.iter().min_by_key(|(_, (at, _))| *at)
        {
            let oldest = oldest.0.clone();
            into.remove(&oldest);
        }
    }

    pub(crate) fn remove(&self, NodeKey { cluster, node }: &NodeKey) {
        if let Some(records) = self.clusters.lock().get_mut(cluster) {
            records.announced.remove(node);
            records.others.remove(node);
        }
    }

    /// Forgets the clusters that `keep` does not want.
    pub(crate) fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.clusters.lock().retain(|cluster, _| keep(cluster));
    }

    pub(crate) fn get(&self, NodeKey { cluster, node }: &NodeKey) -> Option<T> {
        let clusters = self.clusters.lock();
        let records = clusters.get(cluster)?;
        let found = records.announced.get(node).or_else(|| records.others.get(node))?;
        Some(found.1.clone())
    }

    /// The latest record of all nodes of a cluster.
    pub(crate) fn last(&self, cluster: &ClusterName) -> Option<(NodeName, T)> {
        let clusters = self.clusters.lock();
        let (node, (_, value)) = clusters.get(cluster)?.iter().max_by_key(|(_, (at, _))| *at)?;
        Some((node.clone(), value.clone()))
    }

    /// All records of a cluster's nodes.
    pub(crate) fn all(&self, cluster: &ClusterName) -> Vec<(NodeName, T)> {
        let clusters = self.clusters.lock();
        let records = clusters.get(cluster).into_iter().flat_map(RecentEntries::iter);
        records.map(|(node, (_, value))| (node.clone(), value.clone())).collect()
    }
}

impl<T> RecentEntries<T> {
    fn iter(&self) -> impl Iterator<Item = (&NodeName, &(Instant, T))> {
        self.announced.iter().chain(&self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> NodeName {
        format!("invented-{n}").parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_thousand_invented_names_take_a_handful_of_places_and_no_other_nodes() {
        let recent = RecentNodes::new(Duration::from_secs(3600));
        let (bank, shop): (ClusterName, ClusterName) =
            ("bank".parse().unwrap(), "shop".parse().unwrap());
        let b1: NodeName = "b1".parse().unwrap();
        let (bank_b1, shop_b1) = (NodeKey::new(&bank, &b1), NodeKey::new(&shop, &b1));
        recent.insert(&bank_b1, true, 0);
        recent.insert(&shop_b1, false, 1);
        for n in 0..100_000 {
            tokio::time::advance(Duration::from_micros(1)).await;
            recent.insert(&NodeKey::new(&bank, &name(n)), false, n);
        }
        assert_eq!(recent.all(&bank).len(), MAX_OTHERS + 1);
        assert_eq!((recent.get(&bank_b1), recent.get(&shop_b1)), (Some(0), Some(1)));
        assert_eq!(recent.last(&bank), Some((name(99_999), 99_999)), "the latest are kept");
        // As many that are announced are no better.
        for n in 0..MAX_ANNOUNCED + 5000 {
            recent.insert(&NodeKey::new(&bank, &name(n)), true, n);
        }
        assert_eq!(recent.all(&bank).len(), MAX_OTHERS + MAX_ANNOUNCED);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_goes_and_what_is_announced_later_has_one_place() {
        let recent = RecentNodes::new(Duration::from_secs(10));
        let bank: ClusterName = "bank".parse().unwrap();
        let key = |n| NodeKey::new(&bank, &name(n));
        recent.insert(&key(1), false, 1);
        recent.insert(&key(1), true, 2);
        assert_eq!(recent.all(&bank), [(name(1), 2)]);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(recent.get(&key(1)), Some(2), "until there is something newer");
        recent.insert(&key(2), true, 3);
        assert_eq!(recent.all(&bank), [(name(2), 3)]);
        recent.remove(&key(2));
        assert_eq!(recent.last(&bank), None);
    }
}
