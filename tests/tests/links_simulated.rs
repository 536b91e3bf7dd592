//! Links over a simulated network, where hosts crash and come back. Every run has a seed.
//!
//! `ADIT_SEEDS=FIRST..LAST` runs other seeds than the few that the suite does; a failure names its own.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it must be")]

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::code::Code;
use adit_core::snapshot::Class;
use adit_tests::identity::TestNode;
use adit_tests::net::simulated::{SentTrace, Simulated, run_with};
use adit_tests::sites::{RunningNode, Site, start};
use adit_transport::Tuning;
use adit_transport::links::{LinkSettings, LinkState};
use turmoil::Sim;

const SECOND: Duration = Duration::from_secs(1);

/// A run.
struct LinkRun {
    seed: u64,
    lose_every: usize,
    edge: Arc<Site>,
    bank: Arc<Site>,
}

impl LinkRun {
    fn new(seed: u64, nodes: u8, lose_every: usize) -> Self {
        let (edge, bank) = (Site::new("edge", 1, nodes), Site::new("bank", 2, nodes));
        Self { seed, lose_every, edge: Arc::new(edge), bank: Arc::new(bank) }
    }

    fn sim(&self) -> Sim<'static> {
        turmoil::Builder::new()
            .rng_seed(self.seed)
            .simulation_duration(300 * SECOND)
            .tick_duration(Duration::from_millis(2))
            .udp_capacity(4096)
            .min_message_latency(Duration::from_millis(10))
            .max_message_latency(Duration::from_millis(20))
            .build()
    }

    /// A function that starts node `n` of a cluster, each time with another boot ID.
    fn starter(&self, of_bank: bool, n: u8, seeds: &[u8]) -> impl Fn() -> RunningNode + 'static {
        let (site, other) = match of_bank {
            true => (Arc::clone(&self.bank), &self.edge),
            false => (Arc::clone(&self.edge), &self.bank),
        };
        let identity: TestNode = site.authority.node(site.node(n).as_str(), &[&other.authority]);
        let snapshot = site.snapshot(n, &[other.link(seeds)]);
        let (boots, trace) = (AtomicU8::new(0), SentTrace::default());
        let (run, lose_every) = (self.seed, self.lose_every);
        move || {
            let boot = boots.fetch_add(1, Ordering::Relaxed) << 4 | n;
            let net = Simulated::on(&site.ip(n).to_string(), run, &trace, lose_every);
            start(
                net,
                &identity,
                snapshot.clone(),
                boot,
                LinkSettings::default(),
                Tuning::default(),
            )
        }
    }

    fn host(&self, sim: &mut Sim<'_>, of_bank: bool, n: u8, seeds: &[u8]) {
        let ip = if of_bank { self.bank.ip(n) } else { self.edge.ip(n) };
        let start = Arc::new(self.starter(of_bank, n, seeds));
        sim.host(ip, move || {
            let start = Arc::clone(&start);
            async move {
                let _running = start();
                std::future::pending().await
            }
        });
    }
}

/// The seeds of this run.
fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("ADIT_SEEDS") else { return usual };
    let (first, last) = text.split_once("..").expect("ADIT_SEEDS=FIRST..LAST");
    first.parse().unwrap()..last.parse().unwrap()
}

/// Says which seed it was, and how to see it again, where a run panics.
fn named<T>(test: &str, seed: u64, run: impl FnOnce() -> T) -> T {
    struct Name<'a>(&'a str, u64);
    impl Drop for Name<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let Self(test, seed) = self;
                eprintln!(
                    "seed {seed}: ADIT_SEEDS={seed}..{} cargo test -p adit-tests --test links_simulated {test}",
                    *seed + 1
                );
            }
        }
    }
    let _name = Name(test, seed);
    run()
}

async fn until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let until = tokio::time::Instant::now() + limit;
    while !done() {
        assert!(tokio::time::Instant::now() < until, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A peer's process dies and is there again at once: what ran on it is told so, and new streams go to the
/// new process. `seeds` says whether it dials us, too.
fn restart(seed: u64, seeds: &'static [u8]) {
    const CRASH_DELAY: Duration = Duration::from_secs(5);
    let run = LinkRun::new(seed, 1, 0);
    let mut sim = run.sim();
    run.host(&mut sim, true, 1, seeds);
    let (start, bank) = (run.starter(false, 1, &[1]), Arc::clone(&run.bank));
    sim.client(run.edge.ip(1), async move {
        let e1 = start();
        until("known", 2 * SECOND, || e1.view(&bank).is_some()).await;
        // What the peer dialled ends with its process's port, and is noticed by silence only.
        until("dialled", 2 * SECOND, || {
            e1.links.status().links[0].connections.iter().any(|c| c.peer.dialled)
        })
        .await;
        let mut stream = e1.echo(&bank, &bank.node(1), b"before").await.unwrap();
        let old = stream.peer.boot;
        let ended = stream.recv.read_chunk(9).await.unwrap_err();
        let noticed = turmoil::elapsed();
        assert_eq!(ended.code(), Code::PeerRestarted);
        assert!(noticed < CRASH_DELAY + SECOND * 3 / 2, "noticed at {noticed:?}");
        let served = loop {
            // A stream that goes to a connection which is dead and not known to be is lost; no later one.
            match e1.echo(&bank, &bank.node(1), b"after").await {
                Ok(stream) => break stream.peer.boot,
                Err(_) => tokio::time::sleep(SECOND / 100).await,
            }
        };
        let back = turmoil::elapsed();
        assert!(back < CRASH_DELAY + 2 * SECOND, "served again at {back:?}");
        assert_ne!(served, old, "by the new process");
        until("known again", SECOND, || e1.links.status().links[0].state == LinkState::Up).await;
        Ok(())
    });
    run_with(&mut sim, CRASH_DELAY, |sim| {
        sim.crash(run.bank.ip(1));
        sim.bounce(run.bank.ip(1));
    });
}

#[test]
fn a_restarted_peer_is_noticed_within_a_second_and_a_half() {
    for seed in seeds(0..3) {
        named("a_restarted_peer", seed, || restart(seed, &[]));
        named("a_restarted_peer", seed, || restart(seed, &[1]));
    }
}

/// A peer's process dies and stays away. It is known by its silence, on one connection for all of them:
/// what comes next is refused at once, so that it can go elsewhere, and is never lost on another
/// connection with the dead node.
fn death(seed: u64, seeds: &'static [u8]) {
    const CRASH_DELAY: Duration = Duration::from_secs(5);
    let run = LinkRun::new(seed, 1, 0);
    let mut sim = run.sim();
    run.host(&mut sim, true, 1, seeds);
    let (start, bank) = (run.starter(false, 1, &[1]), Arc::clone(&run.bank));
    sim.client(run.edge.ip(1), async move {
        let e1 = start();
        until("known", 2 * SECOND, || e1.view(&bank).is_some()).await;
        let ways = if seeds.is_empty() { 1 } else { 2 };
        until("connected", 2 * SECOND, || e1.links.status().links[0].connections.len() == ways)
            .await;
        let mut stream = e1.echo(&bank, &bank.node(1), b"before").await.unwrap();
        let ended = stream.recv.read_chunk(9).await.unwrap_err();
        let noticed = turmoil::elapsed();
        assert_eq!(ended.code(), Code::ConnectionLost);
        assert!(noticed < CRASH_DELAY + 8 * SECOND, "noticed at {noticed:?}");
        let refused = e1.links.open(0, &bank.name, &bank.node(1), Class::Interactive).await;
        assert!(refused.unwrap_err().code.is_retryable());
        let after = turmoil::elapsed() - noticed;
        assert!(after < SECOND / 10, "refused after {after:?}");
        Ok(())
    });
    run_with(&mut sim, CRASH_DELAY, |sim| sim.crash(run.bank.ip(1)));
}

#[test]
fn after_a_death_is_noticed_no_stream_waits_for_the_dead() {
    for seed in seeds(0..3) {
        named("after_a_death", seed, || death(seed, &[]));
        named("after_a_death", seed, || death(seed, &[1]));
    }
}

/// Until when things go wrong.
const FAULTS_LIFETIME: Duration = Duration::from_secs(25);
/// The time that everything may take to work again, after the last fault.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks from `from` of every node of the other cluster, again and again; every answer is whole or an error.
async fn asks(from: RunningNode, other: Arc<Site>, nodes: u8, failures: Arc<Mutex<Vec<String>>>) {
    let body: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
    loop {
        for n in 1..=nodes {
            let node = other.node(n);
            let asked = from.echo(&other, &node, &body);
            let got = tokio::time::timeout(4 * SECOND, asked).await;
            let now = turmoil::sim_elapsed().unwrap();
            match got {
                Ok(Ok(_)) | Err(_) if now < FAULTS_LIFETIME + RECOVERY_TIMEOUT => {}
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.contains("came back") => {
                    failures.lock().unwrap().push(format!("{now:?}: {error}"));
                }
                Ok(Err(_)) if now < FAULTS_LIFETIME + RECOVERY_TIMEOUT => {}
                Ok(Err(error)) => {
                    failures.lock().unwrap().push(format!("{now:?}: node {n}: {error}"));
                }
                Err(_) => failures.lock().unwrap().push(format!("{now:?}: node {n}: no answer")),
            }
        }
        tokio::time::sleep(SECOND / 5).await;
    }
}

/// Hosts crash, links break, datagrams are lost; then all is mended.
fn faults(seed: u64) {
    const NODES: u8 = 2;
    let run = LinkRun::new(seed, NODES, 40);
    let mut sim = run.sim();
    let failures: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut hosts: Vec<IpAddr> = Vec::new();
    for of_bank in [false, true] {
        for n in 1..=NODES {
            let (site, other) =
                if of_bank { (&run.bank, &run.edge) } else { (&run.edge, &run.bank) };
            let start = Arc::new(run.starter(of_bank, n, &[1, 2]));
            let (other, failures) = (Arc::clone(other), Arc::clone(&failures));
            hosts.push(site.ip(n));
            sim.host(site.ip(n), move || {
                let (start, other, failures) =
                    (Arc::clone(&start), Arc::clone(&other), Arc::clone(&failures));
                async move {
                    let running = start();
                    asks(running, other, NODES, failures).await;
                    Ok(())
                }
            });
        }
    }
    let random = adit_tests::sites::local(1, seed, LinkSettings::default()).random;
    let draw = |n: usize| usize::try_from(random() % n as u64).unwrap();
    let (mut next, mut mended) = (2 * SECOND, false);
    let mut broken: Vec<(IpAddr, IpAddr)> = Vec::new();
    while sim.elapsed() < FAULTS_LIFETIME + RECOVERY_TIMEOUT + 5 * SECOND {
        sim.step().unwrap();
        if sim.elapsed() >= FAULTS_LIFETIME {
            if !mended {
                broken.drain(..).for_each(|(a, b)| sim.repair(a, b));
                mended = true;
            }
        } else if sim.elapsed() >= next {
            next = sim.elapsed() + SECOND * (1 + draw(30) as u32) / 10;
            let (a, b) = (hosts[draw(hosts.len())], hosts[draw(hosts.len())]);
            match draw(5) {
                0 | 1 => {
                    sim.crash(a);
                    sim.bounce(a);
                }
                2 if a != b => {
                    sim.partition(a, b);
                    broken.push((a, b));
                }
                3 if a != b => {
                    sim.partition_oneway(a, b);
                    broken.push((a, b));
                }
                _ => broken.drain(..).for_each(|(a, b)| sim.repair(a, b)),
            }
        }
    }
    let failures = failures.lock().unwrap();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn after_any_faults_everything_works_again_within_ten_seconds() {
    for seed in seeds(0..4) {
        named("after_any_faults", seed, || faults(seed));
    }
}

/// The same seed gives the same run: a failure can be looked at again.
#[test]
fn a_run_can_be_repeated() {
    let run = || {
        let run = LinkRun::new(7, 1, 10);
        let mut sim = run.sim();
        run.host(&mut sim, true, 1, &[1]);
        let log: Arc<Mutex<Vec<(Duration, String)>>> = Arc::default();
        let (start, bank, out) =
            (run.starter(false, 1, &[1]), Arc::clone(&run.bank), Arc::clone(&log));
        sim.client(run.edge.ip(1), async move {
            let e1 = start();
            let mut last = String::new();
            for _ in 0..1000 {
                let link = e1.links.status().links.remove(0);
                let now: Vec<_> =
                    link.connections.iter().map(|c| (c.peer.dialled, c.standing)).collect();
                let now = format!("{:?} {:?} {now:?}", link.state, link.dials.attempts);
                if now != last {
                    out.lock().unwrap().push((turmoil::elapsed(), now.clone()));
                    last = now;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let stream = e1.links.open(0, &bank.name, &bank.node(1), Class::Bulk).await;
            out.lock().unwrap().push((turmoil::elapsed(), format!("{}", stream.is_ok())));
            Ok(())
        });
        sim.run().unwrap();
        log.lock().unwrap().clone()
    };
    let first = run();
    assert!(first.len() > 3, "{first:?}");
    assert_eq!(first, run());
}
