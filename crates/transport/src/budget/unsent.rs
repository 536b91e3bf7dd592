//! Bytes that wait here because a peer does not let them be sent.
//!
//! What a connection may have under way is its windows'. But whoever sends has read a piece more than that: of each
//! stream that its peer's node does not let go on, up to a whole read. A peer has thousands of streams, so what waits is
//! charged like what it sends and nobody takes: where its cluster has too much, the stream that has waited for longest
//! is reset.

use std::sync::Arc;

use adit_core::name::ClusterName;
use tokio::sync::Notify;

use super::BufferBudget;

/// The charge for what one stream holds because its peer does not let it be sent, for as long as this lives.
#[derive(Debug)]
pub struct UnsentCharge {
    budget: BufferBudget,
    cluster: ClusterName,
    number: u64,
    evict: Arc<Notify>,
}

impl UnsentCharge {
    /// Charges `bytes` to a cluster.
    pub(super) fn begin(budget: &BufferBudget, cluster: &ClusterName, bytes: usize) -> Self {
        let evict = Arc::new(Notify::new());
        let (number, _) = budget.stall(cluster, bytes, &evict);
        Self { budget: budget.clone(), cluster: cluster.clone(), number, evict }
    }

    /// Waits until the budget wants the memory back.
    pub async fn evicted(&self) {
        self.evict.notified().await;
    }
}

impl Drop for UnsentCharge {
    fn drop(&mut self) {
        self.budget.ledger().end_stall(&self.cluster, self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::budget::{BufferCharges, BufferLimits};

    #[test]
    fn what_waits_is_charged_and_what_has_waited_for_longest_pays() {
        let budget = BufferBudget::new(BufferLimits { process: 1 << 20, peer: 100 });
        let bank: ClusterName = "bank".parse().unwrap();
        let [first, second] = [60, 40].map(|bytes| UnsentCharge::begin(&budget, &bank, bytes));
        assert_eq!((budget.charges().stalled, budget.charges().streams), (100, 2));
        let third = UnsentCharge::begin(&budget, &bank, 1);
        assert!(first.evicted().now_or_never().is_some());
        assert!([&second, &third].iter().all(|held| held.evicted().now_or_never().is_none()));
        drop([first, second, third]);
        assert_eq!(budget.charges(), BufferCharges::default());
    }
}
