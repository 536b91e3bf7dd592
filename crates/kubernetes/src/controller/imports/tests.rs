use std::sync::Arc;

use adit_core::snapshot::{Class, Hop, PeerPort, View};
use k8s_openapi::api::core::v1::Service;

use super::*;
use crate::controller::Heard;

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

/// A stub that waits, with these annotations.
fn world(annotations: &[(&str, &str)]) -> World {
    let mut service = Service::default();
    service.metadata.annotations =
        Some(annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
    World {
        services: [(bot(), Arc::new(service))].into(),
        known: Arc::new(["bot".to_owned()].into()),
        ..World::default()
    }
}

fn peers(clusters: &[&str], ready: u32) -> Peers {
    let port = PeerPort {
        name: "http".parse().unwrap(),
        number: 80,
        app_protocol: None,
        ready: [("n1".parse().unwrap(), ready)].into(),
    };
    let export = PeerExport {
        ports: vec![port],
        grants: vec![],
        hop: Hop::Any,
        class: Class::Interactive,
        replay: false,
    };
    let view = View { exports: [(bot(), Arc::new(export))].into(), ..View::default() };
    let heard = Heard { view: Arc::new(view), live: true };
    let clusters = clusters.iter().map(|c| (c.parse().unwrap(), heard.clone())).collect();
    Peers { reporting: true, clusters }
}

fn from(config: &ClusterConfig, world: &World, peers: &Peers) -> Option<String> {
    let imports = decide(config, world, peers, &BTreeMap::new());
    imports.all.get(&bot()).map(|wanted| wanted.from.to_string())
}

#[test]
fn a_rule_counts_more_than_an_annotation_and_that_more_than_a_link() {
    let rule = "imports:\n  - service: team-a/bot\n    from: lab\n";
    let open = "optIn:\n  - namespaces: [\"team-*\"]\n    importFrom: [lab]\n";
    let asks = world(&[("adit.dev/import-from", "lab")]);
    let bank = peers(&["bank"], 1);
    assert_eq!(from(&config(rule), &world(&[]), &bank).as_deref(), Some("lab"));
    assert_eq!(from(&config(open), &asks, &bank).as_deref(), Some("lab"));
    assert_eq!(from(&config(""), &asks, &bank).as_deref(), Some("bank"), "it may not ask");
    assert!(decide(&config(""), &asks, &bank, &BTreeMap::new()).refused.contains_key(&bot()));
}

#[test]
fn of_two_clusters_the_first_by_name_is_imported_from_and_the_other_named() {
    let imports = decide(&config(""), &world(&[]), &peers(&["lab", "bank"], 1), &BTreeMap::new());
    let wanted = &imports.all[&bot()];
    assert_eq!(wanted.from.as_str(), "bank");
    assert_eq!(wanted.others, ["lab".parse().unwrap()]);
}

#[test]
fn a_service_that_is_served_here_or_not_known_of_is_not_imported_by_itself() {
    let bank = peers(&["bank"], 1);
    let mut served = world(&[]);
    served.served.insert(bot());
    assert_eq!(from(&config(""), &served, &bank), None);
    let mut unknown = world(&[]);
    unknown.known = Arc::default();
    assert_eq!(from(&config(""), &unknown, &bank), None);
    let imports = decide(&config(""), &unknown, &bank, &BTreeMap::new());
    assert!(imports.candidates.contains(&bot()), "so that it becomes known");
    let absent = World { services: BTreeMap::new(), ..world(&[]) };
    assert_eq!(from(&config(""), &absent, &bank), None, "no Service is made unasked");
}

#[test]
fn two_clusters_that_export_the_same_labels_do_not_take_turns() {
    let ours = BTreeMap::from([(bot(), Strength::Implied)]);
    let begins = |ready| {
        let bank = peers(&["bank"], ready);
        decide(&config(""), &world(&[]), &bank, &ours).all.contains_key(&bot())
    };
    assert!(!begins(0), "neither has a backend");
    assert!(begins(1), "theirs has one, ours has none");
    let named = BTreeMap::from([(bot(), Strength::Named)]);
    let imports = decide(&config(""), &world(&[]), &peers(&["bank"], 1), &named);
    assert!(imports.all.is_empty(), "ours was exported by name");
}
