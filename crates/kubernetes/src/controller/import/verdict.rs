//! The verdict about an import: what prevents it here, and whether the other side serves it.

use std::collections::BTreeMap;
use std::sync::Arc;

use adit_config::cluster::NetworkMode;
use adit_core::name::{ClusterName, ServiceName};
use adit_core::policy::WorkloadPattern;
use adit_core::snapshot::PeerExport;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointPort;

use super::subject::PlannedImport;
use super::withdrawn::was_ready;
use crate::api::{Condition, Import, ObjectStatus};
use crate::controller::cluster_state::is_ours;
use crate::controller::conditions::{self, ConditionVerdict};
use crate::controller::debounce::Debounced;
use crate::controller::link::denied_verdict;
use crate::controller::node_reports;
use crate::controller::plan::{WritePlan, service_reference};
use crate::service;

/// Readiness of each import, kept from one plan to the next.
pub(crate) type ReadinessHistory = BTreeMap<(ServiceName, ClusterName), Debounced>;

impl PlannedImport<'_> {
    /// Returns the verdict about the other side; `None` if nobody reports and there is a verdict
    /// already.
    pub(crate) fn verdict(
        &self,
        history: &mut ReadinessHistory,
        plan: &mut WritePlan,
    ) -> Option<ConditionVerdict> {
        let (service, from) = (self.service, &self.want.from);
        if let Some(verdict) = denied_verdict(self.input.config, from) {
            history.remove(&(service.clone(), from.clone()));
            return Some(verdict);
        }
        let before = self.condition_before();
        let peers = self.input.peers;
        let export = self.peer_export();
        let ready =
            export.map(|export| peers.live_view(from).is_some_and(|view| view.is_served(export)));
        // If nobody reports anything of the cluster, that says nothing about it, unless all nodes say that they
        // cannot reach it: after a start of all of them none has a view that it could have lost.
        let observed = peers.observed(from);
        let unreachable =
            || peers.reporting && node_reports::all_nodes_down(self.input, from.as_str()).is_some();
        let seen = match observed {
            Some(_) => Some(ready == Some(true)),
            None => unreachable().then_some(false),
        };
        let debounced = history
            .entry((service.clone(), from.clone()))
            .or_insert_with(|| Debounced::new(before.is_some_and(|c| c.status == "True")));
        plan.wake_at(debounced.observe(seen, self.input.at));
        if debounced.value() {
            if let Some(message) = export.and_then(|export| self.why_grants_miss(export)) {
                plan.warn(service_reference(self.state, service), "NobodyAllowed", &message);
                return Some(ConditionVerdict::bad("NobodyAllowed", message));
            }
            return Some(ConditionVerdict::good("Ready", format!("{from} serves {service}")));
        }
        if seen.is_none() {
            let verdict = if peers.reporting {
                ConditionVerdict::bad("LinkDown", format!("no node of ours has heard {from} yet"))
            } else {
                ConditionVerdict::bad("NotReporting", "no node of ours has told what it hears yet")
            };
            return before.is_none_or(|c| c.reason == "NotReporting").then_some(verdict);
        }
        let is_live = observed.is_some_and(|observed| observed.live);
        Some(self.why_not_ready(is_live, export, plan))
    }

    /// Returns the condition as it is stored for this very import.
    fn condition_before(&self) -> Option<&Condition> {
        let is_same = |import: &&Arc<Import>| {
            import.spec.released_at.is_none() && import.spec.from == self.want.from.as_str()
        };
        let stored = self.stored.filter(is_same)?;
        conditions::find(ObjectStatus::conditions(stored.status.as_ref()), "Ready")
    }

    /// Returns the reason why the other side does not serve the import.
    fn why_not_ready(
        &self,
        is_live: bool,
        export: Option<&PeerExport>,
        plan: &mut WritePlan,
    ) -> ConditionVerdict {
        let (service, from) = (self.service, &self.want.from);
        match (is_live, export) {
            (false, _) => {
                ConditionVerdict::bad("LinkDown", format!("no node of ours hears {from}"))
            }
            (true, None) if self.stored.is_some_and(|import| was_ready(import)) => {
                let message = format!(
                    "{from} has withdrawn its export of {service}, which was served here: `adit export` there offers it \
                     again, and `kubectl delete import {}` here says that it is wanted no longer",
                    self.name
                );
                plan.warn(service_reference(self.state, service), "Withdrawn", &message);
                ConditionVerdict::bad("Withdrawn", message)
            }
            (true, None) => ConditionVerdict::bad(
                "NotExported",
                format!("{from} does not export {service} to us"),
            ),
            (true, Some(export)) => {
                // Of several ports the first: none of them has a backend.
                let Some(port) = export.ports.first() else {
                    let message = format!("{from} has no ready backend of {service}");
                    return ConditionVerdict::bad("NoBackend", message);
                };
                let reason = port.why_unready().refusal_reason();
                ConditionVerdict::bad(reason, port.unready_sentence(service, from))
            }
        }
    }

    /// Returns what prevents the import here, whatever the other side does.
    pub(crate) fn local_obstacle(
        &self,
        stub: Option<&Arc<Service>>,
        filled: &[EndpointPort],
    ) -> Option<ConditionVerdict> {
        let (service, from) = (self.service, &self.want.from);
        if !self.input.config.links.iter().any(|l| l.cluster == *from) {
            return Some(ConditionVerdict::bad("NotLinked", format!("there is no link to {from}")));
        }
        let makes = self.want.create_service && stub.is_none_or(|stub| is_ours(stub));
        if let Some(why) = self.why_unfit().filter(|_| makes) {
            let message = format!("no Service can be made as {from} exports {service}: {why}");
            return Some(ConditionVerdict::bad("BadExport", message));
        }
        let Some(stub) = stub else {
            if !self.state.namespaces.contains(service.namespace.as_str()) {
                let message = format!("there is no namespace {}", service.namespace);
                return Some(ConditionVerdict::bad("NoNamespace", message));
            }
            // Without its ports no Service can be created; the verdict about the other side is the
            // reason then.
            let waits = self.want.create_service && self.ports.used.is_empty();
            if self.leaves_service_to_kagent() {
                let message = self.without_kagents_service();
                return Some(ConditionVerdict::bad("NoService", message));
            }
            let message = format!(
                "there is no Service {service}: apply it, or `adit import {service} --from {from}` has it made"
            );
            return (!waits).then(|| ConditionVerdict::bad("NoService", message));
        };
        if let Some(why) = service::why_unfillable(stub) {
            let message = format!("{service} cannot stand for an import: {why}");
            return Some(ConditionVerdict::bad("UnsupportedService", message));
        }
        if let Some(by) = self.displaced_by() {
            return Some(self.displaced_verdict(&by));
        }
        if self.allocation.exhausted {
            return Some(match self.input.config.network.mode {
                NetworkMode::LocalRange => ConditionVerdict::bad(
                    "AddressesExhausted",
                    "no address of the node-local range is free (network.range, range6)",
                ),
                NetworkMode::NodeAddress => ConditionVerdict::bad(
                    "PortsExhausted",
                    "no port is free between network.listenerPort and the NodePorts",
                ),
            });
        }
        let offers = self.peer_export().is_some_and(|export| !export.ports.is_empty());
        if filled.is_empty() && offers {
            let message = format!("{service} has no port that {from} exports, by name or number");
            return Some(ConditionVerdict::bad("NoMatchingPort", message));
        }
        None
    }

    /// Describes that kagent has made no Service.
    fn without_kagents_service(&self) -> String {
        let is_gone = self.stored.is_some_and(|import| was_ready(import));
        let what = if is_gone {
            "which was served here, is gone, and kagent has not made it again"
        } else {
            "is not there: kagent has not made it yet"
        };
        format!(
            "Service {} {what} of its Agent, so that callers find no address: the Agent's conditions and kagent's log \
             say why",
            self.service
        )
    }

    /// Returns the verdict for a Service with somebody else's endpoints. They may have come after
    /// ours, and nobody has said that they are meant, so the verdict stays until somebody does.
    fn displaced_verdict(&self, by: &str) -> ConditionVerdict {
        let (service, from) = (self.service, &self.want.from);
        let remedy = if self.want.named {
            format!("`adit import {service} --remove`")
        } else {
            format!("`kubectl delete import.adit.dev {}`", self.name)
        };
        let slice = by.strip_prefix("EndpointSlice ").and_then(|rest| rest.split(' ').next());
        let delete = slice.map_or_else(String::new, |slice| {
            format!(" (`kubectl -n {} delete endpointslice {slice}`)", service.namespace)
        });
        let message = format!(
            "{service} has endpoints of its own, ready or not: {by}; so {from} does not serve it. Delete them{delete}, or \
             say that this is meant, and give the import up: {remedy}"
        );
        ConditionVerdict::bad("ServiceHasOwnEndpoints", message)
    }

    /// Adds to a verdict that somebody else's endpoints are on their way out.
    pub(crate) fn beside_leaving(&self, mut verdict: ConditionVerdict) -> ConditionVerdict {
        if let Some(slice) = self.state.leaving.get(self.service) {
            let from = &self.want.from;
            let more = format!("; {slice} is on its way out and serves only while {from} does not");
            verdict.message.push_str(&more);
        }
        verdict
    }

    /// Returns the reason why no workload may use the import: those allowed here are none of those
    /// granted there. Includes the command that corrects it.
    fn why_grants_miss(&self, export: &PeerExport) -> Option<String> {
        let pattern = |allowed| WorkloadPattern::try_from(allowed).ok();
        let own_grants: Vec<WorkloadPattern> = self.want.allow.iter().filter_map(pattern).collect();
        if own_grants
            .iter()
            .any(|own_grant| export.grants.iter().any(|peer_grant| own_grant.overlaps(peer_grant)))
        {
            return None;
        }
        let list = |patterns: &[WorkloadPattern]| match patterns {
            [] => "nobody".to_owned(),
            some => some.iter().take(5).map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let (service, from) = (self.service, &self.want.from);
        Some(format!(
            "nobody may use {service}: here it is for {}, and {from} grants it to {}; \
             `adit import {service} --from {from} --allow NAMESPACE/SERVICEACCOUNT` says whom it is for, and \
             `adit export {service} --allow` there whom it is granted to",
            list(&own_grants),
            list(&export.grants),
        ))
    }
}
