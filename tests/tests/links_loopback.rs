//! Links over real sockets and several runtimes, as the process has them: what a paused clock on one thread
//! cannot show.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it must be")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::snapshot::{Class, Link, Seed};
use adit_tests::identity::TestNode;
use adit_tests::sites::{Echo, RunningNode, Site, eventually, local};
use adit_transport::endpoint::UdpInheritance;
use adit_transport::links::{ConnectionStatus, LinkSettings, Links, PeerStream};
use adit_transport::{Endpoints, OsUdpNetwork, Tuning, Worker};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);
const WORKERS: u8 = 2;

/// The workers' runtimes, each with a thread of its own.
fn runtimes() -> Vec<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all();
    (0..WORKERS).map(|_| builder.build().unwrap()).collect()
}

fn bind(runtimes: &[Runtime], site: &Site, other: &Site) -> Endpoints {
    let identity = site.authority.node(site.node(1).as_str(), &[&other.authority]);
    bind_as(&identity, runtimes, "127.0.0.1:0".parse().unwrap(), None)
}

fn bind_as(
    node: &TestNode,
    runtimes: &[Runtime],
    listen: SocketAddr,
    inherited: Option<UdpInheritance>,
) -> Endpoints {
    let workers = (0..WORKERS).zip(runtimes).map(|(n, r)| Worker::new(n, r.handle().clone()));
    let (workers, tls, tuning) = (workers.collect(), node.tls(), Tuning::default());
    let net = Arc::new(OsUdpNetwork);
    Endpoints::bind_after(net, workers, &[listen], &node.secret, tls, tuning, inherited).unwrap()
}

fn start(
    endpoints: Endpoints,
    site: &Site,
    other: &Site,
    seeds: &[SocketAddr],
    n: u8,
) -> RunningNode {
    let seeds = seeds.iter().copied().map(Seed::Address).collect();
    let mut snapshot = site.snapshot(1, &[Link { seeds, ..other.link(&[]) }]);
    snapshot.local.advertise = endpoints.addresses().to_vec();
    let (snapshot, believed) = watch::channel(Arc::new(snapshot));
    let echo = Arc::new(Echo::default());
    let local = local(n, n.into(), LinkSettings::default());
    let links = Links::start(local, endpoints.clone(), believed, Arc::clone(&echo) as _);
    RunningNode { links, snapshot, echo, endpoints }
}

#[test]
fn streams_of_every_worker_cross_and_a_drain_leaves_nothing() {
    let (edge, bank) = (Site::new("edge", 1, 1), Site::new("bank", 2, 1));
    let (ours, theirs) = (runtimes(), runtimes());
    let (e, b) = (bind(&ours, &edge, &bank), bind(&theirs, &bank, &edge));
    let (at_e, at_b) = (e.addresses().to_vec(), b.addresses().to_vec());
    let (node, bulk) = (bank.node(1), bank.node(1));
    let waiting = Runtime::new().unwrap();
    let (e1, b1) = {
        // What is no worker's runs here.
        let _entered = waiting.enter();
        (start(e, &edge, &bank, &at_b, 1), start(b, &bank, &edge, &at_e, 2))
    };
    waiting.block_on(async {
        eventually("both know each other", 10 * SECOND, || {
            e1.view(&bank).is_some() && b1.view(&edge).is_some()
        })
        .await;
        let ask = async |worker: usize, lane: Class, node| {
            let mut stream = e1.links.open(worker, &bank.name, node, lane).await.unwrap();
            stream.send.send_all(&[worker as u8; 1000]).await.unwrap();
            stream.send.finish().unwrap();
            let mut got = 0;
            while let Some(chunk) = stream.recv.read_chunk(usize::MAX).await.unwrap() {
                got += chunk.len();
            }
            assert_eq!(got, 1000);
            stream.worker
        };
        // The first of a worker may borrow another's connection; the rest have their own.
        for round in 0..3 {
            let all = (0..200).map(|n| ask(n % usize::from(WORKERS), Class::Interactive, &node));
            futures_util::future::join_all(all).await;
            futures_util::future::join_all((0..20).map(|_| ask(1, Class::Bulk, &bulk))).await;
            eventually("a connection for each worker", 10 * SECOND, || {
                let connections = e1.links.status().links.remove(0).connections;
                let ours = connections.iter().filter(|c| c.peer.dialled);
                ours.map(|c| c.worker).collect::<BTreeSet<_>>().len() == usize::from(WORKERS)
            })
            .await;
            let own = ask(1, Class::Interactive, &node).await;
            assert!(round == 0 || own == 1, "worker 1 has a connection of its own");
        }
        assert_eq!(e1.links.drain(10 * SECOND).await, 0);
        assert_eq!(b1.links.drain(10 * SECOND).await, 0);
    });
    drop((e1, b1));
    for runtime in ours.into_iter().chain(theirs) {
        runtime.shutdown_timeout(SECOND);
    }
}

/// A user's view while bank's process is followed by another: new streams every few milliseconds, and the
/// link's state.
#[derive(Debug, Default)]
struct TakeoverSight {
    failed: Vec<String>,
    states: BTreeSet<String>,
    streams: usize,
}

async fn use_link(edge: &RunningNode, bank: &Site, stop: &CancellationToken) -> TakeoverSight {
    let mut seen = TakeoverSight::default();
    while !stop.is_cancelled() {
        let asked = timeout(SECOND, edge.echo(bank, &bank.node(1), b"anybody there?")).await;
        match asked {
            Ok(Ok(mut stream)) => {
                stream.send.finish().unwrap();
                seen.streams += 1;
            }
            Ok(Err(error)) => seen.failed.push(error),
            Err(_) => seen.failed.push("more than a second".to_owned()),
        }
        let link = edge.links.status().links.remove(0);
        seen.states.insert(format!("{:?} {:?}", link.state, link.reason));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    seen
}

/// A stream that is there before, during and after: says something every ten milliseconds.
async fn converse(mut stream: PeerStream, stop: &CancellationToken) -> usize {
    let mut said = 0;
    while !stop.is_cancelled() {
        stream.send.send_all(&[7; 500]).await.unwrap();
        let mut got = 0;
        while got < 500 {
            got += stream.recv.read_chunk(usize::MAX).await.unwrap().expect("an echo").len();
        }
        said += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stream.send.finish().unwrap();
    assert_eq!(stream.recv.read_chunk(usize::MAX).await.unwrap(), None);
    said
}

/// Checks that a connection of the successor can be used, and that its predecessor's have their fifty streams and get no
/// other. Of the successor's streams nothing is asked: one may be open just now.
fn new_streams_are_the_successors(edge: &RunningNode) {
    let connections = edge.links.status().links.remove(0).connections;
    let (new, old): (Vec<_>, Vec<_>) = connections.into_iter().partition(is_successors);
    assert!(new.iter().any(|c| c.unusable.is_none()), "{new:?}");
    assert!(old.iter().all(|c| c.unusable.is_some()), "{old:?}");
    assert_eq!(old.iter().map(|c| c.streams).sum::<usize>(), 50, "{old:?}");
}

/// True for a connection with the process that follows, whose boot ID ends in 3.
fn is_successors(connection: &ConnectionStatus) -> bool {
    connection.peer.boot.0[15] == 3
}

async fn fifty_streams(edge: &RunningNode, bank: &Site) -> Vec<PeerStream> {
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(edge.echo(bank, &bank.node(1), b"hello").await.unwrap());
    }
    streams
}

async fn until_only_the_successor_is_left(edge: &RunningNode) {
    eventually("nothing is left of the old process", 10 * SECOND, || {
        let connections = edge.links.status().links.remove(0).connections;
        connections.iter().all(is_successors)
    })
    .await;
}

/// Follows a process by another. With `dials` edge knows where to dial bank; otherwise it waits to be dialled.
fn a_process_is_followed(dials: bool) {
    let (edge, bank) = (Site::new("edge", 1, 1), Site::new("bank", 2, 1));
    let runtimes = [runtimes(), runtimes(), runtimes()];
    let e = bind(&runtimes[0], &edge, &bank);
    let identity = bank.authority.node(bank.node(1).as_str(), &[&edge.authority]);
    let b1 = bind_as(&identity, &runtimes[1], "127.0.0.1:0".parse().unwrap(), None);
    let (at_e, at_b) = (e.addresses().to_vec(), b1.addresses().to_vec());
    let waiting = Runtime::new().unwrap();
    let _entered = waiting.enter();
    let edge1 = start(e, &edge, &bank, if dials { &at_b } else { &[] }, 1);
    let older = start(b1, &bank, &edge, &at_e, 2);
    waiting.block_on(async {
        eventually("both know each other", 10 * SECOND, || {
            edge1.view(&bank).is_some() && older.view(&edge).is_some()
        })
        .await;
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let long = fifty_streams(&edge1, &bank).await;
        let talking = futures_util::future::join_all(long.into_iter().map(|s| converse(s, &end)));
        let story = async {
            // Who is connected for a moment only is not believed.
            tokio::time::sleep(4 * SECOND).await;
            let inherited = Some(older.endpoints.share_sockets().unwrap());
            let b2 = bind_as(&identity, &runtimes[2], at_b[0], inherited);
            let newer = start(b2, &bank, &edge, &at_e, 3);
            older.endpoints.pause_reading();
            newer.endpoints.resume_reading();
            let draining = older.links.drain(20 * SECOND);
            let after = async {
                tokio::time::sleep(7 * SECOND).await;
                new_streams_are_the_successors(&edge1);
                let served = newer.echo.served().len();
                stop.cancel();
                tokio::time::sleep(SECOND).await;
                end.cancel();
                served
            };
            let (broken, served) = tokio::join!(draining, after);
            assert_eq!(broken, 0);
            assert!(served > 100, "{served}");
            until_only_the_successor_is_left(&edge1).await;
            newer
        };
        let (seen, said, newer) = tokio::join!(use_link(&edge1, &bank, &stop), talking, story);
        assert_eq!(seen.failed, Vec::<String>::new(), "of {}", seen.streams);
        assert!(seen.streams > 500, "{seen:?}");
        assert_eq!(seen.states.into_iter().collect::<Vec<_>>(), ["Up None"]);
        assert!(said.iter().all(|said| *said > 300), "{said:?}");
        let learnt = edge1.view(&bank).unwrap();
        assert!(learnt.age() < 10 * SECOND);
        let counted = newer.endpoints.counters();
        assert!(counted.forwarded > 1000 || !dials, "{counted:?}");
        assert_eq!(edge1.links.drain(10 * SECOND).await, 0);
        assert_eq!(newer.links.drain(10 * SECOND).await, 0);
    });
    drop((edge1, older));
    for runtime in runtimes.into_iter().flatten() {
        runtime.shutdown_timeout(SECOND);
    }
}

#[test]
fn a_process_is_followed_without_a_stream_refused_or_reset() {
    a_process_is_followed(true);
}

#[test]
fn a_process_that_only_dials_is_followed_without_a_stream_refused_or_reset() {
    a_process_is_followed(false);
}
