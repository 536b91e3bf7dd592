//! Why nodes that were connected are not any more: for status, and for those whose stream is refused.
//!
//! Owns the last loss of each node until it is connected again. When a node counts as lost is
//! [`super::register`]'s to say. A connection that was closed because nothing used it is no loss.

use std::fmt;
use std::time::Duration;

use adit_core::name::{ClusterName, NodeName};
use tokio::time::Instant;

use super::dials::Node;
use super::recent::Recent;
use crate::endpoint::Closed;

/// Losses older than this are forgotten when there is a new one: nodes come and go for good.
const KEPT: Duration = Duration::from_secs(3600);

/// How a node's last usable connection was lost.
#[derive(Debug, Clone)]
pub(super) enum How {
    /// The peer said that it takes nothing new.
    Leaving,
    /// It ended.
    Ended(Closed),
}

/// When and how.
#[derive(Debug, Clone)]
pub(super) struct Loss {
    pub(super) at: Instant,
    how: How,
}

/// The last loss of each node that is not connected since, as far as [`Recent`] keeps them.
#[derive(Debug)]
pub(super) struct Losses(Recent<Loss>);

impl Default for Losses {
    fn default() -> Self {
        Self(Recent::new(KEPT))
    }
}

impl Losses {
    /// The node has no usable connection any more. It counts for less where its cluster does not announce
    /// it.
    pub(super) fn lost(&self, (cluster, node): &Node, is_announced: bool, how: How) {
        self.0.note(cluster, node, is_announced, Loss { at: Instant::now(), how });
    }

    /// The node is connected.
    pub(super) fn forget(&self, (cluster, node): &Node) {
        self.0.forget(cluster, node);
    }

    /// Forgets the clusters that `keep` does not want.
    pub(super) fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.0.retain(keep);
    }

    /// How this node was lost.
    pub(super) fn of(&self, (cluster, node): &Node) -> Option<Loss> {
        self.0.get(cluster, node)
    }

    /// The last loss among a cluster's nodes.
    pub(super) fn last(&self, cluster: &ClusterName) -> Option<(NodeName, Loss)> {
        self.0.last(cluster)
    }
}

impl Loss {
    /// Whether the node said that it is going away.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.how, How::Leaving)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = self.at.elapsed().as_secs();
        match &self.how {
            How::Leaving => write!(f, "it said {ago} s ago that it is going away"),
            How::Ended(closed) => write!(f, "its connection ended {ago} s ago: {closed}"),
        }
    }
}
