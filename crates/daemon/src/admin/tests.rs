//! Both servers over real sockets: what they answer, to whom, and what a hostile client cannot do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_dataplane::capacity::StreamCapacity;
use adit_dataplane::flow::Flows;
use hyper::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::{self, AdminAddress, AdminClientError};
use super::control::{AdminCommand, Controls, ReloadReply};
use super::tap::TapRequest;
use super::{control, public, serve, socket};
use crate::readiness::Readiness;
use crate::status::StatusDocument;

/// A server that stops with the test.
struct AdminServer {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl AdminServer {
    async fn start(router: axum::Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let served = serve::run(serve::AdminListener::Tcp(listener), router, stop.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(served);
        Self { address, stop, tasks }
    }

    async fn end(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
    }

    /// Sends raw bytes and gives back all that comes until the server closes.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is an end, too.
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Sends a request as curl would. Returns the status and the body.
    async fn http(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let answer = self
            .raw(&format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"))
            .await;
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_default();
        (status, answer.split_once("\r\n\r\n").unwrap_or_default().1.to_owned())
    }
}

fn controls() -> (Controls, mpsc::Receiver<AdminCommand>, Arc<Mutex<String>>) {
    let (commands, received) = mpsc::channel(1);
    let level = Arc::new(Mutex::new(String::new()));
    let set = level.clone();
    let controls = Controls {
        readiness: Readiness::default(),
        status: Arc::new(|| {
            let mut status = StatusDocument::default();
            status.node.node = "e1".into();
            status
        }),
        set_level: Arc::new(move |level| {
            crate::telemetry::parse(level)?;
            *set.lock().unwrap() = level.to_owned();
            Ok(())
        }),
        commands,
        prober: None,
        flows: None,
        traffic: Arc::new(Default::default),
        endpoints: None,
    };
    (controls, received, level)
}

#[tokio::test]
async fn a_client_reads_the_status_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let (controls, _commands, _) = controls();
    let mut socket = socket::AdminSocket::bind(&path).unwrap();
    let listener = tokio::net::UnixListener::from_std(socket.take_listener().unwrap()).unwrap();
    let stop = CancellationToken::new();
    let server =
        serve::run(serve::AdminListener::Unix(listener), control::router(controls), stop.clone());
    let asked = async {
        let status = client::status(&AdminAddress::from(path.as_path())).await.unwrap();
        stop.cancel();
        status
    };
    let ((), status) = tokio::join!(server, asked);
    assert_eq!(status.node.node, "e1");
    drop(socket);
    let gone = client::status(&AdminAddress::from(path.as_path())).await.unwrap_err();
    assert!(matches!(gone, AdminClientError::Unreachable { .. }), "{gone}");
}

#[tokio::test]
async fn changes_reach_the_process_and_its_word_comes_back() {
    let (controls, mut commands, level) = controls();
    let server = AdminServer::start(control::router(controls)).await;
    let address = AdminAddress::Tcp(server.address);
    let process = async {
        for outcome in [
            ReloadReply::Applied { changes: vec!["imports".into()] },
            ReloadReply::Rejected { error: "line 3, column 5: no such key".into() },
        ] {
            let Some(AdminCommand::Reload(answer)) = commands.recv().await else {
                panic!("not a reload")
            };
            answer.send(outcome).unwrap();
        }
        drop(commands.recv().await);
        let Some(AdminCommand::Drain) = commands.recv().await else { panic!("not a drain") };
    };
    let operator = async {
        let post = |path| client::request(&address, Method::POST, path, "");
        let applied: ReloadReply =
            serde_json::from_slice(&post("/v1/reload").await.unwrap()).unwrap();
        assert_eq!(applied, ReloadReply::Applied { changes: vec!["imports".into()] });
        let refused = post("/v1/reload").await.unwrap_err().to_string();
        assert_eq!(refused, "line 3, column 5: no such key");
        assert!(post("/v1/reload").await.unwrap_err().to_string().contains("ending"));
        assert_eq!(post("/v1/drain").await.unwrap(), r#"{"draining":true}"#);
        let put = |body| client::request(&address, Method::PUT, "/v1/log-level", body);
        put("debug\n").await.unwrap();
        assert_eq!(*level.lock().unwrap(), "debug");
        put(r#"{"level": "warn"}"#).await.unwrap();
        assert_eq!(*level.lock().unwrap(), "warn");
        for bad in ["loud", "", "{\"level\": 3}", "{\"lvl\": \"info\"}"] {
            assert!(matches!(put(bad).await, Err(AdminClientError::Refused(_))), "{bad}");
        }
    };
    tokio::join!(process, operator);
    server.end().await;
}

#[tokio::test]
async fn errors_are_json_with_a_sentence() {
    let server = AdminServer::start(control::guard_loopback(control::router(controls().0))).await;
    let host = "host: localhost:1\r\n";
    for (method, path, headers, body, status, word) in [
        ("GET", "/", host, "", 404, "GET /v1/status"),
        ("GET", "/v1/statu\u{73}%1b[31m", host, "", 404, "nothing at this path"),
        ("DELETE", "/v1/status", host, "", 405, "does not take this method"),
        ("PUT", "/v1/log-level", host, "\u{1b}[31m", 400, "\\u{1b}"),
        ("GET", "/v1/status", "", "", 403, "Host"),
        ("GET", "/v1/status", "host: evil.example:80\r\n", "", 403, "Host"),
        ("GET", "/v1/status", "host: 127.0.0.1.evil.example\r\n", "", 403, "Host"),
        (
            "POST",
            "/v1/drain",
            "host: 127.0.0.1\r\norigin: http://evil.example\r\n",
            "",
            403,
            "browser",
        ),
    ] {
        let (got, answer) = server.http(method, path, headers, body).await;
        let error = serde_json::from_str::<serde_json::Value>(&answer).unwrap()["error"].clone();
        assert_eq!(got, status, "{method} {path}: {answer}");
        assert!(error.as_str().is_some_and(|e| e.contains(word)), "{method} {path}: {error}");
    }
    for host in ["127.0.0.1", "127.8.8.8:9901", "[::1]:9901", "[::1]", "LocalHost"] {
        let (got, _) = server.http("GET", "/v1/status", &format!("host: {host}\r\n"), "").await;
        assert_eq!(got, 200, "{host}");
    }
    let (got, _) = server.http("PUT", "/v1/log-level", host, &"x".repeat(5000)).await;
    assert_eq!(got, 413);
    server.end().await;
}

#[tokio::test]
async fn readiness_names_what_is_left() {
    let readiness = Readiness::default();
    let metrics = Arc::new(|| "adit_ready 1\n".to_owned());
    let server = AdminServer::start(public::router(public::PublicState {
        readiness: readiness.clone(),
        metrics,
    }))
    .await;
    let get = async |path| server.http("GET", path, "host: any.example\r\n", "").await;
    assert_eq!(get("/livez").await, (200, "ok\n".to_owned()));
    let pending = readiness.wait_for("identity");
    let waiting = r#"{"ready":false,"waitingFor":["identity"]}"#.to_owned();
    assert_eq!(get("/readyz").await, (503, waiting));
    drop(pending);
    assert_eq!(get("/readyz").await.0, 200);
    assert_eq!(get("/metrics").await.1, "adit_ready 1\n");
    assert_eq!(get("/v1/status").await.0, 404, "the public server tells no more");
    assert_eq!(server.http("POST", "/livez", "host: a\r\n", "").await.0, 405);
    server.end().await;
}

#[tokio::test]
async fn heads_have_a_bound() {
    let server = AdminServer::start(control::router(controls().0)).await;
    let long = "x".repeat(100_000);
    let many = "a: b\r\n".repeat(1000);
    for (headers, statuses) in [(format!("a: {long}\r\n"), [431, 0]), (many, [431, 400])] {
        let (got, _) = server.http("GET", "/v1/status", &headers, "").await;
        assert!(statuses.contains(&got), "{got}");
    }
    assert!(server.raw("\u{0}\u{1}\u{2} not HTTP\r\n\r\n").await.contains("400"));
    assert_eq!(server.http("GET", "/v1/status", "host: a\r\n", "").await.0, 200);
    server.end().await;
}

#[tokio::test]
async fn one_address_cannot_take_every_place() {
    let server = AdminServer::start(control::router(controls().0)).await;
    let mut held = Vec::new();
    let refused = loop {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut first = [0; 1];
        match stream.read(&mut first).await {
            Ok(1) => held.push(stream),
            _closed => break held.len(),
        }
        assert!(held.len() < 1000);
    };
    assert_eq!(refused, 16);
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut other = other.connect(server.address).await.unwrap();
    other.write_all(b"GET /v1/status HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_sends_a_byte_now_and_then_is_given_up() {
    let (mut client, stream) = tokio::io::duplex(1024);
    let (controls, _commands, _) = controls();
    let router = control::router(controls);
    let begun = tokio::time::Instant::now();
    let served = serve::serve_connection(stream, router, CancellationToken::new());
    let slow = async {
        for byte in b"GET /v1/status HTTP/1.1\r\n".iter().cycle() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if client.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(served, slow);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up() {
    let (mut client, stream) = tokio::io::duplex(1024);
    let (controls, _commands, _) = controls();
    let begun = tokio::time::Instant::now();
    let served =
        serve::serve_connection(stream, control::router(controls), CancellationToken::new());
    let slow = async {
        let head = b"PUT /v1/log-level HTTP/1.1\r\nhost: a\r\ncontent-length: 4000\r\n\r\n";
        client.write_all(head).await.unwrap();
        while client.write_all(b"d").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::join!(served, slow);
    assert!(begun.elapsed() < Duration::from_secs(100), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_page_that_is_asked_for_without_end_is_made_for_a_tenth_of_the_time() {
    let made = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = made.clone();
    let metrics = move || {
        std::thread::sleep(Duration::from_millis(500));
        format!("page {}", count.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    };
    let readiness = Readiness::default();
    let public = public::PublicState { readiness, metrics: Arc::new(metrics) };
    let server = AdminServer::start(public::router(public)).await;
    for _ in 0..50 {
        assert_eq!(server.http("GET", "/metrics", "", "").await, (200, "page 0".into()));
    }
    assert_eq!(made.load(std::sync::atomic::Ordering::Relaxed), 1);
    server.end().await;
}

#[tokio::test]
async fn whoever_is_not_admitted_is_closed_unread_and_the_others_are_served() {
    // On the wildcard of IPv6 an IPv4 client has a mapped address.
    let listener = TcpListener::bind("[::]:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let admission = serve::Admission::new(move |ip| {
        seen.lock().unwrap().push(ip);
        Box::pin(std::future::ready(ip.to_string() != "127.0.0.9"))
    });
    let state = public::PublicState {
        readiness: Readiness::default(),
        metrics: Arc::new(|| "adit_ready 1\n".to_owned()),
    };
    let (router, stop) = (public::router(state), CancellationToken::new());
    let served =
        serve::run_for(serve::AdminListener::Tcp(listener), router, stop.clone(), admission);
    let get = async |from: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8(answer).unwrap()
    };
    let clients = async {
        // More than may be open at once from one address: each gives its place back.
        for _ in 0..100 {
            assert_eq!(get("127.0.0.9").await, "");
        }
        assert!(get("127.0.0.8").await.ends_with("adit_ready 1\n"));
        stop.cancel();
    };
    tokio::join!(served, clients);
    let asked = asked.lock().unwrap();
    assert!(asked.len() == 101 && asked.iter().all(std::net::IpAddr::is_ipv4), "{asked:?}");
}

#[tokio::test]
async fn taps_are_told_of_streams_for_as_long_as_they_stay_and_more_than_a_few_are_refused() {
    let flows = Flows::new(StreamCapacity { all: 9 });
    let mut controls = controls().0;
    controls.flows = Some(flows.clone());
    let server = AdminServer::start(control::router(controls)).await;
    let address = AdminAddress::Tcp(server.address);
    let all = TapRequest::default();
    let mut taps = Vec::new();
    for _ in 0..4 {
        taps.push(client::tap(&address, &all).await.unwrap());
    }
    let refused = client::tap(&address, &all).await.unwrap_err().to_string();
    assert!(refused.contains("enough taps"), "{refused}");
    let wrong = TapRequest { direction: Some("up".into()), ..TapRequest::default() };
    let refused = client::tap(&address, &wrong).await.unwrap_err().to_string();
    assert!(refused.contains("outbound or inbound"), "{refused}");
    drop(taps.drain(1..));
    // Their places are free once their connections are seen to have ended.
    while client::tap(&address, &all).await.is_err() {
        tokio::task::yield_now().await;
    }
    server.end().await;
    let mut left = taps.remove(0);
    assert_eq!(left.next().await.unwrap(), None, "it ends with the server");
}

#[tokio::test(start_paused = true)]
async fn a_tap_outlives_other_answers_and_shows_that_it_lives() {
    let flows = Flows::new(StreamCapacity { all: 9 });
    let mut controls = controls().0;
    controls.flows = Some(flows.clone());
    let (mut client, stream) = tokio::io::duplex(1024);
    let stop = CancellationToken::new();
    let served = serve::serve_connection(stream, control::router(controls), stop.clone());
    let begun = tokio::time::Instant::now();
    let follow = async {
        let head = b"POST /v1/tap HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
        client.write_all(head).await.unwrap();
        let mut read = [0; 1024];
        while begun.elapsed() < Duration::from_secs(600) {
            assert!(client.read(&mut read).await.unwrap() > 0);
        }
        stop.cancel();
    };
    tokio::join!(served, follow);
    assert!(begun.elapsed() < Duration::from_secs(620), "{:?}", begun.elapsed());
}
