//! The status of a cluster in each state.

use serde_json::{Value, json};

use std::collections::BTreeMap;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest as Request;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::items::NOT_TAKEN_UP;
use super::*;
use crate::api::{Condition, Export, Import, Link, ObjectStatus, SLICE_SERVICE, TROUBLE};

fn configuration(text: &str) -> ReadConfiguration {
    let changes = [("all.yaml".to_owned(), Some(text.to_owned()))].into();
    read_configuration(&ConfigDocument::default().with_changes(&changes))
}

fn condition(kind: &str, status: &str) -> Value {
    json!([{"type": kind, "status": status, "reason": "Why", "message": "so it is", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
}

fn import(name: &str, status: &str, released: Option<&str>) -> Import {
    serde_json::from_value(json!({
        "apiVersion": "adit.dev/v1alpha1", "kind": "Import", "metadata": {"name": format!("n.{name}")},
        "spec": {"service": {"namespace": "n", "name": name}, "from": "bank", "addresses": ["198.18.0.1"], "releasedAt": released},
        "status": {"conditions": condition("Ready", status)},
    }))
    .unwrap()
}

fn slice(name: &str, ready: bool) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"name": format!("{name}-adit-ipv4"), "namespace": "n", "labels": {SLICE_SERVICE: name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["198.18.0.1"], "conditions": {"ready": ready}}],
    }))
    .unwrap()
}

fn lease(holder: &str, trouble: Option<&str>) -> Lease {
    let annotations: BTreeMap<_, _> = trouble.map(|t| (TROUBLE, t)).into_iter().collect();
    serde_json::from_value(json!({
        "metadata": {"name": "adit-controller", "annotations": annotations},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": "2026-01-01T12:00:00.000000Z"},
    }))
    .unwrap()
}

/// An installation in which nothing is wrong.
fn well() -> ClusterObjects {
    let lease = Some((Some(lease("adit-controller-1_uid", None)), false));
    ClusterObjects { controller: pods(), nodes: pods(), lease, ..ClusterObjects::default() }
}

fn pods() -> PodCounts {
    PodCounts { installed: true, ready: 2, total: 2 }
}

#[test]
fn what_is_wrong_comes_first_and_says_why() {
    let objects = ClusterObjects {
        imports: vec![
            import("a", "True", None),
            import("b", "False", None),
            import("c", "True", None),
            import("d", "True", None),
            import("gone", "False", Some("t")),
        ],
        slices: vec![slice("a", true), slice("c", false)],
        ..well()
    };
    let text = "cluster: edge\nimports: [{service: n/e, from: bank}, {service: n/a, from: bank}]\n\
                links: [{cluster: bank, trustDomain: b.example, trustBundle: x}]";
    let status = summarize("c", configuration(text), &objects);
    assert!(status.errors[0].contains("trust bundle of link bank"), "{:?}", status.errors);
    // A wrong configuration declares nothing; what is there is shown all the same.
    let shown: Vec<_> =
        status.imports.iter().map(|i| (&*i.name, i.problem.as_deref().unwrap_or("-"))).collect();
    assert_eq!(
        shown,
        [
            ("n/b", "so it is (Why)"),
            ("n/c", "ready, and its EndpointSlice says it is not"),
            ("n/d", "ready, and its Service n/d has no EndpointSlice of ours"),
            ("n/a", "-"),
        ]
    );
    assert_eq!(status.imports[3].detail, "from bank at 198.18.0.1");
    assert!(!status.is_healthy());
}

#[test]
fn what_is_declared_and_not_there_is_said() {
    let text = "cluster: edge\nimports: [{service: n/e, from: bank}]\n\
                exports: [{service: n/x, allow: [{cluster: bank, namespace: n, serviceAccount: s}]}]";
    let status = summarize("c", configuration(text), &well());
    assert!(status.errors.is_empty() && status.problems().is_empty());
    assert_eq!(status.warnings.len(), 2, "the link is missing");
    assert_eq!(status.imports[0].problem.as_deref(), Some(NOT_TAKEN_UP));
    assert_eq!(status.exports[0].problem.as_deref(), Some(NOT_TAKEN_UP));
    assert!(!status.is_healthy());
}

#[test]
fn a_cluster_without_a_name_or_pods_is_not_well() {
    let status =
        summarize("c", read_configuration(&ConfigDocument::default()), &ClusterObjects::default());
    assert_eq!(status.cluster, None);
    let problems = status.problems();
    assert!(problems[0].contains("no name yet"), "{problems:?}");
    assert_eq!(problems[1..], ["adit-controller is not installed", "adit-node is not installed"]);
    let some = PodCounts { installed: true, ready: 1, total: 2 };
    let objects = ClusterObjects { controller: some, ..well() };
    let status = summarize("c", configuration("cluster: edge"), &objects);
    assert_eq!(status.problems(), ["1 of 2 controller pods are ready"]);
    assert!(summarize("c", configuration("cluster: edge"), &well()).is_healthy());
}

#[test]
fn what_is_wrong_with_the_controller_is_said_though_its_pods_are_ready() {
    let problems = |lease: Option<Lease>, silent: bool, text: &str| {
        let status = summarize(
            "c",
            configuration(text),
            &ClusterObjects { lease: Some((lease, silent)), ..well() },
        );
        assert!(!status.is_healthy());
        status.problems()
    };
    let nobody = "no controller is active (nobody holds Lease adit-controller)";
    assert_eq!(problems(None, false, "cluster: edge"), [nobody]);
    assert_eq!(problems(Some(lease("", Some("old"))), false, "cluster: edge"), [nobody]);
    let silent = problems(Some(lease("adit-controller-1_uid", None)), true, "cluster: edge");
    let gone = "no controller is active (adit-controller-1 has not renewed Lease adit-controller since 2026-01-01T12:00:00Z)";
    assert_eq!(silent, [gone]);
    let said = |trouble| Some(lease("adit-controller-1_uid", Some(trouble)));
    let lost = problems(said("Secret adit-ca is gone"), false, "cluster: edge");
    assert_eq!(lost, ["the controller says: Secret adit-ca is gone"]);
    // What is wrong with the configuration is said once.
    let wrong = "cluster: edge\nimportz: []";
    let first = problems(Some(lease("adit-controller-1_uid", None)), false, wrong);
    let both = problems(said(&format!("{} (and 1 more)", first[0])), false, wrong);
    assert_eq!(both, first);
}

#[test]
fn what_only_the_controller_updates_is_of_the_time_of_its_last_sign_of_life() {
    let of = |lease: Option<Lease>, silent: bool| {
        let objects = ClusterObjects { lease: Some((lease, silent)), ..well() };
        summarize("c", configuration("cluster: edge"), &objects).stale
    };
    let then = Some("as of 2026-01-01T12:00:00Z; no controller since".to_owned());
    assert_eq!(of(Some(lease("adit-controller-1_uid", None)), false), None);
    assert_eq!(of(Some(lease("adit-controller-1_uid", None)), true), then);
    assert_eq!(of(Some(lease("", None)), false), then);
    let objects = ClusterObjects {
        controller: PodCounts { installed: true, ready: 0, total: 0 },
        lease: Some((Some(lease("", None)), false)),
        ..well()
    };
    let status = summarize("c", configuration("cluster: edge"), &objects);
    let mend = "no controller is active: Deployment adit-controller asks for 0 pods: \
                kubectl -n adit-system scale deployment/adit-controller --replicas=2";
    assert_eq!((status.stale.clone(), status.problems()), (then, vec![mend.to_owned()]));
}

#[test]
fn a_rollout_under_way_is_a_note_and_a_pod_that_does_not_start_is_wrong() {
    let note = "0 of 1 nodes run the newest version";
    let objects = ClusterObjects { rolling: (None, Some(note.to_owned())), ..well() };
    let status = summarize("c", configuration("cluster: edge"), &objects);
    assert!(status.is_healthy(), "{:?}", status.problems());
    assert_eq!(status.warnings, [note]);
    let pod = json!({"metadata": {"name": "adit-node-b", "labels": {"app.kubernetes.io/name": "adit-node"}},
        "status": {"containerStatuses": [{"name": "node", "image": "adit:2", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull"}}}]}});
    let objects = ClusterObjects { pods: vec![serde_json::from_value(pod).unwrap()], ..objects };
    let status = summarize("c", configuration("cluster: edge"), &objects);
    assert!(
        !status.is_healthy() && status.problems()[0].contains("rollout undo daemonset/adit-node")
    );
}

#[test]
fn a_lease_is_fresh_for_its_own_length_whichever_clock_is_ahead() {
    let fresh =
        |clock: &str| is_fresh(Some(&lease("adit-controller-1_uid", None)), clock.parse().unwrap());
    assert!(fresh("2026-01-01T12:00:15Z") && fresh("2026-01-01T11:59:45Z"));
    assert!(!fresh("2026-01-01T12:00:16Z") && !fresh("2026-01-01T11:59:44Z"));
}

fn request(name: &str, node: &str, made: &str, status: Value) -> Request {
    serde_json::from_value(json!({
        "metadata": {"name": name, "creationTimestamp": made},
        "spec": {"signerName": "adit.dev/node", "request": "", "extra": {"authentication.kubernetes.io/node-name": [node]}},
        "status": status,
    }))
    .unwrap()
}

#[test]
fn nodes_without_a_certificate_are_named_by_their_last_request() {
    let denied = json!({"conditions": [{"type": "Denied", "status": "True", "reason": "NotOurNode", "message": "no pod"}]});
    let signed = json!({"certificate": "QQ=="});
    let (old, new) = ("2026-01-01T11:00:00Z", "2026-01-01T12:00:00Z");
    let requests = vec![
        request("r1", "n1", old, denied.clone()),
        request("r2", "n1", new, signed),
        request("r3", "n2", new, denied),
        request("r4", "n3", old, json!({})),
        request("r5", "n4", new, json!({})),
    ];
    let at = "2026-01-01T12:00:30Z".parse().unwrap();
    let objects = ClusterObjects { requests, at, ..well() };
    let status = summarize("c", configuration("cluster: edge"), &objects);
    assert_eq!(
        status.problems(),
        [
            "node n2 was refused a certificate: no pod (r3)",
            "node n3 waits for a certificate since 2026-01-01T11:00:00Z (r4)"
        ]
    );
}

#[test]
fn conditions_that_are_there_only_when_something_is_wrong_are_read() {
    let with = |mut conditions: Vec<Condition>, kind: &str| {
        let mut more = conditions[0].clone();
        more.type_ = kind.into();
        conditions.push(more);
        Some(ObjectStatus { conditions })
    };
    let good = import("a", "True", None);
    let conditions = ObjectStatus::conditions(good.status.as_ref()).to_vec();
    let status_of_link =
        with(serde_json::from_value(condition("Up", "True")).unwrap(), "TooManyImports");
    let link: Link = serde_json::from_value(json!({
        "apiVersion": "adit.dev/v1alpha1", "kind": "Link", "metadata": {"name": "bank"},
        "spec": {"trustDomain": "b.example"}, "status": status_of_link,
    }))
    .unwrap();
    let objects = ClusterObjects {
        links: vec![link],
        imports: vec![Import { status: with(conditions, "Conflict"), ..good }],
        slices: vec![slice("a", true)],
        ..well()
    };
    let status = summarize("c", configuration("cluster: edge"), &objects);
    assert_eq!(status.links[0].problem.as_deref(), Some("so it is (Why)"));
    assert_eq!(status.imports[0].problem.as_deref(), Some("so it is (Why)"));
}

#[test]
fn what_may_not_be_read_is_a_warning_and_no_more() {
    let objects = ClusterObjects { lease: None, unread: vec!["cannot list".to_owned()], ..well() };
    let status = summarize("c", configuration("cluster: edge"), &objects);
    assert!(status.is_healthy(), "{:?}", status.problems());
    assert_eq!(status.warnings, ["cannot list"]);
}

#[test]
fn an_export_to_whom_no_link_leads_is_not_well() {
    let export = |kind: &str, status: &str| -> Export {
        let mut conditions = condition("Valid", "True");
        conditions
            .as_array_mut()
            .unwrap()
            .extend(condition(kind, status).as_array().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "adit.dev/v1alpha1", "kind": "Export", "metadata": {"name": "n.a"},
            "spec": {"service": {"namespace": "n", "name": "a"},
                "allow": [{"cluster": "bank", "namespace": "*", "serviceAccount": "*"}]},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    };
    let problem = |kind: &str, status: &str| {
        let objects = ClusterObjects { exports: vec![export(kind, status)], ..well() };
        summarize("c", configuration("cluster: edge"), &objects).exports[0].problem.clone()
    };
    assert_eq!(problem("Linked", "False").as_deref(), Some("so it is (Why)"));
    assert_eq!(problem("Ready", "False").as_deref(), Some("so it is (Why)"));
    assert_eq!(problem("Linked", "True"), None);
}

/// A link or an import with a condition, and a Lease on which nodes report this.
fn told(nodes: &Value) -> ClusterObjects {
    let mut lease = lease("adit-controller-1_uid", None);
    let annotations = lease.metadata.annotations.get_or_insert_default();
    annotations.insert(crate::api::NODES.into(), nodes.to_string());
    let link = json!({
        "apiVersion": "adit.dev/v1alpha1", "kind": "Link", "metadata": {"name": "bank"},
        "spec": {"trustDomain": "bank.example"}, "status": {"conditions": condition("Up", "True")},
    });
    let links = vec![serde_json::from_value(link).unwrap()];
    let (imports, slices) = (vec![import("a", "True", None)], vec![slice("a", true)]);
    ClusterObjects { lease: Some((Some(lease), false)), links, imports, slices, ..well() }
}

const TEXT: &str = "cluster: edge\ntrustDomain: edge.example\nlinks: [{cluster: bank, trustDomain: bank.example}]\n";

#[test]
fn what_nodes_say_is_told_of_the_thing_it_is_about_with_counts_and_places() {
    let refused = json!({"count": 1384, "since": "2026-01-01T11:58:00Z", "last": "2026-01-01T11:59:57Z", "sources": ["agents/x"]});
    let nodes = json!({
        "at": "2026-01-01T12:00:00Z", "answered": 2, "silent": 1, "silentNodes": {"e3": "no answer"},
        "items": [
            {"kind": "link", "name": "bank", "code": "link-down", "error": true, "count": 1, "nodes": ["e2"], "sentence": "b1 does not answer"},
            {"kind": "import", "name": "n/a", "code": "denied", "error": true, "count": 2, "nodes": ["e1", "e2"], "sentence": "no grant", "refused": refused},
            {"kind": "node", "code": "local-error", "error": true, "count": 1, "nodes": ["e1"], "sentence": "bad certificate"},
        ],
    });
    let found = summarize("c", configuration(TEXT), &told(&nodes));
    let link = found.links[0].problem.as_deref();
    assert_eq!(link, Some("1 of 2 nodes cannot reach bank: e2 (b1 does not answer: link-down)"));
    let import = found.imports[0].problem.as_deref();
    let text =
        "since 2 min: 1384 connections of agents/x refused: no grant (denied), the last 3 s ago";
    assert_eq!(import, Some(text));
    let bad = "1 of 2 nodes (e1): bad certificate";
    let silent = "1 of 3 nodes do not tell the controller how they are: e3 (no answer)";
    assert_eq!(found.troubles, [bad, silent]);
    assert_eq!(found.warnings, <[&str; 0]>::default());
    assert!(!found.is_healthy());
    // A controller that has not asked of late says nothing about now.
    let mut old = nodes;
    old["at"] = "2026-01-01T11:50:00Z".into();
    let found = summarize("c", configuration(TEXT), &told(&old));
    assert_eq!((&found.links[0].problem, &found.imports[0].problem), (&None, &None));
    assert!(found.troubles.is_empty() && found.warnings.is_empty(), "{found:?}");
}

#[test]
fn what_nodes_say_is_told_of_a_link_that_is_down_and_refusals_for_several_reasons_are_one_count() {
    let refused = |count: u64, second: u64| json!({"count": count, "since": format!("2026-01-01T11:58:0{second}Z")});
    let import = |code: &str, refused: Value| json!({"kind": "import", "name": "n/a", "code": code, "error": true, "count": 2, "refused": refused});
    let nodes = json!({
        "at": "2026-01-01T12:00:00Z", "answered": 2,
        "items": [
            {"kind": "link", "name": "bank", "code": "link-down", "error": true, "count": 2, "sentence": "b1: no answer within 5s"},
            import("no-backend", refused(3, 7)), import("link-down", refused(4, 5)),
        ],
    });
    let mut objects = told(&nodes);
    let untrue = |kind: &str, reason: &str| {
        let condition = json!([{"type": kind, "status": "False", "reason": reason, "message": "so it is", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        Some(ObjectStatus { conditions: serde_json::from_value(condition).unwrap() })
    };
    objects.links[0].status = untrue("Up", "LinkDown");
    objects.imports[0].status = untrue("Ready", "Why");
    let found = summarize("c", configuration(TEXT), &objects);
    let link = found.links[0].problem.as_deref();
    assert_eq!(link, Some("b1: no answer within 5s (link-down)"), "the condition knows less");
    let text = "so it is (Why); 7 connections refused since 2026-01-01T11:58:05Z";
    assert_eq!(found.imports[0].problem.as_deref(), Some(text));
}

#[test]
fn a_link_that_is_down_is_one_cause_and_its_imports_are_counted_with_it() {
    let mut objects = told(&json!({}));
    let down = json!([{"type": "Up", "status": "False", "reason": "LinkDown", "message": "no answer", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let set = |conditions: &Value| {
        Some(ObjectStatus { conditions: serde_json::from_value(conditions.clone()).unwrap() })
    };
    objects.links[0].status = set(&down);
    let mut waits = down;
    waits[0]["type"] = "Ready".into();
    objects.imports = (0..20).map(|n| import(&format!("i{n}"), "False", None)).collect();
    for import in &mut objects.imports[..19] {
        import.status = set(&waits);
    }
    // It counts as ready for a while yet, and its callers are refused for the same cause.
    let refusing = |reason: &str| {
        json!([
            {"type": "Ready", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "Refusing", "status": "True", "reason": reason, "message": "refused", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ])
    };
    objects.imports[0].status = set(&refusing("LinkDown"));
    objects.slices.push(slice("i0", true));
    let found = summarize("c", configuration(TEXT), &objects);
    let problems =
        |items: &[StatusItem]| items.iter().filter_map(|i| i.problem.clone()).collect::<Vec<_>>();
    assert_eq!(problems(&found.links), ["no answer (LinkDown); 19 imports wait for it"]);
    assert_eq!(problems(&found.imports), ["so it is (Why)"], "it has a cause of its own");
    let waiting = found.imports.iter().filter(|i| i.waits_for.as_deref() == Some("link bank"));
    assert_eq!(waiting.count(), 19);
    objects.imports[0].status = set(&refusing("Denied"));
    let found = summarize("c", configuration(TEXT), &objects);
    let denied = problems(&found.imports);
    assert!(denied.contains(&"refused (Denied)".to_owned()), "{denied:?}");
}
