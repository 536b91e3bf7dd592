use std::sync::Arc;
use std::time::Duration;

use adit_core::fault::BackendFault;
use adit_core::policy::WorkloadPattern;
use adit_core::snapshot::{Class, ClusterView, Hop, PeerExport, PeerPort};
use adit_pki::{ClusterAuthority, KeyKind, SigningRequest, UnixTime};
use adit_runtime::Tasks;
use k8s_openapi::ByteString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::fake_api_server::{FakeApiServer, Fault, eventually};
use crate::summary::{NodesSummary, SummaryItem};

const CONFIGS: &str = "/configmaps";
const SERVICES: &str = "/services";
const SLICES: &str = "discovery.k8s.io/endpointslices";
const IMPORTS: &str = "adit.dev/imports";
const EXPORTS: &str = "adit.dev/exports";
const LINKS: &str = "adit.dev/links";
const LEASES: &str = "coordination.k8s.io/leases";
const EVENTS: &str = "events.k8s.io/events";
const REQUESTS: &str = "certificates.k8s.io/certificatesigningrequests";

/// A cluster `edge`, linked with `bank`, whose agents/fraud-bot it imports; and its controllers.
struct ControllerStage {
    server: FakeApiServer,
    peers: watch::Sender<Arc<LinkedClusters>>,
    observers: Vec<watch::Receiver<Option<Arc<ObserverConfig>>>>,
    states: Vec<watch::Receiver<ControllerState>>,
    tasks: JoinSet<()>,
}

fn bundle_of(cluster: &str) -> String {
    let domain = format!("{cluster}.adit.internal").parse().unwrap();
    let year = Duration::from_secs(365 * 24 * 3600);
    let ca = ClusterAuthority::create(domain, KeyKind::P256, year, UnixTime::now()).unwrap();
    ca.bundle().unwrap().to_pem()
}

fn config(more: &str) -> Value {
    let bundle = bundle_of("bank").replace('\n', "\n      ");
    let text = format!(
        "cluster: edge\nlinks:\n  - cluster: bank\n    trustDomain: bank.adit.internal\n    \
         trustBundle: |\n      {bundle}\n{more}"
    );
    json!({"metadata": {"name": "adit", "namespace": "adit-system"}, "data": {"cluster.yaml": text}})
}

const IMPORT: &str = "imports:\n  - service: agents/fraud-bot\n    from: bank\n";

pub(super) fn anybody() -> WorkloadPattern {
    WorkloadPattern { namespace: "*".parse().unwrap(), service_account: "*".parse().unwrap() }
}

fn settings(pod: &str) -> ControllerPod {
    ControllerPod { pod_name: pod.into(), pod_uid: "1".into(), namespace: "adit-system".into() }
}

impl ControllerStage {
    fn new(more: &str) -> Self {
        let server = FakeApiServer::default();
        for name in ["adit-system", "agents"] {
            server.put("/namespaces", json!({"metadata": {"name": name}}));
        }
        server.put(CONFIGS, config(more));
        let peers = watch::Sender::new(Arc::new(LinkedClusters::default()));
        let (observers, states) = (Vec::new(), Vec::new());
        Self { server, peers, observers, states, tasks: JoinSet::new() }
    }

    fn start(&mut self, pod: &str) -> CancellationToken {
        let stop = CancellationToken::new();
        let settings = settings(pod);
        let observer = watch::Sender::new(None);
        self.observers.push(observer.subscribe());
        let (client, peers) = (self.server.client(), self.peers.subscribe());
        let (state, ended) = (watch::Sender::default(), stop.clone());
        let mut told: watch::Receiver<ControllerState> = state.subscribe();
        self.states.push(told.clone());
        let name = pod.to_owned();
        // Shown where a test fails.
        self.tasks.spawn(async move {
            while told.changed().await.is_ok() {
                println!("{name}: {:?}", *told.borrow_and_update());
            }
        });
        self.tasks.spawn(async move {
            let nodes = watch::Sender::default().subscribe();
            run(client, settings, observer, peers, nodes, state, ended).await.unwrap();
        });
        stop
    }

    /// Has nodes report bank with so many ready backends of fraud-bot; with none, bank does not
    /// export it.
    fn hear(&self, ready: Option<u32>) {
        self.hear_ports(&[("http", 8080)], ready);
    }

    fn hear_ports(&self, ports: &[(&str, u16)], ready: Option<u32>) {
        self.hear_faulty(ports, ready, None);
    }

    fn hear_faulty(&self, ports: &[(&str, u16)], ready: Option<u32>, fault: Option<BackendFault>) {
        let mut view = ClusterView::default();
        view.nodes.insert("b1".parse().unwrap(), vec!["172.18.2.2:7843".parse().unwrap()]);
        if let Some(ready) = ready {
            let port = |(name, number): &(&str, u16)| PeerPort {
                name: name.parse().unwrap(),
                number: *number,
                app_protocol: Some("kgateway.dev/a2a".parse().unwrap()),
                ready: [("b1".parse().unwrap(), ready)].into(),
                fault,
            };
            let export = PeerExport {
                ports: ports.iter().map(port).collect(),
                grants: vec![anybody()],
                hop: Hop::Any,
                class: Class::Interactive,
                replay: false,
                hold: None,
            };
            view.exports.insert("agents/fraud-bot".parse().unwrap(), Arc::new(export));
        }
        let heard = ObservedPeer { view: Arc::new(view), live: true };
        let clusters = [("bank".parse().unwrap(), heard)].into();
        let nodes = Arc::clone(&self.peers.borrow().nodes);
        self.peers.send_replace(Arc::new(LinkedClusters { reporting: true, clusters, nodes }));
    }

    /// Has nodes report these items of themselves.
    fn say(&self, items: Vec<SummaryItem>) {
        self.sum_up(NodesSummary { answered: 2, items, ..NodesSummary::default() });
    }

    fn sum_up(&self, nodes: NodesSummary) {
        let nodes = Arc::new(nodes);
        self.peers.send_modify(|peers| {
            *peers = Arc::new(LinkedClusters { nodes, ..LinkedClusters::clone(peers) });
        });
    }

    fn slice(&self) -> Option<Value> {
        self.server.get(SLICES, "agents", "fraud-bot-adit-ipv4")
    }

    /// The readiness of the slice, if there is one.
    fn ready(&self) -> Option<bool> {
        self.slice()?["endpoints"][0]["conditions"]["ready"].as_bool()
    }

    fn condition(&self, collection: &str, name: &str, kind: &str) -> Option<(String, String)> {
        let object = self.server.get(collection, "", name)?;
        let all = object["status"]["conditions"].as_array()?.clone();
        let one = all.into_iter().find(|c| c["type"] == kind)?;
        Some((one["status"].as_str()?.into(), one["reason"].as_str()?.into()))
    }

    fn import_says(&self, status: &str, reason: &str) -> bool {
        let says = self.condition(IMPORTS, "agents.fraud-bot", "Ready");
        says == Some((status.into(), reason.into()))
    }

    /// All writes so far, except those of the lease.
    fn writes(&self) -> Vec<String> {
        self.server.requests(|r| !r.starts_with("GET") && !r.contains("/leases"))
    }
}

/// A slice of the Service's own pod.
fn own_slice(ready: bool) -> Value {
    json!({"metadata": {"name": "fraud-bot-x", "namespace": "agents",
        "labels": {"kubernetes.io/service-name": "fraud-bot"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.0.9"], "conditions": {"ready": ready}}]})
}

/// Puts a Service and an Agent of kagent's there that is to have so many pods.
fn kagents_stub(server: &FakeApiServer, replicas: u32) {
    let spec =
        json!({"type": "BYO", "byo": {"deployment": {"image": "none", "replicas": replicas}}});
    let agent =
        json!({"metadata": {"name": "fraud-bot", "namespace": "agents", "uid": "a"}, "spec": spec});
    server.put("kagent.dev/agents", agent);
    let owner = json!([{"apiVersion": "kagent.dev/v1alpha2", "kind": "Agent", "name": "fraud-bot",
        "uid": "a", "controller": true}]);
    server.put(
        SERVICES,
        json!({"metadata": {"name": "fraud-bot", "namespace": "agents", "uid": "s", "ownerReferences": owner},
            "spec": {"ports": [{"name": "http", "port": 8080}], "ipFamilies": ["IPv4"],
                "selector": {"app": "kagent", "kagent": "fraud-bot"}}}),
    );
}

mod agents;
mod aliases;
fn events(server: &FakeApiServer, reason: &str) -> usize {
    server.all(EVENTS).iter().filter(|e| e["reason"] == reason).count()
}

/// An Agent that exports itself, and the Service that kagent made for it.
fn agent(server: &FakeApiServer) {
    let meta = json!({"name": "bot", "namespace": "agents",
        "annotations": {"adit.dev/export": "bank", "adit.dev/allow": "bank/*/*"}});
    server.put("kagent.dev/agents", json!({"metadata": meta}));
    let owner = json!([{"apiVersion": "kagent.dev/v1alpha2", "kind": "Agent", "name": "bot",
        "uid": "1", "controller": true}]);
    server.put(
        SERVICES,
        json!({"metadata": {"name": "bot", "namespace": "agents", "ownerReferences": owner},
            "spec": {"ports": [{"name": "http", "port": 8080}], "ipFamilies": ["IPv4"]}}),
    );
}

/// Opens all namespaces to bank.
const OPENED: &str = "    import: {namespaces: [\"*\"]}\n";

fn request(name: &str, node: &str, pod: &str) -> Value {
    let id = format!("spiffe://edge.adit.internal/adit/node/{node}").parse().unwrap();
    let request = SigningRequest::new(&id, KeyKind::P256).unwrap();
    let pem = ByteString(request.pem().as_bytes().to_vec());
    json!({"metadata": {"name": name}, "spec": {"signerName": "adit.dev/node", "request": pem,
        "usages": ["digital signature", "client auth", "server auth"], "expirationSeconds": 86400,
        "username": "system:serviceaccount:adit-system:adit-node",
        "extra": {"authentication.kubernetes.io/node-name": [node],
            "authentication.kubernetes.io/pod-name": [pod],
            "authentication.kubernetes.io/pod-uid": ["uid-of-pod"]}}})
}

/// The daemon on node e1.
fn put_pod(server: &FakeApiServer) {
    let owner = json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "adit-node",
        "uid": "d", "controller": true}]);
    let pod = json!({"metadata": {"name": "adit-node-1", "namespace": "adit-system",
        "uid": "uid-of-pod", "ownerReferences": owner}, "spec": {"nodeName": "e1", "containers": []}});
    server.put("/pods", pod);
}

mod certificates;
mod export_ready;
mod exports;
mod imports;
mod links;
mod migration;
mod nodes;
mod withdrawn;
mod writes;
