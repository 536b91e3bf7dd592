//! Durations: what takes how long, and what may take for ever.

use adit_core::code::Code;
use adit_dataplane::flow::Direction;
use adit_tests::sim::party::{BackendListener, DirectionEnd};
use adit_tests::sim::{SUPPORT, Town, TownPlan};
use tokio::time::{Duration, Instant, sleep};

use crate::{MS, SECOND};

const HOUR: Duration = Duration::from_secs(3600);

/// 50 ms for the way there and back.
fn far() -> TownPlan {
    TownPlan { delay: 25 * MS, ..TownPlan::default() }
}

/// The milliseconds from a request of `len` bytes to the first byte of its answer, which the backend
/// gives when it has heard `enough`.
async fn first_byte(town: &Town, backend: &BackendListener, len: u64, enough: u64) -> f64 {
    let began = Instant::now();
    let mut client = town.connect(SUPPORT).await;
    client.say(len).await.unwrap();
    let answering = async {
        let mut server = backend.accept().await;
        server.hear(enough).await;
        server.say(1).await.unwrap();
        server
    };
    let ((), _server) = tokio::join!(client.hear(1), answering);
    began.elapsed().as_secs_f64() * 1000.0
}

#[tokio::test(start_paused = true)]
async fn the_first_byte_of_an_answer_takes_one_round_trip_on_a_warm_link() {
    let town = Town::start(&far()).await;
    let backend = town.backend(1);
    let all = 40 * 1024;
    // A body of 40 KiB goes in one flight, but paced: quinn-proto 0.11.19 lets ten packets go at once,
    // and the rest at 1.25 congestion windows a round trip. So it is whole over there after 8 ms more.
    for (len, enough, most) in
        [(1, 1, 52.5), (1000, 1000, 52.5), (all, 1, 52.5), (all, all, 62.5), (1000, 1000, 52.5)]
    {
        let took = first_byte(&town, &backend, len, enough).await;
        println!("{enough} of {len} bytes: {took:.1} ms over a round trip of 50 ms");
        assert!((50.0..=most).contains(&took), "{took} ms for {enough} of {len} bytes");
        // And also after the link has been idle.
        sleep(7 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cold_link_costs_a_handshake_and_a_hello_more() {
    // Three nodes, of which two are hubs: there is no connection with the third one yet.
    let mut plan = TownPlan { nodes: (1, 3), ..far() };
    for n in 1..=3 {
        plan.backends = format!("[{{address: 10.244.2.1:8080, node: b{n}}}]");
        let town = Town::start(&plan).await;
        // Whichever node was dialled first for the link may be no hub. That connection ends once it has been idle.
        sleep(600 * SECOND).await;
        let connected = town.edge[0].node.links.connected(&town.sites.bank.name);
        if !connected.contains(&town.sites.bank.node(n)) {
            let took = first_byte(&town, &town.backend(1), 1000, 1000).await;
            println!("cold: {took:.1} ms over a round trip of 50 ms");
            assert!((100.0..=152.5).contains(&took), "{took} ms");
            return;
        }
    }
    panic!("the hubs are two of three");
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_silence_before_an_answer_is_no_end() {
    let town = Town::start(&TownPlan::default()).await;
    let backend = town.backend(1);
    let (mut client, mut server) = town.through(&backend).await;
    client.say(100).await.unwrap();
    server.hear(100).await;
    sleep(HOUR).await;
    tokio::join!(async { server.say(200_000).await.unwrap() }, client.hear(200_000));
    sleep(HOUR).await;
    client.say(100).await.unwrap();
    server.hear(200).await;
    client.finish().await;
    server.finish().await;
    let ends = (client.end().await, server.end().await);
    assert_eq!(ends, (DirectionEnd::Finished(200_000), DirectionEnd::Finished(200)));
    sleep(SECOND).await;
    assert_eq!(town.edge[0].ended(Direction::Outbound, Code::Finished), 1);
    assert_eq!(town.bank[0].ended(Direction::Inbound, Code::Finished), 1);
}

#[tokio::test(start_paused = true)]
async fn half_closed_for_an_hour_each_way_is_no_end() {
    let town = Town::start(&TownPlan::default()).await;
    let backend = town.backend(1);
    for client_first in [true, false] {
        let (client, server) = town.through(&backend).await;
        let (mut one, mut other) = if client_first { (client, server) } else { (server, client) };
        one.say(10_000).await.unwrap();
        one.finish().await;
        assert_eq!(other.end().await, DirectionEnd::Finished(10_000));
        sleep(HOUR).await;
        tokio::join!(async { other.say(300_000).await.unwrap() }, one.hear(300_000));
        sleep(HOUR).await;
        other.say(5).await.unwrap();
        other.finish().await;
        assert_eq!(one.end().await, DirectionEnd::Finished(300_005));
    }
    sleep(SECOND).await;
    assert_eq!(town.edge[0].ended(Direction::Outbound, Code::Finished), 2);
    assert_eq!((town.edge[0].node.flows.open(), town.bank[0].node.flows.open()), (0, 0));
}
