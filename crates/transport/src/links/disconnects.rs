//! The reasons why nodes that were connected are not any more: for status, and for those whose stream is
//! refused.
//!
//! Owns the last disconnect of each node until it is connected again. The connection table decides when a
//! node counts as lost. A connection that was closed because nothing used it is no disconnect.

use std::fmt;
use std::time::Duration;

use adit_core::name::{ClusterName, NodeName};
use tokio::time::Instant;

use super::dial_history::NodeKey;
use super::recent_nodes::RecentNodes;
use crate::endpoint::CloseReason;

/// Time for which a disconnect is kept, from when it happened: older ones are forgotten when there is a new
/// one, since some nodes never come back.
const DISCONNECT_LIFETIME: Duration = Duration::from_secs(3600);

/// The way a node's last usable connection was lost.
#[derive(Debug, Clone)]
pub(super) enum DisconnectReason {
    /// The peer said that it takes no new streams.
    Leaving,
    /// The connection ended.
    Ended(CloseReason),
}

/// A disconnect: when, and why.
#[derive(Debug, Clone)]
pub(super) struct Disconnect {
    pub(super) at: Instant,
    reason: DisconnectReason,
}

/// The last loss of each node that is not connected since, as far as [`RecentNodes`] keeps them.
#[derive(Debug)]
pub(super) struct Disconnects(RecentNodes<Disconnect>);

impl Default for Disconnects {
    fn default() -> Self {
        Self(RecentNodes::new(DISCONNECT_LIFETIME))
    }
}

impl Disconnects {
    /// Records that the node has no usable connection any more. The record is worth less if its cluster does
    /// not announce the node.
    pub(super) fn record(
        &self,
        (cluster, node): &NodeKey,
        is_announced: bool,
        how: DisconnectReason,
    ) {
        self.0.insert(cluster, node, is_announced, Disconnect { at: Instant::now(), reason: how });
    }

    /// The node is connected.
    pub(super) fn forget(&self, (cluster, node): &NodeKey) {
        self.0.remove(cluster, node);
    }

    /// Forgets the clusters that `keep` does not want.
    pub(super) fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.0.retain(keep);
    }

    /// The last disconnect of this node.
    pub(super) fn get(&self, (cluster, node): &NodeKey) -> Option<Disconnect> {
        self.0.get(cluster, node)
    }

    /// The last loss among a cluster's nodes.
    pub(super) fn last(&self, cluster: &ClusterName) -> Option<(NodeName, Disconnect)> {
        self.0.last(cluster)
    }
}

impl Disconnect {
    /// True if the node said that it is going away.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.reason, DisconnectReason::Leaving)
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = self.at.elapsed().as_secs();
        match &self.reason {
            DisconnectReason::Leaving => write!(f, "it said {ago} s ago that it is going away"),
            DisconnectReason::Ended(closed) => {
                write!(f, "its connection ended {ago} s ago: {closed}")
            }
        }
    }
}
