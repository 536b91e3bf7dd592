//! `POST /v1/invitation`, `/v1/invitation/answer` and `/v1/invitation/end`: what a command that invites another cluster
//! has this node do.
//!
//! The first offers the invitation and is then sent again and again: it renews it, waits a few seconds, and tells who asks.
//! The node decides nothing, and keeps nothing but in memory ([`InvitationBook`]).

use std::time::Duration;

use adit_core::invitation::{InvitationTerms, JoinApplication, MAX_LINE_LEN};
use adit_pki::{InvitationKey, UnixTime};
use adit_transport::Endpoints;
use adit_transport::join::{Applicant, BookError, InvitationBook, InvitationEnd};
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::answer::error_response;

/// Routes that this module has, for people.
pub(super) const PATHS: &str =
    "POST /v1/invitation, POST /v1/invitation/answer, POST /v1/invitation/end";
/// The longest wait for somebody who asks: less than an answer may take.
const MAX_WAIT_TIMEOUT: Duration = Duration::from_secs(8);

/// Offers an invitation, or renews it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InvitationRequest {
    /// The key of the invitation, in hexadecimal.
    pub key: String,
    /// The invitation, the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<InvitationTerms>,
    /// The number of the applicant who is known already; 0 is none. The answer comes when it is another.
    #[serde(default)]
    pub seen: u64,
    /// The longest wait for that, in milliseconds; at most some seconds are waited.
    #[serde(default)]
    pub wait_ms: u64,
}

/// The answer to [`InvitationRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InvitationReply {
    /// Whoever waits for an answer now.
    pub applicant: Option<JoinApplication>,
}

/// Answers an applicant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicantAnswerRequest {
    /// The key of the invitation, in hexadecimal.
    pub key: String,
    /// The applicant's number.
    pub number: u64,
    /// `None` if his cluster has been linked; else why not.
    #[serde(default)]
    pub refusal: Option<String>,
}

/// The answer to [`ApplicantAnswerRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplicantAnswerReply {
    /// True if the applicant has received it.
    pub is_delivered: bool,
}

/// Ends an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InvitationEndRequest {
    /// The key of the invitation, in hexadecimal.
    pub key: String,
    /// True if it was used.
    pub is_used: bool,
}

/// The routes, for the book of these endpoints. Bodies may hold a document.
pub(crate) fn router(endpoints: &Endpoints) -> Router {
    let (offering, answering, ending) = (endpoints.clone(), endpoints.clone(), endpoints.clone());
    let offer = async move |body: String| match serde_json::from_str(&body) {
        Ok(asked) => respond(offer(offering.invitations(), asked).await),
        Err(error) => misunderstood(&error),
    };
    let answer = async move |body: String| match serde_json::from_str(&body) {
        Ok(asked) => respond(answer(answering.invitations(), asked).await),
        Err(error) => misunderstood(&error),
    };
    let end = async move |body: String| match serde_json::from_str(&body) {
        Ok(asked) => respond(end(ending.invitations(), &asked)),
        Err(error) => misunderstood(&error),
    };
    Router::new()
        .route("/v1/invitation", post(offer))
        .route("/v1/invitation/answer", post(answer))
        .route("/v1/invitation/end", post(end))
        .layer(DefaultBodyLimit::max(MAX_LINE_LEN))
}

fn misunderstood(error: &serde_json::Error) -> Response {
    let sentence =
        format!("send what `adit invite` sends, {{\"key\": \"HEXADECIMAL\", …}}: {error}");
    error_response(StatusCode::BAD_REQUEST, sentence)
}

fn respond<T: Serialize>(done: Result<T, String>) -> Response {
    match done {
        Ok(reply) => Json(reply).into_response(),
        Err(error) => error_response(StatusCode::CONFLICT, error),
    }
}

fn parse_key(text: &str) -> Result<InvitationKey, String> {
    text.parse().map_err(|error: adit_pki::invitation::InvitationKeyError| error.to_string())
}

async fn offer(book: &InvitationBook, asked: InvitationRequest) -> Result<InvitationReply, String> {
    let key = parse_key(&asked.key)?;
    if let Some(terms) = asked.terms {
        let until = UnixTime::since_unix_epoch(Duration::from_secs(terms.until));
        let now = UnixTime::now();
        book.offer(key, until, now, &terms.document).map_err(|e| e.to_string())?;
    }
    let within = Duration::from_millis(asked.wait_ms).min(MAX_WAIT_TIMEOUT);
    let applicant = book.next_applicant(&key, asked.seen, within).await;
    let applicant = applicant.map_err(|e: BookError| e.to_string())?;
    let shown = |Applicant { number, remote, document }| JoinApplication {
        number,
        from: remote.to_string(),
        document: document.to_string(),
    };
    Ok(InvitationReply { applicant: applicant.map(shown) })
}

async fn answer(
    book: &InvitationBook,
    asked: ApplicantAnswerRequest,
) -> Result<ApplicantAnswerReply, String> {
    let key = parse_key(&asked.key)?;
    let answer = asked.refusal.map_or(Ok(()), Err);
    let is_delivered = book.answer(&key, asked.number, answer).await.map_err(|e| e.to_string())?;
    Ok(ApplicantAnswerReply { is_delivered })
}

fn end(book: &InvitationBook, asked: &InvitationEndRequest) -> Result<serde_json::Value, String> {
    let end = if asked.is_used { InvitationEnd::Used } else { InvitationEnd::Withdrawn };
    book.end(&parse_key(&asked.key)?, end).map_err(|e| e.to_string())?;
    Ok(serde_json::json!({}))
}
