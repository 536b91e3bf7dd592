//! Reads the status of a pod: whether it is ready, and which of its containers cannot start.

use k8s_openapi::api::core::v1::{ContainerStateWaiting, ContainerStatus, Pod, PodCondition};
use kube::api::ListParams;

/// The label by which the pods of nodes and of the controller are told apart.
pub(super) const NAME_LABEL: &str = "app.kubernetes.io/name";
/// Reasons for which a container waits at each start, and that end by themselves.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// Selects the pods of nodes or those of the controller.
pub(super) fn named(name: &str) -> ListParams {
    ListParams::default().labels(&format!("{NAME_LABEL}={name}"))
}

/// Returns whether a pod is ready.
pub(super) fn is_pod_ready(pod: &Pod) -> bool {
    conditions(pod).any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Returns the condition by which the scheduler says that it has no node for a pod.
pub(super) fn unscheduled(pod: &Pod) -> Option<&PodCondition> {
    conditions(pod).find(|one| one.type_ == "PodScheduled" && one.status == "False")
}

/// Returns the first container that waits for something that does not pass by itself, and its reason.
pub(super) fn stuck_container(
    pod: &Pod,
) -> Option<(&ContainerStatus, &ContainerStateWaiting, &str)> {
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses);
    containers.flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().filter(|reason| !STARTING.contains(reason))?;
        Some((container, waiting, reason))
    })
}

fn conditions(pod: &Pod) -> impl Iterator<Item = &PodCondition> {
    pod.status.iter().filter_map(|status| status.conditions.as_ref()).flatten()
}
