use std::sync::Arc;

use adit_core::snapshot::{Class, ClusterView, Hop, PeerExport, PeerPort};
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use super::super::decide::{ImportHistory, decide as decide_imports};
use super::super::decision::{ImportDecisions, ImportFacts};
use super::*;
use crate::controller::{LinkedClusters, ObservedPeer};

const NOW: i64 = 1_800_000_000;

fn bank() -> ClusterName {
    "bank".parse().unwrap()
}

fn config(import: &str, more: &str) -> ClusterConfig {
    let text = format!(
        "cluster: edge\nlinks:\n  - cluster: bank\n    trustDomain: bank.adit.internal\n    trustBundle: x\n    \
         import: {import}\n{more}"
    );
    adit_config::parse_cluster(&[("cluster.yaml".to_owned(), text)].into()).unwrap().0
}

const MAKES: &str = "{namespaces: [team-a], createServices: true}";
const LAB: &str = "  - {cluster: lab, trustDomain: lab.adit.internal, trustBundle: x}\n";

fn services(numbers: impl Iterator<Item = usize>) -> impl Iterator<Item = ServiceName> {
    numbers.map(|n| format!("team-a/bot-{n:05}").parse().unwrap())
}

/// View of bank with these exports, each with so many ports.
fn peers(services: impl Iterator<Item = ServiceName>, ports: u16) -> LinkedClusters {
    let port = |n: u16| PeerPort {
        name: format!("p{n}").parse().unwrap(),
        number: 8000 + n,
        app_protocol: None,
        ready: [("n1".parse().unwrap(), 1)].into(),
        fault: None,
    };
    let export = Arc::new(PeerExport {
        ports: (0..ports).map(port).collect(),
        grants: vec![],
        hop: Hop::Any,
        class: Class::Interactive,
        replay: false,
        hold: None,
    });
    let exports = services.map(|service| (service, export.clone())).collect();
    let nodes = [("n1".parse().unwrap(), vec![])].into();
    let view = Arc::new(ClusterView { nodes, exports });
    LinkedClusters {
        reporting: true,
        clusters: [(bank(), ObservedPeer { view, live: true })].into(),
        ..LinkedClusters::default()
    }
}

fn state() -> ClusterState {
    ClusterState { namespaces: ["team-a".to_owned()].into(), ..ClusterState::default() }
}

/// Adds Services that can be filled, each with these ports.
fn stubs(state: &mut ClusterState, services: impl Iterator<Item = ServiceName>, ports: u16) {
    let ports: Vec<_> =
        (0..ports).map(|n| json!({"name": format!("p{n}"), "port": 80 + n})).collect();
    let stub: Service = serde_json::from_value(json!({"spec": {"ports": ports}})).unwrap();
    state.services.extend(services.map(|service| (service, Arc::new(stub.clone()))));
    state.observed_services = Arc::new(state.services.keys().map(ToString::to_string).collect());
}

/// Adds the Import object of an import that was made so many seconds ago, and has ended.
fn ended(state: &mut ClusterState, service: &ServiceName, ago: i64) {
    let made = Timestamp::from_second(NOW - ago).unwrap().to_string();
    let name = ServiceRef::from(service).object_name();
    let import = json!({"apiVersion": "adit.dev/v1alpha1", "kind": "Import",
        "metadata": {"name": name, "creationTimestamp": made}, "spec": {"service": ServiceRef::from(service),
            "from": "bank", "addresses": ["198.18.0.1"], "releasedAt": made}});
    state.imports.insert(name, Arc::new(serde_json::from_value(import).unwrap()));
}

/// Decides at a time of the paused clock.
fn decide(
    config: &ClusterConfig,
    state: &ClusterState,
    peers: &LinkedClusters,
    history: &mut ImportHistory,
) -> ImportDecisions {
    let clock = Timestamp::from_second(NOW).unwrap();
    let exported = BTreeMap::new();
    let facts =
        ImportFacts { config, state, peers, exported: &exported, at: Instant::now(), clock };
    decide_imports(facts, history)
}

fn reason(imports: &ImportDecisions) -> Option<&'static str> {
    imports.left_out.get(&bank()).map(|left_out| left_out.verdict(&bank()).0)
}

#[test]
fn one_cluster_takes_only_so_much_room() {
    let all = || services(0..MAX_IMPORTS + 5);
    let mut here = state();
    stubs(&mut here, all(), 1);
    let config = config("{namespaces: [team-a]}", "");
    let imports = decide(&config, &here, &peers(all(), 1), &mut ImportHistory::default());
    assert_eq!(imports.all.len(), MAX_IMPORTS);
    assert_eq!(imports.left_out[&bank()].imports, 5);
    // Stubs and exports of many ports are fewer imports, and never more than so many ports of one.
    stubs(&mut here, all(), 100);
    let imports = decide(&config, &here, &peers(all(), 100), &mut ImportHistory::default());
    assert_eq!(imports.all.len(), MAX_PORTS / 16);
    assert_eq!(reason(&imports), Some("TooManyImports"));
}

#[tokio::test(start_paused = true)]
async fn names_that_come_and_go_make_only_so_many_services() {
    let config = config(MAKES, "");
    let mut history = ImportHistory::default();
    let made = usize::try_from(MAX_CREATED).unwrap();
    // Each time other names, of which none leaves a trace here: nothing was written yet, or it was deleted.
    let first = decide(&config, &state(), &peers(services(0..made), 1), &mut history);
    assert_eq!((first.all.len(), reason(&first)), (made, None));
    let again = decide(&config, &state(), &peers(services(0..made), 1), &mut history);
    assert_eq!(again.all.len(), made, "what is not on record yet is not counted again");
    let others = peers(services(made..2 * made), 1);
    let others = |history: &mut ImportHistory| decide(&config, &state(), &others, history);
    let next = others(&mut history);
    assert_eq!((next.all.len(), reason(&next)), (0, Some("TooManyServicesMade")));
    let (_, message) = next.left_out[&bank()].verdict(&bank());
    assert!(message.starts_with("2500 exports of bank wait"), "{message}");
    assert!(message.contains("2500 made at once and then 500 an hour"), "{message}");
    assert!(message.contains("name those that are wanted in imports"), "{message}");
    assert_eq!(next.wake, Some(Instant::now() + CREATE_INTERVAL));
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(others(&mut history).all.len(), 500, "in an hour");
    // What stands there to be filled costs nothing of this.
    let mut here = state();
    stubs(&mut here, services(0..50), 1);
    let filled = decide(&config, &here, &peers(services(0..50), 1), &mut history);
    assert_eq!((filled.all.len(), reason(&filled)), (50, None));
}

#[test]
fn a_controller_that_begins_knows_what_was_made_by_the_record() {
    let config = config(MAKES, "");
    let mut here = state();
    let made = usize::try_from(MAX_CREATED).unwrap();
    for service in services(0..made) {
        ended(&mut here, &service, 3600);
    }
    let others = peers(services(made..2 * made), 1);
    let begins = |here: &ClusterState| {
        decide(&config, here, &others, &mut ImportHistory::default()).all.len()
    };
    assert_eq!(begins(&here), 500, "all was made an hour ago");
    for service in services(0..made) {
        ended(&mut here, &service, 6 * 3600);
    }
    assert_eq!(begins(&here), made, "long ago");
}

#[test]
fn one_cluster_holds_only_its_share_of_a_range_and_what_is_named_finds_room() {
    let small = "network: {range: 198.18.0.0/24}\n";
    let named = "imports:\n  - {service: team-a/mine, from: bank}\n";
    let all = || services(0..254);
    for (links, share) in [("", 191), (LAB, 63)] {
        let config = config(MAKES, &format!("{links}{small}{named}"));
        let mut here = state();
        // Some have ended, and rest.
        for service in services(1000..1010) {
            ended(&mut here, &service, 20 * 3600);
        }
        let imports = decide(&config, &here, &peers(all(), 1), &mut ImportHistory::default());
        assert_eq!(imports.all.len(), share - 10 + 1, "{links}");
        assert_eq!(reason(&imports), Some("ShareOfRangeUsed"));
        let (_, message) = imports.left_out[&bank()].verdict(&bank());
        assert!(message.contains(&format!("the {share} that one cluster gets")), "{message}");
        assert!(imports.all.keys().any(|service| service.name() == "mine"));
        // One that rests gets its own address again.
        let back = peers(services(1000..1010), 1);
        let imports = decide(&config, &here, &back, &mut ImportHistory::default());
        assert_eq!((imports.all.len(), reason(&imports)), (11, None));
    }
}

#[test]
fn services_that_ask_by_annotation_share_the_room() {
    let open = "network: {range: 198.18.0.0/28}\noptIn:\n  - {namespaces: [team-a], importFrom: [bank, gone]}\n";
    let config = config("{}", &format!("{LAB}{open}"));
    let mut here = state();
    stubs(&mut here, services(0..20), 1);
    let ask = |here: &mut ClusterState, from: &str| {
        for service in here.services.values_mut() {
            let annotation = [(crate::api::annotation::IMPORT_FROM.to_owned(), from.to_owned())];
            Arc::make_mut(service).metadata.annotations = Some(annotation.into());
        }
    };
    ask(&mut here, "bank");
    let nobody = peers(services(0..0), 1);
    let imports = decide(&config, &here, &nobody, &mut ImportHistory::default());
    assert_eq!((imports.all.len(), imports.refused.len()), (3, 17), "a quarter of 14 addresses");
    ask(&mut here, "gone");
    let imports = decide(&config, &here, &nobody, &mut ImportHistory::default());
    assert_eq!(imports.all.len(), 0, "of a cluster that nobody is linked with there is nothing");
    assert!(imports.refused.values().all(|why| why.contains("no link to gone")));
}

/// Adds the Import object of an import into a Service that was there already, made so many seconds
/// ago.
fn served(state: &mut ClusterState, service: &ServiceName, ago: i64) {
    let made = Timestamp::from_second(NOW - ago).unwrap().to_string();
    let name = ServiceRef::from(service).object_name();
    let condition = json!({"type": "Served", "status": "True", "reason": "WasReady", "message": "",
        "lastTransitionTime": made});
    let import = json!({"apiVersion": "adit.dev/v1alpha1", "kind": "Import",
        "metadata": {"name": name, "creationTimestamp": made}, "spec": {"service": ServiceRef::from(service),
            "from": "bank", "addresses": ["198.18.0.1"], "ports": [{"name": "p0", "number": 80, "listen": 15080}]},
        "status": {"conditions": [condition]}});
    state.imports.insert(name, Arc::new(serde_json::from_value(import).unwrap()));
}

#[tokio::test(start_paused = true)]
async fn of_what_a_cluster_withdraws_the_oldest_stay_listed_and_no_new_name_pushes_them_out() {
    let config = config("{namespaces: [team-a]}", LAB);
    let mut here = state();
    stubs(&mut here, services(0..MAX_IMPORTS + MAX_WITHDRAWN + 50), 1);
    for (age, service) in (1..).zip(services(0..MAX_WITHDRAWN + 50)) {
        served(&mut here, &service, age);
    }
    let (mut history, nothing) = (ImportHistory::default(), peers(services(0..0), 1));
    let first = decide(&config, &here, &nothing, &mut history);
    assert_eq!(first.all.len(), MAX_WITHDRAWN + 50, "for a moment it is no news");
    tokio::time::advance(Duration::from_secs(4)).await;
    let later = decide(&config, &here, &nothing, &mut history);
    let kept: BTreeSet<_> = later.all.keys().cloned().collect();
    assert_eq!(
        kept,
        services(50..MAX_WITHDRAWN + 50).collect(),
        "those that have stood for longest"
    );
    assert_eq!((later.left_out[&bank()].withdrawn, reason(&later)), (50, Some("TooManyWithdrawn")));
    let begin = || services(MAX_WITHDRAWN + 50..MAX_IMPORTS + MAX_WITHDRAWN + 50);
    let others = decide(&config, &here, &peers(begin(), 1), &mut history);
    assert_eq!(others.all.len(), MAX_IMPORTS + MAX_WITHDRAWN);
    assert!(kept.iter().all(|service| others.all.contains_key(service)));
}
