//! From the status document to the report that a node gives its cluster's controller.

use std::str::FromStr;

use adit_core::code::Code;
use adit_core::policy::Target;
use adit_core::wire::report::{NodeReport, NodeTrouble, RefusalSeries, TroubleSubject};

use super::{LinkState, Reason, Severity, Status};

/// Of what the document says of the node itself, the parts that its controller cannot see.
const OF_THE_NODE: [&str; 3] = ["certificate", "configuration", "handshakes"];

/// The report: links first, then what is wrong with the node itself, then ports.
#[must_use]
pub fn node_report(status: &Status, (refusals, others): (Vec<RefusalSeries>, u64)) -> NodeReport {
    let mut troubles = Vec::new();
    let mut add = |about, is_error, reason: &Reason| {
        let code = code(&reason.code);
        troubles.push(NodeTrouble { about, code, is_error, sentence: reason.sentence.clone() });
    };
    // A node that goes away lets its links go: nothing is wrong with them.
    for link in status.links.iter().filter(|_| !status.node.draining) {
        let is_down = link.state == LinkState::Down;
        if let (true, Ok(cluster)) =
            (is_down || link.state == LinkState::Degraded, link.cluster.parse())
        {
            let reason = link.reason.clone().unwrap_or_default();
            add(TroubleSubject::Link(cluster), is_down, &reason);
        }
    }
    for problem in &status.problems {
        if problem.severity != Severity::Notice && OF_THE_NODE.contains(&problem.about.as_str()) {
            add(TroubleSubject::Node, problem.severity == Severity::Error, &problem.reason);
        }
    }
    for import in &status.imports {
        for port in import.ports.iter().filter(|port| !port.ready) {
            let reason = port.reason.clone().unwrap_or_default();
            // What a link that is down has for its echo is not said again.
            let is_echo = reason.code == Code::LinkDown.name();
            if let (false, Some(target)) = (is_echo, target(&import.service, &port.name)) {
                add(TroubleSubject::Import(target), true, &reason);
            }
        }
    }
    for export in &status.exports {
        for port in export.ports.iter().filter(|port| !port.ready) {
            let reason = port.reason.clone().unwrap_or_default();
            if let Some(target) = target(&export.service, &port.name) {
                add(TroubleSubject::Export(target), true, &reason);
            }
        }
    }
    NodeReport { troubles, refusals, others }
}

fn target(service: &str, port: &str) -> Option<Target> {
    Some(Target { service: FromStr::from_str(service).ok()?, port: FromStr::from_str(port).ok()? })
}

/// The code of a name; that of the document's own names, which are none of the list, says that the trouble is local.
fn code(name: &str) -> Code {
    Code::ALL.iter().find(|code| code.name() == name).copied().unwrap_or(Code::LocalError)
}

#[cfg(test)]
mod tests {
    use super::super::{Export, ExportPort, Import, ImportPort, Link, Problem};
    use super::*;

    #[test]
    fn a_report_says_each_cause_once() {
        let mut status = Status::default();
        let reason = |code: Code| Some(Reason::from(code));
        let link = |cluster: &str, state| Link {
            cluster: cluster.into(),
            state,
            reason: reason(Code::LinkDown),
            ..Link::default()
        };
        status.links = vec![link("bank", LinkState::Down), link("shop", LinkState::Up)];
        let port = |code| ImportPort {
            name: "http".into(),
            reason: reason(code),
            ..ImportPort::default()
        };
        let import = |name: &str, code| Import {
            service: name.into(),
            ports: vec![port(code)],
            ..Import::default()
        };
        status.imports = vec![import("a/b", Code::LinkDown), import("a/c", Code::LocalError)];
        let ports = vec![ExportPort { reason: reason(Code::NoBackend), ..ExportPort::default() }];
        status.exports = vec![Export { service: "a/d".into(), ports, ..Export::default() }];
        status.problems = vec![Problem {
            severity: Severity::Error,
            about: "certificate".into(),
            reason: Reason { code: "identity-rejected".into(), sentence: "no".into() },
        }];
        let said = |status: &Status| {
            let report = node_report(status, (Vec::new(), 0));
            report.troubles.into_iter().map(|t| (t.about, t.code)).collect::<Vec<_>>()
        };
        let about = |name: &str, port: &str| target(name, port).unwrap();
        let rest = [
            (TroubleSubject::Node, Code::LocalError),
            (TroubleSubject::Import(about("a/c", "http")), Code::LocalError),
            (TroubleSubject::Export(about("a/d", "")), Code::NoBackend),
        ];
        let down = (TroubleSubject::Link("bank".parse().unwrap()), Code::LinkDown);
        assert_eq!(said(&status), [&[down][..], &rest[..]].concat());
        status.node.draining = true;
        assert_eq!(said(&status), rest, "who goes away says nothing of its links");
    }
}
