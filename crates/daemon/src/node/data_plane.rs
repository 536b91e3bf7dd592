//! The data plane of a node, composed: links, the data path over them, and the health of backends.
//!
//! Everything that it runs over is an argument: endpoints, TCP, clock and random numbers. So a simulation runs this
//! very composition. The supervisor drives it through [`DataPlane`], and the status reads it through [`StatusSource`].

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_config::config::LimitsConfig;
use adit_core::fault::BackendStates;
use adit_core::snapshot::Snapshot;
use adit_dataplane::backends::{BackendHealth, HealthChecker};
use adit_dataplane::capacity::StreamCapacity;
use adit_dataplane::data_path::{self, DataPathContext, FlowRandom, HeldSources};
use adit_dataplane::flow::Flows;
use adit_dataplane::inbound::Inbound;
use adit_dataplane::listeners::{ImportListeners, InheritedListeners, OpenSockets};
use adit_dataplane::probe::Prober;
use adit_dataplane::probe_limits::ProbeLimits;
use adit_dataplane::tcp::TcpNetwork;
use adit_pki::{PeerVerifier, UnixTime};
use adit_transport::budget::BufferLimits;
use adit_transport::links::{LinkContext, LinkSettings};
use adit_transport::{Endpoints, Links};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{links, memory, traffic};
use crate::metrics::gauges::ProcessTotals;
use crate::status::build::Traffic;
use crate::status::{Link, PeerNode};

/// Descriptors that are left to listeners, QUIC sockets, files and the admin servers, and the share of
/// the rest that flows may take.
const RESERVED_DESCRIPTORS: u64 = 256;
/// The percentage of descriptors that flows may take: beyond it new flows are refused, and the admin server answers.
const DESCRIPTORS_FOR_FLOWS: u64 = 95;
/// The most flows, whatever the descriptors: with what each costs (some 7 KiB idle, up to 40 KiB with small
/// pieces behind gaps) they are what a node's memory limit has room for. A container often has a million
/// descriptors.
const MAX_FLOWS: usize = 32_768;
/// Connections that were just accepted may take this long to open their streams, from the beginning of the drain.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);
/// A drain looks this often whether streams are left.
const STREAMS_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// After the drain's deadline: what resetting the last flows may take.
const RESET_TIMEOUT: Duration = Duration::from_secs(2);

/// Links and data path of one node.
pub(super) trait DataPlane {
    /// The source of the status; it is read on another thread.
    type StatusSource: StatusSource;

    /// The source of this data plane's status.
    fn status_source(&self) -> Self::StatusSource;

    /// Ends the connections whose certificate has ended; with a verifier whose trust has changed, also those
    /// that it no longer believes.
    fn recheck(&self, verifier: Option<&PeerVerifier>);

    /// Goes away: tells peers, refuses what is new, waits up to `within` for streams to end, then resets
    /// what is left and ends all connections. Says how many streams that broke.
    fn drain(&self, within: Duration) -> impl Future<Output = u64>;
}

/// The facts about links and data path that the status and the metrics are made from.
pub(super) trait StatusSource: Send + Sync + 'static {
    /// The links, and the other nodes of this cluster, as the transport sees them.
    fn links(&self) -> (Vec<Link>, Vec<PeerNode>);

    /// Another living process that has this node's name, in words, where its siblings see one.
    fn own_duplicate(&self) -> Option<String> {
        None
    }

    /// The data path's counts, for the status.
    fn traffic(&self) -> Traffic;

    /// The data path's counts, for the metrics.
    fn totals(&self) -> ProcessTotals;

    /// Import addresses that could not be bound, and why.
    fn not_listening(&self) -> BTreeMap<SocketAddr, String>;
}

/// Links and data path, running.
#[derive(Debug, Clone)]
pub struct NodeDataPlane {
    /// Its links.
    pub links: Links,
    /// The QUIC endpoints below the links.
    pub endpoints: Endpoints,
    /// Every stream.
    pub flows: Flows,
    /// Which backends answer.
    pub backends: BackendHealth,
    /// Asks what would become of a stream.
    pub prober: Prober,
    /// The sockets of imports, for the process that comes next.
    pub(super) sockets: OpenSockets,
    not_listening: watch::Receiver<BTreeMap<SocketAddr, String>>,
    stop: DataPlaneStages,
}

/// The stages in which a data plane starts and ends, in this order.
#[derive(Debug, Clone, Default)]
struct DataPlaneStages {
    /// Connections may be accepted.
    may_accept: CancellationToken,
    /// No connection is accepted any more.
    stop_accepting: CancellationToken,
    /// Flows that still run are reset.
    reset_flows: CancellationToken,
    /// Every flow's task.
    tasks: TaskTracker,
}

/// The tasks that have to be polled for the data plane to work; they end with the node.
#[derive(Debug)]
pub struct DataPlaneTasks<N: TcpNetwork> {
    net: Arc<N>,
    path: Arc<data_path::DataPath<N>>,
    health_checker: HealthChecker,
    listeners: ImportListeners<N>,
    flows: Flows,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    may_accept: CancellationToken,
    stop_accepting: CancellationToken,
    reset_flows: CancellationToken,
}

impl NodeDataPlane {
    /// Starts links. The rest begins when the tasks are run, and accepting once [`NodeDataPlane::begin`] is called.
    #[must_use]
    pub fn start<N: TcpNetwork>(
        local: LinkContext,
        endpoints: Endpoints,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        limits: &LimitsConfig,
        net: N,
    ) -> (Self, DataPlaneTasks<N>) {
        let stop = DataPlaneStages::default();
        let flows = Flows::new(StreamCapacity { all: max_flows() });
        let (backends, keeper) = BackendHealth::new(limits.dial_timeout);
        let records = DataPathContext {
            flows: flows.clone(),
            backends: backends.clone(),
            drained: stop.reset_flows.clone(),
            random: FlowRandom::new((local.random)()),
            held: HeldSources::default(),
            probes: ProbeLimits::default(),
        };
        let bounds = data_path::DataPathLimits {
            streams_per_peer: usize::try_from(limits.streams_per_peer).unwrap_or(usize::MAX),
            header_deadline: limits.header_deadline,
            dial_timeout: limits.dial_timeout,
            unknown_source_hold: limits.unknown_source_hold,
        };
        let net = Arc::new(net);
        let path =
            Arc::new(data_path::DataPath::new(snapshot.clone(), net.clone(), records, bounds));
        let inbound = Arc::new(Inbound(path.clone()));
        let buffers =
            BufferLimits { process: bytes(limits.process_buffer), peer: bytes(limits.peer_buffer) };
        let header_deadline = limits.header_deadline;
        let settings = LinkSettings { header_timeout: header_deadline, buffers, ..local.settings };
        let links = Links::start(
            LinkContext { settings, ..local },
            endpoints.clone(),
            snapshot.clone(),
            inbound,
        );
        let workers: Vec<_> = endpoints.workers().iter().map(|w| w.handle().clone()).collect();
        let prober = Prober::new(path.clone(), links.clone(), workers[0].clone());
        let listeners =
            ImportListeners::new(path.clone(), links.clone(), workers, stop.tasks.clone());
        let (not_listening, sockets) = (listeners.failures(), listeners.sockets());
        let DataPlaneStages { may_accept, stop_accepting, reset_flows, .. } = stop.clone();
        let work = {
            let flows = flows.clone();
            DataPlaneTasks {
                net,
                path,
                health_checker: keeper,
                listeners,
                flows,
                snapshot,
                may_accept,
                stop_accepting,
                reset_flows,
            }
        };
        (Self { links, endpoints, flows, backends, prober, sockets, not_listening, stop }, work)
    }

    /// Accepts connections from now on.
    pub fn begin(&self) {
        self.stop.may_accept.cancel();
    }

    /// The views of linked clusters.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<super::snapshot::PeerViews> {
        self.links.views()
    }

    /// Which backends answer, and which do not.
    #[must_use]
    pub fn backend_states(&self) -> watch::Receiver<BackendStates> {
        self.backends.states()
    }

    /// Goes away: accepts nothing new, tells peers at once, waits up to `within` for streams to end, then resets
    /// what is left and ends all connections. Says how many streams that broke.
    pub async fn shut_down(&self, within: Duration) -> u64 {
        let DataPlaneStages { stop_accepting: accepting, reset_flows: drained, tasks, .. } =
            &self.stop;
        accepting.cancel();
        // Peers choose another node, or the successor, from now on; what was accepted here still gets its stream.
        self.links.announce_leaving();
        let settled = async {
            while self.flows.open() > 0 {
                tokio::time::sleep(STREAMS_CHECK_INTERVAL).await;
            }
        };
        let began = tokio::time::Instant::now();
        // Whoever had no stream by then is refused.
        tokio::time::timeout(SETTLE_TIMEOUT.min(within / 2), settled).await.ok();
        let within = within.saturating_sub(began.elapsed());
        let mut reset = 0;
        {
            let mut ending = std::pin::pin!(self.links.drain(within + RESET_TIMEOUT));
            tokio::select! {
                biased;
                broken = &mut ending => reset += broken,
                () = tokio::time::sleep(within) => {
                    reset += self.flows.open();
                    drained.cancel();
                    reset += ending.await;
                }
            }
        }
        // What waits for a source to become known, or for anything else, ends here.
        drained.cancel();
        tasks.close();
        if tokio::time::timeout(RESET_TIMEOUT, tasks.wait()).await.is_err() {
            tracing::error!(flows = tasks.len(), "flows are left that do not end");
        }
        reset as u64
    }
}

impl<N: TcpNetwork> DataPlaneTasks<N> {
    /// Begins with these listening sockets, where they are wanted.
    pub fn inherit(&mut self, sockets: InheritedListeners) {
        self.listeners.inherit(sockets);
    }

    /// Keeps listeners as the snapshot wants them until the node drains, and rights and backends until it has: what is
    /// still open then is still subject to policy, which follows from what backends say, too.
    pub async fn run(self) {
        let rights = self.path.run_revocations(self.reset_flows.clone());
        let keeper = self.health_checker.run(self.net, self.snapshot, self.reset_flows);
        let listening = async {
            self.may_accept.cancelled().await;
            self.listeners.run(self.stop_accepting).await;
        };
        let work = async { tokio::join!(rights, keeper, listening) };
        tokio::select! {
            _ = work => {}
            () = self.flows.log_unlogged() => {}
        }
    }
}

impl DataPlane for NodeDataPlane {
    type StatusSource = Self;

    fn status_source(&self) -> Self {
        self.clone()
    }

    fn recheck(&self, verifier: Option<&PeerVerifier>) {
        self.links.recheck_certificates(verifier, UnixTime::now());
    }

    async fn drain(&self, within: Duration) -> u64 {
        self.shut_down(within).await
    }
}

impl StatusSource for NodeDataPlane {
    fn links(&self) -> (Vec<Link>, Vec<PeerNode>) {
        let status = self.links.status();
        (status.links.iter().map(links::link).collect(), links::siblings(&status))
    }

    fn own_duplicate(&self) -> Option<String> {
        let double = self.links.own_duplicate()?;
        let (boot, address, by) = (double.boot.to_string(), double.address, double.reported_by);
        Some(format!("boot {boot:.8} at {address}, as {by} sees it"))
    }

    fn traffic(&self) -> Traffic {
        traffic::traffic(&self.flows, &self.backends)
    }

    fn totals(&self) -> ProcessTotals {
        let tasks = self.endpoints.workers().iter().map(|w| w.handle().metrics().num_alive_tasks());
        ProcessTotals {
            endpoints: self.endpoints.counters(),
            tasks: tasks.sum(),
            buffers: self.links.buffers().charges(),
            ..ProcessTotals::default()
        }
    }

    fn not_listening(&self) -> BTreeMap<SocketAddr, String> {
        self.not_listening.borrow().clone()
    }
}

/// The most flows that may be open: each has a descriptor, and some are kept for everything else.
fn max_flows() -> usize {
    let soft = adit_host::descriptors::limit().soft;
    let flows =
        soft.saturating_sub(RESERVED_DESCRIPTORS).saturating_mul(DESCRIPTORS_FOR_FLOWS) / 100;
    usize::try_from(flows)
        .unwrap_or(usize::MAX)
        .clamp(1, memory::streams(adit_host::memory::limit(), MAX_FLOWS))
}

fn bytes(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
