//! Wakes a stream when what its right rests on has changed, and no other.
//!
//! A snapshot is published whenever any peer changes what it says of itself. If each stream looked at each
//! snapshot, a peer would have all streams of all others at work as often as it likes.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};

use adit_core::policy::{PermitBasis, changed_bases};
use adit_core::snapshot::Snapshot;
use adit_runtime::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A channel for each basis of permits, which tells all streams whose permits rest on it.
#[derive(Debug, Default)]
pub(crate) struct PermitRevocations(Mutex<HashMap<PermitBasis, watch::Sender<()>>>);

impl PermitRevocations {
    /// A channel that is notified after each change of `basis` that is published from now on.
    pub(crate) fn subscribe(&self, basis: PermitBasis) -> watch::Receiver<()> {
        self.lock().entry(basis).or_default().subscribe()
    }

    /// Notifies the channels of each basis that changes, until `stop`. Without it no right is ever withdrawn.
    pub(crate) async fn run(
        &self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        mut before: Arc<Snapshot>,
        stop: CancellationToken,
    ) {
        loop {
            // Before anything is waited for: streams may have been permitted since `before`.
            let snapshot = snapshots.borrow_and_update().clone();
            if !Arc::ptr_eq(&before, &snapshot) {
                self.notify_changed(&before, &snapshot);
                before = snapshot;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = snapshots.changed() => if changed.is_err() { return },
            }
        }
    }

    fn notify_changed(&self, before: &Snapshot, after: &Snapshot) {
        let touched = changed_bases(before, after);
        if touched.is_empty() {
            return;
        }
        let mut channels = self.lock();
        for channel in touched.iter().filter_map(|basis| channels.get(basis)) {
            channel.send_replace(());
        }
        channels.retain(|_, channel| channel.receiver_count() > 0);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PermitBasis, watch::Sender<()>>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use adit_core::name::ServiceName;
    use tokio::time::{Duration, timeout};

    use super::*;
    use crate::testing::snapshot;

    #[tokio::test(start_paused = true)]
    async fn a_permit_withdrawn_before_the_task_ran_is_notified_nevertheless() {
        let service: ServiceName = "agents/bank-bot".parse().unwrap();
        let first = snapshot(&service, true);
        let (publish, published) = watch::channel(Arc::clone(&first));
        let (revocations, stop) = (PermitRevocations::default(), CancellationToken::new());
        // A stream is permitted by the first snapshot, which is replaced before the task runs.
        let mut changes = revocations.subscribe(PermitBasis::Export(service.clone()));
        let other = revocations.subscribe(PermitBasis::Export("agents/other".parse().unwrap()));
        publish.send_replace(snapshot(&service, false));
        let running = revocations.run(published, first, stop.clone());
        let waiting = async {
            let notified = timeout(Duration::from_secs(1), changes.changed()).await;
            assert!(notified.is_ok(), "a right that was lost at once is never asked again");
            assert!(!other.has_changed().unwrap(), "what rests on something else is let alone");
            // Again, while it waits.
            publish.send_replace(snapshot(&service, true));
            assert!(timeout(Duration::from_secs(1), changes.changed()).await.is_ok());
            assert!(!other.has_changed().unwrap());
            stop.cancel();
        };
        tokio::join!(running, waiting);
    }

    #[tokio::test(start_paused = true)]
    async fn channels_without_a_subscriber_are_forgotten() {
        let service: ServiceName = "agents/bank-bot".parse().unwrap();
        let revocations = PermitRevocations::default();
        for n in 0..100 {
            revocations.subscribe(PermitBasis::Export(format!("agents/bot-{n}").parse().unwrap()));
        }
        revocations.notify_changed(&snapshot(&service, true), &snapshot(&service, false));
        assert_eq!(revocations.lock().len(), 0);
    }
}
