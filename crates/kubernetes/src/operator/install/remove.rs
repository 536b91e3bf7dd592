//! Removes Adit from a cluster, and waits until nothing of it is left.
//!
//! First the nodes, which take their routes and rules away while the API server still knows them; then the controller,
//! so that it makes nothing again; then all else at once. What the controller made goes with the namespace that owns it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, ListParams, Preconditions};
use tokio::time::{Instant, sleep};

use super::error::InstallError;
use super::manifests::ManifestObject;
use super::plan::is_part_of_adit;
use crate::api::{MANAGED_BY, SLICE_MANAGED_BY};
use crate::operator::context::{Context, ContextError};

/// From one look at what is left to the next.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Number of things that are told by name.
const MAX_NAMED: usize = 5;

/// The objects of an installation, before it is removed.
#[derive(Debug, Clone, Default)]
pub struct RemovalPlan {
    /// The objects that go, each with its UID.
    objects: Vec<(ManifestObject, Option<String>)>,
    /// Objects of the same names that are not Adit's and stay.
    pub foreign: Vec<String>,
}

impl RemovalPlan {
    /// Returns whether nothing is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Returns the number of objects that go, without what the controller made.
    #[must_use]
    pub fn count(&self) -> usize {
        self.objects.len()
    }
}

/// Finds which of `objects` are there and Adit's. Changes nothing.
///
/// # Errors
/// If the cluster cannot be asked.
pub async fn plan_removal(
    context: &Context,
    objects: Vec<ManifestObject>,
) -> Result<RemovalPlan, InstallError> {
    let mut plan = RemovalPlan::default();
    for object in objects {
        let Some(found) = read(context, &object).await? else { continue };
        if !object.kind.is_namespaced && !is_part_of_adit(&found) {
            plan.foreign.push(object.shown());
            continue;
        }
        plan.objects.push((object, found.metadata.uid));
    }
    Ok(plan)
}

async fn read(
    context: &Context,
    object: &ManifestObject,
) -> Result<Option<DynamicObject>, ContextError> {
    let found = object.kind.api(context).get_opt(&object.name).await;
    found.map_err(context.request_error(&format!("read {}", object.shown())))
}

/// Removes what was planned, and calls `tell` with what is still there after each look.
///
/// # Errors
/// If something is left by `deadline`, or the cluster refuses.
pub async fn remove(
    context: &Context,
    plan: &RemovalPlan,
    deadline: Instant,
    mut tell: impl FnMut(&[String]),
) -> Result<(), InstallError> {
    // Pods come and go by these: each is waited for before what its pods stand on goes.
    for kind in ["DaemonSet", "Deployment"] {
        let these: Vec<_> = plan.objects.iter().filter(|(one, _)| one.kind.kind == kind).collect();
        for (object, uid) in &these {
            delete(context, object, uid.clone(), DeleteParams::foreground()).await?;
        }
        wait_until_gone(context, deadline, &mut tell, async || {
            let mut left = Vec::new();
            for (object, uid) in &these {
                if is_there(context, object, uid.as_ref()).await? {
                    left.push(object.shown());
                }
            }
            Ok(left)
        })
        .await?;
    }
    for (object, uid) in &plan.objects {
        delete(context, object, uid.clone(), DeleteParams::background()).await?;
    }
    let left = async || {
        let mut left = Vec::new();
        for (object, uid) in plan.objects.iter().filter(|(one, _)| !one.kind.is_namespaced) {
            if is_there(context, object, uid.as_ref()).await? {
                left.push(object.shown());
            }
        }
        left.extend(made_objects(context).await?);
        Ok(left)
    };
    wait_until_gone(context, deadline, &mut tell, left).await
}

/// Returns whether an object is still the one that was planned to go.
async fn is_there(
    context: &Context,
    object: &ManifestObject,
    uid: Option<&String>,
) -> Result<bool, ContextError> {
    Ok(read(context, object).await?.is_some_and(|found| found.metadata.uid.as_ref() == uid))
}

async fn delete(
    context: &Context,
    object: &ManifestObject,
    uid: Option<String>,
    parameters: DeleteParams,
) -> Result<(), InstallError> {
    let parameters = parameters.preconditions(Preconditions { uid, ..Preconditions::default() });
    match object.kind.api(context).delete(&object.name, &parameters).await {
        Ok(_) => Ok(()),
        // It is gone, or it is another one by now.
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
        Err(error) => {
            let refused = context.request_error(&format!("delete {}", object.shown()));
            Err(refused(error).into())
        }
    }
}

/// Returns the Services and EndpointSlices that the controller made.
async fn made_objects(context: &Context) -> Result<Vec<String>, ContextError> {
    let labelled =
        |(key, value): (&str, &str)| ListParams::default().labels(&format!("{key}={value}"));
    let services: Vec<Service> = context.list(&labelled(MANAGED_BY), "Services").await?;
    let slices: Vec<EndpointSlice> =
        context.list(&labelled(SLICE_MANAGED_BY), "EndpointSlices").await?;
    let shown = |kind: &str, namespace: Option<String>, name: String| {
        format!("{kind} {}/{name}", namespace.unwrap_or_default())
    };
    let services = services.iter().map(|one| shown("Service", one.namespace(), one.name_any()));
    let slices = slices.iter().map(|one| shown("EndpointSlice", one.namespace(), one.name_any()));
    Ok(services.chain(slices).collect())
}

async fn wait_until_gone(
    context: &Context,
    deadline: Instant,
    tell: &mut impl FnMut(&[String]),
    left: impl AsyncFn() -> Result<Vec<String>, ContextError>,
) -> Result<(), InstallError> {
    loop {
        let mut left = left().await?;
        let more = left.len().saturating_sub(MAX_NAMED);
        if more > 0 {
            left.truncate(MAX_NAMED);
            left.push(format!("{more} more"));
        }
        let waiting = match left.is_empty() {
            true => Vec::new(),
            false => vec![format!("{}: {} to go", context.name, left.join(", "))],
        };
        tell(&waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(InstallError::NotRemoved { context: context.name.clone(), left });
        }
        sleep(POLL_INTERVAL).await;
    }
}
