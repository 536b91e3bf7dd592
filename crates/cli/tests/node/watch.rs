//! `adit top` and `adit tap` beside streams that run.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use super::scene::{NodeScene, adit, end};

/// A tap of a node that follows already.
struct RunningTap {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl RunningTap {
    fn start(scene: &NodeScene, node: &str, words: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_adit"))
            .args(["tap", "--json", "--admin", &format!("{node}.sock")])
            .args(words)
            .current_dir(scene.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.starts_with("following"), "{said}");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next event: which, the code of an end, and the source.
    fn next(&mut self) -> (String, String, String) {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        assert_eq!(event["target"], "agents/fraud-bot:http", "{event}");
        (text(&event["event"]), text(&event["end"]["code"]), text(&event["source"]))
    }

    /// Ends it as somebody at a terminal does. Gives back its exit status, and what it had left to say.
    fn interrupt(mut self) -> (Option<i32>, String) {
        let id = self.child.id();
        let sent = Command::new("sh").args(["-c", &format!("kill -INT {id}")]).status();
        assert!(sent.unwrap().success());
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

/// The one conversation that `adit top` sees on a node.
fn conversation(scene: &NodeScene, node: &str) -> (Value, Value) {
    let socket = format!("{node}.sock");
    let words = ["top", "--admin", &socket, "--json", "--interval", "200ms"];
    let (code, json, error) = adit(scene.folder.path(), &words);
    assert_eq!((code, &*error), (0, ""), "{json}");
    let document: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(document["traffic"]["conversations"].as_array().unwrap().len(), 1, "{json}");
    let counted = document["nodes"][0]["traffic"]["conversations"][0].clone();
    (counted, document["traffic"]["conversations"][0].clone())
}

#[test]
fn who_watches_sees_each_stream_with_its_source_and_end() {
    let scene = NodeScene::new();
    let (_e1, _b1) = scene.both();
    let mut here = RunningTap::start(&scene, "e1", &["agents/fraud-bot:http"]);
    let mut there = RunningTap::start(&scene, "b1", &["export", "agents/fraud-bot"]);
    let other = RunningTap::start(&scene, "e1", &["export"]);
    let mut streams = [scene.granted(), scene.granted(), scene.granted()];
    for node in ["e1", "b1"] {
        let (counted, rate) = conversation(&scene, node);
        let parties = ["source", "from", "service", "port", "to"].map(|key| &counted[key]);
        assert_eq!(parties, ["agents/support-bot", "edge", "agents/fraud-bot", "http", "bank"]);
        let numbers = ["open", "begun", "bytesOut", "bytesIn"].map(|key| &counted[key]);
        assert_eq!(numbers, [3, 3, 15, 15], "{node}: {counted}");
        assert_eq!((&rate["open"], &rate["isOutbound"]), (&3.into(), &(node == "e1").into()));
    }
    for stream in &mut streams[1..] {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(end(stream), Ok(0));
    }
    let told = |event: &str, code: &str, source: &str| {
        (event.to_owned(), code.to_owned(), source.to_owned())
    };
    let support = "agents/support-bot@edge";
    for tap in [&mut here, &mut there] {
        for _ in 0..3 {
            assert_eq!(tap.next(), told("begin", "-", support));
        }
        for _ in 0..2 {
            assert_eq!(tap.next(), told("end", "finished", support));
        }
    }
    assert_eq!(scene.refused(4), Err(ErrorKind::ConnectionReset));
    assert_eq!(here.next(), told("end", "source-unknown", "-"), "nobody knows who that was");
    let (counted, _) = conversation(&scene, "e1");
    let numbers = (&counted["open"], &counted["begun"], &counted["ended"]["finished"]);
    assert_eq!(numbers, (&1.into(), &3.into(), &2.into()));
    for tap in [here, there, other] {
        assert_eq!(tap.interrupt(), (Some(0), String::new()));
    }
    let (code, page, _) = adit(scene.folder.path(), &["top", "--admin", "b1.sock"]);
    let row = "agents/support-bot@edge → fraud-bot:http@bank";
    assert!(code == 0 && page.contains(row) && !page.contains('\u{1b}'), "{page}");
}

#[test]
fn whoever_watches_a_node_that_is_not_there_is_told_by_the_exit() {
    let scene = NodeScene::new();
    for command in [&["top", "--admin", "none.sock"][..], &["tap", "--admin", "none.sock"]] {
        let (code, out, error) = adit(scene.folder.path(), command);
        assert_eq!((code, &*out), (2, ""), "{error}");
        assert!(error.contains("none.sock"), "{error}");
    }
}
