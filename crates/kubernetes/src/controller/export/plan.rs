//! Plans Export objects: one for each Service that somebody wants to export.

use std::collections::BTreeSet;
use std::sync::Arc;

use adit_core::name::ServiceName;

use super::alias_service::{plan_alias, plan_removals};
use super::offer::{ExportDecisions, ResolvedExport};
use super::readiness::{ExportHistory, ExportVerdict};
use crate::api::{Export, ObjectStatus};
use crate::controller::cluster_state::ClusterState;
use crate::controller::conditions::{self, ConditionVerdict};
use crate::controller::node_reports::{self, WordedTimes};
use crate::controller::plan::{
    ObjectChange, PlanInput, PlannedWrite, WritePlan, service_reference,
};
use crate::ownership::owned_metadata;
use crate::service::selector_text;

/// Condition about its backends.
const READY: &str = "Ready";

pub(crate) fn plan_exports(
    state: &ClusterState,
    input: &PlanInput<'_>,
    exports: &ExportDecisions,
    (history, worded): (&mut ExportHistory, &mut WordedTimes),
    plan: &mut WritePlan,
) {
    let mut named = BTreeSet::new();
    for (service, resolved) in &exports.all {
        let name = resolved.spec.service.object_name();
        let about = || service_reference(state, &resolved.backend);
        let linked = linked_verdict(service, resolved, input);
        let alias = plan_alias((state, input), service, resolved, plan);
        for verdict in [Some(&resolved.verdict), linked.as_ref(), alias.as_ref()] {
            if let Some(verdict) = verdict.filter(|verdict| !verdict.good) {
                plan.warn(about(), verdict.reason, &verdict.message);
            }
        }
        let refusing = node_reports::refused_callers(input, "export", &service.to_string());
        for (cause, note) in node_reports::refusal_warnings(input, "export", &service.to_string()) {
            plan.warn_of_cause(about(), "CallersRefused", &cause, &note);
        }
        let is_usable =
            !resolved.spec.allow.is_empty() && linked.as_ref().is_none_or(|verdict| verdict.good);
        let backend = state.services.get(&resolved.backend);
        let selector = backend.and_then(|service| selector_text(service));
        let ready = BackendReadiness::assess(
            is_usable,
            state.exports.get(&name),
            (service, selector.as_deref()),
            input,
            history,
            plan,
        );
        if let BackendReadiness::Known(ExportVerdict { verdict, note: Some(note) }) = &ready {
            plan.warn_of_cause(about(), verdict.reason, verdict.reason, note);
        }
        let findings = ExportFindings {
            linked: linked.as_ref(),
            alias: alias.as_ref(),
            refusing: refusing.as_ref(),
            ready: &ready,
        };
        let change = plan_export(state, input, (&name, resolved), &findings, worded, plan);
        plan.writes.extend(change.map(PlannedWrite::Export));
        named.insert(name);
    }
    plan_removals(state, exports, plan);
    history.retain(|service| exports.all.contains_key(service));
    for (name, stored) in &state.exports {
        if !named.contains(name) && !exports.keeps_stored(state, stored) {
            plan.writes.push(PlannedWrite::Export(ObjectChange::Delete(stored.clone())));
        }
    }
}

/// Returns whether every cluster that an export is granted to is linked; `None` if it is granted to
/// none.
fn linked_verdict(
    service: &ServiceName,
    wanted: &ResolvedExport,
    input: &PlanInput<'_>,
) -> Option<ConditionVerdict> {
    let granted: BTreeSet<&str> = wanted.spec.allow.iter().map(|g| g.cluster.as_str()).collect();
    let is_linked =
        |cluster: &&str| input.config.links.iter().any(|l| l.cluster.as_str() == *cluster);
    let (linked, strangers): (Vec<&str>, Vec<&str>) = granted.into_iter().partition(is_linked);
    if strangers.is_empty() {
        let message = || format!("{service} is exported to {}", linked.join(", "));
        return (!linked.is_empty()).then(|| ConditionVerdict::good("Linked", message()));
    }
    let strangers = strangers.join(", ");
    let message = format!(
        "{service} is granted to {strangers}, and there is no link to {strangers}: `adit link` makes one, and \
         `adit export {service} --remove` takes the export back"
    );
    Some(ConditionVerdict::bad("NotLinked", message))
}

/// Findings about an export beside its own verdict.
struct ExportFindings<'a> {
    linked: Option<&'a ConditionVerdict>,
    alias: Option<&'a ConditionVerdict>,
    refusing: Option<&'a ConditionVerdict>,
    ready: &'a BackendReadiness,
}

/// State of an export's backends.
enum BackendReadiness {
    /// Nothing new is known: the condition stays.
    Unknown,
    /// Nobody could use them.
    Unused,
    Known(ExportVerdict),
}

impl BackendReadiness {
    fn assess(
        is_usable: bool,
        stored: Option<&Arc<Export>>,
        (service, selector): (&ServiceName, Option<&str>),
        input: &PlanInput<'_>,
        history: &mut ExportHistory,
        plan: &mut WritePlan,
    ) -> Self {
        if !is_usable {
            return Self::Unused;
        }
        let conditions = ObjectStatus::conditions(stored.and_then(|export| export.status.as_ref()));
        let before = conditions::find(conditions, READY).map(|c| c.status == "True");
        let seen = history.observe(input, (service, selector), before, plan);
        seen.map_or(Self::Unknown, Self::Known)
    }
}

fn plan_export(
    state: &ClusterState,
    input: &PlanInput<'_>,
    (name, wanted): (&str, &ResolvedExport),
    findings: &ExportFindings<'_>,
    worded: &mut WordedTimes,
    plan: &mut WritePlan,
) -> Option<ObjectChange<Export>> {
    let spec = wanted.spec.clone();
    let Some(stored) = state.exports.get(name) else {
        let object = Export {
            metadata: owned_metadata(name, None, state.owner.as_ref()),
            spec,
            status: None,
        };
        return Some(ObjectChange::Create(Box::new(object)));
    };
    if stored.spec != spec {
        return Some(ObjectChange::Replace(Box::new(Export { spec, ..(**stored).clone() })));
    }
    let conditions = ObjectStatus::conditions(stored.status.as_ref());
    let generation = stored.metadata.generation;
    let fresh = conditions::set(conditions, "Valid", &wanted.verdict, generation, &input.time());
    let mut fresh = fresh;
    for (kind, finding) in [("Linked", findings.linked), ("Alias", findings.alias)] {
        fresh = match finding {
            Some(verdict) => conditions::set(&fresh, kind, verdict, generation, &input.time()),
            None => conditions::clear(&fresh, kind),
        };
    }
    let by_nodes = |kind| {
        let object = format!("Export {name}");
        node_reports::ReportedCondition { object, generation, kind, is_vague: false, input }
    };
    let fresh = by_nodes("Refusing").apply(&fresh, findings.refusing, worded, plan);
    let ready = by_nodes(READY);
    let fresh = match findings.ready {
        BackendReadiness::Unknown => fresh,
        BackendReadiness::Unused => ready.apply(&fresh, None, worded, plan),
        BackendReadiness::Known(found) => ready.apply(&fresh, Some(&found.verdict), worded, plan),
    };
    (fresh != conditions).then(|| {
        let status = Some(ObjectStatus { conditions: fresh });
        ObjectChange::Status(Box::new(Export { status, ..(**stored).clone() }))
    })
}
