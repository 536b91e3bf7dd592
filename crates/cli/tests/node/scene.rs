//! Two clusters on loopback, their nodes as real processes, and clients of theirs.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use adit_daemon::admin::client::{self, AdminAddress, AdminClientError};
use adit_daemon::status::StatusDocument;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;

/// Longest time for anything here before a test gives up. Nothing waits for it to pass.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < WAIT_TIMEOUT, "not in time: {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn adit(folder: &Path, words: &[&str]) -> (i32, String, String) {
    let out =
        Command::new(env!("CARGO_BIN_EXE_adit")).args(words).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

/// Two clusters: `edge` imports fraud-bot from `bank`. Files are written, nothing runs yet.
pub(crate) struct NodeScene {
    pub(crate) folder: TempDir,
    /// This test's network of loopback addresses.
    pub(crate) net: [u8; 3],
}

impl NodeScene {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn ip(&self, n: u8) -> Ipv4Addr {
        // 127 and three bytes of which the last has to tell tests and hosts apart.
        let [high, low, nth] = self.net;
        Ipv4Addr::new(127, high, low, nth * 16 + n)
    }

    pub(crate) fn address(&self, n: u8, port: u16) -> SocketAddr {
        (self.ip(n), port).into()
    }

    pub(crate) fn import(&self) -> SocketAddr {
        self.address(1, 15080)
    }

    pub(crate) fn backend(&self) -> SocketAddr {
        self.address(2, 8080)
    }

    pub(crate) fn edge(&self) -> String {
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

    pub(crate) fn bank(&self) -> String {
        let (listen, backend) = (self.address(2, 7843), self.backend());
        format!(
            "cluster: bank\ntrustDomain: bank.test\nnode: {{name: b1, listen: \"{listen}\", identity: b1}}\n\
             links:\n  - {{cluster: edge, trustDomain: edge.test, trustBundle: edge.pem}}\n\
             exports:\n  - service: agents/fraud-bot\n    ports: [{{name: http, port: 8080, backends: [\"{backend}\"]}}]\n    \
             allow: [{{cluster: edge, namespace: agents, serviceAccount: support-bot}}]\n\
             admin: {{socket: b1.sock}}\n"
        )
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, node: &str, text: &str) {
        fs::write(self.path(&format!("{node}.yaml")), text).unwrap();
    }

    pub(crate) fn start(&self, node: &str) -> NodeProcess {
        let log = fs::File::create(self.path(&format!("{node}.log"))).unwrap();
        let running = self.spawn(node, Stdio::from(log));
        eventually(&format!("{node} is ready"), || running.status().filter(|s| s.node.ready));
        running
    }

    pub(crate) fn spawn(&self, node: &str, log: Stdio) -> NodeProcess {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command.args(["node", "--config", &format!("{node}.yaml")]);
        self.run(command, node, log)
    }

    pub(crate) fn run(&self, mut command: Command, node: &str, log: Stdio) -> NodeProcess {
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stderr(log);
        let (socket, log) = (self.path(&format!("{node}.sock")), self.path(&format!("{node}.log")));
        NodeProcess { child: command.spawn().unwrap(), socket, log }
    }

    /// Both nodes and a backend that echoes, with the import ready.
    pub(crate) fn both(&self) -> (NodeProcess, NodeProcess) {
        echo(self.backend());
        let (b1, e1) = (self.start("b1"), self.start("e1"));
        e1.until("the import is ready", |s| s.imports[0].ports[0].ready);
        (e1, b1)
    }

    /// A connection to the import, made by this workload.
    pub(crate) fn connect(&self, from: u8) -> std::io::Result<TcpStream> {
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
    pub(crate) fn refused(&self, from: u8) -> Result<usize, ErrorKind> {
        self.connect(from).map_err(|e| e.kind()).and_then(|mut stream| end(&mut stream))
    }

    /// A connection of the workload that is granted; it has been answered once.
    pub(crate) fn granted(&self) -> TcpStream {
        let mut stream = self.connect(3).unwrap();
        assert_eq!(exchange(&mut stream, b"hello").unwrap(), b"hello");
        stream
    }

    pub(crate) fn public(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address(1, 9902)).unwrap();
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// A running `adit node`; ended with the test.
pub(crate) struct NodeProcess {
    pub(crate) child: Child,
    pub(crate) socket: PathBuf,
    pub(crate) log: PathBuf,
}

impl NodeProcess {
    pub(crate) fn ask(&self) -> Result<StatusDocument, AdminClientError> {
        runtime().block_on(client::status(&AdminAddress::from(self.socket.as_path())))
    }

    pub(crate) fn status(&self) -> Option<StatusDocument> {
        self.ask().ok()
    }

    pub(crate) fn until(
        &self,
        what: &str,
        wanted: impl Fn(&StatusDocument) -> bool,
    ) -> StatusDocument {
        eventually(what, || self.status().filter(&wanted))
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent =
            Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        eventually("the node has ended", || self.child.try_wait().unwrap())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line of the log with all these words.
    pub(crate) fn logged(&self, words: &[&str]) -> String {
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
pub(crate) fn echo(at: SocketAddr) {
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

pub(crate) fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// The end of a connection, as the client sees it.
pub(crate) fn end(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    stream.read(&mut [0; 1]).map_err(|e| e.kind())
}
