//! All connections with peers.
//!
//! Owns the order in which they were made, and notifies when one comes, goes or begins to leave: the
//! subscribers of its cluster, and those of all clusters. Records how a node was lost that has no usable
//! connection any more. [`adit_core::routing::connections`] decides which one a stream takes; the sessions,
//! the dials and the reconciler make and end them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::PeerRefusal;
use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeKey, NodeName};
use adit_core::routing::StandingTarget;
use adit_core::routing::connections::{self, ConnectionCandidate, Unusable};
use adit_core::snapshot::Class;
use adit_runtime::Mutex;
use tokio::sync::watch;

mod silence;

use super::boot_history::BootHistory;
use super::connection::PeerConnection;
use super::disconnects::{DisconnectReason, Disconnects};
use super::permits::ConnectionPermits;
use crate::endpoint::CloseReason;

/// A connection that a stream may take.
#[derive(Debug)]
pub(crate) struct ConnectionChoice {
    pub(crate) conn: Arc<PeerConnection>,
    /// True if it is of the stream's class.
    pub(crate) is_of_class: bool,
    /// True if we dialled it from the stream's worker: the best there is.
    pub(crate) is_own: bool,
    /// Data streams that it carries.
    pub(crate) streams: usize,
}

/// The most connections of one boot, class, dialler and slot: the one that takes streams, and one whose place
/// it took while it carried some.
const MAX_PER_SLOT: usize = 2;

/// Idle time after which a connection ends whose place another took: its dialler has had time to send what it
/// began to.
const REPLACED_TIMEOUT: Duration = Duration::from_secs(3);

/// A cluster's connections.
#[derive(Debug, Default)]
struct ClusterConnections {
    /// By node, in the order in which they were made. No node is without one.
    by_node: BTreeMap<NodeName, Vec<Arc<PeerConnection>>>,
    /// The nodes with which some connection is not leaving; on it the node may still have fallen silent.
    open: BTreeSet<NodeName>,
}

impl ClusterConnections {
    /// Has `open` follow what became of a node's connections.
    fn update_open(&mut self, node: &NodeName) {
        let all = self.by_node.get(node);
        if all.is_some_and(|all| all.iter().any(|conn| conn.leaving_code().is_none())) {
            self.open.insert(node.clone());
        } else {
            self.open.remove(node);
        }
        if all.is_some_and(Vec::is_empty) {
            self.by_node.remove(node);
        }
    }

    /// The nodes with which some connection takes new streams, in order of name.
    fn connected(&self) -> impl Iterator<Item = &NodeName> {
        self.open.iter().filter(|node| self.is_connected(node))
    }

    fn is_connected(&self, node: &NodeName) -> bool {
        self.by_node.get(node).is_some_and(|all| is_usable(all))
    }
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct ConnectionTable {
    clusters: Mutex<BTreeMap<ClusterName, ClusterConnections>>,
    /// Written while `clusters` is locked, so that whoever finds no connection finds the reason.
    pub(crate) disconnects: Disconnects,
    /// In which order processes connected.
    pub(crate) boots: BootHistory,
    /// The permits of connections, which bound their number.
    pub(crate) permits: Arc<ConnectionPermits>,
    /// Rung at each change among a cluster's connections.
    cluster_notifiers: Mutex<HashMap<ClusterName, watch::Sender<()>>>,
    /// Rung at each change.
    notifier: watch::Sender<()>,
}

impl ConnectionTable {
    /// Wakes at every connection that comes, goes or begins to leave.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.notifier.subscribe()
    }

    /// Wakes at the same changes of one cluster's connections. Clusters are few and come from the
    /// configuration.
    pub(crate) fn changes_of(&self, cluster: &ClusterName) -> watch::Receiver<()> {
        self.cluster_notifiers.lock().entry(cluster.clone()).or_default().subscribe()
    }

    fn notify(&self, cluster: &ClusterName) {
        if let Some(notifier) = self.cluster_notifiers.lock().get(cluster) {
            notifier.send_replace(());
        }
        self.notifier.send_replace(());
    }

    /// Adds a connection, whose dialler has `slots` slots. The connection whose place it takes ends, unless
    /// it is in use.
    ///
    /// # Errors
    /// It is of no slot, or there are enough of its kind.
    pub(crate) fn insert(
        &self,
        conn: &Arc<PeerConnection>,
        slots: usize,
    ) -> Result<(), PeerRefusal> {
        let peer = &conn.peer;
        let over = |what| {
            let reason = format!("node {} of {} {what}", peer.node, peer.cluster);
            Err(PeerRefusal { code: Code::OverLimit, reason })
        };
        if !peer.dialled && usize::try_from(peer.slot).map_or(true, |slot| slot >= slots) {
            return over(format!("names slot {} of {slots}", peer.slot));
        }
        let mut clusters = self.clusters.lock();
        let nodes = clusters.entry(peer.cluster.clone()).or_default();
        let before = nodes.by_node.get(&peer.node).map(Vec::as_slice).unwrap_or_default();
        let alike = before.iter().filter(|c| c.is_same_slot(conn) && c.quic.is_closed().is_none());
        let (mut ends, mut stays): (Vec<_>, Vec<_>) =
            alike.cloned().partition(|c| c.check_idle_for(REPLACED_TIMEOUT).is_ok());
        // What we learn on it can be learnt elsewhere; only an application's streams are worth keeping it.
        if stays.len() >= MAX_PER_SLOT {
            let spare = stays.iter().position(|c| c.usage_counts().streams == 0);
            ends.extend(spare.map(|n| stays.remove(n)));
        }
        if stays.len() >= MAX_PER_SLOT {
            return over(format!("has {} connections of slot {}", stays.len(), peer.slot));
        }
        nodes.by_node.entry(peer.node.clone()).or_default().push(Arc::clone(conn));
        nodes.update_open(&peer.node);
        self.disconnects.forget(&conn.key());
        drop(clusters);
        self.notify(&peer.cluster);
        ends.iter().for_each(|old| old.quic.close(Code::Replaced, ""));
        Ok(())
    }

    /// Removes a connection that ended with `closed`. The reason is kept for longer if the node's cluster
    /// announces it.
    pub(crate) fn remove(
        &self,
        conn: &Arc<PeerConnection>,
        closed: &CloseReason,
        is_announced: bool,
    ) {
        let peer = &conn.peer;
        let mut clusters = self.clusters.lock();
        if let Some(nodes) = clusters.get_mut(&peer.cluster) {
            let was = nodes.is_connected(&peer.node);
            if let Some(all) = nodes.by_node.get_mut(&peer.node) {
                all.retain(|c| !Arc::ptr_eq(c, conn));
            }
            nodes.update_open(&peer.node);
            if was && !nodes.is_connected(&peer.node) && closed.code != Code::ConnectionUnused {
                self.disconnects.record(
                    &conn.key(),
                    is_announced,
                    DisconnectReason::Ended(closed.clone()),
                );
            }
            if nodes.by_node.is_empty() {
                clusters.remove(&peer.cluster);
            }
        }
        drop(clusters);
        self.notify(&peer.cluster);
    }

    /// Records that the peer takes no new streams on the connection.
    pub(crate) fn mark_peer_leaving(&self, conn: &PeerConnection, code: Code, is_announced: bool) {
        let peer = &conn.peer;
        let mut clusters = self.clusters.lock();
        let was = clusters.get(&peer.cluster).is_some_and(|n| n.is_connected(&peer.node));
        conn.mark_leaving(code);
        if let Some(nodes) = clusters.get_mut(&peer.cluster) {
            nodes.update_open(&peer.node);
            if was && !nodes.is_connected(&peer.node) && code != Code::ConnectionUnused {
                self.disconnects.record(&conn.key(), is_announced, DisconnectReason::Leaving);
            }
        }
        drop(clusters);
        self.notify(&peer.cluster);
    }

    /// Has the connection take no new streams of ours.
    pub(crate) fn mark_leaving(&self, conn: &PeerConnection, code: Code) {
        let peer = &conn.peer;
        let mut clusters = self.clusters.lock();
        conn.mark_leaving(code);
        if let Some(nodes) = clusters.get_mut(&peer.cluster) {
            nodes.update_open(&peer.node);
        }
        drop(clusters);
        self.notify(&peer.cluster);
    }

    /// True if another process of the connection's node takes new streams.
    pub(crate) fn has_successor(&self, conn: &PeerConnection) -> bool {
        let peer = &conn.peer;
        let clusters = self.clusters.lock();
        let all = clusters.get(&peer.cluster).and_then(|nodes| nodes.by_node.get(&peer.node));
        all.is_some_and(|all| {
            all.iter().any(|c| c.peer.boot != peer.boot && c.candidate().is_alive())
        })
    }

    /// True if the successor of the connection's process is waited for already.
    pub(crate) fn is_successor_awaited(&self, conn: &PeerConnection) -> bool {
        let peer = &conn.peer;
        let clusters = self.clusters.lock();
        let all = clusters.get(&peer.cluster).and_then(|nodes| nodes.by_node.get(&peer.node));
        let awaits = |c: &Arc<PeerConnection>| {
            c.peer.boot == peer.boot && c.leaving_code().is_none() && c.is_awaiting_successor()
        };
        all.is_some_and(|all| all.iter().any(awaits))
    }

    /// The connections that a stream to this node may take, best first.
    pub(crate) fn choices(
        &self,
        NodeKey { cluster, node }: &NodeKey,
        class: Class,
        worker: usize,
        random: u64,
    ) -> Vec<ConnectionChoice> {
        let clusters = self.clusters.lock();
        let Some(all) = clusters.get(cluster).and_then(|nodes| nodes.by_node.get(node)) else {
            return Vec::new();
        };
        let candidates = candidates(all);
        let order = connections::preference_order(&candidates, class, worker, random);
        let choice = |n: usize| ConnectionChoice {
            conn: Arc::clone(&all[n]),
            is_of_class: candidates[n].class == class,
            is_own: candidates[n].worker == worker && candidates[n].dialled,
            streams: candidates[n].streams,
        };
        order.into_iter().map(choice).collect()
    }

    /// The slot for a connection that is about to be dialled; see [`connections::free_slot`].
    pub(crate) fn free_slot(
        &self,
        NodeKey { cluster, node }: &NodeKey,
        class: Class,
        (worker, workers): (usize, usize),
        limit: usize,
    ) -> Option<u64> {
        let clusters = self.clusters.lock();
        let all = clusters.get(cluster).and_then(|nodes| nodes.by_node.get(node));
        let all = candidates(all.map(Vec::as_slice).unwrap_or_default());
        connections::free_slot(&all, class, worker, workers, limit)
    }

    /// All connections, usable or not.
    pub(crate) fn each(&self) -> Vec<Arc<PeerConnection>> {
        let clusters = self.clusters.lock();
        clusters.values().flat_map(|nodes| nodes.by_node.values()).flatten().cloned().collect()
    }

    /// All connections with nodes of `cluster`, usable or not.
    pub(crate) fn of(&self, cluster: &ClusterName) -> Vec<Arc<PeerConnection>> {
        let clusters = self.clusters.lock();
        let nodes = clusters.get(cluster).into_iter().flat_map(|nodes| nodes.by_node.values());
        nodes.flatten().cloned().collect()
    }

    /// All connections, each with the reason for which it takes no new streams, if it does not.
    pub(crate) fn all(&self) -> Vec<(Arc<PeerConnection>, Option<Unusable>)> {
        let clusters = self.clusters.lock();
        clusters
            .values()
            .flat_map(|nodes| nodes.by_node.values())
            .flat_map(|all| with_unusable_reasons(all))
            .collect()
    }

    /// The nodes of `cluster` with which there is a connection that takes new streams, in order of name.
    pub(crate) fn connected(&self, cluster: &ClusterName) -> Vec<NodeName> {
        let clusters = self.clusters.lock();
        clusters.get(cluster).into_iter().flat_map(ClusterConnections::connected).cloned().collect()
    }

    /// True if there is a connection that takes new streams with any node of `cluster`.
    pub(crate) fn is_connected(&self, cluster: &ClusterName) -> bool {
        self.clusters.lock().get(cluster).is_some_and(|nodes| nodes.connected().next().is_some())
    }

    /// The position of the first of these nodes with which there is a connection that takes new streams.
    pub(crate) fn first_connected(
        &self,
        cluster: &ClusterName,
        among: &[&NodeName],
    ) -> Option<usize> {
        let clusters = self.clusters.lock();
        let nodes = clusters.get(cluster)?;
        among.iter().position(|node| nodes.is_connected(node))
    }

    /// The first node of `cluster` by name, but for those in `except`, with which there is a connection that
    /// takes new streams.
    pub(crate) fn other_connected(
        &self,
        cluster: &ClusterName,
        except: &[NodeName],
    ) -> Option<NodeName> {
        let clusters = self.clusters.lock();
        clusters.get(cluster)?.connected().find(|node| !except.contains(node)).cloned()
    }

    /// The connection that serves `target`: one that we dialled and that takes new streams. One that the peer
    /// dialled is the peer's to close, and does not tell us of its restart.
    pub(crate) fn standing_connection(
        &self,
        target: &StandingTarget,
    ) -> Option<Arc<PeerConnection>> {
        let clusters = self.clusters.lock();
        let best = |all: &Vec<Arc<PeerConnection>>| {
            let is_own_dial =
                |c: &Arc<PeerConnection>| c.peer.dialled && c.peer.class == Class::Interactive;
            usable_connections(all).filter(is_own_dial).min_by_key(|c| c.peer.slot)
        };
        match target {
            StandingTarget::Seeds(cluster) => {
                clusters.get(cluster)?.by_node.values().find_map(best)
            }
            StandingTarget::Node(NodeKey { cluster, node }) => {
                clusters.get(cluster)?.by_node.get(node).and_then(best)
            }
        }
    }

    /// Marks the connections that are kept for their own sake: one for each target.
    pub(crate) fn mark_standing(&self, targets: &BTreeSet<StandingTarget>) {
        let kept = targets.iter().filter_map(|t| self.standing_connection(t)).map(|c| c.quic.id());
        let kept: HashSet<u64> = kept.collect();
        for conn in self.clusters.lock().values().flat_map(|nodes| nodes.by_node.values()).flatten()
        {
            conn.set_standing(kept.contains(&conn.quic.id()));
        }
    }
}

fn candidates(all: &[Arc<PeerConnection>]) -> Vec<ConnectionCandidate> {
    all.iter().map(|c| c.candidate()).collect()
}

fn with_unusable_reasons(
    all: &[Arc<PeerConnection>],
) -> impl Iterator<Item = (Arc<PeerConnection>, Option<Unusable>)> {
    all.iter().cloned().zip(connections::unusable_reasons(&candidates(all)))
}

fn usable_connections(all: &[Arc<PeerConnection>]) -> impl Iterator<Item = Arc<PeerConnection>> {
    with_unusable_reasons(all).filter(|(_, unusable)| unusable.is_none()).map(|(conn, _)| conn)
}

/// True if one of a node's connections takes new streams.
fn is_usable(all: &[Arc<PeerConnection>]) -> bool {
    all.iter().any(|conn| conn.candidate().is_alive())
}
