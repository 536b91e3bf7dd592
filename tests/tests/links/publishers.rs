//! Peers whose view is nonsense, too old, or says that every node of theirs is followed by another.

use std::sync::Arc;

use adit_core::code::Code;
use adit_core::wire::control::ControlMessage;
use adit_core::wire::state::StateMessage;
use adit_tests::sites::eventually;
use bytes::BytesMut;

use super::hostile::{Stranger, control, open, state, victim};
use crate::{LinkWorld, SECOND, two};

#[tokio::test(start_paused = true)]
async fn a_publisher_that_talks_nonsense_is_left_and_a_view_is_kept() {
    let world = LinkWorld::new();
    let (e1, edge, stranger) = victim(&world);
    let quic = stranger.dial(&edge).await;
    let _control = open(&quic, &control(&ControlMessage::Hello(stranger.hello()))).await;
    // The node asks us for our view, since we are the only one it hears.
    let told = [
        state(&StateMessage::Begin { epoch: 5, replaces: true }),
        state(&StateMessage::Node("b1".parse().unwrap(), vec![])),
        state(&StateMessage::Mark { sequence: 1, age_ms: 0, lost: false }),
    ];
    let view: Vec<u8> = told.iter().flat_map(|m| m[1..].to_vec()).collect();
    let (mut send, mut recv) = quic.accept_bi().await.unwrap();
    assert_eq!(recv.read_chunk(999).await.unwrap().unwrap()[0], 1);
    send.send_all(&view).await.unwrap();
    eventually("taken", SECOND, || e1.view(&stranger.site).is_some()).await;
    // Marks without a change make it younger, and wake nobody, however they are numbered.
    let mut views = e1.links.views();
    views.mark_unchanged();
    tokio::time::sleep(SECOND).await;
    let mark = StateMessage::Mark { sequence: 2, age_ms: 0, lost: false };
    send.send_all(&state(&mark)[1..]).await.unwrap();
    tokio::time::sleep(SECOND / 2).await;
    assert!(e1.view(&stranger.site).unwrap().age() < SECOND);
    assert!(!views.has_changed().unwrap());
    send.send_all(b"\x0f\x00").await.unwrap();
    let stopped = send.stopped().await.unwrap_err();
    assert_eq!(stopped.code(), Code::ProtocolError);
    assert_eq!(e1.view(&stranger.site).unwrap().view.nodes.len(), 1);
    // It asks again, after a while, and from the beginning.
    let (mut send, mut recv) = quic.accept_bi().await.unwrap();
    let again = recv.read_chunk(999).await.unwrap().unwrap();
    let Ok(Some((Some(StateMessage::Subscribe(again)), _))) = StateMessage::decode(&again[1..])
    else {
        panic!()
    };
    assert_eq!(again.have, None);
    // A mark before anything began is nonsense, too.
    send.send_all(&told[2][1..]).await.unwrap();
    assert_eq!(send.stopped().await.unwrap_err().code(), Code::ProtocolError);
    assert!(quic.is_closed().is_none(), "streams for data are not the worse for it");
}

/// The messages of a publisher that has one node and whose view is so old.
fn told(node: &str, age_ms: u64) -> Vec<u8> {
    let messages = [
        state(&StateMessage::Begin { epoch: 5, replaces: true }),
        state(&StateMessage::Node(node.parse().unwrap(), vec![])),
        state(&StateMessage::Mark { sequence: 1, age_ms, lost: false }),
    ];
    messages.iter().flat_map(|m| m[1..].to_vec()).collect()
}

#[tokio::test(start_paused = true)]
async fn an_older_view_does_not_take_a_younger_ones_place() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 2);
    let bank = Arc::new(bank);
    let e1 = world.run(&edge, 1, &[(&bank, &[])]);
    let connect = async |n: u8| {
        let stranger = Stranger::new(&world, &bank, n, &edge);
        let quic = stranger.dial(&edge).await;
        let control = open(&quic, &control(&ControlMessage::Hello(stranger.hello()))).await;
        (quic, control, stranger)
    };
    let known = || e1.view(&bank).map(|v| v.view.nodes.keys().next().unwrap().to_string());
    let first = connect(1).await;
    let (mut send, _recv) = first.0.accept_bi().await.unwrap();
    send.send_all(&told("young", 20_000)).await.unwrap();
    eventually("taken", SECOND, || known().as_deref() == Some("young")).await;

    let second = connect(2).await;
    first.0.close(Code::ConnectionUnused, "");
    let (mut send, _recv) = second.0.accept_bi().await.unwrap();
    send.send_all(&told("old", 40_000)).await.unwrap();
    assert!(send.stopped().await.is_err(), "left, since it knows nothing new enough");
    assert_eq!(known().as_deref(), Some("young"), "what we knew was younger");

    tokio::time::sleep(25 * SECOND).await;
    assert!(e1.view(&bank).unwrap().age() > 40 * SECOND);
    let taken = async {
        loop {
            let (mut send, _recv) = second.0.accept_bi().await.unwrap();
            // It may have been given up while we slept.
            if send.send_all(&told("old", 40_000)).await.is_ok() {
                assert!(send.stopped().await.is_err(), "still not new enough to stay");
            }
        }
    };
    tokio::select! {
        () = taken => {}
        () = eventually("taken", 5 * SECOND, || known().as_deref() == Some("old")) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_says_that_all_its_nodes_are_followed_does_not_have_us_dial_all_at_once() {
    const NODES: usize = 100;
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let bank = Arc::new(bank);
    // It has a seed, so that what the view announces is for us to dial.
    let e1 = world.run(&edge, 1, &[(&bank, &[1])]);
    let mut said = Vec::new();
    for n in 0..NODES {
        let stranger = Stranger::named(&world, &bank, 1, &format!("b{n}"), &edge);
        let quic = stranger.dial(&edge).await;
        let (send, recv) = open(&quic, &control(&ControlMessage::Hello(stranger.hello()))).await;
        if n == 0 {
            let mut view = state(&StateMessage::Begin { epoch: 5, replaces: true }).to_vec();
            for node in 0..NODES {
                // Where nobody answers.
                let node = StateMessage::Node(
                    format!("b{node}").parse().unwrap(),
                    vec![bank.address(200)],
                );
                view.extend_from_slice(&state(&node)[1..]);
            }
            let mark = StateMessage::Mark { sequence: 1, age_ms: 0, lost: false };
            view.extend_from_slice(&state(&mark)[1..]);
            let (mut publish, asked) = quic.accept_bi().await.unwrap();
            publish.send_all(&view[1..]).await.unwrap();
            eventually("taken", SECOND, || e1.view(&bank).is_some()).await;
            said.push((quic.clone(), publish, asked));
        }
        said.push((quic, send, recv));
    }
    tokio::time::sleep(4 * SECOND).await;
    let connected = || e1.links.connected(&bank.name).len();
    assert_eq!(connected(), NODES);
    let attempts = || e1.links.status().links[0].dials.attempts;
    let before = attempts();
    let mut go_away = BytesMut::new();
    ControlMessage::GoAway { code: Code::Draining, retry_after_ms: 0 }.encode(&mut go_away);
    for (_, send, _) in said.iter_mut().skip(1) {
        send.send_all(&go_away).await.unwrap();
    }
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(connected(), 0, "all are left");
    let dialled = attempts() - before;
    assert!((10..40).contains(&dialled), "{dialled} dials");
}
