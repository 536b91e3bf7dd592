//! Pieces of streams that cannot be put together, and whoever sends many of them.
//!
//! Each connection counts its own and ends itself ([`crate::tls`], `packet_pieces`). Here those of all connections of a
//! cluster are added up, and offenders recorded: since the next connection costs a handshake alone, a cluster's new ones are
//! refused for a while ([`BAR_BACKOFF`](super::pieces::BAR_BACKOFF)), longer each time.

use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::rate_limit::RateLimit;
use adit_core::code::Code;
use adit_core::name::NodeKey;
use tokio::time::sleep;

use super::connections::PeerConnection;
use super::inner::LinksInner;
use super::pieces::NewPieces;
use crate::endpoint::TOO_MANY_PIECES;

/// The interval between two checks. It costs a number of each connection.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The pieces in vain on all connections of a cluster.
const ALLOWED_OF_CLUSTER: RateLimit = RateLimit { burst: 131_072, per_second: 8_192 };

/// Looks at all connections until everything has ended.
pub(super) async fn watch(shared: Arc<LinksInner>) {
    loop {
        sleep(CHECK_INTERVAL).await;
        for conn in shared.connections.each() {
            let in_all = conn.quic.pieces_in_vain();
            let Some(NewPieces { count, is_much }) = conn.pieces.lock().update(in_all) else {
                continue;
            };
            let cluster_is_over =
                shared.peers.misuse.add_pieces(&conn.peer.cluster, count, ALLOWED_OF_CLUSTER);
            if cluster_is_over && is_much && conn.quic.is_closed().is_none() {
                conn.quic.close(Code::ProtocolError, TOO_MANY_PIECES);
                shared.record_too_many_pieces(&conn.key());
            }
        }
    }
}

impl LinksInner {
    /// Records a connection that has just ended by itself, if too many pieces came on it.
    pub(super) fn record_if_in_pieces(&self, conn: &PeerConnection) {
        if conn.quic.has_too_many_pieces() {
            self.record_too_many_pieces(&conn.key());
        }
    }

    /// Records a connection with a node that was ended because of its pieces.
    pub(super) fn record_too_many_pieces(&self, node: &NodeKey) {
        if self.peers.misuse.record_pieces(node) {
            tracing::warn!(peer = %node, "connection ended: {TOO_MANY_PIECES}");
        }
    }
}
