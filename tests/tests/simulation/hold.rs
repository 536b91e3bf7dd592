//! Streams that wait for the first backend of an export, as a service that scales to zero needs.

use adit_core::code::Code;
use adit_dataplane::flow::Direction;
use adit_tests::sim::party::{DirectionEnd, Party};
use adit_tests::sim::{INTERN, SUPPORT, Town, TownPlan};
use adit_tests::sites::eventually;
use tokio::time::{Duration, Instant, sleep};

use crate::SECOND;

/// A town whose export has no backend, and streams wait for one; and its plan once there is one.
async fn asleep(hold: &str) -> (Town, TownPlan) {
    let awake = TownPlan {
        export: format!("whenEmpty: {hold}"),
        allow: "[{cluster: edge, namespace: agents, serviceAccount: \"*\"}]".to_owned(),
        ..TownPlan::default()
    };
    let plan = TownPlan { backends: "[]".to_owned(), ..awake.clone() };
    let town = Town::start(&plan).await;
    (town, awake)
}

/// A client that has said a little.
async fn asking(town: &Town, from: &str) -> Party {
    let mut client = town.connect(from).await;
    client.say(10).await.unwrap();
    client
}

fn open(town: &Town) -> usize {
    town.bank[0].node.flows.open()
}

#[tokio::test(start_paused = true)]
async fn the_first_request_waits_for_the_first_backend() {
    let (town, awake) = asleep("hold").await;
    let mut client = asking(&town, SUPPORT).await;
    eventually("it waits", SECOND, || open(&town) == 1).await;
    sleep(Duration::from_secs(40)).await;
    assert_eq!(open(&town), 1);
    let backend = town.backend(1);
    town.bank[0].configure(&awake.bank(1));
    let mut server = backend.accept().await;
    server.hear(10).await;
    server.say(1_000).await.unwrap();
    client.hear(1_000).await;
    // From now on there is nothing to wait for.
    let (_client, _server) = town.through(&backend).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_does_not_listen_yet_is_waited_for_too() {
    let (town, awake) = asleep("hold").await;
    let mut client = asking(&town, SUPPORT).await;
    town.bank[0].configure(&awake.bank(1));
    sleep(Duration::from_secs(20)).await;
    let backend = town.backend(1);
    let mut server = backend.accept().await;
    server.hear(10).await;
    server.say(5).await.unwrap();
    client.hear(5).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_longer_than_the_export_says() {
    for (hold, seconds) in [("hold", 60), ("{hold: 5s}", 5)] {
        let (town, _awake) = asleep(hold).await;
        let began = Instant::now();
        let mut client = asking(&town, SUPPORT).await;
        assert_eq!(client.end().await, DirectionEnd::Reset(0));
        let waited = began.elapsed();
        let least = Duration::from_secs(seconds);
        assert!(waited >= least && waited < least + SECOND, "{hold}: {waited:?}");
        assert_eq!(town.bank[0].ended(Direction::Inbound, Code::NoBackend), 1, "at one node, once");
        let (code, reason) = town.edge[0].failure().unwrap();
        assert_eq!(code, Code::NoBackend);
        assert!(reason.contains("for which a stream waits"), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_wait_than_the_export_says_and_whoever_leaves_makes_room() {
    let (town, awake) = asleep("{hold: 60s, streams: 2}").await;
    let first = asking(&town, SUPPORT).await;
    let mut second = asking(&town, INTERN).await;
    eventually("both wait", SECOND, || open(&town) == 2).await;
    let mut third = asking(&town, SUPPORT).await;
    assert_eq!(third.end().await, DirectionEnd::Reset(0));
    let (code, reason) = town.edge[0].failure().unwrap();
    assert_eq!(code, Code::OverLimit);
    assert!(reason.contains("2 streams of edge wait for a backend of agents/bank-bot"), "{reason}");
    first.reset();
    eventually("one is gone", SECOND, || open(&town) == 1).await;
    let _fourth = asking(&town, SUPPORT).await;
    eventually("its place is taken", SECOND, || open(&town) == 2).await;
    let backend = town.backend(1);
    town.bank[0].configure(&awake.bank(1));
    for _ in 0..2 {
        let mut server = backend.accept().await;
        server.hear(10).await;
        server.say(1).await.unwrap();
    }
    second.hear(1).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_loses_its_grant_waits_no_longer() {
    let (town, awake) = asleep("hold").await;
    let mut client = asking(&town, SUPPORT).await;
    eventually("it waits", SECOND, || open(&town) == 1).await;
    let nobody = TownPlan { allow: "[]".to_owned(), backends: "[]".to_owned(), ..awake };
    town.bank[0].configure(&nobody.bank(1));
    assert_eq!(client.end().await, DirectionEnd::Reset(0));
    eventually("nobody waits", SECOND, || open(&town) == 0).await;
}
