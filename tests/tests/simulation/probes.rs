//! Streams that only ask what would become of one: the answer is that of a stream, nothing is delivered, and
//! whoever asks too often is refused.

use adit_core::code::Code;
use adit_core::doctor::facts::ProbeStage;
use adit_core::spiffe::Workload;
use adit_core::wire::header::StreamProbe;
use adit_dataplane::flow::Direction;
use adit_dataplane::probe::{ProbeCaller, ProbePort, ProbeReport, StreamQuestion};
use adit_tests::sim::{INTERN, NOBODY, SUPPORT, Town, TownPlan};
use tokio::time::{sleep, timeout};

use crate::SECOND;
use crate::hostile::{PORT, Peer, SERVICE, SOURCE, fields};

/// The header's field that says what is asked, as a peer would write it.
const DIAL: (u8, &[u8]) = (7, &[1]);

fn question(from: &str, depth: StreamProbe) -> StreamQuestion {
    let from: std::net::SocketAddr = from.parse().unwrap();
    StreamQuestion {
        service: "agents/bank-bot".parse().unwrap(),
        port: ProbePort::First,
        caller: ProbeCaller::Address(from.ip()),
        depth,
    }
}

async fn ask(town: &Town, from: &str) -> ProbeReport {
    let asked = town.edge[0].node.prober.ask(question(from, StreamProbe::Dial)).await;
    asked.expect("a place for the question")
}

/// Both sides count nothing as a stream, and have none open.
fn assert_no_stream(town: &Town, what: &str) {
    for whole in [&town.edge[0], &town.bank[0]] {
        assert_eq!(whole.node.flows.ended().len(), 0, "{what}: it is no stream");
        assert_eq!(whole.node.flows.open(), 0, "{what}: its place is free again");
        assert!(whole.node.flows.users().is_empty(), "{what}: and so is its user's");
        assert!(whole.node.flows.refusals().0.is_empty(), "{what}: no caller was refused");
        let groups = whole.node.flows.groups().into_values();
        assert_eq!(groups.map(|g| g.ended + g.open).sum::<u64>(), 0, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_answered_as_a_stream_would_be_and_delivers_nothing() {
    let town = Town::start(&TownPlan::default()).await;
    let backend = town.backend(1);
    let report = ask(&town, SUPPORT).await;
    assert_eq!((report.stage, report.code), (ProbeStage::Answered, Code::Finished), "{report:?}");
    assert_eq!(
        report.source.as_ref().map(Workload::to_string).unwrap(),
        "/ns/agents/sa/support-bot"
    );
    assert_eq!(report.peer.clone().map(|(c, n)| format!("{c}/{n}")).unwrap(), "bank/b1");
    // `accept` passes over connections on which nothing was said: there is no other.
    timeout(SECOND, backend.touched()).await.expect("the backend was dialled");
    assert!(timeout(SECOND, backend.accept()).await.is_err(), "a byte was delivered");
    assert_no_stream(&town, "answered");
    // A stream after it is carried.
    let (mut client, mut server) = town.through(&backend).await;
    client.say(10).await.unwrap();
    server.hear(10).await;
}

#[tokio::test(start_paused = true)]
async fn a_question_that_only_asks_dials_nobody() {
    let town = Town::start(&TownPlan::default()).await;
    let backend = town.backend(1);
    let asked = town.edge[0].node.prober.ask(question(SUPPORT, StreamProbe::Ask)).await;
    assert_eq!(asked.unwrap().stage, ProbeStage::Answered);
    assert!(timeout(SECOND, backend.touched()).await.is_err(), "a backend was dialled");
    assert_no_stream(&town, "asked");
}

#[tokio::test(start_paused = true)]
async fn a_probe_ends_at_the_step_and_with_the_code_of_a_stream() {
    let plan = TownPlan::default();
    let other = "[{cluster: edge, namespace: agents, serviceAccount: audit-bot}]".to_owned();
    let somebody = TownPlan { allow: other, ..plan.clone() };
    let nobody = TownPlan { allow: "[]".to_owned(), ..plan.clone() };
    let none = TownPlan { backends: "[]".to_owned(), ..plan.clone() };
    let grpc = plan.bank(1).replace("name: http", "name: grpc");
    use ProbeStage::{Authorize, Identify, Open, Pick};
    for (what, from, bank, stage, code, text) in [
        ("no grant", INTERN, None, Authorize, Code::Denied, "intern-bot"),
        ("an address of nobody", NOBODY, None, Identify, Code::SourceUnknown, "no workload"),
        ("a node's own", "10.0.1.1:1", None, Identify, Code::SourceUnknown, "address of a node"),
        ("others", SUPPORT, Some(somebody.bank(1)), Authorize, Code::Denied, "support-bot"),
        ("no export", SUPPORT, Some(nobody.bank(1)), Authorize, Code::ExportUnknown, "not export"),
        ("another port", SUPPORT, Some(grpc), Authorize, Code::PortUnknown, "no such port"),
        ("no backend", SUPPORT, Some(none.bank(1)), Pick, Code::NoBackend, "no ready backend"),
        // It has answered when the town began, and nobody listens now.
        ("refuses", SUPPORT, None, Open, Code::BackendRefused, "connection refused"),
    ] {
        let town = Town::start(&plan).await;
        let backend = (code != Code::BackendRefused).then(|| town.backend(1));
        bank.iter().for_each(|text| town.bank[0].configure(text));
        if bank.is_some() {
            sleep(SECOND).await;
        }
        let report = ask(&town, from).await;
        assert_eq!((report.stage, report.code), (stage, code), "{what}: {report:?}");
        assert!(report.reason.contains(text), "{what}: {report:?}");
        assert!(
            !report.reason.contains("10.244.2."),
            "an address of the other cluster: {report:?}"
        );
        assert_no_stream(&town, what);
        if let Some(backend) = backend {
            assert!(timeout(SECOND, backend.accept()).await.is_err(), "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_a_link_that_is_lost_says_so_and_one_of_no_import_too() {
    let town = Town::start(&TownPlan::default()).await;
    let service = "agents/nowhere".parse().unwrap();
    let unknown = StreamQuestion { service, ..question(SUPPORT, StreamProbe::Dial) };
    let report = town.edge[0].node.prober.ask(unknown).await.unwrap();
    assert_eq!((report.stage, report.code), (ProbeStage::Resolve, Code::ImportUnknown));
    town.cut(&[town.sites.bank.ip(1)]);
    sleep(60 * SECOND).await;
    assert_eq!(ask(&town, SUPPORT).await.code, Code::LinkDown);
}

/// A peer of its own make: it asks as often as it likes, and for what it has no right to.
#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_without_end_is_refused_and_has_few_backends_dialled() {
    let town = Town::start(&TownPlan::default()).await;
    let backend = town.backend(1);
    let peer = Peer::start(&town).await;
    let good = fields(&[SERVICE, PORT, SOURCE, DIAL]);
    let other = (5, &b"\0/ns/agents/sa/mole-bot"[..]);
    let denied = peer.ask(&fields(&[SERVICE, PORT, other, DIAL]), true).await;
    assert_eq!(denied.code, Code::Denied, "it needs the grant of a stream");
    // What comes behind the question is delivered to nobody.
    let with_bytes = [good.clone(), b"GET / HTTP/1.1\r\n\r\n".to_vec()].concat();
    assert_eq!(peer.ask(&with_bytes, true).await.code, Code::Finished);
    let mut codes = Vec::new();
    for _ in 0..60 {
        codes.push(peer.ask(&good, true).await.code);
    }
    let of = |code| codes.iter().filter(|c| **c == code).count();
    assert_eq!(of(Code::Finished) + of(Code::OverLimit), 60, "{codes:?}");
    // 20 at once and 2 a second, less the two before; an answer takes 20 ms and more.
    assert!((18..=24).contains(&of(Code::Finished)), "{codes:?}");
    let mut dialled = 0;
    while timeout(SECOND, backend.touched()).await.is_ok() {
        dialled += 1;
    }
    // Each answered question, and the node's own probes meanwhile.
    assert!(dialled <= of(Code::Finished) + 1 + 30, "{dialled}");
    assert!(timeout(SECOND, backend.accept()).await.is_err(), "a byte was delivered");
    assert_no_stream(&town, "flood");
    // Its streams are carried meanwhile, and so are those of others.
    let (mut client, mut server) = town.through(&backend).await;
    client.say(10).await.unwrap();
    server.hear(10).await;
    assert_eq!(town.bank[0].node.flows.ended().get(&(Direction::Inbound, Code::OverLimit)), None);
}

/// A node of an earlier version refuses a critical field that it does not know, as it always has; so does this one.
#[tokio::test(start_paused = true)]
async fn a_critical_field_that_is_not_known_is_refused_and_named() {
    let town = Town::start(&TownPlan::default()).await;
    let peer = Peer::start(&town).await;
    let later = peer.ask(&fields(&[SERVICE, PORT, SOURCE, (9, &[1])]), true).await;
    assert_eq!(later.code, Code::HeaderInvalid);
    assert!(later.reason.contains("critical type 9"), "{later:?}");
    let odd = peer.ask(&fields(&[SERVICE, PORT, SOURCE, (7, &[2])]), true).await;
    assert_eq!((odd.code, &*odd.reason), (Code::HeaderInvalid, "probe is not valid"));
}
