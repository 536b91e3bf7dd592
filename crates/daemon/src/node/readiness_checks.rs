//! Keeps readiness true to what may go wrong with this node while it runs: its listeners and its certificate.
//!
//! Never to a peer's troubles: those are no reason to send a workload's connections elsewhere.

use std::sync::Arc;
use std::time::Duration;

use adit_pki::UnixTime;
use tokio::time::sleep;

use super::data_plane::StatusSource;
use super::process_state::ProcessState;

/// The checks run this often.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs the checks for as long as it is polled.
pub(super) async fn watch<W: StatusSource>(known: Arc<ProcessState<W>>) {
    let (mut listeners, mut certificate) = (None, None);
    loop {
        let wait_for = |reason: &'static str, wrong: bool, held: &mut Option<_>| {
            if wrong != held.is_some() {
                *held = wrong.then(|| known.readiness.wait_for(reason));
            }
        };
        wait_for("listeners", !known.status_source.not_listening().is_empty(), &mut listeners);
        let ended = known.credentials.identity.get().not_after() <= UnixTime::now();
        wait_for("a certificate that has not ended", ended, &mut certificate);
        sleep(CHECK_INTERVAL).await;
    }
}
