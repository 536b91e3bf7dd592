//! Processes of one node that take over from each other, both sides of a link in turn, beside callers that ask all
//! the while and streams that stay open: nobody is refused, nobody is reset, and every stream goes on.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use adit_tests::daemon::Daemon;
use adit_tests::loopback::{LoopbackPlace, certify, exchange, wait_for_import};
use adit_tests::prerequisite::eventually;

/// Streams that stay open from before the first process is replaced.
const OPEN: usize = 5;
/// Callers that ask one after the other.
const CALLERS: usize = 4;

fn edge(place: LoopbackPlace, name: &str) -> String {
    place.edge(name, &format!("metrics: {{listen: \"{}:9902\"}}", place.ip(1)))
}

/// Asks until it is told to stop; how often, and all that went wrong.
fn ask(place: LoopbackPlace, stop: Arc<AtomicBool>) -> JoinHandle<(u64, Vec<String>)> {
    std::thread::spawn(move || {
        let (mut asked, mut failures) = (0, Vec::new());
        while !stop.load(Relaxed) {
            asked += 1;
            failures.extend(place.connect().err().map(|error| error.to_string()));
        }
        (asked, failures)
    })
}

fn start(root: &Path, name: &str, config: &str) -> Daemon {
    Daemon::start_with(None, root, name, config, &["--take-over"])
}

#[test]
fn processes_take_over_from_each_other_and_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let place = LoopbackPlace(0);
    certify(root);
    place.serve();
    let b1 = start(root, "b1", &place.bank("b1", ""));
    let e1 = start(root, "e1", &edge(place, "e1"));
    wait_for_import(&e1);
    let mut open: Vec<TcpStream> =
        (0..OPEN).map(|_| eventually("a stream", 10, || place.connect().ok())).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS).map(|_| ask(place, stop.clone())).collect();

    let mut processes = vec![b1, e1];
    for name in ["b2", "e2", "b3", "e3"] {
        let config = if name.starts_with('e') { edge(place, name) } else { place.bank(name, "") };
        processes.push(start(root, name, &config));
        let before = &processes[processes.len() - 3];
        before.wait_for("the one before drains", |s| s["node"]["draining"] == true);
        for stream in &mut open {
            exchange(stream, name.as_bytes()).unwrap();
        }
        // Streams that were opened since are served by the new ones.
        open.push(place.connect().unwrap());
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
    place.connect().unwrap();
}

#[test]
fn a_process_that_dies_after_it_took_over_leaves_all_to_its_predecessor_until_the_next_comes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let place = LoopbackPlace(10);
    certify(root);
    place.serve();
    let _b1 = start(root, "b1", &place.bank("b1", ""));
    let e1 = start(root, "e1", &edge(place, "e1"));
    wait_for_import(&e1);
    let mut open = eventually("a stream", 10, || place.connect().ok());
    let mut e2 = start(root, "e2", &edge(place, "e2"));
    e1.wait_for("the one before drains", |s| s["node"]["draining"] == true);
    e2.kill();
    // Its own connections end, those of the one before do not, although nobody else reads their packets.
    exchange(&mut open, b"while nobody serves").unwrap();
    let e3 = start(root, "e3", &edge(place, "e3"));
    eventually("a caller is served again", 10, || place.connect().ok());
    exchange(&mut open, b"to the end").unwrap();
    drop(open);
    let mut e1 = e1;
    assert!(e1.wait().success());
    e3.wait_for("it is there", |s| s["node"]["draining"] == false);
    place.connect().unwrap();
}
