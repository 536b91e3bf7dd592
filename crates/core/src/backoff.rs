//! Exponential backoff, with and without jitter.
//!
//! A delay doubles with each failure in a row, up to a longest one. Jitter keeps many clients that lost one
//! server from coming back together. The random draw is an argument, so that a simulation can repeat it.

use std::time::Duration;

/// Doublings beyond which no delay in use grows any further; keeps the shift in range.
const MAX_DOUBLINGS: u32 = 16;

/// A delay that doubles with each failure in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failure, before jitter.
    pub first: Duration,
    /// The longest delay, before jitter.
    pub max: Duration,
}

impl Backoff {
    /// Starts at `first` and doubles up to `max`.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// The delay after `doublings` further failures, without jitter: `first`, then twice that, up to `max`.
    #[must_use]
    pub fn delay(&self, doublings: u32) -> Duration {
        self.first.saturating_mul(1 << doublings.min(MAX_DOUBLINGS)).min(self.max)
    }

    /// A delay between zero and [`Self::delay`]: full jitter, on the first retry too, so that nodes which lost
    /// one peer do not come back at once. `unit` is a draw from 0 to 1. (AWS Architecture Blog, "Exponential
    /// Backoff and Jitter", 2015.)
    #[must_use]
    pub fn with_full_jitter(&self, doublings: u32, unit: f64) -> Duration {
        self.delay(doublings).mul_f64(unit.clamp(0.0, 1.0))
    }

    /// A delay between half and one and a half times [`Self::delay`]: never shorter than half of what the
    /// server is owed. `unit` is a draw from 0 to 1.
    #[must_use]
    pub fn with_half_jitter(&self, doublings: u32, unit: f64) -> Duration {
        self.delay(doublings).mul_f64(0.5 + unit.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));

    #[test]
    fn a_delay_doubles_up_to_the_longest() {
        let delays = [0, 1, 2, 7, 8, 1000, u32::MAX].map(|n| BACKOFF.delay(n).as_millis());
        assert_eq!(delays, [200, 400, 800, 25_600, 30_000, 30_000, 30_000]);
        let endless = Backoff::new(Duration::MAX, Duration::MAX);
        assert_eq!(endless.delay(u32::MAX), Duration::MAX);
    }

    #[test]
    fn jitter_stays_within_its_range_whatever_is_drawn() {
        for unit in [-1.0, 0.0, 0.3, 1.0, 7.0, f64::INFINITY] {
            assert!(BACKOFF.with_full_jitter(1, unit) <= Duration::from_millis(400));
            let half = BACKOFF.with_half_jitter(1, unit).as_millis();
            assert!((200..=600).contains(&half), "{half}");
        }
        assert_eq!(BACKOFF.with_full_jitter(1, 0.5), Duration::from_millis(200));
        assert_eq!(BACKOFF.with_half_jitter(1, 0.5), Duration::from_millis(400));
    }
}
