//! Who is let in to a handshake: places, and how fast they may be taken.
//!
//! Most of the places are reserved for addresses at which a linked cluster's nodes are known to be, in a
//! part for each cluster, so that neither strangers nor one of the clusters keep the others out. Anybody
//! may claim any address; so a reserved place is for who has proved his, and whoever could get one is
//! asked to. A handshake costs a millisecond or two of a processor, so what is begun in a second is
//! bounded, too. Of that, too, strangers who have proved where they are have equal parts ([`shares`]), which
//! those who merely claim an address cannot take.

mod shares;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_core::admission::pace::{Allowance, Pace};
use adit_core::name::ClusterName;
use tokio::time::Instant;

use self::shares::Shares;
use crate::tuning::Admission;

/// Networks of one cluster at which one of its nodes was met, that are remembered at most.
const MAX_MET: usize = 256;
/// For how long they are remembered.
const MET_TIMEOUT: Duration = Duration::from_secs(3600);
/// Networks that one cluster may announce its nodes at, and be known by.
const MAX_ANNOUNCED: usize = 8192;

/// How many handshakes are under way, over all endpoints of a node, and what became of the others.
#[derive(Debug)]
pub(super) struct Gate {
    begun: Instant,
    state: Mutex<State>,
    pub(super) accepted: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) certificate_refused: AtomicU64,
    pub(super) refused_by_peer: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) busy: AtomicU64,
    pub(super) draining: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Handshakes under way.
    all: usize,
    /// Those of peers that have not proved their address.
    unproved: usize,
    /// Those that hold no reserved place.
    common: usize,
    /// Of those, how fast they may begin: for peers that have not proved their address, and for those who have.
    unproved_pace: Pace,
    proved_pace: Pace,
    shares: Shares,
    /// Of those that are proved, how many are from each network.
    sources: HashMap<IpAddr, usize>,
    clusters: BTreeMap<ClusterName, Known>,
}

/// Where a cluster's nodes are known to be, and which of its places they hold.
#[derive(Debug, Default)]
struct Known {
    announced: HashSet<IpAddr>,
    met: HashMap<IpAddr, Instant>,
    held: usize,
    pace: Pace,
}

/// What is to be done with a first packet.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It begins a handshake.
    Enter(Place),
    /// Its sender must prove its address first.
    Prove,
    /// There is no place: it is not answered.
    Ignore,
}

/// One handshake under way.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    /// Whence, where that is proved.
    source: Option<IpAddr>,
    /// In whose part, if it is a reserved one.
    reserved: Option<ClusterName>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            state: Mutex::default(),
            accepted: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            certificate_refused: AtomicU64::new(0),
            refused_by_peer: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            draining: AtomicU64::new(0),
        }
    }
}

impl Gate {
    /// Decides about a first packet from `ip`.
    pub(super) fn enter(gate: &Arc<Self>, ip: IpAddr, proved: bool, bounds: &Admission) -> Verdict {
        let now = gate.begun.elapsed();
        let mut state = gate.state();
        let source = proved.then(|| network(ip));
        let same =
            source.and_then(|source| state.sources.get(&source).copied()).unwrap_or_default();
        if source.is_some() {
            if same >= bounds.per_source || state.all >= bounds.handshakes {
                return Verdict::Ignore;
            }
        } else if state.unproved >= bounds.retry_above {
            return Verdict::Prove;
        }
        let reserved = source.and_then(|source| state.reserve(source, now, bounds));
        let common = match source {
            _ if reserved.is_some() => true,
            Some(_) => state.take_share(ip, same, now, bounds),
            None => state.take_unproved(now, bounds),
        };
        if !common {
            return if proved { Verdict::Ignore } else { Verdict::Prove };
        }
        state.all += 1;
        match source {
            Some(source) => *state.sources.entry(source).or_default() += 1,
            None => state.unproved += 1,
        }
        drop(state);
        Verdict::Enter(Place { gate: Arc::clone(gate), source, reserved })
    }

    /// The nodes of `cluster` are at these addresses, by configuration or by what it announces; no more at
    /// those of before.
    pub(super) fn know(&self, cluster: &ClusterName, addresses: impl IntoIterator<Item = IpAddr>) {
        let announced = addresses.into_iter().take(MAX_ANNOUNCED).map(network).collect();
        self.state().clusters.entry(cluster.clone()).or_default().announced = announced;
    }

    /// A node of `cluster` proved who it is, and was here.
    pub(super) fn met(&self, cluster: &ClusterName, ip: IpAddr) {
        let now = Instant::now();
        let mut state = self.state();
        let met = &mut state.clusters.entry(cluster.clone()).or_default().met;
        met.insert(network(ip), now);
        if met.len() > MAX_MET {
            met.retain(|_, at| *at + MET_TIMEOUT > now);
        }
        if met.len() > MAX_MET
            && let Some(oldest) = met.iter().min_by_key(|(_, at)| **at).map(|(ip, _)| *ip)
        {
            met.remove(&oldest);
        }
    }

    /// The clusters that are known to have a node there.
    pub(super) fn clusters_at(&self, ip: IpAddr) -> Vec<ClusterName> {
        let (at, state) = (network(ip), self.state());
        let there = state.clusters.iter().filter(|(_, known)| known.is_at(at));
        there.map(|(cluster, _)| cluster.clone()).collect()
    }

    /// Forgets the clusters that `keep` does not want.
    pub(super) fn know_only(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.state().clusters.retain(|cluster, _| keep(cluster));
    }

    pub(super) fn under_way(&self) -> usize {
        self.state().all
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes a place in the part of a cluster that has a node there, if there is one.
    fn reserve(&mut self, at: IpAddr, now: Duration, bounds: &Admission) -> Option<ClusterName> {
        let each = bounds.reserved.min(bounds.handshakes) / self.clusters.len().max(1);
        let free = |known: &Known| known.held < each && known.is_at(at);
        for (cluster, known) in self.clusters.iter_mut().filter(|(_, known)| free(known)) {
            if known.pace.take(now, bounds.known) {
                known.held += 1;
                return Some(cluster.clone());
            }
        }
        None
    }

    /// Takes a place that is for anybody, in the part of one who has proved where he is and holds as many as
    /// are the `same` as his. Once half are taken nobody has more of the other half than his part.
    fn take_share(&mut self, ip: IpAddr, same: usize, now: Duration, bounds: &Admission) -> bool {
        // Who knocks has a part, whether there is a place or not.
        let lot = self.shares.knock(ip, now);
        let half = bounds.handshakes.saturating_sub(bounds.reserved) / 2;
        let part = (half / self.shares.sharers() as usize).max(1);
        if !self.is_free(bounds) || (self.common >= half && same >= part) {
            return false;
        }
        let allowed = part_of(bounds.strangers);
        if !self.proved_pace.take(now, allowed) {
            return false;
        }
        let is_due = self.shares.take(lot, now, allowed);
        if is_due {
            self.common += 1;
        } else {
            self.proved_pace.give_back(allowed);
        }
        is_due
    }

    /// Takes a place that is for anybody, for one who may be anywhere: of what may be begun those who have
    /// proved where they are have their own half.
    fn take_unproved(&mut self, now: Duration, bounds: &Admission) -> bool {
        let taken = self.is_free(bounds) && self.unproved_pace.take(now, part_of(bounds.strangers));
        self.common += usize::from(taken);
        taken
    }

    /// Whether there is a place that is for anybody.
    fn is_free(&self, bounds: &Admission) -> bool {
        let most = bounds.handshakes.saturating_sub(bounds.reserved).max(1);
        self.common < most && self.all < bounds.handshakes
    }
}

/// What those have who have proved where they are, and those who have not.
fn part_of(Allowance { burst, per_second }: Allowance) -> Allowance {
    Allowance { burst: burst.div_ceil(2), per_second: per_second.div_ceil(2) }
}

impl Known {
    fn is_at(&self, ip: IpAddr) -> bool {
        let lately = |at: &Instant| at.elapsed() < MET_TIMEOUT;
        self.announced.contains(&ip) || self.met.get(&ip).is_some_and(lately)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        state.all -= 1;
        match &self.reserved {
            // Where the cluster was forgotten meanwhile, and perhaps made anew, its count began anew.
            Some(cluster) => {
                if let Some(known) = state.clusters.get_mut(cluster) {
                    known.held = known.held.saturating_sub(1);
                }
            }
            None => state.common -= 1,
        }
        let Some(source) = self.source else {
            state.unproved -= 1;
            return;
        };
        if let Some(same) = state.sources.get_mut(&source) {
            *same -= 1;
            if *same == 0 {
                state.sources.remove(&source);
            }
        }
    }
}

/// What one owner of addresses has: an IPv4 address, or an IPv6 network of 64 bits.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests;
