use std::sync::Arc;

use adit_core::snapshot::{Class, ClusterView, Hop, PeerPort};
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::api::Workloads;
use crate::controller::ObservedPeer;
use crate::controller::cluster_state::LocalEndpoints;

fn bot() -> ServiceName {
    "team-a/bot".parse().unwrap()
}

fn config(more: &str) -> ClusterConfig {
    let link = |name: &str| {
        format!(
            "  - cluster: {name}\n    trustDomain: {name}.adit.internal\n    trustBundle: x\n    \
             import: {{namespaces: [\"team-*\"]}}\n"
        )
    };
    let text = format!("cluster: edge\nlinks:\n{}{}{more}", link("lab"), link("bank"));
    adit_config::parse_cluster(&[("cluster.yaml".to_owned(), text)].into()).unwrap().0
}

/// A Service that can be filled, with these annotations.
fn state(annotations: &[(&str, &str)]) -> ClusterState {
    let mut service = Service::default();
    service.metadata.annotations =
        Some(annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
    ClusterState {
        services: [(bot(), Arc::new(service))].into(),
        observed_services: Arc::new([bot().to_string()].into()),
        ..ClusterState::default()
    }
}

fn peers(clusters: &[&str], ready: u32) -> LinkedClusters {
    let port = PeerPort {
        name: "http".parse().unwrap(),
        number: 80,
        app_protocol: None,
        ready: [("n1".parse().unwrap(), ready)].into(),
        fault: None,
    };
    let export = PeerExport {
        ports: vec![port],
        grants: vec![],
        hop: Hop::Any,
        class: Class::Interactive,
        replay: false,
        hold: None,
    };
    let nodes = [("n1".parse().unwrap(), vec![])].into();
    let view = ClusterView { nodes, exports: [(bot(), Arc::new(export))].into() };
    let heard = ObservedPeer { view: Arc::new(view), live: true };
    let clusters = clusters.iter().map(|c| (c.parse().unwrap(), heard.clone())).collect();
    LinkedClusters { reporting: true, clusters, ..LinkedClusters::default() }
}

fn decide(
    config: &ClusterConfig,
    state: &ClusterState,
    peers: &LinkedClusters,
    exported: &BTreeMap<ServiceName, ExportOrigin>,
) -> ImportDecisions {
    decide_at(config, state, peers, exported, Timestamp::now(), &mut ImportHistory::default())
}

fn decide_at(
    config: &ClusterConfig,
    state: &ClusterState,
    peers: &LinkedClusters,
    exported: &BTreeMap<ServiceName, ExportOrigin>,
    clock: Timestamp,
    history: &mut ImportHistory,
) -> ImportDecisions {
    let facts = ImportFacts { config, state, peers, exported, at: Instant::now(), clock };
    super::decide(facts, history)
}

#[test]
fn a_links_word_opens_all_that_is_imported_from_it_and_no_annotation_does() {
    let also = "import: {namespaces: [\"team-*\"], alsoAllow: [{namespace: catalog, serviceAccount: browser}]}";
    let said = |config: &ClusterConfig, annotations: &[(&str, &str)]| {
        let imports = decide(config, &state(annotations), &peers(&["bank"], 1), &BTreeMap::new());
        let allow = imports.all.get(&bot()).map(|wanted| wanted.allow.clone()).unwrap_or_default();
        let one = |w: &Workloads| format!("{}/{}", w.namespace, w.service_account);
        allow.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    let with = |more: &str| {
        let text = format!(
            "cluster: edge\nlinks:\n  - {{cluster: bank, trustDomain: b.example, trustBundle: x, {also}}}\n  \
             - {{cluster: lab, trustDomain: l.example, trustBundle: x}}\n{more}"
        );
        adit_config::parse_cluster(&[("cluster.yaml".to_owned(), text)].into()).unwrap().0
    };
    let both = "team-a/* catalog/browser";
    assert_eq!(said(&with(""), &[]), both);
    let opened = "optIn: [{namespaces: [team-a], importFrom: [bank, lab]}]\n";
    assert_eq!(said(&with(opened), &[("adit.dev/import-from", "bank")]), both);
    assert_eq!(said(&with("imports: [{service: team-a/bot, from: bank}]\n"), &[]), both);
    // Another link says nothing of the sort, and whoever names callers means those.
    assert_eq!(said(&with(opened), &[("adit.dev/import-from", "lab")]), "team-a/*");
    let named = "imports: [{service: team-a/bot, from: bank, allow: [{namespace: x, serviceAccount: y}]}]\n";
    assert_eq!(said(&with(named), &[]), "x/y");
    // A tenant's own words, on whatever, open nothing.
    let asks = [("adit.dev/import-from", "lab"), ("adit.dev/allow", "lab/catalog/browser")];
    assert_eq!(said(&with(opened), &asks), "team-a/*");
}

fn from(config: &ClusterConfig, state: &ClusterState, peers: &LinkedClusters) -> Option<String> {
    let imports = decide(config, state, peers, &BTreeMap::new());
    imports.all.get(&bot()).map(|wanted| wanted.from.to_string())
}

#[test]
fn a_rule_counts_more_than_an_annotation_and_that_more_than_a_link() {
    let rule = "imports:\n  - service: team-a/bot\n    from: lab\n";
    let open = "optIn:\n  - namespaces: [\"team-*\"]\n    importFrom: [lab]\n";
    let asks = state(&[("adit.dev/import-from", "lab")]);
    let bank = peers(&["bank"], 1);
    assert_eq!(from(&config(rule), &state(&[]), &bank).as_deref(), Some("lab"));
    assert_eq!(from(&config(open), &asks, &bank).as_deref(), Some("lab"));
    assert_eq!(from(&config(""), &asks, &bank).as_deref(), Some("bank"), "it may not ask");
    assert!(decide(&config(""), &asks, &bank, &BTreeMap::new()).refused.contains_key(&bot()));
}

#[test]
fn of_two_clusters_the_first_by_name_is_imported_from_and_the_other_named() {
    let imports = decide(&config(""), &state(&[]), &peers(&["lab", "bank"], 1), &BTreeMap::new());
    let wanted = &imports.all[&bot()];
    assert_eq!(wanted.from.as_str(), "bank");
    assert_eq!(wanted.others, ["lab".parse().unwrap()]);
}

#[test]
fn what_is_imported_from_one_cluster_no_other_takes() {
    let standing = imported(None);
    let mut config = config("");
    config.links[0].cluster = "aaa".parse().unwrap();
    let both = peers(&["aaa", "bank"], 1);
    assert_eq!(from(&config, &standing, &both).as_deref(), Some("bank"));
    assert_eq!(from(&config, &state(&[]), &both).as_deref(), Some("aaa"), "the first begins");
    let imports = decide(&config, &standing, &both, &BTreeMap::new());
    assert_eq!(imports.all[&bot()].others, ["aaa".parse().unwrap()]);
}

#[test]
fn a_service_that_is_served_here_or_not_known_of_is_not_imported_by_itself() {
    let bank = peers(&["bank"], 1);
    let mut served = state(&[]);
    served.local_endpoints.insert(bot(), LocalEndpoints::Ready);
    assert_eq!(from(&config(""), &served, &bank), None);
    let mut unknown = state(&[]);
    unknown.observed_services = Arc::default();
    assert_eq!(from(&config(""), &unknown, &bank), None);
    let imports = decide(&config(""), &unknown, &bank, &BTreeMap::new());
    assert!(imports.candidates.contains(&bot()), "so that it becomes known");
    let absent = ClusterState { services: BTreeMap::new(), ..state(&[]) };
    assert_eq!(from(&config(""), &absent, &bank), None, "no Service is made unasked");
}

#[test]
fn two_clusters_that_export_the_same_labels_do_not_take_turns() {
    let ours = BTreeMap::from([(bot(), ExportOrigin::Implied)]);
    let begins = |ready| {
        let bank = peers(&["bank"], ready);
        decide(&config(""), &state(&[]), &bank, &ours).all.contains_key(&bot())
    };
    assert!(!begins(0), "neither has a backend");
    assert!(begins(1), "theirs has one, ours has none");
    let named = BTreeMap::from([(bot(), ExportOrigin::Named)]);
    let imports = decide(&config(""), &state(&[]), &peers(&["bank"], 1), &named);
    assert!(imports.all.is_empty(), "ours was exported by name");
}

/// A Service whose pods a selector names, as kagent makes it for an Agent, and the Import that stands for it.
fn imported(serving: Option<LocalEndpoints>) -> ClusterState {
    let mut state = state(&[]);
    let service: Service = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "bot", "namespace": "team-a", "ownerReferences": [{"apiVersion": "kagent.dev/v1alpha2",
            "kind": "Agent", "name": "bot", "uid": "u", "controller": true}]},
        "spec": {"selector": {"app": "kagent", "kagent": "bot"}}}))
    .unwrap();
    state.services.insert(bot(), Arc::new(service));
    let agent = kube::core::ObjectMeta { uid: Some("u".into()), ..Default::default() };
    state.agents.all.insert(bot(), agent);
    state.agents.without_pods.insert(bot());
    state.local_endpoints.extend(serving.map(|s| (bot(), s)));
    let import = serde_json::json!({"apiVersion": "adit.dev/v1alpha1", "kind": "Import",
        "metadata": {"name": "team-a.bot"}, "spec": {"service": {"namespace": "team-a", "name": "bot"},
            "from": "bank", "addresses": ["198.18.0.1"]}});
    let import = serde_json::from_value(import).unwrap();
    state.imports.insert("team-a.bot".into(), Arc::new(import));
    state
}

/// The same, with another Service.
fn changed(state: &ClusterState, change: impl FnOnce(&mut Service)) -> ClusterState {
    let mut state = state.clone();
    let mut service = (*state.services[&bot()]).clone();
    change(&mut service);
    state.services.insert(bot(), Arc::new(service));
    state
}

#[test]
fn a_service_that_may_have_pods_is_imported_by_name_only() {
    let bank = peers(&["bank"], 1);
    let stub = imported(None);
    let mut runs = stub.clone();
    runs.agents.without_pods.clear();
    let mut of_an_agent_before = stub.clone();
    of_an_agent_before.agents.all.get_mut(&bot()).unwrap().uid = Some("another".into());
    let nobodys = changed(&stub, |s| s.metadata.owner_references = None);
    let selects_others = changed(&stub, |s| {
        let selector = [("app".to_owned(), "web".to_owned())];
        s.spec.as_mut().unwrap().selector = Some(selector.into());
    });
    let only_names = changed(&stub, |s| {
        s.metadata.owner_references.as_mut().unwrap()[0].controller = None;
    });
    for (which, mut state, fillable) in [
        ("a stub of kagent's", stub, true),
        ("an Agent that runs", runs, false),
        ("an Agent of another life", of_an_agent_before, false),
        ("of nobody", nobodys, false),
        ("pods of others", selects_others, false),
        ("an owner in name", only_names, false),
    ] {
        assert_eq!(from(&config(""), &state, &bank).is_some(), fillable, "goes on: {which}");
        state.imports.clear();
        assert_eq!(from(&config(""), &state, &bank).is_some(), fillable, "begins: {which}");
        let told = decide(&config(""), &state, &bank, &BTreeMap::new()).only_by_name;
        let reason = told.get(&bot()).map(|why| why.reason);
        assert_eq!(reason, (!fillable).then_some("HasSelector"), "{which}");
        let rule = "imports:\n  - service: team-a/bot\n    from: lab\n";
        assert_eq!(from(&config(rule), &state, &bank).as_deref(), Some("lab"), "{which}");
        state.observed_services = Arc::default();
        let told = decide(&config(""), &state, &bank, &BTreeMap::new()).only_by_name;
        assert!(told.is_empty(), "nothing is known of its endpoints yet: {which}");
    }
}

#[test]
fn what_was_ever_served_here_is_imported_by_nobodys_accident() {
    let bank = peers(&["bank"], 1);
    for (serving, begins) in [
        (None, true),
        (Some(LocalEndpoints::Former), false),
        (Some(LocalEndpoints::Unready), false),
        (Some(LocalEndpoints::Ready), false),
    ] {
        let mut state = imported(serving);
        state.imports.clear();
        assert_eq!(from(&config(""), &state, &bank).is_some(), begins, "{serving:?}");
        let told = decide(&config(""), &state, &bank, &BTreeMap::new()).only_by_name;
        let reason = told.get(&bot()).map(|why| why.reason);
        assert_eq!(reason, (!begins).then_some("ServedHere"), "{serving:?}");
        let rule = "imports:\n  - service: team-a/bot\n    from: lab\n";
        assert_eq!(from(&config(rule), &state, &bank).as_deref(), Some("lab"), "somebody said so");
        // Without a selector it waits for somebody to fill it; who did is not there any more.
        state.services = self::state(&[]).services;
        let begins = serving <= Some(LocalEndpoints::Former);
        assert_eq!(from(&config(""), &state, &bank).is_some(), begins, "{serving:?}");
    }
}

#[test]
fn an_import_by_itself_outlasts_others_endpoints_and_gives_back_what_we_export() {
    let ours = BTreeMap::from([(bot(), ExportOrigin::Implied)]);
    for peers in [peers(&["bank"], 1), peers(&["lab"], 1)] {
        let goes_on = |serving: Option<LocalEndpoints>,
                       exported: &BTreeMap<ServiceName, ExportOrigin>| {
            decide(&config(""), &imported(serving), &peers, exported)
                .all
                .get(&bot())
                .is_some_and(|w| w.from.as_str() == "bank")
        };
        assert!(goes_on(None, &BTreeMap::new()));
        // It is not filled beside them, and says so.
        assert!(goes_on(Some(LocalEndpoints::Unready), &BTreeMap::new()));
        assert!(goes_on(Some(LocalEndpoints::Ready), &BTreeMap::new()));
        assert!(goes_on(None, &ours), "nobody here has served it yet");
        for serving in [LocalEndpoints::Former, LocalEndpoints::Unready, LocalEndpoints::Ready] {
            assert!(!goes_on(Some(serving), &ours), "{serving:?}");
        }
    }
}
