//! Rollouts of the nodes and of the controller that are under way.
//!
//! While a new pod does not start, the old one serves on and the counts of ready pods stay whole: only what the
//! DaemonSet and the Deployment say of versions shows that the newest runs nowhere.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};

/// Returns what is to be said while not all nodes run the newest version.
pub(super) fn note_of_daemon_set(set: Option<&DaemonSet>) -> Option<String> {
    let set = set?;
    let status = set.status.as_ref()?;
    let is_current = status.observed_generation >= set.metadata.generation;
    let updated = status.updated_number_scheduled.filter(|_| is_current).unwrap_or(0);
    let total = status.desired_number_scheduled;
    (updated < total).then(|| format!("{updated} of {total} nodes run the newest version"))
}

/// Returns what is to be said while not all pods of the controller run the newest version.
pub(super) fn note_of_deployment(deployment: Option<&Deployment>) -> Option<String> {
    let deployment = deployment?;
    let status = deployment.status.as_ref()?;
    let total = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let is_current = status.observed_generation >= deployment.metadata.generation;
    let updated = status.updated_replicas.filter(|_| is_current).unwrap_or(0);
    let all = status.replicas.unwrap_or(0);
    if total == 0 || (updated >= total && updated >= all) {
        return None;
    }
    // Which of them are not ready is not counted; while old ones are there it is the new ones.
    let ready = (updated - status.unavailable_replicas.unwrap_or(0)).clamp(0, total);
    Some(format!("{ready} of {total} controller pods run the newest version"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn daemon_set(updated: i32, observed: i64) -> DaemonSet {
        serde_json::from_value(json!({"metadata": {"generation": 2}, "status": {
            "observedGeneration": observed, "updatedNumberScheduled": updated, "desiredNumberScheduled": 1,
            "currentNumberScheduled": 1, "numberMisscheduled": 0, "numberReady": 1,
        }}))
        .unwrap()
    }

    #[test]
    fn a_rollout_is_noted_from_its_first_moment_until_all_run_the_newest_version() {
        let note = Some("0 of 1 nodes run the newest version".to_owned());
        assert_eq!(note_of_daemon_set(Some(&daemon_set(0, 2))), note);
        assert_eq!(note_of_daemon_set(Some(&daemon_set(1, 1))), note, "not looked at yet");
        assert_eq!(note_of_daemon_set(Some(&daemon_set(1, 2))), None);
        let deployment = |updated: i32, all: i32, unavailable: i32| {
            let deployment: Deployment = serde_json::from_value(json!({
                "metadata": {"generation": 1},
                "spec": {"replicas": 2, "selector": {}, "template": {}},
                "status": {"observedGeneration": 1, "replicas": all, "updatedReplicas": updated, "unavailableReplicas": unavailable},
            }))
            .unwrap();
            note_of_deployment(Some(&deployment))
        };
        let note =
            |ready: i32| Some(format!("{ready} of 2 controller pods run the newest version"));
        assert_eq!(deployment(1, 3, 1), note(0));
        assert_eq!(deployment(2, 3, 0), note(2));
        assert_eq!(deployment(2, 2, 1), None, "one restarts, and none is old");
    }
}
