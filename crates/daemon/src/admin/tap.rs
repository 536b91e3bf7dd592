//! `POST /v1/tap`: streams as they begin and end, a JSON document in each line, for as long as whoever asks stays.
//!
//! A few may ask at once; whoever reads too slowly loses events, and is told how many. An empty line in between shows that the
//! connection lives. It ends without a last line where the process does.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use adit_core::text::escape;
use adit_dataplane::flow::{Direction, Flows, StreamEvent, StreamTap, TapFilter, TapItem};
use adit_pki::UnixTime;
use adit_pki::time::rfc3339;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame};
use serde::{Deserialize, Serialize};
use tokio::time::{Interval, MissedTickBehavior};

use super::answer::error_response;

/// An empty line is sent this often.
const ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// The streams that are to be followed; all without any key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TapRequest {
    /// `outbound` or `inbound` for those of one direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// The service, `NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// A port of it, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// A line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TapEvent {
    /// When it was told, RFC 3339 in UTC.
    pub at: String,
    /// `begin`: a stream is allowed; `end`: it has ended, or was refused; `lost`: so many events are missing here.
    pub event: String,
    /// The number of events that are missing; absent if none are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// The ID of the stream, the same on both sides and in the log.
    pub flow: String,
    /// `outbound` or `inbound`.
    pub direction: String,
    /// The workload that asks, `NAMESPACE/ACCOUNT@CLUSTER`; of an inbound stream as its cluster says.
    pub source: Option<String>,
    /// The service that is asked for, `NAMESPACE/NAME`, and its port, if that has a name.
    pub target: Option<String>,
    /// The node at the other end, `CLUSTER/NODE`.
    pub peer: Option<String>,
    /// True if the stream only asks.
    pub probe: bool,
    /// The end; absent if it has not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<TapEnd>,
}

/// The end of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TapEnd {
    /// A code of the closed list.
    pub code: String,
    /// More about it, in words; may be empty.
    pub reason: String,
    /// True if nothing of it was delivered.
    pub refused: bool,
    /// Bytes from the opener of the connection to the service.
    pub bytes_out: u64,
    /// Bytes from the service to the opener.
    pub bytes_in: u64,
    /// Milliseconds from its beginning.
    pub duration_ms: u64,
    /// Nodes or backends that refused before.
    pub retries: u32,
}

impl TapRequest {
    fn filter(&self) -> Result<TapFilter, String> {
        let direction = match self.direction.as_deref() {
            None => None,
            Some("outbound") => Some(Direction::Outbound),
            Some("inbound") => Some(Direction::Inbound),
            Some(other) => return Err(format!("direction {other:?}: outbound or inbound")),
        };
        let service = self
            .service
            .as_ref()
            .map(|service| service.parse().map_err(|e| format!("service {service:?}: {e}")));
        let port = self.port.as_ref();
        let port = port.map(|port| port.parse().map_err(|e| format!("port {port:?}: {e}")));
        Ok(TapFilter { direction, service: service.transpose()?, port: port.transpose()? })
    }
}

impl From<TapItem> for TapEvent {
    fn from(item: TapItem) -> Self {
        let at = rfc3339(UnixTime::now());
        match item {
            TapItem::Lost(lost) => {
                Self { at, event: "lost".to_owned(), lost: Some(lost), ..Self::default() }
            }
            TapItem::Event(event) => Self { at, ..Self::from(*event) },
        }
    }
}

impl From<StreamEvent> for TapEvent {
    fn from(event: StreamEvent) -> Self {
        let target = event.target.map(|target| {
            crate::status::with_port(&target.service.to_string(), target.port.as_str())
        });
        let end = event.end.map(|end| TapEnd {
            code: end.code.name().to_owned(),
            reason: escape(&end.reason).into_owned(),
            refused: end.is_refused,
            bytes_out: end.bytes_out,
            bytes_in: end.bytes_in,
            duration_ms: u64::try_from(end.lasted.as_millis()).unwrap_or(u64::MAX),
            retries: end.retries,
        });
        Self {
            at: String::new(),
            event: if end.is_some() { "end" } else { "begin" }.to_owned(),
            lost: None,
            flow: event.id.iter().map(|byte| format!("{byte:02x}")).collect(),
            direction: event.direction.name().to_owned(),
            source: event.source.map(|source| source.to_string()),
            target,
            peer: event.peer.map(|(cluster, node)| format!("{cluster}/{node}")),
            probe: event.is_probe,
            end,
        }
    }
}

/// The lines, without an end.
struct TapBody {
    tap: StreamTap,
    alive: Interval,
}

impl hyper::body::Body for TapBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut line = match self.tap.poll_next(context) {
            // Every field is text or a number: there is nothing that has no form in JSON.
            Poll::Ready(item) => serde_json::to_vec(&TapEvent::from(item)).unwrap_or_default(),
            Poll::Pending if self.alive.poll_tick(context).is_ready() => Vec::new(),
            Poll::Pending => return Poll::Pending,
        };
        line.push(b'\n');
        Poll::Ready(Some(Ok(Frame::data(line.into()))))
    }
}

pub(super) fn answer(flows: Option<&Flows>, body: &str) -> Response {
    let request = match body.trim() {
        "" => Ok(TapRequest::default()),
        body => serde_json::from_str::<TapRequest>(body).map_err(|e| e.to_string()),
    };
    let filter = match request.and_then(|request| request.filter()) {
        Ok(filter) => filter,
        Err(error) => {
            let sentence = format!("send {{\"service\": \"NAMESPACE/NAME\"}} or nothing: {error}");
            return error_response(StatusCode::BAD_REQUEST, sentence);
        }
    };
    let Some(tap) = flows.and_then(|flows| flows.tap(filter)) else {
        let sentence = "enough taps follow the streams of this node already; end one of them";
        return error_response(StatusCode::SERVICE_UNAVAILABLE, sentence);
    };
    let mut alive = tokio::time::interval(ALIVE_INTERVAL);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let lines = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (lines, Body::new(TapBody { tap, alive })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_a_direction_a_service_and_a_port_and_nothing_else() {
        let filter = |text: &str| {
            let request: TapRequest = serde_json::from_str(text).map_err(|e| e.to_string())?;
            request.filter()
        };
        assert_eq!(filter("{}"), Ok(TapFilter::default()));
        let all = filter(r#"{"direction": "inbound", "service": "a/b", "port": "http"}"#).unwrap();
        assert_eq!(all.direction, Some(Direction::Inbound));
        assert_eq!(all.service, "a/b".parse().ok());
        for wrong in [
            r#"{"direction": "up"}"#,
            r#"{"service": "b"}"#,
            r#"{"service": "a/b", "port": "HTTP!"}"#,
            r#"{"other": 1}"#,
        ] {
            assert!(filter(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_lost_has_its_line() {
        let text = serde_json::to_string(&TapEvent::from(TapItem::Lost(7))).unwrap();
        let read: TapEvent = serde_json::from_str(&text).unwrap();
        assert_eq!((&*read.event, read.lost, read.end), ("lost", Some(7), None));
    }
}
