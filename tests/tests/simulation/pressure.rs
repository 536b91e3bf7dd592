//! Readers that stall: what they may hold, and whom they may hold up, which is nobody.

use adit_core::code::Code;
use adit_dataplane::flow::Direction;
use adit_tests::sim::party::{BackendListener, DirectionEnd, Party};
use adit_tests::sim::whole::Whole;
use adit_tests::sim::{SUPPORT, Town, TownPlan, import};
use tokio::time::{Instant, sleep};

use crate::{MS, SECOND};

const KIB: u64 = 1024;
/// An interactive stream's window.
const WINDOW: u64 = 256 * KIB;
/// A window, what each workload's TCP holds, and what a node has read and not yet sent.
const HELD: std::ops::RangeInclusive<u64> = WINDOW..=WINDOW + 3 * 64 * KIB;

/// A stream whose server never reads, with as much in it as goes in.
async fn stalled(town: &Town, backend: &BackendListener, at: u8) -> (Party, Party) {
    let mut client = Party::connect(&town.pods, SUPPORT, import(at)).await;
    let server = backend.accept().await;
    client.fill().await;
    (client, server)
}

/// Bytes that are charged to stalled streams, and how many those are.
fn charged(node: &Whole) -> (usize, usize) {
    let charges = node.node.links.buffers().charges();
    (charges.stalled, charges.streams)
}

/// Sends much both ways, and says whether that took no more than a second.
async fn goes_on(town: &Town, backend: &BackendListener) -> bool {
    const MUCH: u64 = 400_000;
    let began = Instant::now();
    let (mut client, mut server) = town.through(backend).await;
    tokio::join!(async { client.say(MUCH).await.unwrap() }, server.hear(MUCH));
    tokio::join!(async { server.say(MUCH).await.unwrap() }, client.hear(MUCH));
    began.elapsed() < SECOND
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stalls_holds_a_window_and_loses_nothing() {
    let town = Town::start(&TownPlan::default()).await;
    let backend = town.backend(1);
    for by_client in [true, false] {
        let (client, server) = town.through(&backend).await;
        let (mut writer, mut reader) = if by_client { (client, server) } else { (server, client) };
        let said = writer.fill().await;
        assert!(HELD.contains(&said), "{said} bytes under way");
        let stalls = if by_client { &town.bank[0] } else { &town.edge[0] };
        let window = usize::try_from(WINDOW).unwrap();
        assert_eq!(charged(stalls), (window, 1), "charged where it stalls");
        assert!(goes_on(&town, &backend).await, "another stream waits");
        sleep(3600 * SECOND).await;
        writer.finish().await;
        assert_eq!(reader.end().await, DirectionEnd::Finished(said));
        assert_eq!(charged(stalls), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_reader_of_the_peers_is_charged_to_it_until_it_goes() {
    let limits = "{bulkWindow: 1MiB, peerBuffer: 1MiB, processBuffer: 16MiB}".to_owned();
    let town = Town::start(&TownPlan { limits, ..TownPlan::default() }).await;
    let backend = town.backend(1);
    let mut all = Vec::new();
    for nth in 1..=3 {
        let (client, mut server) = town.through(&backend).await;
        server.fill().await;
        sleep(2 * SECOND).await;
        let (bytes, streams) = charged(&town.bank[0]);
        assert!(streams == nth && (1..=nth << 17).contains(&bytes), "{bytes} bytes of {streams}");
        all.push((client, server));
    }
    for (mut client, mut server) in all {
        let said = server.fill_for(MS).await;
        server.finish().await;
        assert_eq!(client.end().await, DirectionEnd::Finished(said));
    }
    sleep(2 * SECOND).await;
    assert_eq!(charged(&town.bank[0]), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn many_that_stall_do_not_stop_the_others_of_their_connection() {
    let town = Town::start(&TownPlan::default()).await;
    let backend = town.backend(1);
    let mut all = Vec::new();
    for _ in 0..40 {
        all.push(stalled(&town, &backend, 1).await);
    }
    assert_eq!(town.edge[0].node.links.status().links[0].connections.len(), 1);
    assert!(goes_on(&town, &backend).await, "another stream waits for forty that stall");
}

#[tokio::test(start_paused = true)]
async fn beyond_a_peers_budget_the_longest_stalled_of_it_ends_and_the_others_live() {
    let limits = "{bulkWindow: 1MiB, peerBuffer: 1MiB, processBuffer: 16MiB}".to_owned();
    let town = Town::start(&TownPlan { limits, ..TownPlan::default() }).await;
    let backend = town.backend(1);
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(stalled(&town, &backend, 1).await);
    }
    sleep(3600 * SECOND).await;
    assert_eq!(
        town.bank[0].node.flows.ended().len(),
        0,
        "within the budget they may stall for ever"
    );
    all.push(stalled(&town, &backend, 1).await);
    let (mut client, mut server) = all.remove(0);
    assert_eq!(client.end().await, DirectionEnd::Reset(0));
    assert!(matches!(server.end().await, DirectionEnd::Reset(_)));
    assert_eq!(town.bank[0].ended(Direction::Inbound, Code::OverBudget), 1);
    assert_eq!(town.edge[0].ended(Direction::Outbound, Code::OverBudget), 1);
    for (mut client, mut server) in all {
        let said = client.fill().await;
        client.finish().await;
        assert_eq!(server.end().await, DirectionEnd::Finished(said));
    }
}

#[tokio::test(start_paused = true)]
async fn the_nodes_of_a_peer_share_its_budget_and_the_longest_stalled_pays() {
    let limits = "{bulkWindow: 1MiB, peerBuffer: 1MiB, processBuffer: 8MiB}".to_owned();
    let town = Town::start(&TownPlan { nodes: (2, 1), limits, ..TownPlan::default() }).await;
    let backend = town.backend(1);
    let (mut oldest, _server) = stalled(&town, &backend, 2).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(stalled(&town, &backend, 1).await);
    }
    assert_eq!(town.bank[0].node.flows.ended().len(), 0);
    others.push(stalled(&town, &backend, 1).await);
    assert_eq!(oldest.end().await, DirectionEnd::Reset(0));
    assert_eq!(town.edge[1].ended(Direction::Outbound, Code::OverBudget), 1);
    assert_eq!(town.edge[0].node.flows.ended().len(), 0);
    drop(others);
}

/// Two towns 50 ms apart.
async fn far_apart() -> Town {
    Town::start(&TownPlan { delay: 25 * MS, ..TownPlan::default() }).await
}

#[tokio::test(start_paused = true)]
async fn one_stream_carries_over_a_long_path_what_tcp_would() {
    const MUCH: u64 = 16_000_000;
    let town = far_apart().await;
    let backend = town.backend(1);
    for is_up in [true, false] {
        let (client, server) = town.through(&backend).await;
        let (mut writer, mut reader) = if is_up { (client, server) } else { (server, client) };
        let began = Instant::now();
        tokio::join!(async { writer.say(MUCH).await.unwrap() }, reader.hear(MUCH));
        let took = began.elapsed();
        // With a window that stays at what it is at first: 3.1 seconds.
        assert!(took < 3 * SECOND / 2, "{took:?} for 16 MB");
        // A reader that was fast and stalls holds what its window has become, and is charged all of it.
        let said = writer.fill().await - MUCH;
        let node = if is_up { &town.bank[0] } else { &town.edge[0] };
        let (bytes, streams) = charged(node);
        assert_eq!(streams, 1);
        let held = said - HELD.end() + WINDOW;
        assert!(held > 4 * WINDOW && bytes as u64 >= held, "{bytes} charged, {held} held");
        assert!(goes_on(&town, &backend).await, "another stream waits");
    }
}

#[tokio::test(start_paused = true)]
async fn many_slow_readers_on_a_long_path_stay_within_the_budget_and_none_is_reset() {
    const FIRST: u64 = 300_000;
    let town = far_apart().await;
    let backend = town.backend(1);
    let mut all = Vec::new();
    for _ in 0..80 {
        let (mut client, mut server) = town.through(&backend).await;
        // Fast at first.
        tokio::join!(async { server.say(FIRST).await.unwrap() }, client.hear(FIRST));
        server.fill_for(SECOND).await;
        all.push((client, server));
    }
    assert!(goes_on(&town, &backend).await, "another stream waits for readers that stall");
    let (bytes, streams) = charged(&town.edge[0]);
    assert!(streams == 80 && bytes <= 32 << 20, "{streams} streams, {bytes} bytes");
    for (mut client, mut server) in all {
        let said = server.fill_for(MS).await;
        server.finish().await;
        assert_eq!(client.end().await, DirectionEnd::Finished(said));
    }
    assert_eq!(town.edge[0].ended(Direction::Outbound, Code::OverBudget), 0);
}
