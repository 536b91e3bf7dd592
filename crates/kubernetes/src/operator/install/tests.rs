//! Installing on a fake API server, and the manifests beside Kustomize.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::apply::apply;
use super::error::InstallError;
use super::kinds::KINDS;
use super::manifests::{ManifestObject, ManifestOptions, default_image, render, to_yaml};
use super::plan::{InstallPlan, ManifestChange, describe_change, plan};
use super::preflight::{check_rights, check_server, is_new_enough};
use super::remove::{plan_removal, remove};
use super::rollout::{count_nodes, read_rollout};
use super::upgrade::{RunningImage, restart, running_image};
use crate::fake_api_server::{FakeApiServer, Fault};
use crate::operator::context::Context;

const VERBS: [&str; 3] = ["get", "create", "patch"];

fn cluster() -> (FakeApiServer, Context) {
    let server = FakeApiServer::default();
    let context = Context::of_client("edge", server.client());
    (server, context)
}

fn objects(image: &str) -> Vec<ManifestObject> {
    let options = ManifestOptions { image: Some(image.to_owned()), pull_policy: None };
    render(&options).unwrap()
}

async fn planned(context: &Context, image: &str) -> InstallPlan {
    plan(context, objects(image), false).await.unwrap()
}

/// The objects of a YAML text by kind and name.
fn by_name(text: &str) -> BTreeMap<(String, String), Value> {
    let mut found = BTreeMap::new();
    for mut value in adit_config::from_yaml::<Value>(text).unwrap() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = (text(&value["kind"]), text(&value["metadata"]["name"]));
        let kind = KINDS.iter().find(|known| known.kind == key.0).unwrap();
        if !kind.is_namespaced {
            // Kustomize does not know all kinds that are cluster-scoped; the API server ignores what it says then.
            value["metadata"].as_object_mut().unwrap().remove("namespace");
        }
        with_whole_numbers(&mut value);
        found.insert(key, value);
    }
    found
}

/// Writes `0.0` as `0`, which is the same to an API server: programs differ in how they print it.
fn with_whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().map(|float| format!("{float:.0}"));
            let whole = whole.filter(|text| text.parse::<f64>().ok() == number.as_f64());
            if let Some(whole) = whole.and_then(|text| text.parse::<i64>().ok()) {
                *value = whole.into();
            }
        }
        Value::Array(all) => all.iter_mut().for_each(with_whole_numbers),
        Value::Object(all) => all.values_mut().for_each(with_whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[test]
fn the_manifests_are_those_that_kustomize_renders() {
    let base = ManifestOptions::default();
    let loaded = ManifestOptions {
        image: Some(default_image().unwrap()),
        pull_policy: Some("IfNotPresent".to_owned()),
    };
    for (folder, options) in [("base", base), ("overlays/kind", loaded)] {
        let ours = by_name(&to_yaml(&render(&options).unwrap()).unwrap());
        let path = format!("{}/../../daemonset/{folder}", env!("CARGO_MANIFEST_DIR"));
        let kubectl = Command::new("kubectl").args(["kustomize", &path]).output();
        let Ok(kubectl) = kubectl.map_err(|error| eprintln!("SKIP kustomize: {error}")) else {
            // tests/rig/manifests holds the same on a cluster, where there always is one.
            return;
        };
        assert!(kubectl.status.success(), "{}", String::from_utf8_lossy(&kubectl.stderr));
        let theirs = by_name(&String::from_utf8(kubectl.stdout).unwrap());
        let names: Vec<_> = ours.keys().collect();
        assert_eq!(names, theirs.keys().collect::<Vec<_>>());
        for (name, object) in &theirs {
            assert_eq!(ours[name], *object, "{name:?} of {folder}");
        }
    }
}

#[test]
fn what_others_stand_on_comes_first_and_what_runs_comes_last() {
    let objects = objects("x");
    let shown: Vec<_> = objects.iter().map(ManifestObject::shown).collect();
    assert_eq!(shown[0], "Namespace adit-system");
    assert_eq!(shown[shown.len() - 2..], ["Deployment adit-controller", "DaemonSet adit-node"]);
    let named = objects.iter().filter(|one| one.kind.is_namespaced);
    for one in named {
        assert_eq!(one.value["metadata"]["namespace"], "adit-system", "{}", one.shown());
    }
    assert!(KINDS.iter().all(|kind| objects.iter().any(|one| one.kind == kind)));
    let containers = objects.last().unwrap().value.pointer("/spec/template/spec").unwrap();
    assert_eq!(containers["containers"][0]["image"], "x");
    assert_eq!(containers["initContainers"][0]["image"], "x");
}

#[tokio::test]
async fn a_bare_cluster_gets_all_of_it_and_a_second_time_nothing() {
    let (server, context) = cluster();
    check_server(&context).await.unwrap();
    let first = planned(&context, "x").await;
    let all = first.objects.len();
    assert_eq!(first.counts(), (all, 0));
    assert!(server.requests(|r| r.starts_with("PATCH") && !r.contains("dryRun")).is_empty());
    apply(&context, &first).await.unwrap();
    let image = |server: &FakeApiServer| {
        let set = server.get("apps/daemonsets", "adit-system", "adit-node").unwrap();
        set.pointer("/spec/template/spec/containers/0/image").cloned()
    };
    assert_eq!(image(&server), Some(json!("x")));
    assert!(planned(&context, "x").await.is_empty());
    // Another image changes what runs, and nothing else.
    let next = planned(&context, "y").await;
    assert_eq!(next.counts(), (0, 2));
    let told = next.objects.iter().find_map(|one| match &one.change {
        ManifestChange::Update(fields) if one.object.name == "adit-controller" => Some(fields),
        ManifestChange::Create | ManifestChange::Update(_) | ManifestChange::Keep => None,
    });
    assert_eq!(told.unwrap()[..], ["spec.template.spec.containers[controller].image: x → y"]);
    apply(&context, &next).await.unwrap();
    assert_eq!(image(&server), Some(json!("y")));
}

#[tokio::test]
async fn what_operators_wrote_into_the_config_map_stays() {
    let (server, context) = cluster();
    apply(&context, &planned(&context, "x").await).await.unwrap();
    let mut map = server.get("/configmaps", "adit-system", "adit").unwrap();
    map["data"] = json!({"cluster.yaml": "cluster: edge\n"});
    server.put("/configmaps", map.clone());
    apply(&context, &planned(&context, "y").await).await.unwrap();
    let after = server.get("/configmaps", "adit-system", "adit").unwrap();
    assert_eq!(after["data"], map["data"]);
}

#[tokio::test]
async fn a_half_done_installation_is_done_to_its_end() {
    let (server, context) = cluster();
    let whole = planned(&context, "x").await;
    server.fail(|method, path| {
        (method == "PATCH" && path.contains("/networkpolicies/")).then_some(Fault::Status(500))
    });
    let stopped = apply(&context, &whole).await.unwrap_err();
    let InstallError::HalfDone { done, all, .. } = &stopped else { panic!("{stopped}") };
    assert!(*done > 10 && done < all, "{stopped}");
    assert!(stopped.to_string().contains("run the same command again"), "{stopped}");
    server.heal();
    let rest = planned(&context, "x").await;
    assert_eq!(rest.counts(), (all - done, 0));
    apply(&context, &rest).await.unwrap();
    assert!(planned(&context, "x").await.is_empty());
}

#[tokio::test]
async fn missing_rights_are_named_and_nothing_is_changed() {
    let (server, context) = cluster();
    server.deny("create clusterroles");
    server.deny("patch daemonsets");
    let refused = check_rights(&context, &objects("x"), &VERBS).await.unwrap_err().to_string();
    assert!(
        refused.contains(
            "lacks rights:\n  create on clusterroles.rbac.authorization.k8s.io\n  patch on daemonsets.apps in adit-system\n"
        ),
        "{refused}"
    );
    let changing = server.requests(|r| !r.contains("selfsubjectaccessreviews"));
    assert!(changing.is_empty(), "{changing:?}");
    for verb in ["create", "patch", "get"] {
        for kind in &KINDS {
            server.deny(&format!("{verb} {}", kind.plural));
        }
    }
    let refused = check_rights(&context, &objects("x"), &VERBS).await.unwrap_err().to_string();
    // Whoever lacks all of them reads one line, with every resource.
    let lines: Vec<_> = refused.lines().filter(|line| line.contains(" on ")).collect();
    let [line] = lines[..] else { panic!("{refused}") };
    assert!(line.starts_with("  create, get, patch on clusterrolebindings"), "{refused}");
    assert!(KINDS.iter().all(|kind| line.contains(&kind.resource())), "{refused}");
}

#[tokio::test]
async fn an_administrator_is_asked_one_question() {
    let (server, context) = cluster();
    check_rights(&context, &objects("x"), &VERBS).await.unwrap();
    assert_eq!(server.requests(|_| true).len(), 1);
}

#[tokio::test]
async fn an_older_server_is_refused_by_its_version() {
    let (server, context) = cluster();
    server.set_minor_version("32");
    let refused = check_server(&context).await.unwrap_err().to_string();
    assert!(refused.contains("v1.32.0") && refused.contains("1.33 or later"), "{refused}");
    for (version, enough) in
        [(("1", "33+"), true), (("1", "40"), true), (("2", "0"), true), (("", ""), false)]
    {
        assert_eq!(is_new_enough(version.0, version.1), enough, "{version:?}");
    }
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_unless_it_is_taken_over() {
    let (server, context) = cluster();
    server
        .put("rbac.authorization.k8s.io/clusterroles", json!({"metadata": {"name": "adit-node"}}));
    let refused = plan(&context, objects("x"), false).await.unwrap_err();
    let InstallError::NameTaken { objects: taken, .. } = &refused else { panic!("{refused}") };
    assert_eq!(taken[..], ["ClusterRole adit-node"]);
    let forced = plan(&context, objects("x"), true).await.unwrap();
    assert_eq!(forced.counts().1, 1);
}

#[tokio::test]
async fn a_namespace_that_is_being_removed_is_refused() {
    let (server, context) = cluster();
    let metadata = json!({"name": "adit-system", "deletionTimestamp": "2026-01-01T00:00:00Z"});
    server.put("/namespaces", json!({"metadata": metadata}));
    let refused = plan(&context, objects("x"), true).await.unwrap_err();
    assert!(matches!(refused, InstallError::BeingRemoved { .. }), "{refused}");
}

#[tokio::test]
async fn somebody_elses_change_in_between_stops_the_installation() {
    let (server, context) = cluster();
    apply(&context, &planned(&context, "x").await).await.unwrap();
    let next = planned(&context, "y").await;
    // A status is no change of the plan.
    let mut set = server.get("apps/daemonsets", "adit-system", "adit-node").unwrap();
    set["status"] = json!({"numberReady": 1});
    server.put("apps/daemonsets", set);
    // Another image is.
    let mut deployment = server.get("apps/deployments", "adit-system", "adit-controller").unwrap();
    *deployment.pointer_mut("/spec/template/spec/containers/0/image").unwrap() = json!("z");
    server.put("apps/deployments", deployment);
    let stopped = apply(&context, &next).await.unwrap_err().to_string();
    assert!(stopped.contains("somebody else changes Deployment adit-controller"), "{stopped}");
    let again = planned(&context, "y").await;
    apply(&context, &again).await.unwrap();
}

#[tokio::test]
async fn fields_of_others_are_taken_over_only_where_they_stay_or_somebody_says_so() {
    let (server, context) = cluster();
    apply(&context, &planned(&context, "x").await).await.unwrap();
    server.fail(|method, path| {
        let held = path.contains("/daemonsets/") && !path.contains("force=true");
        (method == "PATCH" && held).then_some(Fault::Held(".spec.template.spec"))
    });
    let refused = plan(&context, objects("y"), false).await.unwrap_err();
    let InstallError::FieldConflict { fields, .. } = &refused else { panic!("{refused}") };
    let held = "DaemonSet adit-node: spec.template.spec (conflict with \"kubectl\")";
    assert_eq!(fields[..], [held]);
    assert!(refused.to_string().contains("--force-conflicts"), "{refused}");
    // Whoever installed the same by other means is in nobody's way.
    let same = planned(&context, "x").await;
    assert!(same.is_empty());
    apply(&context, &same).await.unwrap();
    let forced = plan(&context, objects("y"), true).await.unwrap();
    assert_eq!(forced.counts(), (0, 2));
    assert!(forced.replaces_pods() && !same.replaces_pods());
    apply(&context, &forced).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn removal_ends_nodes_first_and_waits_for_what_the_controller_made() {
    let (server, context) = cluster();
    apply(&context, &planned(&context, "x").await).await.unwrap();
    let foreign = json!({"metadata": {"name": "adit", "labels": {}}});
    server.put("scheduling.k8s.io/priorityclasses", foreign);
    let label = json!({"app.kubernetes.io/managed-by": "adit-controller"});
    server.put("/services", json!({"metadata": {"name": "s", "namespace": "n", "labels": label}}));
    let going = plan_removal(&context, objects("x")).await.unwrap();
    assert_eq!(going.foreign[..], ["PriorityClass adit"]);
    let deadline = || Instant::now() + Duration::from_secs(60);
    let mut told = Vec::new();
    let left =
        remove(&context, &going, deadline(), |waiting| told.extend_from_slice(waiting)).await;
    let left = left.unwrap_err().to_string();
    assert!(left.contains("still there: Service n/s"), "{left}");
    assert!(told.contains(&"edge: Service n/s to go".to_owned()), "{told:?}");
    let deleted = server.requests(|request| request.starts_with("DELETE"));
    assert!(deleted[0].contains("/daemonsets/adit-node"), "{deleted:?}");
    assert!(deleted[1].contains("/deployments/adit-controller"), "{deleted:?}");
    assert!(!deleted.iter().any(|request| request.contains("priorityclasses")), "{deleted:?}");
    server.delete("/services", "n", "s");
    remove(&context, &going, deadline(), |_| {}).await.unwrap();
    assert!(plan_removal(&context, objects("x")).await.unwrap().is_empty());
}

#[tokio::test]
async fn pods_are_replaced_without_another_manifest() {
    let (server, context) = cluster();
    assert_eq!(running_image(&context).await.unwrap(), None);
    apply(&context, &planned(&context, "x").await).await.unwrap();
    let running = RunningImage { image: "x".to_owned(), pull_policy: None };
    assert_eq!(running_image(&context).await.unwrap(), Some(running));
    restart(&context).await.unwrap();
    for (kind, name) in [("apps/daemonsets", "adit-node"), ("apps/deployments", "adit-controller")]
    {
        let object = server.get(kind, "adit-system", name).unwrap();
        let annotations = &object["spec"]["template"]["metadata"]["annotations"];
        assert!(annotations["kubectl.kubernetes.io/restartedAt"].is_string(), "{annotations}");
    }
    assert!(
        planned(&context, "x").await.is_empty(),
        "the next upgrade does not restart them again"
    );
}

#[test]
fn a_difference_says_which_field_and_what_the_server_writes_is_none() {
    let object = |value: Value| serde_json::from_value(value).unwrap();
    let before = object(json!({
        "metadata": {"name": "a", "resourceVersion": "1", "generation": 1, "labels": {"k": "v"}},
        "spec": {"list": [{"name": "n", "x": 1}], "long": "0123456789".repeat(10)}, "status": {"a": 1},
    }));
    let same = object(json!({
        "metadata": {"name": "a", "resourceVersion": "2", "generation": 2, "labels": {"k": "v"}},
        "spec": {"list": [{"name": "n", "x": 1}], "long": "0123456789".repeat(10)}, "status": {"a": 2},
    }));
    assert_eq!(describe_change(&before, &same), ManifestChange::Keep);
    let other = object(json!({
        "metadata": {"name": "a"}, "spec": {"list": [{"name": "n", "x": 2}], "long": "short"},
    }));
    let ManifestChange::Update(fields) = describe_change(&before, &other) else { panic!() };
    assert_eq!(fields[0], "metadata.labels: {\"k\":\"v\"} → nothing");
    assert_eq!(fields[1], "spec.list[n].x: 1 → 2");
    assert!(fields[2].ends_with("56789… → short"), "{}", fields[2]);
}

fn pod(name: &str, node: &str, revision: &str, second: u32, is_ready: bool) -> Pod {
    let ready = if is_ready { "True" } else { "False" };
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "labels": {"controller-revision-hash": revision},
            "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
        },
        "spec": {"nodeName": node, "containers": []},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }))
    .unwrap()
}

#[test]
fn a_node_counts_by_its_newest_pod() {
    let set: DaemonSet = serde_json::from_value(json!({
        "metadata": {"generation": 2}, "spec": {"selector": {}, "template": {}},
        "status": {"observedGeneration": 2, "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 2},
    }))
    .unwrap();
    let revision = |number: i64, hash: &str| -> ControllerRevision {
        serde_json::from_value(json!({
            "metadata": {"labels": {"controller-revision-hash": hash}}, "revision": number,
        }))
        .unwrap()
    };
    let revisions = [revision(2, "new"), revision(1, "old")];
    let count = |pods: &[Pod]| count_nodes(&set, pods, &revisions).ready;
    let old = [pod("a", "n1", "old", 1, true), pod("b", "n2", "old", 1, true)];
    assert_eq!(count(&old), 0);
    let mut leaving = old[0].clone();
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    // The old pod of the first node ends for an hour, and the new one serves.
    assert_eq!(count(&[leaving, pod("c", "n1", "new", 9, true), old[1].clone()]), 1);
    assert_eq!(count(&[old[0].clone(), pod("c", "n1", "new", 9, false), old[1].clone()]), 0);
    assert_eq!(count(&[pod("c", "n1", "new", 9, true), pod("d", "n2", "new", 9, true)]), 2);
    let mut stale = set.clone();
    stale.metadata.generation = Some(3);
    assert_eq!(count_nodes(&stale, &old, &revisions).total, None);
}

#[tokio::test]
async fn a_missing_image_is_said_while_it_is_waited_for() {
    let (server, context) = cluster();
    apply(&context, &planned(&context, "localhost/adit:dev").await).await.unwrap();
    let waiting = read_rollout(&context).await.unwrap();
    assert!(!waiting.is_done());
    let mut set = server.get("apps/daemonsets", "adit-system", "adit-node").unwrap();
    set["status"] = json!({"desiredNumberScheduled": 1, "currentNumberScheduled": 1, "numberMisscheduled": 0, "numberReady": 0});
    server.put("apps/daemonsets", set);
    let mut pod = serde_json::to_value(pod("p", "n1", "r", 1, false)).unwrap();
    pod["metadata"]["namespace"] = json!("adit-system");
    pod["metadata"]["labels"]["app.kubernetes.io/name"] = json!("adit-node");
    pod["status"]["initContainerStatuses"] = json!([{
        "name": "prepare", "image": "localhost/adit:dev", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ErrImagePull", "message": "long"}},
    }]);
    server.put("/pods", pod);
    let said = read_rollout(&context).await.unwrap().describe_waiting();
    assert!(
        said.contains("nodes 0/1 (n1: image localhost/adit:dev is not there and cannot be pulled)"),
        "{said}"
    );
}
