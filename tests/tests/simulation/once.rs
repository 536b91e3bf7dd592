//! Requests that may be sent again, and those that must not: a request is delivered once, or its sender is told that nobody knows.

use adit_core::code::Code;
use adit_dataplane::flow::Direction;
use adit_tests::sim::agent::{Delivered, RequestOutcome, ask, serve};
use adit_tests::sim::party::DirectionEnd;
use adit_tests::sim::{SUPPORT, Town, TownPlan, backend, import};
use tokio::time::{Instant, timeout};

use crate::SECOND;

/// A town whose agents at b1 and b2 count, each for itself.
async fn counting(plan: &TownPlan) -> (Town, Delivered, Delivered) {
    let town = Town::start(plan).await;
    let (first, second) = (Delivered::default(), Delivered::default());
    serve(&town.pods, backend(1), &first);
    serve(&town.pods, backend(2), &second);
    (town, first, second)
}

fn with_replay() -> TownPlan {
    TownPlan { export: "replay: true".to_owned(), ..TownPlan::two_backends() }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_refuses_costs_nobody_a_request() {
    // The other backend is at the same node, and at another.
    for node in ["b1", "b2"] {
        let backends = format!(
            "[{{address: 10.244.2.3:8080, node: b1}}, {{address: 10.244.2.2:8080, node: {node}}}]"
        );
        let export = "hop: sameNode".to_owned();
        let plan = TownPlan { backends, export, ..TownPlan::two_backends() };
        let (town, _, delivered) = counting(&plan).await;
        for number in 0..20 {
            let asked = ask(&town.pods, SUPPORT, import(1), number, 5000).await;
            assert_eq!(asked, RequestOutcome::Answered, "request {number}");
        }
        assert_eq!(delivered.all(), (0..20).map(|n| (n, 1)).collect());
        assert_eq!(town.edge[0].ended(Direction::Outbound, Code::Finished), 20);
        if node == "b2" {
            assert!(town.bank[0].ended(Direction::Inbound, Code::BackendRefused) > 0);
        }
        let down = town.bank[0].snapshot.borrow().down.len();
        assert_eq!(down, 1, "the refusal is remembered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_loses_the_connection_after_it_has_spoken_is_told_that_nobody_knows() {
    let (town, first, second) = counting(&TownPlan::two_backends()).await;
    // They hear us, and we do not hear them: what is sent is delivered, and no answer comes.
    town.mute(&[town.sites.bank.ip(1), town.sites.bank.ip(2)]);
    let began = Instant::now();
    assert_eq!(ask(&town.pods, SUPPORT, import(1), 7, 5000).await, RequestOutcome::Reset);
    assert!(began.elapsed() < 10 * SECOND, "{:?}", began.elapsed());
    assert_eq!(town.edge[0].ended(Direction::Outbound, Code::UnknownOutcome), 1);
    let (code, reason) = town.edge[0].failure().unwrap();
    assert_eq!(code, Code::UnknownOutcome);
    assert!(reason.contains("the connection to bank/b") && reason.contains("connection-lost"));
    tokio::time::sleep(60 * SECOND).await;
    let all = first.all().len() + second.all().len();
    assert_eq!(all, 1, "delivered at one, and never again: {first:?} {second:?}");
}

#[tokio::test(start_paused = true)]
async fn an_export_that_says_so_is_asked_again() {
    let (town, first, second) = counting(&with_replay()).await;
    town.mute(&[town.sites.bank.ip(1)]);
    let mut number = 0;
    while first.all().is_empty() {
        number += 1;
        assert_eq!(
            ask(&town.pods, SUPPORT, import(1), number, 5000).await,
            RequestOutcome::Answered
        );
    }
    assert_eq!(first.all(), [(number, 1)].into(), "delivered, and its answer lost");
    assert_eq!(second.all(), (1..=number).map(|n| (n, 1)).collect(), "asked again elsewhere");
}

/// Once a backend was reached, even an idempotent service's stream ends with its connection.
#[tokio::test(start_paused = true)]
async fn a_stream_under_way_is_never_begun_again() {
    let town = Town::start(&with_replay()).await;
    let (one, two) = (town.backend(1), town.backend(2));
    let mut client = town.connect(SUPPORT).await;
    let (mut server, other, node) = tokio::select! {
        server = one.accept() => (server, two, 1),
        server = two.accept() => (server, one, 2),
    };
    client.say(100).await.unwrap();
    server.hear(100).await;
    server.say(1).await.unwrap();
    client.hear(1).await;
    town.cut(&[town.sites.bank.ip(node)]);
    assert_eq!(client.end().await, DirectionEnd::Reset(1));
    assert!(timeout(60 * SECOND, other.accept()).await.is_err(), "nobody else hears of it");
}

#[tokio::test(start_paused = true)]
async fn while_no_byte_has_left_another_node_is_tried() {
    let town = Town::start(&TownPlan::two_backends()).await;
    let (one, two) = (town.backend(1), town.backend(2));
    town.cut(&[town.sites.bank.ip(1)]);
    let (mut slow, mut all) = (0, Vec::new());
    for _ in 0..6 {
        let began = Instant::now();
        let mut client = town.connect(SUPPORT).await;
        // The client waits for its server to greet.
        let mut server = two.accept().await;
        slow += u32::from(began.elapsed() > SECOND);
        assert!(began.elapsed() < 10 * SECOND, "{:?}", began.elapsed());
        server.say(100).await.unwrap();
        client.hear(100).await;
        client.say(100).await.unwrap();
        server.hear(100).await;
        all.push((client, server));
    }
    assert!(slow > 0, "none was sent to the dead node");
    assert!(timeout(SECOND, one.accept()).await.is_err());
    assert!(town.edge[0].node.flows.ended().is_empty(), "all live");
}

/// Only one side can be dialled; the streams of the other run over the connections that exist, and hop.
#[tokio::test(start_paused = true)]
async fn whoever_cannot_dial_is_served_over_the_connections_that_exist() {
    let banks = 1..=12;
    let backend_of = |n: u8| format!("{{address: 10.244.2.{n}:8080, node: b{n}}}");
    let backends = format!("[{}]", banks.clone().map(backend_of).collect::<Vec<_>>().join(", "));
    let plan = TownPlan { nodes: (1, 12), backends, dials: false, ..TownPlan::default() };
    let town = Town::start(&plan).await;
    let delivered = Delivered::default();
    for n in banks {
        serve(&town.pods, backend(n), &delivered);
    }
    for number in 0..50 {
        let asked = ask(&town.pods, SUPPORT, import(1), number, 5000).await;
        assert_eq!(asked, RequestOutcome::Answered, "request {number}");
    }
    assert_eq!(delivered.all(), (0..50).map(|n| (n, 1)).collect());
    let hubs = town.edge[0].node.links.connected(&town.sites.bank.name).len();
    assert!(hubs < 12, "all are connected, which shows nothing");
}
