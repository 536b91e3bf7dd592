//! Readiness of this node: a set of named reasons why it may not be sent work yet, which empties.
//!
//! Each reason is held by a guard and leaves with it, so that nothing is forgotten on any path. Readiness
//! is about this node alone, never about a peer: another cluster's outage must not stall our rollout.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::sync::watch;

/// The set. Cheap to clone; all clones are one set.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    pending: Arc<watch::Sender<Vec<Cow<'static, str>>>>,
}

/// A reason not to be ready, for as long as this guard lives.
#[derive(Debug)]
#[must_use = "the reason leaves the set when this is dropped"]
pub struct Pending {
    reason: Cow<'static, str>,
    set: Readiness,
}

impl Readiness {
    /// Adds a reason: what is being waited for, in a few words, e.g. `first snapshot`.
    pub fn wait_for(&self, reason: impl Into<Cow<'static, str>>) -> Pending {
        let reason = reason.into();
        self.pending.send_modify(|left| left.push(reason.clone()));
        Pending { reason, set: self.clone() }
    }

    /// The reasons that are left, oldest first; empty when ready.
    #[must_use]
    pub fn pending(&self) -> Vec<Cow<'static, str>> {
        self.pending.borrow().clone()
    }

    /// Waits until no reason is left.
    pub async fn ready(&self) {
        // Fails only when the sender is gone, and `self` holds it.
        self.pending.subscribe().wait_for(Vec::is_empty).await.ok();
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.set.pending.send_modify(|left| {
            if let Some(at) = left.iter().position(|r| *r == self.reason) {
                left.remove(at);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reasons_leave_with_their_guards() {
        let readiness = Readiness::default();
        readiness.ready().await;
        let identity = readiness.wait_for("identity");
        let (first, second) = (readiness.wait_for("probe"), readiness.wait_for("probe"));
        drop(first);
        assert_eq!(readiness.pending(), ["identity", "probe"], "equal reasons are counted");
        drop(identity);
        let (waiting, ()) = tokio::join!(readiness.ready(), async { drop(second) });
        assert_eq!((waiting, readiness.pending().len()), ((), 0));
    }
}
