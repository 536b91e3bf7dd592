//! Whole documents: the example, fragments that meet, and a table of wrong ones with all that is said.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use adit_core::snapshot::{Class, HoldLimits, Hop};

use crate::cluster::{
    AppProtocols, ClusterConfig, ClusterReport, EXAMPLE, NetworkConfig, NetworkMode, NodeFacts,
    ServiceSelection, parse,
};
use crate::config::{AdminConfig, LimitsConfig};
use crate::metrics_readers::MetricsReaders;
use crate::reader::{ProblemSink, ValueReader};
use crate::sections::tests::keys;
use crate::tree;

fn data<const N: usize>(fragments: [(&str, &str); N]) -> BTreeMap<String, String> {
    fragments.map(|(key, text)| (key.to_owned(), text.to_owned())).into()
}

/// The findings in a document, warnings as well.
fn said<const N: usize>(fragments: [(&str, &str); N]) -> String {
    match parse(&data(fragments)) {
        Ok((_, report)) => report,
        Err(report) => {
            assert!(report.errors().count() > 0 || report.unnamed, "refused without a reason");
            report
        }
    }
    .to_string()
}

#[track_caller]
fn good<const N: usize>(fragments: [(&str, &str); N]) -> ClusterConfig {
    let (config, report) = parse(&data(fragments)).unwrap();
    assert_eq!(report.to_string(), "");
    config
}

const NAME: (&str, &str) = ("cluster.yaml", "cluster: edge\n");
const LINK: (&str, &str) =
    ("link-bank.yaml", "links:\n- {cluster: bank, trustDomain: bank.example, trustBundle: pem}\n");

#[test]
fn the_example_means_what_it_says() {
    let config = good([("all.yaml", EXAMPLE)]);
    assert_eq!(
        (config.cluster.as_str(), config.trust_domain.as_str()),
        ("edge", "edge.trustusbank.example")
    );
    let [link] = &config.links[..] else { panic!() };
    assert!(link.trust_bundle.starts_with("-----BEGIN CERTIFICATE-----\nMII"));
    assert!(link.trust_bundle.ends_with("-----END CERTIFICATE-----\n"));
    assert_eq!((link.addresses.len(), link.import[0].as_str()), (2, "trustusbank-*"));
    assert!(!link.create_services);
    let [also] = &link.also_allow[..] else { panic!() };
    assert_eq!(also.to_string(), "agent-catalog/browser");
    let [one, many] = &config.exports[..] else { panic!() };
    assert!(matches!(&one.services, ServiceSelection::Named(s) if s.name() == "support-bot"));
    assert_eq!((one.hop, one.class, one.replay), (Hop::Any, Class::Interactive, false));
    assert_eq!(one.probe, Some(Duration::from_secs(5)));
    assert!(matches!(&one.app_protocol, AppProtocols::All(p) if p.as_str() == "kgateway.dev/a2a"));
    let ServiceSelection::Selected { namespaces, labels } = &many.services else { panic!() };
    assert_eq!((namespaces[0].as_str(), &*labels["kagenti.io/type"]), ("team-*", "agent"));
    let AppProtocols::Ports(ports) = &many.app_protocol else { panic!() };
    assert_eq!(ports[&"http".parse().unwrap()].as_str(), "kgateway.dev/a2a");
    assert_eq!(many.allow[0].workloads.service_account.to_string(), "*");
    let [import] = &config.imports[..] else { panic!() };
    assert_eq!((import.allow.as_ref().map(Vec::len), import.create_service), (Some(1), true));
    assert_eq!(config.opt_in[0].export_to, config.opt_in[0].import_from);
    assert_eq!(config.network, NetworkConfig::default(), "the example shows the defaults");
    assert_eq!(config.limits.unknown_source_hold, Duration::from_secs(10));
    let hold = Duration::ZERO;
    assert_eq!(
        LimitsConfig { unknown_source_hold: hold, ..config.limits },
        LimitsConfig::default()
    );
}

#[test]
fn the_example_has_every_key_of_the_format() {
    let tree = tree::parse(EXAMPLE).unwrap();
    let sink = ProblemSink::default();
    super::read(&[ValueReader::root(&sink, &tree)], true).config().unwrap();
    let mut shown = Default::default();
    keys(&tree, "", &mut shown);
    // The keys of these are not ours.
    shown.remove("exports[].select.labels.kagenti.io/type");
    shown.remove("exports[].appProtocol.http");
    assert_eq!(shown, sink.asked());
}

#[test]
fn a_name_is_enough_and_defaults_are_filled_in() {
    let config = good([NAME, ("notes.txt", "{{ not ours"), ("empty.yaml", "# nothing yet\n")]);
    assert_eq!(config.trust_domain.as_str(), "edge.adit.internal");
    assert!(config.links.is_empty() && config.exports.is_empty() && config.imports.is_empty());
    assert_eq!((config.network, config.opt_in.len()), (NetworkConfig::default(), 0));
    assert_eq!(config.limits.unknown_source_hold, Duration::from_secs(10));
    let config = good([NAME, LINK, ("i.yaml", "imports: [{service: a/b, from: bank}]")]);
    assert_eq!((config.imports[0].allow.clone(), config.imports[0].create_service), (None, true));
    assert!(config.links[0].import.is_empty() && config.links[0].addresses.is_empty());
}

#[test]
fn a_cluster_without_a_name_is_told_apart_from_a_wrong_one() {
    let unnamed = |report: &ClusterReport| (report.unnamed, report.errors().count());
    let fails = |data| parse(&data).unwrap_err();
    assert_eq!(unnamed(&fails(BTreeMap::new())), (true, 0));
    assert_eq!(unnamed(&fails(data([("a.yaml", ""), LINK]))), (true, 0));
    assert!(said([]).contains("no name yet"), "{}", said([]));
    assert_eq!(unnamed(&fails(data([("a.yaml", "network: {port: 0}")]))), (true, 1));
    // The name may be in what could not be read.
    assert_eq!(unnamed(&fails(data([("a.yaml", "a: b: c")]))), (false, 1));
    assert_eq!(unnamed(&fails(data([("a.yaml", "[]")]))), (false, 1));
    assert_eq!(unnamed(&fails(data([("a.yaml", "cluster: Edge")]))), (false, 1));
}

#[test]
fn fragments_are_one_document() {
    let config = good([
        NAME,
        ("a.yaml", "imports: [{service: n/a, from: bank}]\nlog: {level: warn}\n"),
        ("b.yaml", "imports: [{service: n/b, from: bank}]\nlimits: {drain: 1s}\n"),
        LINK,
    ]);
    let imports: Vec<_> = config.imports.iter().map(|import| import.service.name()).collect();
    assert_eq!((imports, config.limits.drain), (vec!["a", "b"], Duration::from_secs(1)));

    // What is said names both places.
    for (rest, expected) in [
        (
            "cluster: edge\n",
            "z.yaml:1:10: cluster: cluster is already in cluster.yaml at line 1\n  \
             hint: what is no list stands in one fragment only; take one of them out",
        ),
        (
            "links: [{cluster: bank, trustDomain: bank.example, trustBundle: pem}]",
            "z.yaml:1:19: links[0].cluster: cluster bank is already in link-bank.yaml at line 2\n\
             z.yaml:1:38: links[0].trustDomain: trust domain bank.example is already in link-bank.yaml at line 2",
        ),
        (
            "imports: [{service: n/a, from: bank}]\nexports:\n- {service: n/a, allow: [{cluster: bank, namespace: n, serviceAccount: s}]}",
            "z.yaml:3:13: exports[0].service: n/a is imported at line 1: it cannot be exported too",
        ),
        (
            "keepAlive: 1s\n",
            "z.yaml:1:1: keepAlive: unknown key: expected cluster, trustDomain, links, exports, imports, \
             importCallers, optIn, denied, network, limits, log\n  hint: keepAlive belongs under limits",
        ),
    ] {
        assert_eq!(said([NAME, LINK, ("z.yaml", rest)]), expected);
    }
    assert_eq!(
        said([
            NAME,
            LINK,
            ("a.yaml", "imports: [{service: n/a, from: bank}]\n"),
            ("b.yaml", "imports: [{service: n/a, from: bank}]\n"),
            ("c.yml", "imports: []\n"),
        ]),
        "b.yaml:1:21: imports[0].service: the import of n/a is already in a.yaml at line 1\n\
         c.yml: warning: not read: expected a key that ends in .yaml"
    );
}

#[track_caller]
fn after(text: &str, expected: &str) {
    assert_eq!(said([NAME, LINK, ("f.yaml", text)]), expected, "\n{text}");
}

#[test]
fn what_is_wrong_is_said_all_at_once_with_its_place() {
    after(
        "links:\n- {cluster: edge, trustDomain: edge.adit.internal, trustBundle: ' ', import: {namespace: ['*']}}\n",
        "f.yaml:2:13: links[0].cluster: edge is this cluster itself: expected another cluster\n  \
         hint: the other nodes of this cluster are its siblings\n\
         f.yaml:2:32: links[0].trustDomain: edge.adit.internal is this cluster's own trust domain: expected another\n  \
         hint: each cluster has its own CA and trust domain, or either could speak for both\n\
         f.yaml:2:65: links[0].trustBundle: expected the other cluster's CA certificates (PEM or SPIFFE JSON), found nothing\n\
         f.yaml:2:79: links[0].import.namespace: unknown key: expected namespaces, createServices, alsoAllow\n  \
         hint: did you mean namespaces?",
    );
    after(
        "exports:\n- allow: [{cluster: bnak, namespace: a, serviceAccount: b}]\n- {service: n/a, select: {namespaces: [], labels: {}}}\n\
         - {service: n/b}\n",
        "f.yaml:2:3: exports[0]: missing: expected service (NAMESPACE/NAME) or select\n\
         f.yaml:2:21: warning: exports[0].allow[0].cluster: no link with cluster \"bnak\": expected bank\n  \
         hint: did you mean bank?\n\
         f.yaml:3:3: warning: exports[1]: no allow: nobody may use it\n\
         f.yaml:3:26: exports[1].select: expected either service or select, found both\n\
         f.yaml:3:39: exports[1].select.namespaces: expected at least one namespace\n\
         f.yaml:3:51: exports[1].select.labels: expected at least one label\n\
         f.yaml:4:3: warning: exports[2]: no allow: nobody may use it",
    );
    after(
        "exports:\n- select: {namespaces: [A_b], labels: {a//b: x, c: d/e}}\n  appProtocol: {Http: x}\n  allow: [{cluster: bank, namespace: a, serviceAccount: b}]\n",
        "f.yaml:2:25: exports[0].select.namespaces[0]: \"A_b\" is not a valid namespace or pattern: expected 1 to 63 of \
         a-z, 0-9 and '-', and '*' for any of them\n  hint: did you mean \"a-b\"?\n\
         f.yaml:2:46: exports[0].select.labels.\"a//b\": \"a//b\" is not the key of a label: expected [PREFIX/]NAME\n\
         f.yaml:2:52: exports[0].select.labels.c: \"d/e\" is not the value of a label: expected at most 63 letters, \
         digits, '-', '_' and '.'\n\
         f.yaml:3:23: exports[0].appProtocol.Http: \"Http\" is not a valid port name: expected empty, or 1 to 63 of a-z, \
         0-9 and '-', beginning and ending with a letter or digit\n  hint: did you mean \"http\"?",
    );
    after(
        "imports:\n- {service: n/a, from: bonk, createService: no}\n- {service: n/b, from: edge, allow: []}\noptIn:\n- {namespaces: x, exportTo: other}\n- {namespaces: [y]}\n",
        "f.yaml:2:24: warning: imports[0].from: no link with cluster \"bonk\": expected bank\n  hint: did you mean bank?\n\
         f.yaml:2:45: imports[0].createService: expected true or false, found \"no\"\n  hint: did you mean false (without quotes)?\n\
         f.yaml:3:24: imports[1].from: edge is this cluster itself: expected a linked cluster\n  \
         hint: services of this cluster are reached without Adit\n\
         f.yaml:3:37: warning: imports[1].allow: no allow: nobody may use it\n\
         f.yaml:5:29: warning: optIn[0].exportTo: no link with cluster \"other\": expected bank\n\
         f.yaml:6:3: warning: optIn[1]: neither exportTo nor importFrom: annotations there still count for nothing",
    );
    // Nothing is said about names of links that could not be read.
    after(
        "links: [7]\nimports: [{service: n/a, from: other}]",
        "f.yaml:1:9: links[0]: expected a map of keys and values, found 7",
    );
    after(
        "links: 7\nimports: [{service: n/a, from: other}]",
        "f.yaml:1:8: links: expected a list, found 7\n  hint: write [\"7\"]",
    );
}

#[test]
fn a_wrong_network_is_said_with_its_place() {
    after(
        "network:\n  mode: local\n  range: 198.18.3.0/15\n  range6: fe80::/64\n  port: 70000\n  listenerPort: 29873\n  metrics: 127.0.0.1:0\n",
        "f.yaml:2:9: network.mode: \"local\" is not one of localRange, nodeAddress\n  hint: did you mean localRange?\n\
         f.yaml:3:10: network.range: 198.18.3.0/15 does not begin at its first address\n  hint: did you mean 198.18.0.0/15?\n\
         f.yaml:4:11: network.range6: fe80::/64 has a meaning of its own in IP: expected a range that nobody uses\n\
         f.yaml:5:9: network.port: 70000 is out of range: expected 1 to 65535\n\
         f.yaml:6:17: network.listenerPort: 29873 is out of range: expected 1024 to 29872\n\
         f.yaml:7:12: network.metrics: port 0 is any free port: expected 1 to 65535",
    );
    after(
        "network: {range: 127.0.0.0/8, range6: '::/48', listenerPort: 7800, metrics: '127.0.0.1:7927'}",
        "f.yaml:1:18: network.range: 127.0.0.0/8 has a meaning of its own in IP: expected a range that nobody uses\n\
         f.yaml:1:39: network.range6: ::/48 has a meaning of its own in IP: expected a range that nobody uses\n\
         f.yaml:1:77: network.metrics: the port of metrics (7927) is one of those from listenerPort on (7800 to 7927)",
    );
    after(
        "network: {range: 198.18.0.0, range6: fd00::/47}",
        "f.yaml:1:18: network.range: \"198.18.0.0\" is not a range: expected ADDRESS/LENGTH as 198.18.0.0/15\n\
         f.yaml:1:38: network.range6: 47 is out of range: expected 48 to 124",
    );
}

#[test]
fn grants_that_no_peer_can_be_told_are_refused() {
    let grants: Vec<_> = (0..501)
        .map(|n| format!("{{cluster: bank, namespace: n{n}, serviceAccount: s}}"))
        .collect();
    let text = format!("exports: [{{service: n/a, allow: [{}]}}]", grants.join(","));
    let said = said([NAME, LINK, ("f.yaml", &text)]);
    assert!(said.contains("too large to be told to cluster bank"), "{said}");
}

#[test]
fn a_node_gets_its_part() {
    let config = good([
        NAME,
        (
            "l.yaml",
            "links: [{cluster: bank, trustDomain: b.example, trustBundle: pem, addresses: [\"a.b:1\"]}]",
        ),
        (
            "n.yaml",
            "network: {port: 7000, metrics: '127.0.0.1:7001', mode: nodeAddress}\nlog: {level: debug}\n",
        ),
    ]);
    assert_eq!(config.network.mode, NetworkMode::NodeAddress);
    let facts = |addresses: &[&str]| NodeFacts {
        name: "e1".parse().unwrap(),
        addresses: addresses.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect(),
        identity: "/var/lib/adit".into(),
        bundles: "/var/lib/adit/bundles".into(),
    };
    let node = config.node(facts(&["172.18.1.2"]));
    assert_eq!(node.node.listen, ["0.0.0.0:7000".parse().unwrap()]);
    assert_eq!(node.node.advertise, ["172.18.1.2:7000".parse().unwrap()]);
    assert_eq!(node.node.identity, Path::new("/var/lib/adit"));
    assert!((1..=4).contains(&node.node.endpoints.get()));
    let [link] = &node.links[..] else { panic!() };
    assert_eq!(link.trust_bundle, Path::new("/var/lib/adit/bundles/bank.pem"));
    assert_eq!(
        (&link.addresses, &link.trust_domain),
        (&config.links[0].addresses, &config.links[0].trust_domain)
    );
    assert_eq!(
        (node.admin, node.metrics),
        (AdminConfig::default(), Some("127.0.0.1:7001".parse().unwrap()))
    );
    assert_eq!((node.log, node.limits), (config.log, config.limits.clone()));

    let dual = config.node(facts(&["172.18.1.2", "fd00::2"]));
    assert_eq!(dual.node.listen, ["[::]:7000".parse().unwrap()], "it carries IPv4 as well");
    assert_eq!(dual.node.advertise[1], "[fd00::2]:7000".parse().unwrap());
}

#[test]
fn metrics_are_for_the_cluster_unless_it_is_said_for_whom_or_where() {
    let readers = |network: &str| {
        let config = good([NAME, ("n.yaml", &format!("network: {{{network}}}\n"))]);
        let facts = NodeFacts {
            name: "e1".parse().unwrap(),
            addresses: vec!["172.18.1.2".parse().unwrap()],
            identity: "/i".into(),
            bundles: "/b".into(),
        };
        let access = config.node(facts).metrics_access.unwrap();
        let listen: Vec<String> = access.listen.iter().map(ToString::to_string).collect();
        (access.readers, listen)
    };
    let at_node = vec!["172.18.1.2:7844".to_owned()];
    assert_eq!(readers(""), (MetricsReaders::cluster(), at_node.clone()));
    assert_eq!(readers("metricsFrom: []"), (MetricsReaders::default(), vec![]));
    let monitoring = ["10.1.0.0/16".parse().unwrap()].into_iter().collect();
    assert_eq!(readers("metricsFrom: [10.1.0.0/16]"), (monitoring, at_node.clone()));
    // As it was before the key was there.
    assert_eq!(readers("metrics: 127.0.0.1:7844"), (MetricsReaders::default(), vec![]));
    assert_eq!(readers("metrics: 0.0.0.0:7844"), (MetricsReaders::everybody(), vec![]));
    let nodes = ["nodes".parse().unwrap()].into_iter().collect::<MetricsReaders>();
    assert_eq!(readers("metrics: 127.0.0.1:7844, metricsFrom: [nodes]"), (nodes.clone(), at_node));
    assert_eq!(readers("metrics: 0.0.0.0:7844, metricsFrom: [nodes]"), (nodes, vec![]));
    after(
        "network: {metricsFrom: [pod, 10.1.0.0/8]}",
        "f.yaml:1:25: network.metricsFrom[0]: \"pod\": expected pods, nodes, or a range of addresses as 10.0.0.0/8\n\
         f.yaml:1:30: network.metricsFrom[1]: \"10.1.0.0/8\": the range begins at 10.0.0.0",
    );
}

#[test]
fn a_network_survives_its_line() {
    for network in [
        NetworkConfig::default(),
        NetworkConfig {
            mode: NetworkMode::NodeAddress,
            range: "100.64.0.0/10".parse().unwrap(),
            range6: "fd42::/64".parse().unwrap(),
            port: 1,
            listener_port: 20_000,
            ..NetworkConfig::default()
        },
    ] {
        assert_eq!(NetworkConfig::default().from_line(&network.line()), Some(network));
    }
    assert_eq!(NetworkConfig::default().from_line("localRange 198.18.0.0"), None);
}

#[test]
fn denied_of_all_fragments_are_one_list() {
    let config = good([
        NAME,
        LINK,
        ("a.yaml", "denied: {clusters: [bank], nodes: [edge/e1]}\n"),
        ("b.yaml", "denied: {nodes: [{node: bank/b1, reason: lost}]}\n"),
    ]);
    let said = |config: &ClusterConfig| -> Vec<_> {
        config.denied.iter().map(|entry| entry.peer.to_string()).collect()
    };
    let all = ["denied.clusters: bank", "denied.nodes: edge/e1", "denied.nodes: bank/b1"];
    assert_eq!(said(&config), all);
    let facts = NodeFacts {
        name: "e1".parse().unwrap(),
        addresses: vec![],
        identity: "/i".into(),
        bundles: "/b".into(),
    };
    assert_eq!(config.node(facts).denied, config.denied);
    assert_eq!(
        self::said([
            NAME,
            LINK,
            ("a.yaml", "denied: {nodes: [bank/b1]}\n"),
            ("b.yaml", "denied: {nodes: [bank/b1], clusters: [edge]}\n")
        ]),
        "b.yaml:1:18: denied.nodes[0]: the entry denied.nodes: bank/b1 is already in a.yaml at line 1\n\
         b.yaml:1:39: denied.clusters[0]: edge is this cluster itself: its nodes would refuse each other\n  \
         hint: a single node of it is denied under denied.nodes"
    );
}

#[test]
fn an_alias_names_one_service_and_once() {
    let export = |text: &str| said([NAME, LINK, ("x.yaml", &format!("exports:\n{text}"))]);
    let allow = "allow: [{cluster: bank, namespace: a, serviceAccount: b}]";
    let fine = format!(
        "- {{service: a/b, as: a/c, makeAlias: true, {allow}}}\n- {{service: a/b, {allow}}}\n"
    );
    assert_eq!(export(&fine), "");
    for (text, says) in [
        (
            format!("- {{service: a/b, as: a/c, {allow}}}\n- {{service: a/c, {allow}}}\n"),
            "the export of a/c is already",
        ),
        (format!("- {{service: a/b, makeAlias: true, {allow}}}\n"), "makeAlias without as"),
        (
            format!("- {{select: {{namespaces: a, labels: {{a: b}}}}, as: a/c, {allow}}}\n"),
            "one alias cannot stand for all",
        ),
        (format!("- {{service: a/b, as: \"a/c:0\", {allow}}}\n"), "is not a valid alias"),
    ] {
        let found = export(&text);
        assert!(found.contains(says), "{text}: {found}");
    }
    let import = "imports: [{service: a/c, from: bank}]\n";
    for text in ["{service: a/b, as: a/c", "{service: a/c, as: a/d"] {
        let exports = format!("{import}exports:\n- {text}, {allow}}}\n");
        assert!(said([NAME, LINK, ("x.yaml", &exports)]).contains("a/c is imported"), "{text}");
    }
}

#[test]
fn only_a_named_export_that_is_entered_anywhere_has_streams_wait() {
    let export = |text: &str| {
        let allow = "allow: [{cluster: bank, namespace: a, serviceAccount: b}]";
        format!("exports: [{{{text}, {allow}}}]\n")
    };
    let said = |text: &str| said([NAME, LINK, ("x.yaml", &export(text))]);
    let hold = |text: &str| good([NAME, LINK, ("x.yaml", &export(text))]).exports[0].hold;
    let limits = |secs, streams| Some(HoldLimits { timeout: Duration::from_secs(secs), streams });
    assert_eq!(hold("service: a/b, whenEmpty: hold"), limits(60, 100));
    assert_eq!(hold("service: a/b, whenEmpty: {hold: 5s}"), limits(5, 100));
    assert_eq!(hold("service: a/b, whenEmpty: {hold: 5m, streams: 1000}"), limits(300, 1000));
    assert_eq!(hold("service: a/b, whenEmpty: refuse"), None);
    for (text, says) in [
        ("service: a/b, hop: sameNode, whenEmpty: hold", "hold needs hop: any"),
        ("select: {namespaces: a, labels: {a: b}}, whenEmpty: hold", "for a Service that is named"),
        ("service: a/b, whenEmpty: wait", "is not one of refuse, hold"),
        ("service: a/b, whenEmpty: {hold: 6m}", "out of range"),
        ("service: a/b, whenEmpty: {hold: 5s, streams: 0}", "out of range"),
        ("service: a/b, whenEmpty: {streams: 5}", "hold"),
    ] {
        let found = said(text);
        assert!(found.contains(says), "{text}: {found}");
    }
}
