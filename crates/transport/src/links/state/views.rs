//! The views of other clusters, as received last.
//!
//! There is one view for each link, from one source; views are never merged. A view stays when its source is
//! gone, and its age shows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use adit_core::name::{ClusterName, NodeKey};
use adit_core::snapshot::ClusterView;
use adit_core::wire::state::Omissions;
use tokio::sync::watch;
use tokio::time::Instant;

/// The interval at which a subscriber receives something.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);

/// A view older than this is taken from somebody else: three heartbeats.
pub(crate) const STALE_TIMEOUT: Duration = HEARTBEAT_INTERVAL.saturating_mul(3);

/// The view of a cluster, and its source.
#[derive(Debug, Clone)]
pub struct ReceivedView {
    /// The view.
    pub view: Arc<ClusterView>,
    /// The records that were sent and are not in it: they break a bound.
    pub omitted: Arc<Omissions>,
    /// Its position at its source: epoch and sequence.
    pub position: (u64, u64),
    /// The node that sent it, and its cluster: a hub of the peer's, or a sibling that passes it on.
    pub source: NodeKey,
    /// Its age when it arrived.
    pub age: Duration,
    /// The time of its arrival.
    pub received: Instant,
    /// True if its source has lost that cluster: what it says was true, and may not be any more.
    pub lost: bool,
}

impl ReceivedView {
    /// Time since it was last known to be true.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.age + self.received.elapsed()
    }

    /// True if `new` only says that this is still so.
    pub(crate) fn is_confirmed_by(&self, new: &Self) -> bool {
        let same = self.position == new.position || Arc::ptr_eq(&self.view, &new.view);
        self.source == new.source && same && self.lost == new.lost
    }

    /// True if it is too old to be believed without looking for a better one.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.age() > STALE_TIMEOUT
    }
}

/// All views.
#[derive(Debug, Default)]
pub(crate) struct ViewTable(watch::Sender<Arc<BTreeMap<ClusterName, ReceivedView>>>);

impl ViewTable {
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<BTreeMap<ClusterName, ReceivedView>>> {
        self.0.subscribe()
    }

    pub(crate) fn get(&self, cluster: &ClusterName) -> Option<ReceivedView> {
        self.0.borrow().get(cluster).cloned()
    }

    /// Takes a view. A mere heartbeat makes it younger without telling anybody.
    pub(crate) fn set(&self, cluster: &ClusterName, mut new: ReceivedView) {
        self.0.send_if_modified(|all| {
            let all = Arc::make_mut(all);
            let same = all.get(cluster).filter(|old| old.is_confirmed_by(&new));
            if let Some(same) = same {
                new.view = Arc::clone(&same.view);
            }
            let changed = same.is_none();
            all.insert(cluster.clone(), new);
            changed
        });
    }

    /// Forgets all but the clusters that `keep` wants.
    pub(crate) fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.0.send_if_modified(|all| {
            let superfluous = all.keys().any(|cluster| !keep(cluster));
            if superfluous {
                Arc::make_mut(all).retain(|cluster, _| keep(cluster));
            }
            superfluous
        });
    }
}
