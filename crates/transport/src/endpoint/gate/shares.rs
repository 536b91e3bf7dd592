//! Equal parts of what strangers may begin, for those of them who have proved where they are.
//!
//! Whoever knocks first and most would else keep out a cluster that has not been met yet, or whose nodes share
//! an address that it does not announce. A part goes to each of [`SHARES`] lots, into which networks fall by a
//! secret hash: memory is fixed whatever comes, and nobody can aim at another's lot. The fewer knock, the
//! larger each part is.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use adit_core::admission::pace::{Allowance, Pace};

/// Lots: 128 KiB once a stranger has come.
const SHARES: usize = 4096;
/// A lot has its part while somebody of it has knocked within this: a little more than a handshake may take, and
/// than a dialler waits before it sends its last first packet again.
const KNOCKING_TIMEOUT: Duration = Duration::from_secs(6);
/// How often it is counted how many lots have parts.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// The parts.
#[derive(Default)]
pub(super) struct Shares {
    secret: RandomState,
    lots: Vec<Lot>,
    /// How many lots knock: those that did when they were `counted`, and those that began to since.
    knocking: u32,
    counted: Duration,
}

#[derive(Clone, Default)]
struct Lot {
    pace: Pace,
    knocked: Option<Duration>,
}

impl Lot {
    fn is_knocking(&self, now: Duration) -> bool {
        self.knocked.is_some_and(|at| now.saturating_sub(at) < KNOCKING_TIMEOUT)
    }
}

impl Shares {
    /// How many lots had somebody knocking lately; 1 at least.
    pub(super) fn sharers(&self) -> u32 {
        self.knocking.max(1)
    }

    /// Somebody who has proved to be there knocks; gives his lot.
    pub(super) fn knock(&mut self, ip: IpAddr, now: Duration) -> usize {
        if self.lots.is_empty() {
            self.lots.resize(SHARES, Lot::default());
        }
        if now.saturating_sub(self.counted) >= COUNT_INTERVAL {
            self.counted = now;
            let knocking = self.lots.iter().filter(|lot| lot.is_knocking(now)).count();
            self.knocking = u32::try_from(knocking).unwrap_or(u32::MAX);
        }
        let nth = self.secret.hash_one(owner(ip)) as usize % SHARES;
        if let Some(lot) = self.lots.get_mut(nth) {
            if !lot.is_knocking(now) {
                self.knocking += 1;
            }
            lot.knocked = Some(now);
        }
        nth
    }

    /// Takes one of the part that a lot has of what is `allowed`, if there is one.
    pub(super) fn take(&mut self, lot: usize, now: Duration, allowed: Allowance) -> bool {
        let sharers = self.sharers();
        self.lots.get_mut(lot).is_some_and(|lot| lot.pace.take_share(now, allowed, sharers))
    }
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").field("knocking", &self.knocking).finish_non_exhaustive()
    }
}

/// What is easily had by one who has any of it: an IPv4 address, or an IPv6 network of 48 bits.
fn owner(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 80 << 80).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}
