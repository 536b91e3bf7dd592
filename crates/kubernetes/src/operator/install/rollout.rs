//! Waits until controller and nodes of clusters are ready, and says for what.
//!
//! A node counts once its newest pod is of the present manifests and ready. Pods that end are not waited for: they may
//! have an hour for their streams.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::time::{Instant, sleep};

use super::error::InstallError;
use crate::api::{CONTROLLER, NODE};
use crate::operator::context::{Context, ContextError};
use crate::operator::pod_state::{is_pod_ready, named, stuck_container, unscheduled};

/// From one look at the pods to the next.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Number of troubles that are told, and of places that each names.
const MAX_NAMED: usize = 3;
/// Longest trouble of a pod, in characters.
const MAX_TROUBLE_CHARS: usize = 160;
/// The label that names a pod's template.
const REVISION_LABEL: &str = "controller-revision-hash";

/// The pods of a Deployment or DaemonSet while they are being rolled out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RolloutCount {
    /// Number of pods that are of the present manifests and ready.
    pub ready: usize,
    /// Number of pods that there should be; `None` if Kubernetes has not said so yet.
    pub total: Option<usize>,
    /// Troubles of some pods, in words.
    pub troubles: Vec<String>,
}

impl RolloutCount {
    fn is_done(&self) -> bool {
        self.total.is_some_and(|total| total > 0 && self.ready >= total)
    }

    fn shown(&self, what: &str) -> String {
        let troubles = match self.troubles.is_empty() {
            true => String::new(),
            false => format!(" ({})", self.troubles.join("; ")),
        };
        match self.total {
            None => format!("{what} not started yet"),
            Some(0) => format!("{what}: no pod is wanted (has the cluster nodes?)"),
            Some(total) => format!("{what} {}/{total}{troubles}", self.ready),
        }
    }
}

/// The state of a cluster's installation while it is being rolled out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RolloutState {
    /// The controller's pods.
    pub controller: RolloutCount,
    /// The nodes.
    pub nodes: RolloutCount,
}

impl RolloutState {
    /// Returns whether everything is ready.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.controller.is_done() && self.nodes.is_done()
    }

    /// Describes the things that are not ready.
    #[must_use]
    pub fn describe_waiting(&self) -> String {
        let parts = [("controller", &self.controller), ("nodes", &self.nodes)];
        let waiting = parts.iter().filter(|(_, count)| !count.is_done());
        waiting.map(|(what, count)| count.shown(what)).collect::<Vec<_>>().join(", ")
    }
}

/// Waits until all clusters are ready, and calls `tell` with what is waited for after each look, and with nothing when
/// all is ready.
///
/// # Errors
/// If they are not by `deadline`, or a cluster cannot be asked.
pub async fn wait_until_ready(
    contexts: &[Context],
    deadline: Instant,
    mut tell: impl FnMut(&[String]),
) -> Result<(), InstallError> {
    loop {
        let mut waiting = Vec::new();
        for context in contexts {
            let state = read_rollout(context).await?;
            if !state.is_done() {
                waiting.push(format!("{}: {}", context.name, state.describe_waiting()));
            }
        }
        tell(&waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(InstallError::NotReady { waiting });
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Reads how far a cluster is.
///
/// # Errors
/// If it cannot be asked.
pub async fn read_rollout(context: &Context) -> Result<RolloutState, ContextError> {
    let deployment = context.system_api::<Deployment>().get_opt(CONTROLLER).await;
    let deployment =
        deployment.map_err(context.request_error("read Deployment adit-controller"))?;
    let daemon_set = context.system_api::<DaemonSet>().get_opt(NODE).await;
    let daemon_set = daemon_set.map_err(context.request_error("read DaemonSet adit-node"))?;
    let list = async |name: &str| {
        let pods = context.system_api::<Pod>().list(&named(name)).await;
        pods.map(|list| list.items).map_err(context.request_error(&format!("list pods of {name}")))
    };
    let revisions = context.system_api::<ControllerRevision>().list(&named(NODE)).await;
    let revisions =
        revisions.map_err(context.request_error("list ControllerRevisions of adit-node"))?;
    let controllers = list(CONTROLLER).await?;
    let nodes = list(NODE).await?;
    Ok(RolloutState {
        controller: deployment.map(|set| count_controllers(&set, &controllers)).unwrap_or_default(),
        nodes: daemon_set
            .map(|set| count_nodes(&set, &nodes, &revisions.items))
            .unwrap_or_default(),
    })
}

fn count_controllers(deployment: &Deployment, pods: &[Pod]) -> RolloutCount {
    let status = deployment.status.as_ref();
    if status.and_then(|status| status.observed_generation) < deployment.metadata.generation {
        return RolloutCount::default();
    }
    let number = |number: Option<i32>| usize::try_from(number.unwrap_or(0)).unwrap_or(0);
    let (ready, updated) = status
        .map_or((0, 0), |status| (number(status.ready_replicas), number(status.updated_replicas)));
    let total = number(deployment.spec.as_ref().and_then(|spec| spec.replicas).or(Some(1)));
    RolloutCount { ready: ready.min(updated), total: Some(total), troubles: troubles(pods.iter()) }
}

pub(super) fn count_nodes(
    daemon_set: &DaemonSet,
    pods: &[Pod],
    revisions: &[ControllerRevision],
) -> RolloutCount {
    let Some(status) = &daemon_set.status else { return RolloutCount::default() };
    if status.observed_generation < daemon_set.metadata.generation {
        return RolloutCount::default();
    }
    let newest = revisions.iter().max_by_key(|revision| revision.revision);
    let revision = newest.and_then(|newest| newest.labels().get(REVISION_LABEL));
    let mut latest: BTreeMap<&str, &Pod> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let known =
            latest.entry(node.unwrap_or_else(|| pod.metadata.name.as_deref().unwrap_or("")));
        let known = known.or_insert(pod);
        if known.creation_timestamp() < pod.creation_timestamp() {
            *known = pod;
        }
    }
    let is_current = |pod: &Pod| revision.is_none() || pod.labels().get(REVISION_LABEL) == revision;
    let ready = latest.values().filter(|pod| is_current(pod) && is_pod_ready(pod)).count();
    let total = usize::try_from(status.desired_number_scheduled).unwrap_or(0);
    RolloutCount { ready, total: Some(total), troubles: troubles(latest.into_values()) }
}

/// Returns the troubles of some pods: why they are not scheduled, or their containers do not run.
fn troubles<'a>(pods: impl Iterator<Item = &'a Pod>) -> Vec<String> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pod in pods.filter(|pod| !is_pod_ready(pod) && pod.metadata.deletion_timestamp.is_none()) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let place = node.unwrap_or_else(|| "no node".to_owned());
        if let Some(trouble) = pod_trouble(pod) {
            let trouble = trouble.chars().take(MAX_TROUBLE_CHARS).collect();
            found.entry(trouble).or_default().insert(place);
        }
    }
    let mut described: Vec<_> = found
        .into_iter()
        .map(|(trouble, places)| {
            let more = places.len().saturating_sub(MAX_NAMED);
            let named: Vec<_> = places.into_iter().take(MAX_NAMED).collect();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{}{more}: {trouble}", named.join(", "))
        })
        .collect();
    described.truncate(MAX_NAMED);
    described
}

fn pod_trouble(pod: &Pod) -> Option<String> {
    if let Some((container, waiting, reason)) = stuck_container(pod) {
        return Some(match reason {
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" => {
                // The reason changes between two words all the time.
                format!("image {} is not there and cannot be pulled", container.image)
            }
            _ => format!("{reason} {}", waiting.message.as_deref().unwrap_or_default()),
        });
    }
    let why = unscheduled(pod)?;
    // The scheduler's first sentence says why; the others are about pods that might make room.
    let message = why.message.as_deref().unwrap_or_default();
    Some(format!("not scheduled: {}", message.split(". ").next().unwrap_or_default()))
}
