//! The deny list with two real processes: an entry that is added to the configuration file of a running node
//! resets live streams within ten seconds, refuses new handshakes, and is named in the status of both sides.

#![expect(clippy::unwrap_used, reason = "in a test a panic is how it fails")]

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::Instant;

use adit_tests::daemon::{Daemon, issue, make_authority, run};
use adit_tests::loopback::LoopbackPlace;
use adit_tests::prerequisite::eventually;
use serde_json::Value;

/// Where all of it is.
const HERE: LoopbackPlace = LoopbackPlace(0);

fn edge() -> String {
    let [here, there, import, pod] = [1, 2, 1, 3].map(|n| HERE.ip(n));
    format!(
        r#"
cluster: edge
trustDomain: edge.test
node: {{name: e1, listen: "{here}:7843", identity: ROOT/e1}}
links: [{{cluster: bank, trustDomain: bank.test, trustBundle: ROOT/bank.pem, addresses: ["{there}:7843"]}}]
imports: [{{service: agents/fraud-bot, from: bank, ports: [{{name: http, port: 8080, listen: "{import}:15080"}}]}}]
workloads: [{{address: {pod}, namespace: agents, serviceAccount: support-bot}}]
admin: {{socket: ROOT/e1.sock}}
"#
    )
}

fn bank(denied: &str) -> String {
    let (here, backend) = (HERE.ip(2), HERE.ip(2));
    format!(
        r#"
cluster: bank
trustDomain: bank.test
node: {{name: b1, listen: "{here}:7843", identity: ROOT/b1}}
links: [{{cluster: edge, trustDomain: edge.test, trustBundle: ROOT/edge.pem}}]
exports:
  - service: agents/fraud-bot
    ports: [{{name: http, port: 8080, backends: ["{backend}:8080"]}}]
    allow: [{{cluster: edge, namespace: agents, serviceAccount: support-bot}}]
{denied}
admin: {{socket: ROOT/b1.sock}}
"#
    )
}

fn write(root: &Path, text: &str) {
    // Renamed into its place, as whoever is careful does.
    let text = text.replace("ROOT", root.to_str().unwrap());
    std::fs::write(root.join("b1.new"), text).unwrap();
    std::fs::rename(root.join("b1.new"), root.join("b1.yaml")).unwrap();
}

/// Denies by these lines of the file, and sees what becomes of a live stream and of new ones.
fn deny(root: &Path, e1: &Daemon, b1: &Daemon, denied: &str, entry: &str) {
    let ready = |s: &Value| s["imports"][0]["ports"][0]["ready"] == true;
    e1.wait_for("the import is ready", ready);
    let mut live = eventually("a stream", 10, || HERE.connect().ok());
    let dials = |s: &Value| s["links"][0]["dials"]["failures"].as_u64().unwrap_or_default();

    write(root, &bank(denied));
    let begun = Instant::now();
    let end = live.read(&mut [0; 8]).map_err(|e| e.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset), "{entry}: after {:?}", begun.elapsed());
    b1.wait_for("the entry is named", |s| {
        s["denied"].as_array().is_some_and(|all| all.iter().any(|d| d["entry"] == entry))
    });
    // Whoever is refused is told why, and its operator reads it.
    e1.wait_for("the other side is told", |s| {
        s["links"][0]["state"] == "down" && s["problems"].to_string().contains("denied")
    });
    let before = dials(&e1.status().unwrap());
    e1.wait_for("another handshake is refused", |s| dials(s) > before && !ready(s));
    assert!(HERE.connect().is_err(), "{entry}: a new stream was carried");
    b1.wait_for("no connection is left", |s| {
        s["links"][0]["nodes"]
            .as_array()
            .is_none_or(|n| n.iter().all(|n| n["connections"].as_array().is_none_or(Vec::is_empty)))
    });

    write(root, &bank(""));
    b1.wait_for("nobody is denied", |s| s["denied"].as_array().is_none_or(Vec::is_empty));
}

#[test]
fn who_is_denied_in_the_file_is_cut_off_and_named_and_comes_back_when_the_entry_goes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (cluster, node) in [("edge", "e1"), ("bank", "b1")] {
        make_authority(root, cluster);
        issue(root, cluster, node);
    }
    HERE.serve();
    let b1 = Daemon::start(None, root, "b1", &bank(""));
    let e1 = Daemon::start(None, root, "e1", &edge());

    let shown = run(&["pki", "show", root.join("e1/node.pem").to_str().unwrap(), "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let serial = shown.pointer("/0/serial").unwrap();
    let serial = serial.as_str().unwrap();
    for (key, written, named) in [
        ("nodes", "edge/e1", "denied.nodes: edge/e1".to_owned()),
        ("serials", serial, format!("denied.serials: {}", serial.replace(':', ""))),
        ("clusters", "edge", "denied.clusters: edge".to_owned()),
    ] {
        deny(root, &e1, &b1, &format!("denied: {{{key}: [\"{written}\"]}}"), &named);
    }
    e1.wait_for("the import is ready again", |s| s["imports"][0]["ports"][0]["ready"] == true);
}
