//! From the status document to the report that a node gives its cluster's controller.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;

use adit_core::code::Code;
use adit_core::fault::BackendFault;
use adit_core::policy::Target;
use adit_core::wire::report::{
    ExportFault, NodeReport, NodeTrouble, RefusalSeries, TroubleSubject,
};

use super::{
    Backend, BackendState, Export, ExportPort, Link, LinkHealth, Reason, StatusDocument,
    StatusProblem, StatusSeverity, duplicates,
};

/// Of what the document says of the node itself, the parts that its controller cannot see.
const NODE_PARTS: [&str; 4] = ["certificate", "configuration", "handshakes", "state folder"];

/// The report: links first, then what is wrong with the node itself, then ports of imports. Exports are told apart,
/// each that no backend answers for.
#[must_use]
pub fn node_report(
    status: &StatusDocument,
    (refusals, others): (Vec<RefusalSeries>, u64),
) -> NodeReport {
    let mut troubles = Vec::new();
    let mut add = |about, is_error, reason: &Reason| {
        let code = code(&reason.code);
        troubles.push(NodeTrouble {
            subject: about,
            code,
            is_error,
            sentence: reason.sentence.clone(),
        });
    };
    // A node that goes away lets its links go: nothing is wrong with them.
    for link in status.links.iter().filter(|_| !status.node.draining) {
        let is_down = link.state == LinkHealth::Down;
        if let (true, Ok(cluster)) =
            (is_down || link.state == LinkHealth::Degraded, link.cluster.parse())
        {
            let reason = link.reason.clone().unwrap_or_default();
            add(TroubleSubject::Link(cluster), is_down, &reason);
        }
    }
    for problem in &status.problems {
        // Whose name it is has to mend it; this node goes on.
        let link = problem.about.strip_prefix("link ").map(str::parse);
        let is_double = problem.reason.code == duplicates::CODE;
        let is_of_link = is_double || is_of_link_in_use(status, problem);
        if let Some(Ok(cluster)) = link.filter(|_| is_of_link) {
            add(TroubleSubject::Link(cluster), false, &problem.reason);
        }
        let is_told = NODE_PARTS.contains(&problem.about.as_str())
            || (problem.reason.code == duplicates::CODE && !problem.about.starts_with("link "));
        if problem.severity != StatusSeverity::Notice && is_told {
            add(TroubleSubject::Node, problem.severity == StatusSeverity::Error, &problem.reason);
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
    let (exports, is_cut) = export_faults(status);
    let version = status.node.version.clone();
    NodeReport { troubles, refusals, others, exports, is_truncated: is_cut, version }
}

/// True if a link can be used, and something is the matter with it: a limit of this node that its cluster meets, or what
/// is left out of a view. Why it cannot be used, or not well, is told with its state.
fn is_of_link_in_use(status: &StatusDocument, problem: &StatusProblem) -> bool {
    let is_state = |link: &Link| {
        problem.about == format!("link {}", link.cluster)
            && link.reason.as_ref().is_some_and(|reason| reason.code == problem.reason.code)
    };
    problem.severity == StatusSeverity::Warning
        && !status.node.draining
        && !status.links.iter().any(is_state)
}

/// The exports that no backend answers for, as far as one report has room, and whether there are more. Namespaces take
/// turns, so that a tenant whose backends are all gone hides no other's.
fn export_faults(status: &StatusDocument) -> (Vec<ExportFault>, bool) {
    let node = status.node.node.as_str();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut all: Vec<(usize, ExportFault)> = Vec::new();
    // What nobody may use has nobody who would miss it.
    for export in status.exports.iter().filter(|export| !export.allow.is_empty()) {
        let namespace = export.service.split('/').next().unwrap_or_default();
        for fault in export.ports.iter().filter_map(|port| export_fault(export, port, node)) {
            let count = counts.entry(namespace).or_default();
            *count += 1;
            all.push((*count, fault));
        }
    }
    // Stable: within one turn by name.
    all.sort_by_key(|(turn, _)| *turn);
    let is_cut = all.len() > NodeReport::MAX_EXPORTS;
    (all.into_iter().map(|(_, fault)| fault).take(NodeReport::MAX_EXPORTS).collect(), is_cut)
}

/// The fault of a port's backends, by this node's own dials.
fn export_fault(export: &Export, port: &ExportPort, node: &str) -> Option<ExportFault> {
    // What this node never dialled is another's to tell: what it heard of that is no finding of its own.
    let is_up = |backend: &Backend| match backend.state {
        BackendState::Up | BackendState::Unknown => true,
        BackendState::Down => backend.last_dial.as_ref().is_none_or(|dial| dial.code.is_empty()),
        BackendState::Forbidden => false,
    };
    let (here, elsewhere): (Vec<_>, Vec<_>) = port.backends.iter().partition(|b| b.node == node);
    let is_whole = !port.backends.iter().any(is_up);
    let reported =
        port.reason.as_ref().and_then(|reason| BackendFault::from_code(code(&reason.code)));
    // Streams wait for one: so it is meant.
    if port.backends.is_empty() && reported.is_none() && export.hold_seconds.is_some() {
        return None;
    }
    let is_silent = !here.is_empty() && !here.iter().any(|backend| is_up(backend));
    if !is_whole && !is_silent {
        return None;
    }
    let seen = here.iter().chain(elsewhere.iter().filter(|_| is_whole));
    let fault = seen.map(|backend| {
        let fault = match (backend.state, &backend.last_dial) {
            (BackendState::Forbidden, _) => BackendFault::Forbidden,
            (_, Some(dial)) => {
                BackendFault::from_code(code(&dial.code)).unwrap_or(BackendFault::Unreachable)
            }
            (_, None) => BackendFault::Unreachable,
        };
        (fault, backend.address.parse::<SocketAddr>().ok())
    });
    let first = fault.min();
    let count = |all: usize| u32::try_from(all).unwrap_or(u32::MAX);
    Some(ExportFault {
        target: target(&export.service, &port.name)?,
        is_whole_export: is_whole,
        fault: first.map(|(fault, _)| fault).or(reported),
        total: count(port.backends.len()),
        here: if is_silent { count(here.len()) } else { 0 },
        backend: first.and_then(|(_, address)| address),
    })
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
    use super::super::{Grant, Import, ImportPort, Link};
    use super::*;

    #[test]
    fn a_report_says_each_cause_once() {
        let mut status = StatusDocument::default();
        let reason = |code: Code| Some(Reason::from(code));
        let link = |cluster: &str, state| Link {
            cluster: cluster.into(),
            state,
            reason: reason(Code::LinkDown),
            ..Link::default()
        };
        status.links = vec![link("bank", LinkHealth::Down), link("shop", LinkHealth::Up)];
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
        status.node.folder_error = Some("no space".into());
        status.problems = super::super::problems::find_problems(&status);
        status.problems.retain(|problem| problem.about == "state folder");
        let reported = |status: &StatusDocument| {
            let report = node_report(status, (Vec::new(), 0));
            report.troubles.into_iter().map(|t| (t.subject, t.code)).collect::<Vec<_>>()
        };
        let about = |name: &str, port: &str| target(name, port).unwrap();
        let rest = [
            (TroubleSubject::Node, Code::LocalError),
            (TroubleSubject::Import(about("a/c", "http")), Code::LocalError),
        ];
        let down = (TroubleSubject::Link("bank".parse().unwrap()), Code::LinkDown);
        assert_eq!(reported(&status), [&[down][..], &rest[..]].concat());
        let stalled = super::super::StalledStreams { streams: 9, ..Default::default() };
        status.links[1].stalled = Some(stalled);
        let problems = super::super::problems::find_problems(&status);
        let stalled = problems.into_iter().filter(|p| p.about == "link shop");
        status.problems.extend(stalled);
        let shop = (TroubleSubject::Link("shop".parse().unwrap()), Code::OverBudget);
        assert!(
            reported(&status).contains(&shop),
            "who takes memory is told though the link is up"
        );
        status.node.draining = true;
        assert_eq!(reported(&status), rest, "who goes away says nothing of its links");
    }

    fn backend(node: &str, state: BackendState, dial: Option<Code>) -> Backend {
        let last_dial = dial.map(Reason::from);
        Backend { node: node.into(), state, last_dial, ..Backend::default() }
    }

    fn export(service: &str, backends: Vec<Backend>) -> Export {
        let ports = vec![ExportPort { name: "http".into(), backends, ..ExportPort::default() }];
        let allow = vec![Grant::default()];
        Export { service: service.into(), ports, allow, ..Export::default() }
    }

    #[test]
    fn exports_are_told_that_no_backend_answers_for_here_or_at_all() {
        use BackendState::{Down, Forbidden, Up};
        let refused = |node| backend(node, Down, Some(Code::BackendRefused));
        let up = |node| backend(node, Up, None);
        let mut status = StatusDocument::default();
        status.node.node = "b1".into();
        let mut foreign = export("a/foreign", vec![]);
        foreign.ports[0].reason = Some(Reason::from(Code::BackendForeign));
        let unused = Export { allow: Vec::new(), ..export("a/unused", vec![]) };
        status.exports = vec![
            export("a/well", vec![refused("b1"), up("b1")]),
            export("a/none", vec![]),
            Export { hold_seconds: Some(60), ..export("a/asleep", vec![]) },
            foreign,
            export("a/whole", vec![refused("b1"), refused("b2"), backend("b2", Forbidden, None)]),
            export("a/here", vec![refused("b1"), up("b2")]),
            export("a/there", vec![up("b1"), refused("b2")]),
            export("a/forbidden", vec![backend("b2", Forbidden, None)]),
            unused,
        ];
        let report = node_report(&status, (Vec::new(), 0));
        let reported = |fault: &ExportFault| {
            let name = fault.target.service.name().to_owned();
            (name, fault.is_whole_export, fault.fault, fault.total, fault.here)
        };
        let reported: Vec<_> = report.exports.iter().map(reported).collect();
        let refused = Some(BackendFault::Refused);
        assert_eq!(
            reported,
            [
                ("none".into(), true, None, 0, 0),
                ("foreign".into(), true, Some(BackendFault::Foreign), 0, 0),
                ("whole".into(), true, refused, 3, 1),
                ("here".into(), false, refused, 2, 1),
                ("forbidden".into(), true, Some(BackendFault::Forbidden), 1, 0),
            ]
        );
        assert!(report.troubles.is_empty() && !report.is_truncated);
    }

    #[test]
    fn a_namespace_whose_backends_are_all_gone_hides_no_other_s() {
        let enemy = (0..1000).map(|n| export(&format!("enemy/s{n}"), vec![]));
        let status = StatusDocument {
            exports: enemy.chain([export("victim/bot", vec![])]).collect(),
            ..StatusDocument::default()
        };
        let report = node_report(&status, (Vec::new(), 0));
        assert_eq!((report.exports.len(), report.is_truncated), (NodeReport::MAX_EXPORTS, true));
        assert!(report.exports.iter().any(|e| e.target.service.namespace.as_str() == "victim"));
    }
}
