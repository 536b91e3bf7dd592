//! `imports` and `importCallers`: Services of linked clusters that can be used here, and by whom.

use adit_core::policy::WorkloadPattern;

use super::super::cross_refs::CrossRefs;
use super::super::{each, services};
use crate::cluster::{ClusterLink, ImportRule, NamePattern, NamespaceCallers};
use crate::problem::{ProblemKind, ValueProblem};
use crate::reader::{MapReader, ValueReader};
use crate::value;

/// Workloads that may use whatever is imported from a cluster, or into namespaces.
pub(super) fn also_allow(item: &ValueReader<'_>) -> Option<Vec<WorkloadPattern>> {
    let items = item.list()?;
    let (count, most) = (items.len(), ClusterLink::MAX_ALSO_ALLOW);
    if count > most {
        let message = format!("expected at most {most} entries, found {count}");
        let hint = "a pattern with \"*\" stands for several".to_owned();
        item.error(ValueProblem::new(ProblemKind::OutOfRange, message).hint(hint));
        return None;
    }
    each(items, |item| services::workloads_entry(&item))
}

pub(super) fn import(item: &ValueReader<'_>, refs: &mut CrossRefs) -> Option<ImportRule> {
    let mut fields = item.fields()?;
    let service = services::service(&mut fields).map(|(service, item)| {
        refs.imported.claim(Some((&item, &service)), "the import of");
        service
    });
    let from = services::exporting_cluster(&mut fields, refs);
    let allow = match fields.optional("allow") {
        None => Some(None),
        Some(item) => services::workload_patterns(&item).map(Some),
    };
    let create = fields.optional("createService").map_or(Some(true), |item| item.boolean());
    let agent = match fields.optional("kagentAgent") {
        None => Some(None),
        Some(item) => item.value(description).map(Some),
    };
    fields.finish();
    Some(ImportRule {
        service: service?,
        from: from?,
        allow: allow?,
        create_service: create?,
        agent: agent?,
    })
}

/// The description of an Agent, which a model reads.
fn description(text: &str) -> Result<String, ValueProblem> {
    let (count, most) = (text.chars().count(), ImportRule::MAX_DESCRIPTION);
    if (1..=most).contains(&count) && !text.trim().is_empty() {
        return Ok(text.to_owned());
    }
    let message = format!("expected a description of 1 to {most} characters, found {count}");
    Err(ValueProblem::new(ProblemKind::OutOfRange, message))
}

/// An entry of `importCallers`.
pub(super) fn import_callers(item: &ValueReader<'_>) -> Option<NamespaceCallers> {
    let mut fields = item.fields()?;
    let namespaces = namespaces(&mut fields);
    let allow = fields.required("allow", "a list of {namespace, serviceAccount}");
    fields.finish();
    let allow = also_allow(&allow?);
    Some(NamespaceCallers { namespaces: namespaces?, allow: allow? })
}

/// `namespaces`, of which there has to be one.
pub(super) fn namespaces(fields: &mut MapReader<'_>) -> Option<Vec<NamePattern>> {
    let list = fields.required("namespaces", "a list of names, or of patterns with \"*\"")?;
    let items = list.one_or_more()?;
    if items.is_empty() {
        list.error(ValueProblem::new(ProblemKind::MissingKey, "expected at least one namespace"));
    }
    each(items, |item| item.value(value::name))
}
