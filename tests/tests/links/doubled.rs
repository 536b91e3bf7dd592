//! Two living processes that have one node's name, as after an identity folder was copied.

use adit_core::choose::connections::Passed;
use adit_core::snapshot::Class;
use adit_tests::sites::{Running, eventually, start};
use adit_transport::Tuning;
use adit_transport::links::{ConnectionStatus, Settings};

use crate::{SECOND, World, two};

/// The living connections of `of` with its first linked cluster, by the last byte of the peer's boot ID.
fn living(of: &Running, boot: u8) -> Vec<ConnectionStatus> {
    let all = of.links.status().links.remove(0).connections.into_iter();
    let lives = |c: &ConnectionStatus| matches!(c.passed, None | Some(Passed::OlderBoot));
    all.filter(|c| c.peer.boot.0[15] == boot).filter(lives).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_new_goes_to_the_process_that_came_last_whoever_connects_again() {
    let world = World::new();
    let (edge, bank) = two(1, 1);
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let older = world.run(&bank, 1, &[(&edge, &[1])]);
    eventually("met", 10 * SECOND, || living(&e1, 1).len() > 1).await;
    // The same name elsewhere.
    let identity = bank.authority.node(bank.node(1).as_str(), &[&edge.authority]);
    let mut believes = bank.snapshot(1, &[edge.link(&[1])]);
    believes.this.advertise = vec![bank.address(9)];
    let net = world.network.host(bank.ip(9));
    let newer = start(net, &identity, believes, 9, Settings::default(), Tuning::default());
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
