//! Over the system's sockets, with a runtime and a thread for each worker, as a daemon has them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::snapshot::Class;
use adit_tests::identity::TestCluster;
use adit_tests::pair::{read_all, stream};
use adit_transport::{DialRequest, Endpoints, OsUdpNetwork, QuicConnection, Tuning, Worker};
use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Threads with a current-thread runtime each; they end when this is dropped.
struct WorkerThreads {
    workers: Vec<Worker>,
    _stop: watch::Sender<()>,
}

fn workers(count: u8) -> WorkerThreads {
    let (stop, stopped) = watch::channel(());
    let workers = (0..count)
        .map(|index| {
            let (tell, told) = mpsc::channel();
            let mut stopped = stopped.clone();
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                tell.send(runtime.handle().clone()).unwrap();
                // An error is how it learns that the sender is gone.
                drop(runtime.block_on(stopped.changed()));
            });
            Worker::new(index, told.recv().unwrap())
        })
        .collect();
    WorkerThreads { workers, _stop: stop }
}

struct ConnectedNodes {
    edge: Endpoints,
    bank: Endpoints,
    clusters: (TestCluster, TestCluster),
    _workers: (WorkerThreads, WorkerThreads),
}

fn nodes(listen: &str, bank_workers: u8) -> ConnectedNodes {
    let clusters = (TestCluster::new("edge.example"), TestCluster::new("bank.example"));
    let (edge, bank) =
        (clusters.0.node("e1", &[&clusters.1]), clusters.1.node("b1", &[&clusters.0]));
    let all = (workers(1), workers(bank_workers));
    let bind = |node: &adit_tests::identity::TestNode, workers: &WorkerThreads| {
        let listen = [listen.parse().unwrap()];
        let workers = workers.workers.clone();
        let tuning = Tuning::default();
        Endpoints::bind(Arc::new(OsUdpNetwork), workers, &listen, &node.secret, node.tls(), tuning)
            .unwrap()
    };
    ConnectedNodes { edge: bind(&edge, &all.0), bank: bind(&bank, &all.1), clusters, _workers: all }
}

impl ConnectedNodes {
    async fn connect(&self, address: SocketAddr) -> (QuicConnection, QuicConnection) {
        let trust_domain = self.clusters.1.trust_domain();
        let dial =
            self.edge.dial(0, DialRequest { address, trust_domain, class: Class::Interactive });
        let each = (0..self.bank.workers().len()).map(|n| Box::pin(self.bank.accept(n)));
        let accept = async {
            futures_util::future::select_all(each).await.0.unwrap().accept().await.unwrap()
        };
        let (edge, bank) = tokio::join!(dial, accept);
        (edge.unwrap(), bank)
    }
}

async fn echo(edge: &QuicConnection, bank: &QuicConnection, len: usize) {
    let ((mut send, mut recv), (mut back, mut there)) = stream(edge, bank).await;
    let body: Bytes = (0..len).map(|i| (i % 251) as u8).collect();
    let request = async {
        send.send(&mut body.clone()).await.unwrap();
        send.finish().unwrap();
    };
    let answer = async {
        let mut chunks = vec![Bytes::new(); 32];
        while let Some(n) = there.read_chunks(&mut chunks).await.unwrap() {
            for chunk in &mut chunks[..n] {
                back.send(chunk).await.unwrap();
            }
        }
        back.finish().unwrap();
        back.stopped().await.unwrap();
    };
    let ((), (), got) = tokio::join!(request, answer, read_all(&mut recv));
    assert!(got.unwrap() == body);
}

#[tokio::test]
async fn bytes_survive_real_sockets_and_threads() {
    let nodes = nodes("127.0.0.1:0", 2);
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(nodes.connect(nodes.bank.addresses()[0]).await);
    }
    let mut echoes = JoinSet::new();
    for (edge, bank) in &connections {
        let (edge, bank) = (edge.clone(), bank.clone());
        echoes.spawn(async move { echo(&edge, &bank, 2_000_000).await });
    }
    while let Some(echoed) = echoes.join_next().await {
        echoed.unwrap();
    }
    let counters = nodes.bank.counters();
    assert_eq!((counters.accepted, counters.rerouted), (8, 0), "{counters:?}");
    assert!(counters.dropped.is_some());
    nodes.edge.close(Code::ConnectionUnused, "");
}

/// Acts as a NAT that forgets: from each change on, the client's packets come from another port.
async fn nat(server: SocketAddr, mut change: watch::Receiver<()>, at: UdpSocket) {
    let mut outside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (mut inward, mut outward) = (vec![0; 65536], vec![0; 65536]);
    let mut client = None;
    loop {
        tokio::select! {
            read = at.recv_from(&mut outward) => {
                let (len, from) = read.unwrap();
                client = Some(from);
                outside.send_to(&outward[..len], server).await.unwrap();
            }
            read = outside.recv_from(&mut inward) => {
                let (len, _) = read.unwrap();
                if let Some(client) = client {
                    at.send_to(&inward[..len], client).await.unwrap();
                }
            }
            changed = change.changed() => {
                if changed.is_err() {
                    return;
                }
                outside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_client_behind_a_forgetful_nat_keeps_its_streams_on_two_workers() {
    let nodes = nodes("127.0.0.1:0", 2);
    let (forget, forgotten) = watch::channel(());
    let inside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = inside.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(nat(nodes.bank.addresses()[0], forgotten, inside));
    let (edge, bank) = nodes.connect(address).await;
    let ((mut send, mut recv), (mut back, mut there)) = stream(&edge, &bank).await;

    let mut changes = 0;
    // Which socket a port leads to is the system's choice: change until some led to the other one.
    while nodes.bank.counters().rerouted < 20 {
        forget.send(()).unwrap();
        changes += 1;
        assert!(changes < 500, "{:?}", nodes.bank.counters());
        for _ in 0..3 {
            send.send_all(&[7; 3000]).await.unwrap();
            let mut got = 0;
            while got < 3000 {
                got += there.read(&mut [0; 3000]).await.unwrap().unwrap();
            }
            back.send_all(b"answer").await.unwrap();
            assert_eq!(recv.read(&mut [0; 8]).await, Ok(Some(6)));
        }
    }
    assert_eq!((edge.is_closed(), bank.is_closed()), (None, None));
    echo(&edge, &bank, 1_000_000).await;
}

#[tokio::test]
async fn a_wildcard_takes_both_families() {
    let nodes = nodes("[::]:0", 2);
    let port = nodes.bank.addresses()[0].port();
    for address in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        let (edge, bank) = nodes.connect(address).await;
        assert_eq!(edge.remote(), address);
        assert_eq!(bank.remote().ip(), address.ip());
        echo(&edge, &bank, 10_000).await;
    }
}

#[tokio::test]
async fn names_are_resolved() {
    use adit_transport::UdpNetwork;
    let found = OsUdpNetwork.resolve("localhost", 7843).await.unwrap();
    assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 7843));
    assert!(!found.is_empty());
}

#[tokio::test]
async fn an_address_that_is_taken_is_not_shared_by_mistake() {
    let nodes = nodes("127.0.0.1:0", 2);
    let taken = nodes.bank.addresses()[0];
    let node = nodes.clusters.0.node("e2", &[]);
    let all = workers(2);
    let again = Endpoints::bind(
        Arc::new(OsUdpNetwork),
        all.workers.clone(),
        &[taken],
        &node.secret,
        node.tls(),
        Tuning::default(),
    );
    assert!(again.is_err());
    let within = Duration::from_secs(5);
    nodes.bank.close(Code::ConnectionUnused, "");
    nodes.bank.idle(within).await;
}
