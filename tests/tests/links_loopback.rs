//! Links over real sockets and several runtimes, as the process has them: what a paused clock on one thread
//! cannot show.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it must be")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::snapshot::{Class, Link, Seed};
use adit_tests::sites::{Echo, Running, Site, eventually, local};
use adit_transport::links::{Links, Settings};
use adit_transport::{Endpoints, OsNet, Tuning, Worker};
use tokio::runtime::Runtime;
use tokio::sync::watch;

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
    let workers = (0..WORKERS).zip(runtimes).map(|(n, r)| Worker::new(n, r.handle().clone()));
    let listen: [SocketAddr; 1] = ["127.0.0.1:0".parse().unwrap()];
    let tls = identity.tls();
    let (secret, tuning) = (&identity.secret, Tuning::default());
    Endpoints::bind(Arc::new(OsNet), workers.collect(), &listen, secret, tls, tuning).unwrap()
}

fn start(endpoints: Endpoints, site: &Site, other: &Site, seeds: &[SocketAddr], n: u8) -> Running {
    let seeds = seeds.iter().copied().map(Seed::Address).collect();
    let mut snapshot = site.snapshot(1, &[Link { seeds, ..other.link(&[]) }]);
    snapshot.this.advertise = endpoints.addresses().to_vec();
    let (snapshot, believed) = watch::channel(Arc::new(snapshot));
    let echo = Arc::new(Echo::default());
    let local = local(n, n.into(), Settings::default());
    let links = Links::start(local, endpoints.clone(), believed, Arc::clone(&echo) as _);
    Running { links, snapshot, echo, endpoints }
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
