//! The read-only server that the kubelet and Prometheus can reach: `/livez`, `/readyz`, `/metrics`.
//!
//! Every pod may be able to ask, and the thread that answers is also the one that the kubelet's probes wait for: so a
//! page is made anew only when that takes a tenth of the time at most, however often it is asked for.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_runtime::Mutex;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::answer::{unknown_path, wrong_method};
use crate::readiness::Readiness;

/// A page stays for so many times as long as it took to make it.
const PAGE_AGE_FACTOR: u32 = 9;
/// The longest that a page stays.
const MAX_PAGE_LIFETIME: Duration = Duration::from_secs(5);

const PATHS: &str = "GET /livez, GET /readyz and GET /metrics";

/// The parts of the process that the server answers from.
#[derive(Clone)]
pub struct PublicState {
    /// The reasons why the process is not ready yet.
    pub readiness: Readiness,
    /// The metrics page now.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// State that the routes share.
#[derive(Debug, Clone)]
struct RouteState {
    public: PublicState,
    /// The page that was made last, and until when it is good enough.
    page: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

impl RouteState {
    fn page(&self) -> Bytes {
        let mut last = self.page.lock();
        let began = Instant::now();
        if let Some((until, page)) = last.as_ref()
            && began < *until
        {
            return page.clone();
        }
        let page = Bytes::from((self.public.metrics)());
        let stays = began.elapsed().saturating_mul(PAGE_AGE_FACTOR).min(MAX_PAGE_LIFETIME);
        *last = Some((Instant::now() + stays, page.clone()));
        page
    }
}

impl fmt::Debug for PublicState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicState").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

/// The answer of `/readyz`, with 200 where nothing is awaited and 503 otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadinessAnswer {
    /// True if the node may be sent work.
    pub ready: bool,
    /// The reasons that are left, oldest first.
    pub waiting_for: Vec<String>,
}

impl ReadinessAnswer {
    /// As it is now.
    #[must_use]
    pub fn now(readiness: &Readiness) -> Self {
        let left = readiness.pending();
        let waiting_for: Vec<String> = left.into_iter().map(|r| r.into_owned()).collect();
        Self { ready: waiting_for.is_empty(), waiting_for }
    }
}

/// The server's routes.
pub fn router(public: PublicState) -> Router {
    Router::new()
        // That this thread answers says that the process lives. It says nothing about peers or traffic: a
        // restart would end every stream and cure neither.
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(async || unknown_path(PATHS))
        .method_not_allowed_fallback(async || wrong_method(PATHS))
        .with_state(RouteState { public, page: Arc::default() })
}

async fn ready(State(serving): State<RouteState>) -> Response {
    let ready = ReadinessAnswer::now(&serving.public.readiness);
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready)).into_response()
}

async fn metrics(State(serving): State<RouteState>) -> Response {
    let format = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (format, serving.page()).into_response()
}
