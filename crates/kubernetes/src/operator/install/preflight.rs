//! Questions to a cluster before anything is changed: is its server new enough, and which rights are missing?

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;

use super::error::{InstallError, OLDEST_MINOR};
use super::kinds::ObjectKind;
use super::manifests::ManifestObject;
use crate::api::NAMESPACE;
use crate::operator::context::{Context, ContextError};

/// Number of questions at a time.
const MAX_CONCURRENT: usize = 8;

/// Asks for the server's version.
///
/// # Errors
/// If the server is too old, or cannot be asked.
pub async fn check_server(context: &Context) -> Result<(), InstallError> {
    let version = context.client().apiserver_version().await;
    let version = version.map_err(context.request_error("ask for the server's version"))?;
    if is_new_enough(&version.major, &version.minor) {
        return Ok(());
    }
    Err(InstallError::ServerTooOld { context: context.name.clone(), version: version.git_version })
}

/// Compares a server's version with the oldest that will do. Some servers write a minor version as `33+`.
pub(super) fn is_new_enough(major: &str, minor: &str) -> bool {
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse::<u32>().unwrap_or(0)
    };
    (number(major), number(minor)) >= (1, OLDEST_MINOR)
}

/// A right that is asked for; `name` is empty for all objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct NeededRight {
    verb: &'static str,
    group: String,
    plural: String,
    name: String,
    is_namespaced: bool,
}

impl NeededRight {
    fn of(kind: &ObjectKind, verb: &'static str, name: &str) -> Self {
        Self {
            verb,
            group: kind.group().to_owned(),
            plural: kind.plural.to_owned(),
            name: name.to_owned(),
            is_namespaced: kind.is_namespaced,
        }
    }

    /// Returns the resource as it is written in a role, with its namespace.
    fn resource(&self) -> String {
        let dot = if self.group.is_empty() { "" } else { "." };
        let Self { group, plural, .. } = self;
        let place = if self.is_namespaced { format!(" in {NAMESPACE}") } else { String::new() };
        format!("{plural}{dot}{group}{place}")
    }
}

/// Describes rights that are missing: resources that lack the same verbs together, without the names of objects.
fn describe_missing(missing: &[NeededRight]) -> Vec<String> {
    let mut by_resource: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for right in missing {
        by_resource.entry(right.resource()).or_default().insert(right.verb);
    }
    let mut by_verbs: BTreeMap<Vec<&str>, Vec<String>> = BTreeMap::new();
    for (resource, verbs) in by_resource {
        by_verbs.entry(verbs.into_iter().collect()).or_default().push(resource);
    }
    let describe = |(verbs, resources): (Vec<&str>, Vec<String>)| {
        format!("{} on {}", verbs.join(", "), resources.join(", "))
    };
    by_verbs.into_iter().map(describe).collect()
}

/// Checks the rights for `verbs` on all objects.
///
/// # Errors
/// If any is missing: names them. If the server cannot be asked.
pub async fn check_rights(
    context: &Context,
    objects: &[ManifestObject],
    verbs: &[&'static str],
) -> Result<(), InstallError> {
    let everything = NeededRight {
        verb: "*",
        group: "*".to_owned(),
        plural: "*".to_owned(),
        name: String::new(),
        is_namespaced: false,
    };
    if is_allowed(context, &everything).await? {
        return Ok(());
    }
    let mut needed = BTreeSet::new();
    for ManifestObject { kind, name, .. } in objects {
        for verb in verbs {
            // Rights to create cannot be given by name.
            let name = if *verb == "create" { "" } else { name };
            needed.insert(NeededRight::of(kind, verb, name));
        }
    }
    let answers = stream::iter(needed).map(async |right| {
        let allowed = is_allowed(context, &right).await?;
        Ok::<_, ContextError>((!allowed).then_some(right))
    });
    let missing: Vec<_> = answers.buffered(MAX_CONCURRENT).try_collect().await?;
    let missing: Vec<_> = missing.into_iter().flatten().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = describe_missing(&missing);
    Err(InstallError::MissingRights { context: context.name.clone(), missing })
}

async fn is_allowed(context: &Context, right: &NeededRight) -> Result<bool, ContextError> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: some(&right.group),
                resource: some(&right.plural),
                verb: some(right.verb),
                name: some(&right.name),
                namespace: right.is_namespaced.then(|| NAMESPACE.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews = context.cluster_api::<SelfSubjectAccessReview>();
    let answer = reviews.create(&PostParams::default(), &review).await;
    let answer = answer.map_err(context.request_error("ask which rights its user has"))?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
