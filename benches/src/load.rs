//! The load generator: one process on one core, started as a hidden subcommand with a [`LoadSpec`] in JSON.
//!
//! A timed load runs requests and bulk streams side by side, warms up, measures for a window, and prints
//! an [`LoadOutcome`]. A hold opens connections, says so, and keeps them until its standard input ends. Any
//! wrong byte, and any connection that fails, fails the whole load.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use crate::process::cpu_of;
use crate::traffic::{CHUNK, ENDLESS, Request, connect, exchange, read_checked};

/// A request of an RPC and its answer, in bytes.
const RPC: (u32, u64) = (256, 1024);
/// The number of connections of a hold that are under way at once.
const OPENING: usize = 64;
/// The latest that the first answer may come, from the beginning of a window.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A load to run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LoadSpec {
    /// Seconds before anything counts.
    pub(crate) warm: f64,
    /// Seconds that count.
    pub(crate) seconds: f64,
    /// Requests.
    pub(crate) rpc: Option<Rpc>,
    /// Streams down as fast as they go.
    pub(crate) bulk: Option<Bulk>,
    /// Processes whose CPU time in the window is wanted.
    pub(crate) watch: Vec<u32>,
}

/// Requests, one at a time on each connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rpc {
    /// The address to connect to.
    pub(crate) to: SocketAddr,
    /// On how many connections.
    pub(crate) connections: usize,
    /// Requests a second that are aimed at, on all together; 0 is as fast as they go.
    pub(crate) per_second: f64,
    /// Each on a connection of its own; what is timed is then from connect to the answer's first byte.
    pub(crate) fresh: bool,
}

/// Endless answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bulk {
    /// The address to connect to.
    pub(crate) to: SocketAddr,
    /// On how many connections.
    pub(crate) connections: usize,
}

/// Connections that are opened and kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hold {
    /// The address to connect to.
    pub(crate) to: SocketAddr,
    /// The number of connections.
    pub(crate) connections: usize,
    /// Asks each for an endless answer and reads none of it; otherwise one byte is exchanged.
    pub(crate) stall: bool,
}

/// The result of a timed load, in its window.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LoadOutcome {
    /// The length of the window, in seconds.
    pub(crate) seconds: f64,
    /// Requests answered.
    pub(crate) rpcs: u64,
    /// Half of them took at most so many microseconds.
    pub(crate) p50_us: f64,
    /// 99 % of them did.
    pub(crate) p99_us: f64,
    /// Bytes of bulk received.
    pub(crate) bulk_bytes: u64,
    /// CPU seconds of the watched processes.
    pub(crate) cpu: f64,
}

#[derive(Default)]
struct LoadTally {
    counting: AtomicBool,
    bytes: AtomicU64,
    times: Mutex<Vec<Duration>>,
}

impl LoadTally {
    fn is_without_answer(&self) -> bool {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Runs a timed load.
pub(crate) async fn timed(load: LoadSpec) -> Result<LoadOutcome> {
    let tally = Arc::new(LoadTally::default());
    let mut workers = JoinSet::new();
    if let Some(rpc) = &load.rpc {
        for n in 0..rpc.connections {
            workers.spawn(requests(rpc.clone(), n, Arc::clone(&tally)));
        }
    }
    if let Some(bulk) = load.bulk {
        for n in 0..bulk.connections {
            workers.spawn(download(bulk.to, n, Arc::clone(&tally)));
        }
    }
    let window = async {
        sleep(Duration::from_secs_f64(load.warm)).await;
        let (began, cpu) = (Instant::now(), cpu_of(&load.watch));
        tally.counting.store(true, Ordering::Relaxed);
        sleep(Duration::from_secs_f64(load.seconds)).await;
        // A window that is short, on a machine that has much else to do, lasts until one request is answered.
        while load.rpc.is_some()
            && tally.is_without_answer()
            && began.elapsed() < FIRST_ANSWER_TIMEOUT
        {
            sleep(Duration::from_millis(10)).await;
        }
        tally.counting.store(false, Ordering::Relaxed);
        (began.elapsed().as_secs_f64(), cpu_of(&load.watch) - cpu)
    };
    let (seconds, cpu) = tokio::select! {
        Some(ended) = workers.join_next() => match ended? {
            Ok(never) => match never {},
            Err(error) => return Err(error),
        },
        window = window => window,
    };
    let mut times =
        std::mem::take(&mut *tally.times.lock().unwrap_or_else(PoisonError::into_inner));
    times.sort_unstable();
    let rank = |of: f64| {
        let nth = (of * times.len() as f64) as usize;
        times.get(nth).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    };
    Ok(LoadOutcome {
        seconds,
        rpcs: times.len() as u64,
        p50_us: if times.is_empty() { 0.0 } else { rank(0.5) },
        p99_us: if times.is_empty() { 0.0 } else { rank(0.99) },
        bulk_bytes: tally.bytes.load(Ordering::Relaxed),
        cpu,
    })
}

async fn requests(rpc: Rpc, nth: usize, tally: Arc<LoadTally>) -> Result<Infallible> {
    let mut buffer = vec![0; CHUNK];
    let mut held = None;
    let mut seed = nth as u32;
    let mut ticks = (rpc.per_second > 0.0).then(|| {
        let period = Duration::from_secs_f64(rpc.connections as f64 / rpc.per_second);
        let first = Instant::now() + period.mul_f64(nth as f64 / rpc.connections as f64);
        let mut ticks = interval_at(first, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    });
    loop {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let request = Request { seed, length: RPC.0, answer: RPC.1 };
        let mut began = Instant::now();
        let mut stream = match held.take() {
            Some(stream) => stream,
            None => connect(rpc.to).await?,
        };
        if !rpc.fresh {
            // The first connect is not part of what is timed.
            began = Instant::now();
        }
        let first = exchange(&mut stream, request, &mut buffer).await?;
        let took = if rpc.fresh { first - began } else { began.elapsed() };
        if tally.counting.load(Ordering::Relaxed) {
            tally.times.lock().unwrap_or_else(PoisonError::into_inner).push(took);
        }
        held = (!rpc.fresh).then_some(stream);
    }
}

async fn download(to: SocketAddr, nth: usize, tally: Arc<LoadTally>) -> Result<Infallible> {
    let mut buffer = vec![0; CHUNK];
    let (mut stream, request) = (connect(to).await?, endless(nth));
    stream.write_all(&request.encode()).await?;
    let mut at = 0;
    loop {
        let n = read_checked(&mut stream, request.seed, at, &mut buffer).await?;
        at += n;
        if tally.counting.load(Ordering::Relaxed) {
            tally.bytes.fetch_add(n, Ordering::Relaxed);
        }
    }
}

fn endless(nth: usize) -> Request {
    Request { seed: nth as u32 * 7919, length: RPC.0, answer: ENDLESS }
}

/// Opens connections, says so, and keeps them until standard input ends.
pub(crate) async fn hold(hold: Hold) -> Result<()> {
    let mut held = Vec::with_capacity(hold.connections);
    let mut left: VecDeque<usize> = (0..hold.connections).collect();
    let mut opening = JoinSet::new();
    loop {
        while opening.len() < OPENING
            && let Some(nth) = left.pop_front()
        {
            opening.spawn(open(hold.to, nth, hold.stall));
        }
        let Some(opened) = opening.join_next().await else { break };
        held.push(opened??);
    }
    println!("held");
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    if !hold.stall {
        for stream in &mut held {
            exchange(stream, one_byte(0), &mut [0; 64]).await.context("after idling")?;
        }
    }
    Ok(())
}

async fn open(to: SocketAddr, nth: usize, stall: bool) -> Result<TcpStream> {
    let mut stream = connect(to).await?;
    if stall {
        stream.write_all(&endless(nth).encode()).await?;
    } else {
        exchange(&mut stream, one_byte(nth), &mut [0; 64]).await?;
    }
    Ok(stream)
}

fn one_byte(nth: usize) -> Request {
    Request { seed: nth as u32, length: 17, answer: 1 }
}

/// Waits until a request to each of these is answered; what is not there yet refuses or resets.
pub(crate) async fn probe(to: &[SocketAddr]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    for &to in to {
        loop {
            let attempt =
                async { exchange(&mut connect(to).await?, one_byte(1), &mut [0; 64]).await };
            match timeout(Duration::from_secs(2), attempt).await {
                Ok(Ok(_)) => break,
                _ if Instant::now() < deadline => sleep(Duration::from_millis(20)).await,
                Ok(Err(error)) => return Err(error.context(format!("{to} does not answer"))),
                Err(_) => bail!("{to} does not answer"),
            }
        }
    }
    Ok(())
}
