//! `adit node` and `adit status`, the real binary: starting, serving, changing, ending.
//!
//! Each test has loopback addresses of its own, so that ports never meet.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use adit_daemon::admin::client::{self, AdminAddress, AdminClientError};
use adit_daemon::status::{LinkHealth, StatusDocument};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;

/// Longest time for anything here before a test gives up. Nothing waits for it to pass.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < WAIT_TIMEOUT, "not in time: {what}");
        std::thread::yield_now();
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn adit(folder: &Path, words: &[&str]) -> (i32, String, String) {
    let out =
        Command::new(env!("CARGO_BIN_EXE_adit")).args(words).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

/// Two clusters: `edge` imports fraud-bot from `bank`. Files are written, nothing runs yet.
struct NodeScene {
    folder: TempDir,
    /// This test's network of loopback addresses.
    net: [u8; 3],
}

impl NodeScene {
    fn new() -> Self {
        static NTH: AtomicU8 = AtomicU8::new(1);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        // Never 127.0: the first network of other programs.
        let net = [high | 0x80, low, NTH.fetch_add(1, Ordering::Relaxed)];
        let scene = Self { folder: tempfile::tempdir().unwrap(), net };
        for cluster in ["edge", "bank"] {
            let (domain, ca) = (format!("{cluster}.test"), format!("{cluster}-ca"));
            let (node, bundle) = (format!("{}1", &cluster[..1]), format!("{cluster}.pem"));
            for words in [
                &["pki", "init", "--trust-domain", &domain, "--dir", &ca][..],
                &["pki", "bundle", "--ca", &ca, "--out", &bundle],
                &["pki", "issue", "--ca", &ca, "--node", &node, "--out", &node],
            ] {
                let (status, _, error) = adit(scene.folder.path(), words);
                assert_eq!(status, 0, "{error}");
            }
        }
        scene.write("e1", &scene.edge());
        scene.write("b1", &scene.bank());
        scene
    }

    fn ip(&self, n: u8) -> Ipv4Addr {
        // 127 and three bytes of which the last has to tell tests and hosts apart.
        let [high, low, nth] = self.net;
        Ipv4Addr::new(127, high, low, nth * 16 + n)
    }

    fn address(&self, n: u8, port: u16) -> SocketAddr {
        (self.ip(n), port).into()
    }

    fn import(&self) -> SocketAddr {
        self.address(1, 15080)
    }

    fn backend(&self) -> SocketAddr {
        self.address(2, 8080)
    }

    fn edge(&self) -> String {
        let [listen, bank, import, metrics] =
            [self.address(1, 7843), self.address(2, 7843), self.import(), self.address(1, 9902)];
        format!(
            "cluster: edge\ntrustDomain: edge.test\nnode: {{name: e1, listen: \"{listen}\", identity: e1, endpoints: 2}}\n\
             links:\n  - {{cluster: bank, trustDomain: bank.test, trustBundle: bank.pem, addresses: [\"{bank}\"]}}\n\
             imports:\n  - {{service: agents/fraud-bot, from: bank, ports: [{{name: http, port: 8080, listen: \"{import}\"}}]}}\n\
             workloads:\n  - {{address: {}, namespace: agents, serviceAccount: support-bot}}\n\
             admin: {{socket: e1.sock}}\nmetrics: {{listen: \"{metrics}\"}}\n",
            self.ip(3)
        )
    }

    fn bank(&self) -> String {
        let (listen, backend) = (self.address(2, 7843), self.backend());
        format!(
            "cluster: bank\ntrustDomain: bank.test\nnode: {{name: b1, listen: \"{listen}\", identity: b1}}\n\
             links:\n  - {{cluster: edge, trustDomain: edge.test, trustBundle: edge.pem}}\n\
             exports:\n  - service: agents/fraud-bot\n    ports: [{{name: http, port: 8080, backends: [\"{backend}\"]}}]\n    \
             allow: [{{cluster: edge, namespace: agents, serviceAccount: support-bot}}]\n\
             admin: {{socket: b1.sock}}\n"
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, node: &str, text: &str) {
        fs::write(self.path(&format!("{node}.yaml")), text).unwrap();
    }

    fn start(&self, node: &str) -> NodeProcess {
        let log = fs::File::create(self.path(&format!("{node}.log"))).unwrap();
        let running = self.spawn(node, Stdio::from(log));
        eventually(&format!("{node} is ready"), || running.status().filter(|s| s.node.ready));
        running
    }

    fn spawn(&self, node: &str, log: Stdio) -> NodeProcess {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command.args(["node", "--config", &format!("{node}.yaml")]);
        self.run(command, node, log)
    }

    fn run(&self, mut command: Command, node: &str, log: Stdio) -> NodeProcess {
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stderr(log);
        let (socket, log) = (self.path(&format!("{node}.sock")), self.path(&format!("{node}.log")));
        NodeProcess { child: command.spawn().unwrap(), socket, log }
    }

    /// Both nodes and a backend that echoes, with the import ready.
    fn both(&self) -> (NodeProcess, NodeProcess) {
        echo(self.backend());
        let (b1, e1) = (self.start("b1"), self.start("e1"));
        e1.until("the import is ready", |s| s.imports[0].ports[0].ready);
        (e1, b1)
    }

    /// A connection to the import, made by this workload.
    fn connect(&self, from: u8) -> std::io::Result<TcpStream> {
        let stream = runtime().block_on(async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(self.address(from, 0))?;
            socket.connect(self.import()).await?.into_std()
        })?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(WAIT_TIMEOUT))?;
        Ok(stream)
    }

    /// The end of a connection of this workload that sends nothing. A reset may come at any moment.
    fn refused(&self, from: u8) -> Result<usize, ErrorKind> {
        self.connect(from).map_err(|e| e.kind()).and_then(|mut stream| end(&mut stream))
    }

    /// A connection of the workload that is granted; it has been answered once.
    fn granted(&self) -> TcpStream {
        let mut stream = self.connect(3).unwrap();
        assert_eq!(exchange(&mut stream, b"hello").unwrap(), b"hello");
        stream
    }

    fn public(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address(1, 9902)).unwrap();
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// A running `adit node`; ended with the test.
struct NodeProcess {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl NodeProcess {
    fn ask(&self) -> Result<StatusDocument, AdminClientError> {
        runtime().block_on(client::status(&AdminAddress::from(self.socket.as_path())))
    }

    fn status(&self) -> Option<StatusDocument> {
        self.ask().ok()
    }

    fn until(&self, what: &str, wanted: impl Fn(&StatusDocument) -> bool) -> StatusDocument {
        eventually(what, || self.status().filter(&wanted))
    }

    fn signal(&self, name: &str) {
        let sent =
            Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
        assert!(sent.unwrap().success());
    }

    fn ended(&mut self) -> ExitStatus {
        eventually("the node has ended", || self.child.try_wait().unwrap())
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line of the log with all these words.
    fn logged(&self, words: &[&str]) -> String {
        eventually(&format!("a line with {words:?}"), || {
            let log = self.log();
            log.lines().find(|l| words.iter().all(|w| l.contains(w))).map(str::to_owned)
        })
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.log.display(), self.log());
        }
    }
}

/// Echoes at this address for as long as the test's process lives.
fn echo(at: SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut reader = stream.try_clone().unwrap();
                // A reset is an end like any other here.
                std::io::copy(&mut reader, &mut stream).ok();
                stream.shutdown(std::net::Shutdown::Write).ok();
            });
        }
    });
}

fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// The end of a connection, as the client sees it.
fn end(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    stream.read(&mut [0; 1]).map_err(|e| e.kind())
}

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
