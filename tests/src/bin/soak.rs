//! Many streams through two clusters while peers are killed and cables cut at random.
//!
//! `soak --streams 100000 --gigabytes 20` starts two clusters of two nodes in namespaces and sends short
//! and bulk streams through them, until so many and so much have arrived whole; meanwhile it kills nodes
//! with SIGKILL, starts them again and cuts cables. Every stream says how much it sends and wants: it must
//! end with all of it, right to the byte, or with a reset; a request may arrive at the backend once at
//! most. When the faults have stopped all must work again, and the daemons must hold no stream, and no
//! more descriptors, tasks or memory than before. Prints one line of result and exits with 1 at any
//! violation.

#![expect(clippy::unwrap_used, reason = "in a test a panic is how it fails")]

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use adit_tests::clusters::{BACKEND, Clusters, IMPORT, METRICS};
use adit_tests::daemon::Daemon;
use adit_tests::lab::{self, LabHost};
use adit_tests::prerequisite::eventually;

/// A prime, so that no power of two of bytes lost or doubled goes unnoticed.
const PERIOD: usize = 65_521;
static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let byte = |n: usize| ((n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    (0..PERIOD * 2).map(|n| byte(n % PERIOD)).collect()
});

/// Streams at a time.
const SHORT_AT_ONCE: usize = 48;
const BULK_AT_ONCE: usize = 3;
/// Each bulk stream's size, each way.
const BULK: u64 = 32 << 20;
/// The mean time between two faults: most streams live, and none can be sure to.
const PAUSE_MS: u64 = 3000;

#[derive(Default)]
struct SoakTally {
    finished: AtomicU64,
    refused: AtomicU64,
    reset: AtomicU64,
    bytes: AtomicU64,
    violations: AtomicU64,
    requests: Mutex<HashSet<u64>>,
}

impl SoakTally {
    fn violation(&self, what: &str) {
        self.violations.fetch_add(1, Relaxed);
        println!("VIOLATION: {what}");
    }
}

/// The order of a stream, what it is to carry: the first 24 bytes of each.
#[derive(Debug, Clone, Copy)]
struct StreamOrder {
    id: u64,
    up: u64,
    down: u64,
}

impl StreamOrder {
    fn encode(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        for (slot, n) in bytes.chunks_exact_mut(8).zip([self.id, self.up, self.down]) {
            slot.copy_from_slice(&n.to_be_bytes());
        }
        bytes
    }

    fn decode(bytes: [u8; 24]) -> Self {
        let n = |at: usize| bytes[at..at + 8].iter().fold(0, |n, b| n << 8 | u64::from(*b));
        Self { id: n(0), up: n(8), down: n(16) }
    }
}

fn send(socket: &mut TcpStream, len: u64) -> std::io::Result<()> {
    let mut at = 0;
    while at < len {
        let offset = (at % PERIOD as u64) as usize;
        let n = (len - at).min(PERIOD as u64) as usize;
        socket.write_all(&TABLE[offset..offset + n])?;
        at += n as u64;
    }
    Ok(())
}

/// Reads to the end: how many bytes, and whether the end was clean. None for a wrong byte.
fn receive(socket: &mut TcpStream) -> Option<(u64, bool)> {
    let (mut buffer, mut at) = (vec![0; PERIOD], 0);
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return Some((at, true)),
            Ok(n) => {
                let offset = (at % PERIOD as u64) as usize;
                if buffer[..n] != TABLE[offset..offset + n] {
                    return None;
                }
                at += n as u64;
            }
            Err(_) => return Some((at, false)),
        }
    }
}

/// Carries one stream, from the client's side. True if all of it arrived.
fn carry(order: StreamOrder, tally: &SoakTally) -> bool {
    let Ok(mut socket) = TcpStream::connect(IMPORT.parse::<SocketAddr>().unwrap()) else {
        // The node is being started again.
        tally.refused.fetch_add(1, Relaxed);
        std::thread::sleep(Duration::from_millis(20));
        return false;
    };
    socket.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let mut writer = socket.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        writer.write_all(&order.encode())?;
        send(&mut writer, order.up)?;
        writer.shutdown(Shutdown::Write)
    });
    let received = receive(&mut socket);
    let sent = sending.join().unwrap();
    match received {
        None => tally.violation(&format!("{order:?}: a wrong byte in the answer")),
        // The system tells of a reset once: a writer that took the error leaves an end to the reader.
        Some((_, clean)) if !clean || sent.is_err() => {
            tally.reset.fetch_add(1, Relaxed);
        }
        Some((n, _)) if n != order.down => {
            tally.violation(&format!("{order:?}: a clean end after {n} bytes"));
        }
        Some((n, _)) => {
            tally.finished.fetch_add(1, Relaxed);
            tally.bytes.fetch_add(n + order.up, Relaxed);
            return true;
        }
    }
    false
}

fn backend(tally: Arc<SoakTally>) {
    let listener = TcpListener::bind(BACKEND).unwrap();
    for mut socket in listener.incoming().map_while(Result::ok) {
        let tally = tally.clone();
        std::thread::spawn(move || {
            let mut order = [0; 24];
            if socket.read_exact(&mut order).is_err() {
                return;
            }
            let order = StreamOrder::decode(order);
            if !tally.requests.lock().unwrap().insert(order.id) {
                tally.violation(&format!("{order:?} was delivered twice"));
            }
            match receive(&mut socket) {
                None => tally.violation(&format!("{order:?}: a wrong byte in the request")),
                Some((n, true)) if n != order.up => {
                    tally.violation(&format!("{order:?}: a clean end after {n} bytes"));
                }
                Some((_, true)) => drop(send(&mut socket, order.down)),
                Some((_, false)) => {}
            }
        });
    }
}

/// Kills and cuts until told to stop; gives how often.
fn faults(clusters: &mut Clusters, seed: u64, over: &AtomicBool) -> u64 {
    let (mut draw, mut count) = (seed, 0);
    while !over.load(Relaxed) {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis((draw >> 20) % (2 * PAUSE_MS)));
        count += 1;
        match draw >> 61 {
            0 | 1 => clusters.b1.bounce(Some(&clusters.bank1)),
            2 | 3 => clusters.b2.bounce(Some(&clusters.bank2)),
            4 => clusters.e1.bounce(Some(&clusters.edge1)),
            5 => cut("bank1", Duration::from_millis(draw >> 32 & 2047)),
            6 => cut("bank2", Duration::from_millis(draw >> 32 & 2047)),
            _ => cut("edge1", Duration::from_millis(draw >> 32 & 1023)),
        }
    }
    count
}

fn cut(host: &str, time: Duration) {
    let port = format!("p-{host}");
    lab::sh("ip", &["link", "set", &port, "down"]);
    std::thread::sleep(time);
    lab::sh("ip", &["link", "set", &port, "up"]);
}

/// Descriptors, tasks and resident memory (KiB) of a daemon.
fn footprint(daemon: &Daemon, host: &LabHost) -> (usize, usize, u64) {
    let pid = daemon.pid();
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    let metrics = host.enter(|| {
        let mut socket = TcpStream::connect(METRICS.parse::<SocketAddr>().unwrap()).unwrap();
        socket
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut page = String::new();
        socket.read_to_string(&mut page).unwrap();
        page
    });
    let tasks = metrics.lines().find_map(|l| l.strip_prefix("adit_tasks ")).unwrap();
    (fds, tasks.trim().parse().unwrap(), rss.trim().trim_end_matches(" kB").parse().unwrap())
}

/// Waits until a first stream is carried.
fn wait_for_answer(clusters: &Clusters, tally: &SoakTally) {
    eventually("the first stream is answered", 30, || {
        let order = StreamOrder { id: u64::MAX, up: 10, down: 10 };
        let probe = Arc::new(SoakTally::default());
        let seen = probe.clone();
        clusters.support.enter(move || carry(order, &seen));
        tally.requests.lock().unwrap().clear();
        (probe.finished.load(Relaxed) == 1).then_some(())
    });
}

/// Carries streams one after the other until `done`, which all workers of a kind share, has reached its goal.
fn spawn_worker(
    clusters: &Clusters,
    is_bulk: bool,
    (done, goal): (Arc<AtomicU64>, u64),
    next: Arc<AtomicU64>,
    tally: Arc<SoakTally>,
) -> std::thread::JoinHandle<()> {
    clusters.support.spawn(move || {
        while done.load(Relaxed) < goal {
            let id = next.fetch_add(1, Relaxed);
            let order = if is_bulk {
                StreamOrder { id, up: BULK, down: BULK }
            } else {
                StreamOrder { id, up: id * 7919 % 20_000, down: id * 104_729 % 50_000 }
            };
            if carry(order, &tally) {
                done.fetch_add(1, Relaxed);
            }
        }
    })
}

/// Checks that at rest a node holds little: its sockets, its epolls and some standing connections.
fn check_rest(clusters: &Clusters, tally: &SoakTally) {
    let nodes = [
        (&clusters.e1, &clusters.edge1),
        (&clusters.b1, &clusters.bank1),
        (&clusters.b2, &clusters.bank2),
    ];
    for (daemon, host) in nodes {
        daemon.wait_for("no stream is left", |s| s["streams"]["open"] == 0);
        let (fds, tasks, rss) = footprint(daemon, host);
        println!(
            "{}: {fds} descriptors, {tasks} tasks, {rss} KiB resident at the end",
            daemon.name()
        );
        if fds > 80 {
            tally.violation(&format!("{} holds {fds} descriptors", daemon.name()));
        }
        if tasks > 100 {
            tally.violation(&format!("{} holds {tasks} tasks", daemon.name()));
        }
        if rss > 120 * 1024 {
            tally.violation(&format!("{} holds {rss} KiB", daemon.name()));
        }
    }
}

fn soak(streams: u64, gigabytes: f64, seed: u64) -> bool {
    let tally = Arc::new(SoakTally::default());
    let backend_tally = tally.clone();
    // The backend ends with the process.
    let (mut clusters, ()) =
        Clusters::start(|fraud| drop(fraud.spawn(move || backend(backend_tally))));
    wait_for_answer(&clusters, &tally);
    let began = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let (short_done, bulk_done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let bulk = (gigabytes * 1e9 / BULK as f64 / 2.0).ceil() as u64;
    let work = |is_bulk| {
        let (done, goal) = if is_bulk { (&bulk_done, bulk) } else { (&short_done, streams) };
        spawn_worker(&clusters, is_bulk, (done.clone(), goal), next.clone(), tally.clone())
    };
    let threads: Vec<_> =
        (0..SHORT_AT_ONCE + BULK_AT_ONCE).map(|worker| work(worker >= SHORT_AT_ONCE)).collect();
    let over = Arc::new(AtomicBool::new(false));
    let waiting = over.clone();
    let waiter = std::thread::spawn(move || {
        threads.into_iter().for_each(|t| t.join().unwrap());
        waiting.store(true, Relaxed);
    });
    let count = faults(&mut clusters, seed, &over);
    waiter.join().unwrap();

    // The faults are over: everything must work again, and nothing be left.
    let after = Arc::new(SoakTally::default());
    eventually("streams finish again", 30, || {
        let (seen, id) = (after.clone(), next.fetch_add(1, Relaxed) | 1 << 50);
        clusters.support.enter(move || carry(StreamOrder { id, up: 10, down: 10 }, &seen));
        (after.finished.load(Relaxed) >= 1).then_some(())
    });
    check_rest(&clusters, &tally);
    let load = |n: &AtomicU64| n.load(Relaxed);
    println!(
        "soak: {} streams finished, {} reset, {} not accepted, {:.2} GB, {count} faults, {} violations in {:.0} s (seed {seed})",
        load(&tally.finished),
        load(&tally.reset),
        load(&tally.refused),
        load(&tally.bytes) as f64 / 1e9,
        load(&tally.violations),
        began.elapsed().as_secs_f64(),
    );
    load(&tally.violations) == 0 && load(&tally.finished) > 0
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: f64| {
        let at = args.iter().position(|a| a == name);
        at.and_then(|at| args.get(at + 1)).map_or(default, |v| v.parse().expect("a number"))
    };
    let (streams, gigabytes) = (value("--streams", 1000.0), value("--gigabytes", 0.2));
    let seed = value("--seed", 1.0) as u64;
    let mut good = true;
    let ran = lab::run_program("soak", || good = soak(streams as u64, gigabytes, seed));
    if ran && good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
