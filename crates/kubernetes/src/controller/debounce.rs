//! Ready that does not flap.
//!
//! Something is ready at once when a node says so, and not ready when for [`NOT_READY_DELAY`] all nodes that report
//! say so. While none reports it stays as it was: that nobody looks is no news about anybody.

use std::time::Duration;

use tokio::time::Instant;

/// How long all nodes must agree that something is not ready.
pub(super) const NOT_READY_DELAY: Duration = Duration::from_secs(3);

/// A yes or no that changes to no only after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Debounced {
    value: bool,
    doubted_since: Option<Instant>,
}

impl Debounced {
    pub(super) fn new(value: bool) -> Self {
        Self { value, doubted_since: None }
    }

    pub(super) fn value(&self) -> bool {
        self.value
    }

    /// Takes what is seen now; none where nobody sees. Returns when to look again.
    pub(super) fn observe(&mut self, seen: Option<bool>, now: Instant) -> Option<Instant> {
        match seen {
            None => self.doubted_since = None,
            Some(true) => *self = Self::new(true),
            Some(false) if self.value => {
                let end = *self.doubted_since.get_or_insert(now) + NOT_READY_DELAY;
                if now < end {
                    return Some(end);
                }
                *self = Self::new(false);
            }
            Some(false) => {}
        }
        None
    }
}
