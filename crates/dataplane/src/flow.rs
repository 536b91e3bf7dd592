//! The record of each flow: one TCP connection, one stream, and what became of them.
//!
//! A [`Flow`] is made when a connection or stream arrives and records itself when it is dropped, so that
//! there is exactly one line, one count and one end for each, even where its task is cancelled. What it
//! says of identity is what is known: the peer daemon's verified ID, the source as this node found it
//! (outbound) or as the peer asserts it (inbound, and marked so).

mod futile;
mod log_limit;
pub(crate) mod metrics;
mod refusals;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::{ClusterName, Namespace, NodeName, ServiceName};
use adit_core::policy::{Permit, Source, Target};
use adit_core::spiffe::Workload;
use adit_core::text::count_noun;
use adit_core::wire::report::RefusalSeries;
use tokio::time::Instant;

use self::futile::FutileStreams;
use self::log_limit::LogLimit;
use self::metrics::{DirectionMetrics, TargetMetrics};
use self::refusals::RecentRefusals;
use crate::capacity::{OpenStreams, StreamCapacity};

/// Which way a flow's connection was opened, as seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// By a local workload.
    Outbound,
    /// By a peer's.
    Inbound,
}

impl Direction {
    /// As in logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// Why a flow did not finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowFailure {
    /// The code on the wire, in metrics and in status.
    pub code: Code,
    /// For the operator: what exactly, in one sentence. Empty where the code says all.
    pub reason: String,
}

impl FlowFailure {
    pub(crate) fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

impl FlowFailure {
    /// The end of a flow that had been taken. A connection that ended because its node refuses new work has
    /// not refused this: something was delivered.
    pub(crate) fn broken(code: Code) -> Self {
        if code.is_refusal() {
            return Self::new(Code::ConnectionLost, code.text());
        }
        if code == Code::OverBudget { Self::new(code, OVER_BUDGET) } else { code.into() }
    }
}

/// The reason of a stream that was reset for the memory that it held, on either side.
const OVER_BUDGET: &str = "its reader took nothing for a while, and the node that kept the bytes for it had no \
    more memory for streams that wait (limits.peerBuffer, limits.processBuffer)";

impl From<Code> for FlowFailure {
    fn from(code: Code) -> Self {
        Self { code, reason: String::new() }
    }
}

impl From<adit_core::policy::Denial> for FlowFailure {
    fn from(denial: adit_core::policy::Denial) -> Self {
        Self { code: denial.code, reason: denial.reason }
    }
}

/// Bytes that one direction of a flow has carried, counted as they pass.
#[derive(Debug)]
pub struct ByteCounter {
    flow: AtomicU64,
    total: ::metrics::Counter,
}

impl ByteCounter {
    fn new(total: &::metrics::Counter) -> Self {
        Self { flow: AtomicU64::new(0), total: total.clone() }
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.flow.fetch_add(bytes as u64, Relaxed);
        self.total.increment(bytes as u64);
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.flow.load(Relaxed)
    }
}

/// The record of a flow, reported when it is dropped.
#[derive(Debug)]
pub struct Flow {
    flows: Flows,
    direction: Direction,
    started: Instant,
    /// Joins both sides' lines.
    pub(crate) id: [u8; 16],
    /// The TCP connection's other end: the workload that asks, or the backend.
    pub(crate) workload: Option<SocketAddr>,
    pub(crate) source: Option<Source>,
    pub(crate) target: Option<Target>,
    pub(crate) peer: Option<(ClusterName, NodeName)>,
    /// True if another node than the backend's own was entered.
    pub(crate) hop: bool,
    /// Nodes or backends that refused before one took it.
    pub(crate) retries: u32,
    /// Bytes from TCP to the stream, and from the stream to TCP.
    pub(crate) sent: ByteCounter,
    pub(crate) received: ByteCounter,
    group: Option<TargetKey>,
    /// The metrics of the target's flows, if the target is counted by name.
    target_metrics: Option<Arc<TargetMetrics>>,
    user: Option<ExportUser>,
    /// The cluster or workload among whose flows it is counted.
    opener: Option<FlowOpener>,
    end: Result<(), FlowFailure>,
}

/// All flows of a process: how many are open, how many ended and why.
#[derive(Debug, Clone)]
pub struct Flows(Arc<FlowsInner>);

#[derive(Debug)]
struct FlowsInner {
    capacity: StreamCapacity,
    table: Mutex<FlowTable>,
    log_limit: LogLimit,
    futile: FutileStreams,
    /// Made by the first flow: what is counted in is there only then.
    outbound: OnceLock<DirectionMetrics>,
    inbound: OnceLock<DirectionMetrics>,
}

/// The opener of a flow, as far as its share of the capacity goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum FlowOpener {
    /// The nodes of a cluster that its certificate has proved.
    Peer(ClusterName),
    /// Whoever speaks from this address.
    Workload(IpAddr),
}

#[derive(Debug, Default)]
struct FlowTable {
    open: usize,
    /// Of those, the ones that peers began.
    inbound: usize,
    groups: BTreeMap<TargetKey, TargetFlows>,
    ended: BTreeMap<(Direction, Code), u64>,
    users: HashMap<ExportUser, usize>,
    /// Open flows by who began them.
    openers: HashMap<FlowOpener, usize>,
    /// Refusals that are being written, by the cluster that gets them.
    refusals: HashMap<ClusterName, usize>,
    /// Refusals of late.
    recent: RecentRefusals,
}

/// A refusal that is being written, for as long as this lives.
#[derive(Debug)]
pub(crate) struct PendingRefusal {
    flows: Flows,
    cluster: ClusterName,
}

/// Refusals of one peer cluster that may wait to be written. An honest peer has room for each at once, but on
/// a congested connection.
const MAX_PENDING_REFUSALS: usize = 256;

/// An export, and a source that policy let use it.
pub type ExportUser = (ServiceName, Source);

/// A direction, what was asked for, and the peer's cluster.
pub type TargetKey = (Direction, Target, ClusterName);

/// The flows of one target.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetTotals {
    /// Open at present.
    pub open: u64,
    /// Ended, ever.
    pub ended: u64,
    /// Of those, refused: nothing was delivered.
    pub refused: u64,
    /// Of those, the ones since a flow was last not refused.
    pub refused_in_a_row: u64,
    /// Of those, broken after that.
    pub failed: u64,
    /// Bytes from local workloads to peers, of ended flows.
    pub bytes_sent: u64,
    /// Bytes from peers to local workloads, of ended flows.
    pub bytes_received: u64,
    /// Entered at another node than the backend's own.
    pub hops: u64,
    /// The newest failure.
    pub last_failure: Option<(Code, String)>,
}

/// A target's flows, and what they count in: looked up once, not by each of them.
#[derive(Debug)]
struct TargetFlows {
    group: TargetTotals,
    metrics: Arc<TargetMetrics>,
}

impl TargetFlows {
    fn new((direction, target, cluster): &TargetKey) -> Self {
        let service = target.service.to_string();
        let metrics = TargetMetrics::new(*direction, service, cluster.as_str());
        Self { group: TargetTotals::default(), metrics: Arc::new(metrics) }
    }
}

impl FlowsInner {
    fn metrics_of(&self, direction: Direction) -> &DirectionMetrics {
        let metrics = match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        };
        metrics.get_or_init(|| DirectionMetrics::new(direction))
    }
}

impl Flows {
    /// None yet; more than there are places for are refused.
    #[must_use]
    pub fn new(places: StreamCapacity) -> Self {
        Self(Arc::new(FlowsInner {
            capacity: places,
            table: Mutex::default(),
            log_limit: LogLimit::new(),
            futile: FutileStreams::new(),
            outbound: OnceLock::new(),
            inbound: OnceLock::new(),
        }))
    }

    /// Begins the record of a new flow.
    pub(crate) fn begin(&self, direction: Direction, id: [u8; 16]) -> Flow {
        let mut table = self.table();
        table.open += 1;
        table.inbound += usize::from(direction == Direction::Inbound);
        drop(table);
        let metrics = self.0.metrics_of(direction);
        metrics.open.increment(1.0);
        Flow {
            flows: self.clone(),
            direction,
            started: Instant::now(),
            id,
            workload: None,
            source: None,
            target: None,
            peer: None,
            hop: false,
            retries: 0,
            sent: ByteCounter::new(&metrics.sent),
            received: ByteCounter::new(&metrics.received),
            group: None,
            target_metrics: None,
            user: None,
            opener: None,
            // What stands if the task ends without a word: it was cancelled or panicked.
            end: Err(Code::Internal.into()),
        }
    }

    /// The number of open flows.
    #[must_use]
    pub fn open(&self) -> usize {
        self.table().open
    }

    /// A place among the refusals that wait to be written to a peer; `None` if there are enough.
    pub(crate) fn begin_refusal(&self, cluster: &ClusterName) -> Option<PendingRefusal> {
        let mut table = self.table();
        let pending = table.refusals.entry(cluster.clone()).or_default();
        if *pending >= MAX_PENDING_REFUSALS {
            return None;
        }
        *pending += 1;
        drop(table);
        Some(PendingRefusal { flows: self.clone(), cluster: cluster.clone() })
    }

    /// Logs every few seconds how many lines were left out, until it is dropped.
    pub async fn log_unlogged(&self) {
        loop {
            tokio::time::sleep(UNLOGGED_INTERVAL).await;
            self.0.log_limit.log_unlogged();
        }
    }

    /// The flows of each target, by direction and the peer's cluster.
    #[must_use]
    pub fn groups(&self) -> BTreeMap<TargetKey, TargetTotals> {
        let table = self.table();
        table.groups.iter().map(|(key, flows)| (key.clone(), flows.group.clone())).collect()
    }

    /// Flows that were refused in the last minute and whose source was not served since: outbound ones first, of
    /// these the most first; and how many more there were, which are not told apart.
    #[must_use]
    pub fn refusals(&self) -> (Vec<RefusalSeries>, u64) {
        self.table().recent.recent(Instant::now())
    }

    /// Ended flows by code.
    #[must_use]
    pub fn ended(&self) -> BTreeMap<(Direction, Code), u64> {
        self.table().ended.clone()
    }

    /// Open streams by export and source.
    #[must_use]
    pub fn users(&self) -> HashMap<ExportUser, usize> {
        self.table().users.clone()
    }

    fn table(&self) -> MutexGuard<'_, FlowTable> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flow {
    /// Counts the flow among those of the workload at this address, and refuses it if there are too many.
    ///
    /// # Errors
    /// [`Code::OverLimit`].
    pub(crate) fn admit_workload(&mut self, from: IpAddr) -> Result<(), FlowFailure> {
        let taken = self.attribute_to_opener(FlowOpener::Workload(from.to_canonical()));
        self.flows.0.capacity.admit_workload(taken)
    }

    /// Refuses a flow whose workload opens too many in vain. Only once it is known which that is.
    ///
    /// # Errors
    /// [`Code::OverLimit`].
    pub(crate) fn admit_source(
        &self,
        to: &ClusterName,
        source: &Workload,
    ) -> Result<(), FlowFailure> {
        self.flows.0.futile.admit(&(to.clone(), source.namespace.clone()))
    }

    /// Which cluster took this for a stream in vain, if one did, and of which namespace's.
    fn futile_debtor(&self) -> Option<(ClusterName, Namespace)> {
        let (cluster, _) = self.peer.as_ref().filter(|_| self.direction == Direction::Outbound)?;
        let unanswered = self.received.bytes() == 0;
        let in_vain = unanswered && futile::is_futile(self.code(), self.started.elapsed());
        let source = self.source.as_ref().filter(|_| in_vain)?;
        Some((cluster.clone(), source.workload.namespace.clone()))
    }

    /// Counts the flow among those that nodes of `cluster` have begun, and refuses it if there are too many:
    /// more than `limit`, or than its share beside so many linked `clusters`. Only for a cluster that its
    /// certificate has proved.
    ///
    /// # Errors
    /// [`Code::OverLimit`].
    pub(crate) fn admit_peer(
        &mut self,
        cluster: &ClusterName,
        limit: usize,
        clusters: usize,
    ) -> Result<(), FlowFailure> {
        let taken = self.attribute_to_opener(FlowOpener::Peer(cluster.clone()));
        if taken.own > limit {
            let reason = format!(
                "{cluster} has {} open here, which is limits.streamsPerPeer",
                count_noun(limit as u64, "stream")
            );
            return Err(FlowFailure::new(Code::OverLimit, reason));
        }
        let lent = |promised| self.flows.table().borrowed(promised);
        self.flows.0.capacity.admit_peer(taken, clusters, lent)
    }

    fn attribute_to_opener(&mut self, opener: FlowOpener) -> OpenStreams {
        let mut table = self.flows.table();
        let own = table.openers.entry(opener.clone()).or_default();
        *own += 1;
        let own = *own;
        let (all, inbound) = (table.open, table.inbound);
        drop(table);
        self.opener = Some(opener);
        let direction = if self.direction == Direction::Inbound { inbound } else { all - inbound };
        OpenStreams { all, direction, own }
    }

    /// Counts the flow for a configured target. Never for one that only a peer has named: what is kept
    /// must be bounded by our own configuration.
    pub(crate) fn attribute_to_target(&mut self, target: &Target, cluster: &ClusterName) {
        let key = (self.direction, target.clone(), cluster.clone());
        let mut table = self.flows.table();
        if !table.groups.contains_key(&key) {
            table.groups.insert(key.clone(), TargetFlows::new(&key));
        }
        if let Some(flows) = table.groups.get_mut(&key) {
            flows.group.open += 1;
            self.sent.total = flows.metrics.sent.clone();
            self.received.total = flows.metrics.received.clone();
            self.target_metrics = Some(Arc::clone(&flows.metrics));
        }
        drop(table);
        self.target = Some(target.clone());
        self.group = Some(key);
    }

    /// Counts the flow for its source. Never before policy allowed it: what is kept must be bounded by
    /// flows that exist, not by names that a peer invents.
    pub(crate) fn attribute_to_source(&mut self, permit: &Permit) {
        let user = (permit.target().service.clone(), permit.source().clone());
        *self.flows.table().users.entry(user.clone()).or_default() += 1;
        self.user = Some(user);
    }

    /// Records how long the flow has waited for its answer: outbound for the peer's, inbound for a backend's.
    pub(crate) fn answered(&self) {
        let waited = self.started.elapsed();
        match &self.target_metrics {
            Some(metrics) => metrics.answered(waited),
            None => metrics::answered_unnamed(self.direction, self.link(), waited),
        }
    }

    /// The cluster at the other end, as a label: the one that the import or the grant names, or else the one that
    /// the peer's certificate has proved. Empty where there is none.
    fn link(&self) -> &str {
        let named = self.group.as_ref().map(|(_, _, cluster)| cluster);
        let proved = self.peer.as_ref().map(|(cluster, _)| cluster);
        named.or(proved).map_or("", ClusterName::as_str)
    }

    /// Sets how the flow ended; it is recorded when it is dropped.
    pub(crate) fn end(mut self, end: Result<(), FlowFailure>) {
        self.end = end;
    }

    fn code(&self) -> Code {
        self.end.as_ref().err().map_or(Code::Finished, |f| f.code)
    }
}

impl FlowTable {
    /// By how much all peer clusters together exceed what is promised to each.
    fn borrowed(&self, promised: usize) -> usize {
        let of = |(opener, open): (&FlowOpener, &usize)| match opener {
            FlowOpener::Peer(_) => open.saturating_sub(promised),
            FlowOpener::Workload(_) => 0,
        };
        self.openers.iter().map(of).sum()
    }
}

/// Takes one from a count; a count of zero is not kept.
fn count_down<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Drop for PendingRefusal {
    fn drop(&mut self) {
        count_down(&mut self.flows.table().refusals, &self.cluster);
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let (direction, code) = (self.direction, self.code());
        let duration = self.started.elapsed();
        if let Some(debtor) = self.futile_debtor() {
            self.flows.0.futile.note(&debtor);
        }
        // Numbers that only a peer knows are one: what is kept must be bounded by our own list.
        let known = if let Code::Unknown(_) = code { Code::Unknown(0) } else { code };
        let metrics = self.flows.0.metrics_of(direction);
        metrics.open.decrement(1.0);
        metrics.lasted(duration);
        match &self.target_metrics {
            Some(metrics) => metrics.ended(known),
            None => metrics::ended_unnamed(direction, known, self.link()),
        }
        let mut table = self.flows.table();
        table.open -= 1;
        table.inbound -= usize::from(direction == Direction::Inbound);
        *table.ended.entry((direction, known)).or_default() += 1;
        if let Some(user) = &self.user {
            count_down(&mut table.users, user);
        }
        if let Some(opener) = &self.opener {
            count_down(&mut table.openers, opener);
        }
        if let Some(TargetFlows { group, .. }) =
            self.group.as_ref().and_then(|key| table.groups.get_mut(key))
        {
            group.open -= 1;
            group.ended += 1;
            group.bytes_sent += self.sent.bytes();
            group.bytes_received += self.received.bytes();
            group.hops += u64::from(self.hop);
            group.refused_in_a_row = if code.is_refusal() { group.refused_in_a_row + 1 } else { 0 };
            if let Err(failure) = &self.end {
                group.refused += u64::from(failure.code.is_refusal());
                group.failed += u64::from(!failure.code.is_refusal());
                group.last_failure = Some((failure.code, failure.reason.clone()));
            }
        }
        if let Some((direction, target, cluster)) = self.group.take() {
            let source = self.source.as_ref().map(|source| source.workload.clone());
            let asker = (direction, cluster, target, source);
            match &self.end {
                Err(failure) if code.is_refusal() || code == Code::OverBudget => {
                    table.recent.note(asker, code, &failure.reason, Instant::now());
                }
                Ok(()) | Err(_) => table.recent.served(&asker),
            }
        }
        drop(table);
        self.log(code, duration);
    }
}

impl Flow {
    /// The one line of the flow. Its fields have fixed names, which people's tools and `adit demo` read;
    /// what is not known is left out. Bytes are as the opener of the connection sees them.
    ///
    /// Of those that came to nothing only some are logged: see [`LogLimit`].
    fn log(&self, code: Code, duration: Duration) {
        let mut unlogged = 0;
        if code != Code::Finished {
            let cluster = self.peer.as_ref().map(|(cluster, _)| cluster);
            let Some(left_out) = self.flows.0.log_limit.admit(self.direction, code, cluster) else {
                return;
            };
            unlogged = left_out;
        }
        let (out, back) = match self.direction {
            Direction::Outbound => (&self.sent, &self.received),
            Direction::Inbound => (&self.received, &self.sent),
        };
        let (source_address, backend) = match self.direction {
            Direction::Outbound => (self.workload, None),
            Direction::Inbound => (None, self.workload),
        };
        let reason = self.end.as_ref().err().map(|f| f.reason.as_str()).filter(|r| !r.is_empty());
        let id = self.id.iter().fold(String::with_capacity(32), |mut id, byte| {
            // Writing to a string cannot fail.
            write!(id, "{byte:02x}").ok();
            id
        });
        tracing::info!(
            target: "adit::stream",
            direction = self.direction.name(),
            code = code.name(),
            refused = code.is_refusal(),
            source = self.source.as_ref().map(display),
            // An inbound source is what the peer's daemon says; that daemon's ID is what is verified.
            asserted = self.source.as_ref().map(|_| self.direction == Direction::Inbound),
            address = source_address.map(display),
            target = self.target.as_ref().map(display),
            peer_cluster = self.peer.as_ref().map(|(cluster, _)| display(cluster)),
            peer_node = self.peer.as_ref().map(|(_, node)| display(node)),
            backend = backend.map(display),
            reason,
            bytes_out = out.bytes(),
            bytes_in = back.bytes(),
            duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            hop = self.hop,
            retries = self.retries,
            unlogged = (unlogged > 0).then_some(unlogged),
            flow = id,
            "{}",
            code.text()
        );
    }
}

/// The number of lines that were left out is logged this often.
const UNLOGGED_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_reset_for_its_memory_says_which_limits() {
        let failure = FlowFailure::broken(Code::OverBudget);
        assert_eq!(failure.code, Code::OverBudget);
        for limit in ["limits.peerBuffer", "limits.processBuffer"] {
            assert!(failure.reason.contains(limit), "{failure:?}");
        }
    }

    /// A recorder that keeps nothing but how often a series was looked up.
    #[derive(Default)]
    struct LookUpRecorder(AtomicU64);

    impl ::metrics::Recorder for LookUpRecorder {
        fn describe_counter(
            &self,
            _: ::metrics::KeyName,
            _: Option<::metrics::Unit>,
            _: ::metrics::SharedString,
        ) {
        }
        fn describe_gauge(
            &self,
            _: ::metrics::KeyName,
            _: Option<::metrics::Unit>,
            _: ::metrics::SharedString,
        ) {
        }
        fn describe_histogram(
            &self,
            _: ::metrics::KeyName,
            _: Option<::metrics::Unit>,
            _: ::metrics::SharedString,
        ) {
        }
        fn register_counter(
            &self,
            _: &::metrics::Key,
            _: &::metrics::Metadata<'_>,
        ) -> ::metrics::Counter {
            self.0.fetch_add(1, Relaxed);
            ::metrics::Counter::noop()
        }
        fn register_gauge(
            &self,
            _: &::metrics::Key,
            _: &::metrics::Metadata<'_>,
        ) -> ::metrics::Gauge {
            self.0.fetch_add(1, Relaxed);
            ::metrics::Gauge::noop()
        }
        fn register_histogram(
            &self,
            _: &::metrics::Key,
            _: &::metrics::Metadata<'_>,
        ) -> ::metrics::Histogram {
            self.0.fetch_add(1, Relaxed);
            ::metrics::Histogram::noop()
        }
    }

    #[test]
    fn a_flow_looks_no_series_up_that_another_of_its_target_has_found() {
        let recorder = LookUpRecorder::default();
        let target =
            Target { service: "agents/fraud-bot".parse().unwrap(), port: "http".parse().unwrap() };
        ::metrics::with_local_recorder(&recorder, || {
            let flows = Flows::new(StreamCapacity { all: 9 });
            let look_ups = |direction: Direction| {
                let before = recorder.0.load(Relaxed);
                let mut flow = flows.begin(direction, [0; 16]);
                flow.attribute_to_target(&target, &"bank".parse().unwrap());
                flow.answered();
                flow.sent.add(1);
                flow.end(Ok(()));
                recorder.0.load(Relaxed) - before
            };
            for direction in [Direction::Outbound, Direction::Inbound] {
                assert!(look_ups(direction) > 0);
                assert_eq!(look_ups(direction), 0, "{direction:?}");
            }
        });
    }

    #[test]
    fn refusals_are_counted_until_one_is_taken() {
        let flows = Flows::new(StreamCapacity { all: 9 });
        let target =
            Target { service: "agents/fraud-bot".parse().unwrap(), port: "http".parse().unwrap() };
        let end = |end: Result<(), Code>| {
            let mut flow = flows.begin(Direction::Outbound, [0; 16]);
            flow.attribute_to_target(&target, &"bank".parse().unwrap());
            flow.end(end.map_err(FlowFailure::from));
            flows.groups().values().next().unwrap().refused_in_a_row
        };
        assert_eq!(end(Err(Code::Denied)), 1);
        assert_eq!(end(Err(Code::NoBackend)), 2);
        assert_eq!(end(Err(Code::BackendReset)), 0, "it had been taken");
        assert_eq!(end(Err(Code::Denied)), 1);
        assert_eq!(end(Ok(())), 0);
    }
}
