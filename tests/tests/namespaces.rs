//! Two clusters of two nodes each, in network namespaces, with the real binary and the kernel's own TCP.
//!
//! Pods reach a node-local address as they would behind kube-proxy; nodes reach each other over a bridge.
//! What is proved here is what a simulation cannot show: FIN and RST in every order, byte for byte.

use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use adit_tests::daemon::{Daemon, issue, make_authority};
use adit_tests::lab::{self, Host, bridge};
use adit_tests::prerequisite::eventually;
use adit_tests::workload::{Behaviour, End, backend, call, receive, reset_on_close, send};

const IMPORT: &str = "198.18.0.7:15080";
const BACKEND: &str = "10.244.2.9:8080";

fn import() -> SocketAddr {
    IMPORT.parse().unwrap()
}

/// Both clusters, their pods and what the backend saw.
struct Lab {
    root: tempfile::TempDir,
    edge1: Host,
    bank1: Host,
    bank2: Host,
    support: Host,
    stranger: Host,
    ends: Receiver<End>,
    e1: Daemon,
    b1: Daemon,
    b2: Daemon,
    _e2: Daemon,
}

fn edge(node: &str, sibling: &str, address: &str, other: &str) -> String {
    format!(
        r#"
cluster: edge
trustDomain: edge.test
node: {{name: {node}, listen: "0.0.0.0:7843", advertise: ["{address}:7843"], identity: ROOT/{node}}}
siblings: [{{name: {sibling}, addresses: ["{other}:7843"]}}]
links:
  - {{cluster: bank, trustDomain: bank.test, trustBundle: ROOT/bank.pem, addresses: ["172.18.2.2:7843", "172.18.2.3:7843"]}}
imports:
  - {{service: agents/fraud-bot, from: bank, ports: [{{name: http, port: 8080, listen: "{IMPORT}"}}]}}
workloads:
  - {{address: 10.244.1.10, namespace: agents, serviceAccount: support-bot}}
  - {{address: 10.244.1.66, namespace: agents, serviceAccount: intern-bot}}
admin: {{socket: ROOT/{node}.sock}}
log: {{format: json}}
"#
    )
}

fn bank(node: &str, sibling: &str, address: &str, other: &str) -> String {
    format!(
        r#"
cluster: bank
trustDomain: bank.test
node: {{name: {node}, listen: "0.0.0.0:7843", advertise: ["{address}:7843"], identity: ROOT/{node}}}
siblings: [{{name: {sibling}, addresses: ["{other}:7843"]}}]
links:
  - {{cluster: edge, trustDomain: edge.test, trustBundle: ROOT/edge.pem, addresses: ["172.18.1.2:7843"]}}
exports:
  - service: agents/fraud-bot
    ports: [{{name: http, port: 8080, backends: [{{address: "{BACKEND}", node: b1}}]}}]
    allow: [{{cluster: edge, namespace: agents, serviceAccount: support-bot}}]
admin: {{socket: ROOT/{node}.sock}}
log: {{format: json}}
"#
    )
}

impl Lab {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        bridge("lan");
        let host = |name: &str, address: &str| {
            let host = Host::new(name);
            host.plug("lan", &format!("{address}/16"));
            host
        };
        let [edge1, edge2] = [host("edge1", "172.18.1.2"), host("edge2", "172.18.1.3")];
        let [bank1, bank2] = [host("bank1", "172.18.2.2"), host("bank2", "172.18.2.3")];
        for node in [&edge1, &edge2] {
            node.ip(&["route", "add", "local", "198.18.0.0/15", "dev", "lo"]);
        }
        let support = edge1.pod("support", "10.244.1.10");
        let stranger = edge1.pod("stranger", "10.244.1.66");
        let fraud = bank1.pod("fraud", "10.244.2.9");
        // Any node of a cluster reaches its pods.
        bank1.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
        bank2.ip(&["route", "add", "10.244.2.9/32", "via", "172.18.2.2"]);
        let ends = fraud.enter(|| backend(BACKEND.parse().unwrap()));
        make_authority(root.path(), "edge");
        make_authority(root.path(), "bank");
        let start = |host: &Host, cluster: &str, node: &str, config: String| {
            issue(root.path(), cluster, node);
            Daemon::start(Some(host), root.path(), node, &config)
        };
        let b1 = start(&bank1, "bank", "b1", bank("b1", "b2", "172.18.2.2", "172.18.2.3"));
        let b2 = start(&bank2, "bank", "b2", bank("b2", "b1", "172.18.2.3", "172.18.2.2"));
        let e1 = start(&edge1, "edge", "e1", edge("e1", "e2", "172.18.1.2", "172.18.1.3"));
        let e2 = start(&edge2, "edge", "e2", edge("e2", "e1", "172.18.1.3", "172.18.1.2"));
        e1.wait_for("the import is ready", |s| s["imports"][0]["ready"] == true);
        Self { root, edge1, bank1, bank2, support, stranger, ends, e1, b1, b2, _e2: e2 }
    }

    fn backend_saw(&self) -> End {
        self.ends.recv_timeout(Duration::from_secs(30)).unwrap()
    }

    fn log_has(&self, daemon: &Daemon, parts: &[&str]) {
        eventually(&format!("a line with {parts:?}"), 10, || {
            daemon.log().lines().find(|l| parts.iter().all(|p| l.contains(p))).map(drop)
        });
    }
}

#[test]
fn bytes_arrive_as_they_were_sent() {
    lab::run("bytes_arrive_as_they_were_sent", || {
        let lab = Lab::new();
        for len in [0, 1, 511, 65_535, 65_536, 65_537, 262_145, 20 << 20] {
            let end = lab.support.enter(move || {
                let socket = call(import(), Behaviour::Echo).unwrap();
                let mut writer = socket.try_clone().unwrap();
                let sending = std::thread::spawn(move || {
                    send(&mut writer, len).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut socket = socket;
                let end = receive(&mut socket);
                sending.join().unwrap();
                end
            });
            assert_eq!(end, End::Finished(len));
            assert_eq!(lab.backend_saw(), End::Finished(len));
        }
        let many: Vec<_> = (0..100)
            .map(|n| {
                lab.support.spawn(move || {
                    let len = 10_000 * n;
                    let mut socket = call(import(), Behaviour::AnswerAfterEnd(len)).unwrap();
                    send(&mut socket, u64::from(len)).unwrap();
                    socket.shutdown(Shutdown::Write).unwrap();
                    (receive(&mut socket), u64::from(len))
                })
            })
            .collect();
        for thread in many {
            let (end, len) = thread.join().unwrap();
            assert_eq!(end, End::Finished(len));
        }
        lab.e1.wait_for("no stream is left", |s| s["streams"]["open"] == 0);
        lab.b1.wait_for("no stream is left", |s| s["streams"]["open"] == 0);
    });
}

#[test]
fn eight_orders_of_close() {
    lab::run("eight_orders_of_close", || {
        let lab = Lab::new();
        let big = 3_000_000;
        let at_most = |end: End, len: u64| match end {
            End::Reset(n) => assert!(n <= len),
            End::Finished(n) => panic!("a reset arrived as a clean end after {n} bytes"),
        };
        let client = |behaviour, body: fn(&mut std::net::TcpStream) -> End| {
            lab.support.enter(move || body(&mut call(import(), behaviour).unwrap()))
        };

        // 1. The client finishes first; the answer comes after.
        let end = client(Behaviour::AnswerAfterEnd(big), |socket| {
            send(socket, 1_000_000).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            receive(socket)
        });
        assert_eq!((end, lab.backend_saw()), (End::Finished(big.into()), End::Finished(1_000_000)));

        // 2. The backend finishes first; the client goes on speaking.
        let end = client(Behaviour::FinishFirst(big), |socket| {
            let end = receive(socket);
            send(socket, 2_000_000).unwrap();
            end
        });
        assert_eq!((end, lab.backend_saw()), (End::Finished(big.into()), End::Finished(2_000_000)));

        // 3. Both finish at once.
        let end = client(Behaviour::FinishFirst(0), |socket| {
            socket.shutdown(Shutdown::Write).unwrap();
            receive(socket)
        });
        assert_eq!((end, lab.backend_saw()), (End::Finished(0), End::Finished(0)));

        // 4. The client resets while it speaks.
        client(Behaviour::AnswerAfterEnd(0), |socket| {
            send(socket, 500_000).unwrap();
            reset_on_close(socket);
            End::Finished(0)
        });
        at_most(lab.backend_saw(), 500_000);

        // 5. The client resets while it is answered.
        client(Behaviour::Flood, |socket| {
            std::io::Read::read_exact(socket, &mut [0; 100_000]).unwrap();
            reset_on_close(socket);
            End::Finished(0)
        });

        // 6. The backend resets in its answer.
        at_most(client(Behaviour::Reset(big), receive), big.into());

        // 7. The backend resets after the client has finished.
        let end = client(Behaviour::ResetAfterEnd(1000), |socket| {
            send(socket, 1000).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            receive(socket)
        });
        at_most(end, 1000);
        assert_eq!(lab.backend_saw(), End::Finished(1000));

        // 8. The client closes with an answer unread, which the kernel turns into a reset.
        client(Behaviour::Flood, |socket| {
            std::io::Read::read_exact(socket, &mut [0; 1]).unwrap();
            End::Finished(0)
        });

        lab.e1.wait_for("no stream is left", |s| s["streams"]["open"] == 0);
        lab.b1.wait_for("no stream is left", |s| s["streams"]["open"] == 0);
    });
}

#[test]
fn a_caller_without_a_grant_is_refused_with_the_missing_rule() {
    lab::run("a_caller_without_a_grant_is_refused_with_the_missing_rule", || {
        let lab = Lab::new();
        let end =
            lab.stranger.enter(|| call(import(), Behaviour::Echo).map(|mut s| receive(&mut s)));
        // The reset may be faster than the client's first write.
        assert!(matches!(end, Ok(End::Reset(0)) | Err(_)), "{end:?}");
        let rule = "allow: {cluster: edge, namespace: agents, serviceAccount: intern-bot}";
        lab.log_has(&lab.e1, &["denied", "intern-bot", rule]);
        let unknown = lab.edge1.pod("unknown", "10.244.1.99");
        let end = unknown.enter(|| call(import(), Behaviour::Echo).map(|mut s| receive(&mut s)));
        assert!(matches!(end, Ok(End::Reset(0)) | Err(_)), "{end:?}");
        lab.log_has(&lab.e1, &["source-unknown", "10.244.1.99"]);
    });
}

#[test]
fn a_killed_peer_resets_its_streams_and_the_other_node_serves() {
    lab::run("a_killed_peer_resets_its_streams_and_the_other_node_serves", || {
        let mut lab = Lab::new();
        let running = lab.support.spawn(|| {
            let mut socket = call(import(), Behaviour::Flood).unwrap();
            receive_flood(&mut socket)
        });
        lab.b1.wait_for("the stream runs", |s| s["streams"]["open"] == 1);
        lab.b1.kill();
        lab.b1.restart(Some(&lab.bank1));
        assert!(running.join().unwrap(), "the running stream ended cleanly");
        eventually("a call is answered", 15, || {
            lab.support
                .enter(|| {
                    let mut socket = call(import(), Behaviour::AnswerAfterEnd(1000)).ok()?;
                    socket.shutdown(Shutdown::Write).ok()?;
                    Some(receive(&mut socket))
                })
                .filter(|end| *end == End::Finished(1000))
        });
        // With b1 gone for good, the stream enters at b2 and hops.
        lab.b1.kill();
        eventually("a call is answered through b2", 40, || {
            lab.support
                .enter(|| {
                    let mut socket = call(import(), Behaviour::AnswerAfterEnd(1000)).ok()?;
                    socket.shutdown(Shutdown::Write).ok()?;
                    Some(receive(&mut socket))
                })
                .filter(|end| *end == End::Finished(1000))
        });
        lab.b2.wait_for("the hop is counted", |s| s.to_string().contains("\"hops\":1"));
    });
}

/// Whether a flood ended by a reset.
fn receive_flood(socket: &mut std::net::TcpStream) -> bool {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match std::io::Read::read(socket, &mut buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(e) => return e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn without_a_backend_callers_are_refused_at_once_and_served_when_it_returns() {
    lab::run("without_a_backend_callers_are_refused_at_once_and_served_when_it_returns", || {
        let lab = Lab::new();
        // The pod is gone: its address answers no more.
        lab.bank1.ip(&["link", "set", "v-fraud", "down"]);
        lab.bank1.ip(&["route", "add", "unreachable", "10.244.2.9/32"]);
        let refused =
            || lab.support.enter(|| call(import(), Behaviour::Echo).map(|mut s| receive(&mut s)));
        assert!(matches!(refused(), Ok(End::Reset(0)) | Err(_)));
        lab.e1.wait_for("the import says why", |s| {
            s["imports"][0]["ready"] == false && s["imports"][0].to_string().contains("no-backend")
        });
        assert!(matches!(refused(), Ok(End::Reset(0)) | Err(_)));
        lab.log_has(&lab.e1, &["no-backend", "fraud-bot"]);
        lab.bank1.ip(&["route", "del", "unreachable", "10.244.2.9/32"]);
        lab.bank1.ip(&["link", "set", "v-fraud", "up"]);
        lab.bank1.ip(&["route", "replace", "10.244.2.9/32", "dev", "v-fraud"]);
        lab.e1.wait_for("the import is ready again", |s| s["imports"][0]["ready"] == true);
        let end = lab.support.enter(|| {
            let mut socket = call(import(), Behaviour::AnswerAfterEnd(10)).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            receive(&mut socket)
        });
        assert_eq!(end, End::Finished(10));
        assert!(Path::new(lab.root.path()).exists() && lab.bank2.enter(|| true));
    });
}
