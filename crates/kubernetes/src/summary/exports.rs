//! The reports of all nodes about exports whose backends do not answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use adit_core::fault::{BackendFault, NETWORK_POLICY_HINT};
use adit_core::name::{Namespace, NodeName, PortName, ServiceName};
use adit_core::policy::Target;
use adit_core::wire::report::{ExportFault, NodeReport};

/// Number of nodes that are named for one port.
const MAX_NAMED: usize = 4;

/// The exports for which no backend answers on some nodes, by Service and port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportsSummary {
    all: BTreeMap<ServiceName, BTreeMap<PortName, FailingPort>>,
    /// True if a node had more to report than fits: of exports that are missing here nothing is
    /// known.
    pub is_cut: bool,
}

/// A port of an export for which no backend answers on some nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FailingPort {
    /// The reason; of several the one that a dial found, and `None` if there is no backend.
    pub fault: Option<BackendFault>,
    /// Number of nodes for which no backend answers.
    pub whole: usize,
    /// Number of nodes that report something of it, those included.
    pub nodes: usize,
    /// Some of them, by name.
    pub named: Vec<String>,
    /// Number of backends.
    pub total: u32,
    /// Number of backends that do not answer the node that they run on.
    pub silent: u32,
    /// A backend that does not answer, for that reason.
    pub backend: Option<SocketAddr>,
}

impl ExportsSummary {
    /// Adds the report of one node.
    pub(super) fn add(&mut self, node: &NodeName, report: &NodeReport) {
        self.is_cut |= report.is_truncated;
        for said in &report.exports {
            let ExportFault { target, is_whole_export: is_whole, fault, total, here, backend } =
                said;
            let ports = self.all.entry(target.service.clone()).or_default();
            let port = ports.entry(target.port.clone()).or_default();
            // The first of both kinds, so that nodes that report in turn change nothing.
            let reasons = [(port.fault, port.backend), (*fault, *backend)];
            let known = reasons.into_iter().filter(|(fault, _)| fault.is_some());
            let first = known.min_by_key(|(fault, backend)| (*fault, backend.is_none(), *backend));
            (port.fault, port.backend) = first.unwrap_or_default();
            port.whole += usize::from(*is_whole);
            port.nodes += 1;
            if port.named.len() < MAX_NAMED {
                port.named.push(node.to_string());
            }
            port.total = port.total.max(*total);
            port.silent = port.silent.saturating_add(*here);
        }
    }

    /// Returns the ports whose backends all fail to answer the nodes that they run on, and are
    /// dialled only there; as many as one question may carry, namespaces in turn.
    #[must_use]
    pub fn unserved_at_home(&self, answered: usize) -> Vec<ExportFault> {
        let mut counts: BTreeMap<&Namespace, usize> = BTreeMap::new();
        let mut all: Vec<(usize, ExportFault)> = Vec::new();
        for (service, ports) in &self.all {
            let only_there =
                |port: &FailingPort| port.whole < answered && port.is_unserved(answered);
            for (name, port) in ports.iter().filter(|(_, port)| only_there(port)) {
                let count = counts.entry(&service.namespace).or_default();
                *count += 1;
                let target = Target { service: service.clone(), port: name.clone() };
                let FailingPort { fault, total, silent, .. } = *port;
                all.push((
                    *count,
                    ExportFault {
                        target,
                        is_whole_export: true,
                        fault,
                        total,
                        here: silent,
                        backend: None,
                    },
                ));
            }
        }
        // Stable: within one turn sorted by name.
        all.sort_by_key(|(turn, _)| *turn);
        all.into_iter().map(|(_, fault)| fault).take(NodeReport::MAX_EXPORTS).collect()
    }

    /// Returns the ports of an export that nodes report.
    pub fn ports_of(
        &self,
        service: &ServiceName,
    ) -> impl Iterator<Item = (&PortName, &FailingPort)> {
        self.all.get(service).into_iter().flatten()
    }
}

impl FailingPort {
    /// Returns whether no backend answers anywhere, if so many nodes have answered: all report it,
    /// or each backend fails to answer the node that it runs on.
    #[must_use]
    pub fn is_unserved(&self, answered: usize) -> bool {
        self.whole >= answered || (self.total > 0 && self.silent >= self.total)
    }

    /// Describes the problem of the export of that name, whose Service selects pods by `selector`.
    #[must_use]
    pub fn sentence(
        &self,
        service: &ServiceName,
        port: &PortName,
        selector: Option<&str>,
    ) -> String {
        let port = match port.as_str() {
            "" => String::new(),
            name => format!(" at port {name}"),
        };
        match self.fault {
            Some(fault) => {
                let at = self.backend.map(|at| format!(" ({at})")).unwrap_or_default();
                let hint = if fault == BackendFault::Timeout && self.backend.is_some() {
                    format!("; {NETWORK_POLICY_HINT}")
                } else {
                    String::new()
                };
                let why = fault.description();
                format!("no backend of {service} answers{port}: {why}{at}{hint}")
            }
            None => {
                let pods = selector.map(|by| format!("; its Service selects pods by {by}"));
                let pods = pods.unwrap_or_default();
                format!("{service} has no backend{port}: no endpoint of it is ready{pods}")
            }
        }
    }

    /// Describes how many backends and nodes are affected, of so many nodes that have answered.
    #[must_use]
    pub fn describe_counts(&self, answered: usize) -> String {
        let nodes = match self.nodes.saturating_sub(self.named.len()) {
            0 => self.named.join(", "),
            more => format!("{} and {more} more", self.named.join(", ")),
        };
        let nodes = format!("{} of {answered} nodes: {nodes}", self.nodes);
        match self.total {
            0 => nodes,
            1 => format!("1 backend; {nodes}"),
            total => format!("{total} backends; {nodes}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(is_whole: bool, total: u32, here: u32) -> ExportFault {
        let service = "agents/triage-bot".parse().unwrap();
        let target = Target { service, port: "http".parse().unwrap() };
        ExportFault {
            target,
            is_whole_export: is_whole,
            fault: Some(BackendFault::Refused),
            total,
            here,
            backend: None,
        }
    }

    fn sum(reports: &[Option<ExportFault>]) -> (Option<FailingPort>, usize) {
        let mut all = ExportsSummary::default();
        for (n, said) in reports.iter().enumerate() {
            let exports = said.iter().cloned().collect();
            let report = NodeReport { exports, ..NodeReport::default() };
            all.add(&format!("b{n}").parse().unwrap(), &report);
        }
        let service = "agents/triage-bot".parse().unwrap();
        let found = all.ports_of(&service).next().map(|(_, port)| port.clone());
        (found, reports.len())
    }

    #[test]
    fn an_export_is_unserved_where_all_say_so_or_no_backend_answers_its_own_node() {
        let unserved = |reports: &[Option<ExportFault>]| {
            let (port, answered) = sum(reports);
            port.is_some_and(|port| port.is_unserved(answered))
        };
        assert!(!unserved(&[None, None]));
        // Every node dials every backend.
        assert!(unserved(&[Some(fault(true, 2, 1)), Some(fault(true, 2, 1))]));
        // One node cannot reach the backends of others, which answer there.
        assert!(!unserved(&[Some(fault(true, 2, 0)), None]));
        // Nodes dial their own only, and take others' to be well.
        assert!(unserved(&[Some(fault(true, 1, 1)), None]));
        assert!(unserved(&[Some(fault(false, 2, 1)), Some(fault(false, 2, 1)), None]));
        assert!(!unserved(&[Some(fault(false, 2, 1)), None]));
        // There is none.
        let none = ExportFault { fault: None, ..fault(true, 0, 0) };
        assert!(unserved(&[Some(none.clone()), Some(none)]));
    }

    #[test]
    fn words_name_the_nodes_and_count_the_backends() {
        let (port, answered) = sum(&[Some(fault(false, 2, 1)), None]);
        let port = port.unwrap();
        let (service, name) = ("a/b".parse().unwrap(), "http".parse().unwrap());
        let said = port.sentence(&service, &name, None);
        assert_eq!(said, "no backend of a/b answers at port http: connection refused");
        assert_eq!(port.describe_counts(answered), "2 backends; 1 of 2 nodes: b0");
    }

    #[test]
    fn words_name_the_address_that_was_dialled_and_the_selector_where_there_is_none() {
        let at = |address: &str| Some(address.parse().unwrap());
        let timeout = |backend| ExportFault {
            fault: Some(BackendFault::Timeout),
            backend,
            ..fault(true, 2, 1)
        };
        let refused = ExportFault { backend: at("10.244.1.9:80"), ..fault(true, 2, 1) };
        let said = |reports: &[Option<ExportFault>]| {
            let (service, name) = ("a/b".parse().unwrap(), "http".parse().unwrap());
            sum(reports).0.unwrap().sentence(&service, &name, Some("kagent=b"))
        };
        let (one, two) = (timeout(at("10.244.1.5:80")), timeout(at("10.244.1.4:80")));
        let lowest = said(&[Some(timeout(None)), Some(one.clone()), Some(two.clone())]);
        assert_eq!(
            lowest,
            format!(
                "no backend of a/b answers at port http: no answer in time (10.244.1.4:80); {NETWORK_POLICY_HINT}"
            )
        );
        assert_eq!(said(&[Some(two.clone()), Some(timeout(None)), Some(one)]), lowest);
        assert_eq!(
            said(&[Some(two), Some(refused)]),
            "no backend of a/b answers at port http: connection refused (10.244.1.9:80)"
        );
        let none = ExportFault { fault: None, ..fault(true, 0, 0) };
        assert_eq!(
            said(&[Some(none)]),
            "a/b has no backend at port http: no endpoint of it is ready; its Service selects pods by kagent=b"
        );
    }
}
