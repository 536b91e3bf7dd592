//! Takes in peers that dialled us: handshake, hello, session.

use std::net::SocketAddr;
use std::sync::Arc;

use adit_core::admission;
use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_core::spiffe::SpiffeId;
use tokio::time::{Instant, timeout};

use super::certificate_refusal::claimed_id;
use super::connections::PeerConnection;
use super::inner::LinksInner;
use super::{handshake, session};
use crate::endpoint::{AcceptError, ClosedBy, Incoming, UNHEARD_TIMEOUT};

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

/// Accepts one connection, through handshake and hello, and serves it until it ends.
async fn admit(shared: Arc<LinksInner>, incoming: Incoming) {
    let remote = incoming.remote();
    if incoming.is_invitee() {
        return serve_invitee(&shared, incoming).await;
    }
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
        Ok(permit) => {
            let exchanged = handshake::respond(&quic, &shared.context, &shared.snapshot()).await;
            exchanged.and_then(|handshake| session::start(&shared, quic.clone(), handshake, permit))
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
        if let Some(key) = peer.as_ref().ok().filter(|_| quic.has_too_many_pieces()) {
            shared.record_too_many_pieces(key);
        }
        let is_logged = peer.map_or(true, |key| {
            shared.peers.misuse.record_refused(&key.cluster, &key.node, refusal.code)
        });
        if is_logged {
            tracing::warn!(%remote, peer = %quic.peer_id(), %refusal, "peer refused");
        }
        shared.peers.metrics.refused(refusal.code);
        quic.close(refusal.code, &refusal.reason);
    }
}

/// Serves somebody who joins by invitation, until he has his answer or the node ends.
async fn serve_invitee(shared: &LinksInner, incoming: Incoming) {
    let remote = incoming.remote();
    let served = shared.runtime.shutdown.ended.run_until_cancelled(incoming.serve_invitee()).await;
    if let Some(Err(error)) = served {
        tracing::debug!(%remote, %error, "handshake of somebody who would join failed");
    }
}

fn is_surplus(code: Code) -> bool {
    matches!(code, Code::ConnectionUnused | Code::Replaced)
}

impl LinksInner {
    /// Records a handshake that a peer at `remote` began and that failed.
    fn record_handshake_failure(&self, remote: SocketAddr, error: &AcceptError) {
        let Some((code, why)) = error.path_fault() else { return };
        let snapshot = self.snapshot();
        let there = self.endpoints.clusters_at(remote.ip());
        if there.is_empty() && code == Code::CertificateRefused {
            let id = claimed_id(why);
            let domain = id.as_ref().map(SpiffeId::trust_domain);
            let mut links = snapshot.links.values();
            if let Some(link) = links.find(|link| Some(&link.trust_domain) == domain) {
                self.peers.handshake_faults.record_claim(&link.cluster);
            }
        }
        for cluster in there.iter().filter(|cluster| !self.is_disproved(cluster, remote, code)) {
            if *cluster != snapshot.local.cluster {
                self.peers.metrics.handshake_failed(cluster, code);
            }
            if self.peers.handshake_faults.record(cluster, remote.ip(), code, why) {
                let sentence = self.peers.handshake_faults.last(cluster);
                let sentence = sentence.map(|(code, fault)| fault.sentence(code, cluster));
                let sentence = sentence.unwrap_or_default();
                tracing::warn!(%cluster, %remote, code = code.name(), "handshakes fail: {sentence}");
            }
        }
    }

    /// Records a handshake of a peer at `remote` that is under way for long, and may pass yet.
    fn suspect_unheard_peer(&self, remote: SocketAddr) {
        let there = self.endpoints.clusters_at(remote.ip());
        for cluster in there.iter().filter(|c| !self.is_disproved(c, remote, Code::OneWay)) {
            self.peers.handshake_faults.record_suspected(cluster, remote.ip());
        }
    }

    /// True if a handshake from `remote` shows nothing of the path: a node of the cluster at that address
    /// acknowledges what is sent to it. Anybody can send a first packet that claims to come from there.
    fn is_disproved(&self, cluster: &ClusterName, remote: SocketAddr, fault: Code) -> bool {
        let (now, at) = (Instant::now(), remote.ip().to_canonical());
        let is_heard =
            |conn: &PeerConnection| conn.quic.remote().ip() == at && conn.is_acknowledged(now);
        fault == Code::OneWay && self.connections.of(cluster).iter().any(|conn| is_heard(conn))
    }
}
