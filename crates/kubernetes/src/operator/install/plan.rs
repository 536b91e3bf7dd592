//! Comparison of the manifests with a cluster: what applying them would change, and what is in the way.
//!
//! Each object is applied as a dry run, so that the server itself says what would become of it, with its defaults and with
//! the fields that others hold. Nothing is changed.

use std::collections::BTreeSet;

use adit_core::text::count_noun;
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DynamicObject, Patch, PatchParams, ValidationDirective};
use serde_json::Value;

use super::error::InstallError;
use super::manifests::ManifestObject;
use crate::api::NAMESPACE;
use crate::operator::context::{Context, ContextError};

/// Field manager of the manifests, as the API server records it: another than that of the commands which write keys
/// of the ConfigMap, whose fields the manifests therefore never touch.
pub const INSTALL_MANAGER: &str = "adit-install";
/// The label that every object of the manifests has.
const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "adit");
/// Number of objects that are compared at a time.
const MAX_CONCURRENT: usize = 8;
/// Number of differences that are told of one object.
const MAX_DIFFERENCES: usize = 12;
/// Longest value that is told, in characters.
const MAX_VALUE_CHARS: usize = 60;

/// The change of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestChange {
    /// The object is not there yet.
    Create,
    /// The object is there, and some fields become others: each as `PATH: OLD → NEW`.
    Update(Vec<String>),
    /// The object is there as it should be.
    Keep,
}

/// An object with its change.
#[derive(Debug, Clone)]
pub struct PlannedManifest {
    /// The object.
    pub object: ManifestObject,
    /// Its change.
    pub change: ManifestChange,
    /// True if it is there, and its pods are replaced by others.
    pub replaces_pods: bool,
    /// True if it is taken over from others, either because somebody said so, or because nothing of it becomes another.
    pub(super) force: bool,
    /// Resource version that the change was computed from; `None` if the object is to be created.
    pub(super) version: Option<String>,
}

/// The changes of a cluster.
#[derive(Debug, Clone)]
pub struct InstallPlan {
    /// All objects, in the order in which they are applied.
    pub objects: Vec<PlannedManifest>,
}

/// Result of looking at one object.
enum Comparison {
    Planned(PlannedManifest),
    Taken(String),
    Conflicts(Vec<String>),
}

impl InstallPlan {
    /// Returns the number of objects that are created, and of those that are changed.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let count = |is: fn(&ManifestChange) -> bool| {
            self.objects.iter().filter(|planned| is(&planned.change)).count()
        };
        (
            count(|change| matches!(change, ManifestChange::Create)),
            count(|change| matches!(change, ManifestChange::Update(_))),
        )
    }

    /// Describes how many objects are created and changed.
    #[must_use]
    pub fn describe_counts(&self) -> String {
        let count = |count: usize| count_noun(u64::try_from(count).unwrap_or(u64::MAX), "object");
        match self.counts() {
            (0, 0) => "nothing is created or changed".to_owned(),
            (created, 0) => format!("{} created", count(created)),
            (0, changed) => format!("{} changed", count(changed)),
            (created, changed) => format!("{} created, {changed} changed", count(created)),
        }
    }

    /// Returns whether pods are replaced that run.
    #[must_use]
    pub fn replaces_pods(&self) -> bool {
        self.objects.iter().any(|planned| planned.replaces_pods)
    }

    /// Returns whether nothing is created or changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts() == (0, 0)
    }
}

/// Computes the changes that applying `objects` makes. With `force`, fields of others and objects of the same names
/// are taken over.
///
/// # Errors
/// If names are taken or fields are held by others, and `force` is not set; if the server refuses.
pub async fn plan(
    context: &Context,
    objects: Vec<ManifestObject>,
    force: bool,
) -> Result<InstallPlan, InstallError> {
    let namespace = context.cluster_api::<Namespace>().get_opt(NAMESPACE).await;
    let namespace = namespace.map_err(context.request_error("read namespace adit-system"))?;
    if namespace.as_ref().is_some_and(|one| one.metadata.deletion_timestamp.is_some()) {
        return Err(InstallError::BeingRemoved { context: context.name.clone() });
    }
    let has_namespace = namespace.is_some();
    let compared = stream::iter(objects).map(async |object| {
        if object.kind.is_namespaced && !has_namespace {
            return Ok(Comparison::Planned(created(object)));
        }
        compare(context, object, force).await
    });
    let compared: Vec<_> = compared.buffered(MAX_CONCURRENT).try_collect().await?;
    let (mut planned, mut taken, mut fields) = (Vec::new(), Vec::new(), BTreeSet::new());
    for one in compared {
        match one {
            Comparison::Planned(one) => planned.push(one),
            Comparison::Taken(name) => taken.push(name),
            Comparison::Conflicts(found) => fields.extend(found),
        }
    }
    let context = context.name.clone();
    if !taken.is_empty() {
        return Err(InstallError::NameTaken { context, objects: taken });
    }
    if !fields.is_empty() {
        let fields = fields.into_iter().collect();
        return Err(InstallError::FieldConflict { context, fields });
    }
    Ok(InstallPlan { objects: planned })
}

fn created(object: ManifestObject) -> PlannedManifest {
    let change = ManifestChange::Create;
    PlannedManifest { object, change, replaces_pods: false, force: false, version: None }
}

async fn compare(
    context: &Context,
    object: ManifestObject,
    force: bool,
) -> Result<Comparison, InstallError> {
    let found = object.kind.api(context).get_opt(&object.name).await;
    let found = found.map_err(context.request_error(&format!("read {}", object.shown())))?;
    let after = apply_object(context, &object, None, force, true).await;
    let Some(found) = found else {
        after.map_err(refusal(context, &object))?;
        return Ok(Comparison::Planned(created(object)));
    };
    // Others may have their own objects in the cluster; in Adit's namespace every such name is Adit's.
    if !force && !object.kind.is_namespaced && !is_part_of_adit(&found) {
        return Ok(Comparison::Taken(object.shown()));
    }
    let conflicts = after.as_ref().err().and_then(|error| field_conflicts(&object, error));
    let after = match conflicts {
        // Who installed by other means holds fields that stay as they are.
        Some(_) => apply_object(context, &object, None, true, true).await,
        None => after,
    };
    let after = after.map_err(refusal(context, &object))?;
    let change = describe_change(&found, &after);
    if let (Some(fields), false) = (&conflicts, change == ManifestChange::Keep) {
        return Ok(Comparison::Conflicts(fields.clone()));
    }
    let template = |object: &DynamicObject| object.data.pointer("/spec/template").cloned();
    Ok(Comparison::Planned(PlannedManifest {
        replaces_pods: template(&found) != template(&after),
        force: force || conflicts.is_some(),
        version: found.metadata.resource_version,
        object,
        change,
    }))
}

/// Returns whether an object has the label of the manifests.
pub(super) fn is_part_of_adit(object: &DynamicObject) -> bool {
    let labels = object.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(PART_OF.0)).is_some_and(|value| value == PART_OF.1)
}

/// Applies one object on the server's side; with `is_dry` the server only says what would become of it. With a
/// `version`, only if the object is still of that version.
pub(super) async fn apply_object(
    context: &Context,
    object: &ManifestObject,
    version: Option<&str>,
    force: bool,
    is_dry: bool,
) -> Result<DynamicObject, kube::Error> {
    let parameters = PatchParams {
        dry_run: is_dry,
        force,
        field_manager: Some(INSTALL_MANAGER.to_owned()),
        field_validation: Some(ValidationDirective::Strict),
    };
    let mut value = object.value.clone();
    if let Some(version) = version {
        value["metadata"]["resourceVersion"] = version.into();
    }
    object.kind.api(context).patch(&object.name, &parameters, &Patch::Apply(&value)).await
}

/// Returns a function that says of a request's error which object was refused.
pub(super) fn refusal(
    context: &Context,
    object: &ManifestObject,
) -> impl FnOnce(kube::Error) -> ContextError + use<> {
    context.request_error(&format!("apply {}", object.shown()))
}

/// Returns the fields that others hold, if that is why an object was refused.
pub(super) fn field_conflicts(object: &ManifestObject, error: &kube::Error) -> Option<Vec<String>> {
    let kube::Error::Api(status) = error else { return None };
    let causes = status.details.as_ref().map(|details| &details.causes)?;
    let conflicts = causes.iter().filter(|cause| cause.reason == "FieldManagerConflict");
    let shown = |cause: &kube::core::response::StatusCause| {
        format!("{}: {} ({})", object.shown(), cause.field.trim_start_matches('.'), cause.message)
    };
    let fields: Vec<_> = conflicts.map(shown).collect();
    (!fields.is_empty()).then_some(fields)
}

/// Describes the difference between an object and what would become of it.
pub(super) fn describe_change(before: &DynamicObject, after: &DynamicObject) -> ManifestChange {
    let mut found = Vec::new();
    differences("", &comparable(before), &comparable(after), &mut found);
    if found.is_empty() {
        return ManifestChange::Keep;
    }
    let more = found.len().saturating_sub(MAX_DIFFERENCES);
    if more > 0 {
        found.truncate(MAX_DIFFERENCES);
        found.push(format!("and {more} fields more"));
    }
    ManifestChange::Update(found)
}

/// Returns an object without what the server writes by itself.
fn comparable(object: &DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(whole) = value.as_object_mut() {
        whole.remove("status");
    }
    if let Some(metadata) = value["metadata"].as_object_mut() {
        for key in ["managedFields", "resourceVersion", "generation", "creationTimestamp", "uid"] {
            metadata.remove(key);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("deprecated.daemonset.template.generation");
        }
    }
    value
}

fn differences(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let dot = if path.is_empty() { "" } else { "." };
                let absent = Value::Null;
                differences(
                    &format!("{path}{dot}{key}"),
                    old.get(key).unwrap_or(&absent),
                    new.get(key).unwrap_or(&absent),
                    found,
                );
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                let name = new["name"].as_str().map_or_else(|| index.to_string(), str::to_owned);
                differences(&format!("{path}[{name}]"), old, new, found);
            }
        }
        (old, new) if old != new => {
            found.push(format!("{path}: {} → {}", shown_value(old), shown_value(new)));
        }
        _ => {}
    }
}

fn shown_value(value: &Value) -> String {
    let text = match value {
        Value::Null => return "nothing".to_owned(),
        Value::String(text) => text.clone(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            other.to_string()
        }
    };
    let mut shown: String = text.chars().take(MAX_VALUE_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
