//! The vocabulary of exports: what is asked for, by whom, and what becomes of it.

use std::collections::{BTreeMap, BTreeSet};

use adit_config::cluster::{AliasPorts, AppProtocols, ExportAlias, ExportRule};
use adit_core::name::ServiceName;
use adit_core::policy::Grant;

use crate::api::{self, ExportSpec};
use crate::controller::cluster_state::ClusterState;
use crate::controller::conditions::ConditionVerdict;

/// An export, as its object should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResolvedExport {
    pub(crate) spec: ExportSpec,
    pub(crate) verdict: ConditionVerdict,
    /// The Service of this cluster.
    pub(crate) backend: ServiceName,
    /// True if this cluster is to have a Service of the exported name, too.
    pub(crate) make_alias: bool,
}

/// All exports by the name that other clusters know; what else Services ask for, by their own names:
/// without permission, under a name that another export has, and beyond a limit.
#[derive(Default)]
pub(crate) struct ExportDecisions {
    pub(crate) all: BTreeMap<ServiceName, ResolvedExport>,
    pub(crate) refused: BTreeMap<ServiceName, String>,
    pub(crate) name_taken: BTreeMap<ServiceName, String>,
    pub(crate) left_out: BTreeMap<ServiceName, String>,
}

impl ExportDecisions {
    /// True if an Export stays as it is though nobody is known to want it, because its Agent cannot
    /// be read.
    pub(crate) fn keeps_stored(&self, state: &ClusterState, stored: &api::Export) -> bool {
        let (service, backend) = (stored.spec.service.parse(), stored.spec.backend().parse());
        service.is_ok_and(|s| !self.all.contains_key(&s))
            && backend.is_ok_and(|s| state.is_undecided(&s))
    }
}

/// Source of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExportOrigin {
    /// By name in the configuration.
    Named,
    /// By labels or an annotation.
    Implied,
}

/// A Service that somebody wants to export.
pub(crate) struct ExportOffer {
    pub(crate) origin: ExportOrigin,
    /// The Service of this cluster.
    pub(crate) backend: ServiceName,
    /// Its name and port numbers for other clusters, if they are not its own.
    pub(crate) alias: Option<ExportAlias>,
    pub(crate) make_alias: bool,
    pub(crate) allow: Vec<Grant>,
    pub(crate) protocols: AppProtocols,
    /// The rule that names or selects it.
    pub(crate) rule: Option<ExportRule>,
    /// Problems of its annotations.
    pub(crate) trouble: Option<String>,
}

impl ExportOffer {
    /// Returns the offer that a rule makes of a Service.
    pub(crate) fn from_rule(
        rule: &ExportRule,
        service: &ServiceName,
        origin: ExportOrigin,
    ) -> Self {
        Self {
            origin,
            backend: service.clone(),
            alias: rule.alias.clone(),
            make_alias: rule.make_alias,
            allow: rule.allow.clone(),
            protocols: rule.app_protocol.clone(),
            rule: Some(rule.clone()),
            trouble: None,
        }
    }

    /// Returns the name for other clusters.
    pub(crate) fn exported_name(&self) -> &ServiceName {
        self.alias.as_ref().map_or(&self.backend, |alias| &alias.service)
    }

    /// Gives the ports of the Service the numbers of the alias.
    ///
    /// # Errors
    /// If the alias does not fit the ports.
    pub(crate) fn renumber(
        &self,
        mut ports: Vec<api::ExportPort>,
    ) -> Result<Vec<api::ExportPort>, ConditionVerdict> {
        let service = &self.backend;
        let wrong = |why: String| Err(ConditionVerdict::bad("BadAlias", why));
        match self.alias.as_ref().map_or(&AliasPorts::Own, |alias| &alias.ports) {
            AliasPorts::Own => return Ok(ports),
            AliasPorts::Only(number) => match &mut ports[..] {
                [only] => only.number = *number,
                several => {
                    return wrong(format!(
                        "{service} has {} TCP ports, and its alias gives one number: give each its own, as \
                         NAMESPACE/NAME:PORTNAME=PORT,…",
                        several.len()
                    ));
                }
            },
            AliasPorts::Named(numbers) => {
                for (name, number) in numbers {
                    let port = ports.iter_mut().find(|port| port.name == name.as_str());
                    let Some(port) = port else {
                        return wrong(format!(
                            "{service} has no TCP port of the name {name}, which its alias gives number {number}"
                        ));
                    };
                    port.number = *number;
                }
            }
        }
        let mut seen = BTreeSet::new();
        match ports.iter().find(|port| !seen.insert(port.number)) {
            Some(twice) => {
                wrong(format!("the alias of {service} gives two ports the number {}", twice.number))
            }
            None => Ok(ports),
        }
    }
}
