use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn config(text: &str) -> ClusterConfig {
    let whole = format!("cluster: edge\n{text}");
    adit_config::parse_cluster(&[("cluster.yaml".to_owned(), whole)].into()).unwrap().0
}

const LINK: &str = "links:\n  - cluster: bank\n    trustDomain: bank.adit.internal\n    \
                    trustBundle: x\n  - cluster: lab\n    trustDomain: lab.adit.internal\n    trustBundle: y\n";

fn world(services: &[Value]) -> World {
    let service = |value: &Value| {
        let service: Service = serde_json::from_value(value.clone()).unwrap();
        let name = service.metadata.name.clone().unwrap();
        (super::super::world::service_name(&service.metadata, &name).unwrap(), Arc::new(service))
    };
    World { services: services.iter().map(service).collect(), ..World::default() }
}

fn service(labels: Value, annotations: Value) -> Value {
    json!({"metadata": {"name": "bot", "namespace": "team-a", "labels": labels,
        "annotations": annotations}, "spec": {"ports": [{"name": "http", "port": 80}]}})
}

fn bot() -> ServiceName {
    "team-a/bot".parse().unwrap()
}

const OPEN: &str = "optIn:\n  - namespaces: [\"team-*\"]\n    exportTo: [bank]\n";

#[test]
fn a_name_counts_more_than_labels_and_labels_more_than_an_annotation() {
    let named = "  - service: team-a/bot\n    allow: [{cluster: bank, namespace: named, serviceAccount: x}]\n";
    let selected = "  - select: {namespaces: [\"team-*\"], labels: {type: agent}}\n    \
                    allow: [{cluster: bank, namespace: selected, serviceAccount: x}]\n";
    let annotations = json!({"adit.dev/export": "bank", "adit.dev/allow": "bank/annotated/x"});
    let world = world(&[service(json!({"type": "agent"}), annotations)]);
    for (rules, expected) in [
        (format!("exports:\n{selected}{named}"), "named"),
        (format!("exports:\n{selected}"), "selected"),
        (String::new(), "annotated"),
    ] {
        let exports = resolve(&config(&format!("{LINK}{OPEN}{rules}")), &world, &BTreeSet::new());
        let export = &exports.all[&bot()];
        assert_eq!(export.spec.allow[0].workloads.namespace, expected);
        assert!(export.verdict.good, "{:?}", export.verdict);
    }
}

#[test]
fn a_tenant_publishes_nothing_that_its_namespace_may_not() {
    let asks = |to: &str| {
        world(&[service(
            json!({}),
            json!({"adit.dev/export": to, "adit.dev/allow": "lab/*/*,bank/*/*"}),
        )])
    };
    let closed = resolve(&config(LINK), &asks("bank"), &BTreeSet::new());
    assert!(closed.all.is_empty() && closed.refused[&bot()].contains("optIn.exportTo"));
    let open = config(&format!("{LINK}{OPEN}"));
    let other = resolve(&open, &asks("lab"), &BTreeSet::new());
    assert!(other.all.is_empty() && other.refused.contains_key(&bot()));
    let partly = resolve(&open, &asks("lab,bank"), &BTreeSet::new());
    let export = &partly.all[&bot()];
    let clusters: Vec<&str> = export.spec.allow.iter().map(|g| g.cluster.as_str()).collect();
    assert_eq!((clusters, export.verdict.reason), (vec!["bank"], "BadAnnotation"));
}

#[test]
fn what_an_agent_says_counts_and_not_its_stale_copy() {
    let mut stub = service(json!({}), json!({"adit.dev/export": "bank"}));
    stub["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "kagent.dev/v1alpha2", "kind": "Agent", "name": "bot", "uid": "1"}]);
    let mut world = world(&[stub]);
    let config = config(&format!("{LINK}{OPEN}"));
    assert!(resolve(&config, &world, &BTreeSet::new()).all.contains_key(&bot()));
    world
        .agents
        .insert(bot(), k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta::default());
    assert!(!resolve(&config, &world, &BTreeSet::new()).all.contains_key(&bot()));
}

#[test]
fn what_cannot_be_exported_says_why_and_allows_nobody() {
    let rule = "exports:\n  - service: team-a/bot\n    allow: [{cluster: bank, namespace: a, serviceAccount: x}]\n";
    let config = config(&format!("{LINK}{rule}"));
    let mut external = service(json!({}), json!({}));
    external["spec"]["type"] = "ExternalName".into();
    let mut udp = service(json!({}), json!({}));
    udp["spec"]["ports"][0]["protocol"] = "UDP".into();
    let good = service(json!({}), json!({}));
    for (services, imported, reason) in [
        (vec![], false, "NoService"),
        (vec![external], false, "UnsupportedService"),
        (vec![udp], false, "NoTcpPort"),
        (vec![good.clone()], true, "Imported"),
        (vec![good], false, "Exported"),
    ] {
        let imported = if imported { [bot()].into() } else { BTreeSet::new() };
        let exports = resolve(&config, &world(&services), &imported);
        let export = &exports.all[&bot()];
        assert_eq!(export.verdict.reason, reason);
        assert_eq!(export.spec.allow.is_empty(), !export.verdict.good, "{reason}");
    }
}
