//! The listening sockets of imports: those that the snapshot asks for, and no others.
//!
//! Each worker has a listener of its own for each address, so that a connection stays on the core that
//! accepted it. A change of the snapshot opens and closes only what changed. An address that cannot be
//! listened at is tried again, and said in [`ImportListeners::failures`]. There are never more than a share of the
//! process's descriptors, however many ports imports have; what is open stays.
//!
//! A process that takes over from another one goes on with that one's sockets ([`ImportListeners::inherit`]), whose
//! queues may hold connections; [`OpenSockets`] has ours for the process that comes next. A socket that listens
//! is never closed while its address is wanted, but for the last process's end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use adit_core::snapshot::Snapshot;
use adit_runtime::Mutex;
use adit_transport::Links;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backends;
use crate::data_path::DataPath;
use crate::outbound::{self, Egress};
use crate::tcp::{TcpAcceptor, TcpNetwork};

/// The most listening sockets of a node, all workers' together: 10,000 imports of two ports and both families take
/// as many with three workers.
const MAX_SOCKETS: usize = 131_072;
/// The share of the process's descriptors that listening sockets may take: one in so many.
const DESCRIPTOR_SHARE: u64 = 4;
/// The most addresses that are named in the log at a time.
const MAX_LOGGED: usize = 8;
/// An address that could not be listened at is tried again this often.
const LISTEN_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// The pause after accepting has failed: out of descriptors, most likely.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Sockets that listen, by their address.
pub type InheritedListeners = BTreeMap<SocketAddr, Vec<OwnedFd>>;

/// The listening sockets that are open now. Cheap to clone.
#[derive(Clone)]
pub struct OpenSockets(Arc<dyn SharedSockets>);

impl OpenSockets {
    /// The addresses that are listened at.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.addresses()
    }

    /// The sockets of one address, again; `None` if it is listened at no more.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn share(&self, address: SocketAddr) -> io::Result<Vec<OwnedFd>> {
        self.0.share(address)
    }
}

impl fmt::Debug for OpenSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSockets").field("addresses", &self.addresses().len()).finish()
    }
}

trait SharedSockets: Send + Sync {
    fn addresses(&self) -> Vec<SocketAddr>;
    fn share(&self, address: SocketAddr) -> io::Result<Vec<OwnedFd>>;
}

struct OpenListeners<L>(Mutex<BTreeMap<SocketAddr, Vec<Arc<L>>>>);

impl<L> OpenListeners<L> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Vec<Arc<L>>>> {
        self.0.lock()
    }
}

impl<L> fmt::Debug for OpenListeners<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenListeners").field(&self.lock().len()).finish()
    }
}

impl<L: TcpAcceptor> SharedSockets for OpenListeners<L> {
    fn addresses(&self) -> Vec<SocketAddr> {
        self.lock().keys().copied().collect()
    }

    fn share(&self, address: SocketAddr) -> io::Result<Vec<OwnedFd>> {
        self.lock().get(&address).into_iter().flatten().map(|l| l.share()).collect()
    }
}

/// The listeners of one node.
pub struct ImportListeners<N: TcpNetwork> {
    data_path: Arc<DataPath<N>>,
    links: Links,
    /// Each worker's runtime.
    workers: Vec<Handle>,
    flows: TaskTracker,
    failures: watch::Sender<BTreeMap<SocketAddr, String>>,
    open: Arc<OpenListeners<N::Listener>>,
    inherited: InheritedListeners,
}

impl<N: TcpNetwork> fmt::Debug for ImportListeners<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportListeners").field("open", &self.open).finish_non_exhaustive()
    }
}

impl<N: TcpNetwork> ImportListeners<N> {
    /// Listeners that serve on `workers`; every flow becomes a task of `flows`.
    #[must_use]
    pub fn new(
        data_path: Arc<DataPath<N>>,
        links: Links,
        workers: Vec<Handle>,
        flows: TaskTracker,
    ) -> Self {
        let open = Arc::new(OpenListeners(Mutex::default()));
        let (failures, inherited) = (watch::Sender::default(), InheritedListeners::new());
        Self { data_path, links, workers, flows, failures, open, inherited }
    }

    /// Sockets of the process before this one, instead of new ones. Those that the first snapshot has no use for
    /// are let go.
    pub fn inherit(&mut self, sockets: InheritedListeners) {
        self.inherited = sockets;
    }

    /// The sockets as they are at any time.
    #[must_use]
    pub fn sockets(&self) -> OpenSockets {
        OpenSockets(Arc::clone(&self.open) as _)
    }

    /// The addresses that cannot be listened at, and why.
    #[must_use]
    pub fn failures(&self) -> watch::Receiver<BTreeMap<SocketAddr, String>> {
        self.failures.subscribe()
    }

    /// Keeps the listeners as the snapshot wants them, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut snapshots = self.data_path.snapshot.clone();
        let mut open: BTreeMap<SocketAddr, CancellationToken> = BTreeMap::new();
        let most = max_addresses(adit_host::descriptors::limit().soft, self.workers.len());
        loop {
            let imports = snapshots.borrow_and_update().imports.clone();
            let wanted: BTreeSet<SocketAddr> = imports.addresses().collect();
            open.retain(|address, token| {
                let keep = wanted.contains(address);
                if !keep {
                    token.cancel();
                    self.open.lock().remove(address);
                }
                keep
            });
            let mut failed = BTreeMap::new();
            let free = most.saturating_sub(open.len());
            for (n, address) in addresses_to_open(&wanted, &open).into_iter().enumerate() {
                if n >= free {
                    let why = format!(
                        "cannot listen at {address}: this node listens at {most} addresses, the most that it may"
                    );
                    failed.insert(address, why);
                    continue;
                }
                let token = stop.child_token();
                match self.listen(address, &token) {
                    Ok(()) => drop(open.insert(address, token)),
                    Err(error) => {
                        token.cancel();
                        failed.insert(address, format!("cannot listen at {address}: {error}"));
                    }
                }
            }
            self.inherited.clear();
            let retry = !failed.is_empty();
            self.publish_failures(failed);
            // Most snapshots differ in what peers said of themselves.
            let are_others = |snapshot: &Arc<Snapshot>| !snapshot.imports.is_same(&imports);
            let changed = async { snapshots.wait_for(are_others).await.is_ok() };
            tokio::select! {
                () = stop.cancelled() => break,
                changed = changed => if !changed {
                    stop.cancelled().await;
                    break;
                },
                () = sleep(LISTEN_RETRY_INTERVAL), if retry => {}
            }
        }
        self.open.lock().clear();
    }

    fn publish_failures(&self, failed: BTreeMap<SocketAddr, String>) {
        self.failures.send_if_modified(|known| {
            let new = || failed.iter().filter(|(address, _)| !known.contains_key(address));
            for (_, text) in new().take(MAX_LOGGED) {
                tracing::error!("{text}");
            }
            let more = new().count().saturating_sub(MAX_LOGGED);
            if more > 0 {
                tracing::error!(more, "there are more addresses that cannot be listened at");
            }
            let changed = *known != failed;
            *known = failed;
            changed
        });
    }

    fn listen(&mut self, address: SocketAddr, token: &CancellationToken) -> io::Result<()> {
        let listeners = match self.inherited.remove(&address) {
            Some(sockets) => self.adopt(sockets)?,
            None => self.bind(address)?,
        };
        self.open.lock().insert(address, listeners.iter().map(|(_, l)| Arc::clone(l)).collect());
        for (worker, listener) in listeners {
            let handle = &self.workers[worker];
            let (data_path, flows, token) =
                (self.data_path.clone(), self.flows.clone(), token.clone());
            let egress = Arc::new(Egress { links: self.links.clone(), worker });
            self.flows.spawn_on(
                async move {
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = accept(data_path, egress, listener, flows.clone()) => {}
                    }
                },
                handle,
            );
        }
        Ok(())
    }

    /// A new socket for each worker.
    fn bind(&self, address: SocketAddr) -> io::Result<Vec<WorkerListener<N>>> {
        let shared = self.workers.len() > 1;
        let bind = |(worker, handle): (usize, &Handle)| {
            let _context = handle.enter();
            Ok((worker, Arc::new(self.data_path.net.listen(address, shared)?)))
        };
        self.workers.iter().enumerate().map(bind).collect()
    }

    /// The sockets that were there, each of which has a queue and needs a worker, however many there are now.
    fn adopt(&self, sockets: Vec<OwnedFd>) -> io::Result<Vec<WorkerListener<N>>> {
        let adopt = |(n, socket): (usize, OwnedFd)| {
            let worker = n % self.workers.len();
            let _context = self.workers[worker].enter();
            Ok((worker, Arc::new(self.data_path.net.adopt(socket)?)))
        };
        sockets.into_iter().enumerate().map(adopt).collect()
    }
}

/// A listener, and the number of the worker that accepts at it.
type WorkerListener<N> = (usize, Arc<<N as TcpNetwork>::Listener>);

/// The most addresses that a process with so many descriptors may listen at.
fn max_addresses(descriptors: u64, workers: usize) -> usize {
    let share = usize::try_from(descriptors / DESCRIPTOR_SHARE).unwrap_or(usize::MAX);
    (share.min(MAX_SOCKETS) / workers.max(1)).max(1)
}

/// The addresses that are not listened at yet: the first port of every import before the second of any, so that
/// one with many takes nobody's first.
fn addresses_to_open<T>(
    wanted: &BTreeSet<SocketAddr>,
    open: &BTreeMap<SocketAddr, T>,
) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> =
        wanted.iter().filter(|address| !open.contains_key(address)).copied().collect();
    all.sort_by_key(SocketAddr::port);
    all
}

async fn accept<N: TcpNetwork>(
    data_path: Arc<DataPath<N>>,
    egress: Arc<Egress>,
    listener: Arc<N::Listener>,
    flows: TaskTracker,
) {
    loop {
        match listener.accept().await {
            Ok(tcp) => drop(flows.spawn(outbound::serve(data_path.clone(), egress.clone(), tcp))),
            Err(error) => {
                metrics::counter!(ACCEPT_ERRORS).increment(1);
                tracing::warn!(%error, "cannot accept a connection{}", backends::hint(&error));
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

const ACCEPT_ERRORS: &str = "adit_accept_errors_total";

/// Describes what listeners count to the recorder: once, after it is installed.
pub(crate) fn describe() {
    metrics::describe_counter!(
        ACCEPT_ERRORS,
        metrics::Unit::Count,
        "Connections to imports that could not be accepted: out of descriptors, most likely"
    );
}

/// Has it begin at 0.
pub(crate) fn begin_metrics() {
    metrics::counter!(ACCEPT_ERRORS).increment(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_leave_descriptors_for_connections() {
        assert_eq!(max_addresses(1_048_576, 4), 32_768);
        assert_eq!(max_addresses(1024, 4), 64);
        assert_eq!(max_addresses(10, 4), 1);
    }

    #[test]
    fn first_ports_come_before_second_ones_and_what_is_open_stays() {
        let address = |text: &&str| text.parse::<SocketAddr>().unwrap();
        let all = ["198.18.0.1:15080", "198.18.0.1:15081", "198.18.0.2:15080", "[fd00::1]:15080"];
        let wanted = all.iter().map(address).collect();
        let open = BTreeMap::from([(address(&"198.18.0.1:15081"), ())]);
        let begins: Vec<String> =
            addresses_to_open(&wanted, &open).iter().map(ToString::to_string).collect();
        assert_eq!(begins, ["198.18.0.1:15080", "198.18.0.2:15080", "[fd00::1]:15080"]);
        let begins = addresses_to_open(&wanted, &BTreeMap::<SocketAddr, ()>::new());
        assert_eq!(begins.last(), Some(&address(&"198.18.0.1:15081")));
    }
}
