//! The publishers of views: of our own cluster, to each linked one; and, to siblings, of what linked clusters
//! announced to us.
//!
//! The announcements come from [`adit_core::announce`] and the subscribers. Who may receive which view is
//! decided where streams are served.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::announce::{Announcement, PreparedAnnouncement};
use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_core::snapshot::{ClusterView, Snapshot};
use adit_core::wire::state::{Omissions, ViewLog, ViewUpdates};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::shared::LinksInner;
use super::table::lock;
use crate::peer::PeerInfo;

/// The publisher of one view to any number of subscribers.
#[derive(Debug)]
pub(super) struct ViewPublisher {
    log: Mutex<ViewLog>,
    /// The records that are left out of the view.
    omitted: Mutex<Arc<Omissions>>,
    change_notifier: watch::Sender<()>,
    /// Cancelled once nobody may receive the view any more.
    pub(super) ended: CancellationToken,
}

impl ViewPublisher {
    fn new(random: u64) -> Arc<Self> {
        // Sequences of two publishers must not be taken for one's.
        let publisher = Mutex::new(ViewLog::new(random >> 2));
        Arc::new(Self {
            log: publisher,
            omitted: Mutex::default(),
            change_notifier: watch::Sender::new(()),
            ended: CancellationToken::new(),
        })
    }

    fn update(&self, view: &ClusterView) {
        if lock(&self.log).update(view) {
            self.change_notifier.send_replace(());
        }
    }

    /// Publishes our own cluster as `to` may see it, and warns of what does not fit.
    fn announce(&self, all: &PreparedAnnouncement<'_>, to: &ClusterName) {
        let Announcement { view, omitted } = all.for_cluster(to);
        self.update(&view);
        let mut known = lock(&self.omitted);
        if **known != omitted {
            if !omitted.is_empty() {
                tracing::warn!(link = %to, count = omitted.count(), "not told to {to}: {omitted}");
            }
            *known = Arc::new(omitted);
        }
    }

    /// Rings at each change.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.change_notifier.subscribe()
    }

    /// The updates that a subscriber at `have` does not know yet, and its position after them.
    pub(super) fn updates_since(&self, have: Option<(u64, u64)>) -> (ViewUpdates, (u64, u64)) {
        let publisher = lock(&self.log);
        (publisher.updates_since(have), publisher.position())
    }
}

/// All publishers.
#[derive(Debug, Default)]
pub(super) struct ViewPublishers {
    /// Our own cluster's views, by the cluster that receives them.
    own: Mutex<BTreeMap<ClusterName, Arc<ViewPublisher>>>,
    /// Other clusters' views, by cluster.
    relayed: Mutex<BTreeMap<ClusterName, Arc<ViewPublisher>>>,
}

impl ViewPublishers {
    /// Publishes the snapshot to all linked clusters, and ends the publishers of those that are not linked
    /// any more. `random` gives epochs.
    pub(super) async fn announce(&self, now: &Snapshot, random: impl Fn() -> u64) {
        let all = PreparedAnnouncement::new(now);
        for cluster in now.links.keys() {
            let tell = |feed: &ViewPublisher| feed.announce(&all, cluster);
            tell(&self.publisher_for(cluster, &random, tell));
            // Others have their turn between one cluster and the next.
            tokio::task::yield_now().await;
        }
        for feeds in [&self.own, &self.relayed] {
            lock(feeds).retain(|cluster, feed| {
                let linked = now.links.contains_key(cluster);
                if !linked {
                    feed.ended.cancel();
                }
                linked
            });
        }
    }

    /// Publishes the view of `cluster` to siblings.
    pub(super) fn relay(
        &self,
        cluster: &ClusterName,
        view: &ClusterView,
        random: impl Fn() -> u64,
    ) {
        let feed = Arc::clone(
            lock(&self.relayed)
                .entry(cluster.clone())
                .or_insert_with(|| ViewPublisher::new(random())),
        );
        feed.update(view);
    }

    /// The records of our own cluster that are left out of what `to` receives.
    pub(super) fn omissions_for(&self, to: &ClusterName) -> Arc<Omissions> {
        lock(&self.own).get(to).map(|feed| Arc::clone(&lock(&feed.omitted))).unwrap_or_default()
    }

    /// The publisher of our own cluster's view to `to`; made, and given the whole view, when it is first
    /// asked for.
    fn publisher_for(
        &self,
        to: &ClusterName,
        random: impl Fn() -> u64,
        tell: impl Fn(&ViewPublisher),
    ) -> Arc<ViewPublisher> {
        let mut own = lock(&self.own);
        let new = || {
            let feed = ViewPublisher::new(random());
            tell(&feed);
            feed
        };
        Arc::clone(own.entry(to.clone()).or_insert_with(new))
    }
}

impl LinksInner {
    /// The publisher that serves `peer` if it asks for `about`: a foreign node receives our own cluster's
    /// view, a sibling that of any cluster that we are linked with and have a view of.
    pub(super) fn publisher_for_peer(
        &self,
        peer: &PeerInfo,
        about: &ClusterName,
    ) -> Result<Arc<ViewPublisher>, Code> {
        let now = self.snapshot();
        let sibling = peer.cluster == now.local.cluster;
        if !sibling && *about == now.local.cluster && now.links.contains_key(&peer.cluster) {
            let to = &peer.cluster;
            let tell = |feed: &ViewPublisher| feed.announce(&PreparedAnnouncement::new(&now), to);
            return Ok(self.knowledge.publishers.publisher_for(to, &*self.context.random, tell));
        }
        if !sibling || !now.links.contains_key(about) {
            return Err(Code::Unlinked);
        }
        let relayed = lock(&self.knowledge.publishers.relayed).get(about).map(Arc::clone);
        relayed.ok_or(Code::LinkDown)
    }

    /// True if we have no connection with the cluster that `peer` subscribes to. Our own is never lost.
    pub(super) fn has_lost_cluster(&self, peer: &PeerInfo, about: &ClusterName) -> bool {
        let own = peer.cluster == *about || *about == self.snapshot().local.cluster;
        !own && !self.connections.is_connected(about)
    }

    /// Waits until [`Self::has_lost_cluster`] is no longer what it `was`.
    pub(super) async fn wait_until_lost_changes(
        &self,
        peer: &PeerInfo,
        about: &ClusterName,
        was: bool,
        connections: &mut watch::Receiver<()>,
    ) {
        while self.has_lost_cluster(peer, about) == was {
            if connections.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The present age of the view of `about` that `peer` receives; `None` if it may not be passed on. A view
    /// that came from a sibling is not sent to siblings: so nothing goes round in circles.
    pub(super) fn published_age(&self, peer: &PeerInfo, about: &ClusterName) -> Option<Duration> {
        if peer.cluster == *about || *about == self.snapshot().local.cluster {
            return Some(Duration::ZERO);
        }
        let view = self.knowledge.views.get(about)?;
        (view.source.0 == *about).then(|| view.age())
    }
}
