//! Backends that a tenant's EndpointSlices can have a node dial, judged by the data path's input.

use std::sync::Arc;

use adit_config::cluster::ClusterConfig;
use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_core::policy::{self, Source, Target};
use adit_core::routing;
use adit_core::snapshot::{Hop, LocalNode, Snapshot};
use serde_json::{Value, json};

use super::*;
use crate::api::{ImportSpec, NAMESPACE, NODE};
use crate::node::observed;
use crate::node::state::{NodeState, node_state};

/// Node b1 of `bank`, with sibling b2; beside pods of two namespaces it has one on the host's network.
fn observed() -> ObservedCluster {
    let mut observed = ObservedCluster::default();
    for (namespace, name, ip, host) in [
        ("agents", "bot", "10.244.1.5", false),
        ("payroll", "ledger", "10.244.1.6", false),
        ("agents", "agent-on-host", "172.18.2.9", true),
    ] {
        let pod = json!({
            "metadata": {"name": name, "namespace": namespace, "uid": name},
            "spec": {"containers": [], "hostNetwork": host},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
        });
        let pod = observed::ObservedPod::from_pod(&serde_json::from_value(pod).unwrap());
        observed.pods.extend(pod.map(|pod| (format!("{namespace}/{name}"), pod)));
    }
    put(
        &mut observed,
        NAMESPACE,
        NODE,
        json!([endpoint("172.18.2.2", "b1"), endpoint("172.18.2.3", "b2")]),
    );
    let import: ImportSpec = serde_json::from_value(json!({
        "service": {"namespace": "agents", "name": "remote"}, "from": "edge", "addresses": ["198.18.0.7"],
        "ports": [{"name": "http", "number": 80, "listen": 15080}],
    }))
    .unwrap();
    observed.imports.insert("agents.remote".into(), import);
    observed.service_ranges = ["10.96.0.0/12".to_owned(), "fd00:96::/112".to_owned()].into();
    let export: ExportSpec = serde_json::from_value(json!({
        "service": {"namespace": "agents", "name": "bot"}, "ports": [{"name": "http", "number": 80}],
        "allow": [{"cluster": "edge", "namespace": "*", "serviceAccount": "*"}],
    }))
    .unwrap();
    observed.exports.insert("agents.bot".into(), export);
    observed
}

/// An endpoint as a tenant may write it: a pod of his, on that node.
fn endpoint(address: &str, node: &str) -> Value {
    json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true},
        "targetRef": {"kind": "Pod", "namespace": "agents", "name": "bot"}})
}

fn put(observed: &mut ObservedCluster, namespace: &str, service: &str, endpoints: Value) {
    let slice = json!({
        "metadata": {"name": "x", "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 15080}], "endpoints": endpoints,
    });
    let slice = ObservedSlice::from_slice(&serde_json::from_value(slice).unwrap()).unwrap();
    observed.slices.insert(format!("{namespace}/{service}"), slice);
}

fn believed(observed: &ObservedCluster) -> NodeState {
    let link = "links: [{cluster: edge, trustDomain: edge.adit.internal, trustBundle: PEM}]";
    let fragment = [("cluster.yaml".to_owned(), format!("cluster: bank\n{link}\n"))];
    let config: ClusterConfig = adit_config::parse_cluster(&fragment.into()).unwrap().0;
    let place = NodeLocation {
        node: "b1".parse().unwrap(),
        addresses: vec!["172.18.2.2".parse().unwrap()],
    };
    node_state(observed, &config, &place)
}

/// The data path's input on b1, with the addresses of its own interfaces.
fn snapshot(now: NodeState) -> Snapshot {
    Snapshot {
        local: LocalNode {
            cluster: "bank".parse().unwrap(),
            trust_domain: "bank.adit.internal".parse().unwrap(),
            node: "b1".parse().unwrap(),
            advertise: vec![],
        },
        siblings: now.siblings.into_iter().collect(),
        links: BTreeMap::new(),
        imports: now.imports.into_iter().collect(),
        exports: now.exports.into_iter().map(|e| (e.service.clone(), Arc::new(e))).collect(),
        workloads: now.workloads,
        views: BTreeMap::new(),
        down: BTreeMap::new(),
        never_answered: BTreeSet::new(),
        forbidden: now.forbidden,
    }
}

/// The addresses that b1 dials for a stream to the export, or the code by which it refuses.
fn dials(observed: &ObservedCluster) -> Result<Vec<String>, Code> {
    let now = snapshot(believed(observed));
    let workload =
        Workload { namespace: "any".parse().unwrap(), service_account: "any".parse().unwrap() };
    let source = Source { cluster: "edge".parse().unwrap(), workload };
    let target = Target { service: "agents/bot".parse().unwrap(), port: "http".parse().unwrap() };
    let permit = policy::authorize_inbound(&now, &source, &target).unwrap();
    let backends = routing::backends(&now, &permit, 0)?;
    Ok(backends.iter().map(|b| b.address.to_string()).collect())
}

/// The number of backends that edge is told of, by node.
fn told(observed: &ObservedCluster) -> Vec<(String, u32)> {
    let edge: ClusterName = "edge".parse().unwrap();
    let view = adit_core::announce::view(&snapshot(believed(observed)), &edge);
    let export = view.exports.values().next().unwrap();
    export.ports[0].ready.iter().map(|(node, n)| (node.to_string(), *n)).collect()
}

/// The addresses dialled if a tenant's slice has `address`, as a pod of this node.
fn forged(address: &str) -> Result<Vec<String>, Code> {
    let mut observed = observed();
    put(&mut observed, "agents", "bot", json!([endpoint(address, "b1")]));
    dials(&observed)
}

#[test]
fn a_pod_of_the_services_namespace_is_dialled() {
    assert_eq!(forged("10.244.1.5"), Ok(vec!["10.244.1.5:15080".into()]));
}

#[test]
fn the_api_server_is_not_dialled_by_its_cluster_ip() {
    assert_eq!(forged("10.96.0.1"), Err(Code::BackendForbidden));
}

#[test]
fn the_kubelet_is_not_dialled_by_the_address_of_the_pods_bridge() {
    assert_eq!(forged("10.244.1.1"), Err(Code::NoBackend));
}

#[test]
fn a_pod_of_another_namespace_is_not_dialled() {
    assert_eq!(forged("10.244.1.6"), Err(Code::BackendForeign));
}

#[test]
fn metadata_over_ipv6_is_not_dialled() {
    assert_eq!(forged("fd00:ec2::254"), Err(Code::BackendForbidden));
}

#[test]
fn a_sibling_is_not_dialled_by_its_mapped_address() {
    assert_eq!(forged("::ffff:172.18.2.3"), Err(Code::BackendForbidden));
}

#[test]
fn our_own_listener_is_not_dialled_by_its_mapped_address() {
    assert_eq!(forged("::ffff:198.18.0.7"), Err(Code::BackendForbidden));
}

#[test]
fn a_pod_on_the_hosts_network_is_not_dialled() {
    assert_eq!(forged("172.18.2.9"), Err(Code::NoBackend));
}

#[test]
fn a_pod_of_another_node_is_counted_for_it_and_dialled_by_it_alone() {
    let mut observed = observed();
    let both = json!([endpoint("10.244.1.5", "b1"), endpoint("10.244.2.5", "b2")]);
    put(&mut observed, "agents", "bot", both);
    assert_eq!(dials(&observed), Ok(vec!["10.244.1.5:15080".into()]));
    assert_eq!(told(&observed), [("b1".into(), 1), ("b2".into(), 1)]);
    put(&mut observed, "agents", "bot", json!([endpoint("10.244.2.5", "b2")]));
    assert_eq!(dials(&observed), Err(Code::HopRefused));
    assert!(believed(&observed).exports.iter().all(|e| e.hop == Hop::SameNode));
    // An administrator's word is that any node may.
    observed.exports.values_mut().for_each(|e| e.any_endpoint = true);
    assert_eq!(dials(&observed), Ok(vec!["10.244.2.5:15080".into()]));
}

#[test]
fn an_invented_node_is_told_to_nobody() {
    let mut observed = observed();
    let mut all: Vec<Value> = (0..999).map(|n| endpoint("10.244.3.5", &format!("x{n}"))).collect();
    all.push(endpoint("10.244.1.5", "b1"));
    put(&mut observed, "agents", "bot", all.into());
    assert_eq!(told(&observed), [("b1".into(), 1)]);
    // What an administrator named is reached from here, where its node has no daemon.
    observed.exports.values_mut().for_each(|e| e.any_endpoint = true);
    assert_eq!(told(&observed), [("b1".into(), 2)]);
}

#[test]
fn an_export_by_name_leads_anywhere_but_to_nodes_services_and_clouds() {
    let mut observed = observed();
    observed.exports.values_mut().for_each(|e| e.any_endpoint = true);
    for never in [
        "10.96.0.1",
        "10.111.255.254",
        "fd00:96::1",
        "172.18.2.2",
        "172.18.2.3",
        "::ffff:172.18.2.3",
        "198.19.0.1",
        "64:ff9b::198.18.0.7",
        "fd00:ec2::254",
        "169.254.169.254",
        "127.0.0.1",
        "::ffff:127.0.0.1",
        "fe80::1",
        "224.0.0.1",
        "0.0.0.0",
    ] {
        put(&mut observed, "agents", "bot", json!([endpoint(never, "b1")]));
        assert_eq!(dials(&observed), Err(Code::BackendForbidden), "{never}");
    }
    for other in ["192.0.2.7", "10.244.1.6", "10.112.0.1"] {
        put(&mut observed, "agents", "bot", json!([endpoint(other, "b1")]));
        assert_eq!(dials(&observed), Ok(vec![format!("{other}:15080")]));
    }
}

#[test]
fn the_backends_of_a_namespace_are_bounded_and_say_so() {
    let mut observed = observed();
    for slice in 0..21 {
        let address = |n: usize| format!("10.{}.{}.{}", slice + 1, n / 250, n % 250);
        let all: Vec<Value> = (0..1000).map(|n| endpoint(&address(n), "b2")).collect();
        put(&mut observed, "agents", "bot", all.into());
        let one = observed.slices.remove("agents/bot").unwrap();
        observed.slices.insert(format!("agents/{slice}"), one);
    }
    let now = believed(&observed);
    assert_eq!(now.exports[0].ports[0].backends.len(), MAX_BACKENDS);
    let [problem] = now.problems.as_slice() else { panic!("{:?}", now.problems) };
    assert!(problem.contains("namespace agents") && problem.contains("20000"), "{problem}");
}

#[test]
fn addresses_that_are_nobodys_are_kept_for_a_tenant_only_as_far_as_they_say_something() {
    let mut observed = observed();
    let services = (0..5000).map(|n| endpoint(&format!("10.96.{}.{}", n / 250, n % 250), "b1"));
    put(&mut observed, "agents", "bot", services.chain([endpoint("10.244.1.5", "b1")]).collect());
    let now = believed(&observed);
    let kept = now.exports[0].ports[0].backends.len();
    assert_eq!(kept, MAX_FORBIDDEN + 1, "the pod's is not among those that are left out");
    assert!(now.forbidden.len() <= MAX_FORBIDDEN + 1, "{}", now.forbidden.len());
    assert_eq!(dials(&observed), Ok(vec!["10.244.1.5:15080".into()]));
}

#[test]
fn endpoints_of_others_do_not_count_and_are_the_reason_that_is_told() {
    let elsewhere = |kind: &str| {
        let mut one = endpoint("10.244.9.9", "b1");
        match kind {
            // As of Knative's activator, and as of an endpoint that somebody wrote by hand.
            "another namespace's" => one["targetRef"]["namespace"] = "knative-serving".into(),
            "no pod" => drop(one.as_object_mut().unwrap().remove("targetRef")),
            // Not a pod of ours that we know: it may only just have begun.
            _ => {}
        }
        let mut observed = observed();
        put(&mut observed, "agents", "bot", json!([one]));
        observed
    };
    for kind in ["another namespace's", "no pod"] {
        assert_eq!(dials(&elsewhere(kind)), Err(Code::BackendForeign), "{kind}");
        let mut named = elsewhere(kind);
        named.exports.values_mut().for_each(|e| e.any_endpoint = true);
        assert_eq!(dials(&named), Ok(vec!["10.244.9.9:15080".into()]), "{kind}");
    }
    assert_eq!(dials(&elsewhere("unknown")), Err(Code::NoBackend));
}
