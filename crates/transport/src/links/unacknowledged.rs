//! Peers that are received and do not receive: their packets come, and nothing that is sent to them is acknowledged.
//!
//! A connection with such a peer outlives one that is silent by as much again, since what comes is a sign of life;
//! and no stream that is begun on it gets anywhere. So once a second it is checked whether what asks for an
//! acknowledgement gets one. The verdict takes as long as a path that loses a third of its packets needs to carry
//! one; a connection on which nothing comes is none of this module's, and ends by itself.

use std::collections::HashSet;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::NodeKey;
use tokio::time::Instant;

use super::connections::PeerConnection;
use super::dialer::DialFailure;
use super::inner::LinksInner;
use crate::peer::BootId;

/// The interval between two checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl LinksInner {
    /// Has connections take no new streams whose peer does not receive, and take them again once it does; false if it
    /// is too early for that.
    pub(super) fn check_acknowledgements(&self, checked_at: &mut Option<Instant>) -> bool {
        if checked_at.is_some_and(|at| at.elapsed() < CHECK_INTERVAL) {
            return false;
        }
        let now = Instant::now();
        *checked_at = Some(now);
        let all = self.connections.all();
        let checks = all.iter().map(|(conn, _)| (conn.check_acknowledgements(now), conn));
        let deaf: HashSet<(NodeKey, BootId)> = checks
            .filter(|(is_deaf, _)| *is_deaf)
            .map(|(_, conn)| (conn.key(), conn.peer.boot))
            .collect();
        // The process's other connections prove nothing by themselves if all that we send on them is acknowledgements.
        let is_deaf = |conn: &PeerConnection| {
            !conn.is_acknowledged(now) && deaf.contains(&(conn.key(), conn.peer.boot))
        };
        let is_announced = |key: &NodeKey| self.is_announced(key);
        for conn in self.connections.mark_unacknowledged(is_deaf, is_announced) {
            let (peer, remote) = (&conn.peer.id, conn.quic.remote());
            if conn.is_unacknowledged() {
                tracing::debug!(%peer, %remote, "packets come, and nothing that is sent is acknowledged");
            } else {
                let faults = &self.peers.handshake_faults;
                faults.clear_for_address(&conn.peer.cluster, remote.ip());
                self.dialer.history.forget_failure(&conn.key());
            }
        }
        for (conn, _) in all.iter().filter(|(conn, _)| conn.is_unacknowledged()) {
            self.record_unacknowledged(conn);
        }
        true
    }

    /// Records why nothing gets through to a node, and that it is not to be dialled for a stream.
    fn record_unacknowledged(&self, conn: &PeerConnection) {
        let key = conn.key();
        let faults = &self.peers.handshake_faults;
        faults.record_unacknowledged(&key.cluster, conn.quic.remote().ip());
        if !self.connections.has_successor(conn) {
            let text = format!(
                "nothing that is sent to node {} of {} is acknowledged",
                key.node, key.cluster
            );
            let failure = DialFailure::new(Code::OneWay, text);
            self.dialer.history.record_failure(&key, self.is_announced(&key), failure);
        }
    }
}
