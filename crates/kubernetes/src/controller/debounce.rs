//! Debounced readiness, which does not flap.
//!
//! Something is ready at once when a node says so, and not ready after all reporting nodes have
//! said so for [`NOT_READY_DELAY`]. While no node reports, it stays as it was: no report says
//! nothing.

use std::time::Duration;

use tokio::time::Instant;

/// Time for which all nodes must agree that something is not ready, from when they first do.
pub(super) const NOT_READY_DELAY: Duration = Duration::from_secs(3);

/// A boolean that changes to false only after a while.
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

    /// Takes the present observation; `None` if nobody observes. Returns when to observe again.
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
