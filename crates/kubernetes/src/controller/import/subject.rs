//! A single import of a plan, with everything that it is planned from.

use std::collections::BTreeSet;
use std::sync::Arc;

use adit_core::name::ServiceName;
use adit_core::snapshot::PeerExport;

use super::addresses::Allocation;
use super::decision::WantedImport;
use super::ports::ImportPorts;
use crate::api::Import;
use crate::controller::cluster_state::ClusterState;
use crate::controller::plan::PlanInput;

/// An import, and everything that belongs to it.
pub(crate) struct PlannedImport<'a> {
    pub(crate) state: &'a ClusterState,
    pub(crate) input: &'a PlanInput<'a>,
    pub(crate) service: &'a ServiceName,
    pub(crate) want: &'a WantedImport,
    pub(crate) stored: Option<&'a Arc<Import>>,
    pub(crate) allocation: Allocation,
    pub(crate) ports: ImportPorts,
    pub(crate) name: String,
}

impl PlannedImport<'_> {
    /// Returns the export as its cluster announces it.
    pub(crate) fn peer_export(&self) -> Option<&PeerExport> {
        self.want.peer_export(self.input.peers, self.service)
    }

    /// Returns the reason why no Service can be created as the other side describes it: the API
    /// server would refuse it.
    pub(crate) fn why_unfit(&self) -> Option<&'static str> {
        let ports = &self.ports.used;
        let names: BTreeSet<&str> = ports.iter().map(|p| p.name.as_str()).collect();
        let numbers: BTreeSet<u16> = ports.iter().map(|p| p.number).collect();
        let count = ports.len();
        if self.service.name().starts_with(|c: char| !c.is_ascii_lowercase()) {
            Some("the name of a Service begins with a letter")
        } else if numbers.contains(&0) {
            Some("a port has the number 0")
        } else if count > 1 && names.contains("") {
            Some("of several ports each must have a name")
        } else {
            let twice = names.len().min(numbers.len()) < count;
            twice.then_some("two ports have one number, or one name")
        }
    }

    /// Returns whether kagent makes its Service, for an Agent of its name.
    pub(crate) fn leaves_service_to_kagent(&self) -> bool {
        self.state.agents.makes_service(self.service, self.want.agent.is_some())
    }

    /// Returns what serves in its place; what the object says until somebody has looked.
    pub(crate) fn displaced_by(&self) -> Option<String> {
        if self.state.observed_services.contains(&self.service.to_string()) {
            return self.state.served_by.get(self.service).cloned();
        }
        self.stored?.spec.displaced_by.clone()
    }
}
