//! The credit of the peer's streams: windows that follow the path and the reader.

use std::time::Duration;

use tokio::time::Instant;

/// The rate that one stream should reach, in bytes a second: a little less than a gigabit.
const TARGET_STREAM_RATE: u64 = 100_000_000;

/// The least round trip is remembered for so long at least, and twice as long at most.
const MIN_RTT_LIFETIME: Duration = Duration::from_secs(10);

/// Bounds of a stream's window here, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CreditLimits {
    /// The window at first, which the hello says.
    pub(crate) first: u64,
    /// QUIC's own.
    pub(crate) most: u64,
}

/// The credit of one of the peer's streams: how far it may come.
#[derive(Debug)]
pub(crate) struct ReceiveCredit {
    taken: u64,
    pub(super) granted: u64,
    window: u64,
    /// The time at which the window was last checked, and the bytes that had been taken then.
    checked: (Instant, u64),
}

/// The bounds of the windows of a connection's streams at present.
#[derive(Debug, Clone, Copy)]
pub(super) struct PathWindow {
    pub(super) round_trip: Duration,
    pub(super) most: u64,
}

/// The least round trip of the last seconds.
#[derive(Debug)]
pub(super) struct MinRtt {
    since: Instant,
    least: Option<Duration>,
    before: Option<Duration>,
}

impl CreditLimits {
    /// The largest window that a path of this round trip needs.
    pub(super) fn window_for(self, round_trip: Duration) -> u64 {
        let bytes = round_trip.as_micros() * u128::from(TARGET_STREAM_RATE) / 1_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX).clamp(self.first, self.most.max(self.first))
    }
}

impl ReceiveCredit {
    /// The credit of a stream that begins.
    pub(super) fn new(limits: CreditLimits) -> Self {
        let first = limits.first;
        Self { taken: 0, granted: first, window: first, checked: (Instant::now(), 0) }
    }

    /// Bytes that may still come, or have come and are not taken; a whole window at least.
    pub(crate) fn window(&self) -> u64 {
        self.granted.saturating_sub(self.taken).max(self.window)
    }

    /// Records bytes that were taken. Credit is given in quarters of a window, so that it never runs dry
    /// meanwhile and few messages are sent.
    pub(super) fn taken(
        &mut self,
        limits: CreditLimits,
        count: u64,
        needs: impl FnOnce() -> PathWindow,
    ) -> Option<u64> {
        self.taken += count;
        if (self.taken + self.window).saturating_sub(self.granted) < self.window / 4 {
            return None;
        }
        let PathWindow { round_trip, most } = needs();
        let (at, before) = self.checked;
        if self.taken - before >= self.window / 2 {
            let now = Instant::now();
            let took = now.duration_since(at);
            if took <= round_trip * 2 {
                self.window *= 2;
            } else if took >= round_trip * 8 {
                self.window /= 2;
            }
            self.checked = (now, self.taken);
        }
        self.window = self.window.min(most).max(limits.first);
        let limit = self.taken + self.window;
        (limit > self.granted).then(|| {
            self.granted = limit;
            limit
        })
    }
}

impl MinRtt {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), least: None, before: None }
    }

    /// Records a round trip, and gives the least of the last seconds.
    pub(super) fn observe(&mut self, now: Instant, round_trip: Duration) -> Duration {
        if now.duration_since(self.since) >= MIN_RTT_LIFETIME {
            self.before = self.least.take();
            self.since = now;
        }
        let least = self.least.map_or(round_trip, |least| least.min(round_trip));
        self.least = Some(least);
        self.before.map_or(least, |before| before.min(least))
    }
}
