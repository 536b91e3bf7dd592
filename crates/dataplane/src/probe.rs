//! Streams that carry nothing, and only ask what would become of one: for `adit doctor`.
//!
//! [`Prober::ask`] goes the way of [`crate::outbound`] step by step, by the very same functions, as one caller: identify,
//! authorize, pick, open; the peer's [`crate::inbound`] authorizes, picks and dials as for any stream, answers, and
//! delivers nothing. So the answer is that which a connection made now would get, but for what happens before it
//! reaches this node.
//!
//! Such a stream needs the grant of any other, takes its place in every limit, and is counted apart. How often one may
//! be asked is bounded by whoever answers ([`crate::probe_limits`]), who dials a backend for it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::doctor::facts::ProbeStage;
use adit_core::name::{ClusterName, NodeName, PortName, ServiceName};
use adit_core::policy::Target;
use adit_core::snapshot::{Import, ImportPort, Snapshot};
use adit_core::spiffe::Workload;
use adit_core::wire::header::StreamProbe;
use adit_transport::Links;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::data_path::DataPath;
use crate::flow::{Direction, Flow, FlowFailure};
use crate::outbound::{self, Egress};
use crate::tcp::{ReadBuffer, Tcp, TcpNetwork};

/// Questions that are under way at once, of those that this node asks.
const MAX_ASKED: usize = 4;
/// The longest wait for an answer, from the question.
const PROBE_TIMEOUT: Duration = Duration::from_secs(40);

/// The caller for whom is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeCaller {
    /// Whoever speaks from this address, as this node knows it.
    Address(IpAddr),
    /// A workload of this cluster, wherever it runs.
    Workload(Workload),
}

/// The port that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbePort {
    /// The first, or only one.
    First,
    /// By its number in the exporting cluster.
    Number(u16),
    /// By its name there.
    Name(PortName),
}

/// A question: would this caller be answered there?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamQuestion {
    /// The imported service.
    pub service: ServiceName,
    /// Its port.
    pub port: ProbePort,
    /// The caller.
    pub caller: ProbeCaller,
    /// The step up to which the exporting side goes.
    pub depth: StreamProbe,
}

/// The answer, and what was learned on the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// The step at which it ended.
    pub stage: ProbeStage,
    /// [`Code::Finished`] if a connection would be carried.
    pub code: Code,
    /// Why not; empty if the code says all.
    pub reason: String,
    /// The caller, once it is known.
    pub source: Option<Workload>,
    /// The port that was meant.
    pub port: Option<PortName>,
    /// The node of the exporting cluster that answered, or was asked last.
    pub peer: Option<(ClusterName, NodeName)>,
    /// Nodes that refused before that one.
    pub retries: u32,
    /// The time that it took.
    pub took: Duration,
}

impl ProbeReport {
    fn begin() -> Self {
        Self {
            stage: ProbeStage::Resolve,
            code: Code::Finished,
            reason: String::new(),
            source: None,
            port: None,
            peer: None,
            retries: 0,
            took: Duration::ZERO,
        }
    }
}

/// Asks, for one node. Cheap to clone.
#[derive(Clone)]
pub struct Prober(Arc<dyn AskProbe>);

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober").finish_non_exhaustive()
    }
}

impl Prober {
    /// Asks through `links`, on the runtime of the first worker.
    #[must_use]
    pub fn new<N: TcpNetwork>(data_path: Arc<DataPath<N>>, links: Links, worker: Handle) -> Self {
        let egress = Arc::new(Egress { links, worker: 0 });
        Self(Arc::new(NodeProber { data_path, egress, worker, slots: Semaphore::new(MAX_ASKED) }))
    }

    /// Asks; `None` if [`MAX_ASKED`] questions are under way already, or the node has ended.
    pub async fn ask(&self, question: StreamQuestion) -> Option<ProbeReport> {
        self.0.ask(question).await
    }
}

/// The prober of any network.
trait AskProbe: Send + Sync {
    fn ask(&self, question: StreamQuestion) -> PendingReport<'_>;
}

type PendingReport<'a> = Pin<Box<dyn Future<Output = Option<ProbeReport>> + Send + 'a>>;

struct NodeProber<N: TcpNetwork> {
    data_path: Arc<DataPath<N>>,
    egress: Arc<Egress>,
    worker: Handle,
    slots: Semaphore,
}

impl<N: TcpNetwork> AskProbe for NodeProber<N> {
    fn ask(&self, question: StreamQuestion) -> PendingReport<'_> {
        Box::pin(async move {
            let _slot = self.slots.try_acquire().ok()?;
            let (data_path, egress) = (self.data_path.clone(), self.egress.clone());
            let asking = async move { ask(&data_path, &egress, &question).await };
            self.worker.spawn(asking).await.ok()
        })
    }
}

async fn ask<N: TcpNetwork>(
    data_path: &DataPath<N>,
    egress: &Egress,
    question: &StreamQuestion,
) -> ProbeReport {
    let began = Instant::now();
    let context = &data_path.context;
    let mut flow = context.flows.begin(Direction::Outbound, context.random.flow_id());
    flow.mark_probe();
    let mut report = ProbeReport::begin();
    let asking = steps(data_path, egress, question, &mut flow, &mut report);
    let end = timeout(PROBE_TIMEOUT, asking).await.unwrap_or_else(|_| {
        let seconds = PROBE_TIMEOUT.as_secs();
        Err(FlowFailure::new(Code::BackendTimeout, format!("no answer within {seconds} s")))
    });
    if let Err(failure) = &end {
        report.code = failure.code;
        report.reason = if failure.reason.is_empty() {
            failure.code.text().to_owned()
        } else {
            failure.reason.clone()
        };
    }
    report.source = flow.source.as_ref().map(|source| source.workload.clone());
    (report.peer, report.retries) = (flow.peer.clone(), flow.retries);
    report.took = began.elapsed();
    flow.end(end);
    report
}

/// The steps of [`outbound`] as the caller of the question.
async fn steps<N: TcpNetwork>(
    data_path: &DataPath<N>,
    egress: &Egress,
    question: &StreamQuestion,
    flow: &mut Flow,
    report: &mut ProbeReport,
) -> Result<(), FlowFailure> {
    let listen = {
        let snapshot = data_path.current_snapshot();
        let (import, port) = resolve(&snapshot, question)?;
        report.port = Some(port.name.clone());
        let target = Target { service: import.service.clone(), port: port.name.clone() };
        flow.attribute_to_target(&target, &import.from);
        port.listen.first().copied()
    };
    report.stage = ProbeStage::Identify;
    let workload = match &question.caller {
        ProbeCaller::Workload(workload) => workload.clone(),
        ProbeCaller::Address(ip) => {
            flow.workload = Some(SocketAddr::new(*ip, 0));
            flow.admit_workload(*ip)?;
            outbound::identify(data_path, SocketAddr::new(*ip, 0)).await?
        }
    };
    let snapshot = match listen {
        Some(listen) => outbound::first_view(data_path, listen).await,
        None => data_path.current_snapshot(),
    };
    // It may have been withdrawn meanwhile.
    let (import, port) = resolve(&snapshot, question)?;
    let target = Target { service: import.service.clone(), port: port.name.clone() };
    report.stage = ProbeStage::Authorize;
    let permit = outbound::authorize(&snapshot, import, &target, &workload, flow)?;
    report.stage = ProbeStage::Pick;
    let route = outbound::pick(data_path, &snapshot, import, &permit)?;
    report.stage = ProbeStage::Open;
    let asked = (&permit, Some(question.depth));
    let (mut stream, _) = outbound::open(egress, &NoSource, &route, asked, flow).await?;
    stream.recv.stop(Code::Finished);
    report.stage = ProbeStage::Answered;
    Ok(())
}

fn resolve<'a>(
    snapshot: &'a Snapshot,
    question: &StreamQuestion,
) -> Result<(&'a Arc<Import>, &'a ImportPort), FlowFailure> {
    let service = &question.service;
    let import = snapshot.imports.get(service).ok_or_else(|| {
        FlowFailure::new(Code::ImportUnknown, format!("this node imports no {service}"))
    })?;
    let is_meant = |port: &&ImportPort| match &question.port {
        ProbePort::First => true,
        ProbePort::Number(number) => port.number == *number,
        ProbePort::Name(name) => port.name == *name,
    };
    let port = import.ports.iter().find(is_meant).ok_or_else(|| {
        let has: Vec<_> =
            import.ports.iter().map(|p| format!("{} ({})", p.number, p.name.as_str())).collect();
        let reason = format!("the import of {service} has no such port; it has {}", has.join(", "));
        FlowFailure::new(Code::PortUnknown, reason)
    })?;
    Ok((import, port))
}

/// The connection of a caller that says nothing, and has no more to say.
struct NoSource;

const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

impl Tcp for NoSource {
    fn local(&self) -> SocketAddr {
        NOWHERE
    }

    fn remote(&self) -> SocketAddr {
        NOWHERE
    }

    async fn read(&self, _: &mut ReadBuffer) -> io::Result<Option<Bytes>> {
        Ok(None)
    }

    async fn write(&self, chunks: &mut [Bytes]) -> io::Result<()> {
        chunks.iter_mut().for_each(Bytes::clear);
        Ok(())
    }

    async fn finish(&self) -> io::Result<()> {
        Ok(())
    }

    async fn broken(&self) {
        std::future::pending().await
    }

    fn close_gracefully(&self) {}
}
