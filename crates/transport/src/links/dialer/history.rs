//! The history of dials: for status, and so that a node that is known to be dead is not dialled for every
//! stream.
//!
//! Owns the failures of the last seconds, when a node that went away wants to be dialled again, and the last
//! good answers of the resolver.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeKey, NodeName};
use adit_runtime::Mutex;
use tokio::time::Instant;

use crate::links::connections::RecentNodes;

/// A DNS name and a port.
type DnsAddress = (Arc<str>, u16);

/// Time for which a node whose dial failed is not dialled again for a stream, from the failure.
const FAILURE_LIFETIME: Duration = Duration::from_secs(3);
/// Time for which it is kept that a node is not to be dialled, from when it said so: nobody can ask for more.
const RECONNECT_DELAY_LIFETIME: Duration = Duration::from_secs(60);

/// The reason why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct DialFailure {
    pub(crate) code: Code,
    /// For people, with the addresses.
    pub(crate) text: String,
    /// True if nothing at all came back.
    pub(crate) is_silent: bool,
}

/// The texts before the reason why this side refuses a certificate, and before why the other side refuses ours.
pub(crate) const REFUSED_HERE_PREFIX: &str = "its certificate is refused: ";
pub(crate) const REFUSED_THERE_PREFIX: &str = "it refuses this node's certificate: ";

impl DialFailure {
    pub(crate) fn new(code: Code, text: String) -> Self {
        Self { code, text, is_silent: false }
    }
}

/// The record of dialling a cluster, since the process began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DialRecord {
    /// Attempts.
    pub attempts: u64,
    /// Attempts since the last that succeeded.
    pub failures: u64,
    /// The text of the last failure, with the addresses that were tried.
    pub last_error: Option<String>,
    /// Its code.
    pub last_code: Option<Code>,
    /// True if nothing at all came back then.
    pub is_silent: bool,
    /// The time of that failure.
    pub failed_at: Option<Instant>,
    /// The time at which a standing connection is dialled next, if one is missing.
    pub next_at: Option<Instant>,
    /// True if all that is known of the cluster was dialled without success since it was last reached.
    pub unreachable: bool,
}

impl DialRecord {
    /// The reason why a certificate was refused, if that is how the last dial failed: a label comes first.
    pub(crate) fn certificate_refusal(&self) -> &str {
        let text = self.last_error.as_deref().unwrap_or_default();
        let prefixes = [REFUSED_HERE_PREFIX, REFUSED_THERE_PREFIX];
        let found = prefixes.iter().find_map(|before| text.split_once(before));
        found.map_or("", |(_, why)| why)
    }

    /// The explanation why there is no connection: how the last one was lost, `lost` in words, and how dialling
    /// went since.
    pub(crate) fn explanation(&self, lost: Option<(Instant, String)>) -> Option<String> {
        let error = self.last_error.clone();
        let Some((at, lost)) = lost else { return error };
        Some(match error.filter(|_| self.failed_at.is_some_and(|failed| failed >= at)) {
            Some(error) => format!("{lost}; {error}"),
            None => lost,
        })
    }
}

/// The history of dials.
#[derive(Debug)]
pub(crate) struct DialHistory {
    records: Mutex<BTreeMap<ClusterName, DialRecord>>,
    /// The failures of late: until when each holds, and why.
    failures: RecentNodes<(Instant, DialFailure)>,
    /// The nodes that asked not to be dialled: until when, and where each was.
    not_before: RecentNodes<(Instant, SocketAddr)>,
    resolved_names: Mutex<HashMap<DnsAddress, Vec<SocketAddr>>>,
}

impl Default for DialHistory {
    fn default() -> Self {
        Self {
            records: Mutex::default(),
            failures: RecentNodes::new(FAILURE_LIFETIME),
            not_before: RecentNodes::new(RECONNECT_DELAY_LIFETIME),
            resolved_names: Mutex::default(),
        }
    }
}

impl DialHistory {
    pub(crate) fn record_of(&self, cluster: &ClusterName) -> DialRecord {
        self.records.lock().get(cluster).cloned().unwrap_or_default()
    }

    /// Forgets the clusters that `keep` does not want.
    pub(crate) fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.records.lock().retain(|cluster, _| keep(cluster));
        self.failures.retain(&keep);
        self.not_before.retain(&keep);
    }

    /// Records the result of an attempt.
    pub(crate) fn record_attempt(&self, cluster: &ClusterName, result: Result<(), &DialFailure>) {
        let mut records = self.records.lock();
        let record = records.entry(cluster.clone()).or_default();
        record.attempts += 1;
        match result {
            // What was wrong before is no reason for what may be wrong later.
            Ok(()) => {
                let (attempts, next_at) = (record.attempts, record.next_at);
                *record = DialRecord { attempts, next_at, ..DialRecord::default() };
            }
            Err(failure) => {
                record.failures += 1;
                record.last_error = Some(failure.text.clone());
                record.last_code = Some(failure.code);
                record.is_silent = failure.is_silent;
                record.failed_at = Some(Instant::now());
            }
        }
    }

    pub(crate) fn set_unreachable(&self, cluster: &ClusterName, unreachable: bool) {
        self.records.lock().entry(cluster.clone()).or_default().unreachable = unreachable;
    }

    /// Sets when a standing connection is dialled next; `None` once that is done.
    pub(crate) fn set_next_dial(&self, cluster: &ClusterName, next: Option<Instant>) {
        self.records.lock().entry(cluster.clone()).or_default().next_at = next;
    }

    /// Remembers for a while that a node cannot be dialled.
    pub(crate) fn record_failure(&self, key: &NodeKey, is_announced: bool, failure: DialFailure) {
        self.failures.insert(key, is_announced, (Instant::now() + FAILURE_LIFETIME, failure));
    }

    pub(crate) fn forget_failure(&self, key: &NodeKey) {
        self.failures.remove(key);
    }

    /// The reason why a node cannot be dialled, as found moments ago.
    pub(crate) fn recent_failure(&self, key: &NodeKey) -> Option<DialFailure> {
        let (until, failure) = self.failures.get(key)?;
        Some(failure).filter(|_| until > Instant::now())
    }

    /// The reason why a node of the cluster cannot be dialled that was found moments ago not to answer: the last
    /// such one.
    pub(crate) fn last_recent_failure(&self, cluster: &ClusterName) -> Option<DialFailure> {
        let (_, (until, failure)) = self.failures.last(cluster)?;
        Some(failure).filter(|_| until > Instant::now())
    }

    /// Records that the node, which was at `remote`, asked not to be dialled before `at`.
    pub(crate) fn set_not_before(
        &self,
        key: &NodeKey,
        is_announced: bool,
        remote: SocketAddr,
        at: Instant,
    ) {
        self.not_before.insert(key, is_announced, (at, remote));
    }

    /// The time until which the node is not to be dialled.
    pub(crate) fn backing_off_until(&self, key: &NodeKey) -> Option<Instant> {
        let (at, _) = self.not_before.get(key)?;
        Some(at).filter(|at| *at > Instant::now())
    }

    /// The nodes of a cluster that are not to be dialled now, where they were, and until when.
    pub(crate) fn backing_off(
        &self,
        cluster: &ClusterName,
    ) -> Vec<(NodeName, SocketAddr, Instant)> {
        let now = Instant::now();
        let all = self.not_before.all(cluster).into_iter();
        let backing_off = all.map(|(node, (at, remote))| (node, remote, at));
        backing_off.filter(|(_, _, at)| *at > now).collect()
    }

    /// The addresses of a name when it was resolved last.
    pub(crate) fn last_resolved(&self, name: &DnsAddress) -> Vec<SocketAddr> {
        self.resolved_names.lock().get(name).cloned().unwrap_or_default()
    }

    /// Records the resolver's answer for a name; gives the last good one if there is none now.
    pub(super) fn record_resolved(
        &self,
        name: DnsAddress,
        answer: Option<Vec<SocketAddr>>,
    ) -> Option<Vec<SocketAddr>> {
        let mut names = self.resolved_names.lock();
        match answer {
            Some(addresses) => {
                names.insert(name, addresses.clone());
                Some(addresses)
            }
            None => names.get(&name).cloned(),
        }
    }
}
