//! Rate limits: a burst at once, and so many a second after that.

use std::time::Duration;

/// The rate that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Events that may come at once.
    pub burst: u32,
    /// Events that may come in addition with each second.
    pub per_second: u32,
}

/// A token bucket, kept as the moment at which it would be full again (the generic cell rate algorithm,
/// ITU-T I.371). It costs one number, and what is allowed may differ from one question to the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenBucket {
    full_at: Duration,
}

impl TokenBucket {
    /// Takes a token, if there is one. `now` is the time since any fixed moment, and never goes back.
    pub fn try_take(&mut self, now: Duration, allowed: RateLimit) -> bool {
        self.try_take_each(now, Duration::from_secs(1) / allowed.per_second.max(1), allowed.burst)
    }

    /// Takes a token of one of so many sharers, each of whom has an equal part of the rate, and may take one
    /// at once. At least one sharer is assumed.
    pub fn try_take_share(&mut self, now: Duration, allowed: RateLimit, sharers: u32) -> bool {
        let sharers = sharers.max(1);
        let each = Duration::from_secs(1).saturating_mul(sharers) / allowed.per_second.max(1);
        let burst = if allowed.burst == 0 { 0 } else { (allowed.burst / sharers).max(1) };
        self.try_take_each(now, each, burst)
    }

    fn try_take_each(&mut self, now: Duration, each: Duration, burst: u32) -> bool {
        let full_at = self.full_at.max(now) + each;
        let fits = full_at - now <= each.saturating_mul(burst);
        if fits {
            self.full_at = full_at;
        }
        fits
    }

    /// Gives a token back that was taken and not used.
    pub fn give_back(&mut self, allowed: RateLimit) {
        let each = Duration::from_secs(1) / allowed.per_second.max(1);
        self.full_at = self.full_at.saturating_sub(each);
    }
}

/// Work that others cause as often as they like takes a quarter of the time at most.
const COOLDOWN_FACTOR: u32 = 3;
/// Whatever it took, it is not waited for any longer.
const MAX_COOLDOWN_DELAY: Duration = Duration::from_secs(1);

/// The pause after work that took so long; at least `least`. Changes that come during the pause are handled
/// as one.
#[must_use]
pub fn cooldown(took: Duration, least: Duration) -> Duration {
    took.saturating_mul(COOLDOWN_FACTOR).min(MAX_COOLDOWN_DELAY).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_its_rate() {
        let allowed = RateLimit { burst: 5, per_second: 2 };
        let mut pace = TokenBucket::default();
        let mut taken = |ms| pace.try_take(Duration::from_millis(ms), allowed);
        assert_eq!((0..9).filter(|_| taken(1000)).count(), 5);
        assert_eq!([1499, 1500, 1501].map(&mut taken), [false, true, false]);
        assert_eq!((0..9).filter(|_| taken(60_000)).count(), 5, "no more is saved than a burst");
    }

    #[test]
    fn nothing_is_allowed_where_the_burst_is_none() {
        let none = RateLimit { burst: 0, per_second: 0 };
        assert!(!TokenBucket::default().try_take(Duration::from_secs(9), none));
    }

    #[test]
    fn sharers_have_equal_parts_of_burst_and_rate_and_one_token_at_least() {
        let allowed = RateLimit { burst: 10, per_second: 4 };
        let taken = |pace: &mut TokenBucket, now: u64, sharers| {
            (0..99)
                .filter(|_| pace.try_take_share(Duration::from_secs(now), allowed, sharers))
                .count()
        };
        let mut pace = TokenBucket::default();
        assert_eq!([taken(&mut pace, 0, 5), taken(&mut pace, 5, 5)], [2, 2]);
        let mut crowd = TokenBucket::default();
        assert_eq!([0, 24, 25].map(|now| taken(&mut crowd, now, 100)), [1, 0, 1]);
        assert_eq!(taken(&mut TokenBucket::default(), 0, 0), 10, "a lone one has it all");
    }

    #[test]
    fn what_was_given_back_may_be_taken_again() {
        let allowed = RateLimit { burst: 1, per_second: 1 };
        let mut pace = TokenBucket::default();
        let now = Duration::from_secs(3);
        assert!(pace.try_take(now, allowed) && !pace.try_take(now, allowed));
        pace.give_back(allowed);
        assert!(pace.try_take(now, allowed));
    }

    #[test]
    fn a_rest_grows_with_the_work_within_bounds() {
        let ms = Duration::from_millis;
        let rests = [0, 3, 20, 200, 9000].map(|took| cooldown(ms(took), ms(10)));
        assert_eq!(rests, [10, 10, 60, 600, 1000].map(ms));
    }
}
