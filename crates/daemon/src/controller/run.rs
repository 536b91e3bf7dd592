//! The life of a controller's process: leads or stands by until it is asked to end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_config::config::LogConfig;
use adit_kubernetes::controller::{
    self, ControllerError, ControllerPhase, ControllerPod, ControllerState, LinkedClusters,
};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::sibling_observer;
use crate::admin::public::{self, PublicState};
use crate::admin::serve::{self, AdminListener};
use crate::metrics::{ProcessMetrics, process::ProcessUsage};
use crate::process::log::{log_fatal_error, set_log, start_log};
use crate::process::setup::{cannot, runtime};
use crate::process::signals::{ProcessSignals, end_requested};
use crate::process::{ProcessExit, StartError, panics};
use crate::readiness::Readiness;
use crate::telemetry::ProcessLog;

/// The controller cannot reach the API server from this long after its last answer, which is asked for every two
/// seconds.
const API_SILENCE_TIMEOUT: Duration = Duration::from_secs(4);
/// Giving up the lead and the connections may take this long, from the signal to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Histograms are emptied into their buckets this often.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The identity of a controller, and what it serves.
#[derive(Debug, Clone)]
pub struct ControllerOptions {
    /// Its pod.
    pub settings: ControllerPod,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub listen: SocketAddr,
}

/// Runs the controller until it is asked to end.
///
/// Takes over the process: its signals, its panic hook, its log and its metrics.
///
/// # Errors
/// All that keeps it from starting; it stands in the log already.
pub fn run(options: ControllerOptions) -> Result<ProcessExit, StartError> {
    let log = start_log()?;
    panics::install();
    let begin = || -> Result<ProcessExit, StartError> {
        let metrics = ProcessMetrics::install().map_err(|e| e.to_string())?;
        runtime()?.block_on(serve(options, metrics, &log))
    };
    log_fatal_error(&log, "controller", begin())
}

async fn serve(
    options: ControllerOptions,
    metrics: ProcessMetrics,
    log: &ProcessLog,
) -> Result<ProcessExit, StartError> {
    let mut signals = ProcessSignals::catch().map_err(cannot("catch signals"))?;
    let listener = tokio::net::TcpListener::bind(options.listen)
        .await
        .map_err(|e| format!("cannot listen on {}: {e}", options.listen))?;
    let client = adit_kubernetes::client::in_cluster().map_err(|e| e.to_string())?;
    let readiness = Readiness::default();
    let (state, states) = watch::channel(ControllerState::default());
    let router = probes_and_metrics(metrics.clone(), readiness.clone(), states.clone());
    let stop = CancellationToken::new();
    let server = serve::run(AdminListener::Tcp(listener), router, stop.child_token());

    let (observer, observers) = watch::channel(None);
    let (peers, linked) = watch::channel(Arc::new(LinkedClusters::default()));
    let (summary, summaries) = watch::channel(Arc::default());
    let lead = stop.child_token();
    let controller =
        controller::run(client, options.settings, observer, linked, summaries, state, lead.clone());
    let beside = async {
        tokio::join!(
            sibling_observer::observe(observers, peers, summary),
            report_state(states.clone(), |wanted| set_log(log, wanted)),
            follow_api_server(states, readiness),
            maintain_metrics(metrics),
            server,
        );
    };
    let mut controller = std::pin::pin!(controller);
    let mut beside = std::pin::pin!(beside);
    let signal = tokio::select! {
        signal = end_requested(&mut signals) => signal,
        result = &mut controller => return Err(ended_by_itself(result)),
        () = &mut beside => {
            return Err(StartError::TaskEnded("a part of the controller ended by itself".to_owned()));
        }
    };
    tracing::info!(signal, "asked to end");
    lead.cancel();
    let farewell = async {
        tokio::select! {
            result = controller => if let Err(error) = result {
                tracing::warn!(%error, "the controller did not end cleanly");
            },
            () = beside => {}
        }
    };
    if timeout(SHUTDOWN_TIMEOUT, farewell).await.is_err() {
        tracing::warn!("the controller did not give up its lead in time");
    }
    Ok(ProcessExit::Drained { reset: 0 })
}

/// The pages `/livez`, `/readyz` and `/metrics` of a controller that begins now.
fn probes_and_metrics(
    metrics: ProcessMetrics,
    readiness: Readiness,
    states: watch::Receiver<ControllerState>,
) -> axum::Router {
    let began = Instant::now();
    public::router(PublicState {
        readiness,
        metrics: Arc::new(move || {
            let (answered, phase) = {
                let state = states.borrow();
                (state.answered_at.unwrap_or(began), state.phase)
            };
            let is_active = phase != ControllerPhase::Standby;
            metrics.render_controller(&ProcessUsage::read(), answered.elapsed(), is_active)
        }),
    })
}

fn ended_by_itself(result: Result<(), ControllerError>) -> StartError {
    match result {
        Ok(()) => StartError::TaskEnded("the controller ended by itself".to_owned()),
        Err(ControllerError::Ended(which)) => StartError::TaskEnded(which.to_string()),
        Err(error @ ControllerError::Namespace(_)) => error.to_string().into(),
    }
}

/// A controller is ready while it leads or stands by, and the API server answers.
async fn follow_api_server(mut states: watch::Receiver<ControllerState>, readiness: Readiness) {
    let mut pending = None;
    let began = Instant::now();
    loop {
        let answered = states.borrow_and_update().answered_at.unwrap_or(began);
        let until = answered + API_SILENCE_TIMEOUT;
        if Instant::now() < until {
            pending = None;
        } else if pending.is_none() {
            tracing::warn!("the API server does not answer");
            pending = Some(readiness.wait_for("an answer of the API server"));
        }
        // While it does not answer there is nothing to wait for but that it does.
        let changed = if pending.is_some() {
            states.changed().await
        } else {
            timeout_at(until, states.changed()).await.unwrap_or(Ok(()))
        };
        if changed.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Logs what the controller waits for and what is wrong, and has `set_log` make the log what the configuration wants.
async fn report_state(
    mut states: watch::Receiver<ControllerState>,
    set_log: impl Fn(&LogConfig) -> Result<(), String>,
) {
    let mut logged = ControllerState::default();
    loop {
        let state = states.borrow_and_update().clone();
        if state.phase != logged.phase {
            tracing::info!(phase = ?state.phase, "the controller's part");
        }
        match &state.trouble {
            Some(trouble) if state.trouble != logged.trouble => tracing::warn!("{trouble}"),
            None if logged.trouble.is_some() => tracing::info!("nothing is wrong any more"),
            Some(_) | None => {}
        }
        if state.log != logged.log
            && let Some(Err(error)) = state.log.as_ref().map(&set_log)
        {
            tracing::warn!("{error}");
        }
        logged = state;
        if states.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn maintain_metrics(metrics: ProcessMetrics) {
    loop {
        tokio::time::sleep(METRICS_UPKEEP_INTERVAL).await;
        metrics.upkeep();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use adit_config::config::LogLevel;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_controller_is_ready_only_while_its_api_server_answers() {
        let (say, states) = watch::channel(ControllerState::default());
        let readiness = Readiness::default();
        let answer = || say.send_modify(|state| state.answered_at = Some(Instant::now()));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(follow_api_server(states, readiness.clone()));
        for _ in 0..10 {
            sleep(Duration::from_secs(2)).await;
            answer();
            assert!(readiness.pending().is_empty());
        }
        sleep(API_SILENCE_TIMEOUT - Duration::from_millis(10)).await;
        assert!(readiness.pending().is_empty());
        sleep(Duration::from_millis(20)).await;
        assert_eq!(readiness.pending(), ["an answer of the API server"]);
        // Whatever else changes.
        say.send_modify(|state| state.trouble = Some("none".to_owned()));
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(readiness.pending(), ["an answer of the API server"]);
        answer();
        sleep(Duration::from_millis(1)).await;
        assert!(readiness.pending().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_follows_the_configuration_each_time_that_it_changes() {
        let (say, states) = watch::channel(ControllerState::default());
        let set: RefCell<Vec<LogLevel>> = RefCell::default();
        let following = report_state(states, |wanted| {
            set.borrow_mut().push(wanted.level);
            Ok(())
        });
        let changing = async {
            for level in [LogLevel::Debug, LogLevel::Debug, LogLevel::Warn] {
                let log = Some(LogConfig { level, ..LogConfig::default() });
                say.send_modify(|state| state.log = log);
                sleep(Duration::from_millis(1)).await;
                say.send_modify(|state| state.trouble = Some(format!("{level:?}")));
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = following => {}
            () = changing => {}
        }
        assert_eq!(set.into_inner(), [LogLevel::Debug, LogLevel::Warn]);
    }
}
