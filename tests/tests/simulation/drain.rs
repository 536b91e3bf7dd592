//! Nodes that go away, as on SIGTERM: nothing new, what runs may finish in time, the rest is reset.

use adit_core::code::Code;
use adit_dataplane::flow::Direction;
use adit_tests::sim::party::DirectionEnd;
use adit_tests::sim::{SUPPORT, Town, TownPlan, import};
use tokio::time::{Instant, sleep};

use crate::SECOND;

/// A stream that ends in time ends whole, and the node goes as soon as it has.
#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_in_time_is_not_broken() {
    for of_bank in [true, false] {
        let town = Town::start(&TownPlan::default()).await;
        let backend = town.backend(1);
        let (mut client, mut server) = town.through(&backend).await;
        client.say(1000).await.unwrap();
        let (began, whole) = (Instant::now(), if of_bank { &town.bank[0] } else { &town.edge[0] });
        let talking = async {
            sleep(5 * SECOND).await;
            tokio::join!(async { server.say(200_000).await.unwrap() }, client.hear(200_000));
            client.finish().await;
            assert_eq!(server.end().await, DirectionEnd::Finished(1000));
            server.finish().await;
            assert_eq!(client.end().await, DirectionEnd::Finished(200_000));
        };
        let (broken, ()) = tokio::join!(whole.node.shut_down(30 * SECOND), talking);
        assert_eq!(broken, 0, "of bank: {of_bank}");
        assert!(began.elapsed() < 9 * SECOND, "gone after {:?}", began.elapsed());
        assert_eq!(town.edge[0].ended(Direction::Outbound, Code::Finished), 1);
        assert_eq!(town.bank[0].ended(Direction::Inbound, Code::Finished), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_end_in_time_is_reset_as_drained_at_the_deadline() {
    for of_bank in [true, false] {
        let town = Town::start(&TownPlan::default()).await;
        let backend = town.backend(1);
        let (mut client, mut server) = town.through(&backend).await;
        client.say(1000).await.unwrap();
        client.finish().await;
        assert_eq!(server.end().await, DirectionEnd::Finished(1000));
        let (began, whole) = (Instant::now(), if of_bank { &town.bank[0] } else { &town.edge[0] });
        let ends = async {
            let end = client.end().await;
            (end, began.elapsed().as_secs())
        };
        let (broken, ended) = tokio::join!(whole.node.shut_down(30 * SECOND), ends);
        assert_eq!((broken, ended), (1, (DirectionEnd::Reset(0), 30)), "of bank: {of_bank}");
        assert!(server.say(1).await.is_err());
        assert_eq!(town.edge[0].ended(Direction::Outbound, Code::Drained), 1);
        assert_eq!(town.bank[0].ended(Direction::Inbound, Code::Drained), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn new_streams_go_to_another_node_once_peers_are_told() {
    let town = Town::start(&TownPlan::two_backends()).await;
    let (one, two) = (town.backend(1), town.backend(2));
    let mut client = town.connect(SUPPORT).await;
    let (mut server, other, node) = tokio::select! {
        server = one.accept() => (server, two, 0),
        server = two.accept() => (server, one, 1),
    };
    let going = town.bank[node].node.shut_down(30 * SECOND);
    let asking = async {
        // Also while the word of it is under way.
        for _ in 0..20 {
            let began = Instant::now();
            let mut client = town.connect(SUPPORT).await;
            client.say(10).await.unwrap();
            other.accept().await.hear(10).await;
            assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
        }
        client.say(10).await.unwrap();
        client.finish().await;
        assert_eq!(server.end().await, DirectionEnd::Finished(10), "the old one goes on");
        server.finish().await;
        assert_eq!(client.end().await, DirectionEnd::Finished(0));
    };
    assert_eq!(tokio::join!(going, asking).0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_goes_away_listens_no_more() {
    let town = Town::start(&TownPlan::default()).await;
    let backend = town.backend(1);
    let (client, server) = town.through(&backend).await;
    let asking = async {
        sleep(SECOND).await;
        let from = SUPPORT.parse().unwrap();
        assert!(town.pods.connect(from, import(1)).await.is_err());
        drop((client, server));
    };
    tokio::join!(town.edge[0].node.shut_down(30 * SECOND), asking);
    assert_eq!((town.edge[0].node.flows.open(), town.bank[0].node.flows.open()), (0, 0));
}
