//! The listening sockets of imports: those that the snapshot asks for, and no others.
//!
//! Each worker has a listener of its own for each address, so that a connection stays on the core that
//! accepted it. A change of the snapshot opens and closes only what changed. An address that cannot be
//! listened at is tried again, and said in [`Listeners::failures`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_transport::Links;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::node::Node;
use crate::outbound::{self, Way};
use crate::tcp::{Listener, Net};

/// How long until an address that could not be listened at is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How long to wait after accepting has failed: out of descriptors, most likely.
const BACKOFF: Duration = Duration::from_millis(50);

/// The listeners of one node.
#[derive(Debug)]
pub struct Listeners<N: Net> {
    node: Arc<Node<N>>,
    links: Links,
    /// Each worker's runtime.
    workers: Vec<Handle>,
    flows: TaskTracker,
    failures: watch::Sender<BTreeMap<SocketAddr, String>>,
}

impl<N: Net> Listeners<N> {
    /// Listeners that serve on `workers`; every flow becomes a task of `flows`.
    #[must_use]
    pub fn new(node: Arc<Node<N>>, links: Links, workers: Vec<Handle>, flows: TaskTracker) -> Self {
        Self { node, links, workers, flows, failures: watch::Sender::default() }
    }

    /// The addresses that cannot be listened at, and why.
    #[must_use]
    pub fn failures(&self) -> watch::Receiver<BTreeMap<SocketAddr, String>> {
        self.failures.subscribe()
    }

    /// Keeps the listeners as the snapshot wants them, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut snapshot = self.node.snapshot.clone();
        let mut open: BTreeMap<SocketAddr, CancellationToken> = BTreeMap::new();
        loop {
            let wanted: BTreeSet<SocketAddr> =
                snapshot.borrow_and_update().imports.addresses().collect();
            open.retain(|address, token| {
                let keep = wanted.contains(address);
                if !keep {
                    token.cancel();
                }
                keep
            });
            let mut failed = BTreeMap::new();
            for address in wanted {
                if open.contains_key(&address) {
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
            let retry = !failed.is_empty();
            self.tell(failed);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = snapshot.changed() => if changed.is_err() {
                    return stop.cancelled().await;
                },
                () = sleep(RETRY), if retry => {}
            }
        }
    }

    fn tell(&self, failed: BTreeMap<SocketAddr, String>) {
        self.failures.send_if_modified(|known| {
            for (_, text) in failed.iter().filter(|(address, _)| !known.contains_key(address)) {
                tracing::error!("{text}");
            }
            let changed = *known != failed;
            *known = failed;
            changed
        });
    }

    fn listen(&self, address: SocketAddr, token: &CancellationToken) -> io::Result<()> {
        let shared = self.workers.len() > 1;
        let mut listeners = Vec::new();
        for worker in &self.workers {
            let _context = worker.enter();
            listeners.push(self.node.net.listen(address, shared)?);
        }
        for (worker, (listener, handle)) in listeners.into_iter().zip(&self.workers).enumerate() {
            let (node, flows, token) = (self.node.clone(), self.flows.clone(), token.clone());
            let way = Arc::new(Way { links: self.links.clone(), worker });
            self.flows.spawn_on(
                async move {
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = accept(node, way, listener, flows.clone()) => {}
                    }
                },
                handle,
            );
        }
        Ok(())
    }
}

async fn accept<N: Net>(
    node: Arc<Node<N>>,
    way: Arc<Way>,
    listener: N::Listener,
    flows: TaskTracker,
) {
    loop {
        match listener.accept().await {
            Ok(tcp) => drop(flows.spawn(outbound::serve(node.clone(), way.clone(), tcp))),
            Err(error) => {
                metrics::counter!(ACCEPT_ERRORS).increment(1);
                tracing::warn!(%error, "cannot accept a connection");
                sleep(BACKOFF).await;
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
