//! The process of one node, from its configuration to its exit status.
//!
//! [`run`] and [`run_in_cluster`] differ in where the configuration comes from ([`origin`]); after that both
//! go the same way: know who we are and whom we believe, bind everything, start what carries, then serve
//! until told otherwise ([`supervisor`]). What can be wrong at the start is told all at once, and nothing is
//! left behind.
//!
//! Threads: `worker-N` for the data path ([`workers`]), `admin` for both HTTP servers ([`servers`]), `log`,
//! `config-watch`, and the caller's for the supervisor.

mod bind;
mod changes;
mod cluster;
pub mod controller;
mod credentials;
mod data;
mod finishing;
mod fitness;
mod handover;
mod herald;
mod known;
mod links;
pub mod node;
mod origin;
mod panics;
mod range;
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

use adit_config::cluster::Mode;
use adit_config::config::{self, LogFormat};
use adit_config::{Change, Config, Problem, Report};
use adit_dataplane::tcp::os::OsNet;
use adit_kubernetes::node::state::NodeState;
use adit_kubernetes::tasks::Tasks;
use adit_pki::UnixTime;
use adit_pki::tls::system_clock;
use adit_transport::peer::BootId;
use adit_transport::{NodeSecret, Tls, Worker};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use self::cluster::Options as InCluster;
use self::cluster::Prepared;
use self::credentials::{CredentialFault, Credentials};
use self::data::{DataSide, Witness};
use self::handover::Custody;
use self::handover::holder::Sockets;
use self::known::{Changing, Fixed, Known};
use self::node::Node;
use self::origin::{Input, Origin};
use self::servers::{Plan, Servers};
use self::signals::{Signals, Wish};
pub use self::supervisor::Ended;
use self::supervisor::{Events, Supervisor, all, warn};
pub use self::takeover::WAITING;
use self::takeover::{Line, Needs};
use self::workers::Workers;
use crate::admin::control::{self, Controls};
use crate::admin::public::{self, Public};
use crate::compose::{self, Base, Sources};
use crate::metrics::{Metrics, gauges::Totals, process::Process};
use crate::readiness::Readiness;
use crate::telemetry::{FatalError, Format, Log};

/// Changes of files that may wait for the supervisor: each is a whole configuration.
const CHANGES: usize = 4;
/// Commands that may wait; an operator waits for the answer to each.
const COMMANDS: usize = 4;
/// What writing the last lines of the log may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a node did not start, or did not go on. Nothing of it is left running.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is none: all that is wrong with it, file by file.
    Config(Vec<Report>),
    /// All that is wrong with the files that it refers to, or all that is in the way of listening.
    Wrong(Vec<String>),
    /// It ran, until a part of it was dead: the rest would go on as if nothing had changed.
    Broken(String),
}

impl StartError {
    /// Whether it had started before that.
    #[must_use]
    pub fn had_started(&self) -> bool {
        matches!(self, Self::Broken(_))
    }

    /// Each error by itself.
    fn errors(&self) -> Vec<FatalError> {
        let plain = |text: &String| FatalError { message: text.clone(), ..FatalError::default() };
        match self {
            Self::Config(reports) => {
                let all = reports.iter().flat_map(|r| r.errors().map(move |p| (r, p)));
                let one = |(report, problem): (&Report, &Problem)| FatalError {
                    message: format!("{}: {}", report.location(problem), problem.message),
                    key: Some(problem.path.clone()).filter(|path| !path.is_empty()),
                    hint: problem.hint.clone(),
                };
                all.map(one).collect()
            }
            Self::Wrong(all) => all.iter().map(plain).collect(),
            Self::Broken(what) => vec![plain(what)],
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(reports) => f.write_str(&all(reports)),
            Self::Wrong(all) => f.write_str(&all.join("\n")),
            Self::Broken(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for StartError {}

impl From<String> for StartError {
    fn from(error: String) -> Self {
        Self::Wrong(vec![error])
    }
}

/// Runs the node that `file` describes until it has drained.
///
/// Takes over the process: its signals, its panic hook, its log and its metrics. With `take_over` also the sockets
/// of the node that runs with the same identity folder, if there is one, and hands them on to the next.
///
/// # Errors
/// All that keeps it from starting; it stands in the log already.
pub fn run(file: &Path, take_over: bool) -> Result<Ended, StartError> {
    let log = start_log()?;
    let ended = run_file(file, take_over, &log);
    last_words(&log, "node", ended)
}

fn run_file(file: &Path, take_over: bool, log: &Log) -> Result<Ended, StartError> {
    let started = Instant::now();
    adit_host::capabilities::raise().map_err(cannot("take capabilities into use"))?;
    // The file is read again at every reload, and what it refers to is found from where it is.
    let file = &std::path::absolute(file).map_err(cannot("find the current folder"))?;
    let (tell, inputs) = mpsc::channel(CHANGES);
    // The receiver is gone only when the process ends.
    let on_change = move |change: Change| drop(tell.blocking_send(change.into()));
    let (config, report, watching) = adit_config::watch(file, on_change).map_err(|report| {
        log.set_format(format(adit_config::log_format(file)));
        StartError::Config(vec![report])
    })?;
    set_log(log, &config.log)?;
    let runtime = runtime()?;
    let origin = Origin::File(file.clone());
    let process = format!("{}-{}", std::process::id(), UnixTime::now().as_secs());
    let join = || Line::join(&config.node.identity, &process, false);
    let line = take_over.then(join).transpose()?;
    let beginning = Beginning {
        started,
        origin,
        config,
        reports: vec![report],
        inputs,
        cluster: None,
        readiness: Readiness::default(),
        net: OsNet::default(),
        line,
        custody: Custody::default(),
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
pub fn run_in_cluster(options: InCluster) -> Result<Ended, StartError> {
    let log = start_log()?;
    let ended = run_pod(options, &log);
    last_words(&log, "node", ended)
}

fn run_pod(options: InCluster, log: &Log) -> Result<Ended, StartError> {
    let started = Instant::now();
    // Before the first thread but that of the log, since threads inherit them.
    adit_host::capabilities::raise().map_err(cannot("take capabilities into use"))?;
    let runtime = runtime()?;
    let (folder, pod) = (options.state.clone(), options.pod.clone());
    let custody = Custody::default();
    // They end with the node, and it with the first of them.
    let mut tasks = Tasks::default();
    let _context = runtime.enter();
    let client = adit_kubernetes::client::in_cluster().map_err(|e| e.to_string())?;
    let prepared = runtime.block_on(async {
        let mut signals = Signals::catch().map_err(cannot("catch signals"))?;
        tokio::select! {
            prepared = cluster::prepare(&client, options, &mut tasks) => prepared.map(Some),
            signal = ended(&mut signals) => {
                tracing::info!(signal, "asked to end before the node could start");
                range::leave(&client, &folder).await;
                Ok(None)
            }
        }
    })?;
    let Some(Prepared { cluster, begun, settings, config, reports, state }) = prepared else {
        return Ok(Ended::Drained { reset: 0 });
    };
    set_log(log, &config.log)?;
    let (tell, inputs) = mpsc::channel(CHANGES);
    let (out, state) = watch::channel(Arc::new(state));
    let readiness = Readiness::default();
    let local = settings.network.mode == Mode::LocalRange;
    let line = Some(Line::join(&folder, &pod, true)?);
    let taken = range::take(&settings.network, &config.node, &readiness, &custody, &mut tasks);
    runtime.block_on(taken)?;
    let (renewer, settled) = (client.clone(), config.clone());
    let renewing = cluster::certificate::renew(renewer, cluster.clone(), settled, tell.clone());
    tasks.spawn("renewing the certificate", custody.clone().keep(renewing));
    let leaving = range::ask(client.clone(), custody.clone());
    tasks.spawn("asking whether Adit leaves", leaving);
    let known = (settings, config.clone());
    let following = cluster::follow(cluster.clone(), begun, known, tell, out, custody.clone());
    tasks.spawn("following the cluster", following);
    let origin = Origin::Cluster(cluster);
    let cluster = Some(state);
    let net = OsNet { local_range: local };
    let beginning = Beginning {
        started,
        origin,
        config,
        reports,
        inputs,
        cluster,
        readiness,
        net,
        line,
        custody: custody.clone(),
    };
    let ended = start(&runtime, beginning, &mut tasks, log);
    runtime.block_on(tasks.shutdown());
    if ended.is_ok() && !custody.succeeded.is_cancelled() {
        runtime.block_on(range::leave(&client, &folder));
    }
    ended
}

/// The signal that asks to go away.
async fn ended(signals: &mut Signals) -> u8 {
    loop {
        if let Wish::End(signal) = signals.next().await {
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
fn start_log() -> Result<Log, String> {
    let first = config::Log::default();
    Log::init(first.level.as_str(), format(first.format)).map_err(|error| {
        let error = format!("log: {error}");
        // There is no other place for this one.
        writeln!(io::stderr(), "adit: {error}").ok();
        error
    })
}

/// The log as the configuration wants it.
fn set_log(log: &Log, wanted: &config::Log) -> Result<(), String> {
    log.set_format(format(wanted.format));
    log.set_level(wanted.level.as_str()).map_err(|e| format!("log: {e}"))
}

fn format(wanted: LogFormat) -> Format {
    match wanted {
        LogFormat::Auto => Format::Auto,
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    }
}

/// Writes the last lines of a process that is `what`, with all that it ended on.
fn last_words(
    log: &Log,
    what: &str,
    ended: Result<Ended, StartError>,
) -> Result<Ended, StartError> {
    if let Err(error) = &ended {
        let how = if error.had_started() { "ended" } else { "did not start" };
        let end = FatalError { message: format!("the {what} {how}"), ..FatalError::default() };
        let text = format!("{error}\nadit: the {what} {how}");
        log.fatal(&text, error.errors().into_iter().chain([end]));
    }
    log.flush(LAST_WORDS);
    ended
}

/// All that is wrong with a node's file and the files that it refers to, as the node would say it.
#[must_use]
pub fn check(file: &Path) -> Report {
    adit_config::check_with(file, |config| {
        let loaded = Credentials::load(config, UnixTime::now());
        let faults = loaded.map_or_else(|faults| faults, |(_, faults)| faults);
        faults.into_iter().map(CredentialFault::into_finding).collect()
    })
}

/// What a node begins with.
struct Beginning {
    started: Instant,
    origin: Origin,
    config: Config,
    reports: Vec<Report>,
    inputs: mpsc::Receiver<Input>,
    /// What Kubernetes adds, where the node runs there.
    cluster: Option<watch::Receiver<Arc<NodeState>>>,
    readiness: Readiness,
    net: OsNet,
    /// The processes before and after this one, if it does not stand alone.
    line: Option<Line>,
    custody: Custody,
}

/// From a good configuration to the end, which is also that of any of `tasks`.
fn start(
    runtime: &Runtime,
    beginning: Beginning,
    tasks: &mut Tasks,
    log: &Log,
) -> Result<Ended, StartError> {
    let Beginning {
        started,
        origin,
        config,
        reports,
        inputs,
        cluster,
        readiness,
        net,
        line,
        custody,
    } = beginning;
    panics::install();
    warn(&reports);
    let metrics = Metrics::install().map_err(|e| e.to_string())?;
    match adit_host::descriptors::raise() {
        Ok(limit) => tracing::debug!(descriptors = limit.soft, "descriptor limit raised"),
        Err(error) => tracing::warn!(%error, "the descriptor limit stays as it is"),
    }
    let starting = readiness.wait_for("start");

    // Who we are comes before anything that others can reach.
    let (credentials, untaken) = Credentials::load(&config, UnixTime::now())
        .map_err(|faults| wrong_credentials(&origin, &faults))?;
    let untaken: Vec<_> = untaken.iter().map(ToString::to_string).collect();
    untaken.iter().for_each(|error| tracing::error!("{error}"));
    let secret = NodeSecret::load_or_create(&config.node.identity).map_err(|e| e.to_string())?;
    let tls = Tls::new(&credentials.identity, &credentials.verifier, &system_clock())
        .map_err(|e| e.to_string())?;
    let workers = Workers::start(config.node.endpoints.get()).map_err(cannot("start a worker"))?;
    let handles = workers.handles().iter().zip(0..).map(|(h, n)| Worker::new(n, h.clone()));
    let needs = Needs { config: &config, workers: handles.collect(), secret: &secret, tls };
    // Caught before anything is waited for: the first process of a container has no other way to hear them.
    let mut signals = {
        let _context = runtime.enter();
        Signals::catch().map_err(cannot("catch signals"))?
    };
    let pause = |time| runtime.block_on(async { timeout(time, ended(&mut signals)).await.is_ok() });
    let bound = takeover::bind(&needs, line.as_ref(), pause).map_err(StartError::Wrong)?;
    let Some((bound, succession)) = bound else {
        tracing::info!("asked to end before the node could start");
        return Ok(Ended::Drained { reset: 0 });
    };

    let ended = runtime.block_on(async {
        let mut boot = [0; 16];
        getrandom::fill(&mut boot).map_err(|e| format!("the system gave no random bytes: {e}"))?;
        let listen = bound.endpoints.addresses().to_vec();
        let base = Base::of(&config, &listen);
        let first = cluster.as_ref().map_or_else(|| base.clone(), |c| base.with(&c.borrow()));
        let first = Arc::new(first.snapshot(&Default::default(), &Default::default()));
        let (base, bases) = watch::channel(base);
        let (publish, snapshot) = watch::channel(first);
        let local = node::local(BootId(boot));
        let (node, mut work) =
            Node::start(local, bound.endpoints, snapshot.clone(), &config.limits, net);
        work.inherit(bound.imports);
        let sources = Sources::new(bases, cluster, node.views(), node.backend_states());

        let known = Arc::new(Known {
            fixed: Fixed {
                boot_id: BootId(boot).to_string(),
                started,
                started_at: UnixTime::now(),
                listen,
            },
            changing: Mutex::new(Changing {
                config: Arc::new(config),
                configuration: origin.describe(),
                identity_error: (!untaken.is_empty()).then(|| untaken.join("\n")),
                asked: None,
            }),
            draining: AtomicBool::new(false),
            readiness: readiness.clone(),
            credentials: Arc::new(credentials),
            snapshot,
            witness: node.witness(),
            log: Some(log.clone()),
        });
        let (told, backends) = (known.clone(), node.backends.clone());
        node.links.answer_reports(Arc::new(move |question: &[u8]| {
            told.hear(question, &backends);
            told.report().encode().to_vec()
        }));
        let (commands_in, commands) = mpsc::channel(COMMANDS);
        let heard = known.clone();
        // It lasts as long as the supervisor: composing until its sources end, the work until the drain.
        let beside = async {
            tokio::join!(
                compose::run(sources, publish),
                work.drive(),
                herald::watch(heard.clone()),
                fitness::watch(heard),
            );
            std::future::pending().await
        };
        let supervising = async {
            let (door, _succession) =
                takeover::begin(&node, &known.snapshot, succession, line.as_ref()).await;
            let public = bound.public.as_ref().and_then(|public| public.try_clone().ok());
            let (imports, endpoints) = (node.sockets.clone(), node.endpoints.clone());
            let estate = Sockets { imports, public, endpoints };
            let ended = CancellationToken::new();
            let successors = takeover::hand_over(door, line.as_ref(), estate, ended.clone())
                .map_err(cannot("wait for a successor"))?;
            let _ended = ended.drop_guard();
            let plan = plan(bound.admin, bound.public, &known, metrics, commands_in, &custody);
            let servers = Servers::start(plan).map_err(cannot("start the admin server"))?;
            announce(&known);
            drop(starting);
            let signals = async move || signals.next().await;
            let events = Events { signals, commands, inputs, successors };
            let followed = line.as_ref().is_some_and(|line| line.followed);
            let supervisor = Supervisor { origin, data: node, known, base, custody, followed };
            let ended = supervisor.run(events).await;
            servers.stop();
            Ok(ended)
        };
        tokio::select! {
            ended = supervising => ended,
            never = beside => never,
            which = tasks.ended() => Err(StartError::Broken(which.to_string())),
        }
    })?;
    if let Ended::Drained { .. } = ended {
        workers.stop();
    }
    Ok(ended)
}

/// Why a node cannot start with its own files: with their places, where there is a file that has some.
fn wrong_credentials(origin: &Origin, faults: &[CredentialFault]) -> StartError {
    if let Origin::File(file) = origin {
        let report = check(file);
        if report.errors().next().is_some() {
            return StartError::Config(vec![report]);
        }
    }
    StartError::Wrong(faults.iter().map(ToString::to_string).collect())
}

/// What the two servers serve.
fn plan<W: Witness>(
    admin: servers::Admin,
    public: Option<std::net::TcpListener>,
    known: &Arc<Known<W>>,
    metrics: Metrics,
    commands: mpsc::Sender<control::Command>,
    custody: &Custody,
) -> Plan {
    let (status, level) = (known.clone(), known.clone());
    let controls = Controls {
        status: Arc::new(move || status.status()),
        readiness: known.readiness.clone(),
        set_level: Arc::new(move |l| level.log.as_ref().map_or(Ok(()), |log| log.set_level(l))),
        commands,
    };
    let router = control::router(controls);
    let router = match admin {
        servers::Admin::Socket(_) => router,
        servers::Admin::Tcp(_) => control::guard_loopback(router),
    };
    let (page, known) = (metrics.clone(), known.clone());
    let readiness = known.readiness.clone();
    let render = move || {
        let log_dropped = known.log.as_ref().map(Log::dropped).unwrap_or_default();
        let totals = Totals { log_dropped, ..known.witness.totals() };
        page.render(&known.status(), &Process::read(), &totals)
    };
    let public_router = public::router(Public { readiness, metrics: Arc::new(render) });
    let public = public.map(|l| (l, public_router));
    Plan { admin: (admin, router), public, succeeded: custody.succeeded.clone(), metrics }
}

/// The first line of a running node.
fn announce<W>(known: &Known<W>) {
    let config = known.config();
    let listen: Vec<_> = known.fixed.listen.iter().map(ToString::to_string).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        id = %known.credentials.identity.get().id(),
        boot = known.fixed.boot_id,
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
fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}
