//! The read-only server that the kubelet and Prometheus can reach: `/livez`, `/readyz`, `/metrics`.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::answer::{unknown_path, wrong_method};
use crate::readiness::Readiness;

const PATHS: &str = "GET /livez, GET /readyz and GET /metrics";

/// What the server needs of the process.
#[derive(Clone)]
pub struct Public {
    /// What is still awaited.
    pub readiness: Readiness,
    /// The metrics page now.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl fmt::Debug for Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Public").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

/// The answer of `/readyz`, with 200 where nothing is awaited and 503 otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// Whether the node may be sent work.
    pub ready: bool,
    /// What is awaited, oldest first.
    pub waiting_for: Vec<String>,
}

impl Ready {
    /// As it is now.
    #[must_use]
    pub fn of(readiness: &Readiness) -> Self {
        let left = readiness.left();
        let waiting_for: Vec<String> = left.into_iter().map(|r| r.into_owned()).collect();
        Self { ready: waiting_for.is_empty(), waiting_for }
    }
}

/// The server's routes.
pub fn router(public: Public) -> Router {
    Router::new()
        // That this thread answers says that the process lives. It says nothing about peers or traffic: a
        // restart would end every stream and cure neither.
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(async || unknown_path(PATHS))
        .method_not_allowed_fallback(async || wrong_method(PATHS))
        .with_state(public)
}

async fn ready(State(public): State<Public>) -> Response {
    let ready = Ready::of(&public.readiness);
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready)).into_response()
}

async fn metrics(State(public): State<Public>) -> Response {
    let format = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (format, (public.metrics)()).into_response()
}
