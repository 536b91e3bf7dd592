//! The pieces of streams that cannot be put together, as they are counted for a connection and for a cluster.
//! See [`super::fragments`].

use std::time::Duration;

use adit_core::admission::rate_limit::RateLimit;
use adit_core::backoff::Backoff;
use tokio::time::Instant;

use crate::tls::PieceDebt;

/// The time for which new connections of a cluster are refused after its second offence, doubled by each further one.
pub(super) const BAR_BACKOFF: Backoff =
    Backoff::new(Duration::from_secs(2), Duration::from_secs(60));
/// After so long without one, offences are forgotten.
const OFFENCE_LIFETIME: Duration = Duration::from_secs(600);

/// Pieces in vain of one connection that are not much, whatever its cluster's others send.
const LITTLE: RateLimit = RateLimit { burst: 1_024, per_second: 256 };

/// The pieces of one connection, as far as they were counted.
#[derive(Debug, Default)]
pub(crate) struct PieceMeter {
    counted: u64,
    debt: PieceDebt,
}

/// The connections of a cluster that were ended for this.
#[derive(Debug, Default)]
pub(crate) struct PieceOffences {
    count: u32,
    /// When one was counted last, and when the last came.
    counted: Option<Instant>,
    last: Option<Instant>,
}

/// The pieces in vain that a connection has sent since the last time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NewPieces {
    /// Their number; never zero.
    pub(super) count: u64,
    /// True if it is among those that send many.
    pub(super) is_much: bool,
}

impl PieceMeter {
    /// Takes what has been counted by now; `None` if nothing was in vain since the last time.
    pub(super) fn update(&mut self, in_all: u64) -> Option<NewPieces> {
        let count = in_all.saturating_sub(std::mem::replace(&mut self.counted, in_all));
        (count > 0).then(|| NewPieces { count, is_much: self.debt.add(count, LITTLE) })
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

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_a_connection_sends_in_vain_is_told_once_and_forgiven_with_time() {
        let (mut meter, mut in_all) = (PieceMeter::default(), 0);
        let mut send = |count| {
            in_all += count;
            meter.update(in_all)
        };
        assert_eq!(send(0), None);
        for _ in 0..100 {
            assert_eq!(send(256), Some(NewPieces { count: 256, is_much: false }));
            advance(SECOND).await;
        }
        assert_eq!(send(1_025), Some(NewPieces { count: 1_025, is_much: true }));
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
