//! Pieces of streams that cannot be put together, and whoever sends many of them.
//!
//! quinn keeps what arrives of a stream in order, up to a thousand pieces with gaps between them, and sorts all of them
//! again whenever they hold on to too much memory (0.11.19): each piece that comes then costs three microseconds of a
//! worker (measured), and a datagram carries a hundred. So what arrives is compared with what is taken. Each piece that
//! is taken was one, and pieces of [`MIN_PIECE`] bytes are never too many; all others are counted, for each connection
//! and each cluster. An honest peer has hardly any: what is sent again after a loss, and what a reader that stalls left
//! until it was joined. A connection with many is ended; and since the next one costs a handshake alone,
//! its cluster's new connections are refused for a while ([`MIN_BAR_DELAY`]), longer each time.

use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::rate_limit::RateLimit;
use adit_core::code::Code;
use tokio::time::{Instant, sleep};

use super::inner::LinksInner;
use crate::endpoint::PieceCounts;

/// The interval between two checks. A worker takes 160 datagrams of a connection at once.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Pieces of so many bytes cost their sender as much as us.
const MIN_PIECE: u64 = 256;
/// The pieces in vain of one connection. Of 20,000 small pieces a second on a path that loses a tenth, 2,000 come
/// again.
const ALLOWED_OF_CONNECTION: RateLimit = RateLimit { burst: 32_768, per_second: 2_048 };
/// Those of all connections of a cluster.
const ALLOWED_OF_CLUSTER: RateLimit = RateLimit { burst: 131_072, per_second: 8_192 };
/// A connection with no more than this is not ended, even if its cluster has spent its allowance.
const NEVER_ENDED_WITHIN: u64 = 1_024;
/// New connections of a cluster are refused for so long after its second offence, and twice as long after each
/// further one, up to [`MAX_BAR_DELAY`].
const MIN_BAR_DELAY: Duration = Duration::from_secs(2);
const MAX_BAR_DELAY: Duration = Duration::from_secs(60);
/// After so long without one, offences are forgotten.
const OFFENCE_LIFETIME: Duration = Duration::from_secs(600);

const TOO_MANY: &str = "too many pieces of streams came that cannot be put together";

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

impl PieceMeter {
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
        if self.counted.is_none_or(|at| at.elapsed() >= MIN_BAR_DELAY / 4) {
            self.count = self.count.saturating_add(1);
            self.counted = Some(Instant::now());
        }
        self.last = Some(Instant::now());
        match self.count {
            0 | 1 => Duration::ZERO,
            n => MIN_BAR_DELAY.saturating_mul(1 << (n - 2).min(5)).min(MAX_BAR_DELAY),
        }
    }
}

/// Looks at all connections until everything has ended.
pub(super) async fn watch(shared: Arc<LinksInner>) {
    loop {
        sleep(CHECK_INTERVAL).await;
        for conn in shared.connections.each() {
            let pieces = {
                let mut meter = conn.pieces.lock();
                let pieces = meter.since_last(conn.quic.piece_counts());
                if pieces == 0 {
                    continue;
                }
                let of_connection = meter.debt.add(pieces, ALLOWED_OF_CONNECTION);
                (pieces, of_connection, meter.debt.pieces)
            };
            let (pieces, is_over, debt) = pieces;
            let cluster_is_over =
                shared.peers.misuse.add_pieces(&conn.peer.cluster, pieces, ALLOWED_OF_CLUSTER);
            if is_over || (cluster_is_over && debt > NEVER_ENDED_WITHIN) {
                shared.peers.misuse.record_pieces(&conn.peer);
                tracing::warn!(peer = %conn.peer.id, debt, "connection ended: {TOO_MANY}");
                conn.quic.close(Code::ProtocolError, TOO_MANY);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

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
            assert!(!debt.add(2048, ALLOWED_OF_CONNECTION), "2,048 a second for ever");
            advance(SECOND).await;
        }
        assert!(!debt.add(30_000, ALLOWED_OF_CONNECTION));
        assert!(debt.add(3_000, ALLOWED_OF_CONNECTION));
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
