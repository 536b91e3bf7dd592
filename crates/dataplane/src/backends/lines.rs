//! Log lines about backends that answer and do not answer by turns: a few of each, since nothing but its tenant decides how
//! often one does.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use adit_core::admission::rate_limit::{RateLimit, TokenBucket};
use tokio::time::Instant;

/// Lines about one backend: it went and came some times, and then one a second.
const ALLOWED_OF_BACKEND: RateLimit = RateLimit { burst: 10, per_second: 1 };
/// Lines about all of them: a rolling update of a large cluster has hundreds at once.
const ALLOWED: RateLimit = RateLimit { burst: 1_000, per_second: 20 };

/// The lines so far, of backends that there are.
#[derive(Debug)]
pub(super) struct FlapLines {
    began: Instant,
    all: TokenBucket,
    backends: BTreeMap<SocketAddr, BackendLines>,
}

#[derive(Debug, Default)]
struct BackendLines {
    bucket: TokenBucket,
    unlogged: u64,
}

impl Default for FlapLines {
    fn default() -> Self {
        Self { began: Instant::now(), all: TokenBucket::default(), backends: BTreeMap::new() }
    }
}

impl FlapLines {
    /// Returns how many lines about this backend were left out since the last one, if a line may be logged.
    pub(super) fn admit(&mut self, backend: SocketAddr) -> Option<u64> {
        let now = self.began.elapsed();
        let lines = self.backends.entry(backend).or_default();
        if lines.bucket.try_take(now, ALLOWED_OF_BACKEND) && self.all.try_take(now, ALLOWED) {
            return Some(std::mem::take(&mut lines.unlogged));
        }
        lines.unlogged += 1;
        None
    }

    /// Forgets the backends that `keep` does not want.
    pub(super) fn retain(&mut self, keep: impl Fn(SocketAddr) -> bool) {
        self.backends.retain(|backend, _| keep(*backend));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_flaps_has_a_few_lines_and_others_have_theirs() {
        let mut lines = FlapLines::default();
        let flapping: SocketAddr = "10.244.1.9:8080".parse().unwrap();
        let logged = |lines: &mut FlapLines, backend| {
            (0..1000).filter(|_| lines.admit(backend).is_some()).count()
        };
        assert_eq!(logged(&mut lines, flapping), 10);
        assert_eq!(lines.admit("10.244.1.10:8080".parse().unwrap()), Some(0));
        advance(Duration::from_secs(1)).await;
        assert_eq!(lines.admit(flapping), Some(990), "the next line says how many were left out");
        let many = (0..5000_u16).map(|port| SocketAddr::new(flapping.ip(), port));
        let all: usize = many.map(|backend| usize::from(lines.admit(backend).is_some())).sum();
        assert!((980..=1000).contains(&all), "{all}");
        lines.retain(|backend| backend == flapping);
        assert_eq!(lines.backends.len(), 1);
    }
}
