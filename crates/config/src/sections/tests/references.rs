//! Names, addresses and values of one section that another must fit.

use super::*;

#[test]
fn an_import_refers_to_a_link_and_listens() {
    let import = |rest: &str| format!("imports:\n  - {{service: a/b, {rest}}}");
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
            import(
                "from: bank, ports: [{name: x, port: 1, listen: \"127.0.0.1:1\"}, {name: x, port: 1, listen: \"127.0.0.1:1\"}, {port: 2, listen: \"127.0.0.1:2\"}]",
            ),
            "f:6:90: imports[0].ports[1].name: port x is already at line 6\n\
             f:6:99: imports[0].ports[1].port: port 1 is already at line 6\n\
             f:6:110: imports[0].ports[1].listen: 127.0.0.1:1 excludes 127.0.0.1:1 (imports[0].ports[0].listen, line 6)\n\
             f:6:126: imports[0].ports[2].name: missing: expected a name, since there are several ports",
        ),
    ] {
        after_good(&rest, expected);
    }
}

#[test]
fn an_export_is_for_linked_clusters_and_once() {
    let export = |rest: &str| {
        format!(
            "exports:\n  - {{service: a/b, ports: [{{port: 1, backends: [\"10.0.0.1:1\"]}}], {rest}}}"
        )
    };
    for (rest, expected) in [
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
fn names_of_nodes_and_addresses_of_workloads_are_used_once() {
    for (rest, expected) in [
        (
            "siblings: [{name: e1}, {name: e2}, {name: e2}]",
            "f:5:19: siblings[0].name: node e1 is already at line 3\n\
             f:5:43: siblings[2].name: node e2 is already at line 5",
        ),
        (
            "workloads: [{address: 10.0.0.1, namespace: a, serviceAccount: b}, {address: \"::ffff:10.0.0.1\", namespace: a, serviceAccount: c}, {address: 0.0.0.0, namespace: a, serviceAccount: c}]",
            "f:5:77: workloads[1].address: address 10.0.0.1 is already at line 5\n\
             f:5:140: workloads[2].address: 0.0.0.0 is no workload's address",
        ),
    ] {
        after_good(rest, expected);
    }
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
fn no_peer_is_told_to_dial_nowhere_or_ourselves() {
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

/// A file with these backends of an export, beside listeners and a sibling.
fn with_backends(backends: &str) -> String {
    format!(
        "imports: [{{service: a/b, from: bank, ports: [{{port: 1, listen: \"127.0.0.1:15080\"}}]}}]\n\
         metrics: {{listen: \"0.0.0.0:9902\"}}\nsiblings: [{{name: e2}}]\n\
         exports: [{{service: a/c, allow: [{{cluster: bank, namespace: a, serviceAccount: b}}],\n\
         ports: [{{port: 1, backends: [{backends}]}}]}}]"
    )
}

/// Where the backends stand in [`with_backends`].
const BACKENDS: &str = "exports[0].ports[0].backends";

#[test]
fn a_backend_is_not_a_listener_of_ours() {
    const LOOP: &str = "a stream would come back to us";
    let port = BACKENDS;
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
    ] {
        after_good(&with_backends(backends), &expected);
    }
}

#[test]
fn a_backend_can_be_dialled_and_stands_once() {
    let port = BACKENDS;
    for (backends, expected) in [
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
        after_good(&with_backends(backends), &expected);
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
