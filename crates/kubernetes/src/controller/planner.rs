//! Makes the plan: a function of the cluster's state, of the input of this pass, and of what earlier passes left.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ObjectReference;

use super::cluster_state::ClusterState;
use super::export::{self, ExportDecisions, ExportHistory};
use super::import::{self, ImportDecisions, ImportFacts, ImportHistory, ReadinessHistory};
use super::link::{self, LinkHistory};
use super::network_migration::MigrationPhase;
use super::node_reports::WordedTimes;
use super::plan::{
    ObjectChange, ObjectWarning, PlanInput, PlannedWrite, WritePlan, service_reference,
};

/// Most warnings with the same reason that one namespace gets: its tenants can cause as many as
/// they like, and those of others wait behind them.
const MAX_SIMILAR_WARNINGS: usize = 20;

/// State that is kept from one plan to the next.
#[derive(Debug, Default)]
pub(super) struct PlanHistory {
    decisions: ImportHistory,
    imports: ReadinessHistory,
    exports: ExportHistory,
    links: LinkHistory,
    /// When conditions about nodes' reports were last worded.
    worded: WordedTimes,
}

/// Makes the plan.
pub(super) fn make_plan(
    state: &ClusterState,
    input: &PlanInput<'_>,
    history: &mut PlanHistory,
) -> WritePlan {
    let mut plan = WritePlan::default();
    let exported = export::wanted_exports(input.config, state);
    let facts = ImportFacts {
        config: input.config,
        state,
        peers: input.peers,
        exported: &exported,
        at: input.at,
        clock: input.clock,
    };
    let imports = import::decide(facts, &mut history.decisions);
    plan.wake_at(imports.wake);
    let mut not_ours_to_give: BTreeSet<_> = imports.all.keys().cloned().collect();
    plan.watched = &not_ours_to_give | &imports.candidates;
    not_ours_to_give.extend(state.slices.values().filter_map(|s| ClusterState::service_of(s)));
    let exports = export::decide(input.config, state, &not_ours_to_give);

    history.worded.expire(input.at);
    link::plan_links(state, input, &imports, (&mut history.links, &mut history.worded), &mut plan);
    export::plan_exports(
        state,
        input,
        &exports,
        (&mut history.exports, &mut history.worded),
        &mut plan,
    );
    match input.migration {
        MigrationPhase::Stable | MigrationPhase::Pending => {
            import::plan_imports(
                state,
                input,
                &imports,
                (&mut history.imports, &mut history.worded),
                &mut plan,
            );
        }
        MigrationPhase::Rolling => {
            let all =
                state.slices.values().map(|s| PlannedWrite::Slice(ObjectChange::Delete(s.clone())));
            plan.writes.extend(all);
        }
    }
    warn_of_decisions(&mut plan, state, &exports, &imports);
    plan.trouble = export::describe_left_out(&exports.left_out);
    plan.warnings = limit_warnings(plan.warnings);
    plan
}

/// Warns of everything that is asked for and was decided against.
fn warn_of_decisions(
    plan: &mut WritePlan,
    state: &ClusterState,
    exports: &ExportDecisions,
    imports: &ImportDecisions,
) {
    for (service, why) in &imports.only_by_name {
        // While it is served nobody misses anything.
        if !state.is_served(service) {
            plan.warn(service_reference(state, service), why.reason, &why.message);
        }
    }
    for (service, why) in exports.refused.iter().chain(&imports.refused) {
        plan.warn(service_reference(state, service), "NotPermitted", why);
    }
    for (service, why) in &exports.name_taken {
        plan.warn(service_reference(state, service), "NameTaken", why);
    }
    for (service, why) in &exports.left_out {
        plan.warn(service_reference(state, service), "TooManyExports", why);
    }
}

/// Keeps at most [`MAX_SIMILAR_WARNINGS`] warnings of each namespace and reason, and adds one that says how
/// many there are.
fn limit_warnings(all: Vec<ObjectWarning>) -> Vec<ObjectWarning> {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut few = Vec::new();
    for warning in all {
        let namespace = warning.about.namespace.clone().unwrap_or_default();
        let count = counts.entry((namespace, warning.reason.clone())).or_default();
        *count += 1;
        if *count <= MAX_SIMILAR_WARNINGS || warning.about.namespace.is_none() {
            few.push(warning);
        }
    }
    for ((namespace, reason), count) in counts {
        if namespace.is_empty() || count <= MAX_SIMILAR_WARNINGS {
            continue;
        }
        let note = format!(
            "{reason} is said of {count} objects in namespace {namespace}: {MAX_SIMILAR_WARNINGS} of them are told, each by itself"
        );
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Namespace".into()),
            namespace: Some(namespace.clone()),
            name: Some(namespace),
            ..ObjectReference::default()
        };
        few.push(ObjectWarning { about, reason, cause: None, note });
    }
    few
}
