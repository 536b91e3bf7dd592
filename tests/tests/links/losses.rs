//! What is said of a link once a connection that it had is gone.

use adit_tests::sites::{Running, eventually};
use adit_transport::links::{LinkState, LinkStatus};

use crate::{SECOND, World, two};

fn link(of: &Running) -> LinkStatus {
    of.links.status().links.remove(0)
}

fn reason(of: &Running) -> String {
    link(of).reason.map(|(_, text)| text).unwrap_or_default()
}

async fn up(of: &Running) {
    eventually("up", 40 * SECOND, || link(of).state == LinkState::Up).await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_was_lost_is_missing_for_the_reason_for_which_it_was_lost() {
    let world = World::new();
    let (edge, bank) = two(1, 2);
    let banks = [1, 2].map(|n| world.run(&bank, n, &[(&edge, &[])]));
    let e1 = world.run(&edge, 1, &[(&bank, &[1, 2])]);
    up(&e1).await;
    tokio::time::sleep(60 * SECOND).await;
    world.cut(&[bank.ip(1)]);
    let missing = |n| !e1.links.connected(&bank.name).contains(&bank.node(n));
    eventually("lost", 10 * SECOND, || missing(1)).await;
    assert_eq!(link(&e1).state, LinkState::Degraded);
    let text = reason(&e1);
    let expected = "hub b1 of bank is not connected: its connection ended 0 s ago: nothing heard";
    assert!(text.contains(expected), "{text}");
    world.cut(&[]);
    up(&e1).await;
    let notice = async {
        eventually("leaves", SECOND, || missing(2)).await;
        assert_eq!(link(&e1).state, LinkState::Degraded);
        let expected = "hub b2 of bank is not connected: it said 0 s ago that it is going away";
        assert_eq!(reason(&e1), expected);
    };
    tokio::join!(banks[1].links.drain(SECOND), notice);
    let notice = async {
        eventually("leaves", SECOND, || missing(1)).await;
        assert_eq!(reason(&e1), "this node is going away");
    };
    tokio::join!(e1.links.drain(SECOND), notice);
}
