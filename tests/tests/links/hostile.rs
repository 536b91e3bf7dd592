//! Peers that are not what they say, or speak out of turn. Each is refused with the reason meant for it, and
//! the node serves on.

use std::sync::{Arc, Mutex};

use adit_core::code::Code;
use adit_core::name::NodeName;
use adit_core::snapshot::Class;
use adit_core::wire::control::{ControlMessage, Hello};
use adit_core::wire::state::{StateMessage, SubscribeRequest};
use adit_tests::sites::{RunningNode, Site, eventually};
use adit_transport::links::LinkSettings;
use adit_transport::{
    DialRequest, Endpoints, QuicConnection, RecvStream, SendStream, Tuning, Worker,
};
use bytes::BytesMut;
use tracing_subscriber::util::SubscriberInitExt;

use crate::{LinkWorld, SECOND, two};

/// A peer that speaks as the test wants.
pub(crate) struct Stranger {
    endpoints: Endpoints,
    pub(crate) site: Arc<Site>,
    node: NodeName,
}

impl Stranger {
    /// Has a certificate for node `n` of `site`, and believes `edge`.
    pub(crate) fn new(world: &LinkWorld, site: &Arc<Site>, n: u8, edge: &Site) -> Self {
        Self::named(world, site, n, site.node(n).as_str(), edge)
    }

    /// The same with a certificate for a name that may be invented.
    pub(crate) fn named(
        world: &LinkWorld,
        site: &Arc<Site>,
        n: u8,
        name: &str,
        edge: &Site,
    ) -> Self {
        let identity = site.authority.node(name, &[&edge.authority]);
        let net = world.network.host(site.ip(n));
        let workers = vec![Worker::current()];
        let tls = identity.tls();
        let tuning = Tuning::default();
        let endpoints = Endpoints::bind(net, workers, &[], &identity.secret, tls, tuning).unwrap();
        Self { endpoints, site: Arc::clone(site), node: name.parse().unwrap() }
    }

    pub(crate) async fn dial(&self, edge: &Site) -> QuicConnection {
        let dial = DialRequest {
            address: edge.address(1),
            trust_domain: edge.authority.trust_domain(),
            class: Class::Interactive,
        };
        self.endpoints.dial(0, dial).await.unwrap()
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            versions: (1, 1),
            capabilities: 0,
            cluster: self.site.name.clone(),
            node: self.node.clone(),
            boot: [9; 16],
            class: Class::Interactive,
            clock_ms: 0,
            slot: 0,
            stream_window: 0,
        }
    }
}

pub(crate) async fn open(quic: &QuicConnection, bytes: &[u8]) -> (SendStream, RecvStream) {
    let (mut send, recv) = quic.open_bi(SECOND).await.unwrap();
    send.send_all(bytes).await.unwrap();
    (send, recv)
}

pub(crate) fn control(message: &ControlMessage) -> BytesMut {
    let mut bytes = BytesMut::from(&[0][..]);
    message.encode(&mut bytes);
    bytes
}

pub(crate) fn state(message: &StateMessage) -> BytesMut {
    let mut bytes = BytesMut::from(&[1][..]);
    message.encode(&mut bytes);
    bytes
}

/// `edge`'s node, linked with a bank that is about to misbehave.
pub(crate) fn victim(world: &LinkWorld) -> (RunningNode, Site, Stranger) {
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[])]);
    let stranger = Stranger::new(world, &Arc::new(bank), 1, &edge);
    (e1, edge, stranger)
}

async fn refused(edge: &Site, stranger: &Stranger, hello: Hello) -> (Code, String) {
    let quic = stranger.dial(edge).await;
    let _control = open(&quic, &control(&ControlMessage::Hello(hello))).await;
    let closed = quic.closed().await;
    (closed.code, closed.text.into())
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_does_not_fit_is_refused_with_its_reason() {
    let world = LinkWorld::new();
    let (e1, edge, stranger) = victim(&world);
    let hello = || stranger.hello();
    for (hello, code, texts) in [
        (Hello { versions: (2, 3), ..hello() }, Code::VersionMismatch, ["1 to 1", "2 to 3"]),
        (
            Hello { node: "b2".parse().unwrap(), ..hello() },
            Code::IdentityMismatch,
            ["node b2", "node b1"],
        ),
        (
            Hello { cluster: "lab".parse().unwrap(), ..hello() },
            Code::IdentityMismatch,
            ["cluster lab", "cluster bank"],
        ),
        (Hello { class: Class::Bulk, ..hello() }, Code::ProtocolError, ["class", "class"]),
    ] {
        let (got, text) = refused(&edge, &stranger, hello).await;
        assert_eq!(got, code, "{text}");
        assert!(texts.iter().all(|part| text.contains(part)), "{text}");
        assert!(e1.links.connected(&stranger.site.name).is_empty());
    }
    // Who is well-behaved is served.
    let quic = stranger.dial(&edge).await;
    let _control = open(&quic, &control(&ControlMessage::Hello(hello()))).await;
    eventually("connected", SECOND, || !e1.links.connected(&stranger.site.name).is_empty()).await;
    let (_send, mut recv) = open(&quic, b"\x02echo").await;
    assert_eq!(recv.read_chunk(9).await.unwrap().unwrap(), "echo");
}

#[tokio::test(start_paused = true)]
async fn a_linked_cluster_makes_no_node_of_ours_look_doubled() {
    let world = LinkWorld::new();
    let (e1, edge, stranger) = victim(&world);
    let quic = stranger.dial(&edge).await;
    let (mut send, _recv) = open(&quic, &control(&ControlMessage::Hello(stranger.hello()))).await;
    eventually("connected", SECOND, || !e1.links.connected(&stranger.site.name).is_empty()).await;
    // Nobody is there, another node is, the node itself is.
    for address in [edge.address(9), stranger.site.address(1), edge.address(1)] {
        tokio::time::sleep(20 * SECOND).await;
        let mut words = BytesMut::new();
        ControlMessage::DuplicateIdentity { boot: [3; 16], address }.encode(&mut words);
        send.send_all(&words).await.unwrap();
        tokio::time::sleep(30 * SECOND).await;
        assert_eq!(e1.links.status().own_duplicate, None, "{address}");
    }
    assert_eq!(e1.links.status().own_duplicate, None);
    assert_eq!(quic.is_closed(), None);
}

/// A log in memory.
#[derive(Clone, Default)]
struct MemoryLog(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for MemoryLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_peer_is_warned_of_and_one_that_closes_a_spare_is_not() {
    let log = MemoryLog::default();
    let to = log.clone();
    // With one dispatcher alone, a line that another test's thread reaches first would count as wanted by nobody.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let warnings = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_ansi(false)
        .with_writer(move || to.clone())
        .set_default();
    let world = LinkWorld::new();
    let (_e1, edge, stranger) = victim(&world);
    let quic = stranger.dial(&edge).await;
    quic.close(Code::ConnectionUnused, "");
    quic.closed().await;
    let hello = Hello { node: "b2".parse().unwrap(), ..stranger.hello() };
    refused(&edge, &stranger, hello).await;
    drop(warnings);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("peer refused").count(), 1, "{log}");
    assert!(log.contains("identity-mismatch"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_newer_peer_within_reach_is_spoken_with_in_our_version() {
    let world = LinkWorld::new();
    let (e1, edge, stranger) = victim(&world);
    let quic = stranger.dial(&edge).await;
    let hello = Hello { versions: (1, 9), capabilities: 77, ..stranger.hello() };
    let (_send, mut recv) = open(&quic, &control(&ControlMessage::Hello(hello))).await;
    let answer = recv.read_chunk(999).await.unwrap().unwrap();
    let Ok(Some((Some(ControlMessage::Hello(answer)), _))) = ControlMessage::decode(&answer) else {
        panic!()
    };
    assert_eq!((answer.versions, answer.node), ((1, 1), edge.node(1)));
    assert!(!e1.links.connected(&stranger.site.name).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dialler_learns_why_it_was_refused() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let newer = LinkSettings { versions: (2, 3), ..LinkSettings::default() };
    let others = [&edge];
    let _b1 = world.run_with(&bank, 1, &others, &[edge.link(&[])], newer, Tuning::default());
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    eventually("told", SECOND, || {
        let reason = e1.links.status().links.remove(0).reason;
        reason.is_some_and(|(_, text)| text.contains("1 to 1") && text.contains("2 to 3"))
    })
    .await;
    // An older configuration there: it does not know us.
    let (lab, shop) = (Site::new("lab", 5, 1), Site::new("shop", 6, 1));
    let _s1 = world.run_with(&shop, 1, &[&lab], &[], LinkSettings::default(), Tuning::default());
    let l1 = world.run(&lab, 1, &[(&shop, &[1])]);
    eventually("told", SECOND, || {
        let reason = l1.links.status().links.remove(0).reason;
        reason.is_some_and(|(_, text)| text.contains("no link to trust domain lab.example"))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_or_the_wrong_thing_first_is_closed() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let settings = LinkSettings { header_timeout: 7 * SECOND, ..LinkSettings::default() };
    let _e1 = world.run_with(&edge, 1, &[&bank], &[bank.link(&[])], settings, Tuning::default());
    let stranger = Stranger::new(&world, &Arc::new(bank), 1, &edge);
    let began = tokio::time::Instant::now();
    let silent = stranger.dial(&edge).await;
    assert_eq!(silent.closed().await.code, Code::HeaderTimeout);
    assert_eq!(began.elapsed().as_secs(), 7);

    let quic = stranger.dial(&edge).await;
    let _control = open(&quic, &control(&ControlMessage::Hello(stranger.hello()))).await;
    // A stream begins to exist with those that were opened after it.
    for first in [&b""[..], b"\x01"] {
        let began = tokio::time::Instant::now();
        let (_send, mut recv) = open(&quic, first).await;
        let _later = open(&quic, b"\x02echo").await;
        let ended = recv.read_chunk(9).await.unwrap_err().code();
        assert_eq!((ended, began.elapsed().as_secs()), (Code::HeaderTimeout, 7), "{first:?}");
    }

    let slow = stranger.dial(&edge).await;
    let hello = control(&ControlMessage::Hello(stranger.hello()));
    let (mut send, _recv) = open(&slow, &hello[..1]).await;
    let dripping = async {
        for byte in &hello[1..] {
            tokio::time::sleep(SECOND / 5).await;
            if send.send_all(&[*byte]).await.is_err() {
                break;
            }
        }
        slow.closed().await.code
    };
    assert_eq!(dripping.await, Code::HeaderTimeout, "a byte at a time is no hello");

    for first in [&b"\x02\x00"[..], b"\x01\x00", b"\x07\x00", b"\x00\x07\x00", b"\x00\x01\x60\x00"]
    {
        let quic = stranger.dial(&edge).await;
        let _stream = open(&quic, first).await;
        assert_eq!(quic.closed().await.code, Code::ProtocolError, "{first:?}");
    }
    let quic = stranger.dial(&edge).await;
    let go_away = ControlMessage::GoAway { code: Code::Draining, retry_after_ms: 0 };
    let _stream = open(&quic, &control(&go_away)).await;
    assert_eq!(quic.closed().await.code, Code::ProtocolError, "not a hello");
}

#[tokio::test(start_paused = true)]
async fn a_bad_stream_ends_alone_and_a_bad_control_message_ends_the_connection() {
    let world = LinkWorld::new();
    let (e1, edge, stranger) = victim(&world);
    let quic = stranger.dial(&edge).await;
    let (mut send, _recv) = open(&quic, &control(&ControlMessage::Hello(stranger.hello()))).await;
    eventually("connected", SECOND, || !e1.links.connected(&stranger.site.name).is_empty()).await;
    let ended = async |bytes: &[u8]| {
        let (_send, mut recv) = open(&quic, bytes).await;
        loop {
            match recv.read_chunk(9999).await {
                Ok(Some(_)) => {}
                Ok(None) => return Code::Finished,
                Err(error) => return error.code(),
            }
        }
    };
    let subscribe = |cluster: &str| {
        let cluster = cluster.parse().unwrap();
        state(&StateMessage::Subscribe(SubscribeRequest { cluster, have: None }))
    };
    assert_eq!(ended(b"\x00").await, Code::ProtocolError, "a second control stream");
    assert_eq!(ended(b"\x2a hello").await, Code::ProtocolError, "an unknown kind");
    assert_eq!(ended(&subscribe("bank")).await, Code::Unlinked, "its own cluster");
    assert_eq!(ended(&subscribe("lab")).await, Code::Unlinked, "somebody else's");
    assert_eq!(ended(b"\x01\x05\x00").await, Code::ProtocolError, "no subscribe");
    let twice = [&subscribe("edge")[..], &subscribe("edge")[1..]].concat();
    assert_eq!(ended(&twice).await, Code::ProtocolError, "a second subscribe");
    assert_eq!(ended(b"\x01").await, Code::HeaderTimeout, "a kind and nothing else");

    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(open(&quic, &subscribe("edge")).await);
    }
    let told = futures_util::future::join_all(streams.iter_mut().map(|(_, r)| r.read_chunk(9999)));
    let (heard, over): (Vec<_>, Vec<_>) = told.await.into_iter().partition(Result::is_ok);
    assert_eq!((heard.len(), over.len()), (5, 15), "one link and a few to spare");
    assert!(over.iter().all(|e| e.as_ref().is_err_and(|e| e.code() == Code::OverLimit)));

    // All of that broke nothing else.
    let (_data, mut recv) = open(&quic, b"\x02echo").await;
    assert_eq!(recv.read_chunk(9).await.unwrap().unwrap(), "echo");
    // A message from the future that may be skipped is.
    send.send_all(&[0x0a, 1, 0]).await.unwrap();
    tokio::time::sleep(SECOND).await;
    assert!(quic.is_closed().is_none());
    send.send_all(&[0x0b, 1, 0]).await.unwrap();
    assert_eq!(quic.closed().await.code, Code::ProtocolError);
    drop(e1);
}

#[tokio::test(start_paused = true)]
async fn a_go_away_that_is_repeated_is_said_once() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let stranger = Stranger::new(&world, &Arc::new(bank), 1, &edge);
    let quic = stranger.dial(&edge).await;
    let (mut send, _recv) = open(&quic, &control(&ControlMessage::Hello(stranger.hello()))).await;
    let mut go_away = BytesMut::new();
    ControlMessage::GoAway { code: Code::Draining, retry_after_ms: 60_000 }.encode(&mut go_away);
    let attempts = || e1.links.status().links[0].dials.attempts;
    // Nobody listens over there, so each attempt fails.
    send.send_all(&go_away).await.unwrap();
    tokio::time::sleep(40 * SECOND).await;
    let before = attempts();
    send.send_all(&go_away).await.unwrap();
    tokio::time::sleep(15 * SECOND).await;
    assert_eq!(attempts(), before, "it is left alone for a minute");
    tokio::time::sleep(30 * SECOND).await;
    assert!(attempts() >= before + 2, "and not for longer");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_go_away_does_not_keep_a_process_that_drains() {
    let world = LinkWorld::new();
    let (e1, edge, stranger) = victim(&world);
    let quic = stranger.dial(&edge).await;
    let _control = open(&quic, &control(&ControlMessage::Hello(stranger.hello()))).await;
    eventually("connected", SECOND, || !e1.links.connected(&stranger.site.name).is_empty()).await;
    // At any time there are three, none of which lasts.
    let opening = async {
        let mut held = std::collections::VecDeque::new();
        while let Ok((mut send, recv)) = quic.open_bi(SECOND).await {
            send.send_all(b"\x02slow").await.ok();
            held.push_back((send, recv));
            tokio::time::sleep(SECOND).await;
            if held.len() > 3 {
                held.pop_front();
            }
        }
    };
    let began = tokio::time::Instant::now();
    let ((), _broken) = tokio::join!(opening, e1.links.drain(600 * SECOND));
    assert!(began.elapsed() < 30 * SECOND, "{:?}", began.elapsed());
}
