//! Acts on streams that a peer opened in vain: the peer is asked to stay away, and then closed.

use adit_core::code::Code;
use adit_core::wire::control::ControlMessage;

use super::connections::PeerConnection;
use super::inner::LinksInner;
use super::misuse::{MisuseConsequence, STAY_AWAY_DELAY};

impl LinksInner {
    /// Acts on a stream of the peer's that was in vain.
    pub(super) fn in_vain(&self, conn: &PeerConnection, code: Code) {
        self.peers.metrics.in_vain(&conn.peer.cluster, code);
        let consequence = self.peers.misuse.record(&conn.peer, &mut conn.misuse.lock(), code);
        let (peer, text) = (&conn.peer.id, "too many streams were opened in vain");
        match consequence {
            MisuseConsequence::Nothing => {}
            MisuseConsequence::StayAway => {
                tracing::warn!(%peer, code = code.name(), "peer asked to stay away: {text}");
                let retry_after_ms = STAY_AWAY_DELAY.as_millis().try_into().unwrap_or(u64::MAX);
                conn.send_control(ControlMessage::GoAway { code: Code::OverLimit, retry_after_ms });
                self.connections.mark_leaving(conn, Code::OverLimit);
            }
            MisuseConsequence::Close => {
                tracing::warn!(%peer, code = code.name(), "connection ended: {text}");
                conn.quic.close(Code::OverLimit, text);
            }
        }
    }
}
