//! The dials under way, one at a time for each node, class and worker.
//!
//! The first caller leads: it dials, and hands the result to all that follow. A leader that is dropped
//! without a result ends the wait of its followers, too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::NodeKey;
use adit_core::snapshot::Class;
use adit_runtime::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::DialFailure;

/// The result of a dial; `None` while it is under way.
type DialOutcome = Option<Result<(), DialFailure>>;

/// The key of a dial: there is one at a time for each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct DialKey {
    pub(crate) node: NodeKey,
    pub(crate) class: Class,
    pub(crate) worker: usize,
}

/// A dial under way.
#[derive(Debug, Clone)]
pub(crate) struct PendingDial {
    started_at: Instant,
    outcome: watch::Receiver<DialOutcome>,
}

impl PendingDial {
    /// Waits for its end.
    pub(crate) async fn wait(mut self) {
        drop(self.outcome.wait_for(Option::is_some).await);
    }

    /// Waits for the result, until the dial has taken `within` at most: `None` then.
    pub(crate) async fn wait_result(mut self, within: Duration) -> Option<Result<(), DialFailure>> {
        let outcome = timeout_at(self.started_at + within, self.outcome.wait_for(Option::is_some));
        match outcome.await.ok()? {
            Ok(result) => result.clone(),
            Err(_) => {
                let text = "the dial ended without a result".to_owned();
                Some(Err(DialFailure::new(Code::Internal, text)))
            }
        }
    }
}

/// A caller's part in a dial.
pub(crate) enum DialRole {
    /// Another caller dials already.
    Follower(PendingDial),
    /// This caller must dial.
    Leader(DialLeader, PendingDial),
}

/// The dials under way.
#[derive(Debug, Default)]
pub(crate) struct InFlightDials(Mutex<HashMap<DialKey, PendingDial>>);

impl InFlightDials {
    /// Joins the dial that is under way, or has the caller lead one.
    pub(crate) fn start_or_join(self: &Arc<Self>, key: &DialKey) -> DialRole {
        let mut dials = self.0.lock();
        if let Some(pending) = dials.get(key) {
            return DialRole::Follower(pending.clone());
        }
        let (sender, outcome) = watch::channel(None);
        let pending = PendingDial { started_at: Instant::now(), outcome };
        dials.insert(key.clone(), pending.clone());
        let leader = DialLeader { dials: Arc::clone(self), key: key.clone(), outcome: sender };
        DialRole::Leader(leader, pending)
    }
}

/// The caller that dials. Dropped without a result, it ends the wait of all followers.
#[derive(Debug)]
pub(crate) struct DialLeader {
    dials: Arc<InFlightDials>,
    pub(crate) key: DialKey,
    outcome: watch::Sender<DialOutcome>,
}

impl DialLeader {
    /// Gives the result to all followers.
    pub(crate) fn complete(self, result: Result<(), DialFailure>) {
        self.dials.0.lock().remove(&self.key);
        self.outcome.send_replace(Some(result));
    }
}

impl Drop for DialLeader {
    fn drop(&mut self) {
        self.dials.0.lock().remove(&self.key);
    }
}
