//! What is told to subscribers: our own cluster, to each linked one; and, to siblings, what linked
//! clusters told us.
//!
//! A feed is one publisher and a bell. What is told is made elsewhere: [`adit_core::announce`] and
//! [`super::subscriber`]. Who may hear what is decided here.

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

/// One view, told to any number of subscribers.
#[derive(Debug)]
pub(super) struct ViewPublisher {
    log: Mutex<ViewLog>,
    /// What is left out of the view.
    omitted: Mutex<Arc<Omissions>>,
    change_notifier: watch::Sender<()>,
    /// Nobody may hear it any more.
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

    /// Tells our own cluster as `to` may see it, and warns of what it cannot be told.
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

    /// What a subscriber at `have` does not know yet, and where it is then.
    pub(super) fn updates_since(&self, have: Option<(u64, u64)>) -> (ViewUpdates, (u64, u64)) {
        let publisher = lock(&self.log);
        (publisher.updates_since(have), publisher.position())
    }
}

/// All that is told.
#[derive(Debug, Default)]
pub(super) struct ViewPublishers {
    /// Our own cluster, by who hears it.
    own: Mutex<BTreeMap<ClusterName, Arc<ViewPublisher>>>,
    /// Other clusters, by whom it is about.
    relayed: Mutex<BTreeMap<ClusterName, Arc<ViewPublisher>>>,
}

impl ViewPublishers {
    /// Says what is true now to all linked clusters, and ends the feeds of those that are linked no
    /// more. `random` gives epochs.
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

    /// Passes on what `cluster` said.
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

    /// What of our own cluster `to` is not told.
    pub(super) fn omissions_for(&self, to: &ClusterName) -> Arc<Omissions> {
        lock(&self.own).get(to).map(|feed| Arc::clone(&lock(&feed.omitted))).unwrap_or_default()
    }

    /// Our own cluster as `to` hears it; made, and told all, when somebody asks first.
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
    /// What `peer` hears if it asks for `about`: a foreign node hears our own cluster, a sibling any that
    /// we are linked with and have heard ourselves.
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

    /// Whether we have no connection with the cluster that `peer` hears about. Our own is never lost.
    pub(super) fn has_lost_cluster(&self, peer: &PeerInfo, about: &ClusterName) -> bool {
        let own = peer.cluster == *about || *about == self.snapshot().local.cluster;
        !own && !self.connections.is_connected(about)
    }

    /// Waits until [`Self::has_lost_cluster`] is no more what it `was`.
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

    /// How old what `peer` hears about `about` is now; none where it may not be passed on. What was
    /// learnt from a sibling is not told to siblings: so nothing goes round in circles.
    pub(super) fn published_age(&self, peer: &PeerInfo, about: &ClusterName) -> Option<Duration> {
        if peer.cluster == *about || *about == self.snapshot().local.cluster {
            return Some(Duration::ZERO);
        }
        let view = self.knowledge.views.get(about)?;
        (view.source.0 == *about).then(|| view.age())
    }
}
