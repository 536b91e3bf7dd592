//! Every connection ends with a reason, and both sides and all streams learn it.

use std::time::Duration;

use adit_core::code::Code;
use adit_tests::pair::{BANK, NodePair, PATH_DELAY, bind, stream};
use adit_transport::endpoint::{CloseReason, ClosedBy};
use adit_transport::{NodeSecret, RecvError, SendError, Tuning};
use bytes::Bytes;
use tokio::time::{Instant, timeout};

fn pair() -> NodePair {
    NodePair::new(Tuning::default(), 1)
}

fn closed(code: Code, text: &str, by: ClosedBy) -> CloseReason {
    CloseReason { code, text: text.into(), by }
}

#[tokio::test(start_paused = true)]
async fn a_close_reaches_the_peer_with_its_code_and_text() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    let ((mut send, _recv), (_back, mut there)) = stream(&edge, &bank).await;
    assert_eq!(bank.is_closed(), None);
    edge.close(Code::Unlinked, "not \x1b[31mred\n");
    assert_eq!(edge.closed().await, closed(Code::Unlinked, "not ?[31mred?", ClosedBy::Us));
    assert_eq!(bank.closed().await, closed(Code::Unlinked, "not ?[31mred?", ClosedBy::Peer));
    let sent = send.send(&mut Bytes::from_static(b"x")).await;
    assert_eq!(sent, Err(SendError::ConnectionLost(Code::Unlinked)));
    assert_eq!(send.stopped().await, Err(SendError::ConnectionLost(Code::Unlinked)));
    let lost = Err(RecvError::ConnectionLost(Code::Unlinked));
    assert_eq!(there.read(&mut [0; 8]).await, lost);
    assert_eq!(there.read(&mut [0; 8]).await, lost);
    assert_eq!(bank.accept_bi().await.unwrap_err().code, Code::Unlinked);
    assert_eq!(bank.open_bi(PATH_DELAY).await.unwrap_err().code(), Code::Unlinked);
    // The first reason stays, whoever closes after.
    bank.close(Code::Internal, "");
    assert_eq!(bank.closed().await.code, Code::Unlinked);
    edge.close(Code::Internal, "");
    assert_eq!(edge.closed().await.code, Code::Unlinked);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_holds_is_closed_as_unused() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    let ((send, recv), _theirs) = stream(&edge, &bank).await;
    drop(edge);
    tokio::time::sleep(10 * PATH_DELAY).await;
    assert_eq!(bank.is_closed(), None, "its streams hold it");
    drop((send, recv));
    assert_eq!(bank.closed().await, closed(Code::ConnectionUnused, "", ClosedBy::Peer));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_lives_and_a_silent_one_ends() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!((edge.is_closed(), bank.is_closed()), (None, None));

    let begun = Instant::now();
    pair.network.set_filter(|_, _| false);
    assert_eq!(edge.closed().await, closed(Code::ConnectionLost, "", ClosedBy::Silence));
    assert_eq!(bank.closed().await, closed(Code::ConnectionLost, "", ClosedBy::Silence));
    let tuning = Tuning::default();
    let noticed = begun.elapsed();
    assert!(noticed <= tuning.idle_timeout + tuning.keep_alive, "{noticed:?}");
    assert!(noticed > tuning.idle_timeout - tuning.keep_alive, "{noticed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cut_shorter_than_the_idle_timeout_breaks_nothing() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    let ((mut send, _recv), (_back, mut there)) = stream(&edge, &bank).await;
    pair.network.set_filter(|_, _| false);
    send.send(&mut Bytes::from(vec![7; 20_000])).await.unwrap();
    send.finish().unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    pair.network.set_filter(|_, _| true);
    assert_eq!(adit_tests::pair::read_all(&mut there).await.unwrap().len(), 20_000);
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_noticed_with_the_secret_and_only_with_it() {
    for (secret, noticed) in [([7; 32], true), ([8; 32], false)] {
        let pair = pair();
        let (edge, bank) = pair.connect().await;
        let ((mut send, _recv), theirs) = stream(&edge, &bank).await;
        // kill -9: nothing is sent any more, and the next process has the address.
        let NodePair {
            network, bank: endpoints, mut nodes, edge: _edge, clusters: _clusters, ..
        } = pair;
        network.set_filter(|(_, from, ..), _| from.ip() != BANK);
        endpoints.close(Code::Internal, "");
        drop((bank, theirs));
        endpoints.idle(Duration::from_secs(5)).await;
        drop(endpoints);
        tokio::time::sleep(PATH_DELAY).await;
        nodes.1.secret = NodeSecret::from_bytes(secret);
        let _again = bind(&network, BANK, &nodes.1, 1, Tuning::default());
        network.set_filter(|_, _| true);

        send.send(&mut Bytes::from(vec![7; 5000])).await.unwrap();
        let ended = timeout(4 * PATH_DELAY, edge.closed()).await;
        assert_eq!(ended.is_ok(), noticed, "{ended:?}");
        if let Ok(ended) = ended {
            assert_eq!((ended.code, ended.by), (Code::PeerRestarted, ClosedBy::Peer));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_end_has_a_bound() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    edge.close(Code::ConnectionUnused, "");
    bank.closed().await;
    pair.edge.idle(Duration::from_secs(3)).await;

    let (edge, _bank) = pair.connect().await;
    pair.network.set_filter(|_, _| false);
    edge.close(Code::ConnectionUnused, "");
    let begun = Instant::now();
    pair.edge.idle(Duration::from_millis(1)).await;
    assert_eq!(begun.elapsed(), Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn closing_the_endpoints_ends_what_was_accepted_and_takes_nothing_new() {
    let pair = pair();
    let (edge, _bank) = pair.connect().await;
    pair.bank.close(Code::Draining, "upgrade");
    assert_eq!(edge.closed().await, closed(Code::Draining, "upgrade", ClosedBy::Peer));
    assert!(pair.bank.accept(0).await.is_none());
    assert!(pair.edge.dial(0, pair.dial()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn figures_are_told() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    let ((mut send, _recv), (_back, mut there)) = stream(&edge, &bank).await;
    send.send(&mut Bytes::from(vec![7; 100_000])).await.unwrap();
    send.finish().unwrap();
    adit_tests::pair::read_all(&mut there).await.unwrap();
    let (edge, bank) = (edge.stats(), bank.stats());
    assert!(edge.rtt >= 2 * PATH_DELAY && edge.rtt < 4 * PATH_DELAY, "{edge:?}");
    assert!(edge.bytes.0 > 100_000 && bank.bytes.1 > 100_000, "{edge:?} {bank:?}");
    assert!(edge.sent > 70 && edge.datagrams.0 > 70 && bank.datagrams.1 > 70, "{edge:?} {bank:?}");
    assert_eq!(edge.lost, 0);
    assert!(edge.mtu >= 1200 && edge.window > 0);
}
