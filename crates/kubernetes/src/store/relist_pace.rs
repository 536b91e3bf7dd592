//! The pace of lists that others cause: each tenant whose Services are exported can change what is selected.

use std::time::Duration;

use adit_core::backoff::Backoff;
use tokio::time::Instant;

/// Least time from one list for a selector to the list for the next one, first and while selectors go on changing. Every
/// node lists at each change, and the server looks at all objects of the kind to answer.
pub(super) const RELIST_BACKOFF: Backoff =
    Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
/// Lists in a row that wait for the least time only. Each is forgotten after [`RELIST_BACKOFF`]'s longest.
pub(super) const FREE_RELISTS: u32 = 8;

/// The pace of one store. In any time there is a list for each 10 s of it, on average, and some ten more, whatever changes.
#[derive(Debug)]
pub(super) struct RelistPace {
    last: Instant,
    /// When all lists so far are forgotten.
    forgotten: Instant,
}

impl RelistPace {
    /// The pace after a first list, which is not counted.
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now, forgotten: now }
    }

    /// The time of the next list. `unit` is a draw from 0 to 1, so that nodes do not go on listing together.
    pub(super) fn next(&self, now: Instant, unit: f64) -> Instant {
        let left = self.forgotten.saturating_duration_since(now).as_millis();
        let remembered = left.div_ceil(RELIST_BACKOFF.max.as_millis());
        let remembered = u32::try_from(remembered).unwrap_or(u32::MAX);
        self.last
            + match remembered.checked_sub(FREE_RELISTS) {
                None | Some(0) => RELIST_BACKOFF.first,
                Some(doublings) => RELIST_BACKOFF.with_half_jitter(doublings, unit),
            }
    }

    /// Counts a list.
    pub(super) fn count(&mut self, now: Instant) {
        self.last = now;
        self.forgotten = self.forgotten.max(now) + RELIST_BACKOFF.max;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_go_on_are_listed_ever_less_often_and_one_by_itself_soon() {
        let began = Instant::now();
        let mut pace = RelistPace::new(began);
        let (mut now, mut lists) = (began, 0);
        while now < began + Duration::from_secs(3600) {
            now = pace.next(now, 0.5).max(now);
            pace.count(now);
            lists += 1;
        }
        assert!((340..=390).contains(&lists), "{lists} lists in an hour");
        // Two minutes of quiet, and some changes come at once.
        now += RELIST_BACKOFF.max * 12;
        for _ in 0..FREE_RELISTS {
            let next = pace.next(now, 1.0);
            assert!(next <= now + RELIST_BACKOFF.first);
            now = next.max(now);
            pace.count(now);
        }
        // One that waits for the pace to be forgotten gains nothing.
        let (mut pace, mut now, mut lists) = (RelistPace::new(began), began, 0);
        while now < began + Duration::from_secs(3600) {
            if pace.next(now, 0.0) <= now
                && pace.forgotten <= now + RELIST_BACKOFF.max * FREE_RELISTS
            {
                pace.count(now);
                lists += 1;
            }
            now += RELIST_BACKOFF.first;
        }
        assert!(lists <= 390, "{lists} lists in an hour");
    }
}
