//! Follows the cluster of a running node: each change becomes an update of its configuration, its files or its state.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use adit_config::Config;
use adit_config::cluster::ClusterConfig;
use adit_host::routes::NetworkWatch;
use adit_kubernetes::node::observed::ObservedCluster;
use adit_kubernetes::node::state::NodeState;
use adit_pki::files;
use adit_runtime::publish_if_changed;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::cache::{self, CACHE_FILE};
use super::pod_addresses;
use super::source::{KubernetesSource, rejected_reports};
use crate::node::config_update::ConfigUpdate;
use crate::node::handover::HandoverState;

/// A successor is given this long to write the files that it and this process observe, from when the change is seen.
const SUCCESSOR_WRITE_DELAY: Duration = Duration::from_secs(2);
/// The cluster is written to disk this long after it changed.
pub(super) const CACHE_WRITE_DELAY: Duration = Duration::from_secs(1);

/// A running node's view of its cluster.
pub(in crate::node) struct ClusterFollower {
    pub(in crate::node) source: Arc<KubernetesSource>,
    /// The cluster as the node has it.
    pub(in crate::node) last: Arc<ObservedCluster>,
    /// The last good configuration.
    pub(in crate::node) settings: ClusterConfig,
    /// The same, as this node's.
    pub(in crate::node) config: Config,
    /// Takes configurations and changed files. A bad configuration is sent, too, and the last good one stays.
    pub(in crate::node) updates: mpsc::Sender<ConfigUpdate>,
    /// Takes the rest.
    pub(in crate::node) state: watch::Sender<Arc<NodeState>>,
    pub(in crate::node) handover: HandoverState,
}

impl ClusterFollower {
    /// Follows the cluster for as long as it is polled.
    pub(in crate::node) async fn run(mut self) {
        let mut observed = self.source.observed.clone();
        let mut last_good = self.last.config.clone();
        // The cluster may have changed since the node began to start.
        observed.mark_changed();
        let mut problems = Vec::new();
        let mut write_at = Some(Instant::now());
        let mut writing = JoinSet::new();
        let mut network = NetworkWatch::new().ok();
        loop {
            tokio::select! {
                // A pod's device may have gone, which the API server says later.
                () = pod_addresses::changed(&mut network) => {}
                changed = observed.changed() => if changed.is_err() {
                    std::future::pending::<Infallible>().await;
                },
                // One after the other, and beside: the disk may be slow.
                () = sleep_until(write_at.unwrap_or_else(Instant::now)), if write_at.is_some() && writing.is_empty() => {
                    write_at = None;
                    if !self.handover.taken_over.is_cancelled() {
                        let file = self.source.options.state_folder.join(CACHE_FILE);
                        let (last, good) = (self.last.clone(), last_good.clone());
                        writing.spawn_blocking(move || cache::write_cache(&file, &last, &good));
                    }
                    continue;
                }
                Some(_) = writing.join_next() => continue,
            }
            let now = observed.borrow_and_update().clone();
            if now.config != self.last.config && self.update_config(&now).await {
                last_good.clone_from(&now.config);
            }
            if let Some(bundle) = now.bundle.as_ref().filter(|_| now.bundle != self.last.bundle) {
                self.update_bundle(bundle).await;
            }
            self.update_state(&now, &mut problems).await;
            if !Arc::ptr_eq(&now, &self.last) {
                write_at = write_at.or_else(|| Some(Instant::now() + CACHE_WRITE_DELAY));
            }
            self.last = now;
        }
    }

    /// Sends the configuration. Returns true if it is good, with the trust of all its links.
    async fn update_config(&mut self, now: &ObservedCluster) -> bool {
        let loaded = match self.source.read(&now.config) {
            Ok((settings, config, reports)) => {
                if self.handover.taken_over.is_cancelled() {
                    // The successor writes them, and another version may name them otherwise.
                    sleep(SUCCESSOR_WRITE_DELAY).await;
                } else if let Err(error) = cache::write_bundles(&config, &settings) {
                    tracing::error!("trust bundles: {error}");
                }
                (self.settings, self.config) = (settings, config.clone());
                Ok((Box::new(config), reports))
            }
            Err(report) => Err(rejected_reports(report)),
        };
        let is_good = loaded.is_ok() && self.source.is_wholly_good(&now.config);
        // The receiver is gone only when the process ends.
        drop(self.updates.send(ConfigUpdate::Config(loaded)).await);
        is_good
    }

    async fn update_bundle(&self, bundle: &str) {
        let file = self.config.node.identity.join(files::BUNDLE);
        let written = if self.handover.taken_over.is_cancelled() {
            sleep(SUCCESSOR_WRITE_DELAY).await;
            Ok(())
        } else {
            cache::write_if_changed(&file, bundle)
        };
        match written {
            Ok(()) => drop(self.updates.send(ConfigUpdate::Files(vec![file])).await),
            Err(error) => tracing::error!("{error}"),
        }
    }

    /// Publishes the state, and logs `problems` that are new.
    async fn update_state(&self, now: &ObservedCluster, problems: &mut Vec<String>) {
        let state = self.source.node_state(now, &self.settings).await;
        if state.problems != *problems {
            for problem in state.problems.iter().filter(|p| !problems.contains(p)) {
                tracing::error!("{problem}");
            }
            problems.clone_from(&state.problems);
        }
        publish_if_changed(&self.state, Arc::new(state));
    }
}
