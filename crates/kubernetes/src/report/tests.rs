//! What is said of a cluster in each state.

use serde_json::{Value, json};

use super::*;

fn document(text: &str) -> Document {
    Document::default().with(&[("all.yaml".to_owned(), Some(text.to_owned()))].into())
}

fn condition(kind: &str, status: &str) -> Value {
    json!([{"type": kind, "status": status, "reason": "Why", "message": "so it is", "lastTransitionTime": "t"}])
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

fn pods() -> Pods {
    Pods { installed: true, ready: 2, total: 2 }
}

#[test]
fn what_is_wrong_comes_first_and_says_why() {
    let seen = Seen {
        controller: pods(),
        nodes: pods(),
        imports: vec![
            import("a", "True", None),
            import("b", "False", None),
            import("c", "True", None),
            import("d", "True", None),
            import("gone", "False", Some("t")),
        ],
        slices: vec![slice("a", true), slice("c", false)],
        ..Seen::default()
    };
    let text = "cluster: edge\nimports: [{service: n/e, from: bank}, {service: n/a, from: bank}]\n\
                links: [{cluster: bank, trustDomain: b.example, trustBundle: x}]";
    let status = status("c", &document(text), &seen);
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
    assert!(!status.well());
}

#[test]
fn what_is_declared_and_not_there_is_said() {
    let text = "cluster: edge\nimports: [{service: n/e, from: bank}]\n\
                exports: [{service: n/x, allow: [{cluster: bank, namespace: n, serviceAccount: s}]}]";
    let seen = Seen { controller: pods(), nodes: pods(), ..Seen::default() };
    let status = status("c", &document(text), &seen);
    assert!(status.errors.is_empty() && status.problems().is_empty());
    assert_eq!(status.warnings.len(), 2, "the link is missing");
    assert_eq!(status.imports[0].problem.as_deref(), Some(NOT_TAKEN_UP));
    assert_eq!(status.exports[0].problem.as_deref(), Some(NOT_TAKEN_UP));
    assert!(!status.well());
}

#[test]
fn a_cluster_without_a_name_or_pods_is_not_well() {
    let status = status("c", &Document::default(), &Seen::default());
    assert_eq!(status.cluster, None);
    let problems = status.problems();
    assert!(problems[0].contains("no name yet"), "{problems:?}");
    assert_eq!(problems[1..], ["adit-controller is not installed", "adit-node is not installed"]);
    let some = Pods { installed: true, ready: 1, total: 2 };
    let seen = Seen { controller: some, nodes: pods(), ..Seen::default() };
    let status = super::status("c", &document("cluster: edge"), &seen);
    assert_eq!(status.problems(), ["1 of 2 controller pods are ready"]);
    let seen = Seen { controller: pods(), nodes: pods(), ..Seen::default() };
    assert!(super::status("c", &document("cluster: edge"), &seen).well());
}
