//! Permits for connections, by what the snapshot and the views say of their peers.

use adit_core::admission::connection_limits::ConnectionLimits;
use adit_core::admission::{self, PeerRefusal};
use adit_core::name::NodeKey;
use adit_core::snapshot::Snapshot;

use super::connections::{ConnectionPermit, PermitRequest};
use super::context::LinkSettings;
use super::inner::LinksInner;
use crate::endpoint::QuicConnection;

/// Workers that a peer's node is assumed to have at least, since it may have more of them than this one.
const MIN_PEER_WORKERS: usize = 16;

impl LinksInner {
    /// Takes a permit for a connection whose handshake has just ended, before anything is sent on it.
    ///
    /// # Errors
    /// The peer is no node of a linked cluster or of ours, comes too often, or there is no place for it.
    pub(super) fn acquire_permit(
        &self,
        quic: &QuicConnection,
    ) -> Result<ConnectionPermit, PeerRefusal> {
        let snapshot = self.snapshot();
        let node = admission::identify_peer(&snapshot, quic.peer_id())?;
        if !quic.dialled() {
            self.peers.misuse.admit(&node.cluster, &node.node)?;
        }
        let (is_announced, members) = self.announcement_of(&snapshot, &node);
        let request =
            PermitRequest { node: &node, is_announced, members, is_inbound: !quic.dialled() };
        self.connections.permits.acquire(self.connection_limits(), &snapshot, &request)
    }

    /// Says whether a node is announced by its cluster, and how many nodes are; all are, while there is no
    /// view.
    fn announcement_of(
        &self,
        snapshot: &Snapshot,
        NodeKey { cluster, node }: &NodeKey,
    ) -> (bool, usize) {
        if *cluster == snapshot.local.cluster {
            let is_announced = snapshot.siblings.contains_key(node) || node.is_controller();
            return (is_announced || snapshot.siblings.is_empty(), snapshot.siblings.len());
        }
        let view = self.knowledge.views.get(cluster);
        view.map_or((true, 0), |v| (v.view.nodes.contains_key(node), v.view.nodes.len()))
    }

    /// True if a node is announced by its cluster: records of other nodes are worth less.
    pub(super) fn is_announced(&self, node: &NodeKey) -> bool {
        self.announcement_of(&self.snapshot(), node).0
    }

    /// The slots in each class from which a peer's node dials: those of its workers, each with as many
    /// connections in parallel as we would make. A node that makes more is broken.
    pub(super) fn max_slots(&self) -> usize {
        let LinkSettings { parallel_connections: parallel, .. } = self.context.settings;
        self.endpoints.workers().len().max(MIN_PEER_WORKERS) * parallel
    }

    /// With one node there may be both classes' connections, in two generations; with more of them if it has
    /// fewer workers than [`MIN_PEER_WORKERS`], as most have.
    fn connection_limits(&self) -> ConnectionLimits {
        ConnectionLimits {
            total: self.context.settings.max_connections,
            per_node: self.max_slots() * 2 * 2,
        }
    }
}
