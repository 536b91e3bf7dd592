//! The pieces of streams that cannot be put together, as they are counted for a connection and for a cluster.
//! See [`super::fragments`].

use std::time::Duration;

use adit_core::admission::rate_limit::RateLimit;
use adit_core::backoff::Backoff;
use tokio::time::Instant;

use crate::endpoint::PieceCounts;

/// Pieces of so many bytes cost their sender as much as us.
pub(super) const MIN_PIECE: u64 = 256;
/// The time for which new connections of a cluster are refused after its second offence, doubled by each further one.
pub(super) const BAR_BACKOFF: Backoff =
    Backoff::new(Duration::from_secs(2), Duration::from_secs(60));
/// After so long without one, offences are forgotten.
const OFFENCE_LIFETIME: Duration = Duration::from_secs(600);

/// The pieces of one connection, as far as they were counted.
#[derive(Debug, Default)]
pub(crate) struct PieceMeter {
    counted: PieceCounts,
    debt: PieceDebt,
}

/// Pieces in vain beyond what is allowed with time.
#[derive(Debug, Default)]
pub(crate) struct PieceDebt {
    pieces: u64,
    at: Option<Instant>,
}

/// The connections of a cluster that were ended for this.
#[derive(Debug, Default)]
pub(crate) struct PieceOffences {
    count: u32,
    /// When one was counted last, and when the last came.
    counted: Option<Instant>,
    last: Option<Instant>,
}

/// The pieces in vain that a connection has sent since the last time, and what follows.
#[derive(Debug)]
pub(super) struct PiecesInVain {
    /// Their number; never zero.
    pub(super) new: u64,
    /// All of them, less what is forgiven with time.
    pub(super) debt: u64,
    /// True if there are more than is allowed.
    pub(super) is_over: bool,
}

impl PieceMeter {
    /// Takes what has been counted by now; `None` if nothing was in vain since the last time.
    pub(super) fn update(&mut self, now: PieceCounts, allowed: RateLimit) -> Option<PiecesInVain> {
        let new = Some(self.since_last(now)).filter(|new| *new > 0)?;
        let is_over = self.debt.add(new, allowed);
        Some(PiecesInVain { new, debt: self.debt.pieces, is_over })
    }

    /// Takes what has been counted by now, and says how many pieces were in vain since the last time.
    fn since_last(&mut self, now: PieceCounts) -> u64 {
        let before = std::mem::replace(&mut self.counted, now);
        let frames = now.frames.saturating_sub(before.frames);
        let taken = now.taken.saturating_sub(before.taken);
        let large = now.bytes.saturating_sub(before.bytes) / MIN_PIECE;
        frames.saturating_sub(taken.saturating_add(large))
    }
}

impl PieceDebt {
    /// Adds pieces in vain. True if there are more now than is allowed.
    pub(super) fn add(&mut self, pieces: u64, allowed: RateLimit) -> bool {
        let now = Instant::now();
        let since = self.at.replace(now).map_or(Duration::ZERO, |at| now - at);
        let forgiven = since.as_millis() * u128::from(allowed.per_second) / 1000;
        let forgiven = u64::try_from(forgiven).unwrap_or(u64::MAX);
        self.pieces = self.pieces.saturating_sub(forgiven).saturating_add(pieces);
        self.pieces > u64::from(allowed.burst)
    }
}

impl PieceOffences {
    /// Counts one, and says for how long new connections are refused.
    pub(super) fn add(&mut self) -> Duration {
        if self.last.is_none_or(|at| at.elapsed() >= OFFENCE_LIFETIME) {
            self.count = 0;
        }
        // What many connections do in one moment is one offence.
        if self.counted.is_none_or(|at| at.elapsed() >= BAR_BACKOFF.first / 4) {
            self.count = self.count.saturating_add(1);
            self.counted = Some(Instant::now());
        }
        self.last = Some(Instant::now());
        match self.count {
            0 | 1 => Duration::ZERO,
            n => BAR_BACKOFF.delay(n - 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const ALLOWED: RateLimit = RateLimit { burst: 32_768, per_second: 2_048 };
    const SECOND: Duration = Duration::from_secs(1);

    fn counts(frames: u64, taken: u64, bytes: u64) -> PieceCounts {
        PieceCounts { frames, taken, bytes }
    }

    #[test]
    fn what_is_taken_or_large_is_not_in_vain() {
        let mut meter = PieceMeter::default();
        assert_eq!(
            meter.since_last(counts(1000, 1000, 20_000)),
            0,
            "tokens of an answer, each taken"
        );
        assert_eq!(
            meter.since_last(counts(2000, 1000, 20_000 + 1_200_000)),
            0,
            "an upload that waits"
        );
        assert_eq!(meter.since_last(counts(3000, 1000, 20_000 + 1_212_000)), 954, "crumbs");
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_in_vain_are_forgiven_with_time() {
        let mut debt = PieceDebt::default();
        for _ in 0..1000 {
            assert!(!debt.add(2048, ALLOWED), "2,048 a second for ever");
            advance(SECOND).await;
        }
        assert!(!debt.add(30_000, ALLOWED));
        assert!(debt.add(3_000, ALLOWED));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_it_again_is_refused_for_longer_each_time() {
        let mut offences = PieceOffences::default();
        let mut again = async |after| {
            advance(after).await;
            offences.add().as_secs()
        };
        assert_eq!(again(SECOND).await, 0);
        assert_eq!(again(SECOND / 4).await, 0, "its connections of the same moment");
        let mut all = Vec::new();
        for _ in 0..7 {
            all.push(again(3 * SECOND).await);
        }
        assert_eq!(all, [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(again(OFFENCE_LIFETIME).await, 0);
        let mut fast = PieceOffences::default();
        let mut longest = Duration::ZERO;
        for _ in 0..40 {
            advance(SECOND / 20).await;
            longest = longest.max(fast.add());
        }
        assert!(
            longest >= 4 * SECOND,
            "{longest:?}: one connection after the other, without a pause"
        );
    }
}
