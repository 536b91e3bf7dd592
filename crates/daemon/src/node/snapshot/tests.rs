//! Snapshots from each of their sources, and published only when what is believed changes.

use std::collections::BTreeMap;

use super::*;
use adit_config::Config;
use adit_core::fault::BackendFault;
use adit_core::name::{ClusterName, NodeKey};
use adit_core::snapshot::*;
use adit_core::spiffe::Workload;
use adit_transport::links::ReceivedView;

const EDGE: &str = r#"
cluster: edge
trustDomain: edge.trustusbank.example
node: {name: e1, listen: "0.0.0.0:7843", identity: /nowhere}
links:
  - {cluster: bank, trustDomain: bank.trustusbank.example, trustBundle: bank.pem, addresses: ["172.18.2.2:7843"]}
imports:
  - {service: trustusbank-bank-agents/fraud-bot, from: bank, ports: [{name: http, port: 8080, listen: "127.0.0.1:15080"}]}
exports:
  - service: trustusbank-bank-agents/triage-bot
    ports: [{name: http, port: 8080, backends: ["10.244.0.9:8080"]}]
    allow: [{cluster: bank, namespace: trustusbank-bank-agents, serviceAccount: fraud-bot}]
workloads:
  - {address: 127.0.1.10, namespace: trustusbank-bank-agents, serviceAccount: support-bot}
"#;

fn config(text: &str) -> Config {
    adit_config::parse(text.as_bytes(), std::path::Path::new("edge.yaml")).unwrap().0
}

fn base(config: &Config) -> SnapshotBuilder {
    SnapshotBuilder::from_config(
        config,
        &["0.0.0.0:7843".parse().unwrap(), "127.0.0.1:7843".parse().unwrap()],
    )
}

fn views(clusters: &[&str]) -> PeerViews {
    let heard = |c: &&str| ReceivedView {
        view: Arc::default(),
        omitted: Arc::default(),
        position: (1, 1),
        source: NodeKey::new(&c.parse().unwrap(), &"b1".parse().unwrap()),
        age: Duration::ZERO,
        received: Instant::now(),
        lost: false,
    };
    Arc::new(clusters.iter().map(|c| (c.parse().unwrap(), heard(c))).collect())
}

fn down(addresses: &[&str]) -> BackendStates {
    let down = addresses.iter().map(|a| (a.parse().unwrap(), BackendFault::Refused));
    BackendStates { down: down.collect(), ..BackendStates::default() }
}

#[test]
fn everything_in_the_file_is_believed() {
    let config = config(EDGE);
    let now = base(&config).snapshot(&PeerViews::default(), &BackendStates::default());
    assert_eq!(
        now.local.advertise,
        ["127.0.0.1:7843".parse().unwrap()],
        "a wildcard is no address"
    );
    assert_eq!(now.links.len() + now.exports.len() + now.workloads.len(), 3);
    let (import, port) = now.imports.at("127.0.0.1:15080".parse().unwrap()).unwrap();
    assert_eq!((import.from.as_str(), port.number), ("bank", 8080));
    assert_eq!(now.links.values().next().unwrap().seeds, config.links[0].addresses);
    assert!(now.forbidden.contains(&"127.0.0.1".parse().unwrap()));
    assert!(!now.forbidden.contains(&"0.0.0.0".parse().unwrap()));
}

#[test]
fn who_is_denied_is_not_there_whoever_tells_of_it() {
    let denied = "denied: {nodes: [edge/e2, bank/b2], clusters: [shop]}\n";
    let shop = "links:\n  - {cluster: shop, trustDomain: shop.example, trustBundle: s.pem}\n";
    let config = config(&(EDGE.replace("links:\n", shop) + denied));
    let siblings = ["e2", "e3"].map(|n| (n.parse().unwrap(), vec![])).into();
    let cluster = NodeState { siblings, ..NodeState::default() };
    let mut views = BTreeMap::clone(&views(&["bank", "shop"]));
    let export = PeerExport {
        ports: vec![PeerPort {
            name: "http".parse().unwrap(),
            number: 80,
            app_protocol: None,
            ready: ["b1", "b2"].map(|n| (n.parse().unwrap(), 1)).into(),
            fault: None,
        }],
        grants: vec![],
        hop: Hop::Any,
        class: Class::Interactive,
        replay: false,
        hold: None,
    };
    let view = ClusterView {
        nodes: ["b1", "b2"].map(|n| (n.parse().unwrap(), vec![])).into(),
        exports: [("a/b".parse().unwrap(), Arc::new(export))].into(),
    };
    views.values_mut().for_each(|heard| heard.view = Arc::new(view.clone()));
    let now = base(&config)
        .with_kubernetes(&cluster)
        .snapshot(&Arc::new(views), &BackendStates::default());
    let names = |all: Vec<String>| all.join(" ");
    assert_eq!(names(now.siblings.keys().map(ToString::to_string).collect()), "e3");
    assert_eq!(names(now.links.keys().map(ToString::to_string).collect()), "bank");
    assert_eq!(names(now.views.keys().map(ToString::to_string).collect()), "bank");
    let [bank] = &now.views.values().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!(names(bank.nodes.keys().map(ToString::to_string).collect()), "b1");
    let ready = &bank.exports.values().next().unwrap().ports[0].ready;
    assert_eq!(names(ready.iter().map(|(node, _)| node.to_string()).collect()), "b1");
}

#[test]
fn what_the_operator_advertises_wins() {
    let text = EDGE.replace("identity:", "advertise: [\"172.18.1.2:9\"], identity:");
    let now = base(&config(&text)).snapshot(&PeerViews::default(), &BackendStates::default());
    assert_eq!(now.local.advertise, ["172.18.1.2:9".parse().unwrap()]);
    assert!(now.forbidden.contains(&"172.18.1.2".parse().unwrap()));
}

#[test]
fn kubernetes_adds_to_the_file() {
    let pod: Workload =
        Workload { namespace: "a".parse().unwrap(), service_account: "b".parse().unwrap() };
    let seed = "172.18.2.2:7843".parse().unwrap();
    let cluster = NodeState {
        siblings: [("e2".parse().unwrap(), vec![])].into(),
        workloads: [("10.244.0.5".parse().unwrap(), pod)].into(),
        seeds: [
            (
                "bank".parse().unwrap(),
                ["172.18.2.3:7843", "127.0.0.1:7"].map(|a| a.parse().unwrap()).into(),
            ),
            ("gone".parse().unwrap(), vec![seed]),
        ]
        .into(),
        forbidden: ["172.18.1.1".parse().unwrap()].into(),
        ..NodeState::default()
    };
    let base = base(&config(EDGE)).with_kubernetes(&cluster);
    let now = base.snapshot(&PeerViews::default(), &BackendStates::default());
    let seeds: Vec<String> =
        now.links.values().flat_map(|l| &l.seeds).map(ToString::to_string).collect();
    assert_eq!(seeds, ["172.18.2.2:7843", "172.18.2.3:7843"]);
    assert_eq!((now.siblings.len(), now.workloads.len()), (1, 2));
    assert_eq!((now.imports.iter().count(), now.exports.len()), (1, 1));
    assert!(now.forbidden.contains(&"172.18.1.1".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_one_export_leaves_all_others_where_they_were() {
    let service = |n: usize| format!("a/bot-{n:03}").parse().unwrap();
    let base = base(&config(EDGE));
    let one = base.snapshot.exports.values().next().unwrap();
    let export = |n| Export { service: service(n), ..Export::clone(one) };
    let mut state = NodeState {
        exports: (0..200).map(export).collect(),
        siblings: [("e2".parse().unwrap(), vec![])].into(),
        ..NodeState::default()
    };
    let (_base, base) = watch::channel(base);
    let (cluster, told) = watch::channel(Arc::new(state.clone()));
    let (_views, views) = watch::channel(PeerViews::default());
    let (_down, down) = watch::channel(BackendStates::default());
    let mut sources = SnapshotSources::new(base, Some(told), views, down);
    let before = sources.snapshot();

    state.exports[7].replay = !state.exports[7].replay;
    state.exports.remove(9);
    cluster.send_replace(Arc::new(state));
    let after = sources.snapshot();
    assert!(after.imports.is_same(&before.imports) && after.siblings.is_same(&before.siblings));
    assert_eq!(after.exports.len(), before.exports.len() - 1);
    let moved = |(service, export): &(&_, &Arc<Export>)| {
        !before.exports.get(*service).is_some_and(|old| Arc::ptr_eq(old, export))
    };
    let moved: Vec<_> = after.exports.iter().filter(moved).map(|(service, _)| service).collect();
    assert_eq!(moved, [&service(7)]);
}

#[tokio::test]
async fn a_change_in_kubernetes_is_published() {
    let (_base, base) = watch::channel(base(&config(EDGE)));
    let (cluster, state) = watch::channel(Arc::new(NodeState::default()));
    let (_views, views) = watch::channel(PeerViews::default());
    let (_down, down) = watch::channel(BackendStates::default());
    let mut sources = SnapshotSources::new(base, Some(state), views, down);
    let (out, mut published) = watch::channel(Arc::new(sources.snapshot()));
    let script = async move {
        let node = ("e2".parse().unwrap(), vec![]);
        let state = NodeState { siblings: [node].into(), ..NodeState::default() };
        cluster.send_replace(Arc::new(state));
        published.changed().await.unwrap();
        assert_eq!(published.borrow_and_update().siblings.len(), 1);
    };
    tokio::select! { () = run(sources, out) => panic!("it ended"), () = script => {} }
}

#[test]
fn remains_of_an_old_configuration_are_left_out() {
    let base = base(&config(EDGE));
    let now = base.snapshot(&views(&["bank", "shop"]), &down(&["10.244.0.9:8080", "10.9.9.9:1"]));
    assert_eq!(now.views.keys().map(ClusterName::as_str).collect::<Vec<_>>(), ["bank"]);
    assert_eq!(now.down, down(&["10.244.0.9:8080"]).down);
    assert_eq!(now.never_answered, [].into(), "nobody has dialled yet");
    // Of those that this node dials, what has neither answered nor refused is not proved.
    let now = base.snapshot(
        &PeerViews::default(),
        &BackendStates { answered: Some([].into()), ..BackendStates::default() },
    );
    assert_eq!(now.never_answered, ["10.244.0.9:8080".parse().unwrap()].into());
}

#[tokio::test]
async fn a_change_of_any_source_is_published_and_nothing_else_is() {
    let (base_in, base_out) = watch::channel(base(&config(EDGE)));
    let (views_in, views_out) = watch::channel(PeerViews::default());
    let (down_in, down_out) = watch::channel(BackendStates::default());
    let mut sources = SnapshotSources::new(base_out, None, views_out, down_out);
    let (out, mut published) = watch::channel(Arc::new(sources.snapshot()));
    let task = run(sources, out);
    let script = async move {
        views_in.send_replace(views(&["bank"]));
        published.changed().await.unwrap();
        assert_eq!(published.borrow_and_update().views.len(), 1);

        // The word of another cluster's dials and views changes nothing here, and is not published:
        // the next thing that is seen is the change after it.
        views_in.send_replace(views(&["bank", "shop"]));
        sleep(2 * SNAPSHOT_INTERVAL).await;
        assert!(!published.has_changed().unwrap());
        down_in.send_replace(down(&["10.244.0.9:8080"]));
        published.changed().await.unwrap();
        assert_eq!(published.borrow_and_update().down.len(), 1);

        base_in.send_replace(base(&config(&EDGE.replace("fraud-bot, from", "audit-bot, from"))));
        published.changed().await.unwrap();
        let now = published.borrow_and_update().clone();
        assert_eq!(now.imports.iter().next().unwrap().service.name(), "audit-bot");
        assert_eq!((now.views.len(), now.down.len()), (1, 1), "the rest stays");
    };
    tokio::join!(task, script);
}
