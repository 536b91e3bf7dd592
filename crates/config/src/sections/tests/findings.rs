//! Wrong files, and all that is said about each.

use super::*;

/// A file with one mistake in almost every line.
const WRONG_FILE: &str = r#"cluster: Edge
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

/// All that is said about [`WRONG_FILE`].
const FINDINGS: &str = r#"f:1:1: trustDomain: missing: expected the trust domain of this cluster's CA
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
f:21:5: exports[0].drain: unknown key: expected service, ports, allow, hop, class, replay, probe, whenEmpty
  hint: drain belongs under limits
f:23:10: limits.drain: "5" is not a duration: expected a whole number and its unit, as in 100ms, 5s, 1m, 1h or 1d
  hint: did you mean 5s?
f:24:18: limits.mtu.initial: 9000 is out of range: expected 1200 to 6500
f:25:19: warning: metrics.listen: port 31000 is in Kubernetes' NodePort range, 30000 to 32767
  hint: on a Kubernetes node a Service may take it; choose one outside the range
f:26:1: metrics: duplicate key: first written at line 25"#;

#[test]
fn everything_is_said_at_once() {
    let report = said(WRONG_FILE);
    for (said, expected) in report.lines().zip(FINDINGS.lines()) {
        assert_eq!(said, expected);
    }
    assert_eq!(report.lines().count(), FINDINGS.lines().count());
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
        ("limits: {drain: 48h}", "f:5:17: limits.drain: 48h is out of range: expected 0ms to 1d"),
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
