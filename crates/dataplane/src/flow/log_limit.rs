//! A limit on log lines of one kind: the first ones, then some a second, and the number of the others.
//!
//! Whoever is refused ten thousand times a second must not fill a disk, nor may whoever is served as often: a line takes
//! more bytes than the packets of a short stream.

use std::collections::BTreeMap;
use std::sync::MutexGuard;

use adit_core::admission::rate_limit::{RateLimit, TokenBucket};
use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_runtime::Mutex;
use tokio::time::Instant;

use super::direction::Direction;

/// Lines of one kind that are logged.
const ALLOWED: RateLimit = RateLimit { burst: 100, per_second: 5 };
/// The same of streams that were carried to their end: 66 KB a second.
const ALLOWED_CARRIED: RateLimit = RateLimit { burst: 300, per_second: 150 };

/// Lines that say the same but for the stream: direction, code and the peer's cluster. All of them have
/// closed sets of values.
type LineKind = (Direction, Code, Option<ClusterName>);

/// Bounds the lines of streams.
#[derive(Debug)]
pub(super) struct LogLimit {
    began: Instant,
    kinds: Mutex<BTreeMap<LineKind, LineCount>>,
}

#[derive(Debug, Default)]
struct LineCount {
    pace: TokenBucket,
    unlogged: u64,
}

impl LogLimit {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), kinds: Mutex::default() }
    }

    /// Returns how many lines of its kind were left out since the last one, if a line may be logged.
    pub(super) fn admit(
        &self,
        direction: Direction,
        code: Code,
        cluster: Option<&ClusterName>,
    ) -> Option<u64> {
        // Numbers that only a peer knows are one.
        let code = if let Code::Unknown(_) = code { Code::Unknown(0) } else { code };
        let allowed = if code == Code::Finished { ALLOWED_CARRIED } else { ALLOWED };
        let mut kinds = self.kinds();
        let count = kinds.entry((direction, code, cluster.cloned())).or_default();
        if count.pace.try_take(self.began.elapsed(), allowed) {
            return Some(std::mem::take(&mut count.unlogged));
        }
        count.unlogged += 1;
        None
    }

    /// Logs how many lines of each kind were left out, where that has not been said.
    pub(super) fn log_unlogged(&self) {
        for ((direction, code, cluster), count) in self.kinds().iter_mut() {
            let unlogged = std::mem::take(&mut count.unlogged);
            if unlogged > 0 {
                tracing::info!(
                    target: "adit::stream",
                    direction = direction.name(),
                    code = code.name(),
                    peer_cluster = cluster.as_ref().map(tracing::field::display),
                    unlogged,
                    "{unlogged} more streams ended like this"
                );
            }
        }
    }

    fn kinds(&self) -> MutexGuard<'_, BTreeMap<LineKind, LineCount>> {
        self.kinds.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_kind_is_counted_and_others_are_logged() {
        let limit = LogLimit::new();
        let bank: ClusterName = "bank".parse().unwrap();
        let denied = || limit.admit(Direction::Inbound, Code::Denied, Some(&bank));
        let logged = (0..10_000).filter(|_| denied().is_some()).count();
        assert_eq!(logged, ALLOWED.burst as usize);
        assert_eq!(limit.admit(Direction::Outbound, Code::Denied, Some(&bank)), Some(0));
        assert_eq!(limit.admit(Direction::Inbound, Code::Denied, None), Some(0));
        advance(Duration::from_secs(1)).await;
        assert_eq!(denied(), Some(10_000 - 100), "the next line says how many were left out");
        assert_eq!(denied(), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_are_carried_have_a_line_each_up_to_what_no_reader_needs() {
        let limit = LogLimit::new();
        let shop: ClusterName = "shop".parse().unwrap();
        let carried = || limit.admit(Direction::Inbound, Code::Finished, Some(&shop)).is_some();
        let mut lines = 0;
        for _ in 0..20 {
            lines += (0..1000).filter(|_| carried()).count();
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(lines, 300 + 19 * 150);
        for _ in 0..100 {
            assert!(carried(), "a hundred a second have a line each");
            advance(Duration::from_millis(10)).await;
        }
    }

    #[test]
    fn numbers_that_a_peer_invents_are_one_kind() {
        let limit = LogLimit::new();
        for n in 0x1000..0x2000 {
            limit.admit(Direction::Inbound, Code::Unknown(n), None);
        }
        assert_eq!(limit.kinds().len(), 1);
    }
}
