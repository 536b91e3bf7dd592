//! The history of dials: for status, and so that a node that is known to be dead is not dialled for every
//! stream.
//!
//! Owns the dials to nodes that are under way (one at a time for each node, lane and worker), the failures
//! of the last seconds, when a node that went away wants to be dialled again, and the last good
//! answers of the resolver.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::Class;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::recent_nodes::RecentNodes;
use super::table::lock;

/// A node, and its cluster.
pub(super) type NodeKey = (ClusterName, NodeName);

/// A DNS name and a port.
pub(super) type DnsAddress = (Arc<str>, u16);

/// Time for which a node whose dial failed is not dialled again for a stream, from the failure.
const FAILURE_LIFETIME: Duration = Duration::from_secs(3);
/// Time for which it is kept that a node is not to be dialled, from when it said so: nobody can ask for more.
const RECONNECT_DELAY_LIFETIME: Duration = Duration::from_secs(60);

/// The reason why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(super) struct DialFailure {
    pub(super) code: Code,
    /// For people, with the addresses.
    pub(super) text: String,
    /// True if nothing at all came back.
    pub(super) is_silent: bool,
}

/// The texts before the reason why this side refuses a certificate, and before why the other side refuses
/// ours.
pub(super) const REFUSED_HERE_PREFIX: &str = "its certificate is refused: ";
pub(super) const REFUSED_THERE_PREFIX: &str = "it refuses this node's certificate: ";

impl DialFailure {
    pub(super) fn new(code: Code, text: String) -> Self {
        Self { code, text, is_silent: false }
    }
}

/// The record of dialling a cluster, since the process began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DialRecord {
    /// Attempts.
    pub attempts: u64,
    /// Attempts since the last that succeeded.
    pub failures: u64,
    /// The text of the last failure, with the addresses that were tried.
    pub last_error: Option<String>,
    /// Its code.
    pub last_code: Option<Code>,
    /// True if nothing at all came back then.
    pub is_silent: bool,
    /// The time of that failure.
    pub failed_at: Option<Instant>,
    /// The time at which a standing connection is dialled next, if one is missing.
    pub next_at: Option<Instant>,
    /// True if all that is known of the cluster was dialled without success since it was last reached.
    pub unreachable: bool,
}

/// The result of a dial; `None` while it is under way.
type DialOutcome = Option<Result<(), DialFailure>>;

/// A dial under way.
#[derive(Debug, Clone)]
pub(super) struct PendingDial {
    started_at: Instant,
    outcome: watch::Receiver<DialOutcome>,
}

impl PendingDial {
    /// Waits for its end.
    pub(super) async fn wait(mut self) {
        drop(self.outcome.wait_for(Option::is_some).await);
    }

    /// Waits for the result, until the dial has taken `within` at most: `None` then.
    pub(super) async fn wait_result(mut self, within: Duration) -> Option<Result<(), DialFailure>> {
        let landed = timeout_at(self.started_at + within, self.outcome.wait_for(Option::is_some));
        match landed.await.ok()? {
            Ok(result) => result.clone(),
            Err(_) => {
                let text = "the dial ended without a result".to_owned();
                Some(Err(DialFailure::new(Code::Internal, text)))
            }
        }
    }
}

/// The key of a dial: there is one at a time for each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct DialKey {
    pub(super) node: NodeKey,
    pub(super) class: Class,
    pub(super) worker: usize,
}

/// The history of dials.
#[derive(Debug)]
pub(super) struct DialHistory {
    records: Mutex<BTreeMap<ClusterName, DialRecord>>,
    /// The failures of late: until when each holds, and why.
    failures: RecentNodes<(Instant, DialFailure)>,
    /// The nodes that asked not to be dialled: until when, and where each was.
    not_before: RecentNodes<(Instant, SocketAddr)>,
    in_flight: Mutex<HashMap<DialKey, PendingDial>>,
    resolved_names: Mutex<HashMap<DnsAddress, Vec<SocketAddr>>>,
}

impl Default for DialHistory {
    fn default() -> Self {
        Self {
            records: Mutex::default(),
            failures: RecentNodes::new(FAILURE_LIFETIME),
            not_before: RecentNodes::new(RECONNECT_DELAY_LIFETIME),
            in_flight: Mutex::default(),
            resolved_names: Mutex::default(),
        }
    }
}

impl DialRecord {
    /// The reason why a certificate was refused, if that is how the last dial failed: a label comes first.
    pub(super) fn certificate_refusal(&self) -> &str {
        let text = self.last_error.as_deref().unwrap_or_default();
        let found = [REFUSED_HERE_PREFIX, REFUSED_THERE_PREFIX]
            .iter()
            .find_map(|before| text.split_once(before));
        found.map_or("", |(_, why)| why)
    }

    /// The explanation why there is no connection: how the last one was lost, `lost` in words, and how
    /// dialling went since.
    pub(super) fn explanation(&self, lost: Option<(Instant, String)>) -> Option<String> {
        let error = self.last_error.clone();
        match lost {
            None => error,
            Some((at, lost)) => {
                Some(match error.filter(|_| self.failed_at.is_some_and(|f| f >= at)) {
                    Some(error) => format!("{lost}; {error}"),
                    None => lost,
                })
            }
        }
    }
}

impl DialHistory {
    pub(super) fn record_of(&self, cluster: &ClusterName) -> DialRecord {
        lock(&self.records).get(cluster).cloned().unwrap_or_default()
    }

    /// Forgets the clusters that `keep` does not want.
    pub(super) fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        lock(&self.records).retain(|cluster, _| keep(cluster));
        self.failures.retain(&keep);
        self.not_before.retain(&keep);
    }

    /// An attempt came to this.
    pub(super) fn record_attempt(&self, cluster: &ClusterName, result: Result<(), &DialFailure>) {
        let mut records = lock(&self.records);
        let record = records.entry(cluster.clone()).or_default();
        record.attempts += 1;
        match result {
            Ok(()) => (record.failures, record.unreachable) = (0, false),
            Err(failure) => {
                record.failures += 1;
                record.last_error = Some(failure.text.clone());
                record.last_code = Some(failure.code);
                record.is_silent = failure.is_silent;
                record.failed_at = Some(Instant::now());
            }
        }
    }

    pub(super) fn set_unreachable(&self, cluster: &ClusterName, unreachable: bool) {
        lock(&self.records).entry(cluster.clone()).or_default().unreachable = unreachable;
    }

    /// Sets when a standing connection is dialled next; `None` once that is done.
    pub(super) fn set_next_dial(&self, cluster: &ClusterName, next: Option<Instant>) {
        lock(&self.records).entry(cluster.clone()).or_default().next_at = next;
    }

    /// Remembers for a while that a node cannot be dialled.
    pub(super) fn record_failure(
        &self,
        (cluster, node): &NodeKey,
        is_announced: bool,
        failure: DialFailure,
    ) {
        self.failures.insert(
            cluster,
            node,
            is_announced,
            (Instant::now() + FAILURE_LIFETIME, failure),
        );
    }

    pub(super) fn forget_failure(&self, (cluster, node): &NodeKey) {
        self.failures.remove(cluster, node);
    }

    /// The reason why a node cannot be dialled, as found moments ago.
    pub(super) fn recent_failure(&self, (cluster, node): &NodeKey) -> Option<DialFailure> {
        let (until, failure) = self.failures.get(cluster, node)?;
        Some(failure).filter(|_| until > Instant::now())
    }

    /// The reason why a node of the cluster cannot be dialled that was found moments ago not to answer: the
    /// last such one.
    pub(super) fn last_recent_failure(&self, cluster: &ClusterName) -> Option<DialFailure> {
        let (_, (until, failure)) = self.failures.last(cluster)?;
        Some(failure).filter(|_| until > Instant::now())
    }

    /// The node, which was here, asked not to be dialled before then.
    pub(super) fn set_not_before(
        &self,
        (cluster, node): &NodeKey,
        is_announced: bool,
        remote: SocketAddr,
        at: Instant,
    ) {
        self.not_before.insert(cluster, node, is_announced, (at, remote));
    }

    /// The time until which the node is not to be dialled.
    pub(super) fn backing_off_until(&self, (cluster, node): &NodeKey) -> Option<Instant> {
        let (at, _) = self.not_before.get(cluster, node)?;
        Some(at).filter(|at| *at > Instant::now())
    }

    /// The nodes of a cluster that are not to be dialled now, and where they were.
    pub(super) fn backing_off(
        &self,
        cluster: &ClusterName,
    ) -> Vec<(NodeName, SocketAddr, Instant)> {
        let now = Instant::now();
        let noted = self.not_before.all(cluster).into_iter();
        let resting = noted.map(|(node, (at, remote))| (node, remote, at));
        resting.filter(|(_, _, at)| *at > now).collect()
    }

    /// Joins the flight that is under way, or has the caller begin one.
    pub(super) fn start_or_join(self: &Arc<Self>, flight: &DialKey) -> DialRole {
        let mut flights = lock(&self.in_flight);
        if let Some(underway) = flights.get(flight) {
            return DialRole::Follower(underway.clone());
        }
        let (tell, outcome) = watch::channel(None);
        let underway = PendingDial { started_at: Instant::now(), outcome };
        flights.insert(flight.clone(), underway.clone());
        DialRole::Leader(
            DialLeader { history: Arc::clone(self), key: flight.clone(), outcome: tell },
            underway,
        )
    }

    /// The addresses of a name when it was resolved last.
    pub(super) fn last_resolved(&self, name: &DnsAddress) -> Vec<SocketAddr> {
        lock(&self.resolved_names).get(name).cloned().unwrap_or_default()
    }

    /// Records the resolver's answer for a name; gives the last good one if there is none now.
    pub(super) fn record_resolved(
        &self,
        name: DnsAddress,
        answer: Option<Vec<SocketAddr>>,
    ) -> Option<Vec<SocketAddr>> {
        let mut names = lock(&self.resolved_names);
        match answer {
            Some(addresses) => {
                names.insert(name, addresses.clone());
                Some(addresses)
            }
            None => names.get(&name).cloned(),
        }
    }
}

/// Part of a dial.
pub(super) enum DialRole {
    /// Somebody dials already.
    Follower(PendingDial),
    /// The caller must.
    Leader(DialLeader, PendingDial),
}

/// Whoever dials. Dropped without a landing, all passengers learn that.
#[derive(Debug)]
pub(super) struct DialLeader {
    history: Arc<DialHistory>,
    pub(super) key: DialKey,
    outcome: watch::Sender<DialOutcome>,
}

impl DialLeader {
    pub(super) fn complete(self, result: Result<(), DialFailure>) {
        lock(&self.history.in_flight).remove(&self.key);
        self.outcome.send_replace(Some(result));
    }
}

impl Drop for DialLeader {
    fn drop(&mut self) {
        lock(&self.history.in_flight).remove(&self.key);
    }
}
