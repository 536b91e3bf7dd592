//! The deny list with two real processes: an entry that is added to the configuration file of a running node
//! resets live streams within ten seconds, refuses new handshakes, and is named in the status of both sides.

#![expect(clippy::unwrap_used, reason = "in a test a panic is how it fails")]

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::Instant;

use adit_tests::daemon::{Daemon, run};
use adit_tests::loopback::{LoopbackPlace, certify, import_is_ready, wait_for_import};
use adit_tests::prerequisite::eventually;
use serde_json::Value;

/// Where all of it is.
const HERE: LoopbackPlace = LoopbackPlace(0);

fn bank(denied: &str) -> String {
    HERE.bank("b1", denied)
}

fn write(root: &Path, text: &str) {
    // Renamed into its place, as whoever is careful does.
    let text = text.replace("ROOT", root.to_str().unwrap());
    std::fs::write(root.join("b1.new"), text).unwrap();
    std::fs::rename(root.join("b1.new"), root.join("b1.yaml")).unwrap();
}

/// Denies by these lines of the file, and sees what becomes of a live stream and of new ones.
fn deny(root: &Path, e1: &Daemon, b1: &Daemon, denied: &str, entry: &str) {
    wait_for_import(e1);
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
    e1.wait_for("another handshake is refused", |s| dials(s) > before && !import_is_ready(s));
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
fn a_peer_that_the_file_denies_is_cut_off_and_named_and_comes_back_when_the_entry_goes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    certify(root);
    HERE.serve();
    let b1 = Daemon::start(None, root, "b1", &bank(""));
    let e1 = Daemon::start(None, root, "e1", &HERE.edge("e1", ""));

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
    wait_for_import(&e1);
}
