//! Merges what is believed, from wherever it comes, into the one value that the data path reads.
//!
//! The configuration, what Kubernetes adds to it, what peers say of themselves and which backends answer
//! become a [`Snapshot`]: as a pure function ([`SnapshotBuilder::from_config`], [`SnapshotBuilder::with_kubernetes`],
//! [`SnapshotBuilder::snapshot`]) and as the task that publishes a new one when any of them changes ([`run`]).

mod base;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::rate_limit::cooldown;
use adit_core::fault::BackendStates;
use adit_core::snapshot::Snapshot;
use adit_kubernetes::node::state::NodeState;
use adit_runtime::publish_if_changed;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

pub use self::base::{PeerViews, SnapshotBuilder};

/// The least time between two snapshots: each wakes whoever acts on one, and any of many peers can have
/// one made.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(10);

/// The sources of a snapshot's parts.
#[derive(Debug)]
pub struct SnapshotSources {
    base: watch::Receiver<SnapshotBuilder>,
    cluster: Option<watch::Receiver<Arc<NodeState>>>,
    views: watch::Receiver<PeerViews>,
    backend_states: watch::Receiver<BackendStates>,
    /// Configuration and Kubernetes merged, as they were last.
    merged: SnapshotBuilder,
    /// `merged` with the backend states applied. `None` after either has changed, until the next snapshot is made.
    with_states: Option<SnapshotBuilder>,
}

impl SnapshotSources {
    /// The configuration's part, what Kubernetes adds (where the node runs there), what peers say of
    /// themselves, and which backends do not answer.
    #[must_use]
    pub fn new(
        mut base: watch::Receiver<SnapshotBuilder>,
        mut cluster: Option<watch::Receiver<Arc<NodeState>>>,
        views: watch::Receiver<PeerViews>,
        down: watch::Receiver<BackendStates>,
    ) -> Self {
        let merged = merge(&mut base, cluster.as_mut());
        Self { base, cluster, views, backend_states: down, merged, with_states: None }
    }

    /// A snapshot of what the sources hold now.
    #[must_use]
    pub fn snapshot(&mut self) -> Snapshot {
        // A source that has ended has nothing new.
        let is_new = self.base.has_changed().unwrap_or(false)
            || self.cluster.as_ref().is_some_and(|c| c.has_changed().unwrap_or(false));
        if is_new {
            let merged = merge(&mut self.base, self.cluster.as_mut());
            self.merged = merged.reuse_equal_parts(&self.merged);
        }
        if is_new || self.backend_states.has_changed().unwrap_or(false) {
            self.with_states = None;
        }
        let views = self.views.borrow_and_update().clone();
        let Self { merged, backend_states: down, .. } = self;
        let settled = || merged.with_backend_states(&down.borrow_and_update());
        self.with_states.get_or_insert_with(settled).with_views(&views)
    }

    /// Waits for a change; false if a source has ended, and the process with it.
    async fn changed(&mut self) -> bool {
        let Self { base, cluster, views, backend_states: down, .. } = self;
        let cluster_changed = async {
            match cluster {
                Some(cluster) => cluster.changed().await.map(|()| cluster.mark_changed()),
                None => std::future::pending().await,
            }
        };
        // Hearing of these is not yet having merged them.
        tokio::select! {
            changed = base.changed() => changed.map(|()| base.mark_changed()).is_ok(),
            changed = cluster_changed => changed.is_ok(),
            changed = views.changed() => changed.is_ok(),
            changed = down.changed() => changed.map(|()| down.mark_changed()).is_ok(),
        }
    }
}

fn merge(
    base: &mut watch::Receiver<SnapshotBuilder>,
    cluster: Option<&mut watch::Receiver<Arc<NodeState>>>,
) -> SnapshotBuilder {
    let base = base.borrow_and_update().clone();
    match cluster {
        Some(cluster) => base.with_kubernetes(&cluster.borrow_and_update()),
        None => base,
    }
}

/// Publishes a new snapshot whenever a source changes and the snapshot with it.
pub async fn run(mut sources: SnapshotSources, out: watch::Sender<Arc<Snapshot>>) {
    while sources.changed().await {
        let began = Instant::now();
        publish_if_changed(&out, Arc::new(sources.snapshot()));
        sleep(cooldown(began.elapsed(), SNAPSHOT_INTERVAL)).await;
    }
}
