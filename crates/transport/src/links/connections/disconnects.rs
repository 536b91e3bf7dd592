//! The reasons why nodes that were connected are not any more: for status, and for those whose stream is
//! refused.
//!
//! Owns the last disconnect of each node until it is connected again. The connection table decides when a
//! node counts as lost. A connection that was closed because nothing used it is no disconnect.

use std::fmt;
use std::time::Duration;

use adit_core::name::{ClusterName, NodeKey, NodeName};
use tokio::time::Instant;

use super::recent_nodes::RecentNodes;
use crate::endpoint::CloseReason;

/// Time for which a disconnect is kept, from when it happened: older ones are forgotten when there is a new
/// one, since some nodes never come back.
const DISCONNECT_LIFETIME: Duration = Duration::from_secs(3600);

/// The way a node's last usable connection was lost.
#[derive(Debug, Clone)]
pub(crate) enum DisconnectReason {
    /// The peer said that it takes no new streams.
    Leaving,
    /// The connection ended.
    Ended(CloseReason),
    /// The peer is received, and acknowledges nothing.
    Unacknowledged,
}

/// A disconnect: when, and why.
#[derive(Debug, Clone)]
pub(crate) struct Disconnect {
    pub(crate) at: Instant,
    reason: DisconnectReason,
}

/// The last disconnect of each node that is not connected since, as far as [`RecentNodes`] keeps them.
#[derive(Debug)]
pub(crate) struct Disconnects(RecentNodes<Disconnect>);

impl Default for Disconnects {
    fn default() -> Self {
        Self(RecentNodes::new(DISCONNECT_LIFETIME))
    }
}

impl Disconnects {
    /// Records that the node has no usable connection any more. The record is worth less if its cluster does
    /// not announce the node.
    pub(crate) fn record(&self, key: &NodeKey, is_announced: bool, reason: DisconnectReason) {
        self.0.insert(key, is_announced, Disconnect { at: Instant::now(), reason });
    }

    /// Forgets the disconnect of a node that is connected again.
    pub(crate) fn forget(&self, key: &NodeKey) {
        self.0.remove(key);
    }

    /// Forgets the clusters that `keep` does not want.
    pub(crate) fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.0.retain(keep);
    }

    /// The last disconnect of this node.
    pub(crate) fn get(&self, key: &NodeKey) -> Option<Disconnect> {
        self.0.get(key)
    }

    /// The last disconnect among a cluster's nodes.
    pub(crate) fn last(&self, cluster: &ClusterName) -> Option<(NodeName, Disconnect)> {
        self.0.last(cluster)
    }
}

impl Disconnect {
    /// True if the node said that it is going away.
    pub(crate) fn is_leaving(&self) -> bool {
        matches!(self.reason, DisconnectReason::Leaving)
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = self.at.elapsed().as_secs();
        match &self.reason {
            DisconnectReason::Unacknowledged => {
                write!(f, "it has acknowledged nothing since {ago} s ago")
            }
            DisconnectReason::Leaving => write!(f, "it said {ago} s ago that it is going away"),
            DisconnectReason::Ended(closed) => {
                write!(f, "its connection ended {ago} s ago: {closed}")
            }
        }
    }
}
