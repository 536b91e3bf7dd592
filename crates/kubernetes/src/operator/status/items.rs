//! Links, exports and imports with their first problem, as their conditions say.

use std::collections::{BTreeMap, BTreeSet};

use adit_config::cluster::ClusterConfig;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use super::objects::ClusterObjects;
use super::report::StatusItem;
use crate::api::{Condition, ObjectStatus, SLICE_SERVICE};

/// Returns what a condition says that should be true and is not.
fn unless_true(conditions: &[Condition], kind: &str) -> Option<String> {
    match conditions.iter().find(|condition| condition.type_ == kind) {
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(format!("{} ({})", condition.message, condition.reason)),
        None => Some("the controller has said nothing of it yet".to_owned()),
    }
}

/// Returns what a condition says that is false; `None` if there is no such condition.
fn message_if_false(conditions: &[Condition], kind: &str) -> Option<String> {
    let condition = conditions.iter().find(|c| c.type_ == kind && c.status == "False")?;
    Some(format!("{} ({})", condition.message, condition.reason))
}

/// Returns what a condition says that exists only while something is wrong.
fn message_if_true(conditions: &[Condition], kind: &str) -> Option<String> {
    let condition = conditions.iter().find(|c| c.type_ == kind && c.status == "True")?;
    Some(format!("{} ({})", condition.message, condition.reason))
}

/// Returns whether an import is not ready because its link is down.
fn waits_for_link(conditions: &[Condition]) -> bool {
    let condition = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "False");
    condition.is_some_and(|c| c.reason == "LinkDown")
}

/// Returns whether a link is down, for whatever reason.
fn is_down(conditions: &[Condition]) -> bool {
    let condition = conditions.iter().find(|c| c.type_ == "Up" && c.status == "False");
    condition.is_some_and(|c| c.reason != "NotReporting")
}

/// Problem of a declaration without an object.
pub(super) const NOT_TAKEN_UP: &str = "declared, and not taken up by the controller yet";

pub(super) fn link_items(
    config: Option<&ClusterConfig>,
    objects: &ClusterObjects,
) -> Vec<StatusItem> {
    let mut items: BTreeMap<String, StatusItem> = BTreeMap::new();
    for link in &objects.links {
        let conditions = ObjectStatus::conditions(link.status.as_ref());
        let name = link.name_any();
        let problem =
            unless_true(conditions, "Up").or_else(|| message_if_true(conditions, "TooManyImports"));
        // A cluster may export what nobody here wants: that is no problem.
        let unused =
            message_if_true(conditions, "NotImported").map(|message| format!("; {message}"));
        let detail = link.spec.trust_domain.clone() + &unused.unwrap_or_default();
        let is_down = is_down(conditions);
        // Silent nodes are a problem of the cluster as a whole.
        let fallback =
            message_if_true(conditions, "NodesDown").filter(|s| !s.ends_with("(NodesSilent)"));
        items.insert(
            name.clone(),
            StatusItem { is_down, fallback, ..StatusItem::new(name, detail, problem) },
        );
    }
    for link in config.into_iter().flat_map(|config| &config.links) {
        let name = link.cluster.to_string();
        items.entry(name.clone()).or_insert_with(|| {
            let detail = link.trust_domain.to_string();
            StatusItem::new(name, detail, Some(NOT_TAKEN_UP.to_owned()))
        });
    }
    items.into_values().collect()
}

pub(super) fn export_items(
    config: Option<&ClusterConfig>,
    objects: &ClusterObjects,
) -> Vec<StatusItem> {
    let mut items: BTreeMap<String, StatusItem> = BTreeMap::new();
    for export in &objects.exports {
        let name = format!("{}/{}", export.spec.service.namespace, export.spec.service.name);
        let clusters: BTreeSet<_> = export.spec.allow.iter().map(|g| g.cluster.as_str()).collect();
        let clusters: Vec<_> = clusters.into_iter().collect();
        let detail = if clusters.is_empty() {
            "to nobody".into()
        } else {
            format!("to {}", clusters.join(", "))
        };
        let detail = match &export.spec.backend_service {
            Some(backend) => format!("{detail}, from {}/{}", backend.namespace, backend.name),
            None => detail,
        };
        let conditions = ObjectStatus::conditions(export.status.as_ref());
        let differ = conditions.iter().find(|c| c.type_ == "Ready" && c.reason == "NodesDiffer");
        let detail = differ.map_or_else(|| detail.clone(), |c| format!("{detail}; {}", c.message));
        let problem = unless_true(conditions, "Valid")
            .or_else(|| message_if_false(conditions, "Linked"))
            .or_else(|| {
                let said = message_if_false(conditions, "Ready")?;
                let behind = objects.behind.get(&export.name_any());
                Some(behind.map_or_else(|| said.clone(), |behind| format!("{said}; {behind}")))
            })
            .or_else(|| message_if_false(conditions, "Alias"));
        let fallback = message_if_true(conditions, "Refusing");
        items.insert(
            name.clone(),
            StatusItem { fallback, ..StatusItem::new(name, detail, problem) },
        );
    }
    for rule in config.into_iter().flat_map(|config| &config.exports) {
        let Some(name) = rule.exported_name().map(ToString::to_string) else { continue };
        items
            .entry(name.clone())
            .or_insert_with(|| StatusItem::new(name, String::new(), Some(NOT_TAKEN_UP.to_owned())));
    }
    items.into_values().collect()
}

/// Returns whether callers of an import are refused for a reason that a link which is down explains.
fn refuses_for_link(conditions: &[Condition]) -> bool {
    let refusing = conditions.iter().find(|c| c.type_ == "Refusing" && c.status == "True");
    refusing.is_some_and(|c| matches!(&*c.reason, "LinkDown" | "OpenTimeout" | "Refused"))
}

pub(super) fn import_items(
    config: Option<&ClusterConfig>,
    objects: &ClusterObjects,
) -> Vec<StatusItem> {
    let mut items: BTreeMap<String, StatusItem> = BTreeMap::new();
    for import in objects.imports.iter().filter(|import| import.spec.released_at.is_none()) {
        let (namespace, name) = (&import.spec.service.namespace, &import.spec.service.name);
        let of_it = |slice: &&EndpointSlice| {
            slice.namespace().as_ref() == Some(namespace)
                && slice.labels().get(SLICE_SERVICE) == Some(name)
        };
        let slices: Vec<_> = objects.slices.iter().filter(of_it).collect();
        let ready = |slice: &&EndpointSlice| {
            let conditions = slice.endpoints.iter().filter_map(|e| e.conditions.as_ref());
            conditions.into_iter().any(|c| c.ready == Some(true))
        };
        let conditions = ObjectStatus::conditions(import.status.as_ref());
        let problem = unless_true(conditions, "Ready").or_else(|| {
            if slices.is_empty() {
                Some(format!(
                    "ready, and its Service {namespace}/{name} has no EndpointSlice of ours"
                ))
            } else if !slices.iter().any(ready) {
                Some("ready, and its EndpointSlice says it is not".to_owned())
            } else {
                message_if_true(conditions, "Conflict")
            }
        });
        let addresses: BTreeSet<_> =
            slices.iter().flat_map(|s| &s.endpoints).flat_map(|e| &e.addresses).cloned().collect();
        let addresses: Vec<_> = addresses.into_iter().collect();
        let name = format!("{namespace}/{name}");
        let at = match addresses.as_slice() {
            [] => String::new(),
            some => format!(" at {}", some.join(", ")),
        };
        let detail = format!("from {}{at}", import.spec.from);
        let is_down = waits_for_link(conditions);
        let is_refused_by_link = problem.is_none() && refuses_for_link(conditions);
        let fallback = message_if_true(conditions, "Refusing")
            .or_else(|| message_if_true(conditions, "NotServed"));
        let from = Some(import.spec.from.clone());
        let item = StatusItem {
            is_down,
            is_refused_by_link,
            fallback,
            from,
            ..StatusItem::new(name.clone(), detail, problem)
        };
        items.insert(name, item);
    }
    for rule in config.into_iter().flat_map(|config| &config.imports) {
        let name = rule.service.to_string();
        items.entry(name.clone()).or_insert_with(|| {
            StatusItem::new(name, format!("from {}", rule.from), Some(NOT_TAKEN_UP.to_owned()))
        });
    }
    items.into_values().collect()
}
