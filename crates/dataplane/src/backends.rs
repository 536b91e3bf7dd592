//! Which backends answer, as this node's own dials found.
//!
//! A dial that fails puts its backend down at once: no stream is sent there, and peers are told. A
//! backend that is down is dialled again by us, with backoff, until it answers; where its export asks for
//! it, one that is up is probed as well. What is published is the set of those that are down.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_core::code::Code;
use adit_core::snapshot::{Hop, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::flow::Failure;
use crate::tcp::{Net, Tcp};

/// A backend that is down is dialled again after this, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// The longest pause between two dials of a backend that is down.
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Dials whose outcome may wait to be taken. More are dropped: the next one says the same.
const REPORTS: usize = 1024;
/// Probes under way at once, so that a thousand backends that went down are no storm.
const PROBES: usize = 32;

/// Where dials report, and where what they found is read.
#[derive(Debug, Clone)]
pub struct Backends {
    reports: mpsc::Sender<(SocketAddr, bool)>,
    down: watch::Receiver<BTreeSet<SocketAddr>>,
    last: Last,
}

/// How the last dial of each backend ended.
type Last = Arc<Mutex<BTreeMap<SocketAddr, Result<(), Failure>>>>;

/// The task that keeps the set; it runs until its token is cancelled.
#[derive(Debug)]
pub struct Keeper {
    reports: mpsc::Receiver<(SocketAddr, bool)>,
    down: watch::Sender<BTreeSet<SocketAddr>>,
    last: Last,
    dial_timeout: Duration,
}

/// A backend that is dialled by us: when next, and how often it has failed since it last answered.
struct Watched {
    next: Instant,
    failures: u32,
}

impl Watched {
    fn now() -> Self {
        Self { next: Instant::now(), failures: 0 }
    }
}

impl Backends {
    /// All are taken to be well until a dial fails. `dial_timeout` bounds a probe.
    #[must_use]
    pub fn new(dial_timeout: Duration) -> (Self, Keeper) {
        let (reports, inbox) = mpsc::channel(REPORTS);
        let (sender, down) = watch::channel(BTreeSet::new());
        let last = Last::default();
        let keeper = Keeper { reports: inbox, down: sender, last: last.clone(), dial_timeout };
        (Self { reports, down, last }, keeper)
    }

    /// The backends that do not answer at present.
    #[must_use]
    pub fn down(&self) -> watch::Receiver<BTreeSet<SocketAddr>> {
        self.down.clone()
    }

    /// How the last dial of each backend of the snapshot's exports ended, where one was made.
    #[must_use]
    pub fn last(&self) -> BTreeMap<SocketAddr, Result<(), Failure>> {
        lock(&self.last).clone()
    }

    /// Takes the outcome of a dial.
    pub(crate) fn report(&self, backend: SocketAddr, outcome: Result<(), Failure>) {
        let answered = outcome.is_ok();
        lock(&self.last).insert(backend, outcome);
        if answered && !self.down.borrow().contains(&backend) {
            return;
        }
        // A full queue loses nothing that the next dial would not say again.
        self.reports.try_send((backend, answered)).ok();
    }
}

fn lock(last: &Last) -> MutexGuard<'_, BTreeMap<SocketAddr, Result<(), Failure>>> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keeper {
    /// Keeps the set for the backends of the current snapshot's exports.
    pub async fn run<N: Net>(
        mut self,
        net: Arc<N>,
        mut snapshot: watch::Receiver<Arc<Snapshot>>,
        stop: CancellationToken,
    ) {
        let probes = TaskTracker::new();
        let (found, mut finds) = mpsc::channel(PROBES);
        let mut watched: BTreeMap<SocketAddr, Watched> = BTreeMap::new();
        loop {
            let plan = probe_intervals(&snapshot.borrow_and_update());
            watched.retain(|address, _| plan.contains_key(address));
            lock(&self.last).retain(|address, _| plan.contains_key(address));
            self.down.send_if_modified(|down| {
                let before = down.len();
                down.retain(|address| plan.contains_key(address));
                down.len() != before
            });
            for (address, interval) in &plan {
                if let Some(interval) = interval {
                    let next = Instant::now() + *interval;
                    watched.entry(*address).or_insert(Watched { next, failures: 0 });
                }
            }
            let due = watched.values().map(|w| w.next).min();
            let wake = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            let (backend, answered) = tokio::select! {
                () = stop.cancelled() => break,
                changed = snapshot.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => break,
                },
                Some(report) = self.reports.recv() => report,
                Some(find) = finds.recv() => find,
                // With all probes out, an outcome is what there is to wait for.
                () = sleep_until(wake), if probes.len() < PROBES => {
                    let now = Instant::now();
                    for (address, state) in watched.iter_mut().filter(|(_, w)| w.next <= now) {
                        if probes.len() >= PROBES {
                            break;
                        }
                        // Until its own outcome arrives.
                        state.next = now + self.dial_timeout + LAST_RETRY;
                        let (net, found, limit) = (net.clone(), found.clone(), self.dial_timeout);
                        let last = self.last.clone();
                        let address = *address;
                        probes.spawn(async move {
                            let dial = timeout(limit, net.dial(address)).await;
                            let dial = dial.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                            let outcome = dial.map(|tcp| tcp.settle()).map_err(|e| dial_failure(address, &e).0);
                            let answered = outcome.is_ok();
                            lock(&last).insert(address, outcome);
                            found.send((address, answered)).await.ok();
                        });
                    }
                    continue;
                }
            };
            let Some(interval) = plan.get(&backend) else { continue };
            self.take(backend, answered);
            match (answered, interval) {
                (true, None) => drop(watched.remove(&backend)),
                (true, Some(interval)) => {
                    let next = Instant::now() + *interval;
                    watched.insert(backend, Watched { next, failures: 0 });
                }
                (false, _) => {
                    let entry = watched.entry(backend);
                    let state = entry.or_insert_with(Watched::now);
                    let pause = FIRST_RETRY.saturating_mul(1 << state.failures.min(8));
                    state.next = Instant::now() + pause.min(LAST_RETRY);
                    state.failures += 1;
                }
            }
        }
        probes.close();
        probes.wait().await;
    }

    fn take(&self, backend: SocketAddr, answered: bool) {
        let changed = self.down.send_if_modified(|down| {
            if answered { down.remove(&backend) } else { down.insert(backend) }
        });
        if changed && answered {
            tracing::info!(%backend, "backend answers again");
        } else if changed {
            tracing::warn!(%backend, "backend does not answer");
        }
    }
}

/// Why a dial failed, and whether the backend is to blame rather than this node.
#[expect(clippy::wildcard_enum_match_arm, reason = "the standard library's list is open")]
pub(crate) fn dial_failure(backend: SocketAddr, error: &io::Error) -> (Failure, bool) {
    use io::ErrorKind as Kind;
    let (code, at_fault) = match error.kind() {
        Kind::ConnectionRefused | Kind::ConnectionReset => (Code::BackendRefused, true),
        Kind::TimedOut => (Code::BackendTimeout, true),
        Kind::HostUnreachable | Kind::NetworkUnreachable => (Code::BackendUnreachable, true),
        Kind::PermissionDenied => (Code::BackendUnreachable, false),
        // Out of descriptors, ports or memory. Nothing was delivered, and another node may have some.
        _ => (Code::OverLimit, false),
    };
    (Failure::new(code, format!("backend {backend}: {error}")), at_fault)
}

/// Every backend that this node may dial, and how often it is to be probed while it is up. What runs on another
/// node is that node's to dial where the export says so, unless the operator wrote its address out.
fn probe_intervals(now: &Snapshot) -> BTreeMap<SocketAddr, Option<Duration>> {
    let mut plan = BTreeMap::new();
    for export in now.exports.values() {
        let allowed = |b: &&adit_core::snapshot::Backend| {
            let ours = export.hop == Hop::Any || b.written_out || b.node == now.this.node;
            ours && now.may_dial(b)
        };
        for backend in export.ports.iter().flat_map(|p| &p.backends).filter(allowed) {
            let interval = plan.entry(backend.address).or_insert(export.probe);
            *interval = match (*interval, export.probe) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }
    plan
}
