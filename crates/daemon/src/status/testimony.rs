//! The word of a node about one import, from its status document, as `adit doctor` decides by it.

use adit_core::code::Code;
use adit_core::doctor::facts::{DaemonFacts, NodeImport, NodeLink, ProbeFacts, RefusedCaller};

use super::links::ConnectionReport;
use super::{Import, ImportPort, Link, LinkHealth, Reason, StatusDocument};

/// The most names of other imports that are told.
const MAX_IMPORTS: usize = 20;

/// The facts about the link with `cluster`; the clock is in seconds since 1970.
#[must_use]
pub fn testimony_of_link(status: &StatusDocument, cluster: &str, clock: u64) -> DaemonFacts {
    let link = status.links.iter().find(|link| link.cluster == cluster);
    DaemonFacts { link: link.map(of_link), ..of_node(status, clock) }
}

/// The facts about the import of `service`, and what a probe found; clocks are in seconds since 1970.
#[must_use]
pub fn testimony(
    status: &StatusDocument,
    service: &str,
    probe: Option<ProbeFacts>,
    clock: u64,
) -> DaemonFacts {
    let import = status.imports.iter().find(|import| import.service == service);
    let from = import.map(|import| &*import.from);
    // Where the import is not known yet the only link is the one that is meant.
    let only = (status.links.len() == 1).then(|| status.links.first()).flatten();
    let link = status.links.iter().find(|link| Some(&*link.cluster) == from).or(only);
    let port = probe.as_ref().and_then(|probe| probe.port.clone());
    DaemonFacts {
        import: import.map(|import| of_import(import, port.as_deref())),
        imports: status.imports.iter().take(MAX_IMPORTS).map(|i| i.service.clone()).collect(),
        link: link.map(of_link),
        refused: refused(status, service),
        probe,
        ..of_node(status, clock)
    }
}

/// The facts that do not depend on an import.
fn of_node(status: &StatusDocument, clock: u64) -> DaemonFacts {
    DaemonFacts {
        cluster: status.node.cluster.clone(),
        node: status.node.node.clone(),
        version: status.node.version.clone(),
        clock,
        asker_clock: clock,
        waiting_for: status.node.waiting_for.clone(),
        configuration_error: status.node.configuration.error.clone(),
        certificate_seconds_left: status.node.certificate.seconds_left,
        ..DaemonFacts::default()
    }
}

fn pair(reason: &Reason) -> (String, String) {
    (reason.code.clone(), reason.sentence.clone())
}

fn of_import(import: &Import, port: Option<&str>) -> NodeImport {
    let is_meant = |p: &&ImportPort| port.is_none_or(|port| p.name == port);
    let port = import.ports.iter().find(is_meant).or_else(|| import.ports.first());
    NodeImport {
        from: import.from.clone(),
        allow: import.allow.clone(),
        listen: port.map(|port| port.listen.clone()).unwrap_or_default(),
        reason: port.and_then(|port| port.reason.as_ref()).map(pair),
    }
}

fn of_link(link: &Link) -> NodeLink {
    let connected = link.nodes.iter().filter(|node| !node.connections.is_empty());
    let all = link.nodes.iter().flat_map(|node| &node.connections);
    let settled = all.filter(|connection: &&ConnectionReport| connection.age_seconds >= 10);
    let is_failing = link.dials.failures > 0;
    NodeLink {
        is_up: matches!(link.state, LinkHealth::Up | LinkHealth::Degraded),
        reason: link.reason.as_ref().map(pair),
        last_error: link.dials.last_error.clone().filter(|_| is_failing),
        failed_handshake: link.failed_handshake.as_ref().map(|reason| reason.sentence.clone()),
        connected: u32::try_from(connected.count()).unwrap_or(u32::MAX),
        // A path is measured in the first seconds of a connection.
        mtu: settled.map(|connection| connection.mtu).min().unwrap_or_default(),
    }
}

/// Callers of the import from here that were refused of late.
fn refused(status: &StatusDocument, service: &str) -> Vec<RefusedCaller> {
    let of_service =
        status.refused.iter().filter(|r| r.direction == "outbound" && r.service == service);
    let last = status.imports.iter().find(|import| import.service == service);
    // Others were served since, from addresses that are known.
    let is_last = |code: &str| {
        let ports = last.into_iter().flat_map(|import| &import.ports);
        let mut failures = ports.filter(|port| port.streams.refused_in_a_row > 0);
        failures.any(|port| port.streams.last_failure.as_ref().is_some_and(|r| r.code == code))
    };
    let unknown = Code::SourceUnknown.name();
    of_service
        .filter(|refused| refused.reason.code != unknown || is_last(unknown))
        .map(|refused| RefusedCaller {
            source: refused.source.clone(),
            code: refused.reason.code.clone(),
            sentence: refused.reason.sentence.clone(),
            count: refused.count,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{RefusedFlows, StreamCounts};

    fn document() -> StatusDocument {
        let unknown = Reason::new(Code::SourceUnknown, "172.18.1.2 is an address of a node");
        let port = ImportPort {
            name: "http".to_owned(),
            listen: vec!["198.18.0.1:15080".to_owned()],
            streams: StreamCounts {
                refused_in_a_row: 2,
                last_failure: Some(unknown.clone()),
                ..StreamCounts::default()
            },
            ..ImportPort::default()
        };
        let import = Import {
            service: "agents/fraud-bot".to_owned(),
            from: "bank".to_owned(),
            ports: vec![port],
            ..Import::default()
        };
        let refused = RefusedFlows {
            direction: "outbound".to_owned(),
            service: "agents/fraud-bot".to_owned(),
            count: 2,
            reason: unknown,
            ..RefusedFlows::default()
        };
        let link =
            |cluster: &str, state| Link { cluster: cluster.to_owned(), state, ..Link::default() };
        StatusDocument {
            imports: vec![import],
            refused: vec![refused],
            links: vec![link("shop", LinkHealth::Down), link("bank", LinkHealth::Degraded)],
            ..StatusDocument::default()
        }
    }

    #[test]
    fn a_node_tells_of_the_import_its_link_and_callers_that_nobody_knows() {
        let facts = testimony(&document(), "agents/fraud-bot", None, 7);
        assert!(facts.link.unwrap().is_up, "the link is that of the import");
        assert_eq!(facts.import.unwrap().listen, ["198.18.0.1:15080"]);
        assert_eq!(facts.refused[0].count, 2);
        let mut served = document();
        served.imports[0].ports[0].streams.refused_in_a_row = 0;
        assert!(testimony(&served, "agents/fraud-bot", None, 7).refused.is_empty());
        let other = testimony(&document(), "agents/other", None, 7);
        assert_eq!((other.import, other.link), (None, None));
        let down = testimony_of_link(&document(), "shop", 7);
        assert!(!down.link.unwrap().is_up && down.import.is_none());
        assert_eq!(testimony_of_link(&document(), "mall", 7).link, None);
        assert_eq!(other.imports, ["agents/fraud-bot"]);
    }
}
