//! The process of one node, from its configuration to its exit status.
//!
//! [`run`] and [`run_in_cluster`] differ in where the configuration comes from ([`config_source`]); after that both
//! go the same way: know who we are and whom we believe, bind everything, start what carries, then serve
//! until told otherwise ([`supervisor`]). What can be wrong at the start is told all at once, and nothing is
//! left behind.
//!
//! Threads: `worker-N` for the data path ([`workers`]), `admin` for both HTTP servers ([`servers`]), `log`,
//! `config-watch`, and the caller's for the supervisor.

mod bind;
mod cluster;
mod config_diff;
mod config_source;
pub mod controller;
mod credentials;
mod data;
mod handover;
mod link_log;
mod links;
mod local_range;
pub mod node;
mod older_processes;
mod panics;
mod process_state;
mod readiness_checks;
mod servers;
mod signals;
mod supervisor;
mod takeover;
#[cfg(test)]
mod testing;
mod traffic;
pub mod tuning;
mod workers;

use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use adit_config::cluster::NetworkMode;
use adit_config::config::{self, LogFormat};
use adit_config::{Config, ConfigChange, ConfigProblem, ConfigReport};
use adit_dataplane::tcp::os::OsTcpNetwork;
use adit_kubernetes::node::state::NodeState;
use adit_runtime::Tasks;
use adit_pki::UnixTime;
use adit_pki::tls::system_clock;
use adit_transport::peer::BootId;
use adit_transport::{NodeSecret, Tls, Worker};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use self::cluster::KubernetesNodeOptions as InCluster;
use self::cluster::PreparedNode;
use self::config_source::{ConfigSource, ConfigUpdate};
use self::credentials::{CredentialFault, Credentials};
use self::data::{DataPlane, StatusSource};
use self::handover::HandoverState;
use self::handover::holder::NodeSockets;
use self::node::NodeDataPlane;
use self::process_state::{MutableState, ProcessState, StaticState};
use self::servers::{HttpServers, ServerPlan};
use self::signals::{ProcessSignals, SignalAction};
pub use self::supervisor::NodeExit;
use self::supervisor::{NodeSupervisor, SupervisorEvents, log_warnings, report_lines};
pub use self::takeover::WAITING_EXTENSION;
use self::takeover::{BindInputs, ProcessChain};
use self::workers::WorkerPool;
use crate::admin::control::{self, Controls};
use crate::admin::public::{self, PublicState};
use crate::compose::{self, BaseSnapshot, SnapshotSources};
use crate::metrics::{ProcessMetrics, gauges::ProcessTotals, process::ProcessUsage};
use crate::readiness::Readiness;
use crate::telemetry::{FatalError, LineFormat, ProcessLog};

/// Changes of files that may wait for the supervisor: each is a whole configuration.
const MAX_PENDING_CHANGES: usize = 4;
/// Commands that may wait; an operator waits for the answer to each.
const MAX_PENDING_COMMANDS: usize = 4;
/// What writing the last lines of the log may take.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a node did not start, or did not go on. Nothing of it is left running.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is none: all that is wrong with it, file by file.
    Config(Vec<ConfigReport>),
    /// All that is wrong with the files that it refers to, or all that is in the way of listening.
    Environment(Vec<String>),
    /// It ran, until a part of it was dead: the rest would go on as if nothing had changed.
    TaskEnded(String),
}

impl StartError {
    /// Whether it had started before that.
    #[must_use]
    pub fn had_started(&self) -> bool {
        matches!(self, Self::TaskEnded(_))
    }

    /// Each error by itself.
    fn errors(&self) -> Vec<FatalError> {
        let plain = |text: &String| FatalError { message: text.clone(), ..FatalError::default() };
        match self {
            Self::Config(reports) => {
                let all = reports.iter().flat_map(|r| r.errors().map(move |p| (r, p)));
                let one = |(report, problem): (&ConfigReport, &ConfigProblem)| FatalError {
                    message: format!("{}: {}", report.location(problem), problem.message),
                    key: Some(problem.path.clone()).filter(|path| !path.is_empty()),
                    hint: problem.hint.clone(),
                };
                all.map(one).collect()
            }
            Self::Environment(all) => all.iter().map(plain).collect(),
            Self::TaskEnded(what) => vec![plain(what)],
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(reports) => f.write_str(&report_lines(reports)),
            Self::Environment(all) => f.write_str(&all.join("\n")),
            Self::TaskEnded(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for StartError {}

impl From<String> for StartError {
    fn from(error: String) -> Self {
        Self::Environment(vec![error])
    }
}

/// Runs the node that `file` describes until it has drained.
///
/// Takes over the process: its signals, its panic hook, its log and its metrics. With `take_over` also the sockets
/// of the node that runs with the same identity folder, if there is one, and hands them on to the next.
///
/// # Errors
/// All that keeps it from starting; it stands in the log already.
pub fn run(file: &Path, take_over: bool) -> Result<NodeExit, StartError> {
    let log = start_log()?;
    let ended = run_file(file, take_over, &log);
    log_fatal_error(&log, "node", ended)
}

fn run_file(file: &Path, take_over: bool, log: &ProcessLog) -> Result<NodeExit, StartError> {
    let started = Instant::now();
    adit_host::capabilities::raise().map_err(cannot("take capabilities into use"))?;
    // The file is read again at every reload, and what it refers to is found from where it is.
    let file = &std::path::absolute(file).map_err(cannot("find the current folder"))?;
    let (tell, inputs) = mpsc::channel(MAX_PENDING_CHANGES);
    // The receiver is gone only when the process ends.
    let on_change = move |change: ConfigChange| drop(tell.blocking_send(change.into()));
    let (config, report, watching) = adit_config::watch(file, on_change).map_err(|report| {
        log.set_format(format(adit_config::log_format(file)));
        StartError::Config(vec![report])
    })?;
    set_log(log, &config.log)?;
    let runtime = runtime()?;
    let origin = ConfigSource::File(file.clone());
    let process = format!("{}-{}", std::process::id(), UnixTime::now().as_secs());
    let join = || ProcessChain::join(&config.node.identity, &process, false);
    let line = take_over.then(join).transpose()?;
    let beginning = StartContext {
        started,
        config_source: origin,
        config,
        reports: vec![report],
        config_updates: inputs,
        kubernetes_state: None,
        readiness: Readiness::default(),
        net: OsTcpNetwork::default(),
        chain: line,
        handover: HandoverState::default(),
    };
    let ended = start(&runtime, beginning, &mut Tasks::default(), log);
    drop(watching);
    ended
}

/// Runs the node that the cluster around it describes until it has drained. Waits for a name and a
/// certificate first; a signal ends that.
///
/// Takes over the process as [`run`] does.
///
/// # Errors
/// All that keeps it from starting and that waiting will not mend; it stands in the log already.
pub fn run_in_cluster(options: InCluster) -> Result<NodeExit, StartError> {
    let log = start_log()?;
    let ended = run_pod(options, &log);
    log_fatal_error(&log, "node", ended)
}

fn run_pod(options: InCluster, log: &ProcessLog) -> Result<NodeExit, StartError> {
    let started = Instant::now();
    // Before the first thread but that of the log, since threads inherit them.
    adit_host::capabilities::raise().map_err(cannot("take capabilities into use"))?;
    let runtime = runtime()?;
    let (folder, pod) = (options.state_folder.clone(), options.pod_uid.clone());
    let custody = HandoverState::default();
    // They end with the node, and it with the first of them.
    let mut tasks = Tasks::default();
    let _context = runtime.enter();
    let client = adit_kubernetes::client::in_cluster().map_err(|e| e.to_string())?;
    let prepared = runtime.block_on(async {
        let mut signals = ProcessSignals::catch().map_err(cannot("catch signals"))?;
        tokio::select! {
            prepared = cluster::prepare(&client, options, &mut tasks) => prepared.map(Some),
            signal = end_requested(&mut signals) => {
                tracing::info!(signal, "asked to end before the node could start");
                local_range::remove_if_uninstalled(&client, &folder).await;
                Ok(None)
            }
        }
    })?;
    let Some(PreparedNode { source: cluster, observed: begun, settings, config, reports, state }) =
        prepared
    else {
        return Ok(NodeExit::Drained { reset: 0 });
    };
    set_log(log, &config.log)?;
    let (tell, inputs) = mpsc::channel(MAX_PENDING_CHANGES);
    let (out, state) = watch::channel(Arc::new(state));
    let readiness = Readiness::default();
    let local = settings.network.mode == NetworkMode::LocalRange;
    let line = Some(ProcessChain::join(&folder, &pod, true)?);
    let taken =
        local_range::install(&settings.network, &config.node, &readiness, &custody, &mut tasks);
    runtime.block_on(taken)?;
    let (renewer, settled) = (client.clone(), config.clone());
    let renewing = cluster::certificate::renew(renewer, cluster.clone(), settled, tell.clone());
    tasks.spawn("renewing the certificate", custody.clone().run_until_taken_over(renewing));
    let leaving = local_range::check_removal(client.clone(), custody.clone());
    tasks.spawn("asking whether Adit leaves", leaving);
    let known = (settings, config.clone());
    let following = cluster::follow(cluster.clone(), begun, known, tell, out, custody.clone());
    tasks.spawn("following the cluster", following);
    let origin = ConfigSource::Kubernetes(cluster);
    let cluster = Some(state);
    let net = OsTcpNetwork { local_range: local };
    let beginning = StartContext {
        started,
        config_source: origin,
        config,
        reports,
        config_updates: inputs,
        kubernetes_state: cluster,
        readiness,
        net,
        chain: line,
        handover: custody.clone(),
    };
    let ended = start(&runtime, beginning, &mut tasks, log);
    runtime.block_on(tasks.shutdown());
    if ended.is_ok() && !custody.taken_over.is_cancelled() {
        runtime.block_on(local_range::remove_if_uninstalled(&client, &folder));
    }
    ended
}

/// The signal that asks to go away.
async fn end_requested(signals: &mut ProcessSignals) -> u8 {
    loop {
        if let SignalAction::End(signal) = signals.next().await {
            return signal;
        }
    }
}

fn runtime() -> Result<Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(cannot("start the supervisor's runtime"))
}

/// The log as it is until the configuration is known.
fn start_log() -> Result<ProcessLog, String> {
    let first = config::LogConfig::default();
    ProcessLog::init(first.level.as_str(), format(first.format)).map_err(|error| {
        let error = format!("log: {error}");
        // There is no other place for this one.
        writeln!(io::stderr(), "adit: {error}").ok();
        error
    })
}

/// The log as the configuration wants it.
fn set_log(log: &ProcessLog, wanted: &config::LogConfig) -> Result<(), String> {
    log.set_format(format(wanted.format));
    log.set_level(wanted.level.as_str()).map_err(|e| format!("log: {e}"))
}

fn format(wanted: LogFormat) -> LineFormat {
    match wanted {
        LogFormat::Auto => LineFormat::Auto,
        LogFormat::Text => LineFormat::Text,
        LogFormat::Json => LineFormat::Json,
    }
}

/// Writes the last lines of a process that is `what`, with all that it ended on.
fn log_fatal_error(
    log: &ProcessLog,
    what: &str,
    ended: Result<NodeExit, StartError>,
) -> Result<NodeExit, StartError> {
    if let Err(error) = &ended {
        let how = if error.had_started() { "ended" } else { "did not start" };
        let end = FatalError { message: format!("the {what} {how}"), ..FatalError::default() };
        let text = format!("{error}\nadit: the {what} {how}");
        log.fatal(&text, error.errors().into_iter().chain([end]));
    }
    log.flush(LOG_FLUSH_TIMEOUT);
    ended
}

/// All that is wrong with a node's file and the files that it refers to, as the node would say it.
#[must_use]
pub fn check(file: &Path) -> ConfigReport {
    adit_config::check_with(file, |config| {
        let loaded = Credentials::load(config, UnixTime::now());
        let faults = loaded.map_or_else(|faults| faults, |(_, faults)| faults);
        faults.into_iter().map(CredentialFault::into_finding).collect()
    })
}

/// What a node begins with.
struct StartContext {
    started: Instant,
    config_source: ConfigSource,
    config: Config,
    reports: Vec<ConfigReport>,
    config_updates: mpsc::Receiver<ConfigUpdate>,
    /// What Kubernetes adds, where the node runs there.
    kubernetes_state: Option<watch::Receiver<Arc<NodeState>>>,
    readiness: Readiness,
    net: OsTcpNetwork,
    /// The processes before and after this one, if it does not stand alone.
    chain: Option<ProcessChain>,
    handover: HandoverState,
}

/// From a good configuration to the end, which is also that of any of `tasks`.
fn start(
    runtime: &Runtime,
    beginning: StartContext,
    tasks: &mut Tasks,
    log: &ProcessLog,
) -> Result<NodeExit, StartError> {
    let StartContext {
        started,
        config_source: origin,
        config,
        reports,
        config_updates: inputs,
        kubernetes_state: cluster,
        readiness,
        net,
        chain: line,
        handover: custody,
    } = beginning;
    panics::install();
    log_warnings(&reports);
    let metrics = ProcessMetrics::install().map_err(|e| e.to_string())?;
    match adit_host::descriptors::raise() {
        Ok(limit) => tracing::debug!(descriptors = limit.soft, "descriptor limit raised"),
        Err(error) => tracing::warn!(%error, "the descriptor limit stays as it is"),
    }
    let starting = readiness.wait_for("start");

    // Who we are comes before anything that others can reach.
    let (credentials, untaken) = Credentials::load(&config, UnixTime::now())
        .map_err(|faults| credentials_error(&origin, &faults))?;
    let untaken: Vec<_> = untaken.iter().map(ToString::to_string).collect();
    untaken.iter().for_each(|error| tracing::error!("{error}"));
    let secret = NodeSecret::load_or_create(&config.node.identity).map_err(|e| e.to_string())?;
    let tls = Tls::new(&credentials.identity, &credentials.verifier, &system_clock())
        .map_err(|e| e.to_string())?;
    let workers =
        WorkerPool::start(config.node.endpoints.get()).map_err(cannot("start a worker"))?;
    let handles = workers.handles().iter().zip(0..).map(|(h, n)| Worker::new(n, h.clone()));
    let needs = BindInputs { config: &config, workers: handles.collect(), secret: &secret, tls };
    // Caught before anything is waited for: the first process of a container has no other way to hear them.
    let mut signals = {
        let _context = runtime.enter();
        ProcessSignals::catch().map_err(cannot("catch signals"))?
    };
    let pause =
        |time| runtime.block_on(async { timeout(time, end_requested(&mut signals)).await.is_ok() });
    let bound = takeover::bind(&needs, line.as_ref(), pause).map_err(StartError::Environment)?;
    let Some((bound, succession)) = bound else {
        tracing::info!("asked to end before the node could start");
        return Ok(NodeExit::Drained { reset: 0 });
    };

    let ended = runtime.block_on(async {
        let mut boot = [0; 16];
        getrandom::fill(&mut boot).map_err(|e| format!("the system gave no random bytes: {e}"))?;
        let listen = bound.endpoints.addresses().to_vec();
        let base = BaseSnapshot::from_config(&config, &listen);
        let first =
            cluster.as_ref().map_or_else(|| base.clone(), |c| base.with_kubernetes(&c.borrow()));
        let first = Arc::new(first.snapshot(&Default::default(), &Default::default()));
        let (base, bases) = watch::channel(base);
        let (publish, snapshot) = watch::channel(first);
        let local = node::local(BootId(boot));
        let (node, mut work) =
            NodeDataPlane::start(local, bound.endpoints, snapshot.clone(), &config.limits, net);
        work.inherit(bound.imports);
        let sources = SnapshotSources::new(bases, cluster, node.views(), node.backend_states());

        let known = Arc::new(ProcessState {
            statics: StaticState {
                boot_id: BootId(boot).to_string(),
                started,
                started_at: UnixTime::now(),
                listen,
            },
            mutable: Mutex::new(MutableState {
                config: Arc::new(config),
                configuration: origin.describe(),
                identity_error: (!untaken.is_empty()).then(|| untaken.join("\n")),
                controller_asked_at: None,
            }),
            draining: AtomicBool::new(false),
            readiness: readiness.clone(),
            credentials: Arc::new(credentials),
            snapshot,
            status_source: node.status_source(),
            log: Some(log.clone()),
        });
        let (told, backends) = (known.clone(), node.backends.clone());
        node.links.answer_reports(Arc::new(move |question: &[u8]| {
            told.apply_question(question, &backends);
            told.report().encode().to_vec()
        }));
        let (commands_in, commands) = mpsc::channel(MAX_PENDING_COMMANDS);
        let heard = known.clone();
        // It lasts as long as the supervisor: composing until its sources end, the work until the drain.
        let beside = async {
            tokio::join!(
                compose::run(sources, publish),
                work.run(),
                link_log::watch(heard.clone()),
                readiness_checks::watch(heard),
            );
            std::future::pending().await
        };
        let supervising = async {
            let (door, _succession) =
                takeover::take_over(&node, &known.snapshot, succession, line.as_ref()).await;
            let public = bound.public.as_ref().and_then(|public| public.try_clone().ok());
            let (imports, endpoints) = (node.sockets.clone(), node.endpoints.clone());
            let estate = NodeSockets { imports, public, endpoints };
            let ended = CancellationToken::new();
            let successors = takeover::hand_over(door, line.as_ref(), estate, ended.clone())
                .map_err(cannot("wait for a successor"))?;
            let _ended = ended.drop_guard();
            let plan =
                server_plan(bound.admin, bound.public, &known, metrics, commands_in, &custody);
            let servers = HttpServers::start(plan).map_err(cannot("start the admin server"))?;
            log_started(&known);
            drop(starting);
            let signals = async move || signals.next().await;
            let events = SupervisorEvents { signals, commands, config_updates: inputs, successors };
            let followed = line.as_ref().is_some_and(|line| line.expects_successor);
            let supervisor = NodeSupervisor {
                config_source: origin,
                data_plane: node,
                state: known,
                base,
                handover: custody,
                expects_successor: followed,
            };
            let ended = supervisor.run(events).await;
            servers.stop();
            Ok(ended)
        };
        tokio::select! {
            ended = supervising => ended,
            never = beside => never,
            which = tasks.ended() => Err(StartError::TaskEnded(which.to_string())),
        }
    })?;
    if let NodeExit::Drained { .. } = ended {
        workers.stop();
    }
    Ok(ended)
}

/// Why a node cannot start with its own files: with their places, where there is a file that has some.
fn credentials_error(origin: &ConfigSource, faults: &[CredentialFault]) -> StartError {
    if let ConfigSource::File(file) = origin {
        let report = check(file);
        if report.errors().next().is_some() {
            return StartError::Config(vec![report]);
        }
    }
    StartError::Environment(faults.iter().map(ToString::to_string).collect())
}

/// What the two servers serve.
fn server_plan<W: StatusSource>(
    admin: servers::AdminBinding,
    public: Option<std::net::TcpListener>,
    known: &Arc<ProcessState<W>>,
    metrics: ProcessMetrics,
    commands: mpsc::Sender<control::AdminCommand>,
    custody: &HandoverState,
) -> ServerPlan {
    let (status, level) = (known.clone(), known.clone());
    let controls = Controls {
        status: Arc::new(move || status.status()),
        readiness: known.readiness.clone(),
        set_level: Arc::new(move |l| level.log.as_ref().map_or(Ok(()), |log| log.set_level(l))),
        commands,
    };
    let router = control::router(controls);
    let router = match admin {
        servers::AdminBinding::Socket(_) => router,
        servers::AdminBinding::Tcp(_) => control::guard_loopback(router),
    };
    let (page, known) = (metrics.clone(), known.clone());
    let readiness = known.readiness.clone();
    let render = move || {
        let log_dropped = known.log.as_ref().map(ProcessLog::dropped).unwrap_or_default();
        let totals = ProcessTotals { log_dropped, ..known.status_source.totals() };
        page.render(&known.status(), &ProcessUsage::read(), &totals)
    };
    let public_router = public::router(PublicState { readiness, metrics: Arc::new(render) });
    let public = public.map(|l| (l, public_router));
    ServerPlan { admin: (admin, router), public, taken_over: custody.taken_over.clone(), metrics }
}

/// The first line of a running node.
fn log_started<W>(known: &ProcessState<W>) {
    let config = known.config();
    let listen: Vec<_> = known.statics.listen.iter().map(ToString::to_string).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        id = %known.credentials.identity.get().id(),
        boot = known.statics.boot_id,
        listen = listen.join(", "),
        links = config.links.len(),
        imports = config.imports.len(),
        exports = config.exports.len(),
        "node {}/{} is up",
        config.cluster,
        config.node.name,
    );
}

fn cannot(what: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("cannot {what}: {error}")
}

/// SHA-256 as `sha256sum` writes it, so that an operator can compare.
fn sha256_hex(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}
