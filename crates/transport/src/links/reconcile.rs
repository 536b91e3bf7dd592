//! Keeps what must stand: compares what should be with what is, and has the difference made good.
//!
//! [`adit_core::routing`] decides which connections should stand. The reconciler asks that again at each
//! change, starts a maintainer for each target and a subscriber for each link, and closes what is not linked
//! any more. A maintainer dials, waits while the connection lives, and dials again with full jitter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::rate_limit::cooldown;
use adit_core::announce;
use adit_core::name::ClusterName;
use adit_core::routing::links::{HubCache, LinkHubs, LinkReach, StandingTarget, standing_targets};
use adit_core::snapshot::{Class, Seed, Snapshot};
use adit_core::wire::control::ControlMessage;
use adit_core::{admission, code::Code};
use adit_pki::{UnixTime, VerifyError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::connections::PeerConnection;
use super::context::DIAL_BACKOFF;
use super::dialer::DialKey;
use super::inner::LinksInner;
use super::session::bulk_grants;
use super::state::subscriber::run_subscriber;

/// Silence of all of a node's own hubs after which it acts as one, from when one was last connected.
const HUB_SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// Life of a connection after which it counts as a success, and the next dial's backoff begins anew.
const STABLE_LIFETIME: Duration = Duration::from_secs(10);
/// The least time between two reconciliations.
const RECONCILE_INTERVAL: Duration = Duration::from_millis(10);
/// The least time between two updates of where peers are: a peer's view may change all the time.
const ADDRESSES_INTERVAL: Duration = Duration::from_secs(5);
/// The interval at which the passing of time alone is acted on.
const TICK_INTERVAL: Duration = Duration::from_secs(1);

/// The reconciler and the tasks that it keeps.
struct LinkReconciler {
    shared: Arc<LinksInner>,
    /// The times at which each link's own hubs were last connected.
    hubs_seen_at: BTreeMap<ClusterName, Instant>,
    maintainers: BTreeMap<StandingTarget, CancellationToken>,
    subscribers: BTreeMap<ClusterName, CancellationToken>,
    /// The snapshot of the last reconciliation.
    last_snapshot: Option<Arc<Snapshot>>,
    /// The time at which the endpoints were last told where peers are.
    addresses_shared_at: Option<Instant>,
    /// The times at which a cluster was last warned of that has a node with two processes.
    warned_at: BTreeMap<ClusterName, Instant>,
    hub_cache: HubCache,
    /// The time at which siblings that have two processes were last notified.
    duplicates_notified_at: Option<Instant>,
}

/// Keeps all links of a node until it drains.
pub(super) async fn run(shared: Arc<LinksInner>) {
    let mut snapshot = shared.knowledge.snapshot.clone();
    let mut views = shared.knowledge.views.subscribe();
    let mut changes = shared.connections.changes();
    let draining = shared.runtime.shutdown.draining.clone();
    let mut supervisor = LinkReconciler {
        shared,
        hubs_seen_at: BTreeMap::new(),
        maintainers: BTreeMap::new(),
        subscribers: BTreeMap::new(),
        last_snapshot: None,
        addresses_shared_at: None,
        warned_at: BTreeMap::new(),
        hub_cache: HubCache::default(),
        duplicates_notified_at: None,
    };
    loop {
        snapshot.mark_unchanged();
        views.mark_unchanged();
        changes.mark_unchanged();
        let began = Instant::now();
        supervisor.reconcile().await;
        // Many changes at once are handled as one; and any tenant can change what a hundred clusters receive.
        sleep(cooldown(began.elapsed(), RECONCILE_INTERVAL)).await;
        tokio::select! {
            biased;
            () = draining.cancelled() => return,
            Ok(()) = snapshot.changed() => {}
            Ok(()) = views.changed() => {}
            Ok(()) = changes.changed() => {}
            () = sleep(TICK_INTERVAL) => {}
        }
    }
}

impl LinkReconciler {
    async fn reconcile(&mut self) {
        let shared = Arc::clone(&self.shared);
        let now = shared.snapshot();
        for (conn, _) in shared.connections.all() {
            conn.quic.shrink_windows_if_unused();
        }
        if self.last_snapshot.as_ref().is_none_or(|last| !Arc::ptr_eq(last, &now)) {
            if self.last_snapshot.as_ref().is_none_or(|last| announce::may_differ(last, &now)) {
                shared.knowledge.publishers.announce(&now, &*shared.context.random).await;
            }
            shared.close_unlinked(&now);
            shared.knowledge.views.retain(|cluster| now.links.contains_key(cluster));
            shared
                .peers
                .misuse
                .retain(|cluster| now.links.contains_key(cluster) || *cluster == now.local.cluster);
            if self.last_snapshot.as_ref().is_none_or(|last| !last.exports.is_same(&now.exports)) {
                let bulk: BTreeSet<&ClusterName> =
                    now.exports.values().flat_map(|export| bulk_grants(export)).collect();
                for (conn, _) in shared.connections.all() {
                    let class = LinksInner::window_class(&conn, |peer| bulk.contains(peer));
                    conn.quic.limit_windows(shared.endpoints.tuning(), class);
                }
            }
            shared
                .dialer
                .history
                .retain(|cluster| now.links.contains_key(cluster) || *cluster == now.local.cluster);
            let is_ours = |c: &ClusterName| now.links.contains_key(c) || *c == now.local.cluster;
            shared.connections.disconnects.retain(is_ours);
            shared.peers.handshake_faults.retain(is_ours);
            shared.connections.boots.retain(is_ours);
            shared.connections.permits.retain(is_ours);
            shared.endpoints.retain_known_clusters(is_ours);
            self.hubs_seen_at.retain(|cluster, _| now.links.contains_key(cluster));
            self.hub_cache.retain(|cluster| now.links.contains_key(cluster));
            self.last_snapshot = Some(Arc::clone(&now));
        }
        if self.addresses_shared_at.is_none_or(|at| at.elapsed() >= ADDRESSES_INTERVAL) {
            self.addresses_shared_at = Some(Instant::now());
            shared.share_addresses(&now);
            shared.warn_of_duplicates(&mut self.warned_at);
            shared.notify_duplicates(&mut self.duplicates_notified_at);
        }
        let mut targets = BTreeSet::new();
        for link in now.links.values() {
            let view = shared.knowledge.views.get(&link.cluster);
            let view = view.as_ref().map(|v| &*v.view);
            let hubs = self.hub_cache.hubs_of(&now, &link.cluster, view);
            let reach = self.link_reach(&now, &link.cluster, &hubs);
            targets.extend(standing_targets(&now, link, view, &hubs, reach));
        }
        shared.connections.mark_standing(&targets);
        self.maintain_targets(&targets);
        self.run_subscribers(&now);
    }

    fn link_reach(&mut self, now: &Snapshot, cluster: &ClusterName, hubs: &LinkHubs) -> LinkReach {
        let register = &self.shared.connections;
        let siblings = register.connected(&now.local.cluster);
        let heard = self.hubs_seen_at.entry(cluster.clone()).or_insert_with(Instant::now);
        let is_hub = hubs.ours.contains(&now.local.node);
        if is_hub || siblings.iter().any(|n| hubs.ours.contains(n)) {
            *heard = Instant::now();
        }
        LinkReach {
            connected: register.is_connected(cluster),
            hubs_silent: heard.elapsed() >= HUB_SILENCE_TIMEOUT,
            stale: self.shared.knowledge.views.get(cluster).is_none_or(|view| view.is_stale()),
        }
    }

    fn maintain_targets(&mut self, targets: &BTreeSet<StandingTarget>) {
        self.maintainers.retain(|target, stop| {
            let wanted = targets.contains(target);
            if !wanted {
                stop.cancel();
            }
            wanted
        });
        for target in targets {
            if !self.maintainers.contains_key(target) {
                let stop = self.spawn(|shared, stop| maintain(shared, target.clone(), stop));
                self.maintainers.insert(target.clone(), stop);
            }
        }
    }

    fn run_subscribers(&mut self, now: &Snapshot) {
        self.subscribers.retain(|cluster, stop| {
            let linked = now.links.contains_key(cluster);
            if !linked {
                stop.cancel();
            }
            linked
        });
        for cluster in now.links.keys() {
            if !self.subscribers.contains_key(cluster) {
                let stop = self.spawn(|shared, stop| run_subscriber(shared, cluster.clone(), stop));
                self.subscribers.insert(cluster.clone(), stop);
            }
        }
    }

    fn spawn<F>(
        &self,
        task: impl FnOnce(Arc<LinksInner>, CancellationToken) -> F,
    ) -> CancellationToken
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.shared.runtime.shutdown.draining.child_token();
        let task = task(Arc::clone(&self.shared), stop.clone());
        self.shared.runtime.tasks.spawn_on(task, &self.shared.runtime.control_runtime);
        stop
    }
}

impl LinksInner {
    /// Tells the endpoints where nodes of our own cluster and of linked ones are: by configuration first,
    /// which no peer can fill up, then by what each announces.
    fn share_addresses(&self, now: &Snapshot) {
        let siblings = now.siblings.values().flatten().map(|address| address.ip());
        self.endpoints.set_known_addresses(&now.local.cluster, siblings);
        for link in now.links.values() {
            let seeds = link.seeds.iter().flat_map(|seed| match seed {
                Seed::Address(address) => vec![*address],
                Seed::Name { host, port } => {
                    self.dialer.history.last_resolved(&(host.clone(), *port))
                }
            });
            let view = self.knowledge.views.get(&link.cluster);
            let announced = view.iter().flat_map(|v| v.view.nodes.values()).flatten().copied();
            let all = seeds.chain(announced).map(|address| address.ip());
            self.endpoints.set_known_addresses(&link.cluster, all);
        }
    }

    /// Ends the connections with peers that may not be peers any more.
    fn close_unlinked(&self, now: &Snapshot) {
        for (conn, _) in self.connections.all() {
            self.close_if_unlinked(now, &conn);
        }
    }

    pub(super) fn close_if_unlinked(&self, now: &Snapshot, conn: &PeerConnection) {
        let peer = &conn.peer;
        match admission::identify_peer(now, &peer.id) {
            Ok(key) if key.cluster == peer.cluster => {}
            Ok(_) => conn.quic.close(Code::Unlinked, "the cluster has another name now"),
            Err(refusal) => conn.quic.close(refusal.code, &refusal.reason),
        }
    }
}

impl LinksInner {
    /// Ends a connection whose certificate is not believed any more: trust may have changed between its
    /// handshake and now, and whoever acted on that did not see it yet.
    pub(super) fn close_if_distrusted(&self, conn: &PeerConnection) {
        let now = UnixTime::since_unix_epoch(Duration::from_millis((self.context.clock)()));
        if let Err(refusal) = conn.quic.verify_if_trust_changed(self.endpoints.peer_verifier(), now)
        {
            tracing::warn!(peer = %conn.peer.id, "connection ended: {refusal}");
            conn.close_distrusted(&refusal);
        }
    }
}

/// Time until a connection ends whose certificate is not believed any more, from when that was found, unless
/// its peer is denied: its streams may finish, and new ones go by a connection that the peer makes with
/// another certificate.
const DISTRUSTED_TIMEOUT: Duration = Duration::from_secs(10);

impl LinksInner {
    /// Begins the end of a connection whose certificate is not believed any more; false if that has begun
    /// before and goes on.
    pub(super) fn begin_distrust(
        self: &Arc<Self>,
        conn: &Arc<PeerConnection>,
        refusal: &VerifyError,
    ) -> bool {
        if refusal.label() == VerifyError::DENIED {
            conn.close_distrusted(refusal);
            return true;
        }
        if !conn.mark_distrusted() {
            return false;
        }
        // The peer is to make another one, so it is asked to stay away for no time.
        conn.send_control(ControlMessage::GoAway {
            code: Code::CertificateEnded,
            retry_after_ms: 0,
        });
        self.connections.mark_leaving(conn, Code::CertificateEnded);
        let (shared, conn) = (Arc::clone(self), Arc::clone(conn));
        let end = async move {
            tokio::select! {
                () = sleep(DISTRUSTED_TIMEOUT) => {
                    // It may be believed again. Whoever finds that it is not from here on begins anew.
                    conn.clear_distrusted();
                    shared.close_if_distrusted(&conn);
                }
                _closed = conn.quic.closed() => {}
            }
        };
        self.runtime.tasks.spawn_on(end, &self.runtime.control_runtime);
        true
    }
}

/// Maintains a standing connection until `stop`.
async fn maintain(shared: Arc<LinksInner>, target: StandingTarget, stop: CancellationToken) {
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
                let settled = since.elapsed() >= STABLE_LIFETIME;
                attempt = attempt.filter(|_| !settled).or(Some(0));
            }
            let wait =
                attempt.map(|n| DIAL_BACKOFF.with_full_jitter(n, self.context.random_unit()));
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
        let jitter = DIAL_BACKOFF.with_full_jitter(0, self.context.random_unit());
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
