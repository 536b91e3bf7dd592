//! Runs a controller: waits for the lease, reconciles while it holds it, and releases it at the end.

use std::sync::Arc;

use adit_runtime::{TaskEnded, Tasks};
use kube::Client;
use kube::api::Api;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::leader::LeaderElection;
use super::peers::{LinkedClusters, ObserverConfig};
use super::phase::ControllerState;
use super::reconcile::Reconciler;
use crate::summary::NodesSummary;

/// The pod that this controller runs in.
#[derive(Debug, Clone)]
pub struct ControllerPod {
    /// The pod's name.
    pub pod_name: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// The pod's namespace.
    pub namespace: String,
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
    settings: ControllerPod,
    observer: watch::Sender<Option<Arc<ObserverConfig>>>,
    peers: watch::Receiver<Arc<LinkedClusters>>,
    nodes: watch::Receiver<Arc<NodesSummary>>,
    state: watch::Sender<ControllerState>,
    stop: CancellationToken,
) -> Result<(), ControllerError> {
    if settings.namespace != crate::api::NAMESPACE {
        return Err(ControllerError::Namespace(settings.namespace));
    }
    let identity = format!("{}_{}", settings.pod_name, settings.pod_uid);
    let leases = Api::namespaced(client.clone(), &settings.namespace);
    let lease = LeaderElection::new(leases, identity, state.clone(), nodes);
    let mut ended = Ok(());
    while !stop.is_cancelled() && ended.is_ok() {
        ControllerState::reset(&state);
        tokio::select! {
            () = stop.cancelled() => break,
            () = lease.acquire() => {}
        }
        tracing::info!("this controller is active");
        // They end together with the reconciler.
        let mut tasks = Tasks::default();
        let (tell, hear) = (observer.clone(), peers.clone());
        let rounds = Reconciler::new(
            client.clone(),
            settings.pod_name.clone(),
            tell,
            hear,
            &state,
            &mut tasks,
        );
        tokio::select! {
            () = stop.cancelled() => {}
            () = lease.hold() => tracing::warn!("the lease was lost, another controller may be active"),
            () = Box::pin(rounds.run(&lease)) => {}
            which = tasks.ended() => ended = Err(which.into()),
        }
        observer.send_replace(None);
    }
    lease.release().await;
    ControllerState::reset(&state);
    ended
}
