//! The transport's lower half, on a network in memory and a paused clock.
//!
//! Two nodes of two clusters that believe each other, unless a test says otherwise.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it must be")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_core::snapshot::Class;
use adit_tests::identity::{Cluster, Node};
use adit_tests::net::memory::Memory;
use adit_transport::{Connection, Dial, Endpoints, Tuning, Worker};
use bytes::Bytes;

const EDGE: &str = "10.0.1.1";
const BANK: &str = "10.0.2.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

struct Pair {
    network: Memory,
    edge: Endpoints,
    bank: Endpoints,
    clusters: (Cluster, Cluster),
    nodes: (Node, Node),
}

fn endpoints(
    network: &Memory,
    address: &str,
    node: &Node,
    workers: u8,
    tuning: Tuning,
) -> Endpoints {
    let workers = (0..workers).map(|n| Worker::new(n, tokio::runtime::Handle::current())).collect();
    let listen = SocketAddr::new(ip(address), 7843);
    Endpoints::bind(network.host(ip(address)), workers, &[listen], &node.secret, node.tls(), tuning)
        .unwrap()
}

fn pair_with(tuning: Tuning, workers: u8) -> Pair {
    let network = Memory::new(Duration::from_millis(10));
    let clusters = (Cluster::new("edge.example"), Cluster::new("bank.example"));
    let nodes = (clusters.0.node("e1", &[&clusters.1]), clusters.1.node("b1", &[&clusters.0]));
    Pair {
        edge: endpoints(&network, EDGE, &nodes.0, 1, tuning),
        bank: endpoints(&network, BANK, &nodes.1, workers, tuning),
        network,
        clusters,
        nodes,
    }
}

fn pair() -> Pair {
    pair_with(Tuning::default(), 1)
}

impl Pair {
    fn dial(&self) -> Dial<'_> {
        Dial {
            address: self.bank.addresses()[0],
            trust_domain: self.clusters.1.trust_domain(),
            class: Class::Interactive,
        }
    }

    async fn connect(&self) -> (Connection, Connection) {
        let accept = async { self.bank.accept(0).await.unwrap().accept().await.unwrap() };
        let (dialled, accepted) = tokio::join!(self.edge.dial(0, self.dial()), accept);
        (dialled.unwrap(), accepted)
    }
}

#[tokio::test(start_paused = true)]
async fn both_sides_know_each_other_and_carry_bytes() {
    let pair = pair();
    let (edge, bank) = pair.connect().await;
    assert_eq!(edge.peer().as_str(), "spiffe://bank.example/adit/node/b1");
    assert_eq!(bank.peer().as_str(), "spiffe://edge.example/adit/node/e1");
    assert_eq!((edge.dialled(), bank.dialled()), (true, false));
    assert_eq!(edge.remote(), pair.bank.addresses()[0]);

    let body = Bytes::from(vec![7; 300_000]);
    let send = async {
        let (mut send, mut recv) = edge.open_bi(Duration::from_secs(1)).await.unwrap();
        send.send(&mut body.clone()).await.unwrap();
        send.finish().unwrap();
        let stopped = send.stopped();
        let mut got = Vec::new();
        while let Some(chunk) = recv.read_chunk(usize::MAX).await.unwrap() {
            got.extend_from_slice(&chunk);
        }
        assert_eq!(stopped.await, Ok(()));
        got
    };
    let echo = async {
        let (mut send, mut recv) = bank.accept_bi().await.unwrap();
        let mut chunks = vec![Bytes::new(); 32];
        while let Some(n) = recv.read_chunks(&mut chunks).await.unwrap() {
            for chunk in &mut chunks[..n] {
                send.send(chunk).await.unwrap();
            }
        }
        send.finish().unwrap();
        assert_eq!(send.stopped().await, Ok(()));
    };
    let (got, ()) = tokio::join!(send, echo);
    assert!(got == body);
    let _ = (Arc::new(&pair.nodes), &pair.network);
}
