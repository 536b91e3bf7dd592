//! The bound of how often a linked cluster may ask what would become of a stream.

use std::collections::HashMap;

use adit_core::admission::rate_limit::{RateLimit, TokenBucket};
use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_runtime::Mutex;
use tokio::time::Instant;

use crate::flow::FlowFailure;

/// Questions that the nodes of one cluster may ask a node.
const ALLOWED: RateLimit = RateLimit { burst: 20, per_second: 2 };

/// The questions that each linked cluster has asked of late.
#[derive(Debug)]
pub struct ProbeLimits {
    began: Instant,
    /// No more than there are linked clusters.
    asked: Mutex<HashMap<ClusterName, TokenBucket>>,
}

impl Default for ProbeLimits {
    fn default() -> Self {
        Self { began: Instant::now(), asked: Mutex::default() }
    }
}

impl ProbeLimits {
    /// Decides if a cluster may ask once more. Those for which `is_linked` is false are forgotten.
    ///
    /// # Errors
    /// [`Code::OverLimit`].
    pub(crate) fn admit(
        &self,
        cluster: &ClusterName,
        is_linked: impl Fn(&ClusterName) -> bool,
    ) -> Result<(), FlowFailure> {
        let now = self.began.elapsed();
        let mut asked = self.asked.lock();
        asked.retain(|known, _| known == cluster || is_linked(known));
        if asked.entry(cluster.clone()).or_default().try_take(now, ALLOWED) {
            return Ok(());
        }
        let RateLimit { burst, per_second } = ALLOWED;
        let reason = format!(
            "{cluster} asks too often what would become of a stream: {burst} at once and {per_second} a second may be asked"
        );
        Err(FlowFailure::new(Code::OverLimit, reason))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cluster_asks_a_burst_and_then_at_its_rate_and_no_other_pays_for_it() {
        let limits = ProbeLimits::default();
        let [edge, shop]: [ClusterName; 2] = ["edge", "shop"].map(|name| name.parse().unwrap());
        let admitted =
            |of: &ClusterName| (0..1000).filter(|_| limits.admit(of, |_| true).is_ok()).count();
        assert_eq!(admitted(&edge), 20);
        assert_eq!(admitted(&shop), 20, "each has its own");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(admitted(&edge), 6);
        let refused = limits.admit(&edge, |_| true).unwrap_err();
        assert_eq!(refused.code, Code::OverLimit);
        assert!(refused.reason.contains("2 a second"), "{}", refused.reason);
        limits.admit(&shop, |_| false).ok();
        assert_eq!(limits.asked.lock().len(), 1, "whoever is not linked is forgotten");
    }
}
