//! A bounded HTTP server: accepts, serves, gives up on whoever is slow.
//!
//! Owns the limits, and closes whoever is not admitted before a byte is read. A stranger in the cluster can reach the public listener, and the kubelet restarts a pod
//! whose probe is not answered: no address may take all connections, and none may hold one for long.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use adit_runtime::count_down;
use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics::{Unit, counter, describe_counter};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections of one server at a time.
const MAX_CONNECTIONS: usize = 128;
/// … and from one address. The kubelet and Prometheus need one or two each.
const MAX_PER_ADDRESS: usize = 16;
/// From the start of a connection, or the end of an answer, to the last byte of the next head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// After this a connection takes no further request…
const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);
/// … and after this more it is closed, whatever it is doing.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The whole head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Header lines of a request.
const MAX_HEADERS: usize = 64;
/// After a failed accept, which is about a lack of descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Those who were not let in.
const READERS_REFUSED: &str = "adit_metrics_readers_refused_total";

/// Describes what is counted here to the recorder: once, after it is installed.
pub(crate) fn describe() {
    describe_counter!(
        READERS_REFUSED,
        Unit::Count,
        "Connections to /metrics that were closed unread, because nobody may read it from there (network.metricsFrom)"
    );
}

/// Has it begin at 0.
pub(crate) fn begin() {
    counter!(READERS_REFUSED).increment(0);
}

/// The answer to whether an address may connect.
pub type AdmissionAnswer = Pin<Box<dyn Future<Output = bool> + Send>>;

/// The clients that may connect to a server over TCP, by address in canonical form. Whoever may not is closed before a byte is read.
#[derive(Clone)]
pub struct Admission(Arc<dyn Fn(IpAddr) -> AdmissionAnswer + Send + Sync>);

impl Admission {
    /// Those for whose address `admits` says so, in a few seconds at most.
    pub fn new(admits: impl Fn(IpAddr) -> AdmissionAnswer + Send + Sync + 'static) -> Self {
        Self(Arc::new(admits))
    }

    /// Whoever reaches the server.
    #[must_use]
    pub fn everybody() -> Self {
        Self::new(|_| Box::pin(std::future::ready(true)))
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

/// The lifetime of a connection, in the hands of whoever answers a request on it.
#[derive(Debug, Clone, Default)]
pub(super) struct AnswerLifetime(Arc<AtomicBool>);

impl AnswerLifetime {
    /// Has the answer last until the client or the server ends it: it has no end of its own. Whoever calls this bounds how many
    /// there are.
    pub(super) fn extend(&self) {
        self.0.store(true, Relaxed);
    }

    fn is_extended(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// Where a server listens; bound by whoever calls.
#[derive(Debug)]
pub enum AdminListener {
    /// A Unix socket.
    Unix(UnixListener),
    /// A TCP socket.
    Tcp(TcpListener),
}

/// Serves `router` until `stop`, then lets answers under way finish for a moment.
pub async fn run(listener: AdminListener, router: Router, stop: CancellationToken) {
    run_for(listener, router, stop, Admission::everybody()).await;
}

/// The same, for those who are admitted.
pub async fn run_for(
    listener: AdminListener,
    router: Router,
    stop: CancellationToken,
    admission: Admission,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut per_address = HashMap::<IpAddr, usize>::new();
    // Each task gives back the address that it served.
    let mut tasks = JoinSet::<Option<IpAddr>>::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => {
                if let Some(address) = ended.ok().flatten() {
                    count_down(&mut per_address, &address);
                }
                continue;
            }
            accepted = accept(&listener, &permits) => accepted,
        };
        let (permit, connection) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the admin server");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let (router, stop) = (router.clone(), stop.clone());
        match connection {
            Accepted::Unix(stream) => drop(tasks.spawn(async move {
                serve_connection(stream, router, stop).await;
                drop(permit);
                None
            })),
            Accepted::Tcp(stream, address) => {
                let count = per_address.entry(address).or_default();
                if *count >= MAX_PER_ADDRESS {
                    tracing::debug!(%address, "too many connections to the admin server from one address");
                    continue;
                }
                *count += 1;
                let admitted = (admission.0)(address);
                tasks.spawn(async move {
                    serve_admitted(stream, router, stop, admitted).await;
                    drop(permit);
                    Some(address)
                });
            }
        }
    }
    drop(listener);
    let finished = async { while tasks.join_next().await.is_some() {} };
    // Late ones are dropped with the set.
    tokio::time::timeout(Duration::from_secs(2), finished).await.ok();
}

/// Serves a connection, unless the answer is that its client may not connect.
async fn serve_admitted(
    stream: tokio::net::TcpStream,
    router: Router,
    stop: CancellationToken,
    admitted: AdmissionAnswer,
) {
    if admitted.await {
        serve_connection(stream, router, stop).await;
    } else {
        counter!(READERS_REFUSED).increment(1);
    }
}

enum Accepted {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream, IpAddr),
}

async fn accept(
    listener: &AdminListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(tokio::sync::OwnedSemaphorePermit, Accepted)> {
    let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
    let accepted = match listener {
        AdminListener::Unix(listener) => Accepted::Unix(listener.accept().await?.0),
        AdminListener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            Accepted::Tcp(stream, address.ip().to_canonical())
        }
    };
    Ok((permit, accepted))
}

/// Serves a connection to its end. Errors on it are the other side's to notice.
pub(super) async fn serve_connection<S>(stream: S, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let lifetime = AnswerLifetime::default();
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(lifetime.clone());
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        _ended = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = tokio::time::sleep(CONNECTION_LIFETIME) => {}
    }
    if lifetime.is_extended() {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            _ended = connection.as_mut() => {}
        }
        return;
    }
    connection.as_mut().graceful_shutdown();
    tokio::time::timeout(LAST_ANSWER_TIMEOUT, connection).await.ok();
}
