//! The estimate of a path that became longer, which BBR does not make: how long it is now, and what it
//! carries.
//!
//! quinn's BBR takes the least round trip of the path's whole life. If the path has become longer since, its
//! window stays at what the short one needed, for as long as the connection lives (measured: a path that went
//! from 0.5 to 50 ms carried 0 to 3 MB/s, a fresh connection 104). Here the estimate expires, as in the BBR
//! drafts (draft-ietf-ccwg-bbr, `BBR.min_rtt`): when no sample has come near it for a while, less is sent for
//! a moment, so that the queue that this connection itself keeps up goes, and the least of what is measured
//! then is the new estimate.

use std::time::{Duration, Instant};

/// Time after which an estimate is measured anew, from the last sample that came near it.
const ESTIMATE_LIFETIME: Duration = Duration::from_secs(5);
/// The shortest time that a new measurement takes, from its begin: what was sent before must have left the
/// queue.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);
/// Below this a round trip says how busy the machines are, not how long the path is.
const MIN_PATH_DELAY: Duration = Duration::from_millis(2);
/// Round trips for which a rate is remembered.
const RATE_ROUNDS: usize = 10;

/// The path as it has been in the last seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PathEstimate {
    /// The least round trip of the last seconds, and when a sample came near it last.
    least: Option<(Duration, Instant)>,
    probe: Option<RttProbe>,
    /// The least round trip of the path's life, as quinn has it.
    lifetime_least: Duration,
    delivered: u64,
    /// The time at which this round began, and the bytes that had been delivered until then.
    round: Option<(Instant, u64)>,
    /// Bytes a second that were delivered in the last rounds.
    rates: [u64; RATE_ROUNDS],
    rounds: usize,
}

#[derive(Debug, Clone, Copy)]
struct RttProbe {
    began: Instant,
    least: Option<Duration>,
}

impl PathEstimate {
    /// Records that `bytes` bytes sent at `sent` have been acknowledged; `lifetime_least` is the least round
    /// trip of the path's life. While the application sends little, a rate only shows that the path carries
    /// at least that.
    pub(super) fn acknowledged(
        &mut self,
        (now, sent): (Instant, Instant),
        bytes: u64,
        is_app_limited: bool,
        ever: Duration,
    ) {
        self.lifetime_least = ever;
        self.sample(now, sent);
        self.delivered += bytes;
        match self.round {
            Some((began, _)) if sent < began => {}
            Some((began, before)) => {
                let rate = rate(self.delivered - before, now.saturating_duration_since(began));
                if !is_app_limited || rate > self.rate() {
                    self.rates[self.rounds % RATE_ROUNDS] = rate;
                    self.rounds += 1;
                }
                self.round = Some((now, self.delivered));
            }
            None => self.round = Some((now, self.delivered)),
        }
    }

    fn sample(&mut self, now: Instant, sent: Instant) {
        let sample = now.saturating_duration_since(sent);
        let Some((least, near)) = &mut self.least else {
            self.least = Some((sample, now));
            return;
        };
        if sample <= *least + *least / 4 {
            (*least, *near) = (sample.min(*least), now);
            self.probe = None;
            return;
        }
        if now.saturating_duration_since(*near) <= ESTIMATE_LIFETIME {
            return;
        }
        let probe = self.probe.get_or_insert(RttProbe { began: now, least: None });
        if sent >= probe.began {
            probe.least = Some(probe.least.map_or(sample, |other| other.min(sample)));
        }
        let is_over = now.saturating_duration_since(probe.began) >= PROBE_TIMEOUT;
        if let Some(measured) = probe.least.filter(|_| is_over) {
            self.least = Some((measured, now));
            self.probe = None;
        }
    }

    /// True if less is to be sent, because the round trip is measured anew.
    pub(super) fn is_probing(&self) -> bool {
        self.probe.is_some()
    }

    /// The window that the path needs, if it is longer than it ever was: a quarter more than it holds at the
    /// rate that was delivered. If the path carries more, the rate grows by as much in each round trip; more
    /// would be lost if the queue is short (simulated: with twice of it, as BBR's, half).
    pub(super) fn window(&self) -> Option<u64> {
        let (least, _) = self.least?;
        let is_longer =
            least >= MIN_PATH_DELAY && least > self.lifetime_least + self.lifetime_least / 4;
        let holds = || u128::from(self.rate()) * least.as_micros() / 1_000_000;
        is_longer.then(|| u64::try_from(holds() * 5 / 4).unwrap_or(u64::MAX))
    }

    fn rate(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or_default()
    }
}

/// Bytes a second.
fn rate(bytes: u64, time: Duration) -> u64 {
    let micros = time.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    struct PathRun {
        estimate: PathEstimate,
        now: Instant,
        ever: u32,
    }

    impl PathRun {
        fn new() -> Self {
            let now = Instant::now() + 100 * SECOND;
            Self { estimate: PathEstimate::default(), now, ever: u32::MAX }
        }

        /// 1 MB a second over a path of so many milliseconds; a queue is there while nothing is measured anew.
        fn go_on(&mut self, path: u32, queue: u32, seconds: u32) {
            for _ in 0..seconds * 100 {
                let sample = if self.estimate.is_probing() { path } else { path + queue };
                self.now += 10 * MS;
                self.ever = self.ever.min(sample);
                let times = (self.now, self.now - sample * MS);
                self.estimate.acknowledged(times, 10_000, false, self.ever * MS);
            }
        }

        /// The window in kilobytes.
        fn window(&self) -> Option<u64> {
            self.estimate.window().map(|bytes| bytes / 1000)
        }
    }

    #[test]
    fn an_estimate_follows_a_path_that_becomes_longer_and_shorter() {
        let mut run = PathRun::new();
        run.go_on(5, 0, 1);
        assert_eq!(run.window(), None, "BBR knows this path");
        run.go_on(50, 40, 4);
        assert_eq!(run.window(), None, "a queue that comes and goes is none");
        run.go_on(50, 40, 3);
        assert_eq!(run.window(), Some(62));
        run.go_on(50, 0, 60);
        assert_eq!(run.window(), Some(62));
        assert!(!run.estimate.is_probing());
        run.go_on(20, 0, 1);
        assert_eq!(run.window(), Some(25), "at once");
        run.go_on(5, 0, 1);
        assert_eq!(run.window(), None);
    }

    #[test]
    fn a_queue_that_stays_is_not_taken_for_the_path() {
        let mut run = PathRun::new();
        run.go_on(50, 0, 1);
        run.go_on(50, 50, 600);
        assert_eq!(run.window(), None, "{:?}", run.estimate);
    }

    #[test]
    fn a_path_as_short_as_a_busy_machine_is_slow_has_not_grown() {
        let mut run = PathRun::new();
        run.ever = 0;
        run.go_on(1, 0, 60);
        assert_eq!(run.window(), None, "{:?}", run.estimate);
    }
}
