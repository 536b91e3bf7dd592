//! Steps of an upgrade beyond applying the manifests: which image runs, and replacing pods whose manifests stay the same.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::jiff::Timestamp;
use kube::api::Patch;
use serde_json::json;

use crate::api::{CONTROLLER, NODE};
use crate::operator::context::{Context, ContextError, patch_parameters};

/// The annotation of a pod's template that `kubectl rollout restart` writes, too.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

/// The image of a cluster's nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningImage {
    /// Its name.
    pub image: String,
    /// When it is pulled.
    pub pull_policy: Option<String>,
}

/// Reads the image of a cluster's nodes; `None` if Adit is not installed there.
///
/// # Errors
/// If the cluster cannot be asked.
pub async fn running_image(context: &Context) -> Result<Option<RunningImage>, ContextError> {
    let set = context.system_api::<DaemonSet>().get_opt(NODE).await;
    let set = set.map_err(context.request_error("read DaemonSet adit-node"))?;
    let pod = set.and_then(|set| set.spec?.template.spec);
    let container = pod.and_then(|pod| pod.containers.into_iter().next());
    Ok(container.and_then(|container| {
        Some(RunningImage { image: container.image?, pull_policy: container.image_pull_policy })
    }))
}

/// Has all pods of controller and nodes replaced, as their strategies say: one node at a time.
///
/// # Errors
/// If the cluster refuses.
pub async fn restart(context: &Context) -> Result<(), ContextError> {
    let annotations = json!({RESTARTED_AT: Timestamp::now().to_string()});
    let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    let parameters = patch_parameters();
    let deployments = context.system_api::<Deployment>();
    let done = deployments.patch(CONTROLLER, &parameters, &Patch::Merge(&patch)).await;
    done.map_err(context.request_error("restart Deployment adit-controller"))?;
    let sets = context.system_api::<DaemonSet>();
    let done = sets.patch(NODE, &parameters, &Patch::Merge(&patch)).await;
    done.map_err(context.request_error("restart DaemonSet adit-node")).map(drop)
}
