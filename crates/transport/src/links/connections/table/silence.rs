//! Connections that take no new streams because their node is silent, or does not acknowledge what is sent to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use adit_core::name::{ClusterName, NodeKey};

use super::super::connection::PeerConnection;
use super::super::disconnects::DisconnectReason;
use super::{ConnectionTable, is_usable};
use crate::endpoint::CloseReason;

impl ConnectionTable {
    /// Records that a connection ended by silence: the others with that boot of the node take no new streams
    /// until something is received on them. Each of them would end the same way, but later, since no two
    /// count from the same datagram; what is sent meanwhile would be lost. True if we dialled one of them.
    pub(crate) fn mark_silent(
        &self,
        lost: &PeerConnection,
        closed: &CloseReason,
        is_announced: bool,
    ) -> bool {
        let peer = &lost.peer;
        let clusters = self.clusters.lock();
        let all = clusters.get(&peer.cluster).and_then(|nodes| nodes.by_node.get(&peer.node));
        let all = all.map(Vec::as_slice).unwrap_or_default();
        let was = is_usable(all);
        let mut dialled = false;
        for conn in all.iter().filter(|conn| conn.peer.boot == peer.boot) {
            conn.mark_silent();
            dialled |= conn.peer.dialled && !std::ptr::eq(&**conn, lost);
        }
        if was && !is_usable(all) {
            self.disconnects.record(
                &lost.key(),
                is_announced,
                DisconnectReason::Ended(closed.clone()),
            );
        }
        drop(clusters);
        self.notify(&peer.cluster);
        dialled
    }

    /// Has connections take no new streams if `is_deaf` says that their peers do not receive, and all others take them
    /// again; returns those for which that is a change.
    pub(crate) fn mark_unacknowledged(
        &self,
        is_deaf: impl Fn(&PeerConnection) -> bool,
        is_announced: impl Fn(&NodeKey) -> bool,
    ) -> Vec<Arc<PeerConnection>> {
        let mut changed = Vec::new();
        let clusters = self.clusters.lock();
        for all in clusters.values().flat_map(|nodes| nodes.by_node.values()) {
            let was = is_usable(all);
            let before = changed.len();
            changed.extend(all.iter().filter(|c| c.set_unacknowledged(is_deaf(c))).cloned());
            if let Some(conn) = changed.get(before).filter(|_| was && !is_usable(all)) {
                let (key, reason) = (conn.key(), DisconnectReason::Unacknowledged);
                self.disconnects.record(&key, is_announced(&key), reason);
            }
        }
        drop(clusters);
        let touched: BTreeSet<&ClusterName> = changed.iter().map(|c| &c.peer.cluster).collect();
        touched.into_iter().for_each(|cluster| self.notify(cluster));
        changed
    }
}
