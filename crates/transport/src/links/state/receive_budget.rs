//! The budget of what is received from a peer's state streams in a second.
//!
//! Receiving costs: bytes are decoded, records kept, others informed. So each link has a budget that fills at
//! a steady rate up to one whole view of the largest size, which therefore always passes at once. Beyond it
//! the stream is not read, and the peer's sending comes to a stop by flow control; nothing is dropped.

use std::time::Duration;

use adit_core::wire::state::{MESSAGE_COST, WHOLE_VIEW_COST};
use tokio::time::Instant;

/// The bytes a second, with [`MESSAGE_COST`], that are received from a peer that never rests. Some 3,000
/// small changes: a hundred times what a cluster of 5,000 nodes has.
const BYTES_PER_SECOND: usize = 1 << 20;

/// The rest of one link's budget. It belongs to the link, and outlives streams and sources.
#[derive(Debug)]
pub(crate) struct ReceiveBudget {
    /// The time at which it will be full again.
    full_at: Instant,
}

impl ReceiveBudget {
    /// A full one.
    pub(crate) fn new() -> Self {
        Self { full_at: Instant::now() }
    }

    /// Spends a message of so many bytes. What is missing is owed.
    pub(crate) fn spend(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.full_at =
            self.full_at.max(Instant::now()) + time_for(bytes.saturating_add(MESSAGE_COST));
    }

    /// The time at which the next message may be read; `None` if that is now.
    pub(crate) fn exhausted_until(&self) -> Option<Instant> {
        let at = self.full_at.checked_sub(time_for(WHOLE_VIEW_COST))?;
        Some(at).filter(|at| *at > Instant::now())
    }
}

/// The time that it takes to earn so much.
fn time_for(cost: usize) -> Duration {
    let cost = u32::try_from(cost).unwrap_or(u32::MAX);
    Duration::from_secs(1) * cost / u32::try_from(BYTES_PER_SECOND).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_whole_view_passes_at_once_and_what_follows_at_the_rate() {
        let mut allowance = ReceiveBudget::new();
        let began = Instant::now();
        let mut spent = 0;
        while allowance.exhausted_until().is_none() {
            allowance.spend(1000);
            spent += 1000 + MESSAGE_COST;
        }
        assert!((WHOLE_VIEW_COST..WHOLE_VIEW_COST + 10_000).contains(&spent), "{spent}");
        for _ in 0..1000 {
            if let Some(until) = allowance.exhausted_until() {
                tokio::time::sleep_until(until).await;
            }
            allowance.spend(10_000);
        }
        let rate = (1000 * (10_000 + MESSAGE_COST)) as f64 / began.elapsed().as_secs_f64();
        assert!((rate / BYTES_PER_SECOND as f64 - 1.0).abs() < 0.01, "{rate}");
        tokio::time::sleep(time_for(WHOLE_VIEW_COST)).await;
        allowance.spend(16 << 20);
        assert!(allowance.exhausted_until().is_none(), "full again");
    }
}
