//! Why nodes that were connected are not any more: for status, and for those whose stream is refused.
//!
//! Owns the last loss of each node until it is connected again. When a node counts as lost is
//! [`super::register`]'s to say. A connection that was closed because nothing used it is no loss.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use adit_core::name::{ClusterName, NodeName};
use tokio::time::Instant;

use super::dials::Node;
use super::register::lock;
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

/// The last loss of each node that is not connected since.
#[derive(Debug, Default)]
pub(super) struct Losses(Mutex<HashMap<ClusterName, BTreeMap<NodeName, Loss>>>);

impl Losses {
    /// The node has no usable connection any more.
    pub(super) fn lost(&self, (cluster, node): &Node, how: How) {
        let now = Instant::now();
        let mut losses = lock(&self.0);
        losses.values_mut().for_each(|of| of.retain(|_, loss| loss.at + KEPT > now));
        losses.retain(|_, of| !of.is_empty());
        losses.entry(cluster.clone()).or_default().insert(node.clone(), Loss { at: now, how });
    }

    /// The node is connected.
    pub(super) fn forget(&self, (cluster, node): &Node) {
        if let Some(of) = lock(&self.0).get_mut(cluster) {
            of.remove(node);
        }
    }

    /// How this node was lost.
    pub(super) fn of(&self, (cluster, node): &Node) -> Option<Loss> {
        lock(&self.0).get(cluster)?.get(node).cloned()
    }

    /// The last loss among a cluster's nodes.
    pub(super) fn last(&self, cluster: &ClusterName) -> Option<(NodeName, Loss)> {
        let losses = lock(&self.0);
        let last = losses.get(cluster)?.iter().max_by_key(|(_, loss)| loss.at)?;
        Some((last.0.clone(), last.1.clone()))
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
