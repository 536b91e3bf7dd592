//! Two clusters of two nodes each, in network namespaces, with the real binary and the kernel's own TCP.
//!
//! Pods reach a node-local address as they would behind kube-proxy; nodes reach each other over a bridge.
//! What is proved here is what a simulation cannot show: FIN and RST in every order, byte for byte.

#![expect(clippy::unwrap_used, reason = "in a test a panic is how it fails")]

use std::net::{Shutdown, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use adit_tests::clusters::{BACKEND, Clusters, IMPORT};
use adit_tests::daemon::Daemon;
use adit_tests::lab;
use adit_tests::prerequisite::eventually;
use adit_tests::workload::{
    Behaviour, DirectionEnd, backend, call, command, receive, reset_on_close, send,
};
use socket2::{Domain, Socket, Type};

fn import() -> SocketAddr {
    IMPORT.parse().unwrap()
}

/// Both clusters, and what the backend saw.
struct NamespaceLab {
    clusters: Clusters,
    ends: Receiver<DirectionEnd>,
}

impl Deref for NamespaceLab {
    type Target = Clusters;

    fn deref(&self) -> &Clusters {
        &self.clusters
    }
}

impl DerefMut for NamespaceLab {
    fn deref_mut(&mut self) -> &mut Clusters {
        &mut self.clusters
    }
}

impl NamespaceLab {
    fn new() -> Self {
        let (clusters, ends) =
            Clusters::start(|fraud| fraud.enter(|| backend(BACKEND.parse().unwrap())));
        Self { clusters, ends }
    }

    fn backend_saw(&self) -> DirectionEnd {
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
        let lab = NamespaceLab::new();
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
            assert_eq!(end, DirectionEnd::Finished(len));
            assert_eq!(lab.backend_saw(), DirectionEnd::Finished(len));
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
            assert_eq!(end, DirectionEnd::Finished(len));
        }
        lab.e1.wait_for("no stream is left", |s| s["streams"]["open"] == 0);
        lab.b1.wait_for("no stream is left", |s| s["streams"]["open"] == 0);
    });
}

/// Bytes of a long answer.
const LONG_ANSWER: u32 = 3_000_000;

fn client(
    lab: &NamespaceLab,
    behaviour: Behaviour,
    body: fn(&mut std::net::TcpStream) -> DirectionEnd,
) -> DirectionEnd {
    lab.support.enter(move || body(&mut call(import(), behaviour).unwrap()))
}

fn orders_that_end_clean(lab: &NamespaceLab) {
    // 1. The client finishes first; the answer comes after.
    let end = client(lab, Behaviour::AnswerAfterEnd(LONG_ANSWER), |socket| {
        send(socket, 1_000_000).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        receive(socket)
    });
    assert_eq!(
        (end, lab.backend_saw()),
        (DirectionEnd::Finished(LONG_ANSWER.into()), DirectionEnd::Finished(1_000_000))
    );

    // 2. The backend finishes first; the client goes on speaking.
    let end = client(lab, Behaviour::FinishFirst(LONG_ANSWER), |socket| {
        let end = receive(socket);
        send(socket, 2_000_000).unwrap();
        end
    });
    assert_eq!(
        (end, lab.backend_saw()),
        (DirectionEnd::Finished(LONG_ANSWER.into()), DirectionEnd::Finished(2_000_000))
    );

    // 3. Both finish at once.
    let end = client(lab, Behaviour::FinishFirst(0), |socket| {
        socket.shutdown(Shutdown::Write).unwrap();
        receive(socket)
    });
    assert_eq!((end, lab.backend_saw()), (DirectionEnd::Finished(0), DirectionEnd::Finished(0)));
}

fn orders_with_a_reset(lab: &NamespaceLab) {
    let at_most = |end: DirectionEnd, len: u64| match end {
        DirectionEnd::Reset(n) => assert!(n <= len),
        DirectionEnd::Finished(n) => panic!("a reset arrived as a clean end after {n} bytes"),
    };

    // 4. The client resets while it speaks.
    client(lab, Behaviour::AnswerAfterEnd(0), |socket| {
        send(socket, 500_000).unwrap();
        reset_on_close(socket);
        DirectionEnd::Finished(0)
    });
    at_most(lab.backend_saw(), 500_000);

    // 5. The client resets while it is answered.
    client(lab, Behaviour::Flood, |socket| {
        std::io::Read::read_exact(socket, &mut [0; 100_000]).unwrap();
        reset_on_close(socket);
        DirectionEnd::Finished(0)
    });

    // 6. The backend resets in its answer.
    at_most(client(lab, Behaviour::Reset(LONG_ANSWER), receive), LONG_ANSWER.into());

    // 7. The backend resets after the client has finished.
    let end = client(lab, Behaviour::ResetAfterEnd(1000), |socket| {
        send(socket, 1000).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        receive(socket)
    });
    at_most(end, 1000);
    assert_eq!(lab.backend_saw(), DirectionEnd::Finished(1000));

    // 8. The client closes with an answer unread, which the kernel turns into a reset.
    client(lab, Behaviour::Flood, |socket| {
        std::io::Read::read_exact(socket, &mut [0; 1]).unwrap();
        DirectionEnd::Finished(0)
    });
}

#[test]
fn eight_orders_of_close() {
    lab::run("eight_orders_of_close", || {
        let lab = NamespaceLab::new();
        orders_that_end_clean(&lab);
        orders_with_a_reset(&lab);
        lab.e1.wait_for("no stream is left", |s| s["streams"]["open"] == 0);
        lab.b1.wait_for("no stream is left", |s| s["streams"]["open"] == 0);
    });
}

#[test]
fn a_caller_without_a_grant_is_refused_with_the_missing_rule() {
    lab::run("a_caller_without_a_grant_is_refused_with_the_missing_rule", || {
        let lab = NamespaceLab::new();
        let end =
            lab.stranger.enter(|| call(import(), Behaviour::Echo).map(|mut s| receive(&mut s)));
        // The reset may be faster than the client's first write.
        assert!(matches!(end, Ok(DirectionEnd::Reset(0)) | Err(_)), "{end:?}");
        let rule = "allow: {cluster: edge, namespace: agents, serviceAccount: intern-bot}";
        lab.log_has(&lab.e1, &["denied", "intern-bot", rule]);
        let unknown = lab.edge1.pod("unknown", "10.244.1.99");
        let end = unknown.enter(|| call(import(), Behaviour::Echo).map(|mut s| receive(&mut s)));
        assert!(matches!(end, Ok(DirectionEnd::Reset(0)) | Err(_)), "{end:?}");
        lab.log_has(&lab.e1, &["source-unknown", "10.244.1.99"]);
    });
}

#[test]
fn a_killed_peer_resets_its_streams_and_the_other_node_serves() {
    lab::run("a_killed_peer_resets_its_streams_and_the_other_node_serves", || {
        let mut lab = NamespaceLab::new();
        let running = lab.support.spawn(|| {
            let mut socket = call(import(), Behaviour::Flood).unwrap();
            receive_flood(&mut socket)
        });
        lab.b1.wait_for("the stream runs", |s| s["streams"]["open"] == 1);
        let bank1 = lab.bank1.clone();
        lab.b1.bounce(Some(&bank1));
        assert!(running.join().unwrap(), "the running stream ended cleanly");
        eventually("a call is answered", 15, || {
            lab.support
                .enter(|| {
                    let mut socket = call(import(), Behaviour::AnswerAfterEnd(1000)).ok()?;
                    socket.shutdown(Shutdown::Write).ok()?;
                    Some(receive(&mut socket))
                })
                .filter(|end| *end == DirectionEnd::Finished(1000))
        });
        // With b1 gone for good, the stream enters at b2 and hops, as one before may have.
        let hops = |status: &serde_json::Value| {
            status["exports"][0]["ports"][0]["streams"]["hops"].as_u64().unwrap()
        };
        let before = hops(&lab.b2.status().unwrap());
        lab.b1.kill();
        eventually("a call is answered through b2", 40, || {
            lab.support
                .enter(|| {
                    let mut socket = call(import(), Behaviour::AnswerAfterEnd(1000)).ok()?;
                    socket.shutdown(Shutdown::Write).ok()?;
                    Some(receive(&mut socket))
                })
                .filter(|end| *end == DirectionEnd::Finished(1000))
        });
        lab.b2.wait_for("the hop is counted", |s| hops(s) > before);
    });
}

/// True if a flood ended by a reset.
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
        let lab = NamespaceLab::new();
        // The pod is gone: its address answers no more.
        lab.bank1.ip(&["link", "set", "v-fraud", "down"]);
        lab.bank1.ip(&["route", "add", "unreachable", "10.244.2.9/32"]);
        let refused =
            || lab.support.enter(|| call(import(), Behaviour::Echo).map(|mut s| receive(&mut s)));
        assert!(matches!(refused(), Ok(DirectionEnd::Reset(0)) | Err(_)));
        lab.e1.wait_for("the import says why", |s| {
            s["imports"][0]["ports"][0]["ready"] == false
                && s["imports"][0].to_string().contains("backend-unreachable")
        });
        assert!(matches!(refused(), Ok(DirectionEnd::Reset(0)) | Err(_)));
        lab.log_has(&lab.e1, &["backend-unreachable", "fraud-bot"]);
        lab.bank1.ip(&["route", "del", "unreachable", "10.244.2.9/32"]);
        lab.bank1.ip(&["link", "set", "v-fraud", "up"]);
        lab.bank1.ip(&["route", "replace", "10.244.2.9/32", "dev", "v-fraud"]);
        lab.e1.wait_for("the import is ready again", |s| {
            s["imports"][0]["ports"][0]["ready"] == true
        });
        let end = lab.support.enter(|| {
            let mut socket = call(import(), Behaviour::AnswerAfterEnd(10)).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            receive(&mut socket)
        });
        assert_eq!(end, DirectionEnd::Finished(10));
        assert!(Path::new(lab.root.path()).exists() && lab.bank2.enter(|| true));
    });
}

#[test]
fn an_answer_to_a_request_that_was_not_read_arrives_whole() {
    lab::run("an_answer_to_a_request_that_was_not_read_arrives_whole", || {
        let lab = NamespaceLab::new();
        for _ in 0..20 {
            let end = lab.support.enter(|| {
                let mut socket = call(import(), Behaviour::AnswerUnread(5000)).unwrap();
                let mut writer = socket.try_clone().unwrap();
                let sending = std::thread::spawn(move || send(&mut writer, 200_000));
                match receive(&mut socket) {
                    // Who writes into the reset takes the error, and a reader finds an end behind it.
                    DirectionEnd::Finished(n) if sending.join().unwrap().is_err() => {
                        DirectionEnd::Reset(n)
                    }
                    end @ (DirectionEnd::Finished(_) | DirectionEnd::Reset(_)) => end,
                }
            });
            assert_eq!(end, DirectionEnd::Reset(5000));
        }
    });
}

#[test]
fn a_node_that_goes_away_leaves_what_it_has_sent() {
    lab::run("a_node_that_goes_away_leaves_what_it_has_sent", || {
        let mut lab = NamespaceLab::new();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let reading = lab.support.spawn(move || {
            // A small buffer, so that most of it waits in e1, whose window is 262,144 bytes.
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            socket.connect(&import().into()).unwrap();
            let mut socket = std::net::TcpStream::from(socket);
            command(&mut socket, Behaviour::AnswerAfterEnd(270_000)).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            wait.recv().unwrap();
            receive(&mut socket)
        });
        lab.b1.wait_for("b1 has sent all", |s| {
            s["streams"]["open"] == 0 && s["streams"]["byCode"]["finished"] == 1
        });
        lab.e1.wait_for("e1 has not", |s| s["streams"]["open"] == 1);
        assert!(lab.b1.terminate().success());
        go.send(()).unwrap();
        assert_eq!(reading.join().unwrap(), DirectionEnd::Finished(270_000));
        lab.e1.wait_for("it finished here, too", |s| s["streams"]["byCode"]["finished"] == 1);
    });
}
