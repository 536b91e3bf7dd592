use super::*;
use serde_json::json;

use crate::node::observed;

fn place() -> NodeLocation {
    NodeLocation { node: "b1".parse().unwrap(), addresses: vec!["172.18.2.2".parse().unwrap()] }
}

/// `bank`, linked with `edge`.
fn config() -> ClusterConfig {
    let link = "links: [{cluster: edge, trustDomain: edge.adit.internal, trustBundle: PEM}]";
    let fragment = format!("cluster: bank\n{link}\n");
    adit_config::parse_cluster(&[("cluster.yaml".to_owned(), fragment)].into()).unwrap().0
}

fn slice(service: &str, ports: serde_json::Value, endpoints: serde_json::Value) -> ObservedSlice {
    let slice = json!({
        "metadata": {"name": "x", "namespace": "agents", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    });
    ObservedSlice::from_slice(&serde_json::from_value(slice).unwrap()).unwrap()
}

fn export() -> ExportSpec {
    serde_json::from_value(json!({
        "service": {"namespace": "agents", "name": "fraud-bot"},
        "ports": [{"name": "http", "number": 8080, "appProtocol": "kgateway.dev/a2a"}],
        "allow": [
            {"cluster": "edge", "namespace": "agents", "serviceAccount": "support-bot"},
            {"cluster": "gone", "namespace": "*", "serviceAccount": "*"},
        ],
    }))
    .unwrap()
}

fn import() -> ImportSpec {
    serde_json::from_value(json!({
        "service": {"namespace": "agents", "name": "support-bot"}, "from": "edge",
        "addresses": ["198.18.0.7", "fd00:ad17::7"],
        "ports": [{"name": "http", "number": 80, "listen": 15080}, {"name": "grpc", "number": 81, "listen": 15081}],
        "allow": [{"namespace": "agents", "serviceAccount": "*"}],
    }))
    .unwrap()
}

fn pod(uid: &str, ip: &str, account: &str) -> (String, observed::ObservedPod) {
    let workload = observed::ObservedPod {
        uid: uid.into(),
        namespace: "agents".into(),
        service_account: account.into(),
        addresses: vec![ip.parse().unwrap()],
        ending: false,
        started_at: None,
    };
    (format!("agents/{uid}"), workload)
}

fn of(observed: &ObservedCluster) -> NodeState {
    node_state(observed, &config(), &place())
}

#[test]
fn backends_are_the_ready_endpoints_of_the_ports_name() {
    let ports = json!([{"name": "http", "port": 9000}, {"name": "metrics", "port": 9100}]);
    let pod = json!({"kind": "Pod", "namespace": "agents", "name": "x"});
    let pods = json!([
        {"addresses": ["10.244.0.5"], "nodeName": "b2", "targetRef": pod},
        {"addresses": ["10.244.0.6"], "nodeName": "b1", "targetRef": pod, "conditions": {"ready": false, "serving": true}},
        {"addresses": ["10.96.7.7"], "conditions": {"ready": true}},
    ]);
    let other = slice("triage-bot", json!([{"name": "http", "port": 1}]), pods.clone());
    let mut own = slice(NODE, json!([]), json!([{"addresses": ["172.18.2.3"], "nodeName": "b2"}]));
    own.service.namespace = NAMESPACE.into();
    let behind = slice("fraud-bot", ports, pods);
    let mut observed = ObservedCluster {
        exports: [("agents.fraud-bot".into(), export())].into(),
        slices: [("1".into(), behind), ("2".into(), other), ("3".into(), own)].into(),
        ..ObservedCluster::default()
    };
    let found = |now: &NodeState| -> Vec<(String, String)> {
        let [export] = now.exports.as_slice() else { panic!("{now:?}") };
        let backends = export.ports[0].backends.iter();
        backends.map(|b| (b.address.to_string(), b.node.to_string())).collect()
    };
    let pod = ("10.244.0.5:9000".to_owned(), "b2".to_owned());
    assert_eq!(found(&of(&observed)), std::slice::from_ref(&pod));
    // An address that is no pod is dialled if an administrator named the Service, by whichever node
    // takes the stream.
    for export in observed.exports.values_mut() {
        export.any_endpoint = true;
    }
    let now = of(&observed);
    assert_eq!(found(&now), [("10.96.7.7:9000".into(), "b1".into()), pod]);
    let [export] = now.exports.as_slice() else { panic!("{now:?}") };
    assert!(export.ports[0].backends.iter().all(|b| !b.explicit));
    assert_eq!(export.allow.len(), 1, "who is not linked has no grant");
    assert_eq!(now.problems, [""; 0]);
}

#[test]
fn an_import_listens_at_its_addresses_until_it_is_given_up() {
    let mut observed =
        ObservedCluster { imports: [("x".into(), import())].into(), ..ObservedCluster::default() };
    let listen = |observed: &ObservedCluster| -> Vec<String> {
        let now = of(observed);
        let ports = now.imports.iter().flat_map(|i| &i.ports);
        ports.flat_map(|p| &p.listen).map(ToString::to_string).collect()
    };
    let both =
        ["198.18.0.7:15080", "[fd00:ad17::7]:15080", "198.18.0.7:15081", "[fd00:ad17::7]:15081"];
    assert_eq!(listen(&observed), both);
    let change = |observed: &mut ObservedCluster, f: fn(&mut ImportSpec)| {
        f(observed.imports.get_mut("x").unwrap())
    };
    change(&mut observed, |i| i.addresses.clear());
    assert_eq!(listen(&observed), [""; 0], "it has no address yet");
    let mut config = config();
    config.network.mode = NetworkMode::NodeAddress;
    let now = node_state(&observed, &config, &place());
    let own: Vec<_> = now.imports[0].ports.iter().flat_map(|p| &p.listen).collect();
    assert_eq!(own, [&"172.18.2.2:15080".parse().unwrap(), &"172.18.2.2:15081".parse().unwrap()]);
    change(&mut observed, |i| i.addresses.push("198.18.0.7".into()));
    change(&mut observed, |i| i.from = "gone".into());
    assert_eq!(listen(&observed), [""; 0], "no link");
    change(&mut observed, |i| i.from = "edge".into());
    change(&mut observed, |i| i.released_at = Some("2026-11-21T17:00:00Z".into()));
    assert_eq!(listen(&observed), [""; 0], "given up");
}

#[test]
fn an_object_that_makes_no_sense_leaves_the_others_alone() {
    let bad = ExportSpec { hop: Some("sideways".into()), ..export() };
    let mut worse = import();
    worse.addresses = vec!["here".into()];
    let observed = ObservedCluster {
        exports: [("a.bad".into(), bad), ("agents.fraud-bot".into(), export())].into(),
        imports: [("a.worse".into(), worse), ("x".into(), import())].into(),
        ..ObservedCluster::default()
    };
    let now = of(&observed);
    assert_eq!((now.exports.len(), now.imports.len(), now.problems.len()), (1, 1, 2));
    assert!(now.problems[0].starts_with("import a.worse is left out"), "{:?}", now.problems);
    assert!(now.problems[1].contains("sideways"), "{:?}", now.problems);
}

#[test]
fn an_address_that_two_claim_is_nobodys() {
    let two = |a, b| ObservedCluster { pods: [a, b].into(), ..ObservedCluster::default() };
    let apart = of(&two(pod("1", "10.244.0.5", "x"), pod("2", "10.244.0.6", "y")));
    assert_eq!(apart.workloads.len(), 2);
    let disputed = of(&two(pod("1", "10.244.0.5", "x"), pod("2", "10.244.0.5", "y")));
    assert!(disputed.workloads.is_empty());
    // An address is passed on before the API server knows that the previous pod is gone.
    for ended in [0, 1] {
        let mut pods = [pod("1", "10.244.0.5", "x"), pod("2", "10.244.0.5", "y")];
        pods[ended].1.ending = true;
        let now = of(&ObservedCluster { pods: pods.clone().into(), ..ObservedCluster::default() });
        let [owner] = now.workloads.values().collect::<Vec<_>>()[..] else { panic!("{now:?}") };
        assert_eq!(owner.service_account.as_str(), ["y", "x"][ended]);
        pods[1 - ended].1.ending = true;
        let both = of(&ObservedCluster { pods: pods.into(), ..ObservedCluster::default() });
        assert!(both.workloads.is_empty(), "either may have it still");
    }
    let same = of(&two(pod("1", "10.244.0.5", "x"), pod("2", "10.244.0.5", "x")));
    assert_eq!(same.workloads.len(), 1, "who it is does not hang on which of them it is");
}

#[test]
fn a_pod_counts_while_it_runs_and_has_an_address_of_its_own() {
    let of = |phase: &str, host: bool, ips: serde_json::Value| {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "agents", "uid": "1"},
            "spec": {"containers": [], "hostNetwork": host},
            "status": {"phase": phase, "podIPs": ips},
        });
        observed::ObservedPod::from_pod(&serde_json::from_value(pod).unwrap())
    };
    let ip = json!([{"ip": "10.244.0.5"}]);
    assert_eq!(of("Running", false, ip.clone()).unwrap().service_account, "default");
    assert!(of("Pending", false, ip.clone()).is_some(), "it may speak before it is Running");
    assert!(of("Succeeded", false, ip.clone()).is_none());
    assert!(of("Failed", false, ip.clone()).is_none());
    assert!(of("Running", true, ip).is_none());
    assert!(of("Pending", false, json!([])).is_none());
}

#[test]
fn a_pod_that_is_deleted_counts_until_its_last_container_has_ended() {
    let of = |deleted: bool, ended: [bool; 2]| {
        let state = |ended| {
            if ended { json!({"terminated": {"exitCode": 0}}) } else { json!({"running": {}}) }
        };
        let status = |name, ended| json!([{"name": name, "state": state(ended), "image": "", "imageID": "", "ready": false, "restartCount": 0}]);
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "agents", "uid": "1"},
            "spec": {"containers": []},
            "status": {"phase": "Running", "podIPs": [{"ip": "::ffff:10.244.0.5"}],
                "containerStatuses": status("bot", ended[0]), "initContainerStatuses": status("sidecar", ended[1])},
        });
        if deleted {
            pod["metadata"]["deletionTimestamp"] = "2026-11-21T17:00:00Z".into();
        }
        observed::ObservedPod::from_pod(&serde_json::from_value(pod).unwrap()).map(|w| w.ending)
    };
    assert_eq!(of(false, [true, true]), Some(false), "its containers begin again");
    assert_eq!(of(true, [false, true]), Some(true));
    assert_eq!(of(true, [true, false]), Some(true), "a sidecar still speaks");
    assert_eq!(of(true, [true, true]), None);
}

#[test]
fn nodes_and_our_own_range_are_nobodys_backends() {
    let ports = json!([{"name": "http", "port": 9000}]);
    let forged = json!([
        {"addresses": ["172.18.2.2"]}, {"addresses": ["172.18.2.3"]},
        {"addresses": ["198.19.255.254"]}, {"addresses": ["198.20.0.1"]},
    ]);
    let nodes = json!([
        {"addresses": ["172.18.2.2"], "nodeName": "b1"}, {"addresses": ["172.18.2.3"], "nodeName": "b2"},
    ]);
    let mut own = slice(NODE, json!([]), nodes);
    own.service.namespace = NAMESPACE.into();
    let named = ExportSpec { any_endpoint: true, ..export() };
    let observed = ObservedCluster {
        exports: [("agents.fraud-bot".into(), named)].into(),
        slices: [("1".into(), slice("fraud-bot", ports, forged)), ("2".into(), own)].into(),
        ..ObservedCluster::default()
    };
    let now = of(&observed);
    // They stay among the backends, so that the reason why nobody dials them can be told.
    let all = now.exports[0].ports[0].backends.iter().map(|b| b.address);
    let found: Vec<_> = all.filter(|a| !now.forbidden.contains(&a.ip())).collect();
    assert_eq!(found, ["198.20.0.1:9000".parse().unwrap()]);
}

#[test]
fn siblings_are_the_other_nodes_and_the_api_server_is_nobodys_backend() {
    let named = |namespace: &str, name: &str, endpoints| {
        let mut s = slice(name, json!([{"name": "", "port": 1}]), endpoints);
        s.service.namespace = namespace.into();
        (format!("{namespace}/{name}"), s)
    };
    let nodes = json!([
        {"addresses": ["172.18.2.2"], "nodeName": "b1"},
        {"addresses": ["172.18.2.3"], "nodeName": "b2", "conditions": {"ready": false}},
    ]);
    let server = json!([{"addresses": ["172.18.2.1"]}]);
    let observed = ObservedCluster {
        slices: [named(NAMESPACE, NODE, nodes), named("default", "kubernetes", server)].into(),
        links: [("edge".into(), vec!["172.18.1.2:7843".into(), "junk".into()])].into(),
        ..ObservedCluster::default()
    };
    let now = of(&observed);
    assert_eq!(
        now.siblings,
        [("b2".parse().unwrap(), vec!["172.18.2.3:7843".parse().unwrap()])].into()
    );
    assert_eq!(now.forbidden, ["172.18.2.1".parse().unwrap()].into());
    assert_eq!(now.seeds.values().next().unwrap().len(), 1);
}

#[test]
fn our_own_slice_is_nobodys_backend() {
    let slice = json!({
        "metadata": {"name": "x", "namespace": "agents", "labels": {
            "kubernetes.io/service-name": "a", "endpointslice.kubernetes.io/managed-by": SLICE_MANAGED_BY_US}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["198.18.0.7"]}],
    });
    assert_eq!(ObservedSlice::from_slice(&serde_json::from_value(slice).unwrap()), None);
}

const SLICE_MANAGED_BY_US: &str = crate::api::SLICE_MANAGED_BY.1;

#[test]
fn what_was_seen_survives_the_disk() {
    let observed = ObservedCluster {
        exports: [("e".into(), export())].into(),
        imports: [("i".into(), import())].into(),
        pods: [pod("1", "10.244.0.5", "x")].into(),
        bundle: Some("PEM".into()),
        ..ObservedCluster::default()
    };
    let text = serde_json::to_string(&observed).unwrap();
    assert_eq!(serde_json::from_str::<ObservedCluster>(&text).unwrap(), observed);
}

#[test]
fn an_alias_leads_to_the_endpoints_of_its_service() {
    let ports = json!([{"name": "http", "port": 8080}]);
    let ends = |ip: &str| json!([{"addresses": [ip], "nodeName": "b1", "targetRef": {"kind": "Pod", "namespace": "agents"}}]);
    let spec = ExportSpec {
        service: ServiceRef { namespace: "elsewhere".into(), name: "bank-bot".into() },
        backend_service: Some(export().service),
        ..export()
    };
    let mut observed = ObservedCluster {
        exports: [("elsewhere.bank-bot".to_owned(), spec)].into(),
        pods: [pod("p", "10.0.0.7", "fraud-bot"), pod("q", "10.0.0.8", "fraud-bot")].into(),
        ..ObservedCluster::default()
    };
    let slices = [
        slice("fraud-bot", ports.clone(), ends("10.0.0.7")),
        slice("bank-bot", ports, ends("10.0.0.8")),
    ];
    observed.slices =
        slices.into_iter().enumerate().map(|(n, s)| (format!("agents/{n}"), s)).collect();
    let now = of(&observed);
    let export = &now.exports[0];
    assert_eq!(export.service.to_string(), "elsewhere/bank-bot");
    let all: Vec<_> = export.ports[0].backends.iter().map(|b| b.address.to_string()).collect();
    assert_eq!(all, ["10.0.0.7:8080"]);
}
