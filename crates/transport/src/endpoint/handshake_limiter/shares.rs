//! Equal parts of the rate for strangers, for those with a validated address.
//!
//! Otherwise whoever tries first and most would keep out a cluster that has not been met yet, or whose nodes
//! share an address that it does not announce. A part goes to each of [`LOT_COUNT`] lots, into which networks
//! fall by a secret hash: memory is fixed whatever comes, and nobody can aim at another's lot. The fewer lots
//! are active, the larger each part is.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use adit_core::admission::rate_limit::{RateLimit, TokenBucket};
use adit_core::prefix::IpPrefix;

/// Number of lots: 128 KiB once a stranger has come.
const LOT_COUNT: usize = 4096;
/// A lot has its part while somebody of it has tried within this: a little more than a handshake may take,
/// and than a dialler waits before it sends its last first packet again.
const ACTIVE_LOT_TIMEOUT: Duration = Duration::from_secs(6);
/// The interval at which active lots are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// The parts.
#[derive(Default)]
pub(super) struct StrangerShares {
    secret: RandomState,
    lots: Vec<ShareLot>,
    /// Number of active lots: those that were when they were last counted, and those that became so since.
    active_lots: u32,
    counted_at: Duration,
}

#[derive(Clone, Default)]
struct ShareLot {
    bucket: TokenBucket,
    last_attempt: Option<Duration>,
}

impl ShareLot {
    fn is_active(&self, now: Duration) -> bool {
        self.last_attempt.is_some_and(|at| now.saturating_sub(at) < ACTIVE_LOT_TIMEOUT)
    }
}

impl StrangerShares {
    /// Number of lots with a handshake lately; 1 at least.
    pub(super) fn sharers(&self) -> u32 {
        self.active_lots.max(1)
    }

    /// The lot of an address.
    pub(super) fn lot_of(&self, ip: IpAddr) -> usize {
        self.secret.hash_one(owner_network(ip)) as usize % LOT_COUNT
    }

    /// Records an attempt from a validated address; gives its lot.
    pub(super) fn record_attempt(&mut self, ip: IpAddr, now: Duration) -> usize {
        if self.lots.is_empty() {
            self.lots.resize(LOT_COUNT, ShareLot::default());
        }
        if now.saturating_sub(self.counted_at) >= COUNT_INTERVAL {
            self.counted_at = now;
            let knocking = self.lots.iter().filter(|lot| lot.is_active(now)).count();
            self.active_lots = u32::try_from(knocking).unwrap_or(u32::MAX);
        }
        let nth = self.lot_of(ip);
        if let Some(lot) = self.lots.get_mut(nth) {
            if !lot.is_active(now) {
                self.active_lots += 1;
            }
            lot.last_attempt = Some(now);
        }
        nth
    }

    /// Takes one of the part that a lot has of what is `allowed`, if there is one.
    pub(super) fn take(&mut self, lot: usize, now: Duration, allowed: RateLimit) -> bool {
        let sharers = self.sharers();
        self.lots.get_mut(lot).is_some_and(|lot| lot.bucket.try_take_share(now, allowed, sharers))
    }
}

impl fmt::Debug for StrangerShares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StrangerShares")
            .field("knocking", &self.active_lots)
            .finish_non_exhaustive()
    }
}

/// The network that is easily had by whoever has any of it: an IPv4 address, or an IPv6 network of 48 bits.
fn owner_network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        v6 @ IpAddr::V6(_) => IpPrefix::new(v6, 48).first(),
        v4 @ IpAddr::V4(_) => v4,
    }
}
