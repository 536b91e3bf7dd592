use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::*;
use crate::api;

fn config(text: &str) -> ClusterConfig {
    let whole = format!("cluster: edge\n{text}");
    adit_config::parse_cluster(&[("cluster.yaml".to_owned(), whole)].into()).unwrap().0
}

const LINK: &str = "links:\n  - cluster: bank\n    trustDomain: bank.adit.internal\n    \
                    trustBundle: x\n  - cluster: lab\n    trustDomain: lab.adit.internal\n    trustBundle: y\n";

fn state(services: &[Value]) -> ClusterState {
    let service = |value: &Value| {
        let service: Service = serde_json::from_value(value.clone()).unwrap();
        let name = service.metadata.name.clone().unwrap();
        (api::service_name(&service.metadata, &name).unwrap(), Arc::new(service))
    };
    ClusterState { services: services.iter().map(service).collect(), ..ClusterState::default() }
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
    let state = state(&[service(json!({"type": "agent"}), annotations)]);
    for (rules, expected) in [
        (format!("exports:\n{selected}{named}"), "named"),
        (format!("exports:\n{selected}"), "selected"),
        (String::new(), "annotated"),
    ] {
        let exports = decide(&config(&format!("{LINK}{OPEN}{rules}")), &state, &BTreeSet::new());
        let export = &exports.all[&bot()];
        assert_eq!(export.spec.allow[0].workloads.namespace, expected);
        assert!(export.verdict.good, "{:?}", export.verdict);
    }
}

#[test]
fn an_annotation_of_a_hundred_thousand_faults_is_a_few_words() {
    let asked = (0..80_000).map(|n| format!("{n:x}")).collect::<Vec<_>>().join(",");
    let long = "x".repeat(200_000);
    for (to, allow) in [(&*asked, ""), ("bank", &*asked), (&*long, ""), ("bank", &*long)] {
        let annotations = json!({"adit.dev/export": to, "adit.dev/allow": allow});
        let state = state(&[service(json!({}), annotations)]);
        let exports = decide(&config(&format!("{LINK}{OPEN}")), &state, &BTreeSet::new());
        let verdict = exports.all.get(&bot()).map(|export| &export.verdict.message);
        let said = exports.refused.get(&bot()).or(verdict).unwrap();
        assert!(!said.is_empty() && said.len() < 8192, "{} bytes: {said:.99}", said.len());
    }
}

#[test]
fn a_tenant_publishes_nothing_that_its_namespace_may_not() {
    let asks = |to: &str| {
        state(&[service(
            json!({}),
            json!({"adit.dev/export": to, "adit.dev/allow": "lab/*/*,bank/*/*"}),
        )])
    };
    let closed = decide(&config(LINK), &asks("bank"), &BTreeSet::new());
    assert!(closed.all.is_empty() && closed.refused[&bot()].contains("optIn.exportTo"));
    let open = config(&format!("{LINK}{OPEN}"));
    let other = decide(&open, &asks("lab"), &BTreeSet::new());
    assert!(other.all.is_empty() && other.refused.contains_key(&bot()));
    let partly = decide(&open, &asks("lab,bank"), &BTreeSet::new());
    let export = &partly.all[&bot()];
    let clusters: Vec<&str> = export.spec.allow.iter().map(|g| g.cluster.as_str()).collect();
    assert_eq!((clusters, export.verdict.reason), (vec!["bank"], "BadAnnotation"));
}

#[test]
fn what_an_agent_says_counts_and_not_its_stale_copy() {
    let mut stub = service(json!({}), json!({"adit.dev/export": "bank"}));
    stub["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "kagent.dev/v1alpha2", "kind": "Agent", "name": "bot", "uid": "1"}]);
    let mut state = state(&[stub]);
    let config = config(&format!("{LINK}{OPEN}"));
    assert!(decide(&config, &state, &BTreeSet::new()).all.contains_key(&bot()));
    state
        .agents
        .all
        .insert(bot(), k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta::default());
    assert!(!decide(&config, &state, &BTreeSet::new()).all.contains_key(&bot()));
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
        let exports = decide(&config, &state(&services), &imported);
        let export = &exports.all[&bot()];
        assert_eq!(export.verdict.reason, reason);
        assert_eq!(export.spec.allow.is_empty(), !export.verdict.good, "{reason}");
    }
}

/// Grants bank the Service by an annotation.
fn open_to_bank() -> Value {
    json!({"adit.dev/export": "bank", "adit.dev/allow": "bank/*/*"})
}

#[test]
fn what_no_cluster_could_be_told_is_left_out_and_says_what_to_do() {
    let ports = |count: usize, more: &str| -> Value {
        (0..count).map(|n| json!({"name": format!("p{n}{more}"), "port": n + 1})).collect()
    };
    let grants = |count: usize, more: &str| {
        let all: Vec<String> = (0..count).map(|n| format!("bank/{more}/{more}{n}")).collect();
        all.join(",")
    };
    let long = "x".repeat(58);
    let subdomain = [long.as_str(); 4].join(".");
    let protocol = json!([{"name": "http", "port": 80, "appProtocol": format!("{subdomain}/a2a")}]);
    let large: Vec<String> = (0..500).map(|n| format!("bank/{long}/{subdomain}{n}")).collect();
    let few = "bank/*/*".to_owned();
    for (ports, allow, reason, says) in [
        (ports(101, ""), few.clone(), "TooManyPorts", "101 TCP ports, and an export 100 at most"),
        (ports(1, ""), grants(501, "a"), "TooManyGrants", "501 grants for bank"),
        (ports(100, &"y".repeat(50)), large.join(","), "TooLarge", "128 KiB at most"),
        (protocol, few.clone(), "BadPort", "is not a valid appProtocol"),
        (ports(100, ""), few.clone(), "Exported", "is exported"),
        (ports(1, ""), grants(500, "a"), "Exported", "is exported"),
        // Said often, it is one grant.
        (ports(1, ""), vec![few; 501].join(","), "Exported", "is exported"),
    ] {
        let mut one =
            service(json!({}), json!({"adit.dev/export": "bank", "adit.dev/allow": allow}));
        one["spec"]["ports"] = ports;
        let mut other = service(json!({}), open_to_bank());
        other["metadata"]["name"] = "other".into();
        let config = config(&format!("{LINK}{OPEN}"));
        let exports = decide(&config, &state(&[one, other]), &BTreeSet::new());
        let export = &exports.all[&bot()];
        assert_eq!(export.verdict.reason, reason);
        assert!(export.verdict.message.contains(says), "{}", export.verdict.message);
        let told = (export.spec.ports.is_empty(), export.spec.allow.is_empty());
        assert_eq!(told, (!export.verdict.good, !export.verdict.good), "{reason}");
        assert!(exports.all[&"team-a/other".parse().unwrap()].verdict.good);
    }
}

/// `count` Services of a namespace that ask for an export, made in that year.
fn many(namespace: &str, count: usize, year: u16) -> Vec<Value> {
    let one = |n: usize| {
        let mut one = service(json!({}), open_to_bank());
        one["metadata"]["namespace"] = namespace.into();
        one["metadata"]["name"] = format!("bot-{n:05}").into();
        one["metadata"]["creationTimestamp"] = format!("{year}-01-01T00:00:00Z").into();
        one
    };
    (0..count).map(one).collect()
}

/// Stores what was decided, as the controller does: the next pass finds it.
fn stored(state: &mut ClusterState, exports: &ExportDecisions, year: u16) {
    for resolved in exports.all.values() {
        let name = resolved.spec.service.object_name();
        let mut made = api::Export::new(&name, resolved.spec.clone());
        let time = json!(format!("{year}-01-01T00:00:00Z"));
        made.metadata.creation_timestamp = serde_json::from_value(time).unwrap();
        state.exports.entry(name).or_insert_with(|| Arc::new(made));
    }
}

fn of_namespace(exports: &ExportDecisions, namespace: &str) -> usize {
    exports.all.keys().filter(|service| service.namespace.as_str() == namespace).count()
}

#[test]
fn no_namespace_takes_the_places_of_others() {
    let named = "exports:\n  - service: team-a/bot-19999\n    allow: [{cluster: bank, namespace: a, serviceAccount: x}]\n";
    let config = config(&format!("{LINK}{OPEN}{named}"));
    let mut services = many("team-z", 3, 2026);
    services.extend(many("team-a", 20_000, 2025));
    let mut state = state(&services);
    let exports = decide(&config, &state, &BTreeSet::new());
    assert_eq!(of_namespace(&exports, "team-z"), 3);
    assert_eq!(of_namespace(&exports, "team-a"), limits::NAMESPACE_EXPORTS + 1, "one is named");
    assert_eq!(exports.left_out.len(), 20_000 - limits::NAMESPACE_EXPORTS - 1);
    assert!(exports.left_out.values().all(|why| why.contains("2000 Services at most")));
    let line = limits::describe_left_out(&exports.left_out).unwrap();
    assert!(line.starts_with("17999 Services of namespace team-a are not exported"), "{line}");
    // What is withdrawn is withdrawn all the same, and what waits takes the place.
    stored(&mut state, &exports, 2026);
    let gone: Vec<ServiceName> =
        ["team-z/bot-00001", "team-a/bot-00000"].map(|s| s.parse().unwrap()).into();
    gone.iter().for_each(|service| drop(state.services.remove(service)));
    let exports = decide(&config, &state, &BTreeSet::new());
    assert!(gone.iter().all(|service| !exports.all.contains_key(service)));
    assert_eq!(of_namespace(&exports, "team-a"), limits::NAMESPACE_EXPORTS + 1);
}

#[test]
fn a_newcomer_takes_nobodys_place() {
    let config = config(&format!("{LINK}{OPEN}"));
    let mut services: Vec<Value> = ["team-b", "team-c", "team-d", "team-e"]
        .iter()
        .flat_map(|n| many(n, 2_000, 2026))
        .collect();
    services.extend(many("team-y", 1_999, 2026));
    let mut before = state(&services);
    let first = decide(&config, &before, &BTreeSet::new());
    assert_eq!((first.all.len(), first.left_out.len()), (9_999, 0));
    stored(&mut before, &first, 2026);
    // Of Services that are older than all of them, and whose names come first, there is room for one.
    before.services.extend(state(&many("team-a", 2, 2001)).services);
    let now = decide(&config, &before, &BTreeSet::new());
    assert_eq!((now.all.len(), now.left_out.len()), (10_000, 1));
    assert!(first.all.keys().all(|service| now.all.contains_key(service)));
    let why = &now.left_out[&"team-a/bot-00001".parse().unwrap()];
    assert!(why.contains("a cluster exports 10000 Services at most"), "{why}");
}

#[test]
fn what_a_tenant_exports_is_entered_at_its_pods_node() {
    let rule = |services: &str| {
        config(&format!(
            "{LINK}exports:\n  - {services}\n    hop: any\n    allow: [{{cluster: bank, namespace: a, serviceAccount: x}}]\n"
        ))
    };
    let state = state(&[service(json!({"type": "agent"}), json!({}))]);
    let selected = rule("select: {namespaces: [team-a], labels: {type: agent}}");
    for (config, any, hop) in
        [(selected, false, Some("sameNode")), (rule("service: team-a/bot"), true, None)]
    {
        let exports = decide(&config, &state, &BTreeSet::new());
        let spec = &exports.all[&bot()].spec;
        assert_eq!((spec.any_endpoint, spec.hop.as_deref()), (any, hop));
    }
}

/// Services of team-a that ask for an export, by name, alias and year of birth.
fn aliased(all: &[(&str, &str, u16)]) -> ClusterState {
    let one = |(name, alias, year): &(&str, &str, u16)| {
        let mut annotations = open_to_bank();
        if !alias.is_empty() {
            annotations["adit.dev/export-as"] = (*alias).into();
        }
        let mut one = service(json!({}), annotations);
        one["metadata"]["name"] = (*name).into();
        one["metadata"]["creationTimestamp"] = format!("{year}-01-01T00:00:00Z").into();
        one
    };
    state(&all.iter().map(one).collect::<Vec<_>>())
}

/// Returns the exports of team-a, as NAME=SERVICE:PORTS, and the Services that were refused the name.
fn names(exports: &ExportDecisions) -> (Vec<String>, Vec<String>) {
    let one = |(name, export): (&ServiceName, &ResolvedExport)| {
        let ports: Vec<_> = export.spec.ports.iter().map(|port| port.number.to_string()).collect();
        format!("{}={}:{}", name.name(), export.spec.backend().name, ports.join(","))
    };
    let refused = exports.name_taken.keys().chain(exports.refused.keys());
    (exports.all.iter().map(one).collect(), refused.map(|s| s.name().to_owned()).collect())
}

#[test]
fn the_first_export_of_a_name_keeps_it() {
    let config = config(&format!("{LINK}{OPEN}"));
    let decide = |state: &ClusterState| decide(&config, state, &BTreeSet::new());
    let mut state = aliased(&[("young", "bot:81", 2026), ("old", "bot:82", 2020)]);
    let first = decide(&state);
    assert_eq!(names(&first), (vec!["bot=old:82".into()], vec!["young".into()]));
    assert!(first.name_taken.values().all(|why| why.contains("team-a/old is exported under that")));
    // Neither an older Service nor one of that very name takes it away.
    stored(&mut state, &first, 2026);
    state.services.extend(aliased(&[("oldest", "bot:83", 2010), ("bot", "", 2010)]).services);
    let (exported, refused) = names(&decide(&state));
    assert_eq!((exported, refused.len()), (vec!["bot=old:82".into()], 3));
    // A name that is free belongs to the Service of that name.
    state.exports.clear();
    let (exported, refused) = names(&decide(&state));
    assert_eq!((exported, refused.len()), (vec!["bot=bot:80".into()], 3));
    let unasked = service(json!({}), json!({}));
    let mut state = self::state(&[unasked]);
    state.services.extend(aliased(&[("other", "bot", 2020)]).services);
    assert_eq!(names(&decide(&state)), (vec![], vec!["other".into()]));
}

#[test]
fn an_administrator_gives_any_name_and_a_tenant_those_of_his_namespace() {
    let named = "exports: [{service: team-a/own, as: team-b/x:90}, {service: team-a/two, as: team-a/bot}]\n";
    let config = config(&format!("{LINK}{OPEN}{named}"));
    let asks = [
        ("own", "", 2020),
        ("two", "", 2020),
        ("bot", "", 2010),
        ("far", "team-b/y", 2020),
        ("bad", "y:no", 2020),
        ("well", "team-a/z:http=81", 2020),
        ("several", "w:http=1,grpc=2", 2020),
    ];
    let state = aliased(&asks);
    let exports = decide(&config, &state, &BTreeSet::new());
    let (exported, refused) = names(&exports);
    assert_eq!(exported, ["bot=two:80", "w=several:", "z=well:81", "x=own:90"]);
    assert_eq!(refused, ["bot", "bad", "far"]);
    assert!(exports.refused[&"team-a/far".parse().unwrap()].contains("another namespace"));
    assert_eq!(exports.all[&"team-a/w".parse().unwrap()].verdict.reason, "BadAlias");
    let wanted = wanted_exports(&config, &state);
    assert_eq!(wanted[&"team-a/own".parse().unwrap()], ExportOrigin::Named);
    assert_eq!(wanted[&"team-b/x".parse().unwrap()], ExportOrigin::Named);
}

#[test]
fn ports_of_an_alias_fit_those_of_the_service() {
    let rule = |alias: &str| {
        let named = format!("exports: [{{service: team-a/bot, as: \"team-a/x:{alias}\"}}]\n");
        config(&format!("{LINK}{named}"))
    };
    let mut two = service(json!({}), json!({}));
    two["spec"]["ports"] = json!([{"name": "http", "port": 80}, {"name": "grpc", "port": 81}]);
    let two = state(&[two]);
    for (alias, ports, says) in [
        ("http=90", vec![90, 81], "is exported"),
        ("http=81,grpc=80", vec![81, 80], "is exported"),
        ("90", vec![], "has 2 TCP ports, and its alias gives one number"),
        ("http=81", vec![], "gives two ports the number 81"),
        ("h2=81", vec![], "no TCP port of the name h2"),
    ] {
        let exports = decide(&rule(alias), &two, &BTreeSet::new());
        let export = exports.all.values().next().unwrap();
        let numbers: Vec<u16> = export.spec.ports.iter().map(|port| port.number).collect();
        assert_eq!(numbers, ports, "{alias}");
        assert!(export.verdict.message.contains(says), "{}", export.verdict.message);
    }
    // What stands for another cluster's Service is not passed on under any name.
    for imported in ["team-a/x", "team-a/bot"] {
        let exports = decide(&rule("http=90"), &two, &[imported.parse().unwrap()].into());
        assert_eq!(exports.all.values().next().unwrap().verdict.reason, "Imported", "{imported}");
    }
}

/// A Service of that name and namespace, with this spec.
fn other(namespace: &str, name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

#[test]
fn an_external_name_leads_to_a_service_of_this_cluster_or_nowhere() {
    let named = "exports: [{service: team-a/bot, allow: [{cluster: bank, namespace: a, serviceAccount: x}]}]\n";
    let named = config(&format!("{LINK}{named}"));
    let ports = json!([{"name": "http2", "port": 80}]);
    let mut all = vec![other("kourier", "gateway", json!({"ports": ports}))];
    all.push(other("kube-system", "kube-dns", json!({"ports": ports})));
    all.push(other(
        "team-b",
        "alias",
        json!({"type": "ExternalName", "externalName": "gateway.kourier.svc"}),
    ));
    let external = |to: &str| {
        let mut bot = service(json!({}), open_to_bank());
        bot["spec"] = json!({"type": "ExternalName", "externalName": to, "ports": [{"port": 80}]});
        bot
    };
    for (to, reason, says) in [
        ("gateway.kourier.svc.cluster.local", "Exported", "is exported"),
        ("gateway.kourier.svc", "Exported", "is exported"),
        ("metadata.google.internal", "UnsupportedService", "leads to no Service of this cluster"),
        ("10.96.0.1", "UnsupportedService", "leads to no Service of this cluster"),
        ("kube-dns.kube-system.svc", "UnsupportedService", "of Kubernetes or of Adit"),
        ("alias.team-b.svc", "UnsupportedService", "another ExternalName"),
        ("none.kourier.svc", "NoService", "leads to kourier/none, and there is no such Service"),
    ] {
        let state = state(&[all.clone(), vec![external(to)]].concat());
        let exports = decide(&named, &state, &BTreeSet::new());
        let export = &exports.all[&bot()];
        assert_eq!(export.verdict.reason, reason, "{to}");
        assert!(export.verdict.message.contains(says), "{}", export.verdict.message);
        let backend = export.spec.backend();
        let leads = format!("{}/{}", backend.namespace, backend.name);
        let followed = if export.verdict.good { "kourier/gateway" } else { "team-a/bot" };
        assert_eq!(
            (leads.as_str(), export.spec.ports.len()),
            (followed, usize::from(export.verdict.good))
        );
        // What stands for another cluster's Service is not passed on.
        let imported = ["kourier/gateway".parse().unwrap()].into();
        let export = &decide(&named, &state, &imported).all[&bot()];
        assert!(!export.verdict.good);
        // A tenant's annotation leads to no other namespace.
        let asked = decide(&config(&format!("{LINK}{OPEN}")), &state, &BTreeSet::new());
        let export = &asked.all[&bot()];
        assert_eq!((export.verdict.reason, export.spec.ports.len()), ("UnsupportedService", 0));
        assert!(export.verdict.message.contains("an export by name"), "{}", export.verdict.message);
    }
}

#[test]
fn a_headless_service_is_exported_like_any() {
    let mut headless = service(json!({}), open_to_bank());
    headless["spec"]["clusterIP"] = "None".into();
    let exports =
        decide(&config(&format!("{LINK}{OPEN}")), &state(&[headless.clone()]), &BTreeSet::new());
    assert_eq!(exports.all[&bot()].verdict.reason, "Exported");
    headless["spec"]["ports"] = json!([]);
    let exports = decide(&config(&format!("{LINK}{OPEN}")), &state(&[headless]), &BTreeSet::new());
    assert_eq!(exports.all[&bot()].verdict.reason, "NoTcpPort");
}

#[test]
fn streams_wait_where_an_administrator_says_so() {
    let rule = "exports:\n  - {service: team-a/bot, whenEmpty: {hold: 9s, streams: 2}, allow: [{cluster: bank, namespace: a, serviceAccount: x}]}\n";
    let exports = decide(
        &config(&format!("{LINK}{rule}")),
        &state(&[service(json!({}), json!({}))]),
        &BTreeSet::new(),
    );
    let hold = exports.all[&bot()].spec.hold.unwrap();
    assert_eq!((hold.timeout_ms, hold.streams), (9000, 2));
}
