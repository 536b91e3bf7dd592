//! What is told to subscribers: our own cluster, to each linked one; and, to siblings, what linked
//! clusters told us.
//!
//! A feed is one publisher and a bell. What is told is made elsewhere: [`adit_core::announce`] and
//! [`super::learn`]. Who may hear what is decided here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::announce::{Announcement, PreparedAnnouncement};
use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_core::snapshot::{Snapshot, View};
use adit_core::wire::state::{News, Omissions, Publisher};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::register::lock;
use super::shared::Shared;
use crate::peer::PeerInfo;

/// One view, told to any number of subscribers.
#[derive(Debug)]
pub(super) struct Feed {
    publisher: Mutex<Publisher>,
    /// What is left out of the view.
    omitted: Mutex<Arc<Omissions>>,
    bell: watch::Sender<()>,
    /// Nobody may hear it any more.
    pub(super) ended: CancellationToken,
}

impl Feed {
    fn new(random: u64) -> Arc<Self> {
        // Sequences of two publishers must not be taken for one's.
        let publisher = Mutex::new(Publisher::new(random >> 2));
        Arc::new(Self {
            publisher,
            omitted: Mutex::default(),
            bell: watch::Sender::new(()),
            ended: CancellationToken::new(),
        })
    }

    fn update(&self, view: &View) {
        if lock(&self.publisher).update(view) {
            self.bell.send_replace(());
        }
    }

    /// Tells our own cluster as `to` may see it, and warns of what it cannot be told.
    fn announce(&self, all: &PreparedAnnouncement<'_>, to: &ClusterName) {
        let Announcement { view, omitted } = all.to(to);
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
    pub(super) fn bell(&self) -> watch::Receiver<()> {
        self.bell.subscribe()
    }

    /// What a subscriber at `have` does not know yet, and where it is then.
    pub(super) fn since(&self, have: Option<(u64, u64)>) -> (News, (u64, u64)) {
        let publisher = lock(&self.publisher);
        (publisher.since(have), publisher.position())
    }
}

/// All that is told.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    /// Our own cluster, by who hears it.
    own: Mutex<BTreeMap<ClusterName, Arc<Feed>>>,
    /// Other clusters, by whom it is about.
    relayed: Mutex<BTreeMap<ClusterName, Arc<Feed>>>,
}

impl Feeds {
    /// Says what is true now to all linked clusters, and ends the feeds of those that are linked no
    /// more. `random` gives epochs.
    pub(super) async fn announce(&self, now: &Snapshot, random: impl Fn() -> u64) {
        let all = PreparedAnnouncement::new(now);
        for cluster in now.links.keys() {
            let tell = |feed: &Feed| feed.announce(&all, cluster);
            tell(&self.own(cluster, &random, tell));
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
    pub(super) fn relay(&self, cluster: &ClusterName, view: &View, random: impl Fn() -> u64) {
        let feed = Arc::clone(
            lock(&self.relayed).entry(cluster.clone()).or_insert_with(|| Feed::new(random())),
        );
        feed.update(view);
    }

    /// What of our own cluster `to` is not told.
    pub(super) fn omitted(&self, to: &ClusterName) -> Arc<Omissions> {
        lock(&self.own).get(to).map(|feed| Arc::clone(&lock(&feed.omitted))).unwrap_or_default()
    }

    /// Our own cluster as `to` hears it; made, and told all, when somebody asks first.
    fn own(&self, to: &ClusterName, random: impl Fn() -> u64, tell: impl Fn(&Feed)) -> Arc<Feed> {
        let mut own = lock(&self.own);
        let new = || {
            let feed = Feed::new(random());
            tell(&feed);
            feed
        };
        Arc::clone(own.entry(to.clone()).or_insert_with(new))
    }
}

impl Shared {
    /// What `peer` hears if it asks for `about`: a foreign node hears our own cluster, a sibling any that
    /// we are linked with and have heard ourselves.
    pub(super) fn feed(&self, peer: &PeerInfo, about: &ClusterName) -> Result<Arc<Feed>, Code> {
        let now = self.now();
        let sibling = peer.cluster == now.this.cluster;
        if !sibling && *about == now.this.cluster && now.links.contains_key(&peer.cluster) {
            let to = &peer.cluster;
            let tell = |feed: &Feed| feed.announce(&PreparedAnnouncement::new(&now), to);
            return Ok(self.known.feeds.own(to, &*self.local.random, tell));
        }
        if !sibling || !now.links.contains_key(about) {
            return Err(Code::Unlinked);
        }
        let relayed = lock(&self.known.feeds.relayed).get(about).map(Arc::clone);
        relayed.ok_or(Code::LinkDown)
    }

    /// Whether we have no connection with the cluster that `peer` hears about. Our own is never lost.
    pub(super) fn has_lost(&self, peer: &PeerInfo, about: &ClusterName) -> bool {
        let own = peer.cluster == *about || *about == self.now().this.cluster;
        !own && !self.register.is_connected(about)
    }

    /// Waits until [`Self::has_lost`] is no more what it `was`.
    pub(super) async fn turns(
        &self,
        peer: &PeerInfo,
        about: &ClusterName,
        was: bool,
        connections: &mut watch::Receiver<()>,
    ) {
        while self.has_lost(peer, about) == was {
            if connections.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// How old what `peer` hears about `about` is now; none where it may not be passed on. What was
    /// learnt from a sibling is not told to siblings: so nothing goes round in circles.
    pub(super) fn age(&self, peer: &PeerInfo, about: &ClusterName) -> Option<Duration> {
        if peer.cluster == *about || *about == self.now().this.cluster {
            return Some(Duration::ZERO);
        }
        let view = self.known.views.get(about)?;
        (view.from.0 == *about).then(|| view.age())
    }
}
