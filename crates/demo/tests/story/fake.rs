//! A node that carries TCP in the clear, writes the log lines and serves the status that the story reads,
//! and is at fault where it is told to be.
//!
//! The node of `edge` finds `bank`'s through the files beside its own, connects to one of them over TCP
//! and names service and source in one line; that one dials the backend.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use adit_config::Config;
use adit_config::config::AdminConfig;
use adit_core::snapshot::Export;
use adit_daemon::status::{
    ActiveSource, ConnectionReport, Export as ExportStatus, Import as ImportStatus, ImportPort,
    Link, LinkHealth, PeerNode, StatusDocument,
};
use adit_daemon::telemetry::STREAM;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// A node: its file, the other cluster's files, its fault, and what it counts.
struct FakeNode {
    config: Config,
    peers: Vec<Config>,
    fault: String,
    counts: Mutex<FakeCounts>,
}

#[derive(Default)]
struct FakeCounts {
    by_code: BTreeMap<String, u64>,
    open: u64,
}

/// The end of a stream.
struct FakeEnding {
    code: &'static str,
    bytes_in: usize,
    bytes_out: usize,
}

/// Runs until SIGTERM.
pub(crate) fn run(config: &Path, fault: &str) {
    let load = |path: &Path| adit_config::load(path).expect("the demo writes sound files").0;
    let this = load(config);
    let bank = config.ancestors().nth(2).expect("clusters have folders").join("bank");
    let peers = match this.cluster.as_str() {
        "edge" => ["b1", "b2"].map(|n| load(&bank.join(format!("{n}.yaml")))).into(),
        _ => Vec::new(),
    };
    let node = FakeNode { config: this, peers, fault: fault.to_owned(), counts: Mutex::default() };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(serve(Arc::new(node)));
    assert!(fault != "stumbles", "told to");
}

async fn serve(node: Arc<FakeNode>) {
    let mut tasks = JoinSet::new();
    let AdminConfig::Socket(socket) = &node.config.admin else { panic!("the demo uses sockets") };
    std::fs::remove_file(socket).ok();
    let admin = UnixListener::bind(socket).expect("the socket is free");
    let known = node.clone();
    let status = axum::routing::get(move || async move { axum::Json(status(&known).await) });
    let router = axum::Router::new().route("/v1/status", status);
    tasks.spawn(async move { axum::serve(admin, router).await.expect("it serves") });
    for import in &node.config.imports {
        let (node, service) = (node.clone(), import.service.to_string());
        let listener = bind(import.ports[0].listen[0]).await;
        tasks.spawn(async move {
            let mut streams = JoinSet::new();
            while let Ok((tcp, from)) = listener.accept().await {
                streams.spawn(outbound(node.clone(), service.clone(), tcp, from));
            }
        });
    }
    let (bank, listener) = (node.clone(), bind(node.config.node.listen[0]).await);
    tasks.spawn(async move {
        let mut streams = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            streams.spawn(inbound(bank.clone(), tcp));
        }
    });
    signal(SignalKind::terminate()).expect("signals").recv().await;
}

async fn bind(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).await.expect("the port was held for us")
}

async fn outbound(node: Arc<FakeNode>, service: String, mut tcp: TcpStream, from: SocketAddr) {
    let workload = node.config.workloads.get(&from.ip()).expect("all callers are listed");
    let name = workload.service_account.as_str();
    let source = format!("{}/{name}@edge", workload.namespace);
    let granted = name != "report-bot" || node.fault == "grants";
    if !granted {
        let code = if node.fault == "misjudges" { "link-down" } else { "denied" };
        node.line("outbound", &source, "", &FakeEnding { code, bytes_in: 0, bytes_out: 0 });
        tcp.set_zero_linger().expect("linger is an option of TCP");
        return;
    }
    for peer in &node.peers {
        let Ok(mut far) = TcpStream::connect(peer.node.listen[0]).await else {
            if node.fault == "clings" {
                break;
            }
            continue;
        };
        far.write_all(format!("{service} {source}\n").as_bytes()).await.expect("it was accepted");
        node.counts().open += 1;
        let ended = carry(&node, &mut tcp, &mut far).await;
        node.counts().open -= u64::from(node.fault != "leaks");
        if ended.code != "finished" {
            tcp.set_zero_linger().expect("linger is an option of TCP");
        }
        node.line("outbound", &source, peer.node.name.as_str(), &ended);
        return;
    }
    tcp.set_zero_linger().expect("linger is an option of TCP");
}

/// Copies both ways. What comes from the far side is in pieces with their length in front, so that a
/// finish (a piece of length 0) differs from an end.
async fn carry(node: &FakeNode, near: &mut TcpStream, far: &mut TcpStream) -> FakeEnding {
    let (mut near_read, mut near_write) = near.split();
    let (mut far_read, mut far_write) = far.split();
    let out = async {
        let count = tokio::io::copy(&mut near_read, &mut far_write).await.unwrap_or_default();
        far_write.shutdown().await.ok();
        count as usize
    };
    let into = async {
        let (mut held, mut count, mut holds) = (Vec::new(), 0, false);
        while let Ok(length) = far_read.read_u16().await {
            let mut piece = vec![0; length.into()];
            if length == 0 || far_read.read_exact(&mut piece).await.is_err() {
                near_write.write_all(&held).await.ok();
                near_write.shutdown().await.ok();
                return (length == 0, count);
            }
            count += piece.len();
            if node.fault == "alters" {
                piece.iter_mut().filter(|b| **b == b';').for_each(|b| *b = b',');
            }
            held.append(&mut piece);
            holds |= node.fault == "holds" && held.windows(6).any(|w| w == b"text/e");
            if !holds {
                near_write.write_all(&std::mem::take(&mut held)).await.ok();
            }
        }
        (node.fault == "finishes", count)
    };
    let (mut out, mut into) = (std::pin::pin!(out), std::pin::pin!(into));
    let (bytes_out, (whole, bytes_in)) = tokio::select! {
        bytes_out = &mut out => (bytes_out, into.await),
        ended = &mut into => (0, ended),
    };
    FakeEnding { code: if whole { "finished" } else { "connection-lost" }, bytes_in, bytes_out }
}

async fn inbound(node: Arc<FakeNode>, far: TcpStream) {
    let mut far = BufReader::new(far);
    let mut header = String::new();
    if far.read_line(&mut header).await.is_err() || header.is_empty() {
        return;
    }
    let (service, source) = header.trim().split_once(' ').expect("a service and a source");
    let mut exports = node.config.exports.iter();
    let export = exports.find(|e| e.service.to_string() == service).expect("it is exported");
    let mut backend = TcpStream::connect(backend(export)).await.expect("the agent listens");
    node.counts().open += 1;
    let (mut answer, mut question) = backend.split();
    let (mut from_far, mut to_far) = tokio::io::split(far);
    let out = async {
        let count = tokio::io::copy(&mut from_far, &mut question).await.unwrap_or_default();
        question.shutdown().await.ok();
        count as usize
    };
    let into = async {
        let (mut count, mut piece) = (0, [0; 4096]);
        loop {
            let length = answer.read(&mut piece).await.unwrap_or_default();
            to_far.write_u16(length as u16).await.ok();
            to_far.write_all(&piece[..length]).await.ok();
            to_far.flush().await.ok();
            count += length;
            if length == 0 {
                return count;
            }
        }
    };
    let (bytes_out, bytes_in) = tokio::join!(out, into);
    node.counts().open -= 1;
    let source = if node.fault == "mistakes" { "else/who@edge" } else { source };
    node.line("inbound", source, "e1", &FakeEnding { code: "finished", bytes_in, bytes_out });
}

fn backend(export: &Export) -> SocketAddr {
    export.ports[0].backends[0].address
}

impl FakeNode {
    fn counts(&self) -> std::sync::MutexGuard<'_, FakeCounts> {
        self.counts.lock().expect("nobody panics while counting")
    }

    fn line(&self, direction: &str, source: &str, peer: &str, ended: &FakeEnding) {
        let FakeEnding { code, bytes_in, bytes_out } = ended;
        *self.counts().by_code.entry((*code).to_owned()).or_default() += 1;
        let line = json!({
            "module": STREAM, "direction": direction, "source": source, "code": code,
            "asserted": direction == "inbound" && self.fault != "proves",
            "refused": *code == "denied" || *code == "link-down", "reason": "a fake's reason",
            "peer_node": peer, "bytes_in": bytes_in, "bytes_out": bytes_out,
        });
        eprintln!("{line}");
    }
}

async fn status(node: &FakeNode) -> StatusDocument {
    let mut status = StatusDocument::default();
    status.node.ready = true;
    status.node.pid = std::process::id();
    status.streams.open = node.counts().open;
    status.streams.by_code = node.counts().by_code.clone();
    let mut nodes = Vec::new();
    for peer in node.peers.iter().take(if node.fault == "lonely" { 1 } else { 2 }) {
        let up = TcpStream::connect(peer.node.listen[0]).await.is_ok();
        let connections = up.then(ConnectionReport::default).into_iter().collect();
        nodes.push(PeerNode {
            node: peer.node.name.to_string(),
            connections,
            ..Default::default()
        });
    }
    let link = Link { cluster: "bank".into(), state: LinkHealth::Up, nodes, ..Default::default() };
    status.links.extend((!node.peers.is_empty()).then_some(link));
    let ready = ImportPort { ready: true, ..Default::default() };
    status.imports.push(ImportStatus { ports: vec![ready], ..Default::default() });
    for export in &node.config.exports {
        let using = ActiveSource { streams: node.counts().open, ..Default::default() };
        let service = export.service.to_string();
        status.exports.push(ExportStatus { service, using: vec![using], ..Default::default() });
    }
    status
}
