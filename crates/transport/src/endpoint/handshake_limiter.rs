//! The limiter of handshakes: places, and the rate at which they may be taken.
//!
//! Most of the places are reserved for addresses at which a linked cluster's nodes are known to be, in a part
//! for each cluster, so that neither strangers nor one of the clusters keep the others out. Anybody may claim
//! any address; so a reserved place is for a validated address, and whoever could get one is asked to
//! validate his. A handshake costs a millisecond or two of a processor, so the rate at which they begin is
//! bounded, too. Strangers with a validated address have equal parts of that rate ([`shares`]), which those
//! who merely claim an address cannot take.

mod shares;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use adit_core::admission::rate_limit::{RateLimit, TokenBucket};
use adit_core::name::ClusterName;
use adit_core::prefix::IpPrefix;
use adit_runtime::Mutex;
use tokio::time::Instant;

use self::shares::StrangerShares;
use crate::tuning::HandshakeLimits;

/// Networks of one cluster at which one of its nodes was met, that are remembered at most.
const MAX_MET_NETWORKS: usize = 256;
/// Time for which they are remembered, from when the node was met.
const MET_LIFETIME: Duration = Duration::from_secs(3600);
/// Networks that one cluster may announce its nodes at, and be known by.
const MAX_ANNOUNCED_NETWORKS: usize = 8192;

/// The handshakes under way, over all endpoints of a node, and counts of how the others ended.
#[derive(Debug)]
pub(super) struct HandshakeLimiter {
    started_at: Instant,
    state: Mutex<LimiterState>,
    pub(super) accepted: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) certificate_refused: AtomicU64,
    pub(super) refused_by_peer: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) too_many_pieces: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) busy: AtomicU64,
    pub(super) draining: AtomicU64,
}

#[derive(Debug, Default)]
struct LimiterState {
    /// Handshakes under way.
    all: usize,
    /// Those of peers that have not validated their address.
    unvalidated: usize,
    /// Those that hold no reserved place.
    unreserved: usize,
    /// The rates at which those may begin: for peers without a validated address, and for those with one.
    unvalidated_bucket: TokenBucket,
    validated_bucket: TokenBucket,
    stranger_shares: StrangerShares,
    /// Number of validated ones from each network.
    sources: HashMap<IpAddr, usize>,
    clusters: BTreeMap<ClusterName, KnownCluster>,
}

/// The networks where a cluster's nodes are known to be, and how many of its places they hold.
#[derive(Debug, Default)]
struct KnownCluster {
    announced: HashSet<IpAddr>,
    met: HashMap<IpAddr, Instant>,
    held: usize,
    bucket: TokenBucket,
}

/// The decision about a first packet.
#[derive(Debug)]
pub(super) enum FirstPacketDecision {
    /// The packet begins a handshake.
    Admit(HandshakePermit),
    /// Its sender must prove its address first.
    Retry,
    /// There is no place: the packet is not answered.
    Ignore,
}

/// The permit of one handshake under way. Dropping it gives its place back.
#[derive(Debug)]
pub(super) struct HandshakePermit {
    limiter: Arc<HandshakeLimiter>,
    /// The network that it comes from, if the address is validated.
    source: Option<IpAddr>,
    /// The cluster in whose part it is, if it is a reserved place.
    reserved: Option<ClusterName>,
}

impl Default for HandshakeLimiter {
    fn default() -> Self {
        Self {
            started_at: Instant::now(),
            state: Mutex::default(),
            accepted: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            certificate_refused: AtomicU64::new(0),
            refused_by_peer: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            too_many_pieces: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            draining: AtomicU64::new(0),
        }
    }
}

impl HandshakeLimiter {
    /// Decides about a first packet from `ip`.
    pub(super) fn admit(
        limiter: &Arc<Self>,
        ip: IpAddr,
        validated: bool,
        bounds: &HandshakeLimits,
    ) -> FirstPacketDecision {
        let now = limiter.started_at.elapsed();
        let mut state = limiter.lock_state();
        let source = validated.then(|| network_of(ip));
        let same =
            source.and_then(|source| state.sources.get(&source).copied()).unwrap_or_default();
        if source.is_some() {
            if same >= bounds.per_source || state.all >= bounds.handshakes {
                return FirstPacketDecision::Ignore;
            }
        } else if state.unvalidated >= bounds.retry_above {
            return FirstPacketDecision::Retry;
        }
        let reserved = source.and_then(|source| state.reserve(source, now, bounds));
        let common = match source {
            _ if reserved.is_some() => true,
            Some(_) => state.take_share(ip, same, now, bounds),
            None => state.take_unvalidated(now, bounds),
        };
        if !common {
            return if validated {
                FirstPacketDecision::Ignore
            } else {
                FirstPacketDecision::Retry
            };
        }
        state.all += 1;
        match source {
            Some(source) => *state.sources.entry(source).or_default() += 1,
            None => state.unvalidated += 1,
        }
        drop(state);
        FirstPacketDecision::Admit(HandshakePermit {
            limiter: Arc::clone(limiter),
            source,
            reserved,
        })
    }

    /// Sets the addresses of the nodes of `cluster`, by configuration or as it announces them. Replaces those
    /// of before.
    pub(super) fn set_known_addresses(
        &self,
        cluster: &ClusterName,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) {
        let announced =
            addresses.into_iter().take(MAX_ANNOUNCED_NETWORKS).map(network_of).collect();
        self.lock_state().clusters.entry(cluster.clone()).or_default().announced = announced;
    }

    /// Records that a node of `cluster` validated its identity at this address.
    pub(super) fn record_met_address(&self, cluster: &ClusterName, ip: IpAddr) {
        let now = Instant::now();
        let mut state = self.lock_state();
        let met = &mut state.clusters.entry(cluster.clone()).or_default().met;
        met.insert(network_of(ip), now);
        if met.len() > MAX_MET_NETWORKS {
            met.retain(|_, at| *at + MET_LIFETIME > now);
        }
        if met.len() > MAX_MET_NETWORKS
            && let Some(oldest) = met.iter().min_by_key(|(_, at)| **at).map(|(ip, _)| *ip)
        {
            met.remove(&oldest);
        }
    }

    /// The clusters that are known to have a node there.
    pub(super) fn clusters_at(&self, ip: IpAddr) -> Vec<ClusterName> {
        let (at, state) = (network_of(ip), self.lock_state());
        let there = state.clusters.iter().filter(|(_, known)| known.is_at(at));
        there.map(|(cluster, _)| cluster.clone()).collect()
    }

    /// Forgets the clusters that `keep` does not want.
    pub(super) fn retain_clusters(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.lock_state().clusters.retain(|cluster, _| keep(cluster));
    }

    pub(super) fn in_progress(&self) -> usize {
        self.lock_state().all
    }

    fn lock_state(&self) -> MutexGuard<'_, LimiterState> {
        self.state.lock()
    }
}

impl LimiterState {
    /// Takes a place in the part of a cluster that has a node there, if there is one.
    fn reserve(
        &mut self,
        at: IpAddr,
        now: Duration,
        bounds: &HandshakeLimits,
    ) -> Option<ClusterName> {
        let each = bounds.reserved.min(bounds.handshakes) / self.clusters.len().max(1);
        let free = |known: &KnownCluster| known.held < each && known.is_at(at);
        for (cluster, known) in self.clusters.iter_mut().filter(|(_, known)| free(known)) {
            if known.bucket.try_take(now, bounds.known) {
                known.held += 1;
                return Some(cluster.clone());
            }
        }
        None
    }

    /// Takes a place that is for anybody, in the part of a peer with a validated address whose network holds
    /// `same` places. Once half are taken nobody has more of the other half than his part.
    fn take_share(
        &mut self,
        ip: IpAddr,
        same: usize,
        now: Duration,
        bounds: &HandshakeLimits,
    ) -> bool {
        // Whoever tries has a part, whether there is a place or not.
        let lot = self.stranger_shares.record_attempt(ip, now);
        let half = bounds.handshakes.saturating_sub(bounds.reserved) / 2;
        let part = (half / self.stranger_shares.sharers() as usize).max(1);
        if !self.is_free(bounds) || (self.unreserved >= half && same >= part) {
            return false;
        }
        let allowed = half_of(bounds.strangers);
        if !self.validated_bucket.try_take(now, allowed) {
            return false;
        }
        let is_due = self.stranger_shares.take(lot, now, allowed);
        if is_due {
            self.unreserved += 1;
        } else {
            self.validated_bucket.give_back(allowed);
        }
        is_due
    }

    /// Takes a place that is for anybody, for a peer without a validated address. Peers with one have their
    /// own half of the rate.
    fn take_unvalidated(&mut self, now: Duration, bounds: &HandshakeLimits) -> bool {
        let taken = self.is_free(bounds)
            && self.unvalidated_bucket.try_take(now, half_of(bounds.strangers));
        self.unreserved += usize::from(taken);
        taken
    }

    /// True if there is a place that is for anybody.
    fn is_free(&self, bounds: &HandshakeLimits) -> bool {
        let most = bounds.handshakes.saturating_sub(bounds.reserved).max(1);
        self.unreserved < most && self.all < bounds.handshakes
    }
}

/// The half of a rate that peers with a validated address have, and those without one.
fn half_of(RateLimit { burst, per_second }: RateLimit) -> RateLimit {
    RateLimit { burst: burst.div_ceil(2), per_second: per_second.div_ceil(2) }
}

impl KnownCluster {
    fn is_at(&self, ip: IpAddr) -> bool {
        let lately = |at: &Instant| at.elapsed() < MET_LIFETIME;
        self.announced.contains(&ip) || self.met.get(&ip).is_some_and(lately)
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        let mut state = self.limiter.lock_state();
        state.all -= 1;
        match &self.reserved {
            // If the cluster was forgotten meanwhile, and perhaps made anew, its count began anew.
            Some(cluster) => {
                if let Some(known) = state.clusters.get_mut(cluster) {
                    known.held = known.held.saturating_sub(1);
                }
            }
            None => state.unreserved -= 1,
        }
        let Some(source) = self.source else {
            state.unvalidated -= 1;
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

/// The network of one owner of addresses: an IPv4 address, or an IPv6 network of 64 bits.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        v6 @ IpAddr::V6(_) => IpPrefix::new(v6, 64).first(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests;
