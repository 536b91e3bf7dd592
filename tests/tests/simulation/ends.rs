//! Every order in which two sides may close, reset or vanish. A clean end is one that the other side meant.

use adit_core::code::Code;
use adit_dataplane::flow::Direction;
use adit_tests::sim::party::{BackendListener, DirectionEnd, Party};
use adit_tests::sim::whole::Whole;
use adit_tests::sim::{Town, TownPlan};
use adit_tests::sites::eventually;
use tokio::time::{Instant, sleep};

use crate::SECOND;

const BODY: u64 = 150_000;

/// A town, and in it a stream under way: both sides have said and heard a body.
async fn under_way() -> (Town, BackendListener, Party, Party) {
    let town = Town::start(&TownPlan::default()).await;
    let backend = town.backend(1);
    let (mut client, mut server) = town.through(&backend).await;
    tokio::join!(async { client.say(BODY).await.unwrap() }, server.hear(BODY));
    tokio::join!(async { server.say(BODY).await.unwrap() }, client.hear(BODY));
    (town, backend, client, server)
}

/// The codes with which the one stream of the town ended, on both nodes.
async fn codes(town: &Town) -> (Code, Code) {
    let open = || town.edge[0].node.flows.open() + town.bank[0].node.flows.open();
    eventually("both sides have ended", SECOND, || open() == 0).await;
    let code = |whole: &Whole| {
        let ended = whole.node.flows.ended();
        assert_eq!(ended.values().sum::<u64>(), 1, "{ended:?}");
        ended.into_keys().next().unwrap().1
    };
    (code(&town.edge[0]), code(&town.bank[0]))
}

#[tokio::test(start_paused = true)]
async fn both_finish_in_any_order() {
    for client_first in [true, false] {
        for order in ["one after the other", "both at once", "the other closes"] {
            let what = format!("client first: {client_first}, {order}");
            let (town, _backend, client, server) = under_way().await;
            let (mut one, mut other) =
                if client_first { (client, server) } else { (server, client) };
            one.finish().await;
            if order == "both at once" {
                other.finish().await;
                assert_eq!(other.end().await, DirectionEnd::Finished(BODY), "{what}");
                assert_eq!(one.end().await, DirectionEnd::Finished(BODY), "{what}");
            } else {
                assert_eq!(other.end().await, DirectionEnd::Finished(BODY), "{what}");
                other.say(50_000).await.unwrap();
                if order == "the other closes" {
                    drop(other)
                } else {
                    other.finish().await
                }
                assert_eq!(one.end().await, DirectionEnd::Finished(BODY + 50_000), "{what}");
            }
            assert_eq!(codes(&town).await, (Code::Finished, Code::Finished), "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_a_reset_on_the_other_side_whatever_was_before() {
    for by_client in [true, false] {
        for finished in ["nobody", "the one", "the other"] {
            let what = format!("by client: {by_client}, finished before: {finished}");
            let (town, _backend, client, server) = under_way().await;
            let (mut one, mut other) = if by_client { (client, server) } else { (server, client) };
            let mut expected = DirectionEnd::Reset(BODY);
            if finished == "the one" {
                one.finish().await;
                expected = DirectionEnd::Finished(BODY);
                assert_eq!(other.end().await, expected, "{what}");
            } else if finished == "the other" {
                other.finish().await;
                assert_eq!(one.end().await, DirectionEnd::Finished(BODY), "{what}");
            }
            one.reset();
            sleep(SECOND).await;
            // What had ended cleanly before stays so; that the rest is lost shows to who speaks.
            assert!(other.say(1).await.is_err(), "{what}");
            if finished != "the one" {
                assert_eq!(other.end().await, expected, "{what}");
            }
            let code = if by_client { Code::SourceReset } else { Code::BackendReset };
            assert_eq!(codes(&town).await, (code, code), "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_closes_with_unread_bytes_resets() {
    let (town, _backend, client, mut server) = under_way().await;
    server.say(1000).await.unwrap();
    sleep(SECOND).await;
    drop(client);
    assert_eq!(server.end().await, DirectionEnd::Reset(BODY));
    assert_eq!(codes(&town).await, (Code::SourceReset, Code::SourceReset));
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_resets_both_sides_within_ten_seconds() {
    for finished in ["nobody", "the client", "the server"] {
        let (town, _backend, mut client, mut server) = under_way().await;
        if finished == "the client" {
            client.finish().await;
            assert_eq!(server.end().await, DirectionEnd::Finished(BODY));
        } else if finished == "the server" {
            server.finish().await;
            assert_eq!(client.end().await, DirectionEnd::Finished(BODY));
        }
        let began = Instant::now();
        town.cut(&[town.sites.bank.ip(1)]);
        // Also where only the silent half is left, and nobody says anything.
        if finished != "the server" {
            assert_eq!(client.end().await, DirectionEnd::Reset(BODY), "finished: {finished}");
        }
        if finished != "the client" {
            assert_eq!(server.end().await, DirectionEnd::Reset(BODY), "finished: {finished}");
        }
        sleep(10 * SECOND - began.elapsed()).await;
        assert!(client.say(1).await.is_err() && server.say(1).await.is_err(), "{finished}");
        assert_eq!(codes(&town).await, (Code::ConnectionLost, Code::ConnectionLost));
    }
}

/// The answer's last bytes and its end are lost with the connection: the client must not see an end.
#[tokio::test(start_paused = true)]
async fn an_end_that_did_not_arrive_is_a_reset() {
    let (town, _backend, mut client, mut server) = under_way().await;
    client.finish().await;
    assert_eq!(server.end().await, DirectionEnd::Finished(BODY));
    town.cut(&[town.sites.edge.ip(1)]);
    server.say(1000).await.unwrap();
    drop(server);
    assert_eq!(client.end().await, DirectionEnd::Reset(BODY));
    sleep(10 * SECOND).await;
    assert_eq!(town.bank[0].ended(Direction::Inbound, Code::ConnectionLost), 1);
}
