//! Whole nodes on turmoil's network: datagrams are lost, links break, nodes crash and come back.
//!
//! Every run has a seed. `ADIT_SEEDS=FIRST..LAST` runs other seeds than the few that the suite does; a failure
//! names its own. The seed decides what breaks and when, what is lost and what is asked. Two runs of one seed
//! are alike until tokio wakes the readers of one watch, in an order of its own unless it is built with
//! `--cfg tokio_unstable`; and quinn's BBR draws from nobody's seed. So look twice before a seed is well again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use adit_tests::net::pipe::Pipes;
use adit_tests::net::simulated::{SentTrace, Simulated, run_with};
use adit_tests::sim::agent::{Delivered, RequestOutcome, ask, serve};
use adit_tests::sim::party::{BackendListener, DirectionEnd, Party};
use adit_tests::sim::whole::Whole;
use adit_tests::sim::{SUPPORT, Sites, TownPlan, backend, import};
use adit_tests::sites::{eventually, local};
use adit_transport::links::LinkSettings;
use tokio::time::sleep;
use turmoil::Sim;

use crate::SECOND;

/// Until when things go wrong.
const FAULTS_LIFETIME: Duration = Duration::from_secs(20);
/// The time that everything may take to work again, after the last fault.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Where workloads are. They reach their nodes without a network, and outlive them.
const PODS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 9, 9));

/// A run: e1, b1 and b2, and the workloads of both sides.
struct FaultRun {
    seed: u64,
    sites: Rc<Sites>,
    pods: Pipes,
    sim: Sim<'static>,
    nodes: Vec<IpAddr>,
}

impl FaultRun {
    fn new(seed: u64, lose_every: usize) -> Self {
        let plan = TownPlan::two_backends();
        let (sites, pods) = (Rc::new(Sites::new(&plan)), Pipes::default());
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .simulation_duration(300 * SECOND)
            .tick_duration(Duration::from_millis(2))
            .udp_capacity(4096)
            .min_message_latency(Duration::from_millis(10))
            .max_message_latency(Duration::from_millis(20))
            .build();
        let (trace, mut nodes) = (SentTrace::default(), Vec::new());
        for (site, n, identity, config) in [
            (&sites.edge, 1, sites.of_edge(1), plan.edge(1)),
            (&sites.bank, 1, sites.of_bank(1), plan.bank(1)),
            (&sites.bank, 2, sites.of_bank(2), plan.bank(2)),
        ] {
            let ip = site.ip(n);
            let starts = Cell::new(0);
            let (pods, trace) = (pods.clone(), SentTrace::clone(&trace));
            nodes.push(ip);
            sim.host(ip, move || {
                // Each process has a boot ID of its own.
                starts.set(starts.get() + 1);
                let boot = starts.get() << 4 | n;
                let (pods, identity, config) = (pods.clone(), identity.clone(), config.clone());
                let trace = SentTrace::clone(&trace);
                async move {
                    let net = Simulated::on(&ip.to_string(), seed, &trace, lose_every);
                    let _whole = Whole::start(net, &pods, &identity, &config, boot, seed);
                    std::future::pending().await
                }
            });
        }
        Self { seed, sites, pods, sim, nodes }
    }
}

/// The seeds of this run.
fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("ADIT_SEEDS") else { return usual };
    let (first, last) = text.split_once("..").expect("ADIT_SEEDS=FIRST..LAST");
    first.parse().unwrap()..last.parse().unwrap()
}

/// Says which seed it was, and how to see it again, where a run panics.
struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed) = self;
            eprintln!(
                "seed {seed}: ADIT_SEEDS={seed}..{} cargo test -p adit-tests --test simulation faults",
                *seed + 1
            );
        }
    }
}

/// The fate of each request: when it was made, and how it ended.
type Ends = BTreeMap<u64, (Duration, RequestOutcome)>;

/// Asks again and again, three at a time, with requests of all sizes.
async fn keep_asking(pods: Pipes, seed: u64, ends: Rc<RefCell<Ends>>) {
    let asker = async |lane: u64| {
        let draws = local(1, seed << 8 | lane, LinkSettings::default()).random;
        for n in 0.. {
            let (number, began) = (lane << 32 | n, turmoil::sim_elapsed().unwrap());
            if began > FAULTS_LIFETIME + RECOVERY_TIMEOUT + 5 * SECOND {
                break;
            }
            let len = [0, 100, 5_000, 30_000, 150_000][(draws() % 5) as usize];
            let asked = ask(&pods, SUPPORT, import(1), number, len).await;
            ends.borrow_mut().insert(number, (began, asked));
            sleep(Duration::from_millis(draws() % 800)).await;
        }
    };
    futures_util::future::join_all((0..3).map(asker)).await;
}

/// A run with faults until [`FAULTS`], after which all is mended.
fn faults(seed: u64) -> (Ends, BTreeMap<u64, u32>) {
    let _named = SeedOnPanic(seed);
    // Up to 5 % of all datagrams.
    let mut run = FaultRun::new(seed, [0, 100, 50, 20][(seed % 4) as usize]);
    let (ends, delivered) = (Rc::<RefCell<Ends>>::default(), Delivered::default());
    let (pods, log, counted) = (run.pods.clone(), Rc::clone(&ends), delivered.clone());
    run.sim.client(PODS, async move {
        serve(&pods, backend(1), &counted);
        serve(&pods, backend(2), &counted);
        sleep(SECOND).await;
        keep_asking(pods, seed, log).await;
        Ok(())
    });
    let (sim, nodes) = (&mut run.sim, &run.nodes);
    let draws = local(2, run.seed, LinkSettings::default()).random;
    let draw = |n: usize| usize::try_from(draws() % n as u64).unwrap();
    let (mut next, mut mended) = (3 * SECOND, false);
    let mut broken: Vec<(IpAddr, IpAddr)> = Vec::new();
    while !sim.step().unwrap() {
        let now = sim.elapsed();
        if now >= FAULTS_LIFETIME && !mended {
            broken.drain(..).for_each(|(a, b)| sim.repair(a, b));
            mended = true;
        } else if now >= next && now < FAULTS_LIFETIME {
            next = now + SECOND * (5 + draw(25) as u32) / 10;
            let (a, b) = (nodes[draw(nodes.len())], nodes[draw(nodes.len())]);
            match draw(6) {
                0 | 1 => {
                    sim.crash(a);
                    sim.bounce(a);
                }
                2 | 3 if a != b => {
                    sim.partition(a, b);
                    broken.push((a, b));
                }
                4 if a != b => {
                    sim.partition_oneway(a, b);
                    broken.push((a, b));
                }
                _ => broken.drain(..).for_each(|(a, b)| sim.repair(a, b)),
            }
        }
    }
    (ends.take(), delivered.all())
}

#[test]
fn every_request_is_answered_or_reset_and_delivered_once_whatever_breaks() {
    let (mut answered, mut reset) = (0, 0);
    for seed in seeds(0..8) {
        let (ends, delivered) = faults(seed);
        let _named = SeedOnPanic(seed);
        for (number, (began, end)) in &ends {
            let what = format!("request {number:#x} of {began:?}");
            match end {
                RequestOutcome::Answered => {
                    assert_eq!(delivered.get(number), Some(&1), "{what}: answered");
                    answered += 1;
                }
                RequestOutcome::Reset => {
                    assert!(
                        *began < FAULTS_LIFETIME + RECOVERY_TIMEOUT,
                        "{what}: reset after all was mended"
                    );
                    reset += 1;
                }
                RequestOutcome::Wrong(_) | RequestOutcome::Never => panic!("{what}: {end:?}"),
            }
        }
        let twice: Vec<_> = delivered.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "delivered more than once: {twice:?}");
        let late =
            ends.values().filter(|(began, _)| *began > FAULTS_LIFETIME + RECOVERY_TIMEOUT).count();
        assert!(late > 5, "{late} requests after all was mended");
    }
    println!("{answered} answered, {reset} reset");
    assert!(answered > 100 && reset > 10, "{answered} answered, {reset} reset");
}

/// A node's process dies in the middle of a stream, and stays away.
fn crash(seed: u64, of_bank: bool) {
    const CRASH_DELAY: Duration = Duration::from_secs(5);
    const BODY: u64 = 100_000;
    let _named = SeedOnPanic(seed);
    let mut run = FaultRun::new(seed, 0);
    let (pods, sites) = (run.pods.clone(), Rc::clone(&run.sites));
    let victim = Rc::new(Cell::new(None));
    let chosen = Rc::clone(&victim);
    run.sim.client(PODS, async move {
        let (one, two) = (
            BackendListener::listen(&pods, backend(1)),
            BackendListener::listen(&pods, backend(2)),
        );
        sleep(2 * SECOND).await;
        let mut client = Party::connect(&pods, SUPPORT, import(1)).await;
        let (mut server, n) = tokio::select! {
            server = one.accept() => (server, 1),
            server = two.accept() => (server, 2),
        };
        chosen.set(Some(if of_bank { sites.bank.ip(n) } else { sites.edge.ip(1) }));
        tokio::join!(async { client.say(BODY).await.unwrap() }, server.hear(BODY));
        tokio::join!(async { server.say(BODY).await.unwrap() }, client.hear(BODY));
        // The backend has said all; the client goes on.
        client.say(1).await.unwrap();
        server.finish().await;
        let ((), ()) = tokio::join!(server.hear(BODY + 1), async {
            assert_eq!(client.end().await, DirectionEnd::Finished(BODY));
        });
        assert!(turmoil::elapsed() < CRASH_DELAY);
        assert_eq!(server.end().await, DirectionEnd::Reset(BODY + 1));
        eventually("the client is told", 10 * SECOND, || client.is_broken()).await;
        assert!(turmoil::elapsed() < CRASH_DELAY + 10 * SECOND);
        Ok(())
    });
    run_with(&mut run.sim, CRASH_DELAY, |sim| sim.crash(victim.get().unwrap()));
}

#[test]
fn a_crash_of_either_node_resets_both_sides() {
    for seed in seeds(0..2) {
        crash(seed, true);
        crash(seed, false);
    }
}
