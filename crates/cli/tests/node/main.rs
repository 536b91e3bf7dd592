//! `adit node` and `adit status`, the real binary: starting, serving, changing, ending.
//!
//! Each test has loopback addresses of its own, so that ports never meet.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod scene;
mod watch;

use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use adit_daemon::status::{LinkHealth, StatusDocument};

use self::scene::{NodeScene, adit, echo, end, eventually, exchange};

#[test]
fn a_stream_is_carried_logged_counted_and_shown() {
    let scene = NodeScene::new();
    let (e1, b1) = scene.both();
    let mut stream = scene.granted();
    let status = b1.until("b1 sees the stream", |s| s.streams.open == 1);
    let using = &status.exports[0].using[0];
    assert_eq!((using.source.as_str(), using.asserted), ("agents/support-bot@edge", true));
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(end(&mut stream), Ok(0));
    let line = e1.logged(&["adit::stream", "outbound", "\"finished\""]);
    assert!(line.contains("\"bytes_out\":5,\"bytes_in\":5"), "{line}");
    let line = b1.logged(&["adit::stream", "inbound", "\"finished\""]);
    assert!(
        line.contains("\"asserted\":true")
            && line.contains("\"source\":\"agents/support-bot@edge\""),
        "{line}"
    );

    let (code, page, error) = adit(scene.folder.path(), &["status", "--admin", "e1.sock"]);
    assert_eq!((code, error.as_str()), (0, ""), "{page}");
    assert!(page.starts_with("edge/e1: all is well") && !page.contains('\u{1b}'), "{page}");

    assert_eq!(scene.refused(4), Err(ErrorKind::ConnectionReset));
    let line = e1.logged(&["adit::stream", "source-unknown"]);
    assert!(line.contains("\"refused\":true"), "{line}");
    let (code, page, error) = adit(scene.folder.path(), &["status", "--admin", "e1.sock"]);
    assert_eq!((code, error.as_str()), (1, ""), "callers are refused: {page}");
    assert!(page.contains("source-unknown"), "{page}");
    let (code, json, _) = adit(scene.folder.path(), &["status", "--config", "b1.yaml", "--json"]);
    let status: StatusDocument = serde_json::from_str(&json).unwrap();
    assert_eq!((code, status.links[0].state), (0, LinkHealth::Up));
    assert_eq!(
        status.exports[0].ports[0].backends[0].last_dial.as_ref().unwrap().sentence,
        "answered"
    );
    let metrics = scene.public("/metrics");
    for line in [
        "adit_streams_ended_total{direction=\"outbound\",code=\"finished\",service=\"agents/fraud-bot\",link=\"bank\"} 1",
        "adit_stream_answer_seconds_count{direction=\"outbound\",link=\"bank\"} 1",
        "adit_import_ready{service=\"agents/fraud-bot\",port=\"http\"} 1",
        "adit_link_up{link=\"bank\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
}

#[test]
fn all_that_is_in_the_way_is_told_at_once_and_nothing_is_left() {
    let scene = NodeScene::new();
    let _e1 = scene.start("e1");
    // A second one with the same file, as by mistake.
    let (code, out, error) = adit(scene.folder.path(), &["node", "--config", "e1.yaml"]);
    assert_eq!((code, out.as_str()), (1, ""));
    for word in [
        "imports: cannot listen",
        "metrics.listen:",
        "node.listen:",
        "admin.socket:",
        "another process",
        "did not start",
    ] {
        assert!(error.contains(word), "{word}: {error}");
    }

    // No terminal reads it, so it is as the log would be there.
    let errors = |text: &str| -> Vec<serde_json::Value> {
        let all: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        all.into_iter().filter(|line| line["level"] == "error").collect()
    };
    assert_eq!(errors(&error).len(), 5, "each by itself, and the end: {error}");

    let wrong = scene.bank().replace("links:", "lniks:").replace("cluster: bank", "cluster: B!");
    scene.write("b1", &(wrong.clone() + "log: {format: json}\n"));
    let (code, _, error) = adit(scene.folder.path(), &["node", "--config", "b1.yaml"]);
    let told = errors(&error);
    assert_eq!((code, &told[0]["key"]), (1, &serde_json::json!("cluster")), "{error}");
    assert_eq!(told.last().unwrap()["message"], "the node did not start");
    scene.write("b1", &(wrong + "log: {format: text}\n"));
    let (code, _, error) = adit(scene.folder.path(), &["node", "--config", "b1.yaml"]);
    assert!(code == 1 && error.ends_with("\nadit: the node did not start\n"), "{error}");
    for word in ["b1.yaml:1:", "b1.yaml:4:", "did you mean links?"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    scene.write("b1", &scene.bank());
    fs::remove_file(scene.path("edge.pem")).unwrap();
    fs::write(scene.path("b1/node.pem"), "").unwrap();
    let (code, _, error) = adit(scene.folder.path(), &["node", "--config", "b1.yaml"]);
    assert_eq!(code, 1);
    assert!(error.contains("b1.yaml:3:") && error.contains("node.identity"), "{error}");
    assert!(error.contains("b1.yaml:5:") && error.contains("links[0].trustBundle"), "{error}");
    // Who we are comes first: nothing was bound, not even for a moment.
    assert!(!scene.path("b1.sock").exists() && !scene.path("b1.sock.lock").exists());
}

#[test]
fn the_status_command_says_what_is_wrong_by_its_exit() {
    let scene = NodeScene::new();
    let (code, out, error) = adit(scene.folder.path(), &["status", "--admin", "e1.sock"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(error.contains("e1.sock") && error.contains("hint:"), "{error}");

    let mut e1 = scene.start("e1");
    let (code, page, _) = adit(scene.folder.path(), &["status", "--admin", "e1.sock"]);
    assert!(code == 1 && page.contains("✗ link bank"), "{page}");
    assert!(page.contains("agents/fraud-bot:http") && page.contains("no: link-down"), "{page}");
    assert!(scene.public("/readyz").contains("200 OK"), "a peer's absence is not this node's");

    e1.signal("KILL");
    e1.ended();
    let (code, _, error) = adit(scene.folder.path(), &["status", "--admin", "e1.sock"]);
    assert!(code == 2 && error.contains("nobody listens"), "{error}");
    // What a crash leaves behind is in nobody's way.
    let _again = scene.start("e1");
}

#[test]
fn the_doctor_of_a_node_finds_the_first_thing_in_the_way_and_its_line_mends_it() {
    let scene = NodeScene::new();
    let (e1, b1) = scene.both();
    let granted = scene.ip(3).to_string();
    let ask = |from: &str| {
        let words = ["doctor", "agents/fraud-bot", "--config", "e1.yaml", "--from", from];
        let (code, page, error) = adit(scene.folder.path(), &words);
        assert_eq!(error, "", "{page}");
        (code, page)
    };
    let (code, page) = ask(&granted);
    assert!(code == 0 && page.ends_with("A request is answered.\n"), "{page}");
    assert!(page.contains("a probe of agents/support-bot was answered through bank/b1"), "{page}");
    assert_eq!(e1.status().unwrap().streams.by_code, [].into(), "it is no stream");
    let counted = "adit_probes_total{direction=\"outbound\",code=\"finished\",link=\"bank\"} 1";
    let metrics = scene.public("/metrics");
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
    assert!(e1.logged(&["adit::stream", "\"probe\":true"]).contains("\"bytes_out\":0"));

    let (code, page) = ask(&scene.ip(4).to_string());
    assert!(code == 1 && page.contains("not answered, for the caller"), "{page}");
    let others = scene.bank().replace("serviceAccount: support-bot", "serviceAccount: other-bot");
    scene.write("b1", &others);
    b1.signal("HUP");
    eventually("the grant is gone", || (ask(&granted).0 == 1).then_some(()));
    let (code, page) = ask(&granted);
    assert!(code == 1 && page.contains("not answered, for the export grant"), "{page}");
    let line = "allow: [{cluster: edge, namespace: agents, serviceAccount: support-bot}]";
    assert!(
        page.contains("in the files of bank, at agents/fraud-bot") && page.contains(line),
        "{page}"
    );
    let before = "allow: [{cluster: edge, namespace: agents, serviceAccount: other-bot}]";
    assert!(others.contains(before));
    scene.write("b1", &others.replace(before, line));
    b1.signal("HUP");
    eventually("mended by that line", || (ask(&granted).0 == 0).then_some(()));

    let words = ["doctor", "agents/nowhere", "--config", "e1.yaml", "--from", "a/b", "--json"];
    let (code, json, _) = adit(scene.folder.path(), &words);
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &found[0]["firstFailed"]), (1, &serde_json::json!("node")), "{json}");
    let (code, out, error) = adit(scene.folder.path(), &["doctor", "--admin", "nobody.sock"]);
    assert!(code == 2 && out.is_empty() && error.contains("nobody.sock"), "{error}");
}

#[test]
fn a_change_of_the_file_is_applied_and_touches_no_stream() {
    let scene = NodeScene::new();
    let (e1, b1) = scene.both();
    let mut stream = scene.granted();
    let other = scene.address(1, 15081);
    let text = scene.edge();
    scene.write(
        "e1",
        &text.replace(
            "15080\"}]}",
            &format!("15080\"}}, {{name: grpc, port: 9090, listen: \"{other}\"}}]}}"),
        ),
    );
    e1.until("the second port is there", |s| s.imports[0].ports.len() == 2);
    assert_eq!(exchange(&mut stream, b"still here").unwrap(), b"still here");
    eventually("it is listened on", || TcpStream::connect(other).ok());

    scene.write("e1", &text.replace("imports:", "improts:"));
    let status = e1.until("the bad file is told", |s| s.node.configuration.error.is_some());
    assert!(status.node.configuration.error.unwrap().contains("did you mean imports?"));
    assert_eq!(status.imports[0].ports.len(), 2, "the last good one stays");
    e1.logged(&["improts", "\"hint\""]);
    scene.write("e1", &text);
    e1.until("good again", |s| {
        s.node.configuration.error.is_none() && s.imports[0].ports.len() == 1
    });
    eventually("no longer listened on", || TcpStream::connect(other).is_err().then_some(()));
    assert_eq!(exchange(&mut stream, b"and here").unwrap(), b"and here");

    // Withdrawn by the other side: the stream loses its right while it lives.
    scene.write("b1", &scene.bank().replace("namespace: agents, ", "namespace: elsewhere, "));
    b1.signal("HUP");
    assert_eq!(end(&mut stream), Err(ErrorKind::ConnectionReset));
    b1.logged(&["adit::stream", "\"revoked\""]);
    let status = e1.until("the import knows", |s| !s.imports[0].ports[0].ready);
    assert_eq!(status.imports[0].ports[0].reason.as_ref().unwrap().code, "denied");
}

#[test]
fn who_is_no_longer_believed_loses_connection_and_streams() {
    let scene = NodeScene::new();
    let (e1, _b1) = scene.both();
    let mut stream = scene.granted();
    // A renewed certificate of ours changes nothing for what runs.
    let words = ["pki", "issue", "--ca", "edge-ca", "--node", "e1", "--out", "e1", "--overwrite"];
    let before = e1.status().unwrap().node.certificate;
    let (code, _, error) = adit(scene.folder.path(), &words);
    assert_eq!(code, 0, "{error}");
    e1.logged(&["identity or trust replaced"]);
    assert_eq!(exchange(&mut stream, b"as before").unwrap(), b"as before");
    assert_eq!(e1.status().unwrap().node.certificate.id, before.id);

    // Another authority in bank's place: whoever showed the old one's certificate is a stranger now.
    for words in [
        &["pki", "init", "--trust-domain", "bank.test", "--dir", "new-ca"][..],
        &["pki", "bundle", "--ca", "new-ca", "--out", "new.pem"],
    ] {
        assert_eq!(adit(scene.folder.path(), words).0, 0);
    }
    fs::rename(scene.path("new.pem"), scene.path("bank.pem")).unwrap();
    assert_eq!(end(&mut stream), Err(ErrorKind::ConnectionReset));
    let status = e1.until("the link is down", |s| s.links[0].state == LinkHealth::Down);
    assert_eq!(status.imports[0].ports[0].reason.as_ref().unwrap().code, "link-down");
}

#[test]
fn streams_beyond_the_descriptors_are_refused_and_admin_answers() {
    let scene = NodeScene::new();
    echo(scene.backend());
    let _b1 = scene.start("b1");
    let limited = "ulimit -n 400; exec \"$0\" node --config e1.yaml";
    let log = fs::File::create(scene.path("e1.log")).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", limited, env!("CARGO_BIN_EXE_adit")]);
    let e1 = scene.run(command, "e1", Stdio::from(log));
    e1.until("the import is ready", |s| !s.imports.is_empty() && s.imports[0].ports[0].ready);
    let held: Vec<_> = (0..300)
        .map_while(|_| {
            let mut stream = scene.connect(3).ok()?;
            exchange(&mut stream, b"x").is_ok().then_some(stream)
        })
        .collect();
    // Of some 136 places a quarter is kept for peers, and of the rest one for other workloads.
    assert!((70..90).contains(&held.len()), "{}", held.len());
    let line = e1.logged(&["adit::stream", "over-limit"]);
    assert!(line.contains("\"refused\":true"), "{line}");
    assert!(e1.status().is_some() && scene.public("/livez").contains("200"));
    drop(held);
    e1.until("all have ended", |s| s.streams.open == 0);
    scene.granted();
}

#[test]
fn a_node_that_is_asked_to_end_serves_until_nothing_is_open() {
    let scene = NodeScene::new();
    let (mut e1, b1) = scene.both();
    let mut stream = scene.granted();
    e1.signal("TERM");
    let status = e1.until("it drains", |s| s.node.draining);
    assert_eq!(status.node.waiting_for, ["draining"]);
    assert!(scene.public("/readyz").contains("503") && scene.public("/livez").contains("200"));
    // Nobody has taken over, so it serves until its last moment.
    let mut new = scene.granted();
    assert_eq!(exchange(&mut new, b"still served").unwrap(), b"still served");
    new.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(end(&mut new), Ok(0));
    assert_eq!(exchange(&mut stream, b"to the end").unwrap(), b"to the end");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(end(&mut stream), Ok(0));
    assert_eq!(e1.ended().code(), Some(0));
    assert!(!scene.path("e1.sock").exists());
    e1.logged(&["Drained { reset: 0 }"]);
    b1.logged(&["adit::stream", "\"finished\""]);
}

#[test]
fn what_is_left_at_the_deadline_is_reset_and_never_finished() {
    let scene = NodeScene::new();
    scene.write("e1", &(scene.edge() + "limits: {leave: 1s}\n"));
    let (mut e1, b1) = scene.both();
    let mut stream = scene.granted();
    e1.signal("TERM");
    assert_eq!(end(&mut stream), Err(ErrorKind::ConnectionReset));
    assert_eq!(e1.ended().code(), Some(0));
    e1.logged(&["adit::stream", "\"drained\""]);
    e1.logged(&["Drained { reset: 1 }"]);
    b1.logged(&["adit::stream", "\"drained\""]);
}

#[test]
fn a_second_signal_ends_at_once() {
    let scene = NodeScene::new();
    let (mut e1, _b1) = scene.both();
    let _stream = scene.granted();
    e1.signal("TERM");
    e1.until("it drains", |s| s.node.draining);
    e1.signal("TERM");
    assert_eq!(e1.ended().code(), Some(128 + 15));
    assert!(!scene.path("e1.sock").exists());
}

#[test]
fn a_log_that_nobody_reads_stops_no_traffic() {
    let scene = NodeScene::new();
    echo(scene.backend());
    let _b1 = scene.start("b1");
    // The pipe's other end stays open and unread.
    let mut e1 = scene.spawn("e1", Stdio::piped());
    let _unread = e1.child.stderr.take();
    e1.until("the import is ready", |s| !s.imports.is_empty() && s.imports[0].ports[0].ready);
    for _ in 0..5000 {
        // Each is refused, with a line of some 300 bytes; the pipe holds 64 KiB, the queue 4,096 lines.
        assert_eq!(scene.refused(4), Err(ErrorKind::ConnectionReset));
    }
    let mut stream = scene.granted();
    assert_eq!(exchange(&mut stream, b"alive").unwrap(), b"alive");
    assert!(e1.status().is_some());
}
