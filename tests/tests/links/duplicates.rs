//! Two living processes that have one node's name, as after an identity folder was copied.

use adit_core::routing::connections::Unusable;
use adit_core::snapshot::Class;
use adit_tests::sites::{RunningNode, Site, eventually, start};
use adit_transport::Tuning;
use adit_transport::links::{ConnectionStatus, LinkSettings};

use crate::{LinkWorld, SECOND, two};

/// The living connections of `of` with its first linked cluster, by the last byte of the peer's boot ID.
fn living(of: &RunningNode, boot: u8) -> Vec<ConnectionStatus> {
    let all = of.links.status().links.remove(0).connections.into_iter();
    let lives = |c: &ConnectionStatus| matches!(c.unusable, None | Some(Unusable::OlderBoot));
    all.filter(|c| c.peer.boot.0[15] == boot).filter(lives).collect()
}

/// Another process with the name of a node of `bank`, at 10.0.2.9 and with boot ID 9.
fn copy(world: &LinkWorld, edge: &Site, bank: &Site, n: u8, seeds: &[u8]) -> RunningNode {
    let identity = bank.authority.node(bank.node(n).as_str(), &[&edge.authority]);
    let mut believes = bank.snapshot(n, &[edge.link(seeds)]);
    believes.local.advertise = vec![bank.address(9)];
    let net = world.network.host(bank.ip(9));
    start(net, &identity, believes, 9, LinkSettings::default(), Tuning::default())
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_doubled_is_told_by_its_siblings() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 4);
    let e1 = world.run(&edge, 1, &[(&bank, &[1, 2, 3, 4])]);
    let banks = [1, 2, 3, 4].map(|n| world.run(&bank, n, &[(&edge, &[1])]));
    eventually("met", 40 * SECOND, || banks.iter().all(|b| b.view(&edge).is_some())).await;
    tokio::time::sleep(20 * SECOND).await;
    // One that is no hub keeps a connection with those that are.
    let n = (1..=4).find(|n| !banks[usize::from(n - 1)].links.status().links[0].hub).unwrap();
    let original = &banks[usize::from(n - 1)];
    let double = |of: &RunningNode| of.links.status().own_duplicate.map(|double| double.boot.0[15]);
    tokio::time::sleep(120 * SECOND).await;
    assert!(banks.iter().all(|b| double(b).is_none()));
    let copy = copy(&world, &edge, &bank, n, &[1]);
    eventually("told", 120 * SECOND, || (double(original), double(&copy)) == (Some(9), Some(n)))
        .await;
    // The others have their names for themselves.
    let others = banks.iter().filter(|b| !std::ptr::eq(*b, original)).chain([&e1]);
    assert!(others.clone().all(|b| double(b).is_none()));
    copy.links.drain(SECOND).await;
    tokio::time::sleep(125 * SECOND).await;
    assert_eq!(double(original), None, "it is over");
}

#[tokio::test(start_paused = true)]
async fn a_doubled_node_without_siblings_looks_where_a_linked_cluster_says() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let _e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let original = world.run(&bank, 1, &[(&edge, &[1])]);
    let double = |of: &RunningNode| of.links.status().own_duplicate.map(|double| double.boot.0[15]);
    tokio::time::sleep(100 * SECOND).await;
    assert_eq!(double(&original), None);
    let copy = copy(&world, &edge, &bank, 1, &[1]);
    eventually("told", 120 * SECOND, || (double(&original), double(&copy)) == (Some(9), Some(1)))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_on_another_machine_is_named_by_both_sides_within_ten_seconds() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let original = world.run(&bank, 1, &[(&edge, &[1])]);
    let named = || e1.links.status().links.remove(0).coexisting.remove(&bank.node(1));
    tokio::time::sleep(100 * SECOND).await;
    assert_eq!(named(), None);
    let _copy = copy(&world, &edge, &bank, 1, &[1]);
    // Status is asked once a second.
    eventually("named", 6 * SECOND, || named().is_some()).await;
    assert_eq!(named().unwrap().iter().map(|boot| boot.0[15]).collect::<Vec<_>>(), [9, 1]);
    let double = || original.links.status().own_duplicate.map(|double| double.boot.0[15]);
    eventually("told", 3 * SECOND, || double() == Some(9)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_started_again_at_another_address_is_no_copy() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let _before = world.run(&bank, 1, &[(&edge, &[1])]);
    tokio::time::sleep(100 * SECOND).await;
    // Without a word: its connections stay until their silence is noticed.
    world.cut(&[bank.ip(1)]);
    let _after = copy(&world, &edge, &bank, 1, &[1]);
    let mut beside = 0;
    for _ in 0..300 {
        beside += u32::from(!living(&e1, 1).is_empty() && !living(&e1, 9).is_empty());
        assert!(e1.links.status().links.remove(0).coexisting.is_empty());
        tokio::time::sleep(SECOND / 10).await;
    }
    assert!(beside > 40, "{beside}");
}

#[tokio::test(start_paused = true)]
async fn two_processes_that_take_turns_are_noticed_though_they_are_never_there_together() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let _original = world.run(&bank, 1, &[(&edge, &[1])]);
    let turns = || e1.links.status().links.remove(0).alternating;
    eventually("met", 10 * SECOND, || !living(&e1, 1).is_empty()).await;
    world.cut(&[bank.ip(1)]);
    eventually("lost", 20 * SECOND, || living(&e1, 1).is_empty()).await;
    let _copy = copy(&world, &edge, &bank, 1, &[1]);
    for (gone, boot) in [(1, 9), (9, 1), (1, 9)] {
        assert!(turns().is_empty());
        world.cut(&[bank.ip(gone)]);
        eventually("its turn", 60 * SECOND, || !living(&e1, boot).is_empty()).await;
        eventually("the other's end", 20 * SECOND, || living(&e1, boot ^ 8).is_empty()).await;
        tokio::time::sleep(61 * SECOND).await;
    }
    let pair = turns().remove(&bank.node(1)).map(|pair| pair.map(|boot| boot.0[15]));
    assert_eq!(pair, Some([9, 1]));
}

#[tokio::test(start_paused = true)]
async fn new_streams_go_to_the_process_that_came_last_whoever_connects_again() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let older = world.run(&bank, 1, &[(&edge, &[1])]);
    eventually("met", 10 * SECOND, || living(&e1, 1).len() > 1).await;
    // The same name elsewhere.
    let newer = copy(&world, &edge, &bank, 1, &[1]);
    eventually("met, too", 10 * SECOND, || !living(&e1, 9).is_empty()).await;
    tokio::time::sleep(60 * SECOND).await;
    // Both stay, which is how status knows; neither is told to go.
    assert!(!living(&e1, 1).is_empty() && !living(&e1, 9).is_empty());

    let (before, served) = (older.echo.served().len(), newer.echo.served().len());
    let count = living(&e1, 1).len();
    older.links.open(0, &edge.name, &edge.node(1), Class::Bulk).await.unwrap();
    eventually("the older one connects again", 10 * SECOND, || living(&e1, 1).len() > count).await;
    for _ in 0..20 {
        e1.echo(&bank, &bank.node(1), b"who?").await.unwrap();
    }
    assert_eq!(older.echo.served().len(), before);
    assert_eq!(newer.echo.served().len(), served + 20);

    // Once one of them is gone, the other serves.
    assert_eq!(newer.links.drain(SECOND).await, 0);
    e1.echo(&bank, &bank.node(1), b"and now?").await.unwrap();
    assert_eq!(older.echo.served().len(), before + 1);
}
