//! From the objects of an API server to the facts, and to the hop that fails.

use adit_core::doctor::facts::{CallerFacts, CallerNode, DoctorFacts};
use adit_core::doctor::{Diagnosis, DoctorHop, diagnose};
use adit_core::name::ServiceName;
use serde_json::{Value, json};

use super::*;
use crate::api::definitions;
use crate::fake_api_server::{FakeApiServer, Fault};
use crate::operator::context::Context;

pub(in crate::operator) fn named(namespace: &str, name: &str, more: Value) -> Value {
    let mut object = json!({"metadata": {"namespace": namespace, "name": name}});
    for (key, value) in more.as_object().into_iter().flatten() {
        match (key.as_str(), value.as_object()) {
            ("labels", _) => object["metadata"]["labels"] = value.clone(),
            _ => object[key] = value.clone(),
        }
    }
    object
}

fn pod(namespace: &str, name: &str, account: &str, labels: Value) -> Value {
    let spec = json!({"serviceAccountName": account, "nodeName": "e1", "containers": []});
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let status = json!({"podIP": "10.244.1.10", "conditions": ready});
    named(namespace, name, json!({"labels": labels, "spec": spec, "status": status}))
}

fn slice(name: &str, writer: &str, address: &str) -> Value {
    let labels = json!({"kubernetes.io/service-name": "fraud-bot", "endpointslice.kubernetes.io/managed-by": writer});
    let endpoints = json!([{"addresses": [address], "conditions": {"ready": true}}]);
    named(
        "agents",
        name,
        json!({"labels": labels, "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 15080}]}),
    )
}

const OURS: &str = "adit-controller.adit.dev";

/// A cluster that imports `agents/fraud-bot` from `bank`, where support-bot may use it.
pub(in crate::operator) fn cluster() -> FakeApiServer {
    let server = FakeApiServer::default();
    for definition in definitions() {
        let name = definition.metadata.name.unwrap();
        server.put("apiextensions.k8s.io/customresourcedefinitions", named("", &name, json!({"spec": {
            "group": "adit.dev", "names": {"plural": "x", "kind": "X"}, "scope": "Cluster", "versions": [],
        }})));
    }
    for name in ["adit-system", "agents"] {
        server.put("/namespaces", named("", name, json!({})));
    }
    let template = json!({"metadata": {}, "spec": {"containers": [], "nodeSelector": {"kubernetes.io/os": "linux"}}});
    let set = json!({"spec": {"selector": {}, "template": template}});
    server.put("apps/daemonsets", named("adit-system", "adit-node", set));
    let deployment = json!({"spec": {"selector": {}, "template": {}, "replicas": 2}, "status": {"readyReplicas": 2}});
    server.put("apps/deployments", named("adit-system", "adit-controller", deployment));
    let lease = json!({"spec": {"holderIdentity": "c_1", "leaseDurationSeconds": 15, "renewTime": k8s_openapi::jiff::Timestamp::now().to_string()}});
    server.put("coordination.k8s.io/leases", named("adit-system", "adit-controller", lease));
    server.put(
        "/configmaps",
        named("adit-system", "adit", json!({"data": {"cluster.yaml": "cluster: edge\n"}})),
    );
    server.put("/nodes", named("", "e1", json!({"labels": {"kubernetes.io/os": "linux"}, "status": {"addresses": [{"type": "InternalIP", "address": "172.18.1.2"}]}})));
    server.put(
        "/pods",
        pod(
            "adit-system",
            "adit-node-1",
            "adit-node",
            json!({"app.kubernetes.io/name": "adit-node"}),
        ),
    );
    server
        .put("/pods", pod("agents", "support-bot-1", "support-bot", json!({"app": "support-bot"})));
    server.put(
        "/services",
        named("agents", "fraud-bot", json!({"spec": {"ports": [{"name": "http", "port": 8080}]}})),
    );
    server.put("discovery.k8s.io/endpointslices", slice("fraud-bot-adit-ipv4", OURS, "198.18.0.1"));
    let ready = json!({"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let spec = json!({
        "service": {"namespace": "agents", "name": "fraud-bot"}, "from": "bank", "addresses": ["198.18.0.1"],
        "ports": [{"name": "http", "number": 8080, "listen": 15080}], "allow": [{"namespace": "agents", "serviceAccount": "support-bot"}],
    });
    server.put(
        "adit.dev/imports",
        named("", "agents.fraud-bot", json!({"spec": spec, "status": ready})),
    );
    let up = json!({"conditions": [{"type": "Up", "status": "True", "reason": "LinkUp", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    server.put(
        "adit.dev/links",
        named("", "bank", json!({"spec": {"trustDomain": "bank.example"}, "status": up})),
    );
    server
}

fn service() -> ServiceName {
    "agents/fraud-bot".parse().unwrap()
}

/// The diagnosis without any node's word.
async fn of_objects(server: &FakeApiServer, from: Option<&str>) -> (Diagnosis, CallerFacts) {
    let context = Context::of_client("kind-edge", server.client());
    let site = Box::pin(ClusterSite::read(context)).await.unwrap();
    let here = site.import_side(&service(), None).await.unwrap();
    let caller = site.caller(from, &service(), &here, &[]).await.unwrap();
    let facts = DoctorFacts {
        service: service().to_string(),
        from: Some("bank".to_owned()),
        here: Some(here),
        caller: caller.clone(),
        node: CallerNode::NotAsked,
        there: None,
        card: None,
    };
    (diagnose(&facts), caller)
}

#[tokio::test]
async fn the_objects_of_a_sound_import_leave_the_word_to_its_node() {
    let server = cluster();
    let (found, caller) = Box::pin(of_objects(&server, None)).await;
    assert_eq!((found.exit_status(), found.first_failed), (2, None), "{found:#?}");
    assert_eq!(caller.account.as_deref(), Some("agents/support-bot"), "it is the one that may");
    assert_eq!(caller.pod.unwrap().node, "e1");
    let (found, _) = Box::pin(of_objects(&server, Some("agents/typo"))).await;
    assert_eq!(found.first_failed, Some(DoctorHop::Caller), "{found:#?}");
}

fn shut(server: &FakeApiServer) {
    let spec = json!({"podSelector": {}, "policyTypes": ["Egress"]});
    server.put("networking.k8s.io/networkpolicies", named("agents", "shut", json!({"spec": spec})));
}

/// A change of the cluster, the hop at which it shows, and words of what was seen.
type SeededFault = (&'static str, fn(&FakeApiServer), DoctorHop, &'static str);

const CHANGES: &[SeededFault] = &[
    (
        "a kind",
        |s| s.delete("apiextensions.k8s.io/customresourcedefinitions", "", "imports.adit.dev"),
        DoctorHop::Installation,
        "imports.adit.dev",
    ),
    (
        "the namespace",
        |s| s.delete("/namespaces", "", "adit-system"),
        DoctorHop::Installation,
        "adit-system",
    ),
    (
        "the configuration",
        |s| {
            drop(s.put(
                "/configmaps",
                named("adit-system", "adit", json!({"data": {"cluster.yaml": "clutser: edge\n"}})),
            ))
        },
        DoctorHop::Installation,
        "cluster.yaml:1",
    ),
    (
        "the Service",
        |s| s.delete("/services", "agents", "fraud-bot"),
        DoctorHop::Service,
        "no Service",
    ),
    (
        "pods of its own",
        |s| {
            s.put("/services", named("agents", "fraud-bot", json!({"spec": {"selector": {"app": "local"}, "ports": [{"name": "http", "port": 8080}]}})));
            s.put("/pods", pod("agents", "local-1", "local", json!({"app": "local"})));
        },
        DoctorHop::Service,
        "agents/local-1",
    ),
    (
        "a mesh",
        |s| {
            s.put("/services", named("agents", "fraud-bot", json!({"labels": {"solo.io/service-takeover": "true"}, "spec": {"ports": [{"name": "http", "port": 8080}]}})));
            s.put("discovery.k8s.io/endpointslices", slice("fraud-bot-mesh", "gloo", "10.9.0.1"));
        },
        DoctorHop::Endpoints,
        "solo.io/service-takeover=true",
    ),
    ("a policy", shut, DoctorHop::Caller, "agents/shut"),
];

#[tokio::test]
async fn what_objects_show_is_found_at_its_hop() {
    for (what, change, hop, words) in CHANGES {
        let server = cluster();
        change(&server);
        let (found, _) = Box::pin(of_objects(&server, None)).await;
        let first = found.first().unwrap_or_else(|| panic!("{what}: {found:#?}"));
        assert_eq!(first.hop, *hop, "{what}: {found:#?}");
        assert!(first.seen.contains(words), "{what}: {first:#?}");
    }
}

/// Whoever may read little is told what can be told, and nothing is taken for a fault.
#[tokio::test]
async fn what_may_not_be_read_is_left_out() {
    let server = cluster();
    server.fail(|_, path| {
        let kept = [
            "nodes",
            "networkpolicies",
            "customresourcedefinitions",
            "serviceentries",
            "deployments?",
            "certificatesigning",
        ];
        kept.iter().any(|kind| path.contains(kind)).then_some(Fault::Status(403))
    });
    let (found, _) = Box::pin(of_objects(&server, None)).await;
    assert_eq!(found.first_failed, None, "{found:#?}");
}
