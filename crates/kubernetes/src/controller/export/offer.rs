//! The vocabulary of exports: what is asked for, by whom, and what becomes of it.

use std::collections::BTreeMap;

use adit_config::cluster::{AppProtocols, ExportRule};
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
}

/// All exports by Service; what annotations ask for without permission; and what exceeds a limit.
#[derive(Default)]
pub(crate) struct ExportDecisions {
    pub(crate) all: BTreeMap<ServiceName, ResolvedExport>,
    pub(crate) refused: BTreeMap<ServiceName, String>,
    pub(crate) left_out: BTreeMap<ServiceName, String>,
}

impl ExportDecisions {
    /// True if an Export stays as it is though nobody is known to want it, because its Agent cannot
    /// be read.
    pub(crate) fn keeps_stored(&self, state: &ClusterState, stored: &api::Export) -> bool {
        let service = stored.spec.service.parse();
        service.is_ok_and(|s| !self.all.contains_key(&s) && state.is_undecided(&s))
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
    pub(crate) allow: Vec<Grant>,
    pub(crate) protocols: AppProtocols,
    /// The rule that names or selects it.
    pub(crate) rule: Option<ExportRule>,
    /// Problems of its annotations.
    pub(crate) trouble: Option<String>,
}

impl ExportOffer {
    /// Returns the offer that a rule makes.
    pub(crate) fn from_rule(rule: &ExportRule, origin: ExportOrigin) -> Self {
        Self {
            origin,
            allow: rule.allow.clone(),
            protocols: rule.app_protocol.clone(),
            rule: Some(rule.clone()),
            trouble: None,
        }
    }
}
