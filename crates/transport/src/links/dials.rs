//! What dialling came to: for status, and so that what is known to be dead is not dialled for every
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

use super::recent::Recent;
use super::register::lock;

/// A node, and its cluster.
pub(super) type Node = (ClusterName, NodeName);

/// A DNS name and a port.
pub(super) type DnsName = (Arc<str>, u16);

/// For how long a node whose dial failed is not dialled again for a stream.
const REMEMBERED: Duration = Duration::from_secs(3);
/// For how long it is kept that a node is not to be dialled: nobody can ask for more.
const LEFT_ALONE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(super) struct DialFailure {
    pub(super) code: Code,
    /// For people, with the addresses.
    pub(super) text: String,
    /// Whether nothing at all came back.
    pub(super) is_silent: bool,
}

/// What stands before why this side refuses a certificate, and before why the other side refuses ours.
pub(super) const REFUSED_HERE: &str = "its certificate is refused: ";
pub(super) const REFUSED_THERE: &str = "it refuses this node's certificate: ";

impl DialFailure {
    pub(super) fn new(code: Code, text: String) -> Self {
        Self { code, text, is_silent: false }
    }
}

/// How dialling a cluster went, since the process began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DialRecord {
    /// Attempts.
    pub attempts: u64,
    /// Attempts since the last that succeeded.
    pub failures: u64,
    /// What the last failure said, with the addresses that were tried.
    pub last_error: Option<String>,
    /// Its code.
    pub last_code: Option<Code>,
    /// Whether nothing at all came back then.
    pub is_silent: bool,
    /// When that was.
    pub failed: Option<Instant>,
    /// When a standing connection is dialled next, if one is wanting.
    pub next: Option<Instant>,
    /// Whether all that is known of the cluster was dialled in vain since it was last reached.
    pub unreachable: bool,
}

/// What a dial under way will have come to.
type Outcome = Option<Result<(), DialFailure>>;

/// A dial under way.
#[derive(Debug, Clone)]
pub(super) struct Underway {
    began: Instant,
    outcome: watch::Receiver<Outcome>,
}

impl Underway {
    /// Waits for its end.
    pub(super) async fn ended(mut self) {
        drop(self.outcome.wait_for(Option::is_some).await);
    }

    /// Waits for what it comes to, until it has taken so long at most: none then.
    pub(super) async fn landed(mut self, within: Duration) -> Option<Result<(), DialFailure>> {
        let landed = timeout_at(self.began + within, self.outcome.wait_for(Option::is_some));
        match landed.await.ok()? {
            Ok(result) => result.clone(),
            Err(_) => {
                let text = "the dial ended without a result".to_owned();
                Some(Err(DialFailure::new(Code::Internal, text)))
            }
        }
    }
}

/// One dial at a time for each of these.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Flight {
    pub(super) node: Node,
    pub(super) lane: Class,
    pub(super) worker: usize,
}

/// What dialling came to.
#[derive(Debug)]
pub(super) struct Dials {
    records: Mutex<BTreeMap<ClusterName, DialRecord>>,
    /// Until when, and why.
    failed: Recent<(Instant, DialFailure)>,
    /// Until when, and where the node was.
    not_before: Recent<(Instant, SocketAddr)>,
    flights: Mutex<HashMap<Flight, Underway>>,
    names: Mutex<HashMap<DnsName, Vec<SocketAddr>>>,
}

impl Default for Dials {
    fn default() -> Self {
        Self {
            records: Mutex::default(),
            failed: Recent::new(REMEMBERED),
            not_before: Recent::new(LEFT_ALONE_TIMEOUT),
            flights: Mutex::default(),
            names: Mutex::default(),
        }
    }
}

impl DialRecord {
    /// Why a certificate was refused, where that is how the last dial failed: a label comes first.
    pub(super) fn refusal(&self) -> &str {
        let text = self.last_error.as_deref().unwrap_or_default();
        let found = [REFUSED_HERE, REFUSED_THERE].iter().find_map(|before| text.split_once(before));
        found.map_or("", |(_, why)| why)
    }

    /// Why there is no connection: how the last one was lost, `lost` in words, and what dialling came to since.
    pub(super) fn why(&self, lost: Option<(Instant, String)>) -> Option<String> {
        let error = self.last_error.clone();
        match lost {
            None => error,
            Some((at, lost)) => {
                Some(match error.filter(|_| self.failed.is_some_and(|f| f >= at)) {
                    Some(error) => format!("{lost}; {error}"),
                    None => lost,
                })
            }
        }
    }
}

impl Dials {
    pub(super) fn record(&self, cluster: &ClusterName) -> DialRecord {
        lock(&self.records).get(cluster).cloned().unwrap_or_default()
    }

    /// Forgets the clusters that `keep` does not want.
    pub(super) fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        lock(&self.records).retain(|cluster, _| keep(cluster));
        self.failed.retain(&keep);
        self.not_before.retain(&keep);
    }

    /// An attempt came to this.
    pub(super) fn count(&self, cluster: &ClusterName, result: Result<(), &DialFailure>) {
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
                record.failed = Some(Instant::now());
            }
        }
    }

    pub(super) fn set_unreachable(&self, cluster: &ClusterName, unreachable: bool) {
        lock(&self.records).entry(cluster.clone()).or_default().unreachable = unreachable;
    }

    /// When a standing connection is dialled next; none once that is done.
    pub(super) fn plan(&self, cluster: &ClusterName, next: Option<Instant>) {
        lock(&self.records).entry(cluster.clone()).or_default().next = next;
    }

    /// Remembers for a while that a node cannot be dialled.
    pub(super) fn remember(
        &self,
        (cluster, node): &Node,
        is_announced: bool,
        failure: DialFailure,
    ) {
        self.failed.note(cluster, node, is_announced, (Instant::now() + REMEMBERED, failure));
    }

    pub(super) fn forget(&self, (cluster, node): &Node) {
        self.failed.forget(cluster, node);
    }

    /// Why a node cannot be dialled, as found moments ago.
    pub(super) fn remembered(&self, (cluster, node): &Node) -> Option<DialFailure> {
        let (until, failure) = self.failed.get(cluster, node)?;
        Some(failure).filter(|_| until > Instant::now())
    }

    /// Why a node of the cluster cannot be dialled that was found moments ago not to answer: the last such one.
    pub(super) fn found_dead(&self, cluster: &ClusterName) -> Option<DialFailure> {
        let (_, (until, failure)) = self.failed.last(cluster)?;
        Some(failure).filter(|_| until > Instant::now())
    }

    /// The node, which was here, asked not to be dialled before then.
    pub(super) fn not_before(
        &self,
        (cluster, node): &Node,
        is_announced: bool,
        remote: SocketAddr,
        at: Instant,
    ) {
        self.not_before.note(cluster, node, is_announced, (at, remote));
    }

    /// Until when the node is not to be dialled.
    pub(super) fn wait_for(&self, (cluster, node): &Node) -> Option<Instant> {
        let (at, _) = self.not_before.get(cluster, node)?;
        Some(at).filter(|at| *at > Instant::now())
    }

    /// The nodes of a cluster that are not to be dialled now, and where they were.
    pub(super) fn resting(&self, cluster: &ClusterName) -> Vec<(NodeName, SocketAddr, Instant)> {
        let now = Instant::now();
        let noted = self.not_before.all(cluster).into_iter();
        let resting = noted.map(|(node, (at, remote))| (node, remote, at));
        resting.filter(|(_, _, at)| *at > now).collect()
    }

    /// Joins the flight that is under way, or has the caller begin one.
    pub(super) fn join(self: &Arc<Self>, flight: &Flight) -> Joined {
        let mut flights = lock(&self.flights);
        if let Some(underway) = flights.get(flight) {
            return Joined::Passenger(underway.clone());
        }
        let (tell, outcome) = watch::channel(None);
        let underway = Underway { began: Instant::now(), outcome };
        flights.insert(flight.clone(), underway.clone());
        Joined::Pilot(Pilot { dials: Arc::clone(self), flight: flight.clone(), tell }, underway)
    }

    /// Where a name led when it was resolved last.
    pub(super) fn led_to(&self, name: &DnsName) -> Vec<SocketAddr> {
        lock(&self.names).get(name).cloned().unwrap_or_default()
    }

    /// The resolver's answer for a name; what it said last, if it has none now.
    pub(super) fn resolved(
        &self,
        name: DnsName,
        answer: Option<Vec<SocketAddr>>,
    ) -> Option<Vec<SocketAddr>> {
        let mut names = lock(&self.names);
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
pub(super) enum Joined {
    /// Somebody dials already.
    Passenger(Underway),
    /// The caller must.
    Pilot(Pilot, Underway),
}

/// Whoever dials. Dropped without a landing, all passengers learn that.
#[derive(Debug)]
pub(super) struct Pilot {
    dials: Arc<Dials>,
    pub(super) flight: Flight,
    tell: watch::Sender<Outcome>,
}

impl Pilot {
    pub(super) fn land(self, result: Result<(), DialFailure>) {
        lock(&self.dials.flights).remove(&self.flight);
        self.tell.send_replace(Some(result));
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        lock(&self.dials.flights).remove(&self.flight);
    }
}
