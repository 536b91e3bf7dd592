//! Our pods that do not start, and why.
//!
//! In a rolling update the pods of before serve on, so that neither counts nor callers show that the new ones cannot.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::api::{CONTROLLER, NAMESPACE, NODE, truncated};
use crate::operator::pod_state::{NAME_LABEL, is_pod_ready, stuck_container, unscheduled};

/// Number of causes that are told one by one.
const MAX_CAUSES_SHOWN: usize = 5;

/// The pods that do not start, by cause, each with a mend. `rolling`: whether the controller and the nodes have pods
/// of an older version.
pub(super) fn pod_problems(pods: &[Pod], rolling: (bool, bool)) -> Vec<String> {
    let mut causes: BTreeMap<(&str, String), Vec<&Pod>> = BTreeMap::new();
    let is_there = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none();
    for pod in pods.iter().filter(is_there) {
        if let Some(cause) = why_not_started(pod) {
            causes.entry((app(pod), cause)).or_default().push(pod);
        }
    }
    let more = causes.len().saturating_sub(MAX_CAUSES_SHOWN);
    let told = causes.into_iter().take(MAX_CAUSES_SHOWN).map(|((app, cause), stuck)| {
        let mend = mend(app, stuck[0], rolling);
        let serves = |old: &Pod| self::app(old) == app && is_pod_ready(old);
        let is_served = stuck.iter().all(|new| {
            pods.iter()
                .filter(is_there)
                .any(|old| serves(old) && (app == CONTROLLER || node(old) == node(new)))
        });
        let old = match stuck.len() {
            _ if !is_served => "",
            1 => "; the old pod serves on",
            _ => "; the old pods serve on",
        };
        let first = stuck[0].name_any();
        match stuck.len() {
            1 => {
                let place = node(stuck[0]).map(|node| format!(" on {node}")).unwrap_or_default();
                format!("pod {first}{place} does not start: {cause}{old}{mend}")
            }
            n => format!("{n} pods do not start, {first} among them: {cause}{old}{mend}"),
        }
    });
    told.chain((more > 0).then(|| format!("{more} more causes for which pods do not start")))
        .collect()
}

/// The command that undoes a rollout, or else shows more of a pod.
fn mend(app: &str, pod: &Pod, rolling: (bool, bool)) -> String {
    let command = match app {
        CONTROLLER if rolling.0 => format!("rollout undo deployment/{CONTROLLER}"),
        NODE if rolling.1 => format!("rollout undo daemonset/{NODE}"),
        CONTROLLER | NODE => format!("describe pod {}", pod.name_any()),
        _ => return String::new(),
    };
    format!(": kubectl -n {NAMESPACE} {command}")
}

fn app(pod: &Pod) -> &str {
    pod.labels().get(NAME_LABEL).map_or("", String::as_str)
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn why_not_started(pod: &Pod) -> Option<String> {
    if let Some((container, waiting, reason)) = stuck_container(pod) {
        // The image is what most of these are about, and not all of them name it.
        let image = format!("image {}", container.image);
        let message = waiting.message.as_deref().unwrap_or(&image);
        let ended = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let ended = ended.map(|ended| format!("; it ended with status {}", ended.exit_code));
        return Some(sentence(reason, Some(message)) + &ended.unwrap_or_default());
    }
    let refused = unscheduled(pod)?;
    Some(sentence(refused.reason.as_deref()?, refused.message.as_deref()))
}

fn sentence(reason: &str, message: Option<&str>) -> String {
    let words: Vec<&str> = message.unwrap_or_default().split_whitespace().collect();
    truncated(&format!("{reason}: {}", words.join(" "))).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
    }

    fn waiting(reason: &str, message: Option<&str>) -> Value {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        json!([{"name": "node", "image": "adit:2", "imageID": "", "ready": false, "restartCount": 0, "state": state}])
    }

    #[test]
    fn a_new_pod_that_does_not_start_is_told_with_its_node_what_serves_and_a_mend() {
        let of = |name: &str, app: &str, node: &str, status: &Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {NAME_LABEL: app}},
                "spec": {"nodeName": node, "containers": []}, "status": status,
            }))
            .unwrap()
        };
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let pulls = json!({"containerStatuses": waiting("ImagePullBackOff", None)});
        let new = of("adit-node-b", NODE, "edge-1", &pulls);
        let pods = [of("adit-node-a", NODE, "edge-1", &ready), new.clone()];
        let said = "pod adit-node-b on edge-1 does not start: ImagePullBackOff: image adit:2; the old pod serves on: \
                    kubectl -n adit-system rollout undo daemonset/adit-node";
        assert_eq!(pod_problems(&pods, (false, true)), [said]);
        let elsewhere = [of("adit-node-a", NODE, "edge-2", &ready), new];
        let said = "pod adit-node-b on edge-1 does not start: ImagePullBackOff: image adit:2: \
                    kubectl -n adit-system describe pod adit-node-b";
        assert_eq!(pod_problems(&elsewhere, (false, false)), [said]);
        let controllers = [
            of("adit-controller-a", CONTROLLER, "edge-1", &ready),
            of("adit-controller-b", CONTROLLER, "edge-2", &pulls),
        ];
        let said = pod_problems(&controllers, (true, false));
        let end =
            "the old pod serves on: kubectl -n adit-system rollout undo deployment/adit-controller";
        assert!(said[0].ends_with(end), "{said:?}");
    }

    #[test]
    fn pods_that_cannot_start_are_told_by_cause_and_those_that_start_are_not() {
        let pulls = json!({"initContainerStatuses": waiting("ImagePullBackOff", Some("Back-off pulling  image \"adit:2\""))});
        let creates = json!({"containerStatuses": waiting("ContainerCreating", None)});
        let pods = [
            pod("adit-node-a", &pulls),
            pod("adit-node-b", &pulls),
            pod("adit-node-c", &creates),
            pod("adit-node-d", &json!({"containerStatuses": waiting("InvalidImageName", None)})),
            pod("adit-node-e", &Value::Null),
        ];
        let expected = [
            "2 pods do not start, adit-node-a among them: ImagePullBackOff: Back-off pulling image \"adit:2\"",
            "pod adit-node-d does not start: InvalidImageName: image adit:2",
        ];
        assert_eq!(pod_problems(&pods, (true, true)), expected);
    }

    #[test]
    fn who_ends_again_and_again_or_has_no_place_is_told_with_what_kubernetes_says() {
        let mut ends = waiting("CrashLoopBackOff", Some("back-off 10s"));
        ends[0]["lastState"] = json!({"terminated": {"exitCode": 101}});
        let place = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}]);
        let mut leaving = pod("adit-node-z", &json!({"containerStatuses": ends}));
        leaving.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let pods = [
            pod("adit-node-a", &json!({"containerStatuses": ends})),
            pod("adit-controller-b", &json!({"conditions": place})),
            leaving,
        ];
        let expected = [
            "pod adit-node-a does not start: CrashLoopBackOff: back-off 10s; it ended with status 101",
            "pod adit-controller-b does not start: Unschedulable: 0/2 nodes",
        ];
        assert_eq!(pod_problems(&pods, (true, true)), expected);
    }
}
