//! Connections whose certificate is not believed any more: trust was withdrawn while they were open.

use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::wire::control::ControlMessage;
use adit_pki::{UnixTime, VerifyError};
use tokio::time::sleep;

use super::connections::PeerConnection;
use super::inner::LinksInner;

/// Time until a connection ends whose certificate is not believed any more, from when that was found, unless
/// its peer is denied: its streams may finish, and new ones go by a connection that the peer makes with
/// another certificate.
const DISTRUSTED_TIMEOUT: Duration = Duration::from_secs(10);

impl LinksInner {
    /// Ends a connection whose certificate is not believed any more: trust may have changed between its
    /// handshake and now, and whoever acted on that did not see it yet.
    pub(super) fn close_if_distrusted(&self, conn: &PeerConnection) {
        let now = UnixTime::since_unix_epoch(Duration::from_millis((self.context.clock)()));
        if let Err(refusal) = conn.quic.verify_if_trust_changed(self.endpoints.peer_verifier(), now)
        {
            tracing::warn!(peer = %conn.peer.id, "connection ended: {refusal}");
            conn.close_distrusted(&refusal);
        }
    }

    /// Begins the end of a connection whose certificate is not believed any more; false if that has begun
    /// before and goes on.
    pub(super) fn begin_distrust(
        self: &Arc<Self>,
        conn: &Arc<PeerConnection>,
        refusal: &VerifyError,
    ) -> bool {
        if refusal.label() == VerifyError::DENIED {
            conn.close_distrusted(refusal);
            return true;
        }
        if !conn.mark_distrusted() {
            return false;
        }
        // The peer is to make another one, so it is asked to stay away for no time.
        conn.send_control(ControlMessage::GoAway {
            code: Code::CertificateEnded,
            retry_after_ms: 0,
        });
        self.connections.mark_leaving(conn, Code::CertificateEnded);
        let (shared, conn) = (Arc::clone(self), Arc::clone(conn));
        let end = async move {
            tokio::select! {
                () = sleep(DISTRUSTED_TIMEOUT) => {
                    // It may be believed again. Whoever finds that it is not from here on begins anew.
                    conn.clear_distrusted();
                    shared.close_if_distrusted(&conn);
                }
                _closed = conn.quic.closed() => {}
            }
        };
        self.runtime.tasks.spawn_on(end, &self.runtime.control_runtime);
        true
    }
}
