//! The vocabulary of imports: what a decision is made from, and what comes of it.

use std::collections::{BTreeMap, BTreeSet};

use adit_config::cluster::ClusterConfig;
use adit_core::name::{ClusterName, ServiceName};
use adit_core::snapshot::PeerExport;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::ports::PortUse;
use super::quota::OmittedImports;
use crate::api::Workloads;
use crate::controller::cluster_state::ClusterState;
use crate::controller::conditions::ConditionVerdict;
use crate::controller::export::ExportOrigin;
use crate::controller::peers::LinkedClusters;

/// An import, as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedImport {
    /// The exporting cluster.
    pub(crate) from: ClusterName,
    /// Workloads that may use it.
    pub(crate) allow: Vec<Workloads>,
    /// True if a Service is created when there is none.
    pub(crate) create_service: bool,
    /// True if the configuration names it.
    pub(crate) named: bool,
    /// The description of an Agent of kagent that stands for it, if one is asked for.
    pub(crate) agent: Option<String>,
    /// Other clusters that it would be imported from as well.
    pub(crate) others: Vec<ClusterName>,
}

impl WantedImport {
    /// Returns which ports of an export are used.
    pub(crate) fn port_use<'a>(
        &self,
        state: &'a ClusterState,
        service: &ServiceName,
    ) -> PortUse<'a> {
        let service = state.services.get(service).map(|service| &**service);
        PortUse { service, creates_service: self.create_service, named: self.named }
    }

    /// Returns the export as its cluster announces it; `None` if the cluster cannot be heard now, or
    /// does not export it.
    pub(crate) fn peer_export<'a>(
        &self,
        peers: &'a LinkedClusters,
        service: &ServiceName,
    ) -> Option<&'a PeerExport> {
        peers.live_view(&self.from)?.exports.get(service).map(|export| &**export)
    }
}

/// All imports by Service, and what annotations ask for without permission.
#[derive(Debug, Default)]
pub(crate) struct ImportDecisions {
    pub(crate) all: BTreeMap<ServiceName, WantedImport>,
    pub(crate) refused: BTreeMap<ServiceName, String>,
    /// Services that may be imported as soon as it is known that nobody here serves them.
    pub(crate) candidates: BTreeSet<ServiceName>,
    /// Services that we made and that stay for now, imported or not.
    pub(crate) stubs: BTreeSet<ServiceName>,
    /// Exports beyond a cluster's budget.
    pub(crate) left_out: BTreeMap<ClusterName, OmittedImports>,
    /// Exports that nothing here imports: a sentence per cluster that says how to import them.
    pub(crate) unused: BTreeMap<ClusterName, String>,
    /// When to decide again though nothing changes.
    pub(crate) wake: Option<Instant>,
    /// Services of opened namespaces that a linked cluster exports and that are imported only by
    /// name, with the reason.
    pub(crate) only_by_name: BTreeMap<ServiceName, ConditionVerdict>,
}

/// Input of a decision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImportFacts<'a> {
    pub(crate) config: &'a ClusterConfig,
    pub(crate) state: &'a ClusterState,
    pub(crate) peers: &'a LinkedClusters,
    /// The Services of this cluster that somebody wants to export.
    pub(crate) exported: &'a BTreeMap<ServiceName, ExportOrigin>,
    pub(crate) at: Instant,
    pub(crate) clock: Timestamp,
}
