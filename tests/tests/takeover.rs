//! Processes of one node that take over from each other, both sides of a link in turn, beside callers that ask all
//! the while and streams that stay open: nobody is refused, nobody is reset, and every stream goes on.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use adit_tests::daemon::{Daemon, issue, make_authority};
use adit_tests::loopback::{LoopbackPlace, exchange};
use adit_tests::prerequisite::eventually;

/// Streams that stay open from before the first process is replaced.
const OPEN: usize = 5;
/// Callers that ask one after the other.
const CALLERS: usize = 4;

/// The loopback addresses of one test of this process.
#[derive(Debug, Clone, Copy)]
struct TakeoverPlace(LoopbackPlace);

impl TakeoverPlace {
    fn edge(self, admin: &str) -> String {
        let [here, there, import, pod] = [1, 2, 1, 3].map(|n| self.0.ip(n));
        format!(
            r#"
cluster: edge
trustDomain: edge.test
node: {{name: e1, listen: "{here}:7843", identity: ROOT/e1, endpoints: 2}}
links: [{{cluster: bank, trustDomain: bank.test, trustBundle: ROOT/bank.pem, addresses: ["{there}:7843"]}}]
imports: [{{service: agents/fraud-bot, from: bank, ports: [{{name: http, port: 8080, listen: "{import}:15080"}}]}}]
workloads: [{{address: {pod}, namespace: agents, serviceAccount: support-bot}}]
admin: {{socket: ROOT/{admin}.sock}}
metrics: {{listen: "{here}:9902"}}
"#
        )
    }

    fn bank(self, admin: &str) -> String {
        let (here, backend) = (self.0.ip(2), self.0.ip(2));
        format!(
            r#"
cluster: bank
trustDomain: bank.test
node: {{name: b1, listen: "{here}:7843", identity: ROOT/b1, endpoints: 2}}
links: [{{cluster: edge, trustDomain: edge.test, trustBundle: ROOT/edge.pem}}]
exports:
  - service: agents/fraud-bot
    ports: [{{name: http, port: 8080, backends: ["{backend}:8080"]}}]
    allow: [{{cluster: edge, namespace: agents, serviceAccount: support-bot}}]
admin: {{socket: ROOT/{admin}.sock}}
"#
        )
    }

    /// Asks until it is told to stop; how often, and all that went wrong.
    fn ask(self, stop: Arc<AtomicBool>) -> JoinHandle<(u64, Vec<String>)> {
        std::thread::spawn(move || {
            let (mut asked, mut failures) = (0, Vec::new());
            while !stop.load(Relaxed) {
                asked += 1;
                failures.extend(self.0.connect().err().map(|error| error.to_string()));
            }
            (asked, failures)
        })
    }
}

fn certify(root: &Path) {
    for (cluster, node) in [("edge", "e1"), ("bank", "b1")] {
        make_authority(root, cluster);
        issue(root, cluster, node);
    }
}

fn start(root: &Path, name: &str, config: &str) -> Daemon {
    Daemon::start_with(None, root, name, config, &["--take-over"])
}

#[test]
fn processes_take_over_from_each_other_and_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let place = TakeoverPlace(LoopbackPlace(0));
    certify(root);
    place.0.serve();
    let b1 = start(root, "b1", &place.bank("b1"));
    let e1 = start(root, "e1", &place.edge("e1"));
    e1.wait_for("the import is ready", |s| s["imports"][0]["ports"][0]["ready"] == true);
    let mut open: Vec<TcpStream> =
        (0..OPEN).map(|_| eventually("a stream", 10, || place.0.connect().ok())).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS).map(|_| place.ask(stop.clone())).collect();

    let mut processes = vec![b1, e1];
    for name in ["b2", "e2", "b3", "e3"] {
        let config = if name.starts_with('e') { place.edge(name) } else { place.bank(name) };
        processes.push(start(root, name, &config));
        let before = &processes[processes.len() - 3];
        before.wait_for("the one before drains", |s| s["node"]["draining"] == true);
        for stream in &mut open {
            exchange(stream, name.as_bytes()).unwrap();
        }
        // Streams that were opened since are served by the new ones.
        open.push(place.0.connect().unwrap());
    }
    stop.store(true, Relaxed);
    let (mut asked, mut failures) = (0, Vec::new());
    for caller in callers {
        let (times, wrong) = caller.join().unwrap();
        asked += times;
        failures.extend(wrong);
    }
    assert!(failures.is_empty(), "{} of {asked}: {:?}", failures.len(), &failures[..1]);
    assert!(asked > 100, "{asked}");
    for stream in &mut open {
        exchange(stream, b"to the end").unwrap();
    }
    // With the last of its streams an old process ends, and its files are its successor's.
    drop(open);
    for mut old in processes.drain(..4) {
        assert!(old.wait().success());
    }
    assert!(root.join("e1/handover.sock").exists());
    place.0.connect().unwrap();
}

#[test]
fn one_that_dies_after_it_took_over_leaves_all_to_the_one_before_until_the_next_comes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let place = TakeoverPlace(LoopbackPlace(10));
    certify(root);
    place.0.serve();
    let _b1 = start(root, "b1", &place.bank("b1"));
    let e1 = start(root, "e1", &place.edge("e1"));
    e1.wait_for("the import is ready", |s| s["imports"][0]["ports"][0]["ready"] == true);
    let mut open = eventually("a stream", 10, || place.0.connect().ok());
    let mut e2 = start(root, "e2", &place.edge("e2"));
    e1.wait_for("the one before drains", |s| s["node"]["draining"] == true);
    e2.kill();
    // Its own connections end, those of the one before do not, although nobody else reads their packets.
    exchange(&mut open, b"while nobody serves").unwrap();
    let e3 = start(root, "e3", &place.edge("e3"));
    eventually("a caller is served again", 10, || place.0.connect().ok());
    exchange(&mut open, b"to the end").unwrap();
    drop(open);
    let mut e1 = e1;
    assert!(e1.wait().success());
    e3.wait_for("it is there", |s| s["node"]["draining"] == false);
    place.0.connect().unwrap();
}
