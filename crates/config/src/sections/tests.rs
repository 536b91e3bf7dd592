//! Whole files: the example, and a table of wrong ones with all that is said about each.

mod any_text;
mod findings;
mod references;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use adit_core::snapshot::{Class, Hop, Seed};

use super::{NodeEnv, config};
use crate::config::{AdminConfig, LimitsConfig, LogConfig, MtuConfig};
use crate::reader::{ProblemSink, ValueReader};
use crate::tree::{self, YamlNode, YamlValue};
use crate::{Config, ConfigReport, EXAMPLE, parse};

/// The findings in a file, warnings as well.
fn said(text: impl AsRef<[u8]>) -> String {
    match parse(text.as_ref(), Path::new("f")) {
        Ok((_, report)) => report,
        Err(report) => {
            assert!(report.errors().count() > 0, "refused without an error");
            report
        }
    }
    .to_string()
}

/// Four good lines, so that what follows them begins at line 5.
const GOOD: &str = r#"cluster: edge
trustDomain: edge.example
node: {name: e1, listen: "127.0.0.1:7843", identity: id}
links: [{cluster: bank, trustDomain: bank.example, trustBundle: b.pem}]
"#;

#[track_caller]
fn after_good(rest: &str, expected: &str) {
    assert_eq!(said(format!("{GOOD}{rest}")), expected, "\n{rest}");
}

#[track_caller]
fn good(text: impl AsRef<[u8]>) -> Config {
    let (config, report) = parse(text.as_ref(), Path::new("/etc/adit/edge.yaml")).unwrap();
    assert_eq!(report.to_string(), "");
    config
}

#[test]
fn the_example_means_what_it_says() {
    let config = good(EXAMPLE);
    assert_eq!((config.cluster.as_str(), config.node.name.as_str()), ("edge", "e1"));
    assert_eq!(config.trust_domain.as_str(), "edge.trustusbank.example");
    assert_eq!(config.node.listen, ["0.0.0.0:7843".parse().unwrap()]);
    assert_eq!(config.node.advertise, ["172.18.1.2:7843".parse().unwrap()]);
    assert_eq!(config.node.identity, Path::new("/var/lib/adit"));
    assert_eq!(config.node.endpoints.get(), 2);
    assert_eq!(config.siblings[&"e2".parse().unwrap()], ["172.18.1.3:7843".parse().unwrap()]);
    let link = config.link(&"bank".parse().unwrap()).unwrap();
    assert_eq!(link.trust_bundle, Path::new("/etc/adit/bundles/bank.pem"));
    let [Seed::Address(_), Seed::Name { host, port: 7843 }] = &link.addresses[..] else {
        panic!("{link:?}")
    };
    assert_eq!(&**host, "adit.bank.trustusbank.example");
    let import = &config.imports[0];
    assert_eq!(import.service.to_string(), "trustusbank-bank-agents/fraud-bot");
    assert_eq!(import.ports[0].listen, ["127.0.0.1:15080".parse().unwrap()]);
    assert_eq!(import.allow[0].service_account.to_string(), "*");
    let export = &config.exports[0];
    assert_eq!((export.hop, export.class, export.replay), (Hop::Any, Class::Interactive, false));
    assert_eq!(export.probe, Some(Duration::from_secs(5)));
    let [here, there] = &export.ports[0].backends[..] else { panic!("{export:?}") };
    assert_eq!((here.node.as_str(), there.node.as_str()), ("e1", "e2"));
    assert!(here.explicit && there.explicit);
    assert_eq!(export.allow[0].cluster.as_str(), "bank");
    let workload = &config.workloads[&"127.0.1.10".parse().unwrap()];
    assert_eq!(workload.service_account.as_str(), "support-bot");
    assert_eq!(config.limits, LimitsConfig::default(), "the example shows the defaults");
    assert_eq!(config.admin, AdminConfig::default(), "the example shows the default");
    assert_eq!(config.metrics, Some("0.0.0.0:9902".parse().unwrap()));
    assert_eq!(config.log, LogConfig::default(), "the example shows the defaults");
}

/// The paths of all keys in `node`, without indices.
pub(super) fn keys(node: &YamlNode, path: &str, found: &mut BTreeSet<String>) {
    match &node.value {
        YamlValue::List(items) => items.iter().for_each(|i| keys(i, &format!("{path}[]"), found)),
        YamlValue::Map(entries) => {
            for (key, node) in entries {
                let YamlValue::Text(key) = &key.value else { panic!("{key:?}") };
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                keys(node, &path, found);
                found.insert(path);
            }
        }
        YamlValue::Empty | YamlValue::Literal(_) | YamlValue::Text(_) => {}
    }
}

#[test]
fn the_example_has_every_key_of_the_format() {
    let tree = tree::parse(EXAMPLE).unwrap();
    let sink = ProblemSink::default();
    let env = NodeEnv { base: Path::new(""), cores: NonZeroUsize::MIN };
    config(&ValueReader::root(&sink, &tree), env).unwrap();
    let mut shown = BTreeSet::new();
    keys(&tree, "", &mut shown);
    // The other way to say `admin.socket`, so that both cannot stand in one file.
    assert!(EXAMPLE.contains("`listen: \"127.0.0.1:9901\"`"));
    shown.insert("admin.listen".to_owned());
    assert_eq!(shown, sink.asked());
}

#[test]
fn defaults_are_filled_in() {
    let config = good(GOOD);
    assert_eq!(config.node.advertise, config.node.listen);
    assert!((1..=4).contains(&config.node.endpoints.get()));
    assert_eq!(config.node.identity, Path::new("/etc/adit/id"));
    assert!(config.siblings.is_empty() && config.imports.is_empty() && config.exports.is_empty());
    assert!(config.links[0].addresses.is_empty() && config.workloads.is_empty());
    assert_eq!((config.limits.clone(), config.metrics), (LimitsConfig::default(), None));
    assert_eq!(config.limits.idle_timeout(), Duration::from_secs(6));
    assert_eq!((config.admin, config.log), (AdminConfig::default(), LogConfig::default()));

    let config = good(format!(
        "{GOOD}imports: [{{service: a/b, from: bank, ports: [{{port: 80, listen: \"127.0.0.1:1\"}}]}}]"
    ));
    assert_eq!(config.imports[0].ports[0].name.as_str(), "");
    let [allow] = &config.imports[0].allow[..] else { panic!() };
    assert_eq!(
        (allow.namespace.to_string(), allow.service_account.to_string()),
        ("a".into(), "*".into())
    );
}

#[test]
fn keys_without_a_value_are_as_good_as_absent_where_they_may_be() {
    let empty = good(format!(
        "{GOOD}siblings:\nimports:\nexports:\nworkloads:\nlimits:\nadmin: ~\nlog: null\n"
    ));
    assert_eq!(empty, good(GOOD));
    after_good("metrics:\n", "f:5:8: metrics.listen: missing: expected IP:PORT");
}

#[test]
fn every_limit_is_read() {
    let Config { limits, .. } = good(format!(
        "{GOOD}limits: {{streamsPerConnection: 1, streamsPerPeer: 2, headerDeadline: 1s, dialTimeout: 2s, \
         peerBuffer: 2MiB, processBuffer: 3MiB, drain: 0s, leave: 0s, unknownSourceHold: 0s, \
         interactiveWindow: 16KiB, bulkWindow: 64KiB, keepAlive: 100ms, mtu: {{initial: 1300, max: 6500}}}}"
    ));
    let expected = LimitsConfig {
        streams_per_connection: 1,
        streams_per_peer: 2,
        header_deadline: Duration::from_secs(1),
        dial_timeout: Duration::from_secs(2),
        peer_buffer: 2 << 20,
        process_buffer: 3 << 20,
        drain: Duration::ZERO,
        leave: Duration::ZERO,
        unknown_source_hold: Duration::ZERO,
        interactive_window: 16 << 10,
        bulk_window: 64 << 10,
        keep_alive: Duration::from_millis(100),
        mtu: MtuConfig { initial: 1300, max: 6500 },
    };
    assert_eq!(limits, expected);
}

#[test]
fn what_a_peer_would_not_take_is_refused_here() {
    let export = |grants: usize| {
        let grant = |n| format!("{{cluster: bank, namespace: a, serviceAccount: s{n}}}");
        let grants: Vec<_> = (0..grants).map(grant).collect();
        format!(
            "exports:\n  - {{service: a/b, ports: [{{port: 1, backends: [\"10.0.0.1:1\"]}}], allow: [{}]}}\n",
            grants.join(", ")
        )
    };
    good(format!("{GOOD}{}", export(500)));
    let too_many = said(format!("{GOOD}{}", export(501)));
    assert!(
        too_many.contains("f:6:5: exports[0]: too large to be told to cluster bank"),
        "{too_many}"
    );
}

#[test]
fn denied_peers_are_read_in_both_forms() {
    let key = "ab".repeat(32);
    let config = good(format!(
        "{GOOD}denied:\n  clusters: [lab, {{cluster: bank, reason: \"broken into\"}}]\n  nodes: [edge/e2, bank/b1]\n  \
         serials: [12, 1e5, {{serial: \"00:AB\", cluster: bank}}]\n  keys: [{key}]\n"
    ));
    let all: Vec<_> = config.denied.iter().map(|entry| entry.peer.to_string()).collect();
    assert_eq!(
        all,
        [
            "denied.clusters: lab",
            "denied.clusters: bank",
            "denied.nodes: edge/e2",
            "denied.nodes: bank/b1",
            "denied.serials: 12",
            "denied.serials: 01e5",
            "denied.serials: ab of bank",
            &format!("denied.keys: {key}"),
        ]
    );
    assert_eq!(config.denied[1].reason.as_deref(), Some("broken into"));
    assert_eq!(good(format!("{GOOD}denied:\n")), good(GOOD));
}

#[test]
fn a_peer_that_is_denied_by_mistake_is_said() {
    for (rest, expected) in [
        (
            "denied: {clusters: [edge]}",
            "f:5:21: denied.clusters[0]: edge is this cluster itself: its nodes would refuse each other\n  \
             hint: a single node of it is denied under denied.nodes",
        ),
        (
            "denied: {nodes: [edge/e1]}",
            "f:5:18: warning: denied.nodes[0]: e1 is this node itself: only others can refuse it\n  \
             hint: its siblings need the same entry",
        ),
        (
            "denied: {clusters: [bnak]}",
            "f:5:21: warning: denied.clusters[0]: no link with cluster \"bnak\": expected bank\n  \
             hint: did you mean bank?",
        ),
        (
            "denied: {nodes: [b1]}",
            "f:5:18: denied.nodes[0]: \"b1\" is not a node: expected CLUSTER/NODE",
        ),
        (
            "denied: {serials: [\"0x12\", {cluster: bank}]}",
            "f:5:20: denied.serials[0]: \"0x12\" is not a valid serial number: expected 1 to 40 hexadecimal digits, as `adit pki show` prints them\n\
             f:5:28: denied.serials[1].serial: missing: expected whom to deny",
        ),
        (
            "denied: {keys: [abcd]}",
            "f:5:17: denied.keys[0]: \"abcd\" is not a valid hash of a key: expected 64 hexadecimal digits, the SHA-256 of a SubjectPublicKeyInfo, as `adit pki show` prints it",
        ),
        (
            "denied: {serials: [12, \"00:12\"]}",
            "f:5:24: denied.serials[1]: the entry denied.serials: 12 is already at line 5",
        ),
        (
            "denied: {clusters: [{cluster: lab, reason: \"a\\nb\"}]}",
            "f:5:44: denied.clusters[0].reason: expected one line of 200 characters at most",
        ),
        ("denied: [lab]", "f:5:9: denied: expected a map of keys and values, found a list"),
    ] {
        after_good(rest, expected);
    }
}
