//! A peer's process that goes away while its successor serves already: the new one is met before the old
//! one is left, so that neither a stream nor the link's status ever finds the node without a connection.
//!
//! A go-away that asks for no pause means that. The old process serves what is opened meanwhile. A peer that
//! sends it on a connection just made is not believed: it could have us dial without end. Nor is a cluster
//! whose nodes send it more often than they are replaced: its thousands of connections would have us dial
//! whatever its nodes announce, all at once. Such connections are left like any other.

use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use tokio::time::timeout;

use super::connections::PeerConnection;
use super::dialer::DialKey;
use super::inner::LinksInner;

/// The longest time that a connection goes on taking streams while its peer's successor is not met, from its
/// go-away.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_secs(5);
/// Age that a connection must have for its successor to be dialled.
const MIN_CONNECTION_LIFETIME: Duration = Duration::from_secs(3);

impl LinksInner {
    /// Begins to look for the successor of a connection's process, and leaves the connection once the
    /// successor is met or has not been for a while. `false` if the connection is to be left now.
    pub(super) fn meet_successor(self: &Arc<Self>, conn: &Arc<PeerConnection>) -> bool {
        if self.connections.has_successor(conn)
            || conn.connected_at.elapsed() < MIN_CONNECTION_LIFETIME
        {
            return false;
        }
        if conn.is_awaiting_successor() {
            return true;
        }
        // One dial meets the successor for all connections with a process.
        let is_first = !self.connections.is_successor_awaited(conn);
        if is_first && !self.peers.misuse.may_meet_successor(&conn.peer.cluster) {
            return false;
        }
        conn.await_successor();
        let (shared, conn) = (Arc::clone(self), Arc::clone(conn));
        self.runtime
            .tasks
            .spawn_on(shared.leave_once_succeeded(conn, is_first), &self.runtime.control_runtime);
        true
    }

    async fn leave_once_succeeded(self: Arc<Self>, conn: Arc<PeerConnection>, dials: bool) {
        let key = conn.key();
        let mut changes = self.connections.changes_of(&key.cluster);
        let meeting = async {
            if dials && self.may_dial(&key) {
                let worker = conn.quic.worker().index();
                let dial = DialKey { node: key.clone(), class: conn.peer.class, worker };
                // Its result shows in the connection table.
                self.start_or_join_dial(&dial).wait().await;
            }
            // It may dial us, too.
            while !self.connections.has_successor(&conn) && changes.changed().await.is_ok() {}
        };
        let ended = self.runtime.shutdown.ended.clone();
        let met = async {
            tokio::select! {
                _ = timeout(SUCCESSOR_TIMEOUT, meeting) => {}
                _ = conn.quic.closed() => {}
            }
        };
        if ended.run_until_cancelled(met).await.is_some() {
            let is_announced = self.is_announced(&key);
            self.connections.mark_peer_leaving(&conn, Code::Draining, is_announced);
        }
    }
}
