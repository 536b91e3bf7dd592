//! Takes in peers that dialled us: handshake, hello, session.

use std::sync::Arc;

use adit_core::admission;
use adit_core::code::Code;
use tokio::time::timeout;

use super::shared::Shared;
use super::{hello, session};
use crate::endpoint::{By, Incoming, UNHEARD_TIMEOUT};

/// Accepts at one worker until the node ends.
pub(super) async fn run(shared: Arc<Shared>, worker: usize) {
    let handle = shared.endpoints.workers()[worker].handle().clone();
    let all = async {
        while let Some(incoming) = shared.endpoints.accept(worker).await {
            shared.work.tasks.spawn_on(admit(Arc::clone(&shared), incoming), &handle);
        }
    };
    // Cancelled or out of endpoints: either way nobody is accepted any more.
    let _ = shared.work.stages.ended.run_until_cancelled(all).await;
}

/// Takes in one.
async fn admit(shared: Arc<Shared>, incoming: Incoming) {
    let remote = incoming.remote();
    let mut accepting = std::pin::pin!(incoming.accept());
    let accepted = match timeout(UNHEARD_TIMEOUT, &mut accepting).await {
        Ok(accepted) => accepted,
        Err(_) => {
            shared.suspect_unheard(remote);
            accepting.await
        }
    };
    let quic = match accepted {
        Ok(quic) => quic,
        // Anybody can make a handshake fail, so it is not worth a warning, unless a peer is known to be there.
        Err(error) => {
            tracing::debug!(%remote, %error, "handshake failed");
            return shared.note_handshake_failed(remote, &error);
        }
    };
    let (now, id) = (shared.now(), quic.identity());
    let is_ours = *quic.peer().trust_domain() == now.this.trust_domain;
    if is_ours && id.node.as_ref() == Some(&now.this.node) {
        shared.met_namesake();
    }
    // Before anything is said: who has no place is told so, and costs nothing more.
    let taken_in = match shared.seat(&quic) {
        Ok(seat) => {
            let greeted = hello::answer(&quic, &shared.local, &shared.now()).await;
            greeted.and_then(|g| session::begin(&shared, quic.clone(), g, seat))
        }
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = taken_in {
        // A dialler that was served elsewhere meanwhile closes what it has no use for: nobody was refused.
        if quic.is_closed().is_some_and(|closed| closed.by == By::Peer && is_spare(closed.code)) {
            return tracing::debug!(%remote, peer = %quic.peer(), %refusal, "spare connection");
        }
        // A cluster without a link is nobody whose lines could be counted; its handshakes are few.
        let peer = admission::peer(&shared.now(), quic.peer());
        let is_logged = peer.map_or(true, |(cluster, node)| {
            shared.work.misuse.note_refused(&cluster, &node, refusal.code)
        });
        if is_logged {
            tracing::warn!(%remote, peer = %quic.peer(), %refusal, "peer refused");
        }
        shared.work.metrics.refused(refusal.code);
        quic.close(refusal.code, &refusal.reason);
    }
}

fn is_spare(code: Code) -> bool {
    matches!(code, Code::ConnectionUnused | Code::Replaced)
}
