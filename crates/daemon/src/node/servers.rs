//! The thread of the admin and public servers, apart from the data path and from the supervisor.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use adit_dataplane::flow::Flows;
use adit_dataplane::probe::Prober;
use adit_transport::Endpoints;
use axum::Router;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::data_plane::StatusSource;
use super::process_state::ProcessState;
use crate::admin::control::{self, AdminCommand, Controls};
use crate::admin::public::{self, PublicState};
use crate::admin::serve::{self, AdminListener, Admission};
use crate::admin::socket::AdminSocket;
use crate::admin::traffic::traffic;
use crate::metrics::{ProcessMetrics, gauges::ProcessTotals, process::ProcessUsage};
use crate::telemetry::ProcessLog;

/// Histograms are emptied into their buckets this often.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// After a further address of the public server could not be bound.
const BIND_BACKOFF: Duration = Duration::from_secs(5);

/// The admin server's listener, as configured.
#[derive(Debug)]
pub(super) enum AdminBinding {
    /// A Unix socket.
    Socket(AdminSocket),
    /// Loopback.
    Tcp(TcpListener),
}

/// Both servers, running.
#[derive(Debug)]
pub(super) struct HttpServers {
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

/// The routes of each server, and where it listens.
pub(super) struct ServerPlan {
    /// The admin server.
    pub(super) admin: (AdminBinding, Router),
    /// The public one, where it is configured.
    pub(super) public: Option<PublicServer>,
    /// From then on the public server is the next process's.
    pub(super) taken_over: CancellationToken,
    /// The metrics that need upkeep.
    pub(super) metrics: ProcessMetrics,
}

/// The public server: its routes, where it listens, and for whom.
pub(super) struct PublicServer {
    router: Router,
    listener: TcpListener,
    /// Further addresses, which are bound while it runs: a node serves without them.
    also: Vec<SocketAddr>,
    admission: Admission,
}

/// Where the public server listens, and for whom.
pub(super) struct PublicBinding {
    /// Its own listener.
    pub(super) listener: TcpListener,
    /// Further addresses.
    pub(super) also: Vec<SocketAddr>,
    /// The clients that may connect to any of them.
    pub(super) admission: Admission,
}

impl ServerPlan {
    /// The routes of both servers, which answer from `state` and send `commands` to the supervisor.
    pub(super) fn new<W: StatusSource>(
        admin: AdminBinding,
        public: Option<PublicBinding>,
        state: &Arc<ProcessState<W>>,
        metrics: ProcessMetrics,
        (commands, prober, flows, endpoints): (
            mpsc::Sender<AdminCommand>,
            Prober,
            Flows,
            Endpoints,
        ),
        taken_over: CancellationToken,
    ) -> Self {
        let (status, level) = (state.clone(), state.clone());
        let counted = (state.clone(), flows.clone());
        let traffic = move || {
            let (state, flows) = &counted;
            traffic(flows, &state.config().cluster, state.statics.started.elapsed())
        };
        let controls = Controls {
            status: Arc::new(move || status.status()),
            readiness: state.readiness.clone(),
            set_level: Arc::new(move |l| level.log.as_ref().map_or(Ok(()), |log| log.set_level(l))),
            commands,
            prober: Some(prober),
            flows: Some(flows),
            traffic: Arc::new(traffic),
            endpoints: Some(endpoints),
        };
        let router = control::router(controls);
        let router = match admin {
            AdminBinding::Socket(_) => router,
            AdminBinding::Tcp(_) => control::guard_loopback(router),
        };
        let (page, state) = (metrics.clone(), state.clone());
        let readiness = state.readiness.clone();
        let render = move || {
            let log_dropped = state.log.as_ref().map(ProcessLog::dropped).unwrap_or_default();
            let totals = ProcessTotals { log_dropped, ..state.status_source.totals() };
            page.render(&state.status(), &ProcessUsage::read(), &totals)
        };
        let router_of_pages = public::router(PublicState { readiness, metrics: Arc::new(render) });
        let public = public.map(|PublicBinding { listener, also, admission }| PublicServer {
            router: router_of_pages,
            listener,
            also,
            admission,
        });
        Self { admin: (admin, router), public, taken_over, metrics }
    }
}

impl HttpServers {
    /// Starts serving; listeners are bound already.
    ///
    /// # Errors
    /// If the system gives no thread or no descriptor.
    pub(super) fn start(plan: ServerPlan) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
            if let Err(error) = runtime.block_on(run(plan, stopped)) {
                tracing::error!(%error, "the admin server cannot run");
            }
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends both, after answers under way.
    pub(super) fn stop(self) {
        self.stop.cancel();
        if self.thread.join().is_err() {
            tracing::error!("the admin server's thread ended by a panic");
        }
    }
}

async fn run(plan: ServerPlan, stop: CancellationToken) -> io::Result<()> {
    let tasks = TaskTracker::new();
    let (admin, router) = plan.admin;
    // Held until the end: its file goes with it.
    let mut socket = None;
    let listener = match admin {
        AdminBinding::Socket(bound) => {
            let listener =
                socket.insert(bound).take_listener().ok_or(io::ErrorKind::NotConnected)?;
            AdminListener::Unix(tokio::net::UnixListener::from_std(listener)?)
        }
        AdminBinding::Tcp(listener) => tcp(listener)?,
    };
    tasks.spawn(serve::run(listener, router, stop.clone()));
    if let Some(PublicServer { router, listener, also, admission }) = plan.public {
        let (until, succeeded) = (stop.child_token(), plan.taken_over.clone());
        for address in also {
            tasks.spawn(serve_at(address, router.clone(), until.clone(), admission.clone()));
        }
        tasks.spawn(serve::run_for(tcp(listener)?, router, until.clone(), admission));
        tasks.spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = succeeded.cancelled() => until.cancel(),
            }
        });
    }
    let mut upkeep = tokio::time::interval(METRICS_UPKEEP_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = upkeep.tick() => plan.metrics.upkeep(),
        }
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Serves at an address of the node as soon as it can be had: whoever has it now, or the lack of it, is in the way of
/// nothing but this.
async fn serve_at(
    address: SocketAddr,
    router: Router,
    stop: CancellationToken,
    admission: Admission,
) {
    let mut is_logged = false;
    loop {
        // Shared with the older process of this node while that one goes.
        match adit_host::tcp::listen(address, true).and_then(tcp) {
            Ok(listener) => return serve::run_for(listener, router, stop, admission).await,
            Err(error) if !is_logged => {
                tracing::warn!(%error, "metrics are not served at {address}: free it, or set network.metricsFrom to []");
                is_logged = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(BIND_BACKOFF) => {}
        }
    }
}

fn tcp(listener: TcpListener) -> io::Result<AdminListener> {
    listener.set_nonblocking(true)?;
    Ok(AdminListener::Tcp(tokio::net::TcpListener::from_std(listener)?))
}
