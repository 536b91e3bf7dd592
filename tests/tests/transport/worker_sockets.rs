//! A client may move, and its packets find their connection at whichever worker they arrive.

use std::net::SocketAddr;
use std::time::Duration;

use adit_core::snapshot::Class;
use adit_tests::pair::{BANK, EDGE, NodePair, PORT, read_all, stream};
use adit_transport::{DialRequest, QuicConnection, Tuning};
use bytes::Bytes;

/// Where the dialler of a connection really is.
fn source(pair: &NodePair) -> SocketAddr {
    let dialled = |from: &SocketAddr| from.ip() == EDGE && from.port() != PORT;
    pair.network.sent().iter().map(|(_, from, ..)| *from).rfind(dialled).unwrap()
}

async fn carries(edge: &QuicConnection, bank: &QuicConnection) {
    let ((mut send, mut recv), (mut back, mut there)) = stream(edge, bank).await;
    let body = Bytes::from(vec![7; 50_000]);
    send.send(&mut body.clone()).await.unwrap();
    send.finish().unwrap();
    assert_eq!(read_all(&mut there).await.unwrap().len(), body.len());
    back.send(&mut body.clone()).await.unwrap();
    back.finish().unwrap();
    assert_eq!(read_all(&mut recv).await.unwrap().len(), body.len());
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_port_changes_keeps_its_streams() {
    let pair = NodePair::new(Tuning::default(), 2);
    let (edge, bank) = pair.connect().await;
    let ((mut send, mut recv), (mut back, mut there)) = stream(&edge, &bank).await;
    let from = source(&pair);
    assert_eq!(bank.worker().index(), usize::from(from.port() % 2));
    assert_eq!(pair.bank.counters().rerouted, 0);

    for n in 1..=20 {
        // The other worker's socket, then the own one again, and so on.
        let seen = SocketAddr::new(EDGE, from.port() + n);
        pair.network.rebind(from, seen);
        send.send_all(&[7; 3000]).await.unwrap();
        let mut got = 0;
        while got < 3000 {
            got += there.read(&mut [0; 3000]).await.unwrap().unwrap();
        }
        back.send_all(b"answer").await.unwrap();
        assert_eq!(recv.read(&mut [0; 8]).await, Ok(Some(6)));
        assert_eq!(bank.remote(), seen);
    }
    assert!(pair.bank.counters().rerouted >= 20, "{:?}", pair.bank.counters());
    assert_eq!(pair.bank.counters().rerouted_dropped, 0);
    carries(&edge, &bank).await;
}

#[tokio::test(start_paused = true)]
async fn each_worker_has_its_own_connections_and_none_disturbs_another() {
    let pair = NodePair::new(Tuning::default(), 3);
    let mut connections = Vec::new();
    let mut seen = [0; 3];
    for _ in 0..9 {
        let (edge, bank) = pair.connect().await;
        seen[bank.worker().index()] += 1;
        connections.push((edge, bank));
    }
    assert_eq!(seen, [3; 3]);
    for (edge, bank) in &connections {
        carries(edge, bank).await;
    }
    assert_eq!(pair.bank.counters().rerouted, 0);
    let ids: std::collections::HashSet<_> = connections.iter().map(|(_, bank)| bank.id()).collect();
    assert_eq!(ids.len(), 9);
}

#[tokio::test(start_paused = true)]
async fn every_dial_has_a_port_of_its_own() {
    let pair = NodePair::new(Tuning::default(), 1);
    let mut ports = std::collections::HashSet::new();
    for _ in 0..5 {
        let (edge, _bank) = pair.connect().await;
        ports.insert(source(&pair));
        drop(edge);
    }
    assert_eq!(ports.len(), 5);
    pair.edge.idle(Duration::from_secs(60)).await;
    // The sockets went with their connections: the network knows only the two that listen.
    assert_eq!(pair.network.sockets(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_acceptor_knows_the_class_from_the_first_packet() {
    // Retry at once: the class must survive it.
    let mut tuning = Tuning::default();
    for retry_above in [128, 0] {
        tuning.handshakes.retry_above = retry_above;
        let pair = NodePair::new(tuning, 1);
        for class in [Class::Interactive, Class::Bulk] {
            let dial = DialRequest { class, ..pair.dial() };
            let (edge, bank) = pair.try_connect(dial).await;
            let (edge, bank) = (edge.unwrap(), bank.unwrap());
            assert_eq!((edge.class(), bank.class()), (class, class));
            // What may be sent before the reader reads is the lane's window.
            for (from, to) in [(&edge, &bank), (&bank, &edge)] {
                let (mut ours, theirs) = stream(from, to).await;
                let _stall = theirs.1.stall();
                let mut rest = Bytes::from(vec![0; 16 << 20]);
                let sending = ours.0.send(&mut rest);
                assert!(tokio::time::timeout(Duration::from_secs(20), sending).await.is_err());
                let taken = (16 << 20) - rest.len();
                let lane = tuning.for_class(class);
                let window = lane.stream_window.max(lane.max_stream_window) as usize;
                assert!(taken.abs_diff(window) < 4, "{class:?}: {taken}, not {window}");
            }
        }
        let retried = pair.bank.counters().retried;
        assert_eq!(retried > 0, retry_above == 0, "{retried}");
    }
}

#[tokio::test(start_paused = true)]
async fn names_are_resolved_where_the_network_is() {
    let pair = NodePair::new(Tuning::default(), 1);
    pair.network.name("bank.example", [BANK]);
    let net = pair.network.host(EDGE);
    let found = net.resolve("bank.example", PORT).await.unwrap();
    assert_eq!(found, [SocketAddr::new(BANK, PORT)]);
    assert!(net.resolve("nobody.example", PORT).await.is_err());
}
