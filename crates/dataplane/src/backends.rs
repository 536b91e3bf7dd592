//! Which backends answer, as this node's own dials found.
//!
//! A dial that fails puts its backend down at once: no stream is sent there, and peers are told. Each backend that
//! nobody has dialled is probed once, so that peers need not find out; one that is down again and again, with
//! backoff, until it answers; where its export asks for it, one that is up as well. What is published are those
//! that are down, and why, and those that have answered: a new one is told to peers once it has.

mod dial_failure;
mod lines;
mod schedule;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use adit_core::fault::{BackendFault, BackendStates};
use adit_core::name::Namespace;
use adit_core::policy::Target;
use adit_core::routing;
use adit_core::snapshot::Snapshot;
use adit_runtime::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::dial_failure::{dial_failure, hint};
use self::lines::FlapLines;
use self::schedule::{MAX_PROBES, PlannedProbes, ProbeSchedule};
use crate::flow::FlowFailure;
use crate::tcp::{Tcp, TcpNetwork};

/// Dials whose outcome may wait to be taken. More are dropped: the next one says the same.
const MAX_PENDING_REPORTS: usize = 1024;
/// The longest that this node goes by what it was told of others' backends, from when it was told last.
const MAX_REMOTE_FAULTS_LIFETIME: Duration = Duration::from_secs(300);
/// The least time between two accounts of what probes found: each has the snapshot made anew, and peers told.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// Where dials report, and where what they found is read.
#[derive(Debug, Clone)]
pub struct BackendHealth {
    reports: mpsc::Sender<(SocketAddr, DialResult)>,
    states: watch::Receiver<BackendStates>,
    remote_faults: Arc<watch::Sender<RemoteFaults>>,
    last_dials: LastDials,
}

/// Exports that no backend answers for, as other nodes found, and until when that holds.
type RemoteFaults = (BTreeMap<Target, BackendFault>, Option<Instant>);

/// The result of a dial.
type DialResult = Result<(), BackendFault>;

/// The result of the last dial of each backend.
type LastDials = Arc<Mutex<BTreeMap<SocketAddr, Result<(), FlowFailure>>>>;

/// The task behind [`BackendHealth`]: probes the backends of the snapshot's exports, takes in the results of dials, and
/// publishes [`BackendStates`]. It runs until its token is cancelled.
#[derive(Debug)]
pub struct HealthChecker {
    reports: mpsc::Receiver<(SocketAddr, DialResult)>,
    states: watch::Sender<BackendStates>,
    remote_faults: watch::Receiver<RemoteFaults>,
    last_dials: LastDials,
    dial_timeout: Duration,
    lines: FlapLines,
}

/// The result of a probe, and the namespace that it counted in. `None` is no news: this node could not dial.
struct ProbeResult {
    backend: SocketAddr,
    namespace: Namespace,
    dialled: Option<DialResult>,
}

impl BackendHealth {
    /// All that there are at first are taken to be well until a dial fails. `dial_timeout` bounds a probe.
    #[must_use]
    pub fn new(dial_timeout: Duration) -> (Self, HealthChecker) {
        let (reports, inbox) = mpsc::channel(MAX_PENDING_REPORTS);
        let (sender, states) = watch::channel(BackendStates::default());
        let last = LastDials::default();
        let (tell, told) = watch::channel(RemoteFaults::default());
        let last_dials = last.clone();
        let keeper = HealthChecker {
            reports: inbox,
            states: sender,
            remote_faults: told,
            last_dials,
            dial_timeout,
            lines: FlapLines::default(),
        };
        (Self { reports, states, remote_faults: Arc::new(tell), last_dials: last }, keeper)
    }

    /// The backends that do not answer at present, and those that have answered.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<BackendStates> {
        self.states.clone()
    }

    /// Takes what was told of exports whose backends other nodes dial: all of it, for so long,
    /// [`MAX_REMOTE_FAULTS_LIFETIME`] at most.
    pub fn set_remote_faults(&self, unserved: BTreeMap<Target, BackendFault>, valid: Duration) {
        let until =
            (!unserved.is_empty()).then(|| Instant::now() + valid.min(MAX_REMOTE_FAULTS_LIFETIME));
        self.remote_faults.send_replace((unserved, until));
    }

    /// The result of the last dial of each backend of the snapshot's exports, if one was made.
    #[must_use]
    pub fn last_dials(&self) -> BTreeMap<SocketAddr, Result<(), FlowFailure>> {
        lock(&self.last_dials).clone()
    }

    /// Takes the outcome of a dial.
    pub(crate) fn record_dial(&self, backend: SocketAddr, outcome: Result<(), FlowFailure>) {
        let dialled = outcome.as_ref().map(|&()| ()).map_err(fault);
        let is_first = lock(&self.last_dials).insert(backend, outcome).is_none();
        // The first makes a probe needless.
        if dialled.is_ok() && !is_first && !self.states.borrow().down.contains_key(&backend) {
            return;
        }
        // A full queue loses nothing that the next dial would not say again.
        self.reports.try_send((backend, dialled)).ok();
    }
}

/// The failure of a dial, as it is published.
fn fault(failure: &FlowFailure) -> BackendFault {
    BackendFault::from_code(failure.code).unwrap_or(BackendFault::Unreachable)
}

fn lock(last: &LastDials) -> MutexGuard<'_, BTreeMap<SocketAddr, Result<(), FlowFailure>>> {
    last.lock()
}

impl HealthChecker {
    /// Keeps the set for the backends of the current snapshot's exports.
    pub async fn run<N: TcpNetwork>(
        mut self,
        net: Arc<N>,
        mut snapshot: watch::Receiver<Arc<Snapshot>>,
        stop: CancellationToken,
    ) {
        let probes = TaskTracker::new();
        let (found, mut finds) = mpsc::channel(MAX_PROBES);
        let mut schedule = ProbeSchedule::default();
        let (mut untold, mut tell_at) = (Vec::new(), Instant::now());
        let mut planned = snapshot.borrow_and_update().clone();
        self.presume_up(&planned);
        self.plan(&mut schedule, &planned);
        loop {
            let probe_at = schedule.next();
            let told_until = self.remote_faults.borrow().1;
            let far = || Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                () = stop.cancelled() => break,
                now = next_plan(&mut snapshot, &planned) => {
                    let Some(now) = now else { break };
                    planned = now;
                    self.plan(&mut schedule, &planned);
                }
                Some((backend, dialled)) = self.reports.recv() => {
                    schedule.record(backend, Some(dialled.is_ok()), Instant::now());
                    self.apply_results(&schedule, [(backend, Some(dialled))]);
                }
                Some(ProbeResult { backend, namespace, dialled }) = finds.recv() => {
                    schedule.end(&namespace);
                    schedule.record(backend, dialled.map(|d| d.is_ok()), Instant::now());
                    untold.push((backend, dialled));
                }
                Ok(()) = self.remote_faults.changed() => {
                    let unserved = self.remote_faults.borrow_and_update().0.clone();
                    self.publish_remote_faults(unserved);
                }
                () = sleep_until(told_until.unwrap_or_else(far)), if told_until.is_some() && self.has_remote_faults() => {
                    self.publish_remote_faults(BTreeMap::new());
                }
                () = sleep_until(tell_at), if !untold.is_empty() => {
                    self.apply_results(&schedule, untold.drain(..));
                    tell_at = Instant::now() + PUBLISH_INTERVAL;
                }
                () = sleep_until(probe_at.unwrap_or_else(far)), if probe_at.is_some() => {
                    while let Some(next) = schedule.start(Instant::now()) {
                        probes.spawn(self.probe(&net, next, found.clone()));
                    }
                }
            }
        }
        probes.close();
        probes.wait().await;
    }

    /// Forgets what is nobody's backend any more, and takes up what is new.
    fn plan(&mut self, schedule: &mut ProbeSchedule, snapshot: &Snapshot) {
        let plan = planned(snapshot);
        self.lines.retain(|address| plan.contains_key(&address));
        let mut last = lock(&self.last_dials);
        last.retain(|address, _| plan.contains_key(address));
        schedule.plan(&plan, |address| last.contains_key(address), Instant::now());
        let proved = |at: &&SocketAddr| matches!(last.get(*at), Some(Ok(())));
        let proved: Vec<SocketAddr> = plan.keys().filter(proved).copied().collect();
        drop(last);
        self.states.send_if_modified(|BackendStates { down, answered, .. }| {
            let answered = answered.get_or_insert_default();
            let before = (down.len(), answered.len());
            down.retain(|address, _| plan.contains_key(address));
            answered.retain(|address| plan.contains_key(address));
            let is_less = (down.len(), answered.len()) != before;
            let left = answered.len();
            answered.extend(proved);
            // What others probe is well as far as this node knows: a hub that it becomes must not say otherwise before
            // it has dialled.
            let unasked = plan.iter().filter(|(_, planned)| !planned.is_probed);
            answered.extend(unasked.map(|(address, _)| *address));
            is_less || answered.len() != left
        });
    }

    /// Takes what there is when the process begins to be well: peers that were led here before it must not be told
    /// otherwise until a dial says so.
    fn presume_up(&self, snapshot: &Snapshot) {
        let all = planned(snapshot).into_keys().collect();
        self.states.send_modify(|states| states.answered = Some(all));
    }

    fn has_remote_faults(&self) -> bool {
        !self.states.borrow().unserved.is_empty()
    }

    /// Publishes what other nodes found.
    fn publish_remote_faults(&self, unserved: BTreeMap<Target, BackendFault>) {
        self.states.send_if_modified(|states| {
            let is_new = states.unserved != unserved;
            states.unserved = unserved;
            is_new
        });
    }

    /// Dials one backend, and says what came of it.
    fn probe<N: TcpNetwork>(
        &self,
        net: &Arc<N>,
        (backend, namespace): (SocketAddr, Namespace),
        found: mpsc::Sender<ProbeResult>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (net, last, limit) = (net.clone(), self.last_dials.clone(), self.dial_timeout);
        async move {
            let dial = timeout(limit, net.dial(backend)).await;
            let dial = dial.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let dial =
                dial.map(|tcp| tcp.close_gracefully()).map_err(|e| dial_failure(backend, &e));
            let dialled = match dial {
                Ok(()) => {
                    lock(&last).insert(backend, Ok(()));
                    Some(Ok(()))
                }
                Err((failure, true)) => {
                    let fault = fault(&failure);
                    lock(&last).insert(backend, Err(failure));
                    Some(Err(fault))
                }
                Err((_, false)) => None,
            };
            found.send(ProbeResult { backend, namespace, dialled }).await.ok();
        }
    }

    /// Takes what dials found of backends that this node may still dial.
    fn apply_results(
        &mut self,
        schedule: &ProbeSchedule,
        all: impl IntoIterator<Item = (SocketAddr, Option<DialResult>)>,
    ) {
        let lines = &mut self.lines;
        self.states.send_if_modified(|BackendStates { down, answered, .. }| {
            let answered = answered.get_or_insert_default();
            let mut changed = false;
            for (backend, dialled) in all.into_iter().filter(|(b, _)| schedule.contains(*b)) {
                changed |= match dialled {
                    Some(Ok(())) if down.remove(&backend).is_some() => {
                        if let Some(unlogged) = lines.admit(backend) {
                            tracing::info!(%backend, unlogged, "backend answers again");
                        }
                        answered.insert(backend);
                        true
                    }
                    // What this node cannot dial may be well all the same.
                    Some(Ok(())) => answered.insert(backend),
                    None => !down.contains_key(&backend) && answered.insert(backend),
                    Some(Err(fault)) => {
                        let before = down.insert(backend, fault);
                        if let Some(unlogged) =
                            before.is_none().then(|| lines.admit(backend)).flatten()
                        {
                            let fault = fault.description();
                            tracing::warn!(%backend, unlogged, "backend does not answer: {fault}");
                        }
                        before != Some(fault)
                    }
                };
            }
            changed
        });
    }
}

/// The next snapshot for which there may be another plan than for `before`; `None` if there is no further one.
async fn next_plan(
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    before: &Snapshot,
) -> Option<Arc<Snapshot>> {
    let snapshot = snapshots.wait_for(|snapshot| may_plan_differ(before, snapshot)).await.ok()?;
    Some(Arc::clone(&snapshot))
}

/// True if [`planned`] may give something else for `after` than for `before`. Most snapshots differ in what peers said
/// of themselves, and each look at every backend is one that no peer is to cause.
fn may_plan_differ(before: &Snapshot, after: &Snapshot) -> bool {
    !before.exports.is_same(&after.exports)
        || !before.imports.is_same(&after.imports)
        || before.forbidden != after.forbidden
        || before.local.node != after.local.node
        // Hubs probe what others do not.
        || before.siblings != after.siblings
        || before.links.keys().ne(after.links.keys())
}

/// Every backend that this node dials, and how often it is to be probed while it is up: see
/// [`Snapshot::should_probe`].
fn planned(snapshot: &Snapshot) -> BTreeMap<SocketAddr, PlannedProbes> {
    let (mut plan, is_hub) = (BTreeMap::new(), routing::is_any_hub(snapshot));
    for export in snapshot.exports.values() {
        let allowed = |b: &&adit_core::snapshot::Backend| snapshot.should_dial(export, b);
        for backend in export.ports.iter().flat_map(|p| &p.backends).filter(allowed) {
            let is_probed = snapshot.should_probe(export, backend, is_hub);
            let namespace = || export.service.namespace.clone();
            let new =
                || PlannedProbes { namespace: namespace(), interval: export.probe, is_probed };
            let planned: &mut PlannedProbes = plan.entry(backend.address).or_insert_with(new);
            planned.is_probed |= is_probed;
            planned.interval = match (planned.interval, export.probe) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use adit_core::name::ServiceName;

    use super::*;
    use crate::testing::snapshot;

    /// Snapshots that peers' words and dials bring about, by themselves and after each other.
    fn said_by_others(snapshot: &Arc<Snapshot>) -> [Arc<Snapshot>; 2] {
        let mut other = Snapshot::clone(snapshot);
        other.views.insert("edge".parse().unwrap(), Arc::default());
        let first = Arc::new(other.clone());
        other.down.insert("10.244.2.9:8080".parse().unwrap(), BackendFault::Refused);
        [first, Arc::new(other)]
    }

    #[test]
    fn backends_are_looked_through_where_they_may_be_others_and_not_when_a_peer_speaks() {
        let service: ServiceName = "agents/bank-bot".parse().unwrap();
        let now = snapshot(&service, true);
        for other in said_by_others(&now) {
            assert!(!may_plan_differ(&now, &other));
        }
        assert!(may_plan_differ(&now, &snapshot(&service, false)));
        let mut nobodys = Snapshot::clone(&now);
        nobodys.forbidden.insert("10.244.2.9".parse().unwrap());
        assert!(may_plan_differ(&now, &nobodys));
        assert_eq!((planned(&now).len(), planned(&nobodys).len()), (1, 0));
    }
}
