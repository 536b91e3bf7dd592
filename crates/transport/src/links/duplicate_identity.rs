//! Finds a node's name that has two living processes, and reports it in the log and to those processes: most
//! likely an identity folder was copied.
//!
//! The processes themselves learn it from whoever sees both. Nodes and the controller of their own cluster
//! are believed; a linked cluster's report is only a reason to probe: whoever answers there must prove to
//! have this node's name, and must not be this very process.
//!
//! Neither a restart nor a hand-over looks like that for long: see [`super::coexistence`]. For the consequence see [`adit_core::routing::connections`]:
//! new streams go to the process that came last.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeKey};
use adit_core::snapshot::Class;
use adit_core::throttle::Throttle;
use adit_core::wire::control::ControlMessage;
use tokio::time::{Instant, sleep};

use super::coexistence::{COEXISTENCE_TIMEOUT, is_alive};
use super::connections::PeerConnection;
use super::duplicate_record::OwnDuplicate;
use super::inner::LinksInner;
use crate::endpoint::DialRequest;
use crate::peer::BootId;

/// The least time between two lines of one cluster: it has as many such nodes as it likes.
pub(super) const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// The least time between two notices to siblings about their duplicates.
const NOTIFY_INTERVAL: Duration = Duration::from_secs(5);
/// The least time between two probes that a linked cluster's reports cause.
const PROBE_INTERVAL: Duration = Duration::from_secs(20);
/// Time for which a report counts, from when it was received: longer than from one probe to the next.
const REPORT_LIFETIME: Duration = Duration::from_secs(90);

/// Time within which this process learns that it was itself who answered a probe in its name, from the
/// answer.
const ECHO_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest delay from a linked cluster's report of a duplicate to the probe.
const MAX_PROBE_DELAY: Duration = Duration::from_secs(15);
/// Age of the connection with whoever reports first from which the probe is not delayed: the duplicate is newer, most
/// likely, and delays its own.
const ESTABLISHED_LIFETIME: Duration = Duration::from_secs(30);

impl LinksInner {
    /// Tells processes that have one name of each other.
    pub(super) fn notify_duplicates(
        &self,
        coexisting: &BTreeMap<NodeKey, Vec<BootId>>,
        notified_at: &mut Option<Instant>,
    ) {
        if notified_at.is_some_and(|at| at.elapsed() < NOTIFY_INTERVAL) {
            return;
        }
        let mut nodes: HashMap<NodeKey, Vec<Arc<PeerConnection>>> = HashMap::new();
        for (conn, unusable) in self.connections.all() {
            if is_alive(&conn, unusable) {
                nodes.entry(conn.key()).or_default().push(conn);
            }
        }
        for (key, all) in nodes {
            let turns = self.connections.boots.alternating(&key);
            let beside = coexisting.get(&key).map(Vec::as_slice).unwrap_or_default();
            for conn in &all {
                let boot = conn.peer.boot;
                let other = if beside.contains(&boot) { beside } else { &[] };
                let other = other.iter().find(|other| **other != boot);
                let other = other.and_then(|other| all.iter().find(|c| c.peer.boot == *other));
                let other = other.map(|c| (c.peer.boot, c.quic.remote()));
                let turn = turns.and_then(|pair| pair.into_iter().find(|other| *other != boot));
                // A process that is not connected was last at the address of its name, as far as is known.
                if let Some((other, at)) =
                    other.or_else(|| turn.map(|other| (other, conn.quic.remote())))
                {
                    conn.send_control(ControlMessage::DuplicateIdentity {
                        boot: other.0,
                        address: at,
                    });
                    *notified_at = Some(Instant::now());
                }
            }
        }
    }

    /// Handles a peer's report that this process has a duplicate.
    pub(super) fn receive_duplicate_report(
        self: &Arc<Self>,
        conn: &PeerConnection,
        boot: BootId,
        address: SocketAddr,
    ) {
        if boot == self.context.boot {
            return;
        }
        let by = conn.peer.node.clone();
        let double = OwnDuplicate { boot, address, reported_by: by, reported_at: Instant::now() };
        if conn.peer.cluster == self.snapshot().local.cluster {
            self.record_duplicate(double);
        } else if let Some(delay) = self.probe_delay(conn.connected_at.elapsed()) {
            let looking = Arc::clone(self).probe_for_duplicate(double, delay);
            self.runtime.tasks.spawn_on(looking, &self.runtime.control_runtime);
        }
    }

    /// A peer came that has this very node's name.
    pub(super) fn count_namesake(&self) {
        self.peers.duplicate.namesakes.fetch_add(1, Ordering::Relaxed);
    }

    /// The time from the report of a peer, whose connection is so old, to a probe; `None` if there is to be none:
    /// whatever peers report, now and then only.
    fn probe_delay(&self, age: Duration) -> Option<Duration> {
        let stages = &self.runtime.shutdown;
        // Until then the other one may be the process that hands over to this one.
        if age < COEXISTENCE_TIMEOUT
            || stages.leaving.is_cancelled()
            || stages.draining.is_cancelled()
        {
            return None;
        }
        let mut probed = self.peers.duplicate.probed_at.lock();
        let before = *probed;
        if before.is_some_and(|at| at.elapsed() < PROBE_INTERVAL) {
            return None;
        }
        *probed = Some(Instant::now());
        let is_first = before.is_none_or(|at| at.elapsed() >= REPORT_LIFETIME);
        // The duplicate is notified at the same time, and probes here.
        let random = MAX_PROBE_DELAY.mul_f64(self.context.random_unit());
        Some(if is_first && age >= ESTABLISHED_LIFETIME { Duration::ZERO } else { random })
    }

    /// Dials where a duplicate is reported, at the port where this node listens.
    async fn probe_for_duplicate(self: Arc<Self>, double: OwnDuplicate, delay: Duration) {
        let snapshot = self.snapshot();
        let Some(port) = snapshot.local.advertise.first().map(SocketAddr::port) else { return };
        if snapshot.is_own_address(double.address.ip()) {
            return;
        }
        sleep(delay).await;
        let before = self.peers.duplicate.namesakes.load(Ordering::Relaxed);
        let dial = DialRequest {
            address: SocketAddr::new(double.address.ip(), port),
            trust_domain: &snapshot.local.trust_domain,
            class: Class::Interactive,
        };
        let looking = async {
            let quic = self.endpoints.dial(0, dial).await.ok()?;
            let is_namesake = quic.identity().node.as_ref() == Some(&snapshot.local.node);
            sleep(ECHO_TIMEOUT).await;
            quic.close(Code::ConnectionUnused, "");
            is_namesake.then_some(())
        };
        let ended = self.runtime.shutdown.ended.clone();
        let found = ended.run_until_cancelled(looking).await.flatten().is_some();
        // A probe that reached this very process, by whatever way, would have been counted here.
        if found && self.peers.duplicate.namesakes.load(Ordering::Relaxed) == before {
            self.record_duplicate(double);
        }
    }

    fn record_duplicate(&self, double: OwnDuplicate) {
        let before = self.peers.duplicate.last.lock().replace(double.clone());
        if before.is_none_or(|before| before.reported_at.elapsed() >= REPORT_LIFETIME) {
            tracing::error!(
                boot = %double.boot, address = %double.address, by = %double.reported_by,
                "another living process has the name of this node: was its identity folder copied?"
            );
        }
    }

    /// Another living process that has this one's name, as was reported lately.
    pub(super) fn own_duplicate(&self) -> Option<OwnDuplicate> {
        self.peers
            .duplicate
            .last
            .lock()
            .clone()
            .filter(|double| double.reported_at.elapsed() < REPORT_LIFETIME)
    }

    /// Warns of one such node of each cluster, unless that was done a moment ago.
    pub(super) fn warn_of_duplicates(
        &self,
        coexisting: &BTreeMap<NodeKey, Vec<BootId>>,
        warnings: &mut Throttle<ClusterName, Instant>,
    ) {
        let now = Instant::now();
        warnings.forget_old(now);
        for (key, boots) in coexisting {
            let [boot, other, ..] = boots[..] else { continue };
            if warnings.try_pass(key.cluster.clone(), now) {
                let all = self.connections.all();
                let newest = all.iter().find(|(conn, _)| conn.peer.boot == boot);
                let remote = newest.map(|(conn, _)| conn.quic.remote().to_string());
                tracing::warn!(
                    peer = %key, %boot, remote, %other,
                    "two living processes have this name: was an identity folder copied? New streams go to \
                     the one that came last"
                );
            }
        }
    }
}
