//! Takes in peers that dialled us: handshake, hello, session.

use std::sync::Arc;

use adit_core::admission;
use adit_core::code::Code;
use tokio::time::timeout;

use super::shared::LinksInner;
use super::{handshake, session};
use crate::endpoint::{ClosedBy, Incoming, UNHEARD_TIMEOUT};

/// Accepts at one worker until the node ends.
pub(super) async fn run(shared: Arc<LinksInner>, worker: usize) {
    let handle = shared.endpoints.workers()[worker].handle().clone();
    let all = async {
        while let Some(incoming) = shared.endpoints.accept(worker).await {
            shared.runtime.tasks.spawn_on(admit(Arc::clone(&shared), incoming), &handle);
        }
    };
    // Cancelled or out of endpoints: either way nobody is accepted any more.
    let _ = shared.runtime.shutdown.ended.run_until_cancelled(all).await;
}

/// Takes in one.
async fn admit(shared: Arc<LinksInner>, incoming: Incoming) {
    let remote = incoming.remote();
    let mut accepting = std::pin::pin!(incoming.accept());
    let accepted = match timeout(UNHEARD_TIMEOUT, &mut accepting).await {
        Ok(accepted) => accepted,
        Err(_) => {
            shared.suspect_unheard_peer(remote);
            accepting.await
        }
    };
    let quic = match accepted {
        Ok(quic) => quic,
        // Anybody can make a handshake fail, so it is not worth a warning, unless a peer is known to be there.
        Err(error) => {
            tracing::debug!(%remote, %error, "handshake failed");
            return shared.record_handshake_failure(remote, &error);
        }
    };
    let (now, id) = (shared.snapshot(), quic.identity());
    let is_ours = *quic.peer_id().trust_domain() == now.local.trust_domain;
    if is_ours && id.node.as_ref() == Some(&now.local.node) {
        shared.count_namesake();
    }
    // Before anything is sent: a peer for which there is no place is told so, and costs nothing more.
    let taken_in = match shared.acquire_permit(&quic) {
        Ok(seat) => {
            let greeted = handshake::respond(&quic, &shared.context, &shared.snapshot()).await;
            greeted.and_then(|g| session::start(&shared, quic.clone(), g, seat))
        }
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = taken_in {
        // A dialler that was served elsewhere meanwhile closes what it has no use for: nobody was refused.
        if quic
            .is_closed()
            .is_some_and(|closed| closed.by == ClosedBy::Peer && is_surplus(closed.code))
        {
            return tracing::debug!(%remote, peer = %quic.peer_id(), %refusal, "spare connection");
        }
        // A cluster without a link has no counted log lines; its handshakes are few.
        let peer = admission::identify_peer(&shared.snapshot(), quic.peer_id());
        let is_logged = peer.map_or(true, |(cluster, node)| {
            shared.runtime.misuse.record_refused(&cluster, &node, refusal.code)
        });
        if is_logged {
            tracing::warn!(%remote, peer = %quic.peer_id(), %refusal, "peer refused");
        }
        shared.runtime.metrics.refused(refusal.code);
        quic.close(refusal.code, &refusal.reason);
    }
}

fn is_surplus(code: Code) -> bool {
    matches!(code, Code::ConnectionUnused | Code::Replaced)
}
