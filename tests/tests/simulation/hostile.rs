//! Peers with a certificate and bad manners. Each gets the reason meant for it, and the node serves on.
//!
//! Connections and hellos of that kind are in `links/hostile.rs`; here it is data streams.

use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_core::snapshot::Class;
use adit_core::wire::header::{MAX_HEADER_LEN, StreamAnswer, StreamHeader};
use adit_dataplane::flow::Direction;
use adit_tests::sim::agent::{Delivered, RequestOutcome, ask, serve};
use adit_tests::sim::{SUPPORT, Town, TownPlan, backend, import};
use adit_tests::sites::{RunningNode, eventually, start};
use adit_transport::links::LinkSettings;
use adit_transport::{PeerStream, RecvStream, Tuning};
use bytes::BytesMut;
use tokio::time::{Instant, sleep};

use crate::{MS, SECOND};

/// A node of `edge` whose streams carry what the test wants.
pub(crate) struct Peer {
    running: RunningNode,
    bank: ClusterName,
}

impl Peer {
    pub(crate) async fn start(town: &Town) -> Self {
        let (edge, bank) = (&town.sites.edge, &town.sites.bank);
        let snapshot = edge.snapshot(9, &[bank.link(&[1])]);
        let (identity, net) = (town.sites.of_edge(9), town.network.host(edge.ip(9)));
        let running =
            start(net, &identity, snapshot, 9, LinkSettings::default(), Tuning::default());
        let bank = bank.name.clone();
        eventually("connected", SECOND, || !running.links.connected(&bank).is_empty()).await;
        Self { running, bank }
    }

    async fn open(&self) -> PeerStream {
        let node = "b1".parse().unwrap();
        let opened = self.running.links.open(0, &self.bank, &node, Class::Interactive).await;
        opened.unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// Sends these bytes, and their end if `finish`, and returns the answer.
    pub(crate) async fn ask(&self, bytes: &[u8], finish: bool) -> StreamAnswer {
        let mut stream = self.open().await;
        stream.send.send_all(bytes).await.unwrap();
        if finish {
            stream.send.finish().unwrap();
        }
        answer(&mut stream.recv).await
    }
}

async fn answer(recv: &mut RecvStream) -> StreamAnswer {
    let mut got = BytesMut::new();
    loop {
        if let Some((answer, _)) = StreamAnswer::decode(&got).unwrap() {
            return answer;
        }
        got.extend_from_slice(&recv.read_chunk(MAX_HEADER_LEN).await.unwrap().unwrap());
    }
}

/// A length in its shortest form, which is the only good one (RFC 9000 §16).
fn length(n: usize) -> Vec<u8> {
    if n < 64 { vec![n as u8] } else { vec![0x40 | (n >> 8) as u8, n as u8] }
}

/// A header of these fields, type and value, as they are.
pub(crate) fn fields(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let field = |(kind, value): &(u8, &[u8])| [&[*kind][..], &length(value.len()), value].concat();
    let body: Vec<u8> = fields.iter().flat_map(field).collect();
    [length(body.len()), body].concat()
}

pub(crate) const SERVICE: (u8, &[u8]) = (1, b"agents/bank-bot");
pub(crate) const PORT: (u8, &[u8]) = (3, b"http");
pub(crate) const SOURCE: (u8, &[u8]) = (5, b"\0/ns/agents/sa/support-bot");

/// A good header.
pub(crate) fn header() -> Vec<u8> {
    fields(&[SERVICE, PORT, SOURCE])
}

/// A town with an agent, and what it must be able to do after anything.
async fn serving(plan: &TownPlan) -> (Town, Peer) {
    let town = Town::start(plan).await;
    serve(&town.pods, backend(1), &Delivered::default());
    let peer = Peer::start(&town).await;
    (town, peer)
}

async fn serves_on(town: &Town) {
    assert_eq!(ask(&town.pods, SUPPORT, import(1), 1, 50_000).await, RequestOutcome::Answered);
    let flows = &town.bank[0].node.flows;
    eventually("nothing is left open", SECOND, || flows.open() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_header_that_ends_at_any_byte_is_refused_as_cut_short() {
    let (town, peer) = serving(&TownPlan::default()).await;
    let whole = header();
    assert!(StreamHeader::decode(&whole).unwrap().is_some(), "the test's own header is good");
    for len in 0..whole.len() {
        let answer = peer.ask(&whole[..len], true).await;
        assert_eq!(answer.code, Code::HeaderInvalid, "{len} bytes");
        assert_eq!(answer.reason, "the stream ended in its header", "{len} bytes");
    }
    assert_eq!(peer.ask(&whole, true).await.code, Code::Finished);
    serves_on(&town).await;
    assert_eq!(town.bank[0].ended(Direction::Inbound, Code::HeaderInvalid), whole.len() as u64);
}

/// Headers that are none: what is wrong, the bytes, and words of the reason.
fn invalid_headers() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let (long, max) = ([b'a'; 600], 63);
    let with = |field: (u8, &[u8])| fields(&[SERVICE, PORT, SOURCE, field]);
    let of = |service: &[u8]| fields(&[(1, service), PORT, SOURCE]);
    let from = |source: &[u8]| fields(&[SERVICE, PORT, (5, source)]);
    vec![
        ("too long", with((16, &long)), "longer than 510 bytes"),
        ("endless", vec![0xff; 64], "longer than 510 bytes"),
        ("garbage", b"GET / HTTP/1.1\r\n".repeat(9), ""),
        ("empty", vec![0], "service is missing"),
        ("no source", fields(&[SERVICE, PORT]), "source is missing"),
        ("an overlong length", [&[0x40, 3][..], b"\x01\x01a"].concat(), "shortest form"),
        ("a field cut short", b"\x03\x01\x09a".to_vec(), "cut short"),
        ("a field twice", fields(&[SERVICE, SERVICE, SOURCE]), "field 1 is repeated"),
        ("out of order", fields(&[PORT, SERVICE, SOURCE]), "field 1 is repeated or out of order"),
        ("an unknown critical field", with((21, b"x")), "critical type 21"),
        ("bad UTF-8", of(b"agents/b\xffnk"), "service is not valid"),
        ("a NUL", of(b"agents/bank\0bot"), "service is not valid"),
        ("an address", of(b"10.0.0.1:8080"), "service is not valid"),
        ("a path", of(b"../../bank-bot"), "service is not valid"),
        ("a long name", of(&[b"agents/", &long[..=max]].concat()), "service is not valid"),
        (
            "a source that claims proof",
            from(b"\x01/ns/agents/sa/support-bot"),
            "source is not valid",
        ),
        ("a node as source", from(b"\0/adit/node/e1"), "source is not valid"),
        ("an escaped source", from(b"\0/ns/agents/sa/%73upport-bot"), "source is not valid"),
        ("a foreign source", from(b"\0spiffe://bank.example/ns/a/sa/b"), "source is not valid"),
    ]
}

/// Headers that can be read: what they ask for, the bytes, and the code and words of the answer.
fn valid_headers() -> Vec<(&'static str, Vec<u8>, Code, &'static str)> {
    let with = |field: (u8, &[u8])| fields(&[SERVICE, PORT, SOURCE, field]);
    let of = |service: &[u8]| fields(&[(1, service), PORT, SOURCE]);
    let from = |source: &[u8]| fields(&[SERVICE, PORT, (5, source)]);
    vec![
        ("another service", of(b"agents/vault-bot"), Code::ExportUnknown, "not exported to edge"),
        (
            "another port",
            fields(&[SERVICE, (3, b"ssh"), SOURCE]),
            Code::PortUnknown,
            "no such port",
        ),
        ("no port", fields(&[SERVICE, SOURCE]), Code::PortUnknown, "no such port"),
        (
            "who may not",
            from(b"\0/ns/agents/sa/intern-bot"),
            Code::Denied,
            "allow: {cluster: edge, namespace: agents, serviceAccount: intern-bot}",
        ),
        ("a field of the future", with((30, b"x")), Code::Finished, ""),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_header_that_breaks_a_rule_is_refused_with_that_rule() {
    let (town, peer) = serving(&TownPlan::default()).await;
    let invalid = invalid_headers().into_iter();
    let invalid = invalid.map(|(what, bytes, text)| (what, bytes, Code::HeaderInvalid, text));
    for (what, bytes, code, text) in invalid.chain(valid_headers()) {
        let answer = peer.ask(&bytes, false).await;
        assert_eq!(answer.code, code, "{what}: {}", answer.reason);
        assert!(answer.reason.contains(text), "{what}: {}", answer.reason);
    }
    drop(peer);
    town.cut(&[town.sites.edge.ip(9)]);
    sleep(10 * SECOND).await;
    serves_on(&town).await;
}

#[tokio::test(start_paused = true)]
async fn a_header_has_until_its_deadline() {
    for (limits, deadline) in [("{}", 3 * SECOND), ("{headerDeadline: 500ms}", SECOND / 2)] {
        let limits = limits.to_owned();
        let (town, peer) = serving(&TownPlan { limits, ..TownPlan::default() }).await;
        for pace in [30 * SECOND, SECOND / 7] {
            let (began, mut stream) = (Instant::now(), peer.open().await);
            let PeerStream { send, recv, .. } = &mut stream;
            let dripping = async {
                for byte in header() {
                    send.send_all(&[byte]).await.ok();
                    sleep(pace).await;
                }
            };
            let code = tokio::select! {
                answer = answer(recv) => answer.code,
                () = dripping => panic!("no answer"),
            };
            assert_eq!(code, Code::HeaderTimeout, "a byte each {pace:?}");
            let took = began.elapsed();
            assert!(took >= deadline && took < deadline + 60 * MS, "{took:?} of {deadline:?}");
        }
        serves_on(&town).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_streams_and_resets_holds_nobody_up() {
    let (town, peer) = serving(&TownPlan::default()).await;
    let whole = header();
    for round in 0..10 {
        let mut streams = Vec::new();
        for n in 0..100 {
            let mut stream = peer.open().await;
            // Some say nothing, some a part, some all; then all are gone.
            stream.send.send_all(&whole[..whole.len() * (n % 3) / 2]).await.unwrap();
            streams.push(stream);
        }
        sleep(round * 3 * MS).await;
        for mut stream in streams {
            stream.send.reset(Code::SourceReset);
        }
    }
    serves_on(&town).await;
}

/// As many streams as a cluster may have, and not one more; each connection has its own bound, and further
/// ones are dialled for what goes beyond.
#[tokio::test(start_paused = true)]
async fn a_cluster_has_as_many_streams_as_it_may_and_no_more() {
    let limits = "{streamsPerConnection: 8, streamsPerPeer: 40}".to_owned();
    let (town, peer) = serving(&TownPlan { limits, ..TownPlan::default() }).await;
    let mut held = Vec::new();
    for n in 0..40 {
        let mut stream = peer.open().await;
        stream.send.send_all(&header()).await.unwrap();
        assert_eq!(answer(&mut stream.recv).await.code, Code::Finished, "stream {n}");
        held.push(stream);
    }
    let connections = peer.running.links.status().links.remove(0).connections;
    assert!(connections.len() >= 3, "{} connections", connections.len());
    let refused = peer.ask(&header(), false).await;
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (
            Code::OverLimit,
            "bank allows edge 40 streams at a time on each node (limits.streamsPerPeer of bank)"
        )
    );
    assert_eq!(
        ask(&town.pods, SUPPORT, import(1), 1, 10).await,
        RequestOutcome::Reset,
        "its other nodes, too"
    );
    assert_eq!(town.edge[0].ended(Direction::Outbound, Code::OverLimit), 1);
    let (told, _) = town.bank[0].node.flows.refusals();
    let over = told.iter().find(|s| s.is_inbound && s.code == Code::OverLimit).unwrap();
    let service = over.target.service.to_string();
    assert_eq!((service.as_str(), over.cluster.as_str()), ("agents/bank-bot", "edge"));
    assert!(over.source.is_some(), "who meets the limit is told where it is");
    assert!(over.sentence.contains("limits.streamsPerPeer of bank"), "{}", over.sentence);
    drop(held);
    sleep(SECOND).await;
    serves_on(&town).await;
}
