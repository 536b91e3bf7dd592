//! Maintains standing connections: dials, waits while the connection lives, and dials again with full jitter.

use std::sync::Arc;
use std::time::Duration;

use adit_core::name::ClusterName;
use adit_core::routing::StandingTarget;
use adit_core::snapshot::Class;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::context::RETRY_BACKOFF;
use super::dialer::DialKey;
use super::inner::LinksInner;

/// Life of a connection after which it counts as a success, and the next dial's backoff begins anew.
const STABLE_LIFETIME: Duration = Duration::from_secs(10);

/// Maintains a standing connection until `stop`.
pub(super) async fn maintain(
    shared: Arc<LinksInner>,
    target: StandingTarget,
    stop: CancellationToken,
) {
    let cluster = target.cluster();
    // Cancelled, whatever it was at.
    let _: Option<()> = stop.run_until_cancelled(shared.maintain_target(&target, cluster)).await;
    shared.dialer.history.set_next_dial(cluster, None);
}

impl LinksInner {
    async fn maintain_target(self: &Arc<Self>, target: &StandingTarget, cluster: &ClusterName) {
        let mut changes = self.connections.changes_of(cluster);
        // Nothing is waited for before the very first dial.
        let mut attempt: Option<u32> = None;
        loop {
            let since = Instant::now();
            let served = self.wait_while_connected(target, &mut changes, true).await;
            if served {
                let is_stable = since.elapsed() >= STABLE_LIFETIME;
                attempt = attempt.filter(|_| !is_stable).or(Some(0));
            }
            let wait =
                attempt.map(|n| RETRY_BACKOFF.with_full_jitter(n, self.context.random_unit()));
            let at = self.next_dial_at(target, wait.unwrap_or_default());
            self.dialer.history.set_next_dial(cluster, Some(at));
            tokio::select! {
                biased;
                _ = self.wait_while_connected(target, &mut changes, false) => continue,
                () = sleep_until(at) => {}
            }
            self.dialer.history.set_next_dial(cluster, None);
            self.dial_target(target).await;
            attempt = Some(attempt.map_or(0, |n| n.saturating_add(1)));
        }
    }

    /// Waits while the target is connected, or is not; true if it had to wait at all.
    async fn wait_while_connected(
        &self,
        target: &StandingTarget,
        changes: &mut watch::Receiver<()>,
        served: bool,
    ) -> bool {
        let mut waited = false;
        loop {
            changes.mark_unchanged();
            if self.connections.standing_connection(target).is_some() != served {
                return waited;
            }
            waited = true;
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The time at which a target is dialled that would be dialled after `wait`: later, if the node asked for
    /// it, or all nodes of the cluster that are known did.
    fn next_dial_at(&self, target: &StandingTarget, wait: Duration) -> Instant {
        let at = Instant::now() + wait;
        let asked = match target {
            StandingTarget::Node(key) => self.dialer.history.backing_off_until(key),
            StandingTarget::Seeds(cluster) => {
                let backing_off = self.dialer.history.backing_off(cluster);
                let view = self.knowledge.views.get(cluster);
                let known = view.iter().flat_map(|v| v.view.nodes.keys());
                let all = known.clone().all(|node| backing_off.iter().any(|(n, ..)| n == node));
                backing_off.iter().map(|(_, _, at)| *at).min().filter(|_| all)
            }
        };
        // Nodes that were asked together do not come together.
        let jitter = RETRY_BACKOFF.with_full_jitter(0, self.context.random_unit());
        asked.map_or(at, |asked| at.max(asked + jitter))
    }

    async fn dial_target(self: &Arc<Self>, target: &StandingTarget) {
        match target {
            StandingTarget::Seeds(cluster) => drop(self.dial_seeds(cluster).await),
            StandingTarget::Node(key) => {
                let dial = DialKey { node: key.clone(), class: Class::Interactive, worker: 0 };
                // Its result shows in the connection table.
                self.start_or_join_dial(&dial).wait().await;
            }
        }
    }
}
