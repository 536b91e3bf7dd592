//! Answers of the servers to a request that fails: JSON with one sentence.

use adit_core::text::escape;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A sentence that says what is wrong and what would be right.
    pub error: String,
}

/// An answer that is not a success.
pub(super) fn error_response(status: StatusCode, error: impl AsRef<str>) -> Response {
    let error = escape(error.as_ref()).into_owned();
    (status, Json(ErrorBody { error })).into_response()
}

/// For a path that a server does not have; `paths` is what it has.
pub(super) fn unknown_path(paths: &str) -> Response {
    error_response(
        StatusCode::NOT_FOUND,
        format!("there is nothing at this path; there is {paths}"),
    )
}

/// For a method that a path does not take.
pub(super) fn wrong_method(paths: &str) -> Response {
    let sentence = format!("this path does not take this method; there is {paths}");
    error_response(StatusCode::METHOD_NOT_ALLOWED, sentence)
}
