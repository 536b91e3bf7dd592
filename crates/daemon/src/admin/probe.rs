//! `POST /v1/probe`: what would become of a stream, as this node finds when it tries as the caller.
//!
//! Only whoever may use the admin server may ask. A few questions at once are answered, and the other side bounds how
//! often it is asked.

use std::net::IpAddr;

use adit_core::doctor::facts::ProbeFacts;
use adit_core::name::ServiceName;
use adit_core::spiffe::Workload;
use adit_core::wire::header::StreamProbe;
use adit_dataplane::probe::{ProbeCaller, ProbePort, ProbeReport, Prober, StreamQuestion};
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::answer::error_response;

/// The question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeRequest {
    /// The imported service, `NAMESPACE/NAME`.
    pub service: String,
    /// Its port in the exporting cluster, by name or number; the first one by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The caller: its address, or `NAMESPACE/SERVICEACCOUNT`.
    pub from: String,
    /// True if no backend is to be dialled.
    #[serde(default)]
    pub only_ask: bool,
}

impl ProbeRequest {
    fn question(&self) -> Result<StreamQuestion, String> {
        let service = self.service.parse::<ServiceName>();
        let service = service.map_err(|e| format!("service {:?}: {e}", self.service))?;
        let port = match &self.port {
            None => ProbePort::First,
            Some(port) => match port.parse() {
                Ok(number) => ProbePort::Number(number),
                Err(_) => ProbePort::Name(port.parse().map_err(|e| format!("port {port:?}: {e}"))?),
            },
        };
        let caller = match self.from.parse::<IpAddr>() {
            Ok(address) => ProbeCaller::Address(address),
            Err(_) => {
                ProbeCaller::Workload(Workload::from_account(&self.from).ok_or_else(|| {
                    format!("from {:?}: neither an address nor NAMESPACE/SERVICEACCOUNT", self.from)
                })?)
            }
        };
        let depth = if self.only_ask { StreamProbe::Ask } else { StreamProbe::Dial };
        Ok(StreamQuestion { service, port, caller, depth })
    }
}

pub(super) async fn answer(prober: Option<&Prober>, body: &str) -> Response {
    let request: Result<ProbeRequest, _> = serde_json::from_str(body);
    let question = request.map_err(|e| e.to_string()).and_then(|request| request.question());
    let question = match question {
        Ok(question) => question,
        Err(error) => {
            let sentence = format!(
                "send {{\"service\": \"NAMESPACE/NAME\", \"from\": \"ADDRESS or NAMESPACE/SERVICEACCOUNT\"}}: {error}"
            );
            return error_response(StatusCode::BAD_REQUEST, sentence);
        }
    };
    let asked = match prober {
        Some(prober) => prober.ask(question).await,
        None => None,
    };
    match asked {
        Some(report) => Json(facts(&report)).into_response(),
        None => error_response(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many questions are under way, or the node is ending; ask again in a moment",
        ),
    }
}

fn facts(report: &ProbeReport) -> ProbeFacts {
    let source = report.source.as_ref();
    ProbeFacts {
        stage: report.stage,
        code: report.code.to_string(),
        reason: report.reason.clone(),
        source: source.map(|w| format!("{}/{}", w.namespace, w.service_account)),
        port: report.port.as_ref().map(ToString::to_string),
        peer: report.peer.as_ref().map(|(cluster, node)| format!("{cluster}/{node}")),
        milliseconds: u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use adit_core::doctor::facts::ProbeStage;

    use super::*;

    fn request(service: &str, port: Option<&str>, from: &str) -> Result<StreamQuestion, String> {
        let port = port.map(str::to_owned);
        let (service, from) = (service.to_owned(), from.to_owned());
        ProbeRequest { service, port, from, only_ask: false }.question()
    }

    #[test]
    fn a_question_names_service_port_and_caller_and_nothing_else() {
        let asked = request("agents/fraud-bot", Some("8080"), "10.244.1.10").unwrap();
        assert_eq!(asked.port, ProbePort::Number(8080));
        assert_eq!(asked.caller, ProbeCaller::Address("10.244.1.10".parse().unwrap()));
        assert_eq!(asked.depth, StreamProbe::Dial);
        let asked = request("agents/fraud-bot", Some("http"), "agents/support-bot").unwrap();
        assert!(matches!(asked.port, ProbePort::Name(_)));
        assert!(matches!(asked.caller, ProbeCaller::Workload(_)));
        for (service, port, from, word) in [
            ("fraud-bot", None, "a/b", "service"),
            ("10.0.0.1:80", None, "a/b", "service"),
            ("a/b", Some("HTTP!"), "a/b", "port"),
            ("a/b", None, "nobody", "from"),
            ("a/b", None, "a/b/c", "from"),
        ] {
            let error = request(service, port, from).unwrap_err();
            assert!(error.starts_with(word), "{error}");
        }
    }

    #[test]
    fn an_answer_has_the_stage_and_the_code() {
        let read = serde_json::to_value(ProbeFacts {
            stage: ProbeStage::Answered,
            code: "finished".to_owned(),
            ..ProbeFacts::default()
        });
        assert_eq!(read.unwrap()["stage"], "answered");
    }
}
