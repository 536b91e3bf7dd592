//! Permits of connections: each has one from the moment in which its peer is known to its end.
//!
//! A connection costs memory before its hello has come, so its permit is taken before that. Owns how many
//! connections each cluster and node has, and how fast each cluster's nodes connect.
//! [`adit_core::admission::connection_limits`] decides how many there may be.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::PeerRefusal;
use adit_core::admission::connection_limits::{
    self, ConnectionCounts, ConnectionLimits, LimitReached,
};
use adit_core::admission::rate_limit::TokenBucket;
use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeKey, NodeName};
use adit_core::snapshot::Snapshot;
use adit_runtime::Mutex;
use tokio::time::Instant;

/// The interval at which an announced node without a connection is let in although its cluster's nodes
/// connect too often.
const RETURN_INTERVAL: Duration = Duration::from_secs(5);

/// All permits.
#[derive(Debug)]
pub(crate) struct ConnectionPermits {
    started_at: Instant,
    clusters: Mutex<BTreeMap<ClusterName, ClusterPermits>>,
}

/// The connections of one cluster.
#[derive(Debug, Default)]
struct ClusterPermits {
    total: usize,
    unannounced: usize,
    nodes: HashMap<NodeName, usize>,
    connect_bucket: TokenBucket,
    /// The times at which an announced node was let in beyond the rate, lately: it had no connection.
    returned_at: HashMap<NodeName, Duration>,
}

/// The permit of one connection. Dropping it gives its place back.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    permits: Arc<ConnectionPermits>,
    node: NodeKey,
    is_announced: bool,
}

/// The facts about a node that wants a permit.
pub(crate) struct PermitRequest<'a> {
    pub(crate) node: &'a NodeKey,
    pub(crate) is_announced: bool,
    /// Nodes that its cluster announces; 0 while there is no view of it.
    pub(crate) members: usize,
    /// True if it came by itself, rather than being dialled by us.
    pub(crate) is_inbound: bool,
}

impl Default for ConnectionPermits {
    fn default() -> Self {
        Self { started_at: Instant::now(), clusters: Mutex::default() }
    }
}

impl ConnectionPermits {
    /// Takes a permit. `snapshot` says which clusters share the places.
    ///
    /// # Errors
    /// The node comes too often, or there is no place for it.
    pub(crate) fn acquire(
        self: &Arc<Self>,
        limits: ConnectionLimits,
        snapshot: &Snapshot,
        request: &PermitRequest<'_>,
    ) -> Result<ConnectionPermit, PeerRefusal> {
        let NodeKey { cluster, node } = request.node;
        let over = |reason| Err(PeerRefusal { code: Code::OverLimit, reason });
        let mut clusters = self.clusters.lock();
        let guaranteed = limits.guaranteed(snapshot.links.len());
        let linked = clusters.iter().filter(|(name, _)| **name != snapshot.local.cluster);
        let lent = linked.map(|(_, of_cluster)| of_cluster.total.saturating_sub(guaranteed)).sum();
        let of_cluster = clusters.entry(cluster.clone()).or_default();
        let allowed = connection_limits::connect_rate(request.members);
        let since = self.started_at.elapsed();
        if request.is_inbound
            && !of_cluster.connect_bucket.try_take(since, allowed)
            && !of_cluster.may_return(request, since)
        {
            return over(format!("nodes of {cluster} connect too often"));
        }
        let counts = ConnectionCounts {
            with_node: of_cluster.nodes.get(node).copied().unwrap_or_default(),
            with_cluster: of_cluster.total,
            with_unannounced: of_cluster.unannounced,
            is_announced: request.is_announced,
            members: request.members,
        };
        let admitted = match *cluster == snapshot.local.cluster {
            true => limits.admit_own_cluster(&counts),
            false => limits.admit(&counts, snapshot.links.len(), lent),
        };
        if let Err(full) = admitted {
            let ConnectionCounts { with_node, with_cluster, with_unannounced, .. } = counts;
            return over(match full {
                LimitReached::Node => {
                    format!(
                        "there are {with_node} connections with node {node} of {cluster} already"
                    )
                }
                LimitReached::Cluster => {
                    format!("there are {with_cluster} connections with {cluster} already")
                }
                LimitReached::Unannounced => format!(
                    "there are {with_unannounced} connections with nodes that {cluster} has not announced already"
                ),
                LimitReached::Total => {
                    format!("all places are taken, and {cluster} has {with_cluster} of them")
                }
            });
        }
        of_cluster.total += 1;
        of_cluster.unannounced += usize::from(!request.is_announced);
        *of_cluster.nodes.entry(node.clone()).or_default() += 1;
        let (node, is_announced) = (request.node.clone(), request.is_announced);
        Ok(ConnectionPermit { permits: Arc::clone(self), node, is_announced })
    }

    /// Forgets the clusters that `keep` does not want and that have no permit any more.
    pub(crate) fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.clusters.lock().retain(|cluster, of_cluster| of_cluster.total > 0 || keep(cluster));
    }
}

impl ClusterPermits {
    /// True if this is the first connection of an announced node after a while. If all of a cluster's nodes
    /// come back at once, with several connections each, no node's second keeps out another's first. No more
    /// names are remembered than are announced.
    fn may_return(&mut self, request: &PermitRequest<'_>, now: Duration) -> bool {
        let NodeKey { node, .. } = request.node;
        // While no view names the nodes, all count as announced.
        let is_member = request.is_announced && request.members > 0;
        if !is_member || self.nodes.contains_key(node) {
            return false;
        }
        if self.returned_at.len() >= request.members {
            self.returned_at.retain(|_, at| *at + RETURN_INTERVAL > now);
        }
        let is_due = self.returned_at.get(node).is_none_or(|at| *at + RETURN_INTERVAL <= now);
        if is_due {
            self.returned_at.insert(node.clone(), now);
        }
        is_due
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let NodeKey { cluster, node } = &self.node;
        let mut clusters = self.permits.clusters.lock();
        let Some(of_cluster) = clusters.get_mut(cluster) else { return };
        of_cluster.total -= 1;
        of_cluster.unannounced -= usize::from(!self.is_announced);
        if let Some(with_node) = of_cluster.nodes.get_mut(node) {
            *with_node -= 1;
            if *with_node == 0 {
                of_cluster.nodes.remove(node);
            }
        }
    }
}
