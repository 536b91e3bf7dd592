//! Events that may come once in an interval: what keeps log lines about one cause from repeating.

use std::collections::BTreeMap;
use std::ops::Add;
use std::time::Duration;

/// At most one event for each key in an interval. Keeps every key that it has seen until
/// [`Self::forget_old`], so keys come from a closed set, or are forgotten regularly.
///
/// `I` is the caller's instant, which never goes back.
#[derive(Debug, Clone)]
pub struct Throttle<K, I> {
    interval: Duration,
    last: BTreeMap<K, I>,
}

impl<K: Ord, I: Copy + Ord + Add<Duration, Output = I>> Throttle<K, I> {
    /// Lets an event of each key pass once in `interval`.
    #[must_use]
    pub const fn new(interval: Duration) -> Self {
        Self { interval, last: BTreeMap::new() }
    }

    /// True if an event of `key` would pass now.
    #[must_use]
    pub fn is_due(&self, key: &K, now: I) -> bool {
        self.last.get(key).is_none_or(|at| *at + self.interval <= now)
    }

    /// True if an event of `key` passes now; the next one passes an interval later.
    pub fn try_pass(&mut self, key: K, now: I) -> bool {
        let is_due = self.is_due(&key, now);
        if is_due {
            self.last.insert(key, now);
        }
        is_due
    }

    /// Forgets the keys whose next event would pass anyway.
    pub fn forget_old(&mut self, now: I) {
        self.last.retain(|_, at| *at + self.interval > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_each_key_passes_once_in_an_interval() {
        let at = Duration::from_secs;
        let mut throttle = Throttle::new(at(60));
        assert!(throttle.try_pass("a", at(0)) && throttle.try_pass("b", at(1)));
        assert!(!throttle.try_pass("a", at(59)) && !throttle.is_due(&"b", at(60)));
        assert!(throttle.try_pass("a", at(60)), "what did not pass is not counted");
        throttle.forget_old(at(100));
        assert_eq!(throttle.last.keys().collect::<Vec<_>>(), [&"a"]);
    }
}
