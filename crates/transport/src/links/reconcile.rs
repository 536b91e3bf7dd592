//! Reconciles links: compares the connections and subscriptions that should be with those that are.
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
use adit_core::routing::{HubCache, LinkHubs, LinkReach, StandingTarget, standing_targets};
use adit_core::snapshot::{Seed, Snapshot};
use adit_core::throttle::Throttle;
use adit_core::{admission, code::Code};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::connections::PeerConnection;
use super::duplicate_identity;
use super::inner::LinksInner;
use super::maintain::maintain;
use super::session::bulk_grants;
use super::state::subscriber::run_subscriber;

/// Silence of all of a node's own hubs after which it acts as one, from when one was last connected.
const HUB_SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
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
    /// Limits the warnings about nodes with two processes, by cluster.
    duplicate_warnings: Throttle<ClusterName, Instant>,
    hub_cache: HubCache,
    /// The time at which siblings that have two processes were last notified.
    duplicates_notified_at: Option<Instant>,
    /// The time at which acknowledgements were last checked.
    acks_checked_at: Option<Instant>,
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
        duplicate_warnings: Throttle::new(duplicate_identity::WARN_INTERVAL),
        hub_cache: HubCache::default(),
        duplicates_notified_at: None,
        acks_checked_at: None,
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
        let snapshot = shared.snapshot();
        for (conn, _) in shared.connections.all() {
            conn.quic.shrink_windows_if_unused();
        }
        if self.last_snapshot.as_ref().is_none_or(|last| !Arc::ptr_eq(last, &snapshot)) {
            self.apply_snapshot(&snapshot).await;
            self.last_snapshot = Some(Arc::clone(&snapshot));
        }
        if self.addresses_shared_at.is_none_or(|at| at.elapsed() >= ADDRESSES_INTERVAL) {
            self.addresses_shared_at = Some(Instant::now());
            shared.share_addresses(&snapshot);
        }
        if shared.check_acknowledgements(&mut self.acks_checked_at) {
            let coexisting = shared.coexisting_processes();
            shared.warn_of_duplicates(&coexisting, &mut self.duplicate_warnings);
            shared.notify_duplicates(&coexisting, &mut self.duplicates_notified_at);
        }
        let mut targets = BTreeSet::new();
        for link in snapshot.links.values() {
            let view = shared.knowledge.views.get(&link.cluster);
            let view = view.as_ref().map(|v| &*v.view);
            let hubs = self.hub_cache.hubs_of(&snapshot, &link.cluster, view);
            let reach = self.link_reach(&snapshot, &link.cluster, &hubs);
            targets.extend(standing_targets(&snapshot, link, view, &hubs, reach));
        }
        shared.connections.mark_standing(&targets);
        self.maintain_targets(&targets);
        self.run_subscribers(&snapshot);
    }

    /// Tells peers what has changed, and drops what is kept of clusters without a link.
    async fn apply_snapshot(&mut self, snapshot: &Snapshot) {
        let (shared, last) = (Arc::clone(&self.shared), self.last_snapshot.as_ref());
        if last.is_none_or(|last| announce::may_differ(last, snapshot)) {
            shared.knowledge.publishers.announce(snapshot, &*shared.context.random).await;
        }
        shared.close_unlinked(snapshot);
        if last.is_none_or(|last| !last.exports.is_same(&snapshot.exports)) {
            let bulk: BTreeSet<&ClusterName> =
                snapshot.exports.values().flat_map(|export| bulk_grants(export)).collect();
            for (conn, _) in shared.connections.all() {
                let class = LinksInner::window_class(&conn, |peer| bulk.contains(peer));
                conn.quic.limit_windows(shared.endpoints.tuning(), class);
            }
        }
        let is_linked = |cluster: &ClusterName| snapshot.links.contains_key(cluster);
        shared.knowledge.views.retain(is_linked);
        self.hubs_seen_at.retain(|cluster, _| is_linked(cluster));
        self.hub_cache.retain(is_linked);
        let is_known =
            |cluster: &ClusterName| is_linked(cluster) || *cluster == snapshot.local.cluster;
        shared.peers.misuse.retain(is_known);
        shared.dialer.history.retain(is_known);
        shared.connections.disconnects.retain(is_known);
        shared.peers.handshake_faults.retain(is_known);
        shared.connections.boots.retain(is_known);
        shared.connections.permits.retain(is_known);
        shared.endpoints.retain_known_clusters(is_known);
    }

    fn link_reach(
        &mut self,
        snapshot: &Snapshot,
        cluster: &ClusterName,
        hubs: &LinkHubs,
    ) -> LinkReach {
        let register = &self.shared.connections;
        let siblings = register.connected(&snapshot.local.cluster);
        let seen_at = self.hubs_seen_at.entry(cluster.clone()).or_insert_with(Instant::now);
        let is_hub = hubs.own.contains(&snapshot.local.node);
        if is_hub || siblings.iter().any(|n| hubs.own.contains(n)) {
            *seen_at = Instant::now();
        }
        LinkReach {
            connected: register.is_connected(cluster),
            hubs_silent: seen_at.elapsed() >= HUB_SILENCE_TIMEOUT,
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

    fn run_subscribers(&mut self, snapshot: &Snapshot) {
        self.subscribers.retain(|cluster, stop| {
            let linked = snapshot.links.contains_key(cluster);
            if !linked {
                stop.cancel();
            }
            linked
        });
        for cluster in snapshot.links.keys() {
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
    fn share_addresses(&self, snapshot: &Snapshot) {
        let siblings = snapshot.siblings.values().flatten().map(|address| address.ip());
        self.endpoints.set_known_addresses(&snapshot.local.cluster, siblings);
        for link in snapshot.links.values() {
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
    fn close_unlinked(&self, snapshot: &Snapshot) {
        for (conn, _) in self.connections.all() {
            self.close_if_unlinked(snapshot, &conn);
        }
    }

    pub(super) fn close_if_unlinked(&self, snapshot: &Snapshot, conn: &PeerConnection) {
        let peer = &conn.peer;
        match admission::identify_peer(snapshot, &peer.id) {
            Ok(key) if key.cluster == peer.cluster => {}
            Ok(_) => conn.quic.close(Code::Unlinked, "the cluster has another name now"),
            Err(refusal) => conn.quic.close(refusal.code, &refusal.reason),
        }
    }
}
