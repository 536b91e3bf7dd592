//! `adit controller`: keeps the cluster's objects as the configuration and our nodes demand.
//!
//! Of several pods one is active, elected by a Lease ([`leader`]). It creates or reads the CA,
//! signs its nodes' certificates, and keeps Link, Export and Import objects, and the Services and
//! EndpointSlices of imports. The process feeds it with what nodes learn of linked clusters, as
//! [`ObservedPeers`]; it tells the process by [`ObserverConfig`] which nodes to ask.
//!
//! Each pass of [`reconcile`] reads the stores ([`stores`]), makes a plan ([`plan`], a pure
//! function) and writes the differences ([`write`]). A pass begins when anything changes; changes
//! that come at the same time share one pass.

mod addresses;
mod ca;
mod cluster_state;
mod conditions;
mod debounce;
mod events;
mod exports;
mod imports;
mod kagent;
mod leader;
mod network_migration;
mod plan;
mod ports;
mod reconcile;
mod signer;
mod slices;
mod stores;
mod write;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use adit_config::cluster::ClusterConfig;
use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::ClusterView;
use adit_pki::{Identity, TrustBundle};
use kube::Client;
use kube::api::Api;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::leader::LeaderElection;
use self::reconcile::Reconciler;
use crate::summary::NodesSummary;
use crate::tasks::{TaskEnded, Tasks};

/// State of linked clusters, as our own nodes report it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedPeers {
    /// True if at least one of our nodes reports now.
    pub reporting: bool,
    /// Every cluster that a node of ours reported recently. Nothing is known of a cluster that is
    /// missing here.
    pub clusters: BTreeMap<ClusterName, ObservedPeer>,
    /// The nodes' reports of themselves, without what changes all the time
    /// ([`NodesSummary::stable_part`]).
    pub nodes: Arc<NodesSummary>,
}

impl ObservedPeers {
    /// Returns what is known of a cluster now; `None` if no node reports, which says nothing about
    /// the cluster.
    #[must_use]
    pub fn observed(&self, cluster: &ClusterName) -> Option<&ObservedPeer> {
        self.clusters.get(cluster).filter(|_| self.reporting)
    }

    /// Returns the view of a cluster that can be reached.
    #[must_use]
    pub fn live_view(&self, cluster: &ClusterName) -> Option<&ClusterView> {
        self.observed(cluster).filter(|heard| heard.live).map(|heard| &*heard.view)
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

/// The pod that this controller runs in.
#[derive(Debug, Clone)]
pub struct ControllerSettings {
    /// The pod's name.
    pub pod_name: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// The pod's namespace.
    pub namespace: String,
}

/// Phase of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ControllerPhase {
    /// Another controller is active, or will be.
    #[default]
    Standby,
    /// Active, and reading the cluster's objects.
    Reading,
    /// Active, and waiting for a configuration that can be used.
    Waiting,
    /// Active.
    Active,
}

/// State of a controller, and what hinders it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ControllerState {
    /// Its phase.
    pub phase: ControllerPhase,
    /// The present problem, for people.
    pub trouble: Option<String>,
}

/// The reason why a controller cannot start, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The controller runs in another namespace than its objects.
    #[error(
        "the controller runs in namespace {0}, but all that belongs to it is in {namespace}: \
         install it there",
        namespace = crate::api::NAMESPACE
    )]
    Namespace(String),
    /// A task of it ended, and the rest would go on as if nothing had changed.
    #[error(transparent)]
    Ended(#[from] TaskEnded),
}

/// Runs until `stop`, then releases the lease. What `nodes` report of themselves is written on the
/// lease.
///
/// # Errors
/// [`ControllerError`] if it cannot start, or one of its tasks ends by itself. Every other failure
/// is retried, and shown through `state`.
pub async fn run(
    client: Client,
    settings: ControllerSettings,
    observer: watch::Sender<Option<Arc<ObserverConfig>>>,
    peers: watch::Receiver<Arc<ObservedPeers>>,
    nodes: watch::Receiver<Arc<NodesSummary>>,
    state: watch::Sender<ControllerState>,
    stop: CancellationToken,
) -> Result<(), ControllerError> {
    if settings.namespace != crate::api::NAMESPACE {
        return Err(ControllerError::Namespace(settings.namespace));
    }
    let identity = format!("{}_{}", settings.pod_name, settings.pod_uid);
    let leases = Api::namespaced(client.clone(), &settings.namespace);
    let lease = LeaderElection::new(leases, identity, state.subscribe(), nodes);
    let mut ended = Ok(());
    while !stop.is_cancelled() && ended.is_ok() {
        state.send_replace(ControllerState::default());
        tokio::select! {
            () = stop.cancelled() => break,
            () = lease.acquire() => {}
        }
        tracing::info!("this controller is active");
        // They end together with the reconciler.
        let mut tasks = Tasks::default();
        let (tell, hear) = (observer.clone(), peers.clone());
        let rounds = Reconciler::new(client.clone(), &settings, tell, hear, &state, &mut tasks);
        tokio::select! {
            () = stop.cancelled() => {}
            () = lease.hold() => tracing::warn!("the lease was lost, another controller may be active"),
            () = Box::pin(rounds.run(&lease)) => {}
            which = tasks.ended() => ended = Err(which.into()),
        }
        observer.send_replace(None);
    }
    lease.release().await;
    state.send_replace(ControllerState::default());
    ended
}

#[cfg(test)]
mod tests;
