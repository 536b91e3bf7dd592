//! Keeps what must stand: compares what should be with what is, and has the difference made good.
//!
//! With whom a connection should stand is [`adit_core::choose::links::standing`]'s to say. Here that is
//! asked again at each change, a keeper is started for each target and a learner for each link, and what
//! is linked no more is closed. A keeper dials, waits while the connection lives, and dials again with
//! full jitter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::pace::rest;
use adit_core::announce;
use adit_core::choose;
use adit_core::choose::links::{HubMemory, LinkHubs, Reach, Target, standing};
use adit_core::name::ClusterName;
use adit_core::snapshot::{Class, Seed, Snapshot};
use adit_core::wire::control::Control;
use adit_core::{admission, code::Code};
use adit_pki::{UnixTime, VerifyError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::conn::Conn;
use super::dials::Flight;
use super::learn::learn;
use super::session::bulk_grants;
use super::shared::Shared;

/// A node whose own hubs are all silent for so long acts as one.
const HUB_SILENCE: Duration = Duration::from_secs(10);
/// A connection that lived so long was a success, and the next dial's backoff begins anew.
const SETTLED: Duration = Duration::from_secs(10);
/// The least time between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// The least time between two accounts of where peers are: a peer's view may change all the time.
const ADDRESSES_INTERVAL: Duration = Duration::from_secs(5);
/// How often the passing of time alone is looked at.
const TICK: Duration = Duration::from_secs(1);

/// What is kept going.
struct Supervisor {
    shared: Arc<Shared>,
    /// When each link's own hubs were last connected.
    heard: BTreeMap<ClusterName, Instant>,
    keepers: BTreeMap<Target, CancellationToken>,
    learners: BTreeMap<ClusterName, CancellationToken>,
    /// What was looked at last.
    seen: Option<Arc<Snapshot>>,
    /// When the endpoints were told last where peers are.
    told_addresses: Option<Instant>,
    /// When it was said of a cluster last that one of its nodes has two processes.
    warned: BTreeMap<ClusterName, Instant>,
    hubs: HubMemory,
    /// When siblings that have two processes were told so last.
    told_doubled: Option<Instant>,
}

/// Keeps all links of a node until it drains.
pub(super) async fn supervise(shared: Arc<Shared>) {
    let mut snapshot = shared.known.snapshot.clone();
    let mut views = shared.known.views.subscribe();
    let mut changes = shared.register.bell();
    let draining = shared.work.stages.draining.clone();
    let mut supervisor = Supervisor {
        shared,
        heard: BTreeMap::new(),
        keepers: BTreeMap::new(),
        learners: BTreeMap::new(),
        seen: None,
        told_addresses: None,
        warned: BTreeMap::new(),
        hubs: HubMemory::default(),
        told_doubled: None,
    };
    loop {
        snapshot.mark_unchanged();
        views.mark_unchanged();
        changes.mark_unchanged();
        let began = Instant::now();
        supervisor.reconcile().await;
        // Many changes at once are one; and any tenant can change what a hundred clusters are told.
        sleep(rest(began.elapsed(), PAUSE)).await;
        tokio::select! {
            biased;
            () = draining.cancelled() => return,
            Ok(()) = snapshot.changed() => {}
            Ok(()) = views.changed() => {}
            Ok(()) = changes.changed() => {}
            () = sleep(TICK) => {}
        }
    }
}

impl Supervisor {
    async fn reconcile(&mut self) {
        let shared = Arc::clone(&self.shared);
        let now = shared.now();
        for (conn, _) in shared.register.all() {
            conn.quic.shrink_windows_if_unused();
        }
        if self.seen.as_ref().is_none_or(|last| !Arc::ptr_eq(last, &now)) {
            if self.seen.as_ref().is_none_or(|last| announce::may_differ(last, &now)) {
                shared.known.feeds.announce(&now, &*shared.local.random).await;
            }
            shared.close_unlinked(&now);
            shared.known.views.retain(|cluster| now.links.contains_key(cluster));
            shared
                .work
                .misuse
                .retain(|cluster| now.links.contains_key(cluster) || *cluster == now.this.cluster);
            if self.seen.as_ref().is_none_or(|last| !last.exports.is_same(&now.exports)) {
                let bulk: BTreeSet<&ClusterName> =
                    now.exports.values().flat_map(|export| bulk_grants(export)).collect();
                for (conn, _) in shared.register.all() {
                    let class = Shared::window_class(&conn, |peer| bulk.contains(peer));
                    conn.quic.limit_windows(shared.endpoints.tuning(), class);
                }
            }
            shared
                .work
                .dials
                .retain(|cluster| now.links.contains_key(cluster) || *cluster == now.this.cluster);
            let is_ours = |c: &ClusterName| now.links.contains_key(c) || *c == now.this.cluster;
            shared.register.losses.retain(is_ours);
            shared.work.faults.retain(is_ours);
            shared.register.boots.retain(is_ours);
            shared.register.seats.retain(is_ours);
            shared.endpoints.know_only(is_ours);
            self.heard.retain(|cluster, _| now.links.contains_key(cluster));
            self.hubs.retain(|cluster| now.links.contains_key(cluster));
            self.seen = Some(Arc::clone(&now));
        }
        if self.told_addresses.is_none_or(|at| at.elapsed() >= ADDRESSES_INTERVAL) {
            self.told_addresses = Some(Instant::now());
            shared.tell_addresses(&now);
            shared.warn_of_doubled(&mut self.warned);
            shared.tell_doubled(&mut self.told_doubled);
        }
        let mut targets = BTreeSet::new();
        for link in now.links.values() {
            let view = shared.known.views.get(&link.cluster);
            let view = view.as_ref().map(|v| &*v.view);
            let hubs = self.hubs.of(&now, &link.cluster, view);
            let reach = self.reach(&now, &link.cluster, &hubs);
            targets.extend(standing(&now, link, view, &hubs, reach));
        }
        shared.register.mark_standing(&targets);
        self.keep(&targets);
        self.learn(&now);
    }

    fn reach(&mut self, now: &Snapshot, cluster: &ClusterName, hubs: &LinkHubs) -> Reach {
        let register = &self.shared.register;
        let siblings = register.connected(&now.this.cluster);
        let heard = self.heard.entry(cluster.clone()).or_insert_with(Instant::now);
        let is_hub = hubs.ours.contains(&now.this.node);
        if is_hub || siblings.iter().any(|n| hubs.ours.contains(n)) {
            *heard = Instant::now();
        }
        Reach {
            connected: register.is_connected(cluster),
            hubs_silent: heard.elapsed() >= HUB_SILENCE,
            stale: self.shared.known.views.get(cluster).is_none_or(|view| view.is_stale()),
        }
    }

    fn keep(&mut self, targets: &BTreeSet<Target>) {
        self.keepers.retain(|target, stop| {
            let wanted = targets.contains(target);
            if !wanted {
                stop.cancel();
            }
            wanted
        });
        for target in targets {
            if !self.keepers.contains_key(target) {
                let stop = self.spawn(|shared, stop| keep(shared, target.clone(), stop));
                self.keepers.insert(target.clone(), stop);
            }
        }
    }

    fn learn(&mut self, now: &Snapshot) {
        self.learners.retain(|cluster, stop| {
            let linked = now.links.contains_key(cluster);
            if !linked {
                stop.cancel();
            }
            linked
        });
        for cluster in now.links.keys() {
            if !self.learners.contains_key(cluster) {
                let stop = self.spawn(|shared, stop| learn(shared, cluster.clone(), stop));
                self.learners.insert(cluster.clone(), stop);
            }
        }
    }

    fn spawn<F>(&self, task: impl FnOnce(Arc<Shared>, CancellationToken) -> F) -> CancellationToken
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.shared.work.stages.draining.child_token();
        let task = task(Arc::clone(&self.shared), stop.clone());
        self.shared.work.tasks.spawn_on(task, &self.shared.work.control);
        stop
    }
}

impl Shared {
    /// Tells the endpoints where nodes of our own cluster and of linked ones are: by configuration first,
    /// which no peer can fill up, then by what each announces.
    fn tell_addresses(&self, now: &Snapshot) {
        let siblings = now.siblings.values().flatten().map(|address| address.ip());
        self.endpoints.know(&now.this.cluster, siblings);
        for link in now.links.values() {
            let seeds = link.seeds.iter().flat_map(|seed| match seed {
                Seed::Address(address) => vec![*address],
                Seed::Name { host, port } => self.work.dials.led_to(&(host.clone(), *port)),
            });
            let view = self.known.views.get(&link.cluster);
            let announced = view.iter().flat_map(|v| v.view.nodes.values()).flatten().copied();
            let all = seeds.chain(announced).map(|address| address.ip());
            self.endpoints.know(&link.cluster, all);
        }
    }

    /// Ends the connections with peers that may not be peers any more.
    fn close_unlinked(&self, now: &Snapshot) {
        for (conn, _) in self.register.all() {
            self.close_if_unlinked(now, &conn);
        }
    }

    pub(super) fn close_if_unlinked(&self, now: &Snapshot, conn: &Conn) {
        let peer = &conn.peer;
        match admission::peer(now, &peer.id) {
            Ok((cluster, _)) if cluster == peer.cluster => {}
            Ok(_) => conn.quic.close(Code::Unlinked, "the cluster has another name now"),
            Err(refusal) => conn.quic.close(refusal.code, &refusal.reason),
        }
    }
}

impl Shared {
    /// Ends a connection whose certificate is not believed any more: trust may have changed between its handshake
    /// and now, and whoever acted on that did not see it yet.
    pub(super) fn close_if_disbelieved(&self, conn: &Conn) {
        let now = UnixTime::since_unix_epoch(Duration::from_millis((self.local.clock)()));
        if let Err(refusal) = conn.quic.verify_anew(self.endpoints.verifier(), now) {
            tracing::warn!(peer = %conn.peer.id, "connection ended: {refusal}");
            conn.disbelieve(&refusal);
        }
    }
}

/// A connection whose certificate is not believed any more, and whose peer is not denied, has so long until it
/// ends: its streams may finish, and new ones go by a connection that the peer makes with another certificate.
const DISBELIEVED_TIMEOUT: Duration = Duration::from_secs(10);

impl Shared {
    /// Begins the end of a connection whose certificate is not believed any more; false where that has begun
    /// before and goes on.
    pub(super) fn stop_believing(
        self: &Arc<Self>,
        conn: &Arc<Conn>,
        refusal: &VerifyError,
    ) -> bool {
        if refusal.label() == VerifyError::DENIED {
            conn.disbelieve(refusal);
            return true;
        }
        if !conn.begin_doubt() {
            return false;
        }
        // The peer is to make another one, so it is asked to stay away for no time.
        conn.tell(Control::GoAway { code: Code::CertificateEnded, retry_after_ms: 0 });
        self.register.leave(conn, Code::CertificateEnded);
        let (shared, conn) = (Arc::clone(self), Arc::clone(conn));
        let end = async move {
            tokio::select! {
                () = sleep(DISBELIEVED_TIMEOUT) => {
                    // It may be believed again. Whoever finds that it is not from here on begins anew.
                    conn.end_doubt();
                    shared.close_if_disbelieved(&conn);
                }
                _closed = conn.quic.closed() => {}
            }
        };
        self.work.tasks.spawn_on(end, &self.work.control);
        true
    }
}

/// Keeps a standing connection until `stop`.
async fn keep(shared: Arc<Shared>, target: Target, stop: CancellationToken) {
    let (Target::Seeds(cluster) | Target::Node(cluster, _)) = &target;
    // Cancelled, whatever it was at.
    let _: Option<()> = stop.run_until_cancelled(shared.keep(&target, cluster)).await;
    shared.work.dials.plan(cluster, None);
}

impl Shared {
    async fn keep(self: &Arc<Self>, target: &Target, cluster: &ClusterName) {
        let mut changes = self.register.bell_of(cluster);
        // Nothing is waited for before the very first dial.
        let mut attempt: Option<u32> = None;
        loop {
            let since = Instant::now();
            let served = self.wait_while(target, &mut changes, true).await;
            if served {
                let settled = since.elapsed() >= SETTLED;
                attempt = attempt.filter(|_| !settled).or(Some(0));
            }
            let wait = attempt.map(|n| choose::backoff(n, self.local.unit()));
            let at = self.dial_at(target, wait.unwrap_or_default());
            self.work.dials.plan(cluster, Some(at));
            tokio::select! {
                biased;
                _ = self.wait_while(target, &mut changes, false) => continue,
                () = sleep_until(at) => {}
            }
            self.work.dials.plan(cluster, None);
            self.dial_target(target).await;
            attempt = Some(attempt.map_or(0, |n| n.saturating_add(1)));
        }
    }

    /// Waits for as long as the target is served, or is not; says whether it had to wait at all.
    async fn wait_while(
        &self,
        target: &Target,
        changes: &mut watch::Receiver<()>,
        served: bool,
    ) -> bool {
        let mut waited = false;
        loop {
            changes.mark_unchanged();
            if self.register.serving(target).is_some() != served {
                return waited;
            }
            waited = true;
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// When a target is dialled that would be dialled after `wait`: later, where the node asked for it, or
    /// all nodes of the cluster that are known did.
    fn dial_at(&self, target: &Target, wait: Duration) -> Instant {
        let at = Instant::now() + wait;
        let asked = match target {
            Target::Node(cluster, node) => {
                self.work.dials.wait_for(&(cluster.clone(), node.clone()))
            }
            Target::Seeds(cluster) => {
                let resting = self.work.dials.resting(cluster);
                let view = self.known.views.get(cluster);
                let known = view.iter().flat_map(|v| v.view.nodes.keys());
                let all = known.clone().all(|node| resting.iter().any(|(n, ..)| n == node));
                resting.iter().map(|(_, _, at)| *at).min().filter(|_| all)
            }
        };
        // Those who were asked together do not come together.
        asked.map_or(at, |asked| at.max(asked + choose::backoff(0, self.local.unit())))
    }

    async fn dial_target(self: &Arc<Self>, target: &Target) {
        match target {
            Target::Seeds(cluster) => drop(self.dial_seeds(cluster).await),
            Target::Node(cluster, node) => {
                let node = (cluster.clone(), node.clone());
                let flight = Flight { node, lane: Class::Interactive, worker: 0 };
                // What it came to shows in the register.
                self.fly(&flight).ended().await;
            }
        }
    }
}
