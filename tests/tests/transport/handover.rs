//! Processes of one node that follow each other at one UDP address, over the system's own sockets.
//!
//! Each [`Generation`] stands for a process: it has a thread and endpoints of its own, and shares nothing with
//! the others but what was handed over and the node's secret.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use adit_core::code::Code;
use adit_core::snapshot::Class;
use adit_core::spiffe::TrustDomain;
use adit_tests::identity::{TestCluster, TestNode};
use adit_tests::pair::read_all;
use adit_transport::endpoint::{DialError, UdpInheritance};
use adit_transport::{DialRequest, Endpoints, OsUdpNetwork, QuicConnection, Tuning, Worker};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// A process of bank's node: it answers every stream with its name and what it reads.
struct Generation {
    endpoints: Endpoints,
    accepted: Arc<AtomicU64>,
    runtime: Option<Runtime>,
}

/// As a process that dies: all stops where it is, and its peers hear nothing.
impl Drop for Generation {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Generation {
    fn new(
        node: &TestNode,
        name: u8,
        workers: u8,
        listen: SocketAddr,
        inherited: Option<UdpInheritance>,
    ) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let runtimes = (0..workers).map(|n| Worker::new(n, runtime.handle().clone())).collect();
        let endpoints = Endpoints::bind_after(
            Arc::new(OsUdpNetwork),
            runtimes,
            &[listen],
            &node.secret,
            node.tls(),
            Tuning::default(),
            inherited,
        )
        .unwrap();
        let accepted = Arc::new(AtomicU64::new(0));
        for worker in 0..usize::from(workers) {
            runtime.spawn(serve(endpoints.clone(), worker, name, Arc::clone(&accepted)));
        }
        Self { endpoints, accepted, runtime: Some(runtime) }
    }

    fn address(&self) -> SocketAddr {
        self.endpoints.addresses()[0]
    }

    /// The process that follows: it takes over in the order that a hand-over keeps.
    fn followed_by(&self, node: &TestNode, name: u8, workers: u8) -> Self {
        let inherited = self.endpoints.share_sockets().unwrap();
        let next = Self::new(node, name, workers, self.address(), Some(inherited));
        self.endpoints.pause_reading();
        next.endpoints.resume_reading();
        self.endpoints.drain();
        next
    }

    fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

async fn serve(endpoints: Endpoints, worker: usize, name: u8, accepted: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoints.accept(worker).await {
        let accepted = Arc::clone(&accepted);
        connections.spawn(async move {
            let Ok(connection) = incoming.accept().await else { return };
            accepted.fetch_add(1, Ordering::Relaxed);
            let mut streams = JoinSet::new();
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                streams.spawn(async move {
                    if send.send_all(&[name]).await.is_err() {
                        return;
                    }
                    while let Ok(Some(mut chunk)) = recv.read_chunk(usize::MAX).await {
                        if send.send(&mut chunk).await.is_err() {
                            return;
                        }
                    }
                    if send.finish().is_ok() {
                        send.stopped().await.ok();
                    }
                });
            }
        });
    }
}

/// Edge, which dials.
#[derive(Clone)]
struct Client {
    endpoints: Endpoints,
    bank: TrustDomain,
    address: SocketAddr,
}

impl Client {
    async fn connect(&self) -> Result<QuicConnection, DialError> {
        let dial = DialRequest {
            address: self.address,
            trust_domain: &self.bank,
            class: Class::Interactive,
        };
        self.endpoints.dial(0, dial).await
    }

    /// Opens one connection and one stream: the name of the process that answered.
    async fn ask(&self) -> Result<u8, String> {
        let connection = self.connect().await.map_err(|e| e.to_string())?;
        let asked = ask(&connection, b"hello").await;
        connection.close(Code::ConnectionUnused, "");
        asked
    }
}

async fn ask(connection: &QuicConnection, what: &[u8]) -> Result<u8, String> {
    let (mut send, mut recv) = connection.open_bi(SECOND).await.map_err(|e| e.to_string())?;
    send.send_all(what).await.map_err(|e| e.to_string())?;
    send.finish().map_err(|e| e.to_string())?;
    let answer = read_all(&mut recv).await.map_err(|e| e.to_string())?;
    let (name, body) = answer.split_first().ok_or("an empty answer")?;
    if body == what { Ok(*name) } else { Err(format!("{} bytes came back", body.len())) }
}

/// A stream that says something every ten milliseconds, `times` times, and hears it back. Returns the name
/// of who answered all the time.
async fn converse(connection: QuicConnection, times: u32) -> u8 {
    let (mut send, mut recv) = connection.open_bi(5 * SECOND).await.unwrap();
    let mut name = [0];
    send.send_all(&[0; 10]).await.unwrap();
    let mut got = vec![0; 2000];
    read_exact(&mut recv, &mut name).await;
    read_exact(&mut recv, &mut got[..10]).await;
    for i in 0..times {
        let said = vec![i as u8; 2000];
        send.send_all(&said).await.unwrap();
        read_exact(&mut recv, &mut got).await;
        assert!(got == said);
        sleep(Duration::from_millis(10)).await;
    }
    send.finish().unwrap();
    assert!(read_all(&mut recv).await.unwrap().is_empty());
    name[0]
}

async fn read_exact(recv: &mut adit_transport::RecvStream, mut buffer: &mut [u8]) {
    while !buffer.is_empty() {
        let n = recv.read(buffer).await.unwrap().expect("more");
        buffer = &mut buffer[n..];
    }
}

fn sites(workers: u8) -> (TestNode, Generation, Client) {
    let (edge, bank) = (TestCluster::new("edge.example"), TestCluster::new("bank.example"));
    let (e1, b1) = (edge.node("e1", &[&bank]), bank.node("b1", &[&edge]));
    let first = Generation::new(&b1, b'A', workers, "127.0.0.1:0".parse().unwrap(), None);
    let endpoints = Endpoints::bind(
        Arc::new(OsUdpNetwork),
        vec![Worker::current()],
        &[],
        &e1.secret,
        e1.tls(),
        Tuning::default(),
    )
    .unwrap();
    let client = Client { endpoints, bank: bank.trust_domain().clone(), address: first.address() };
    (b1, first, client)
}

/// The outcomes of new connections, by the process that answered, and why the others failed.
#[derive(Debug, Default)]
struct KnockOutcome {
    by: std::collections::BTreeMap<char, usize>,
    failed: Vec<String>,
}

/// A new connection every five milliseconds.
async fn knock(client: Client, times: usize) -> KnockOutcome {
    let mut all = JoinSet::new();
    for _ in 0..times {
        let client = client.clone();
        all.spawn(async move { client.ask().await });
        sleep(Duration::from_millis(5)).await;
    }
    let mut asked = KnockOutcome::default();
    while let Some(outcome) = all.join_next().await {
        match outcome.unwrap() {
            Ok(name) => *asked.by.entry(name.into()).or_default() += 1,
            Err(error) => asked.failed.push(error),
        }
    }
    asked
}

/// The measured promise: streams of the oldest of three generations go on through both hand-overs, and no
/// new connection fails at any moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_refused_or_lost_through_two_handovers() {
    let (node, first, client) = sites(2);
    let mut long = JoinSet::new();
    for _ in 0..4 {
        let connection = client.connect().await.unwrap();
        for _ in 0..25 {
            long.spawn(converse(connection.clone(), 300));
        }
    }
    let mut short = JoinSet::new();
    short.spawn(knock(client.clone(), 500));
    sleep(SECOND).await;
    let second = first.followed_by(&node, b'B', 2);
    let mut middle = JoinSet::new();
    for _ in 0..4 {
        middle.spawn(converse(client.connect().await.unwrap(), 150));
    }
    sleep(SECOND).await;
    let third = second.followed_by(&node, b'C', 2);

    let asked = short.join_next().await.unwrap().unwrap();
    assert_eq!(asked.failed, Vec::<String>::new(), "{:?}", asked.by);
    assert!(['A', 'B', 'C'].iter().all(|name| asked.by.contains_key(name)), "{asked:?}");
    assert_eq!(long.join_all().await, [b'A'; 100]);
    assert_eq!(middle.join_all().await, [b'B'; 4]);
    let generations = [&first, &second, &third].map(|g| g.endpoints.generation());
    assert_eq!(generations, [0, 1, 2]);
    let counted = [&first, &second, &third].map(|g| g.endpoints.counters());
    // The newest forwards to both, each straight.
    assert!(counted[0].received > 1000 && counted[1].received > 100, "{counted:?}");
    assert!(counted[2].forwarded > 1000, "{counted:?}");
    assert_eq!(counted.map(|c| c.forward_dropped), [0; 3]);
    assert!(third.accepted() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_dies_before_it_serves_costs_nothing() {
    let (node, first, client) = sites(1);
    let connection = client.connect().await.unwrap();
    let mut long = JoinSet::new();
    long.spawn(converse(connection, 100));
    for _ in 0..2 {
        let inherited = first.endpoints.share_sockets().unwrap();
        let second = Generation::new(&node, b'B', 1, first.address(), Some(inherited));
        first.endpoints.pause_reading();
        drop(second);
        first.endpoints.resume_reading();
        assert_eq!(timeout(SECOND, client.ask()).await.unwrap(), Ok(b'A'));
    }
    assert_eq!(long.join_all().await, [b'A']);
    assert_eq!(first.endpoints.counters().received, 0);
}

/// Its connections are answered as those of a process that crashed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_an_older_process_that_died_are_reset() {
    let (node, first, client) = sites(1);
    let connection = client.connect().await.unwrap();
    assert_eq!(ask(&connection, b"one").await, Ok(b'A'));
    let second = first.followed_by(&node, b'B', 1);
    assert_eq!(ask(&connection, b"two").await, Ok(b'A'));
    drop(first);
    let talk = async {
        while ask(&connection, b"three").await.is_ok() {}
        connection.closed().await.code
    };
    assert_eq!(timeout(4 * SECOND, talk).await.unwrap(), Code::PeerRestarted);
    assert_eq!(client.ask().await, Ok(b'B'));
    // Nobody is handed what is gone.
    let heirs = second.endpoints.share_sockets().unwrap().predecessors;
    assert_eq!(heirs.iter().map(|(generation, _)| *generation).collect::<Vec<_>>(), [1]);
}

/// Every socket is read, however many workers each generation has, and so is one at an address that is not
/// listened at any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generations_may_differ_in_workers_and_addresses() {
    let (node, mut last, client) = sites(1);
    let mut long = JoinSet::new();
    let mut older = Vec::new();
    for (name, workers) in [(b'B', 3), (b'C', 1), (b'D', 2)] {
        for _ in 0..6 {
            long.spawn(converse(client.connect().await.unwrap(), 200));
        }
        let next = last.followed_by(&node, name, workers);
        older.push(std::mem::replace(&mut last, next));
        for _ in 0..20 {
            assert_eq!(timeout(SECOND, client.ask()).await.unwrap(), Ok(name));
        }
    }
    let inherited = last.endpoints.share_sockets().unwrap();
    let elsewhere = "127.0.0.2:0".parse().unwrap();
    let moved = Generation::new(&node, b'E', 1, elsewhere, Some(inherited));
    last.endpoints.pause_reading();
    moved.endpoints.resume_reading();
    assert_ne!(moved.address(), client.address);
    let mut names = long.join_all().await;
    names.sort_unstable();
    assert_eq!(names, [[b'A'; 6], [b'B'; 6], [b'C'; 6]].concat());
    let there = Client { address: moved.address(), ..client.clone() };
    assert_eq!(there.ask().await, Ok(b'E'));
    assert!(client.connect().await.is_err(), "nobody accepts at the old address");
}
