//! The publishers of views: of our own cluster, to each linked one; and, to siblings, of what linked clusters
//! announced to us.
//!
//! The announcements come from [`adit_core::announce`] and the subscribers. Who may receive which view is
//! decided where streams are served.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use adit_core::announce::{Announcement, PreparedAnnouncement};
use adit_core::name::ClusterName;
use adit_core::snapshot::{ClusterView, Snapshot};
use adit_core::wire::state::{Omissions, ViewLog, ViewUpdates};
use adit_runtime::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// From one warning about what is left out of a view to the next: it changes as often as any Service that
/// does not fit, on each node.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// The records that are left out of a view, and when that was logged.
#[derive(Debug, Default)]
struct LoggedOmissions {
    omitted: Arc<Omissions>,
    logged: Option<Instant>,
}

impl LoggedOmissions {
    /// Takes what is left out from now on. True if it is to be logged.
    fn replace(&mut self, omitted: Omissions, now: Instant) -> bool {
        if *self.omitted == omitted {
            return false;
        }
        let lately = |logged| now.saturating_duration_since(logged) < WARN_INTERVAL;
        let logs = !omitted.is_empty() && !self.logged.is_some_and(lately);
        self.omitted = Arc::new(omitted);
        if logs {
            self.logged = Some(now);
        }
        logs
    }
}

/// The publisher of one view to any number of subscribers.
#[derive(Debug)]
pub(crate) struct ViewPublisher {
    log: Mutex<ViewLog>,
    /// The records that are left out of the view.
    omitted: Mutex<LoggedOmissions>,
    change_notifier: watch::Sender<()>,
    /// Cancelled once nobody may receive the view any more.
    pub(crate) ended: CancellationToken,
}

impl ViewPublisher {
    fn new(random: u64) -> Arc<Self> {
        // Sequences of two publishers must not be taken for one's.
        let log = Mutex::new(ViewLog::new(random >> 2));
        Arc::new(Self {
            log,
            omitted: Mutex::default(),
            change_notifier: watch::Sender::new(()),
            ended: CancellationToken::new(),
        })
    }

    fn update(&self, view: &ClusterView) {
        if self.log.lock().update(view) {
            self.change_notifier.send_replace(());
        }
    }

    /// Publishes our own cluster as `to` may see it, and warns of what does not fit.
    pub(super) fn announce(&self, all: &PreparedAnnouncement<'_>, to: &ClusterName) {
        let Announcement { view, omitted } = all.for_cluster(to);
        self.update(&view);
        let mut known = self.omitted.lock();
        if known.replace(omitted, Instant::now()) {
            let omitted = &known.omitted;
            tracing::warn!(link = %to, count = omitted.count(), "not told to {to}: {omitted}");
        }
    }

    /// Wakes at each change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.change_notifier.subscribe()
    }

    /// The updates that a subscriber at `have` does not know yet, and its position after them.
    pub(crate) fn updates_since(&self, have: Option<(u64, u64)>) -> (ViewUpdates, (u64, u64)) {
        let log = self.log.lock();
        (log.updates_since(have), log.position())
    }
}

/// All publishers.
#[derive(Debug, Default)]
pub(crate) struct ViewPublishers {
    /// Our own cluster's views, by the cluster that receives them.
    own: Mutex<BTreeMap<ClusterName, Arc<ViewPublisher>>>,
    /// Other clusters' views, by cluster.
    relayed: Mutex<BTreeMap<ClusterName, Arc<ViewPublisher>>>,
}

impl ViewPublishers {
    /// Publishes the snapshot to all linked clusters, and ends the publishers of those that are not linked
    /// any more. `random` gives epochs.
    pub(crate) async fn announce(&self, snapshot: &Snapshot, random: impl Fn() -> u64) {
        let all = PreparedAnnouncement::new(snapshot);
        for cluster in snapshot.links.keys() {
            let announce = |publisher: &ViewPublisher| publisher.announce(&all, cluster);
            announce(&self.publisher_for(cluster, &random, announce));
            // Others have their turn between one cluster and the next.
            tokio::task::yield_now().await;
        }
        for publishers in [&self.own, &self.relayed] {
            publishers.lock().retain(|cluster, publisher| {
                let linked = snapshot.links.contains_key(cluster);
                if !linked {
                    publisher.ended.cancel();
                }
                linked
            });
        }
    }

    /// Publishes the view of `cluster` to siblings.
    pub(crate) fn relay(
        &self,
        cluster: &ClusterName,
        view: &ClusterView,
        random: impl Fn() -> u64,
    ) {
        let mut relayed = self.relayed.lock();
        let new = || ViewPublisher::new(random());
        let publisher = Arc::clone(relayed.entry(cluster.clone()).or_insert_with(new));
        drop(relayed);
        publisher.update(view);
    }

    /// The publisher of the view of `cluster` to siblings, if there is such a view.
    pub(super) fn relayed(&self, cluster: &ClusterName) -> Option<Arc<ViewPublisher>> {
        self.relayed.lock().get(cluster).map(Arc::clone)
    }

    /// The records of our own cluster that are left out of what `to` receives.
    pub(crate) fn omissions_for(&self, to: &ClusterName) -> Arc<Omissions> {
        self.own
            .lock()
            .get(to)
            .map(|publisher| Arc::clone(&publisher.omitted.lock().omitted))
            .unwrap_or_default()
    }

    /// The publisher of our own cluster's view to `to`; made, and given the whole view, when it is first
    /// asked for.
    pub(super) fn publisher_for(
        &self,
        to: &ClusterName,
        random: impl Fn() -> u64,
        announce: impl Fn(&ViewPublisher),
    ) -> Arc<ViewPublisher> {
        let mut own = self.own.lock();
        let new = || {
            let publisher = ViewPublisher::new(random());
            announce(&publisher);
            publisher
        };
        Arc::clone(own.entry(to.clone()).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use adit_core::wire::state::{Omission, RecordKey};

    use super::*;

    #[test]
    fn a_service_that_comes_and_goes_is_logged_once_a_minute() {
        let now = Instant::now();
        let left_out = |count: u64| {
            let mut all = Omissions::default();
            (0..count).for_each(|_| all.add(None, Omission::Bytes));
            all
        };
        let mut known = LoggedOmissions::default();
        let seconds = |all| (0..all).map(|n| (n, now + Duration::from_secs(n)));
        let logged = seconds(600).filter(|(n, now)| known.replace(left_out(n % 3), *now)).count();
        assert_eq!(logged, 10);
        assert_eq!(known.omitted.count(), 599 % 3, "status says it all the same");
        // What stays as it is is not said again.
        let later = now + Duration::from_secs(10_000);
        assert!(known.replace(left_out(7), later));
        assert!(!known.replace(left_out(7), later + WARN_INTERVAL));
        let node = RecordKey::Node("n1".parse().unwrap());
        let mut another = left_out(7);
        another.add(Some(node), Omission::Nodes);
        assert!(known.replace(another, later + WARN_INTERVAL));
    }
}
