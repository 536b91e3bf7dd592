//! Wakes a stream when what its right rests on has changed, and no other.
//!
//! A snapshot is published whenever any peer changes what it says of itself. If each stream looked at each
//! snapshot, a peer would have all streams of all others at work as often as it likes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_core::policy::{PermitBasis, touched};
use adit_core::snapshot::Snapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// One bell for all streams whose permits rest on the same.
#[derive(Debug, Default)]
pub(crate) struct Rights(Mutex<HashMap<PermitBasis, watch::Sender<()>>>);

impl Rights {
    /// Rings after each change of `basis` that is published from now on.
    pub(crate) fn bell(&self, basis: PermitBasis) -> watch::Receiver<()> {
        self.lock().entry(basis).or_default().subscribe()
    }

    /// Rings for what changes, until `stop`. Without it no right is ever withdrawn.
    pub(crate) async fn ring(
        &self,
        mut snapshot: watch::Receiver<Arc<Snapshot>>,
        mut before: Arc<Snapshot>,
        stop: CancellationToken,
    ) {
        loop {
            // Before anything is waited for: streams may have been permitted since `before`.
            let now = snapshot.borrow_and_update().clone();
            if !Arc::ptr_eq(&before, &now) {
                self.compare(&before, &now);
                before = now;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = snapshot.changed() => if changed.is_err() { return },
            }
        }
    }

    fn compare(&self, before: &Snapshot, now: &Snapshot) {
        let touched = touched(before, now);
        if touched.is_empty() {
            return;
        }
        let mut bells = self.lock();
        for bell in touched.iter().filter_map(|basis| bells.get(basis)) {
            bell.send_replace(());
        }
        bells.retain(|_, bell| bell.receiver_count() > 0);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PermitBasis, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
