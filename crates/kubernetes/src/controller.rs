//! `adit controller`: keeps the cluster's objects as the configuration and our nodes say.
//!
//! One of several pods is active, by a Lease. It makes or reads the CA, signs its nodes' certificates,
//! keeps Link, Export and Import objects, and the Services and EndpointSlices of imports. What nodes hear of
//! linked clusters reaches it through [`ObservedPeers`], which the process feeds; it tells the process through
//! [`ObserverConfig`] whom to listen to.
//!
//! Each round looks at all there is (`stores`), makes a plan (`plan`, a pure function) and writes the
//! differences (`write`). Rounds begin when anything changes; that many changes come at once is one round.

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

/// What our own nodes hear of linked clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedPeers {
    /// Whether any node of ours tells us anything now.
    pub reporting: bool,
    /// Each cluster of which a node of ours has told of late. Of one that is not here nobody knows anything.
    pub clusters: BTreeMap<ClusterName, ObservedPeer>,
    /// What our nodes say of themselves, as far as it lasts ([`NodesSummary::stable_part`]).
    pub nodes: Arc<NodesSummary>,
}

impl ObservedPeers {
    /// What is heard of a cluster now; none where nobody tells, which is no news about it.
    #[must_use]
    pub fn observed(&self, cluster: &ClusterName) -> Option<&ObservedPeer> {
        self.clusters.get(cluster).filter(|_| self.reporting)
    }

    /// What a cluster that is not lost says of itself.
    #[must_use]
    pub fn live_view(&self, cluster: &ClusterName) -> Option<&ClusterView> {
        self.observed(cluster).filter(|heard| heard.live).map(|heard| &*heard.view)
    }
}

/// What was heard of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPeer {
    /// What it last said of itself.
    pub view: Arc<ClusterView>,
    /// Whether it can be heard: not where a node of ours says that it has lost that cluster.
    pub live: bool,
}

/// What is needed in order to listen to our own nodes.
#[derive(Debug, Clone)]
pub struct ObserverConfig {
    /// The configuration in use.
    pub config: Arc<ClusterConfig>,
    /// Our own identity, `spiffe://TRUSTDOMAIN/adit/controller`; renewed at half of its life.
    pub identity: Arc<Identity>,
    /// This cluster's trust bundle.
    pub bundle: TrustBundle,
    /// Our nodes and where they can be dialled.
    pub siblings: BTreeMap<NodeName, Vec<SocketAddr>>,
}

/// Who we are.
#[derive(Debug, Clone)]
pub struct ControllerSettings {
    /// Our pod's name.
    pub pod_name: String,
    /// Our pod's UID.
    pub pod_uid: String,
    /// The namespace that we run in.
    pub namespace: String,
}

/// What a controller is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ControllerPhase {
    /// Another one is active, or will be.
    #[default]
    Standby,
    /// Active, and reading what the cluster holds.
    Reading,
    /// Active, and waiting for a configuration that can be used.
    Waiting,
    /// Active.
    Active,
}

/// What a controller is doing, and what keeps it from doing more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ControllerState {
    /// What it is doing.
    pub phase: ControllerPhase,
    /// What is wrong now; for people.
    pub trouble: Option<String>,
}

/// Why a controller could not run, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// It runs where its objects are not.
    #[error(
        "the controller runs in namespace {0}, but all that belongs to it is in {namespace}: \
         install it there",
        namespace = crate::api::NAMESPACE
    )]
    Namespace(String),
    /// A part of it is dead, and the rest would go on as if nothing had changed.
    #[error(transparent)]
    Ended(#[from] TaskEnded),
}

/// Runs until `stop`; then gives the lease back. What `nodes` say of themselves stands on the lease.
///
/// # Errors
/// [`ControllerError`] where it cannot begin, or a part of it ends by itself. Whatever else happens later is
/// retried, and told through `state`.
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
        // They end with the rounds.
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
