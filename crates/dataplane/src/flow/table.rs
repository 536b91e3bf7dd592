//! All flows of a process: how many are open, and by whom; how many ended, and why.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::{ClusterName, ServiceName};
use adit_core::policy::{Source, Target};
use adit_core::wire::report::RefusalSeries;
use adit_runtime::{Mutex, count_down};
use tokio::time::Instant;

use super::conversations::Conversations;
use super::direction::Direction;
use super::futile::FutileStreams;
use super::log_limit::LogLimit;
use super::metrics::{DirectionMetrics, TargetMetrics};
use super::refusals::RecentRefusals;
use super::refused_sources::RefusedSources;
use super::taps::StreamTaps;
use crate::capacity::StreamCapacity;

/// The number of lines that were left out is logged this often.
const UNLOGGED_INTERVAL: Duration = Duration::from_secs(10);

/// All flows of a process: how many are open, how many ended and why.
#[derive(Debug, Clone)]
pub struct Flows(pub(super) Arc<FlowsInner>);

#[derive(Debug)]
pub(super) struct FlowsInner {
    pub(super) capacity: StreamCapacity,
    pub(super) table: Mutex<FlowTable>,
    pub(super) log_limit: LogLimit,
    pub(super) futile: FutileStreams,
    pub(super) taps: StreamTaps,
    /// Made by the first flow: what is counted in is there only then.
    outbound: OnceLock<DirectionMetrics>,
    inbound: OnceLock<DirectionMetrics>,
}

/// The opener of a flow, as far as its share of the capacity goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum FlowOpener {
    /// The nodes of a cluster that its certificate has proved.
    Peer(ClusterName),
    /// Whoever speaks from this address.
    Workload(IpAddr),
}

#[derive(Debug, Default)]
pub(super) struct FlowTable {
    pub(super) open: usize,
    /// Of those, the ones that peers began.
    pub(super) inbound: usize,
    pub(super) groups: BTreeMap<TargetKey, TargetFlows>,
    pub(super) ended: BTreeMap<(Direction, Code), u64>,
    pub(super) users: HashMap<ExportUser, usize>,
    /// Open flows by who began them.
    pub(super) openers: HashMap<FlowOpener, usize>,
    /// Refusals that are being written, by the cluster that gets them.
    pub(super) refusals: HashMap<ClusterName, usize>,
    /// Refusals of late.
    pub(super) recent: RecentRefusals,
    /// All refusals, by source.
    pub(super) refused: RefusedSources,
    /// Flows by source and target.
    pub(super) conversations: Conversations,
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
pub(super) struct TargetFlows {
    pub(super) group: TargetTotals,
    pub(super) metrics: Arc<TargetMetrics>,
}

impl TargetFlows {
    pub(super) fn new((direction, target, cluster): &TargetKey) -> Self {
        let service = target.service.to_string();
        let metrics = TargetMetrics::new(*direction, service, cluster.as_str());
        Self { group: TargetTotals::default(), metrics: Arc::new(metrics) }
    }
}

impl FlowsInner {
    pub(super) fn metrics_of(&self, direction: Direction) -> &DirectionMetrics {
        let metrics = match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        };
        metrics.get_or_init(|| DirectionMetrics::new(direction))
    }
}

impl Flows {
    /// No flows yet; those beyond `capacity` are refused.
    #[must_use]
    pub fn new(capacity: StreamCapacity) -> Self {
        Self(Arc::new(FlowsInner {
            capacity,
            table: Mutex::default(),
            log_limit: LogLimit::new(),
            futile: FutileStreams::new(),
            taps: StreamTaps::default(),
            outbound: OnceLock::new(),
            inbound: OnceLock::new(),
        }))
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

    pub(super) fn table(&self) -> MutexGuard<'_, FlowTable> {
        self.0.table.lock()
    }
}

impl FlowTable {
    /// By how much all peer clusters together exceed what is promised to each.
    pub(super) fn borrowed(&self, promised: usize) -> usize {
        let of = |(opener, open): (&FlowOpener, &usize)| match opener {
            FlowOpener::Peer(_) => open.saturating_sub(promised),
            FlowOpener::Workload(_) => 0,
        };
        self.openers.iter().map(of).sum()
    }
}

impl Drop for PendingRefusal {
    fn drop(&mut self) {
        count_down(&mut self.flows.table().refusals, &self.cluster);
    }
}
