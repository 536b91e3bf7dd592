//! Whole files: the example, and a table of wrong ones with all that is said about each.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use adit_core::snapshot::{Class, Hop, Seed};
use proptest::prelude::*;

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
fn everything_is_said_at_once() {
    let text = r#"cluster: Edge
trustdomain: edge.example
node: {name: e1, listen: ["127.0.0.1:7843", "10.0.0.300:7843"], identity: }
links:
  - cluster: bank
    trustDomain: bank
    trustBundle: b.pem
    addresses: ["10.0.0.300:7843", "bank:7843", "bank:7843"]
  - {cluster: bank, trustDomain: bank, trustBundle: x.pem, adresses: []}
imports:
  - {service: ns/a, from: bnak, ports: [{name: http, port: 0, listen: "0.0.0.0:15080"}]}
  - service: ns/a
    from: bank
    ports:
      name: http
exports:
  - service: ns/a
    ports: [{port: "8080", backends: []}]
    hop: samenode
    replay: yes
    drain: 5
limits:
  drain: 5
  mtu: {initial: 9000}
metrics: {listen: "0.0.0.0:31000"}
metrics: {listen: "0.0.0.0:31000"}
"#;
    let expected = r#"f:1:1: trustDomain: missing: expected the trust domain of this cluster's CA
f:1:10: cluster: "Edge" is not a valid cluster name: expected 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit
  hint: did you mean "edge"?
f:2:1: trustdomain: unknown key: expected cluster, trustDomain, node, siblings, links, imports, exports, workloads, denied, limits, admin, metrics, log
  hint: did you mean trustDomain?
f:3:45: node.listen[1]: "10.0.0.300:7843" is not an address: expected IP:PORT
f:3:73: node.identity: no value: expected text
f:8:17: links[0].addresses[0]: "10.0.0.300:7843" is not an address: expected IP:PORT or NAME:PORT
f:8:49: links[0].addresses[2]: address bank:7843 is already at line 8
f:9:15: links[1].cluster: cluster bank is already at line 5
f:9:34: links[1].trustDomain: trust domain bank is already at line 6
f:9:60: links[1].adresses: unknown key: expected cluster, trustDomain, addresses, trustBundle
  hint: did you mean addresses?
f:11:27: imports[0].from: no link with cluster "bnak": expected bank
  hint: did you mean bank?
f:11:60: imports[0].ports[0].port: 0 is out of range: expected 1 to 65535
f:11:71: imports[0].ports[0].listen: 0.0.0.0:15080 is a wildcard: expected one address
  hint: the local address of a connection says which import is meant
f:12:14: imports[1].service: the import of ns/a is already at line 11
f:15:7: imports[1].ports: expected a list, found a map
  hint: begin each entry with a dash, or put the list in [ ]
f:17:5: warning: exports[0]: no allow: nobody may use it
f:17:14: exports[0].service: ns/a is imported at line 11: it cannot be exported too
f:18:20: exports[0].ports[0].port: expected a whole number, found "8080"
  hint: write 8080 without quotes
f:18:38: warning: exports[0].ports[0].backends: no backends: every connection will be refused
f:19:10: exports[0].hop: "samenode" is not one of any, sameNode
  hint: did you mean sameNode?
f:20:13: exports[0].replay: expected true or false, found "yes"
  hint: did you mean true (without quotes)?
f:21:5: exports[0].drain: unknown key: expected service, ports, allow, hop, class, replay, probe
  hint: drain belongs under limits
f:23:10: limits.drain: "5" is not a duration: expected a whole number and its unit, as in 100ms, 5s, 1m or 1h
  hint: did you mean 5s?
f:24:18: limits.mtu.initial: 9000 is out of range: expected 1200 to 6500
f:25:19: warning: metrics.listen: port 31000 is in Kubernetes' NodePort range, 30000 to 32767
  hint: on a Kubernetes node a Service may take it; choose one outside the range
f:26:1: metrics: duplicate key: first written at line 25"#;
    let report = said(text);
    for (said, expected) in report.lines().zip(expected.lines()) {
        assert_eq!(said, expected);
    }
    assert_eq!(report.lines().count(), expected.lines().count());
}

#[test]
fn types_and_keys() {
    for (rest, expected) in [
        ("limits: [1]", "f:5:9: limits: expected a map of keys and values, found a list"),
        ("limits: 5", "f:5:9: limits: expected a map of keys and values, found 5"),
        ("siblings: e2", "f:5:11: siblings: expected a list, found \"e2\"\n  hint: write [\"e2\"]"),
        (
            "siblings: [{name: [e2]}]",
            "f:5:19: siblings[0].name: expected text, found a list\n  hint: leave out the brackets or the dash",
        ),
        ("siblings: [{name: {}}]", "f:5:19: siblings[0].name: expected text, found a map"),
        ("siblings: [{}]", "f:5:12: siblings[0].name: missing: expected the other node's name"),
        (
            "log: {level: verbose}",
            "f:5:14: log.level: \"verbose\" is not one of error, warn, info, debug, trace",
        ),
        (
            "log: {<<: {level: info}}",
            "f:5:7: log.<<: unknown key: expected level, format\n  hint: merge keys are not supported; write the keys out",
        ),
        (
            "log: {lvel: info}",
            "f:5:7: log.lvel: unknown key: expected level, format\n  hint: did you mean level?",
        ),
        ("log: {lvel: info, level: info}", "f:5:7: log.lvel: unknown key: expected level, format"),
        ("log: {? [a] : b}", "f:5:9: log: a key is not text: expected NAME: VALUE"),
        (
            "log: {\"a\\x1bb c\": 1}",
            "f:5:7: log.\"a\\u{1b}b c\": unknown key: expected level, format",
        ),
        (
            "listen: x",
            "f:5:1: listen: unknown key: expected cluster, trustDomain, node, siblings, links, imports, exports, workloads, denied, limits, admin, metrics, log\n  hint: listen belongs under admin",
        ),
        (
            "limits: {cluster: x}",
            "f:5:10: limits.cluster: unknown key: expected streamsPerConnection, streamsPerPeer, headerDeadline, dialTimeout, peerBuffer, processBuffer, drain, leave, unknownSourceHold, interactiveWindow, bulkWindow, keepAlive, mtu\n  hint: cluster belongs at the top of the file",
        ),
        (
            "limits: {streamsPerPeer: true}",
            "f:5:26: limits.streamsPerPeer: \"true\" is not a whole number: expected 1 to 1000000",
        ),
        ("limits: {drain: 48h}", "f:5:17: limits.drain: 48h is out of range: expected 0ms to 24h"),
        (
            "limits: {bulkWindow: 1KiB}",
            "f:5:22: limits.bulkWindow: 1KiB is out of range: expected 64KiB to 1GiB",
        ),
    ] {
        after_good(rest, expected);
    }
    assert!(said("- a").contains("f:1:1: expected a map of keys and values, found a list"));
    // Names that YAML would take for something else are still names.
    let config =
        good(GOOD.replace("cluster: edge", "cluster: no").replace("name: e1", "name: 0x10"));
    assert_eq!((config.cluster.as_str(), config.node.name.as_str()), ("no", "0x10"));
}

#[test]
fn an_anchor_is_wrong_where_it_is_written() {
    after_good(
        "siblings:\n  - {name: e2, addresses: &a [\"x\"]}\n  - {name: e3, addresses: *a}\n",
        "f:6:31: siblings[0].addresses[0]: \"x\" is not an address: expected IP:PORT\n\
         f:6:31: siblings[1].addresses[0]: \"x\" is not an address: expected IP:PORT",
    );
}

#[test]
fn names_are_used_once_and_references_hold() {
    let import = |rest: &str| format!("imports:\n  - {{service: a/b, {rest}}}");
    let export = |rest: &str| {
        format!(
            "exports:\n  - {{service: a/b, ports: [{{port: 1, backends: [\"10.0.0.1:1\"]}}], {rest}}}"
        )
    };
    for (rest, expected) in [
        (
            import("from: bnak, ports: [{port: 1, listen: \"127.0.0.1:1\"}]"),
            "f:6:26: imports[0].from: no link with cluster \"bnak\": expected bank\n  hint: did you mean bank?",
        ),
        (
            import("from: edge, ports: [{port: 1, listen: \"127.0.0.1:1\"}]"),
            "f:6:26: imports[0].from: edge is this cluster itself: expected a linked cluster\n  hint: services of this cluster are reached without Adit",
        ),
        (import("from: bank, ports: []"), "f:6:39: imports[0].ports: expected at least one port"),
        (
            import("from: bank, ports: [{port: 1, listen: []}]"),
            "f:6:58: imports[0].ports[0].listen: expected at least one address",
        ),
        (
            import("from: bank, ports: [{port: 1, listen: \"127.0.0.1:0\"}]"),
            "f:6:58: imports[0].ports[0].listen: port 0 is any free port: expected 1 to 65535\n  hint: the local address of a connection says which import is meant",
        ),
        (
            import("from: bank, allow: [], ports: [{port: 1, listen: \"127.0.0.1:1\"}]"),
            "f:6:39: warning: imports[0].allow: no allow: nobody may use it",
        ),
        (
            import("from: bank, ports: [{name: x, port: 1, listen: \"127.0.0.1:1\"}, {name: x, port: 1, listen: \"127.0.0.1:1\"}, {port: 2, listen: \"127.0.0.1:2\"}]"),
            "f:6:90: imports[0].ports[1].name: port x is already at line 6\n\
             f:6:99: imports[0].ports[1].port: port 1 is already at line 6\n\
             f:6:110: imports[0].ports[1].listen: 127.0.0.1:1 excludes 127.0.0.1:1 (imports[0].ports[0].listen, line 6)\n\
             f:6:126: imports[0].ports[2].name: missing: expected a name, since there are several ports",
        ),
        (
            export("allow: [{cluster: bnak, namespace: a, serviceAccount: b}]"),
            "f:6:84: exports[0].allow[0].cluster: no link with cluster \"bnak\": expected bank\n  hint: did you mean bank?",
        ),
        (
            export("allow: [{cluster: edge, namespace: a, serviceAccount: b}]"),
            "f:6:84: exports[0].allow[0].cluster: edge is this cluster itself: expected a linked cluster\n  hint: workloads of this cluster need no grant",
        ),
        (
            export("allow: [{cluster: \"*\", namespace: \"*\", serviceAccount: A}]"),
            "f:6:84: exports[0].allow[0].cluster: \"*\" is not a valid cluster name: expected 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit\n  hint: write one grant for each cluster\n\
             f:6:121: exports[0].allow[0].serviceAccount: \"A\" is not a valid service account: expected 1 to 253 characters: labels of a-z, 0-9 and '-' joined by dots, each beginning and ending with a letter or digit\n  hint: did you mean \"a\"?",
        ),
        (
            export("allow: [{cluster: bank, namespace: a}]"),
            "f:6:74: exports[0].allow[0].serviceAccount: missing: expected a ServiceAccount, or \"*\" for any",
        ),
        (
            export("allow: [{cluster: bank, namespace: a, serviceAccount: b}], probe: {}"),
            "f:6:132: exports[0].probe.interval: missing: expected a duration, such as 5s",
        ),
        (
            "siblings: [{name: e1}, {name: e2}, {name: e2}]".into(),
            "f:5:19: siblings[0].name: node e1 is already at line 3\n\
             f:5:43: siblings[2].name: node e2 is already at line 5",
        ),
        (
            "workloads: [{address: 10.0.0.1, namespace: a, serviceAccount: b}, {address: \"::ffff:10.0.0.1\", namespace: a, serviceAccount: c}, {address: 0.0.0.0, namespace: a, serviceAccount: c}]".into(),
            "f:5:77: workloads[1].address: address 10.0.0.1 is already at line 5\n\
             f:5:140: workloads[2].address: 0.0.0.0 is no workload's address",
        ),
    ] {
        after_good(&rest, expected);
    }
    let one_export = "{service: a/b, ports: [{port: 1, backends: [\"10.0.0.1:1\"]}], allow: [{cluster: bank, namespace: a, serviceAccount: b}]}";
    after_good(
        &format!("exports:\n  - {one_export}\n  - {one_export}\n"),
        "f:7:15: exports[1].service: the export of a/b is already at line 6",
    );
}

#[test]
fn clusters_and_trust_domains_are_distinct() {
    let links = |links: &str| GOOD.replace("links: [", &format!("links: [{links}, "));
    for (link, expected) in [
        (
            "{cluster: edge, trustDomain: x, trustBundle: b}",
            "f:4:19: links[0].cluster: edge is this cluster itself: expected another cluster\n  hint: the other nodes of this cluster are its siblings",
        ),
        (
            "{cluster: x, trustDomain: edge.example, trustBundle: b}",
            "f:4:35: links[0].trustDomain: edge.example is this cluster's own trust domain: expected another\n  hint: each cluster has its own CA and trust domain, or either could speak for both",
        ),
        (
            "{cluster: x, trustDomain: bank.example, trustBundle: b}",
            "f:4:95: links[1].trustDomain: trust domain bank.example is already at line 4",
        ),
        (
            "{cluster: x, trustDomain: x, trustBundle: \"\"}",
            "f:4:51: links[0].trustBundle: expected a path, found \"\"",
        ),
        (
            "{cluster: x, trustDomain: x, trustBundle: \"a\\0\"}",
            "f:4:51: links[0].trustBundle: \"a\\0\" is not a path: expected no control characters",
        ),
    ] {
        assert_eq!(said(links(link)), expected);
    }
}

#[test]
fn listeners_do_not_get_in_each_others_way() {
    let import =
        "imports: [{service: a/b, from: bank, ports: [{port: 1, listen: \"127.0.0.1:15080\"}]}]\n";
    for (rest, expected) in [
        (
            format!("{import}metrics: {{listen: \"0.0.0.0:15080\"}}"),
            "f:6:19: metrics.listen: 0.0.0.0:15080 excludes 127.0.0.1:15080 (imports[0].ports[0].listen, line 5)",
        ),
        // UDP and TCP, and the two families, have ports of their own; and port 0 excludes nothing.
        (format!("{import}metrics: {{listen: \"127.0.0.1:7843\"}}"), ""),
        (format!("{import}metrics: {{listen: \"[::1]:15080\"}}"), ""),
        ("metrics: {listen: \"127.0.0.1:0\"}\nadmin: {listen: \"127.0.0.1:0\"}".into(), ""),
        (
            "admin: {listen: \"10.0.0.1:9901\"}".into(),
            "f:5:17: admin.listen: 10.0.0.1:9901 can be reached from outside: expected a loopback address\n  hint: write 127.0.0.1:9901, or use socket",
        ),
        (
            "admin: {listen: \"[::1]:9901\", socket: a}".into(),
            "f:5:17: admin.listen: expected either socket or listen, found both",
        ),
        (
            format!("admin: {{socket: /{}}}", "a".repeat(107)),
            "f:5:17: admin.socket: 108 bytes: expected at most 107 for a Unix socket",
        ),
    ] {
        after_good(&rest, expected);
    }
    assert_eq!(
        said(GOOD.replace("\"127.0.0.1:7843\"", "[\"127.0.0.1:7843\", \"0.0.0.0:7843\"]")),
        "f:3:45: node.listen[1]: 0.0.0.0:7843 excludes 127.0.0.1:7843 (node.listen[0], line 3)"
    );
    assert_eq!(
        said(GOOD.replace("\"127.0.0.1:7843\"", "[]")),
        "f:3:26: node.listen: expected at least one address"
    );
}

#[test]
fn nobody_is_told_to_dial_nowhere_or_ourselves() {
    const HINT: &str = "  hint: add advertise: [\"IP:PORT\"], unless this node only dials";
    let wildcard = GOOD.replace("127.0.0.1:7843", "0.0.0.0:7843");
    let warning = format!(
        "f:3:7: warning: node: listens at a wildcard address and advertises none: nobody can be told where to dial this node\n{HINT}"
    );
    assert_eq!(said(&wildcard), warning);
    let alone = wildcard.replace(GOOD.lines().last().unwrap(), "");
    assert_eq!(said(&alone), "", "nobody to be told");
    assert_eq!(said(format!("{alone}siblings: [{{name: e2}}]")), warning);
    assert_eq!(said(wildcard.replace("0.0.0.0:7843", "0.0.0.0:0")), "", "it only dials");
    let advertising =
        wildcard.replace("identity: id", "identity: id, advertise: [\"10.0.0.1:7843\"]");
    assert_eq!(said(&advertising), "");

    for (rest, expected) in [
        (
            "siblings: [{name: e2, addresses: [\"10.0.0.1:7843\"]}]",
            "f:5:35: siblings[0].addresses[0]: 10.0.0.1:7843 is this node itself (node.advertise[0], line 3)",
        ),
        (
            "siblings: [{name: e2, addresses: [\"10.0.0.2:1\"]}, {name: e3, addresses: [\"10.0.0.2:1\"]}]",
            "f:5:74: siblings[1].addresses[0]: address 10.0.0.2:1 is already at line 5",
        ),
        (
            "siblings: [{name: e2, addresses: [\"0.0.0.0:1\", \"10.0.0.2:0\"]}]",
            "f:5:35: siblings[0].addresses[0]: 0.0.0.0:1 cannot be dialled: it is the wildcard address\n\
             f:5:48: siblings[0].addresses[1]: port 0 cannot be dialled: expected 1 to 65535",
        ),
        (
            "siblings: [{name: e2, addresses: [\"e2.example:7843\"]}]",
            "f:5:35: siblings[0].addresses[0]: \"e2.example:7843\" is not an address: expected IP:PORT\n  hint: names are resolved for links only; write the address",
        ),
    ] {
        assert_eq!(said(format!("{advertising}{rest}")), expected);
    }
    let many: Vec<_> = (1..=17).map(|n| format!("\"10.0.1.{n}:1\"")).collect();
    assert_eq!(
        said(advertising.replace("\"10.0.0.1:7843\"", &many.join(", "))),
        "f:3:67: node.advertise: 17 addresses: expected at most 16"
    );
}

#[test]
fn backends_are_dialled_and_are_not_ourselves() {
    let with = |backends: &str| {
        format!(
            "imports: [{{service: a/b, from: bank, ports: [{{port: 1, listen: \"127.0.0.1:15080\"}}]}}]\n\
             metrics: {{listen: \"0.0.0.0:9902\"}}\nsiblings: [{{name: e2}}]\n\
             exports: [{{service: a/c, allow: [{{cluster: bank, namespace: a, serviceAccount: b}}],\n\
             ports: [{{port: 1, backends: [{backends}]}}]}}]"
        )
    };
    const LOOP: &str = "a stream would come back to us";
    let port = "exports[0].ports[0].backends";
    for (backends, expected) in [
        (
            "\"127.0.0.1:8080\", {address: \"10.0.0.1:1\"}, {address: \"10.0.0.2:1\", node: e2}",
            String::new(),
        ),
        (
            "\"127.0.0.1:15080\"",
            format!(
                "f:9:30: {port}[0]: 127.0.0.1:15080 is this node's own listener (imports[0].ports[0].listen, line 5): {LOOP}"
            ),
        ),
        (
            "{address: \"127.0.0.1:9902\"}",
            format!(
                "f:9:40: {port}[0].address: 127.0.0.1:9902 is this node's own listener (metrics.listen, line 6): {LOOP}"
            ),
        ),
        ("{address: \"127.0.0.1:15080\", node: e2}", String::new()),
        (
            "{address: \"127.0.0.1:1\", node: e3}",
            format!(
                "f:9:61: {port}[0].node: no node of this cluster named \"e3\": expected e1 or e2"
            ),
        ),
        (
            "\"10.0.0.1:1\", \"10.0.0.1:1\"",
            format!("f:9:44: {port}[1]: backend 10.0.0.1:1 is already at line 9"),
        ),
        (
            "\"10.0.0.1:0\"",
            format!("f:9:30: {port}[0]: port 0 cannot be dialled: expected 1 to 65535"),
        ),
        (
            "\"0.0.0.0:80\"",
            format!("f:9:30: {port}[0]: 0.0.0.0:80 cannot be dialled: it is the wildcard address"),
        ),
        (
            "\"169.254.169.254:80\"",
            format!(
                "f:9:30: warning: {port}[0]: 169.254.169.254:80 is link-local, where clouds keep their metadata and credentials"
            ),
        ),
        (
            "{node: e2}",
            format!("f:9:30: {port}[0].address: missing: expected the backend's IP:PORT"),
        ),
        ("80", format!("f:9:30: {port}[0]: \"80\" is not an address: expected IP:PORT")),
        ("[]", format!("f:9:30: {port}[0]: expected text, found a list")),
    ] {
        after_good(&with(backends), &expected);
    }
}

#[test]
fn limits_fit_each_other() {
    for (limits, expected) in [
        (
            "peerBuffer: 512MiB",
            "f:5:22: limits.peerBuffer: peerBuffer (512MiB) is more than processBuffer (256MiB)",
        ),
        (
            "processBuffer: 1MiB",
            "f:5:25: limits.processBuffer: peerBuffer (32MiB) is more than processBuffer (1MiB)",
        ),
        (
            "peerBuffer: 4MiB",
            "f:5:22: limits.peerBuffer: bulkWindow (8MiB) is more than peerBuffer (4MiB)",
        ),
        (
            "bulkWindow: 64MiB",
            "f:5:22: limits.bulkWindow: bulkWindow (64MiB) is more than peerBuffer (32MiB)",
        ),
        (
            "interactiveWindow: 64MiB",
            "f:5:29: limits.interactiveWindow: interactiveWindow (64MiB) is more than peerBuffer (32MiB)",
        ),
        (
            "mtu: {initial: 6000}",
            "f:5:25: limits.mtu.initial: initial (6000) is more than max (1452)",
        ),
        ("mtu: {max: 6501}", "f:5:21: limits.mtu.max: 6501 is out of range: expected 1200 to 6500"),
        (
            "keepAlive: 16s",
            "f:5:21: warning: limits.keepAlive: more than 15s: address translation on the way may forget an idle connection",
        ),
    ] {
        after_good(&format!("limits: {{{limits}}}"), expected);
    }
}

#[test]
fn what_is_not_one_document_of_yaml_is_one_error() {
    let deep = format!("a: {}1{}", "[".repeat(40), "]".repeat(40));
    let bomb = (0..9).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
        let ten = vec![format!("*a{n}"); 10].join(",");
        text + &format!("a{}: &a{} [{ten}]\n", n + 1, n + 1)
    });
    const EMPTY: &str = "the file is empty: expected at least cluster, trustDomain and node";
    for (text, expected) in [
        ("", format!("f:1:1: {EMPTY}")),
        ("# nothing\n\n", format!("f:3:1: {EMPTY}")),
        ("---\n", format!("f:1:4: {EMPTY}")),
        ("a: *", "f:1:4: * begins an alias in YAML\n  hint: write \"*\" in quotes".into()),
        (
            "a: *any",
            "f:1:4: *NAME refers to an anchor &NAME, and there is none of that name\n  hint: put text that begins with * in quotes".into(),
        ),
        ("a: &a [*a]", "f:1:8: an alias that contains itself".into()),
        (
            "a:\n\tb: 1\n",
            "f:2:2: not valid YAML: tabs disallowed within this context (block indentation)\n  hint: indent with spaces".into(),
        ),
        (
            "a: b: c",
            "f:1:5: not valid YAML: mapping values are not allowed in this context\n  hint: put text that contains \": \" in quotes; otherwise look at the indentation".into(),
        ),
        ("a: @b", "f:1:4: not valid YAML: unexpected character: `@'\n  hint: put the text in quotes".into()),
        ("a: x\0y", "f:1:5: not valid YAML: unexpected character: `\\u{0}'".into()),
        ("a: [1\nb: 2\n", "f:2:2: not valid YAML: illegal placement of ':' indicator".into()),
        ("a: !include b", "f:1:13: not valid YAML: unsupported tag `!include`".into()),
        ("a: 1\n---\nb: 2\n", "f:2:1: a second YAML document begins here: expected one document in the file".into()),
        (&deep, "f:1:23: nested too deeply: expected at most 20 levels".into()),
    ] {
        assert_eq!(said(text), expected, "{text:?}");
    }
    assert!(said(format!("a: !{}", "x".repeat(10_000))).len() < 300, "a message stays readable");
    assert!(said(bomb).ends_with("more values, anchors or aliases than any configuration needs"));
    assert_eq!(said(b"a: 1\nb: \xc3\xa9\xff"), "f:2:5: not UTF-8: found byte 0xff");
    let utf16: Vec<u8> =
        [0xff, 0xfe].into_iter().chain("a".encode_utf16().flat_map(u16::to_le_bytes)).collect();
    assert_eq!(
        said(utf16),
        "f:1:1: not UTF-8: found byte 0xff\n  hint: it looks like UTF-16; save it as UTF-8"
    );
    assert_eq!(
        said(format!("\u{feff}{}", GOOD.replace('\n', "\r\n"))),
        "",
        "a mark and other line ends are fine"
    );
}

#[test]
fn a_flood_of_errors_is_cut_and_counted() {
    let text: String = (0..ConfigReport::MAX + 7).map(|n| format!("k{n}: 1\n")).collect();
    let Err(report) = parse(text.as_bytes(), Path::new("f")) else { panic!("accepted") };
    // Three keys are missing as well.
    assert_eq!((report.problems.len(), report.omitted), (ConfigReport::MAX, 10));
    assert!(report.to_string().ends_with("\nand 10 more"));
}

/// The example, with some of its bytes changed, added or taken away.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edit = (
        any::<prop::sample::Index>(),
        0..3_u8,
        prop::sample::select(&b"\0 \t\n:-[]{}#&*!|>'\"%@`,?<~019aZ\xff\xc3"[..]),
    );
    prop::collection::vec(edit, 1..12).prop_map(|edits| {
        let mut text = EXAMPLE.as_bytes().to_vec();
        for (at, how, byte) in edits {
            let at = at.index(text.len());
            match how {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                _ => drop(text.remove(at)),
            }
        }
        text
    })
}

/// The example without its comments, with whole lines dropped, doubled, moved in or out.
fn rearranged() -> impl Strategy<Value = Vec<u8>> {
    let bare = |line: &&str| !line.trim_start().starts_with('#') && !line.trim().is_empty();
    let lines: Vec<&str> = EXAMPLE.lines().filter(bare).collect();
    prop::collection::vec((0..lines.len(), 0..4_u8), 1..6).prop_map(move |edits| {
        let mut text: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        for (at, how) in edits {
            let at = at % text.len();
            match how {
                0 if text.len() > 1 => drop(text.remove(at)),
                1 => text.insert(at, text[at].clone()),
                2 => text[at].insert_str(0, "  "),
                _ => text[at] = text[at].trim_start().to_owned(),
            }
        }
        text.join("\n").into_bytes()
    })
}

/// Any answer is fine, as long as it is one: a configuration without errors, or errors with places.
fn answered(text: &[u8]) -> Result<(), TestCaseError> {
    match parse(text, Path::new("f")) {
        Ok((_, report)) => prop_assert_eq!(report.errors().count(), 0),
        Err(report) => {
            prop_assert!(report.errors().count() > 0);
            let shown = report.to_string();
            prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{}", shown);
            let lines = text.split(|c| *c == b'\n').count() as u64;
            for problem in &report.problems {
                let position = problem.position.ok_or_else(|| TestCaseError::fail("no place"))?;
                prop_assert!((1..=lines + 1).contains(&position.line), "{:?}", position);
                prop_assert!(position.column >= 1);
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn random_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..400)) {
        answered(&text)?;
    }

    #[test]
    fn random_text_never_panics(text in "[ -~\n]{0,200}|\\PC{0,100}") {
        answered(text.as_bytes())?;
    }

    #[test]
    fn a_mutated_example_never_panics(text in mutated()) {
        answered(&text)?;
    }

    #[test]
    fn a_rearranged_example_never_panics(text in rearranged()) {
        answered(&text)?;
    }

    #[test]
    fn cutting_the_example_anywhere_never_panics(at in 0..EXAMPLE.len()) {
        answered(&EXAMPLE.as_bytes()[..at])?;
    }
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
fn who_is_denied_is_read_in_both_forms() {
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
fn who_is_denied_by_mistake_is_said() {
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
