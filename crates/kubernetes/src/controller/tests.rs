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

mod agents;
mod aliases;
mod export_ready;
mod migration;
mod nodes;
mod withdrawn;

#[tokio::test(start_paused = true)]
async fn an_import_gets_its_service_address_and_slice_and_then_nothing_more_is_written() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(2));
    eventually("slice", || stage.ready() == Some(true)).await;
    eventually("condition", || stage.import_says("True", "Ready")).await;
    let slice = stage.slice().unwrap();
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["198.18.0.1"]));
    let port = json!([{"name": "http", "port": 15080, "protocol": "TCP",
        "appProtocol": "kgateway.dev/a2a"}]);
    assert_eq!(slice["ports"], port);
    assert_eq!(slice["metadata"]["ownerReferences"][0]["name"], "adit-system");
    let stub = stage.server.get(SERVICES, "agents", "fraud-bot").unwrap();
    assert_eq!(stub["spec"]["ports"][0]["port"], 8080);
    assert!(stub["spec"]["selector"].is_null());
    let link = stage.server.get(LINKS, "", "bank").unwrap();
    assert_eq!(link["spec"]["addresses"], json!(["172.18.2.2:7843"]));
    eventually("link", || {
        stage.condition(LINKS, "bank", "Up") == Some(("True".into(), "LinkUp".into()))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = stage.writes();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(stage.writes(), before, "nothing has changed");
}

#[tokio::test(start_paused = true)]
async fn ready_tells_the_truth_after_a_while_and_stays_while_nobody_reports() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    stage.hear(Some(0));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.ready(), Some(true), "two seconds are no news");
    eventually("not ready", || stage.import_says("False", "NoBackend")).await;
    let slice = stage.slice().unwrap();
    let said = &slice["endpoints"][0]["conditions"];
    // What kube-proxy goes on using where nothing is ready, so that our listener refuses.
    assert_eq!(*said, json!({"ready": false, "serving": true, "terminating": true}));
    stage.hear(None);
    eventually("withdrawn", || stage.import_says("False", "Withdrawn")).await;
    stage.hear(Some(1));
    eventually("ready again", || stage.ready() == Some(true)).await;
    stage.peers.send_replace(Arc::new(LinkedClusters::default()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.ready(), Some(true), "nobody looks");
    let silent = LinkedClusters { reporting: true, ..LinkedClusters::default() };
    stage.peers.send_replace(Arc::new(silent));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.ready(), Some(true), "nobody looks there");
    let up = stage.condition(LINKS, "bank", "Up").unwrap();
    assert_eq!(up, ("True".into(), "LinkUp".into()));
    assert!(stage.import_says("True", "Ready"));
}

#[tokio::test(start_paused = true)]
async fn what_is_ours_comes_back_and_what_was_asked_for_goes_with_the_request() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    stage.server.delete(SLICES, "agents", "fraud-bot-adit-ipv4");
    stage.server.delete(SERVICES, "agents", "fraud-bot");
    eventually("both again", || {
        stage.ready() == Some(true) && stage.server.get(SERVICES, "agents", "fraud-bot").is_some()
    })
    .await;
    stage.server.put(CONFIGS, config(""));
    eventually("release", || {
        let import = stage.server.get(IMPORTS, "", "agents.fraud-bot").unwrap();
        let ready = &import["status"]["conditions"][0];
        import["spec"]["releasedAt"].is_string() && ready["reason"] == "Released"
    })
    .await;
    eventually("all gone", || stage.server.all(SERVICES).is_empty() && stage.slice().is_none())
        .await;
    stage.server.put(CONFIGS, config(IMPORT));
    eventually("its old address", || {
        stage.slice().is_some_and(|s| s["endpoints"][0]["addresses"][0] == "198.18.0.1")
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_service_of_somebody_else_is_filled_and_never_edited_or_deleted() {
    let mut stage = ControllerStage::new(IMPORT);
    let theirs = json!({"metadata": {"name": "fraud-bot", "namespace": "agents", "uid": "theirs"},
        "spec": {"ports": [{"port": 80}], "selector": {"kagent": "fraud-bot"}, "ipFamilies": ["IPv4"]}});
    stage.server.put(SERVICES, theirs);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    assert_eq!(stage.slice().unwrap()["ports"][0]["name"], "", "as the stub calls its port");
    // Somebody scales the stub up.
    stage.server.put(SLICES, own_slice(false));
    eventually("withdrawn", || stage.slice().is_none()).await;
    eventually("told", || stage.import_says("False", "ServiceHasOwnEndpoints")).await;
    eventually("an Event", || {
        stage.server.all(EVENTS).iter().any(|e| e["reason"] == "ServiceHasOwnEndpoints")
    })
    .await;
    stage.server.delete(SLICES, "agents", "fraud-bot-x");
    eventually("filled again", || stage.ready() == Some(true)).await;
    stage.server.put(CONFIGS, config(""));
    eventually("slice gone", || stage.slice().is_none()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let edits = stage.writes().into_iter().filter(|w| w.contains("/services/fraud-bot"));
    assert_eq!(edits.collect::<Vec<_>>(), Vec::<String>::new());
}

/// A slice of the Service's own pod.
fn own_slice(ready: bool) -> Value {
    json!({"metadata": {"name": "fraud-bot-x", "namespace": "agents",
        "labels": {"kubernetes.io/service-name": "fraud-bot"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.0.9"], "conditions": {"ready": ready}}]})
}

/// Opens all namespaces to bank.
const OPENED: &str = "    import: {namespaces: [\"*\"]}\n";

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

#[tokio::test(start_paused = true)]
async fn kagents_stub_is_filled_by_itself_until_its_agent_gets_pods() {
    let mut stage = ControllerStage::new(OPENED);
    kagents_stub(&stage.server, 0);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    kagents_stub(&stage.server, 1);
    eventually("withdrawn before a pod is there", || stage.slice().is_none()).await;
    eventually("told", || stage.import_says("False", "HasSelector")).await;
    eventually("an Event", || events(&stage.server, "HasSelector") == 1).await;
    kagents_stub(&stage.server, 0);
    eventually("filled again", || stage.ready() == Some(true)).await;
}

/// A mesh, another operator or somebody by hand fills what was imported by itself: nothing is led to bank then, and the
/// import stays and says so, until they are gone, or the Import is: that is how somebody says that it was meant.
#[tokio::test(start_paused = true)]
async fn an_import_that_others_endpoints_take_the_place_of_stays_and_says_so() {
    for ready in [true, false] {
        let mut stage = ControllerStage::new(OPENED);
        kagents_stub(&stage.server, 0);
        let first = stage.start("one");
        stage.hear(Some(1));
        eventually("ready", || stage.ready() == Some(true)).await;
        let address = |s: &ControllerStage| {
            let import = s.server.get(IMPORTS, "", "agents.fraud-bot")?;
            import["spec"]["releasedAt"].is_null().then(|| import["spec"]["addresses"].clone())
        };
        let before = address(&stage).unwrap();
        stage.server.put(SLICES, own_slice(ready));
        eventually("not led there", || stage.slice().is_none()).await;
        eventually("told", || stage.import_says("False", "ServiceHasOwnEndpoints")).await;
        eventually("an Event", || events(&stage.server, "ServiceHasOwnEndpoints") == 1).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(stage.import_says("False", "ServiceHasOwnEndpoints"));
        let import = stage.server.get(IMPORTS, "", "agents.fraud-bot").unwrap();
        let by = import["spec"]["displacedBy"].as_str().unwrap();
        assert_eq!(by, "EndpointSlice fraud-bot-x (which nobody says to manage)", "for nodes");
        let told = import["status"]["conditions"][0]["message"].as_str().unwrap();
        assert!(
            told.contains(by) && told.contains("kubectl delete import.adit.dev agents.fraud-bot")
        );
        let of_imports =
            |s: &ControllerStage| s.writes().iter().filter(|w| w.contains("/imports/")).count();
        let written = of_imports(&stage);
        first.cancel();
        stage.start("two");
        eventually("another leads", || stage.observers[1].borrow().is_some()).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(of_imports(&stage), written, "another controller finds nothing to say anew");
        stage.server.delete(SLICES, "agents", "fraud-bot-x");
        eventually("filled again", || stage.ready() == Some(true)).await;
        assert_eq!(address(&stage), Some(before), "clients know its address");
        let import = stage.server.get(IMPORTS, "", "agents.fraud-bot").unwrap();
        assert!(import["spec"]["displacedBy"].is_null());
        stage.server.put(SLICES, own_slice(ready));
        eventually("told again", || stage.import_says("False", "ServiceHasOwnEndpoints")).await;
        stage.server.delete(IMPORTS, "", "agents.fraud-bot");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(stage.server.all(IMPORTS), Vec::<Value>::new(), "somebody said so");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_with_a_selector_is_not_filled_unasked() {
    let mut stage = ControllerStage::new(OPENED);
    let theirs = json!({"metadata": {"name": "fraud-bot", "namespace": "agents", "uid": "theirs"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}, "ipFamilies": ["IPv4"]}});
    stage.server.put(SERVICES, theirs);
    stage.start("one");
    stage.hear(Some(1));
    eventually("an Event", || events(&stage.server, "HasSelector") == 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((stage.slice(), stage.server.all(IMPORTS)), (None, vec![]));
    stage.server.put(CONFIGS, config(&format!("{OPENED}{IMPORT}")));
    eventually("somebody named it", || stage.ready() == Some(true)).await;
}

#[tokio::test(start_paused = true)]
async fn who_changes_ports_all_the_time_keeps_no_slice_beside_own_endpoints() {
    let mut stage = ControllerStage::new(IMPORT);
    kagents_stub(&stage.server, 0);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    // No record of ours is ever what the next round wants.
    stage.server.fail(|method, path| {
        (method == "PUT" && path.contains("/imports")).then_some(Fault::Status(500))
    });
    stage.hear_ports(&[("http", 8081)], Some(1));
    stage.server.put(SLICES, own_slice(false));
    eventually("withdrawn", || stage.slice().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_taken_over_is_left_alone() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    let mut stub = stage.server.get(SERVICES, "agents", "fraud-bot").unwrap();
    stub["metadata"]["labels"] = json!({});
    stub["spec"]["ports"] = json!([{"port": 80}]);
    stage.server.put(SERVICES, stub);
    let named = || stage.slice().is_some_and(|s| s["ports"][0]["name"] == "");
    eventually("filled as its owner has it", named).await;
    stage.server.put(CONFIGS, config(""));
    eventually("slice gone", || stage.slice().is_none()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let edits = stage.writes().into_iter().filter(|w| w.contains("/services/fraud-bot"));
    assert_eq!(edits.collect::<Vec<_>>(), Vec::<String>::new());
    assert!(stage.server.get(SERVICES, "agents", "fraud-bot").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_fresh_link_is_no_complaint_before_it_could_be_heard() {
    let mut stage = ControllerStage::new("");
    stage.start("one");
    let silent = LinkedClusters { reporting: true, ..LinkedClusters::default() };
    stage.peers.send_replace(Arc::new(silent.clone()));
    let down = Some(("False".into(), "LinkDown".into()));
    eventually("said", || stage.condition(LINKS, "bank", "Up") == down).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    stage.hear(None);
    let up = || stage.condition(LINKS, "bank", "Up").is_some_and(|(status, _)| status == "True");
    eventually("up", up).await;
    assert_eq!(events(&stage.server, "LinkDown"), 0);
    // One that is lost is told of at once.
    let mut lost = (**stage.peers.borrow()).clone();
    lost.clusters.values_mut().for_each(|heard| heard.live = false);
    stage.peers.send_replace(Arc::new(lost));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(events(&stage.server, "LinkDown"), 1);
    // And one that never comes up, after a while.
    let mut other = ControllerStage::new("");
    other.start("one");
    other.peers.send_replace(Arc::new(silent));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(events(&other.server, "LinkDown"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_written_holds_up_no_other() {
    let both = format!("{IMPORT}  - service: agents/other\n    from: bank\n");
    let mut stage = ControllerStage::new(&both);
    stage.server.fail(|method, path| {
        (method == "POST" && path.contains("endpointslices")).then_some(Fault::Status(429))
    });
    stage.start("one");
    stage.hear(Some(1));
    eventually("the other's condition", || {
        let says = stage.condition(IMPORTS, "agents.other", "Ready");
        says == Some(("False".into(), "NotExported".into()))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let tries = stage.server.requests(|r| r.starts_with("POST") && r.contains("endpointslices"));
    assert!((3..20).contains(&tries.len()), "with pauses: {}", tries.len());
    assert!(stage.import_says("False", "SliceNotWritten"), "nobody is served yet");
    stage.server.heal();
    eventually("slice", || stage.ready() == Some(true)).await;
    eventually("condition", || stage.import_says("True", "Ready")).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_does_not_wait_until_all_is_told() {
    let others = (0..400).map(|n| format!("  - service: agents/other-{n}\n    from: bank\n"));
    let mut stage = ControllerStage::new(&format!("{IMPORT}{}", others.collect::<String>()));
    let is_told = |path: &str| path.contains("/imports/") && path.contains("/status");
    stage
        .server
        .fail(move |_, path| is_told(path).then_some(Fault::Late(Duration::from_millis(100))));
    let told = |stage: &ControllerStage| stage.server.requests(is_told).len();
    stage.hear(None);
    stage.start("one");
    eventually("telling", || told(&stage) > 0).await;
    let before = told(&stage);
    stage.hear(Some(1));
    eventually("slice", || stage.ready() == Some(true)).await;
    let meanwhile = told(&stage) - before;
    assert!(meanwhile < 100, "{meanwhile} were told first, of 400");
    eventually("all is told", || told(&stage) >= 400).await;
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_read_again() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    // The watch says nothing for a while, so that what is stored here is old.
    let mut slice = stage.slice().unwrap();
    slice["endpoints"][0]["addresses"] = json!(["198.18.0.99"]);
    slice["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    stage.server.put(SLICES, slice);
    eventually("as it should be", || {
        stage.slice().unwrap()["endpoints"][0]["addresses"][0] == "198.18.0.1"
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn of_two_controllers_one_writes_and_the_other_takes_over() {
    let mut stage = ControllerStage::new(IMPORT);
    let first = stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    stage.start("two");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(stage.observers[0].borrow().is_some());
    assert!(stage.observers[1].borrow().is_none(), "the other waits");
    first.cancel();
    let began = tokio::time::Instant::now();
    eventually("hand-over", || stage.observers[1].borrow().is_some()).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(stage.observers[0].borrow().is_none());
}

#[tokio::test(start_paused = true)]
async fn who_lost_the_lease_writes_no_more() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    // The API server no longer answers about the lease; all else works.
    stage.server.fail(|_, path| path.contains("/leases").then_some(Fault::Silence));
    tokio::time::sleep(leader::LEASE_LIFETIME).await;
    let before = stage.writes();
    stage.server.delete(SLICES, "agents", "fraud-bot-adit-ipv4");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(stage.writes(), before);
    assert!(stage.observers[0].borrow().is_none());
    stage.server.heal();
    eventually("again", || stage.ready() == Some(true)).await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_configuration_is_told_and_the_last_good_one_stays() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    stage.server.put(CONFIGS, config("importz: []\n"));
    let bad = || stage.condition(LINKS, "bank", "Configured");
    eventually("told", || bad() == Some(("False".into(), "BadConfiguration".into()))).await;
    let events = stage.server.all(EVENTS);
    let event = events.iter().find(|e| e["reason"] == "BadConfiguration").unwrap();
    assert_eq!(event["regarding"]["name"], "adit");
    let note = event["note"].as_str().unwrap();
    assert!(note.starts_with("cluster.yaml:") && note.contains("importz"), "{note}");
    assert_eq!(stage.ready(), Some(true));
    stage.server.put(CONFIGS, config(IMPORT));
    eventually("good", || bad() == Some(("True".into(), "Configured".into()))).await;
}

fn events(server: &FakeApiServer, reason: &str) -> usize {
    server.all(EVENTS).iter().filter(|e| e["reason"] == reason).count()
}

#[tokio::test(start_paused = true)]
async fn what_lasts_is_told_again_and_what_cannot_be_told_is_later() {
    let mut stage = ControllerStage::new("importz: []\n");
    put_pod(&stage.server);
    let first = stage.start("one");
    eventually("told", || events(&stage.server, "BadConfiguration") == 1).await;
    tokio::time::sleep(Duration::from_secs(29 * 60)).await;
    assert_eq!(events(&stage.server, "BadConfiguration"), 1);
    tokio::time::sleep(Duration::from_secs(3 * 60)).await;
    assert_eq!(events(&stage.server, "BadConfiguration"), 2, "Kubernetes forgets in an hour");
    stage.server.put(CONFIGS, config(""));
    eventually("CA", || stage.server.get("/secrets", "adit-system", "adit-ca").is_some()).await;
    first.cancel();
    // What is wrong for a moment is told as well, once Events can be written again.
    stage.server.fail(|_, path| path.contains("/events").then_some(Fault::Status(429)));
    stage.server.put(REQUESTS, request("wrong-node", "e2", "adit-node-1"));
    stage.server.put(CONFIGS, config("exportz: []\n"));
    stage.start("two");
    tokio::time::sleep(Duration::from_secs(5 * 60)).await;
    assert_eq!(events(&stage.server, "Denied"), 0);
    stage.server.heal();
    tokio::time::sleep(Duration::from_secs(5 * 60)).await;
    assert_eq!(events(&stage.server, "Denied"), 1);
    assert_eq!(events(&stage.server, "BadConfiguration"), 3);
}

#[tokio::test(start_paused = true)]
async fn what_ends_and_comes_back_is_told_at_once_and_not_without_end() {
    let mut stage = ControllerStage::new("importz: []\n");
    put_pod(&stage.server);
    stage.start("one");
    let told = || events(&stage.server, "BadConfiguration");
    let five = Duration::from_secs(5);
    eventually("told", || told() == 1).await;
    let come_back = async || {
        stage.server.put(CONFIGS, config(""));
        tokio::time::sleep(five).await;
        stage.server.put(CONFIGS, config("importz: []\n"));
        tokio::time::sleep(five).await;
    };
    for n in 2..=3 {
        come_back().await;
        assert_eq!(told(), n);
    }
    for _ in 0..60 {
        come_back().await;
    }
    assert!((10..=13).contains(&told()), "one a minute: {}", told());
}

#[tokio::test(start_paused = true)]
async fn the_log_that_the_configuration_wants_is_told_and_stays_as_it_was_while_that_is_wrong() {
    let mut stage = ControllerStage::new("log: {level: debug}\n");
    put_pod(&stage.server);
    stage.start("one");
    let state = stage.states[0].clone();
    let level = || Some(state.borrow().log.as_ref()?.level.as_str().to_owned());
    eventually("told", || level().as_deref() == Some("debug")).await;
    stage.server.put(CONFIGS, config("log: {level: warn}\n"));
    eventually("changed", || level().as_deref() == Some("warn")).await;
    stage.server.put(CONFIGS, config("log: {level: loud}\n"));
    eventually("told", || events(&stage.server, "BadConfiguration") == 1).await;
    assert_eq!(level().as_deref(), Some("warn"), "the last good one");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_says_nothing_is_not_taken_for_one_that_answers() {
    let mut stage = ControllerStage::new("");
    put_pod(&stage.server);
    stage.start("one");
    let state = stage.states[0].clone();
    let silence = || state.borrow().answered_at.map(|at| at.elapsed());
    eventually("an answer", || silence().is_some()).await;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(silence().unwrap() < Duration::from_secs(4), "{:?}", silence());
    }
    stage.server.fail(|_, _| Some(Fault::Silence));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(silence().unwrap() >= Duration::from_secs(29), "{:?}", silence());
    stage.server.heal();
    eventually("an answer", || silence() < Some(Duration::from_secs(1))).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_certificates_is_told_while_all_else_is_read() {
    let mut stage = ControllerStage::new("");
    let trust = json!({"metadata": {"name": "adit-trust", "namespace": "adit-system"},
        "data": {"ca.pem": bundle_of("edge")}});
    stage.server.put(CONFIGS, trust);
    stage.server.fail(|_, path| path.contains("/services").then_some(Fault::Status(500)));
    stage.start("one");
    eventually("told", || events(&stage.server, "CaMissing") == 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_lease_tells_what_is_wrong_with_its_holder() {
    let mut stage = ControllerStage::new("importz: []\n");
    stage.server.fail(|_, path| path.contains("/services").then_some(Fault::Status(500)));
    stage.start("one");
    let server = stage.server.clone();
    let told = || {
        let lease = server.get(LEASES, "adit-system", "adit-controller")?;
        lease["metadata"]["annotations"]["adit.dev/trouble"].as_str().map(str::to_owned)
    };
    let says = |what: &str| told().is_some_and(|trouble| trouble.contains(what));
    eventually("reading", || says("waiting for the API server's Services")).await;
    server.heal();
    eventually("waiting", || says("importz")).await;
    server.put(CONFIGS, config(""));
    eventually("well", || told().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn exports_are_resolved_and_kept() {
    let exports = "exports:\n  - service: agents/triage-bot\n    allow:\n      - cluster: bank\n        \
                   namespace: agents\n        serviceAccount: support-bot\n";
    let mut stage = ControllerStage::new(exports);
    stage.start("one");
    let valid = || stage.condition(EXPORTS, "agents.triage-bot", "Valid");
    eventually("no Service", || valid() == Some(("False".into(), "NoService".into()))).await;
    stage.server.put(
        SERVICES,
        json!({"metadata": {"name": "triage-bot", "namespace": "agents"},
            "spec": {"ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]}}),
    );
    eventually("valid", || valid() == Some(("True".into(), "Exported".into()))).await;
    let export = stage.server.get(EXPORTS, "", "agents.triage-bot").unwrap();
    assert_eq!(export["spec"]["ports"], json!([{"name": "http", "number": 8080}]));
    assert_eq!(export["spec"]["allow"][0]["serviceAccount"], "support-bot");
    let linked = || stage.condition(EXPORTS, "agents.triage-bot", "Linked");
    eventually("linked", || linked() == Some(("True".into(), "Linked".into()))).await;
    let no_link = json!({"metadata": {"name": "adit", "namespace": "adit-system"},
        "data": {"cluster.yaml": format!("cluster: edge\n{exports}")}});
    stage.server.put(CONFIGS, no_link);
    eventually("told", || linked() == Some(("False".into(), "NotLinked".into()))).await;
    eventually("an Event", || events(&stage.server, "NotLinked") == 1).await;
    stage.server.put(CONFIGS, config(""));
    eventually("gone", || stage.server.all(EXPORTS).is_empty()).await;
}

/// A tenant's Service that exports itself to bank.
fn tenants(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "tenant",
            "annotations": {"adit.dev/export": "bank", "adit.dev/allow": "bank/*/*"}},
        "spec": {"ports": [{"name": "http", "port": 8080}]}})
}

/// A tenant's Services that export themselves: one with too many ports, one with too many grants, and `count` others;
/// and two of another namespace.
fn put_exports(server: &FakeApiServer, count: usize) {
    server.put("/namespaces", json!({"metadata": {"name": "tenant"}}));
    let mut ports = tenants("ports");
    let many = (1..=101).map(|n| json!({"name": format!("p{n}"), "port": n}));
    ports["spec"]["ports"] = many.collect();
    server.put(SERVICES, ports);
    let mut grants = tenants("grants");
    let many: Vec<String> = (0..501).map(|n| format!("bank/a/b{n}")).collect();
    grants["metadata"]["annotations"]["adit.dev/allow"] = many.join(",").into();
    server.put(SERVICES, grants);
    for n in 0..count {
        server.put(SERVICES, tenants(&format!("z-{n:04}")));
    }
    for name in ["named", "annotated"] {
        let mut other = tenants(name);
        other["metadata"]["namespace"] = "agents".into();
        if name == "named" {
            other["metadata"]["annotations"] = json!({});
        }
        server.put(SERVICES, other);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_tenant_exports_beyond_all_bounds_is_left_out_and_others_come_and_go() {
    let rules = |named: &str| {
        format!("optIn:\n  - namespaces: [tenant, agents]\n    exportTo: [bank]\n{named}")
    };
    let named = "exports:\n  - service: agents/named\n    allow:\n      - cluster: bank\n        \
                 namespace: agents\n        serviceAccount: support-bot\n";
    let mut stage = ControllerStage::new(&rules(named));
    let first_above = export::NAMESPACE_EXPORTS - 2;
    put_exports(&stage.server, first_above + 30);
    stage.start("one");
    let valid = |name: &str| {
        let (status, reason) = stage.condition(EXPORTS, name, "Valid")?;
        let export = stage.server.get(EXPORTS, "", name)?;
        let told = export["spec"]["allow"].as_array().is_some_and(|allow| !allow.is_empty());
        Some((status == "True", reason, told))
    };
    for (name, is_told, reason) in [
        ("agents.named", true, "Exported"),
        ("agents.annotated", true, "Exported"),
        ("tenant.ports", false, "TooManyPorts"),
        ("tenant.grants", false, "TooManyGrants"),
    ] {
        eventually(name, || valid(name) == Some((is_told, reason.into(), is_told))).await;
    }
    let of_tenant = || {
        let all = stage.server.all(EXPORTS).into_iter();
        all.filter(|e| e["spec"]["service"]["namespace"] == "tenant").count()
    };
    eventually("all that may be", || of_tenant() == export::NAMESPACE_EXPORTS).await;
    let last = format!("tenant.z-{:04}", first_above);
    assert_eq!(stage.server.get(EXPORTS, "", &last), None);
    // On the Services, some of them, and on their namespace; and for the administrator.
    eventually("Events", || events(&stage.server, "TooManyExports") == 21).await;
    eventually("a line in the status", || {
        let lease = stage.server.get(LEASES, "adit-system", "adit-controller").unwrap();
        let trouble = lease["metadata"]["annotations"]["adit.dev/trouble"].to_string();
        trouble.contains("30 Services of namespace tenant are not exported")
    })
    .await;
    // Others' go as they came, and a place that is free is taken.
    stage.server.delete(SERVICES, "agents", "annotated");
    stage.server.put(CONFIGS, config(&rules("")));
    stage.server.delete(SERVICES, "tenant", "z-0000");
    eventually("withdrawn", || {
        ["agents.named", "agents.annotated", "tenant.z-0000"]
            .iter()
            .all(|name| stage.server.get(EXPORTS, "", name).is_none())
    })
    .await;
    eventually("its place", || stage.server.get(EXPORTS, "", &last).is_some()).await;
    assert_eq!(of_tenant(), export::NAMESPACE_EXPORTS);
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

#[tokio::test(start_paused = true)]
async fn agents_that_cannot_be_listed_hold_up_nothing_and_lose_nothing() {
    let open = "optIn:\n  - namespaces: [agents]\n    exportTo: [bank]\n";
    let mut stage = ControllerStage::new(open);
    agent(&stage.server);
    let first = stage.start("one");
    eventually("export", || stage.server.get(EXPORTS, "", "agents.bot").is_some()).await;
    first.cancel();
    stage.server.fail(|_, path| path.contains("kagent.dev").then_some(Fault::Status(500)));
    stage.server.put(CONFIGS, config(&format!("{open}{IMPORT}")));
    stage.start("two");
    stage.hear(Some(1));
    eventually("import", || stage.ready() == Some(true)).await;
    assert!(
        stage.server.get(EXPORTS, "", "agents.bot").is_some(),
        "nobody can say it is not wanted"
    );
    stage.server.delete("kagent.dev/agents", "agents", "bot");
    stage.server.heal();
    eventually("its end", || stage.server.get(EXPORTS, "", "agents.bot").is_none()).await;
}

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

#[tokio::test(start_paused = true)]
async fn certificates_need_the_ca_and_nothing_else() {
    let mut stage = ControllerStage::new("");
    put_pod(&stage.server);
    let first = stage.start("one");
    eventually("CA", || stage.server.get("/secrets", "adit-system", "adit-ca").is_some()).await;
    first.cancel();
    stage.server.put(CONFIGS, config("importz: []\n"));
    stage.server.fail(|_, path| path.contains("/services").then_some(Fault::Status(500)));
    stage.server.put(REQUESTS, request("good", "e1", "adit-node-1"));
    stage.start("two");
    let answer = || stage.server.get(REQUESTS, "", "good").unwrap();
    eventually("certificate", || answer()["status"]["certificate"].is_string()).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_own_pods_get_certificates_and_nobody_else() {
    let mut stage = ControllerStage::new("");
    put_pod(&stage.server);
    stage.server.put(REQUESTS, request("good", "e1", "adit-node-1"));
    stage.server.put(REQUESTS, request("wrong-node", "e2", "adit-node-1"));
    stage.server.put(REQUESTS, request("no-pod", "e3", "adit-node-9"));
    let mut stranger = request("stranger", "e1", "adit-node-1");
    stranger["spec"]["username"] = "system:serviceaccount:agents:default".into();
    stage.server.put(REQUESTS, stranger);
    let mut usages = request("usages", "e1", "adit-node-1");
    usages["spec"]["usages"] = json!(["client auth"]);
    usages["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    stage.server.put(REQUESTS, usages);
    stage.start("one");
    let request = |name: &str| stage.server.get(REQUESTS, "", name).unwrap();
    eventually("certificate", || request("good")["status"]["certificate"].is_string()).await;
    assert_eq!(request("good")["status"]["conditions"][0]["type"], "Approved");
    for (bad, reason, why) in [
        ("wrong-node", "NotOurNode", "runs on node"),
        ("no-pod", "NotOurNode", "there is no pod"),
        ("stranger", "NotOurNode", "only system:serviceaccount:adit-system:adit-node"),
        ("usages", "BadRequest", "usages must be"),
    ] {
        let condition = || request(bad)["status"]["conditions"][0].clone();
        eventually(bad, || condition()["type"] == "Denied").await;
        assert!(condition()["message"].as_str().unwrap().contains(why), "{}", condition());
        assert_eq!(condition()["reason"], reason);
        assert!(request(bad)["status"]["certificate"].is_null());
    }
    let bundle = stage.server.get(CONFIGS, "adit-system", "adit-trust").unwrap();
    assert!(bundle["data"]["ca.pem"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE"));
    assert!(stage.server.get("/secrets", "adit-system", "adit-ca").is_some());
}

/// Answers a request by a CA that was created at `made`, valid for an hour.
async fn answered_by_a_ca_of(server: &FakeApiServer, made: UnixTime, request: Value) -> String {
    let domain = "edge.adit.internal".parse().unwrap();
    let hour = Duration::from_secs(3600);
    let ca = ClusterAuthority::create(domain, KeyKind::P256, hour, made).unwrap();
    let (client, mut tasks) = (server.client(), Tasks::default());
    let stores = stores::ControllerStores::watch(
        &client,
        &crate::store::ChangeSignal::default(),
        &mut tasks,
    );
    let request = serde_json::from_value(server.put(REQUESTS, request)).unwrap();
    match signer::answer(&client, &stores, &ca, &request, false).await {
        Ok(refusal) => refusal.unwrap_or_default(),
        Err(error) => format!("{error:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_cannot_sign_now_is_no_fault_of_the_request() {
    let server = FakeApiServer::default();
    put_pod(&server);
    let good = request("good", "e1", "adit-node-1");
    let yesterday =
        UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() - 86400));
    let said = answered_by_a_ca_of(&server, yesterday, good.clone()).await;
    assert_eq!(said, "Ca(NotCurrent)");
    let stored = server.get(REQUESTS, "", "good").unwrap();
    assert!(stored["status"].is_null(), "it stays open: {stored}");
    assert_eq!(answered_by_a_ca_of(&server, UnixTime::now(), good).await, "");
    let mut unreadable = request("unreadable", "e1", "adit-node-1");
    unreadable["spec"]["request"] = json!(ByteString(b"no PEM".to_vec()));
    let said = answered_by_a_ca_of(&server, UnixTime::now(), unreadable).await;
    assert!(!said.is_empty());
    let stored = server.get(REQUESTS, "", "unreadable").unwrap();
    assert_eq!(stored["status"]["conditions"][0]["reason"], "BadRequest");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_goes_back_beyond_the_ca_is_trouble_with_the_ca() {
    let (client, mut tasks) = (FakeApiServer::default().client(), Tasks::default());
    let stores = stores::ControllerStores::watch(
        &client,
        &crate::store::ChangeSignal::default(),
        &mut tasks,
    );
    let domain = "edge.adit.internal".parse().unwrap();
    let now = UnixTime::now();
    let current = ca::ClusterCa::load_or_create(None, &client, &stores, Some(&domain), now);
    let ca = current.await.unwrap();
    let yesterday = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() - 86400));
    let before = ca.as_ref();
    let then =
        ca::ClusterCa::load_or_create(before, &client, &stores, Some(&domain), yesterday).await;
    assert_eq!(then.unwrap_err().reason(), "UnusableCa");
}

#[tokio::test(start_paused = true)]
async fn a_heap_of_old_requests_keeps_no_node_from_its_certificate() {
    let mut stage = ControllerStage::new("");
    put_pod(&stage.server);
    for n in 0..200 {
        let mut old = request(&format!("old-{n:03}"), "e1", "adit-node-1");
        old["metadata"]["creationTimestamp"] = format!("2026-01-01T00:{:02}:00Z", n % 60).into();
        stage.server.put(REQUESTS, old);
    }
    let mut new = request("z-new", "e1", "adit-node-1");
    new["metadata"]["creationTimestamp"] = "2026-01-01T01:00:00Z".into();
    stage.server.put(REQUESTS, new);
    stage.start("one");
    let answer = |name: &str| stage.server.get(REQUESTS, "", name).unwrap()["status"].clone();
    eventually("certificate", || answer("z-new")["certificate"].is_string()).await;
    eventually("end of the heap", || {
        (0..200).all(|n| answer(&format!("old-{n:03}"))["conditions"][0]["reason"] == "Superseded")
    })
    .await;
    let answers = stage.server.requests(|r| r.starts_with("PUT") && r.contains("certificatesign"));
    let first = answers.iter().position(|r| r.contains("z-new")).unwrap();
    assert!(first < 8, "the one that is waited for is among the first: {first}");
    let all = stage.server.requests(|r| r.contains("/links") || r.contains("certificatesign"));
    let link = all.iter().position(|r| r.starts_with("POST") && r.contains("/links")).unwrap();
    let before = all[..link].iter().filter(|r| r.starts_with("PUT")).count();
    assert!(before <= 60, "other writes do not wait for all of them: {before}");
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_otherwise_than_it_is_written_is_written_with_pauses() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    // Not for ever: without pauses no time would pass.
    let mut left = 500;
    stage.server.fail(move |method, path| {
        let keeps = method == "PUT" && path.contains("endpointslices") && left > 0;
        left -= i32::from(keeps);
        keeps.then_some(Fault::Unchanged)
    });
    let mut slice = stage.slice().unwrap();
    slice["endpoints"][0]["addresses"] = json!(["198.18.0.99"]);
    stage.server.put(SLICES, slice);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let tries = stage.server.requests(|r| r.starts_with("PUT") && r.contains("endpointslices"));
    assert!((5..20).contains(&tries.len()), "{}", tries.len());
    let lease = stage.server.get(LEASES, "adit-system", "adit-controller").unwrap();
    let trouble = lease["metadata"]["annotations"]["adit.dev/trouble"].as_str().unwrap().to_owned();
    assert!(trouble.contains("apply the definitions of this version"), "{trouble}");
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_others_believe_is_put_back_and_never_made_anew() {
    let mut stage = ControllerStage::new("");
    let first = stage.start("one");
    let server = stage.server.clone();
    let secret = || server.get("/secrets", "adit-system", "adit-ca");
    let bundle = || server.get(CONFIGS, "adit-system", "adit-trust");
    eventually("CA", || bundle().is_some()).await;
    let (ca, trust) = (secret().unwrap(), bundle().unwrap());
    stage.server.delete("/secrets", "adit-system", "adit-ca");
    eventually("the same again", || secret().is_some_and(|s| s["data"] == ca["data"])).await;
    first.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.server.delete("/secrets", "adit-system", "adit-ca");
    stage.start("two");
    let told = || stage.server.all(EVENTS).iter().any(|e| e["reason"] == "CaMissing");
    eventually("complaint", told).await;
    assert_eq!((secret(), bundle()), (None, Some(trust)));
    stage.server.delete(CONFIGS, "adit-system", "adit-trust");
    eventually("a new one, as was asked for", || secret().is_some() && bundle().is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_cluster_does_not_say_for_a_moment_ends_nothing() {
    let more = "    import: {namespaces: [agents], createServices: true}\n";
    let mut stage = ControllerStage::new(more);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    let service =
        || stage.server.get(SERVICES, "agents", "fraud-bot").map(|s| s["metadata"]["uid"].clone());
    let first = service();
    stage.hear(None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.ready(), Some(true));
    eventually("end", || stage.ready() == Some(false)).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(service(), first, "its address is known to clients");
    stage.hear(Some(1));
    eventually("ready again", || stage.ready() == Some(true)).await;
    assert_eq!(service(), first);
    stage.hear(None);
    eventually("end", || stage.ready() == Some(false)).await;
    stage.server.delete(IMPORTS, "", "agents.fraud-bot");
    eventually("nobody misses it", || service().is_none()).await;
    stage.hear(Some(1));
    eventually("anew", || stage.ready() == Some(true)).await;
    stage.server.put(CONFIGS, config(""));
    eventually("end with the request", || service().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn the_services_that_a_link_had_made_are_taken_back_but_for_those_that_were_taken_over() {
    let opened = "    import: {namespaces: [agents], createServices: true}\n";
    let closed = opened.replace("true", "false");
    for is_taken_over in [false, true] {
        let mut stage = ControllerStage::new(opened);
        stage.start("one");
        stage.hear(Some(1));
        eventually("ready", || stage.ready() == Some(true)).await;
        let service = || stage.server.get(SERVICES, "agents", "fraud-bot");
        let mut made = service().unwrap();
        assert_eq!(made["metadata"]["annotations"][crate::api::MADE_FOR], "bank");
        if is_taken_over {
            made["metadata"]["labels"] = json!({});
            made = stage.server.put(SERVICES, made);
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        stage.server.put(CONFIGS, config(&closed));
        if is_taken_over {
            tokio::time::sleep(Duration::from_secs(120)).await;
            assert_eq!(
                service().map(|s| s["metadata"]["uid"].clone()),
                Some(made["metadata"]["uid"].clone())
            );
        } else {
            eventually("taken back", || service().is_none()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_service_can_have_is_told_and_not_tried() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear_ports(&[("http", 8080), ("admin", 8080)], Some(1));
    eventually("told", || stage.import_says("False", "BadExport")).await;
    assert_eq!(stage.server.get(SERVICES, "agents", "fraud-bot"), None);
    stage.hear_ports(&[("http", 8080), ("admin", 8081)], Some(1));
    eventually("mended", || stage.ready() == Some(true)).await;
}

#[tokio::test(start_paused = true)]
async fn a_port_keeps_its_listener_when_others_come_before_it() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    stage.hear_ports(&[("admin", 9000), ("http", 8080)], Some(1));
    let ports = || stage.slice().unwrap()["ports"].as_array().unwrap().clone();
    eventually("both", || ports().len() == 2).await;
    let port = |name: &str| ports().iter().find(|p| p["name"] == name).unwrap()["port"].clone();
    assert_eq!((port("http"), port("admin")), (json!(15080), json!(15081)));
}

/// A Service without a selector, with these ports.
fn stub_with(server: &FakeApiServer, ports: &[&str]) {
    let port = |(n, name): (usize, &&str)| json!({"name": name, "port": 80 + n});
    let ports: Vec<Value> = ports.iter().enumerate().map(port).collect();
    server.put(
        SERVICES,
        json!({"metadata": {"name": "fraud-bot", "namespace": "agents", "uid": "theirs"},
            "spec": {"ports": ports, "ipFamilies": ["IPv4"]}}),
    );
}

#[tokio::test(start_paused = true)]
async fn an_import_has_the_ports_of_its_service_and_no_more() {
    let mut stage = ControllerStage::new(OPENED);
    stub_with(&stage.server, &["p7"]);
    stage.start("one");
    let names: Vec<String> = (0..64).map(|n| format!("p{n}")).collect();
    let ports: Vec<(&str, u16)> = names.iter().zip(9000..).map(|(name, n)| (&**name, n)).collect();
    stage.hear_ports(&ports, Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    let on_record = || {
        let import = stage.server.get(IMPORTS, "", "agents.fraud-bot").unwrap();
        let ports = import["spec"]["ports"].as_array().unwrap().clone();
        ports.iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(on_record(), ["p7"]);
    // A tenant's Service of a hundred ports gets some, and gives them back.
    let many: Vec<String> = (0..100).map(|n| format!("p{n}")).collect();
    stub_with(&stage.server, &many.iter().map(|n| &**n).collect::<Vec<_>>());
    let in_slice = || stage.slice().unwrap()["ports"].as_array().unwrap().len();
    eventually("sixteen", || in_slice() == 16).await;
    assert_eq!(on_record().len(), 16);
    eventually("an Event", || events(&stage.server, "TooManyPorts") == 1).await;
    stub_with(&stage.server, &["p7"]);
    eventually("one again", || in_slice() == 1 && on_record() == ["p7"]).await;
    stage.server.delete(SERVICES, "agents", "fraud-bot");
    eventually("none", || on_record().is_empty() && stage.slice().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_port_is_on_record_before_and_until_after_a_slice_names_it() {
    let mut stage = ControllerStage::new(OPENED);
    stub_with(&stage.server, &["http"]);
    stage.start("one");
    stage.hear_ports(&[("http", 80), ("admin", 81)], Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    let on_record = || {
        let import = stage.server.get(IMPORTS, "", "agents.fraud-bot").unwrap();
        import["spec"]["ports"].as_array().unwrap().len()
    };
    let in_slice = || stage.slice().unwrap()["ports"].as_array().unwrap().len();
    // While the records cannot be written, no slice names what nodes do not listen for.
    let imports = |method: &http::Method, path: &str| method == "PUT" && path.contains("/imports");
    stage.server.fail(move |method, path| imports(method, path).then_some(Fault::Status(500)));
    stub_with(&stage.server, &["http", "admin"]);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((on_record(), in_slice()), (1, 1));
    stage.server.heal();
    eventually("two", || (on_record(), in_slice()) == (2, 2)).await;
    // While the slice cannot be written, nodes listen for what it names.
    stage.server.fail(|method, path| {
        (method == "PUT" && path.contains("endpointslices")).then_some(Fault::Status(500))
    });
    stub_with(&stage.server, &["http"]);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((on_record(), in_slice()), (2, 2));
    stage.server.heal();
    eventually("one", || (on_record(), in_slice()) == (1, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_link_gets_no_more_of_stands_on_it() {
    let more = "    import: {namespaces: [agents], createServices: true}\nnetwork: {range: 198.18.0.0/29}\n";
    let mut stage = ControllerStage::new(more);
    // Six addresses, of which five have been used up by names that came and went.
    for n in 1..=5 {
        let spec = json!({"service": {"namespace": "agents", "name": format!("old-{n}")}, "from": "bank",
            "addresses": [format!("198.18.0.{n}")], "releasedAt": Timestamp::now().to_string()});
        stage
            .server
            .put(IMPORTS, json!({"metadata": {"name": format!("agents.old-{n}")}, "spec": spec}));
    }
    stage.start("one");
    stage.hear(Some(1));
    let says = || stage.condition(LINKS, "bank", "TooManyImports");
    let full = Some(("True".to_owned(), "ShareOfRangeUsed".to_owned()));
    eventually("said", || says() == full).await;
    eventually("an Event", || events(&stage.server, "ShareOfRangeUsed") == 1).await;
    assert_eq!(stage.server.all(IMPORTS).len(), 5);
    stage.server.put(CONFIGS, config(&format!("{more}{IMPORT}")));
    eventually("what is named finds room", || stage.ready() == Some(true)).await;
    eventually("nothing is wrong", || says().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn where_nodes_stand_for_an_import_each_serves_its_own_pods() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    let server = stage.server.clone();
    let policy = || {
        let stub = server.get(SERVICES, "agents", "fraud-bot")?;
        stub["spec"]["internalTrafficPolicy"].as_str().map(str::to_owned)
    };
    eventually("any node", || policy().as_deref() == Some("Cluster")).await;
    eventually("ready", || stage.ready() == Some(true)).await;
    let pods = |uids: [&str; 2]| {
        let endpoint = |(n, uid): (usize, &&str)| {
            json!({"addresses": [format!("172.18.1.{n}")],
            "nodeName": format!("n{n}"), "targetRef": {"kind": "Pod", "uid": uid}})
        };
        let endpoints: Vec<Value> = uids.iter().enumerate().map(endpoint).collect();
        server.put(
            SLICES,
            json!({"metadata": {"name": "adit-node-1", "namespace": "adit-system",
            "labels": {"kubernetes.io/service-name": "adit-node"}},
            "addressType": "IPv4", "ports": [], "endpoints": endpoints}),
        );
    };
    pods(["a", "b"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.server.put(CONFIGS, config(&format!("{IMPORT}network: {{mode: nodeAddress}}\n")));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.ready(), Some(true), "as long as no node has begun anew");
    pods(["a", "c"]);
    eventually("no slice", || stage.slice().is_none()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(stage.slice().is_none(), "one node has still the old network");
    pods(["d", "c"]);
    eventually("its own", || policy().as_deref() == Some("Local")).await;
    eventually("nodes", || {
        stage.slice().is_some_and(|s| s["endpoints"].as_array().unwrap().len() == 2)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn with_a_watch_the_whole_controller_ends() {
    let stage = ControllerStage::new(IMPORT);
    stage.server.fail(|_, path| path.contains("/services").then_some(Fault::Panic));
    let (client, peers) = (stage.server.client(), stage.peers.subscribe());
    let (observer, state) = (watch::Sender::new(None), watch::Sender::default());
    let running = run(
        client,
        settings("one"),
        observer,
        peers,
        watch::Sender::default().subscribe(),
        state,
        CancellationToken::new(),
    );
    let ended = tokio::time::timeout(Duration::from_secs(600), running).await;
    assert_eq!(
        ended.unwrap().unwrap_err().to_string(),
        "watching the cluster ended by a panic, which is a bug"
    );
}
