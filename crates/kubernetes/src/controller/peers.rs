//! The exchange between controller and process: nodes' reports of linked clusters, and how to get them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use adit_config::cluster::ClusterConfig;
use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::ClusterView;
use adit_pki::{Identity, TrustBundle};

use crate::summary::NodesSummary;

/// State of linked clusters, as our own nodes report it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkedClusters {
    /// True if at least one of our nodes reports now.
    pub reporting: bool,
    /// Every cluster that a node of ours reported recently. Nothing is known of a cluster that is
    /// missing here.
    pub clusters: BTreeMap<ClusterName, ObservedPeer>,
    /// The nodes' reports of themselves, without what changes all the time
    /// ([`NodesSummary::stable_part`]).
    pub nodes: Arc<NodesSummary>,
}

impl LinkedClusters {
    /// Returns what is known of a cluster now; `None` if no node reports, which says nothing about
    /// the cluster.
    #[must_use]
    pub fn observed(&self, cluster: &ClusterName) -> Option<&ObservedPeer> {
        self.clusters.get(cluster).filter(|_| self.reporting)
    }

    /// Returns the view of a cluster that can be reached.
    #[must_use]
    pub fn live_view(&self, cluster: &ClusterName) -> Option<&ClusterView> {
        self.observed(cluster).filter(|observed| observed.live).map(|observed| &*observed.view)
    }
}

/// Our nodes' knowledge of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPeer {
    /// Its last view.
    pub view: Arc<ClusterView>,
    /// False if a node of ours reports that it has lost that cluster.
    pub live: bool,
}

/// Everything the process needs in order to observe our own nodes.
#[derive(Debug, Clone)]
pub struct ObserverConfig {
    /// The configuration in use.
    pub config: Arc<ClusterConfig>,
    /// Our own identity, `spiffe://TRUSTDOMAIN/adit/controller`; renewed at half of its life.
    pub identity: Arc<Identity>,
    /// This cluster's trust bundle.
    pub bundle: TrustBundle,
    /// Our nodes and their addresses.
    pub siblings: BTreeMap<NodeName, Vec<SocketAddr>>,
}
