//! The acknowledgements of what is sent on a connection ([`crate::links::unacknowledged`]), and when something last came.

use std::time::Duration;

use tokio::time::Instant;

use crate::endpoint::AckCounts;

/// Time from when something was seen to be sent until nothing of it was acknowledged for too long: five or six
/// retransmissions, of two packets each, at intervals that double.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(5);
/// The least number of datagrams that the peer sent meanwhile: one may have been under way when the path broke.
const MIN_RECEIVED: u64 = 3;

/// The packets of a connection and their acknowledgements, as its last check found them.
#[derive(Debug, Default)]
pub(crate) struct AckWatch {
    /// Number of our packets that were acknowledged.
    acknowledged: u64,
    /// The time at which that number was last found to have grown.
    acknowledged_at: Option<Instant>,
    /// Number of frames sent that ask for an acknowledgement, when something was last acknowledged.
    ack_eliciting: u64,
    /// The time since when more of them were sent, and the number of datagrams received by then.
    pending_since: Option<(Instant, u64)>,
    receipts: ReceiptWatch,
}

/// The datagrams that came on a connection, as its last check found them.
#[derive(Debug, Default, Clone, Copy)]
struct ReceiptWatch {
    /// The last check, and the number of datagrams that had come by then.
    checked: Option<(Instant, u64)>,
    /// The latest check after which some came.
    heard_after: Option<Instant>,
}

impl ReceiptWatch {
    fn check(&mut self, received: u64, now: Instant) {
        if let Some((at, before)) = self.checked.replace((now, received))
            && received > before
        {
            self.heard_after = Some(at);
        }
    }
}

impl AckWatch {
    /// Checks once more; true if the peer is received and does not receive.
    pub(crate) fn check(&mut self, counts: AckCounts, now: Instant) -> bool {
        let AckCounts { ack_eliciting, acknowledged, received } = counts;
        self.receipts.check(received, now);
        if acknowledged != self.acknowledged {
            *self = Self {
                acknowledged,
                acknowledged_at: Some(now),
                ack_eliciting,
                pending_since: None,
                receipts: self.receipts,
            };
            return false;
        }
        if ack_eliciting == self.ack_eliciting {
            return false;
        }
        let (since, before) = *self.pending_since.get_or_insert((now, received));
        now.saturating_duration_since(since) >= UNACKNOWLEDGED_TIMEOUT
            && received >= before + MIN_RECEIVED
    }

    /// A time after which something came for certain: by one interval of the checks too early at most.
    pub(crate) fn heard_after(&self) -> Option<Instant> {
        self.receipts.heard_after
    }

    /// True if something was acknowledged of late.
    pub(crate) fn is_acknowledged(&self, now: Instant) -> bool {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < UNACKNOWLEDGED_TIMEOUT;
        self.acknowledged_at.is_some_and(is_recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks once a second, with the counts of frames sent, packets acknowledged and datagrams received by then;
    /// returns the number of the first check that finds the peer deaf.
    fn found(counts: impl IntoIterator<Item = (u64, u64, u64)>) -> Option<u32> {
        let (mut watch, began) = (AckWatch::default(), Instant::now());
        (0_u32..).zip(counts).find_map(|(n, (ack_eliciting, acknowledged, received))| {
            let counts = AckCounts { ack_eliciting, acknowledged, received };
            watch.check(counts, began + Duration::from_secs(1) * n).then_some(n)
        })
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_received_and_acknowledges_nothing_is_found_in_five_seconds() {
        assert_eq!(found((0..20).map(|n| (3 + n, 7, 9 + n))), Some(6));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_silent_was_asked_nothing_or_acknowledges_now_and_then_is_not() {
        // It ends by silence.
        assert_eq!(found((0..20).map(|n| (3 + n, 7, 9))), None);
        // A long download: all that goes out is acknowledgements.
        assert_eq!(found((0..20).map(|n| (3, 7, 9 + n))), None);
        // One acknowledgement in four seconds, on a path that loses most.
        assert_eq!(found((0..200).map(|n| (3 + n, 7 + n / 4, 9 + n))), None);
    }
}
