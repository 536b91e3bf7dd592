//! Honest traffic: short requests at a fixed rate, one paced transfer, idle streams that must live; and
//! the agent that answers.
//!
//! All of it is an open loop: a request is due at its time whatever became of those before.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, sleep, timeout};

use super::client::{Enemy, Manners};
use crate::lab::LabHost;

/// The command to an agent: a byte of kind and eight of length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentOrder {
    /// Reads to the end, then answers that many bytes.
    Answer(u64),
    /// Sends back what it reads.
    Echo,
    /// Answers without end.
    Flood,
    /// Neither reads nor answers, until its connection ends.
    Ignore,
}

impl AgentOrder {
    /// On the wire.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        let (kind, len) = match self {
            Self::Answer(len) => (0, len),
            Self::Echo => (1, 0),
            Self::Flood => (2, 0),
            Self::Ignore => (3, 0),
        };
        [&[kind][..], &u64::to_be_bytes(len)].concat()
    }
}

/// A request that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that a request asks for.
const ANSWER: u64 = 1000;
/// The pace of the transfer: so many bytes every [`BLOCK_INTERVAL`].
const BLOCK: usize = 20_000;
const BLOCK_INTERVAL: Duration = Duration::from_millis(10);
/// Idle streams, and how often each says something.
const IDLE: usize = 4;
const WORD_INTERVAL: Duration = Duration::from_secs(1);

/// Runs `work` on a runtime of its own, on a thread of `host`.
pub fn on<F: Future<Output = ()>>(
    host: &LabHost,
    work: impl FnOnce() -> F + Send + 'static,
) -> JoinHandle<()> {
    host.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work());
    })
}

/// Answers at `address` for as long as the process lives.
pub fn agent(host: &LabHost, address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    let listener = host.enter(move || {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    });
    drop(on(host, move || async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let obeying = tokio_util::task::TaskTracker::new();
        loop {
            match listener.accept().await {
                Ok((socket, _)) => drop(obeying.spawn(obey(socket))),
                // Out of descriptors: those of others end.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }));
}

async fn obey(mut socket: TcpStream) -> std::io::Result<()> {
    let (kind, len) = (socket.read_u8().await?, socket.read_u64().await?);
    let mut block = vec![0; 64 * 1024];
    match kind {
        0 => {
            while socket.read(&mut block).await? > 0 {}
            let mut left = len;
            while left > 0 {
                let n = left.min(block.len() as u64) as usize;
                socket.write_all(&block[..n]).await?;
                left -= n as u64;
            }
        }
        1 => loop {
            let n = socket.read(&mut block).await?;
            if n == 0 {
                break;
            }
            socket.write_all(&block[..n]).await?;
        },
        2 => loop {
            socket.write_all(&block).await?;
        },
        _ => loop {
            let ready = socket.ready(tokio::io::Interest::ERROR).await?;
            if ready.is_error() {
                break;
            }
        },
    }
    Ok(())
}

/// The outcomes of honest traffic, each with its time.
#[derive(Debug, Default)]
struct LoadRecord {
    /// When a request was due, and the time that it took; `None` if it failed.
    requests: Vec<(Instant, Option<Duration>)>,
    moved: Vec<(Instant, usize)>,
    lost: Vec<Instant>,
    shaken: Vec<(Instant, Option<Duration>)>,
}

/// Honest traffic that goes on until told to stop.
pub struct HonestLoad {
    book: Arc<Mutex<LoadRecord>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The outcomes of all that was due in a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LoadAccount {
    /// The length of the span, in seconds.
    pub seconds: f64,
    /// Requests that were due.
    pub asked: usize,
    /// Of those, answered whole.
    pub answered: usize,
    /// The 99th percentile of what answered ones took.
    pub p99: Duration,
    /// Bytes of the transfer.
    pub moved: usize,
    /// Idle streams that broke.
    pub lost: usize,
    /// Handshakes of a known node that were due, and that succeeded.
    pub shaken: (usize, usize),
    /// The longest handshake.
    pub longest_handshake: Duration,
}

impl HonestLoad {
    /// Begins: `rate` requests a second from `host` to `to`.
    #[must_use]
    pub fn begin(host: &LabHost, to: &str, rate: f64) -> Self {
        let (book, over) = (Arc::default(), Arc::default());
        let mut load = Self { book, over, threads: Vec::new() };
        let to: SocketAddr = to.parse().unwrap();
        let (book, over) = (load.book.clone(), load.over.clone());
        load.threads.push(on(host, move || async move {
            let idle = (0..IDLE).map(|_| keep(to, book.clone(), over.clone()));
            let idle = futures_util::future::join_all(idle);
            tokio::join!(ask(to, rate, &book, &over), transfer(to, &book, &over), idle);
        }));
        load
    }

    /// Shakes hands anew once in a while besides, as a node that has not been connected.
    pub fn and_handshakes(&mut self, host: &LabHost, enemy: Arc<Enemy>, pause: Duration) {
        let (book, over) = (self.book.clone(), self.over.clone());
        self.threads.push(on(host, move || async move {
            while !over.load(Relaxed) {
                let due = Instant::now();
                let taken = enemy.connect("e9", &Manners::default(), 0).await;
                let took = taken.as_ref().ok().map(|_| due.elapsed());
                lock(&book).shaken.push((due, took));
                if let Ok(conn) = taken {
                    conn.quinn.close(0x40_u32.into(), b"");
                }
                sleep(pause.saturating_sub(due.elapsed())).await;
            }
        }));
    }

    /// The outcomes of all that was due from `from` to `to`.
    #[must_use]
    pub fn account(&self, from: Instant, to: Instant) -> LoadAccount {
        let within = |at: &Instant| (from..to).contains(at);
        let book = lock(&self.book);
        let due: Vec<_> = book.requests.iter().filter(|(at, _)| within(at)).collect();
        let mut took: Vec<_> = due.iter().filter_map(|(_, took)| *took).collect();
        took.sort_unstable();
        let shaken: Vec<_> = book.shaken.iter().filter(|(at, _)| within(at)).collect();
        LoadAccount {
            seconds: (to - from).as_secs_f64(),
            asked: due.len(),
            answered: took.len(),
            p99: took.get(took.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default(),
            moved: book.moved.iter().filter(|(at, _)| within(at)).map(|(_, n)| n).sum(),
            lost: book.lost.iter().filter(|at| within(at)).count(),
            shaken: (shaken.len(), shaken.iter().filter(|(_, took)| took.is_some()).count()),
            longest_handshake: shaken.iter().filter_map(|(_, t)| *t).max().unwrap_or_default(),
        }
    }

    /// Ends it.
    pub fn end(&mut self) {
        self.over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Drop for HonestLoad {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
    }
}

fn lock(book: &Mutex<LoadRecord>) -> std::sync::MutexGuard<'_, LoadRecord> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks at a fixed rate, and waits for the last answers.
async fn ask(to: SocketAddr, rate: f64, book: &Arc<Mutex<LoadRecord>>, over: &AtomicBool) {
    let mut beat = interval(Duration::from_secs_f64(1.0 / rate));
    let mut asking = tokio::task::JoinSet::new();
    while !over.load(Relaxed) {
        beat.tick().await;
        let book = book.clone();
        asking.spawn(async move {
            let due = Instant::now();
            let answered = timeout(REQUEST_TIMEOUT, request(to)).await.is_ok_and(|r| r.is_ok());
            let took = answered.then(|| due.elapsed());
            lock(&book).requests.push((due, took));
        });
        while asking.try_join_next().is_some() {}
    }
    asking.join_all().await;
}

/// Makes one short request.
///
/// # Errors
/// Why it was not answered whole.
pub async fn request(to: SocketAddr) -> std::io::Result<()> {
    let mut socket = TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    let mut bytes = AgentOrder::Answer(ANSWER).bytes();
    bytes.resize(200, b'q');
    socket.write_all(&bytes).await?;
    socket.shutdown().await?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await?;
    if answer.len() as u64 == ANSWER {
        Ok(())
    } else {
        Err(std::io::ErrorKind::UnexpectedEof.into())
    }
}

/// Reads a transfer at its pace; one that breaks is begun anew.
async fn transfer(to: SocketAddr, book: &Mutex<LoadRecord>, over: &AtomicBool) {
    let mut block = vec![0; BLOCK];
    while !over.load(Relaxed) {
        let reading = async {
            let mut socket = TcpStream::connect(to).await?;
            socket.write_all(&AgentOrder::Flood.bytes()).await?;
            let mut beat = interval(BLOCK_INTERVAL);
            while !over.load(Relaxed) {
                beat.tick().await;
                let read = timeout(REQUEST_TIMEOUT, socket.read_exact(&mut block)).await;
                read.map_err(|_| std::io::ErrorKind::TimedOut)??;
                lock(book).moved.push((Instant::now(), BLOCK));
            }
            Ok::<_, std::io::Error>(())
        };
        if reading.await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Keeps one stream open, on which a word is said and repeated once in a while.
async fn keep(to: SocketAddr, book: Arc<Mutex<LoadRecord>>, over: Arc<AtomicBool>) {
    while !over.load(Relaxed) {
        let keeping = async {
            let mut socket = TcpStream::connect(to).await?;
            socket.write_all(&AgentOrder::Echo.bytes()).await?;
            while !over.load(Relaxed) {
                socket.write_all(b"x").await?;
                let heard = timeout(REQUEST_TIMEOUT, socket.read_u8()).await;
                heard.map_err(|_| std::io::ErrorKind::TimedOut)??;
                sleep(WORD_INTERVAL).await;
            }
            Ok::<_, std::io::Error>(())
        };
        if keeping.await.is_err() && !over.load(Relaxed) {
            lock(&book).lost.push(Instant::now());
            sleep(Duration::from_millis(100)).await;
        }
    }
}
