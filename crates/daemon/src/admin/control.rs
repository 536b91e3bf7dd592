//! The admin server: tells everything about the node and changes what may be changed while it runs.
//!
//! `GET /v1/status`, `GET /v1/ready`, `POST /v1/probe` ([`super::probe`]), `GET /v1/traffic` ([`super::traffic`]), `POST /v1/tap`
//! ([`super::tap`]), `POST /v1/drain`, `POST /v1/reload`, `PUT /v1/log-level`, and those of [`super::invitation`]. It decides nothing: each
//! change is a [`AdminCommand`] to the process. On a Unix socket the file's mode says who may; on loopback a
//! browser must be kept from being used by a page ([`guard_loopback`]).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use adit_core::traffic::NodeTraffic;
use adit_dataplane::flow::Flows;
use adit_dataplane::probe::Prober;
use adit_transport::Endpoints;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::answer::{error_response, unknown_path, wrong_method};
use super::public::ReadinessAnswer;
use super::serve::AnswerLifetime;
use crate::readiness::Readiness;
use crate::status::StatusDocument;
use crate::telemetry::LevelError;

const PATHS: &str = "GET /v1/status, GET /v1/ready, POST /v1/probe, GET /v1/traffic, POST /v1/tap, POST /v1/drain, POST /v1/reload and PUT /v1/log-level";
/// A log level is a line, and a question of a few names.
const MAX_BODY: usize = 4096;
/// Reading a file and applying it takes milliseconds.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A command of an operator to the process.
#[derive(Debug)]
pub enum AdminCommand {
    /// Go away politely: what SIGTERM does.
    Drain,
    /// Read configuration and identity again now, and tell how that went: what SIGHUP does.
    Reload(oneshot::Sender<ReloadReply>),
}

/// The result of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReloadReply {
    /// The configuration is in use. Names what changed, in a few words each; empty if nothing did.
    Applied {
        /// The changes, in a few words each.
        changes: Vec<String>,
    },
    /// The configuration is not in use, and the last good one still is.
    Rejected {
        /// Every error, one a line.
        error: String,
    },
}

/// Takes a log level, or says why not.
pub type SetLevel = dyn Fn(&str) -> Result<(), LevelError> + Send + Sync;

/// The parts of the process that the server answers from.
#[derive(Clone)]
pub struct Controls {
    /// The status document now.
    pub status: Arc<dyn Fn() -> StatusDocument + Send + Sync>,
    /// The reasons why the process is not ready yet.
    pub readiness: Readiness,
    /// Changes the log level.
    pub set_level: Arc<SetLevel>,
    /// Takes commands; one place each suffices, because an operator waits for the answer.
    pub commands: mpsc::Sender<AdminCommand>,
    /// Asks what would become of a stream; `None` where there is no data path.
    pub prober: Option<Prober>,
    /// The data path's streams, for whoever watches them; `None` where there is none.
    pub flows: Option<Flows>,
    /// The counts of its traffic now.
    pub traffic: Arc<dyn Fn() -> NodeTraffic + Send + Sync>,
    /// The endpoints by which other clusters may join; `None` where there are none.
    pub endpoints: Option<Endpoints>,
}

impl fmt::Debug for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controls").finish_non_exhaustive()
    }
}

/// The server's routes.
pub fn router(controls: Controls) -> Router {
    let invitations = controls.endpoints.as_ref().map(super::invitation::router);
    let own = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/ready", get(ready))
        .route("/v1/probe", post(probe))
        .route("/v1/traffic", get(traffic))
        .route("/v1/tap", post(tap))
        .route("/v1/drain", post(drain))
        .route("/v1/reload", post(reload))
        .route("/v1/log-level", put(log_level))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(controls);
    own.merge(invitations.unwrap_or_default())
        .fallback(async || unknown_path(&paths()))
        .method_not_allowed_fallback(async || wrong_method(&paths()))
}

fn paths() -> String {
    format!("{PATHS}; {}", super::invitation::PATHS)
}

/// Keeps pages in a browser on this machine from using a server on loopback: no page's request (they
/// carry `Origin`), and no name that merely resolves to loopback (DNS rebinding).
pub fn guard_loopback(router: Router) -> Router {
    router.layer(middleware::from_fn(async |request: Request, next: Next| {
        let headers = request.headers();
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
        if !is_loopback(host) {
            return error_response(
                StatusCode::FORBIDDEN,
                "the Host header must be a loopback address or localhost",
            );
        }
        if headers.contains_key(header::ORIGIN) {
            return error_response(
                StatusCode::FORBIDDEN,
                "pages in a browser may not use this server",
            );
        }
        next.run(request).await
    }))
}

fn is_loopback(host: &str) -> bool {
    use std::net::{IpAddr, SocketAddr};
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost")
        || host.parse::<SocketAddr>().is_ok_and(|a| a.ip().is_loopback())
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|a| a.is_loopback())
}

async fn status(State(controls): State<Controls>) -> Response {
    Json((controls.status)()).into_response()
}

async fn ready(State(controls): State<Controls>) -> Response {
    Json(ReadinessAnswer::now(&controls.readiness)).into_response()
}

async fn probe(State(controls): State<Controls>, body: String) -> Response {
    super::probe::answer(controls.prober.as_ref(), &body).await
}

async fn traffic(State(controls): State<Controls>) -> Response {
    Json((controls.traffic)()).into_response()
}

async fn tap(
    State(controls): State<Controls>,
    lifetime: Option<Extension<AnswerLifetime>>,
    body: String,
) -> Response {
    let answer = super::tap::answer(controls.flows.as_ref(), &body);
    if let (Some(Extension(lifetime)), true) = (lifetime, answer.status().is_success()) {
        lifetime.extend();
    }
    answer
}

async fn drain(State(controls): State<Controls>) -> Response {
    match controls.commands.send(AdminCommand::Drain).await {
        Ok(()) => {
            (StatusCode::ACCEPTED, Json(serde_json::json!({"draining": true}))).into_response()
        }
        Err(_) => ending(),
    }
}

async fn reload(State(controls): State<Controls>) -> Response {
    let (answer, outcome) = oneshot::channel();
    if controls.commands.send(AdminCommand::Reload(answer)).await.is_err() {
        return ending();
    }
    match tokio::time::timeout(RELOAD_TIMEOUT, outcome).await {
        Ok(Ok(ReloadReply::Rejected { error })) => {
            error_response(StatusCode::UNPROCESSABLE_ENTITY, error)
        }
        Ok(Ok(applied)) => Json(applied).into_response(),
        Ok(Err(_)) => ending(),
        Err(_) => error_response(
            StatusCode::GATEWAY_TIMEOUT,
            "the reload has not ended within 10 s; see GET /v1/status",
        ),
    }
}

fn ending() -> Response {
    error_response(StatusCode::SERVICE_UNAVAILABLE, "the process is ending")
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogLevelBody {
    level: String,
}

async fn log_level(State(controls): State<Controls>, body: String) -> Response {
    let level = if body.trim_start().starts_with('{') {
        match serde_json::from_str::<LogLevelBody>(&body) {
            Ok(LogLevelBody { level }) => level,
            Err(error) => {
                let sentence = format!("send a level, or {{\"level\": \"debug\"}}: {error}");
                return error_response(StatusCode::BAD_REQUEST, sentence);
            }
        }
    } else {
        body.trim().to_owned()
    };
    match (controls.set_level)(&level) {
        Ok(()) => {
            tracing::info!(level, "log level changed");
            Json(LogLevelBody { level }).into_response()
        }
        Err(error) => error_response(StatusCode::BAD_REQUEST, error.to_string()),
    }
}
