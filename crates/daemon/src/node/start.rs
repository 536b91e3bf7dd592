//! The start of a node: from a good configuration to a process that serves, and on to its end.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use adit_config::{Config, ConfigReport};
use adit_core::snapshot::Snapshot;
use adit_dataplane::tcp::os::OsTcpNetwork;
use adit_kubernetes::node::ReaderPods;
use adit_kubernetes::node::state::NodeState;
use adit_pki::UnixTime;
use adit_pki::tls::system_clock;
use adit_runtime::Tasks;
use adit_transport::peer::BootId;
use adit_transport::{NodeSecret, Tls, Worker};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::bind::BoundSockets;
use super::config_source::ConfigSource;
use super::config_update::ConfigUpdate;
use super::credentials::{self, CredentialFault, Credentials};
use super::data_plane::{DataPlane, NodeDataPlane};
use super::handover::HandoverState;
use super::handover::holder::NodeSockets;
use super::handover::requester::Succession;
use super::memory::MemoryShares;
use super::process_state::{MutableState, ProcessState, StaticState};
use super::servers::{AdminBinding, HttpServers, PublicBinding, ServerPlan};
use super::snapshot::{self, SnapshotBuilder, SnapshotSources};
use super::supervisor::{NodeSupervisor, SupervisorEvents};
use super::takeover::{self, BindInputs, ProcessChain};
use super::workers::WorkerPool;
use super::{link_log, metrics_admission, readiness_checks};
use crate::admin::serve::Admission;
use crate::metrics::ProcessMetrics;
use crate::process::link_context::link_context;
use crate::process::log::log_warnings;
use crate::process::setup::cannot;
use crate::process::signals::{ProcessSignals, end_requested};
use crate::process::{ProcessExit, StartError, panics};
use crate::readiness::{Pending, Readiness};
use crate::telemetry::ProcessLog;

/// Commands that may wait; an operator waits for the answer to each.
const MAX_PENDING_COMMANDS: usize = 4;

/// All that a node starts with.
pub(super) struct StartContext {
    pub(super) started: Instant,
    pub(super) config_source: ConfigSource,
    pub(super) config: Config,
    pub(super) reports: Vec<ConfigReport>,
    pub(super) config_updates: mpsc::Receiver<ConfigUpdate>,
    /// The state that Kubernetes adds, if the node runs there.
    pub(super) kubernetes_state: Option<watch::Receiver<Arc<NodeState>>>,
    pub(super) readiness: Readiness,
    pub(super) net: OsTcpNetwork,
    /// The processes before and after this one, if it does not stand alone.
    pub(super) chain: Option<ProcessChain>,
    pub(super) handover: HandoverState,
    /// The pods that may read metrics, if the node runs on Kubernetes.
    pub(super) reader_pods: Option<ReaderPods>,
}

/// A node that knows who it is and has its sockets.
struct BoundNode {
    context: StartContext,
    credentials: Credentials,
    /// Faults of trust bundles that were left out.
    identity_error: Option<String>,
    signals: ProcessSignals,
    sockets: BoundSockets,
    succession: Option<Succession>,
    metrics: ProcessMetrics,
    log: ProcessLog,
    /// Keeps the node from being ready until it serves.
    starting: Pending,
}

/// Runs a node from a good configuration to its end, which is also that of any of `tasks`.
pub(super) fn start(
    runtime: &Runtime,
    context: StartContext,
    tasks: &mut Tasks,
    log: &ProcessLog,
) -> Result<ProcessExit, StartError> {
    panics::install();
    log_warnings(&context.reports);
    let metrics = ProcessMetrics::install().map_err(|e| e.to_string())?;
    match adit_host::descriptors::raise() {
        Ok(limit) => tracing::debug!(descriptors = limit.soft, "descriptor limit raised"),
        Err(error) => tracing::warn!(%error, "the descriptor limit stays as it is"),
    }
    let starting = context.readiness.wait_for("start");
    // Who we are comes before anything that others can reach.
    let (credentials, identity_error) = load_credentials(&context)?;
    let workers =
        WorkerPool::start(context.config.node.endpoints.get()).map_err(cannot("start a worker"))?;
    // Caught before anything is waited for: the first process of a container has no other way to hear them.
    let mut signals = {
        let _context = runtime.enter();
        ProcessSignals::catch().map_err(cannot("catch signals"))?
    };
    let bound = bind(runtime, &context, &credentials, &workers, &mut signals)?;
    let Some((sockets, succession)) = bound else {
        tracing::info!("asked to end before the node could start");
        return Ok(ProcessExit::Drained { reset: 0 });
    };
    let node = BoundNode {
        context,
        credentials,
        identity_error,
        signals,
        sockets,
        succession,
        metrics,
        log: log.clone(),
        starting,
    };
    let exit = runtime.block_on(async {
        tokio::select! {
            exit = serve(node) => exit,
            which = tasks.ended() => Err(StartError::TaskEnded(which.to_string())),
        }
    })?;
    if let ProcessExit::Drained { .. } = exit {
        workers.stop();
    }
    Ok(exit)
}

/// Loads all files. The faults of those that can be left out are logged, and returned for the status.
fn load_credentials(context: &StartContext) -> Result<(Credentials, Option<String>), StartError> {
    let (credentials, faults) = Credentials::load(&context.config, UnixTime::now())
        .map_err(|faults| credentials_error(&context.config_source, &faults))?;
    let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
    faults.iter().for_each(|error| tracing::error!("{error}"));
    Ok((credentials, (!faults.is_empty()).then(|| faults.join("\n"))))
}

/// Why a node cannot start with its own files: with their places, if there is a file that has some.
fn credentials_error(source: &ConfigSource, faults: &[CredentialFault]) -> StartError {
    if let ConfigSource::File(file) = source {
        let report = credentials::check(file);
        if report.errors().next().is_some() {
            return StartError::Config(vec![report]);
        }
    }
    StartError::Environment(faults.iter().map(ToString::to_string).collect())
}

/// Binds all sockets; `None` if a signal asks the process to end while it waits for them.
fn bind(
    runtime: &Runtime,
    context: &StartContext,
    credentials: &Credentials,
    workers: &WorkerPool,
    signals: &mut ProcessSignals,
) -> Result<Option<(BoundSockets, Option<Succession>)>, StartError> {
    let config = &context.config;
    let secret = NodeSecret::load_or_create(&config.node.identity).map_err(|e| e.to_string())?;
    let tls = Tls::new(&credentials.identity, &credentials.verifier, &system_clock())
        .map_err(|e| e.to_string())?;
    let handles = workers.handles().iter().zip(0..).map(|(h, n)| Worker::new(n, h.clone()));
    let inputs = BindInputs { config, workers: handles.collect(), secret: &secret, tls };
    let pause =
        |time| runtime.block_on(async { timeout(time, end_requested(signals)).await.is_ok() });
    takeover::bind(&inputs, context.chain.as_ref(), pause).map_err(StartError::Environment)
}

/// Starts the data plane over the sockets, and runs everything that lasts as long as the supervisor.
async fn serve(node: BoundNode) -> Result<ProcessExit, StartError> {
    let boot = new_boot_id()?;
    let BoundNode { context, credentials, identity_error, signals, sockets, .. } = node;
    let listen = sockets.endpoints.addresses().to_vec();
    let base = SnapshotBuilder::from_config(&context.config, &listen);
    let first = first_snapshot(&base, context.kubernetes_state.as_ref());
    let (base, bases) = watch::channel(base);
    let (publish, snapshot) = watch::channel(first);
    let (mut links, mut limits) = (link_context(boot), context.config.limits.clone());
    MemoryShares::apply(adit_host::memory::limit(), &mut limits, &mut links.settings);
    let (data_plane, mut data_plane_tasks) =
        NodeDataPlane::start(links, sockets.endpoints, snapshot.clone(), &limits, context.net);
    data_plane_tasks.inherit(sockets.imports);
    let (views, backends) = (data_plane.views(), data_plane.backend_states());
    let sources = SnapshotSources::new(bases, context.kubernetes_state, views, backends);
    let configuration = context.config_source.describe();
    let state = Arc::new(ProcessState {
        statics: StaticState::new(boot.to_string(), context.started, listen),
        mutable: MutableState::new(context.config, configuration, identity_error).into(),
        draining: AtomicBool::new(false),
        readiness: context.readiness,
        credentials: Arc::new(credentials),
        snapshot,
        status_source: data_plane.status_source(),
        log: Some(node.log),
    });
    answer_reports(&data_plane, &state);
    // They last as long as the supervisor: snapshots until their sources end, the data plane until the drain.
    let beside = async {
        tokio::join!(
            snapshot::run(sources, publish),
            data_plane_tasks.run(),
            link_log::watch(state.clone()),
            readiness_checks::watch(state.clone()),
        );
        std::future::pending().await
    };
    let serving = ServingNode {
        data_plane,
        state: state.clone(),
        base,
        config_source: context.config_source,
        config_updates: context.config_updates,
        chain: context.chain,
        handover: context.handover,
        signals,
        servers: (sockets.admin, sockets.public, node.metrics),
        reader_pods: context.reader_pods,
        succession: node.succession,
        starting: node.starting,
    };
    tokio::select! {
        exit = serving.run() => exit,
        never = beside => never,
    }
}

/// The snapshot before peers and dials have said anything.
fn first_snapshot(
    base: &SnapshotBuilder,
    state: Option<&watch::Receiver<Arc<NodeState>>>,
) -> Arc<Snapshot> {
    let base = state.map_or_else(|| base.clone(), |state| base.with_kubernetes(&state.borrow()));
    Arc::new(base.snapshot(&Default::default(), &Default::default()))
}

/// A new boot ID, by which peers know one life of this process from another.
fn new_boot_id() -> Result<BootId, String> {
    let mut boot = [0; 16];
    getrandom::fill(&mut boot).map_err(|e| format!("the system gave no random bytes: {e}"))?;
    Ok(BootId(boot))
}

/// Answers the controller's questions with this node's report, and takes what comes with them.
fn answer_reports(
    data_plane: &NodeDataPlane,
    state: &Arc<ProcessState<<NodeDataPlane as DataPlane>::StatusSource>>,
) {
    let (state, backends) = (state.clone(), data_plane.backends.clone());
    data_plane.links.answer_reports(Arc::new(move |question: &[u8]| {
        state.apply_question(question, &backends);
        state.report().encode().to_vec()
    }));
}

/// A node whose data plane runs.
struct ServingNode {
    data_plane: NodeDataPlane,
    state: Arc<ProcessState<<NodeDataPlane as DataPlane>::StatusSource>>,
    base: watch::Sender<SnapshotBuilder>,
    config_source: ConfigSource,
    config_updates: mpsc::Receiver<ConfigUpdate>,
    chain: Option<ProcessChain>,
    handover: HandoverState,
    signals: ProcessSignals,
    /// The sockets of both servers, and what they show.
    servers: (AdminBinding, Option<TcpListener>, ProcessMetrics),
    reader_pods: Option<ReaderPods>,
    succession: Option<Succession>,
    starting: Pending,
}

impl ServingNode {
    /// Takes over from the process before this one, opens both servers, and supervises the node until its end.
    async fn run(self) -> Result<ProcessExit, StartError> {
        let Self { data_plane, state, chain, handover, mut signals, .. } = self;
        let chain = chain.as_ref();
        let (listener, _succession) =
            takeover::take_over(&data_plane, &state.snapshot, self.succession, chain).await;
        let (admin, public_listener, metrics) = self.servers;
        let public = public_listener.as_ref().and_then(|public| public.try_clone().ok());
        let (imports, endpoints) = (data_plane.sockets.clone(), data_plane.endpoints.clone());
        let sockets = NodeSockets { imports, public, endpoints };
        let ended = CancellationToken::new();
        let successors = takeover::hand_over(listener, chain, sockets, ended.clone())
            .map_err(cannot("wait for a successor"))?;
        let _ended = ended.drop_guard();
        let (commands_in, commands) = mpsc::channel(MAX_PENDING_COMMANDS);
        let taken_over = handover.taken_over.clone();
        let NodeDataPlane { prober, flows, endpoints, .. } = data_plane.clone();
        let asked = (commands_in, prober, flows, endpoints);
        let public = public_listener.map(|public| public_binding(public, &state, self.reader_pods));
        let plan = ServerPlan::new(admin, public, &state, metrics, asked, taken_over);
        let servers = HttpServers::start(plan).map_err(cannot("start the admin server"))?;
        log_started(&state);
        drop(self.starting);
        let signals = async move || signals.next().await;
        let config_updates = self.config_updates;
        let events = SupervisorEvents { signals, commands, config_updates, successors };
        let supervisor = NodeSupervisor {
            config_source: self.config_source,
            data_plane,
            state,
            base: self.base,
            handover,
            expects_successor: chain.is_some_and(|chain| chain.expects_successor),
        };
        let exit = supervisor.run(events).await;
        servers.stop();
        Ok(exit)
    }
}

/// Where the public server listens, and for whom.
fn public_binding<W>(
    listener: TcpListener,
    state: &ProcessState<W>,
    pods: Option<ReaderPods>,
) -> PublicBinding {
    match state.config().metrics_access.clone() {
        Some(access) => PublicBinding {
            listener,
            also: access.listen.clone(),
            admission: metrics_admission::admission(access, state.snapshot.clone(), pods),
        },
        None => PublicBinding { listener, also: Vec::new(), admission: Admission::everybody() },
    }
}

/// Logs the first line of a running node.
fn log_started<W>(state: &ProcessState<W>) {
    let config = state.config();
    let listen: Vec<_> = state.statics.listen.iter().map(ToString::to_string).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        id = %state.credentials.identity.get().id(),
        boot = state.statics.boot_id,
        listen = listen.join(", "),
        links = config.links.len(),
        imports = config.imports.len(),
        exports = config.exports.len(),
        "node {}/{} is up",
        config.cluster,
        config.node.name,
    );
}
