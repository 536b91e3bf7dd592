//! All connections with peers.
//!
//! Owns the order in which they were made, and says when one comes, goes or begins to leave: to those who
//! care for its cluster, and to those who care for any. Notes how a node was lost with which none is
//! usable any more. Which one is chosen is
//! [`adit_core::choose::connections`]' to decide; who makes and ends them is [`super::session`],
//! [`super::dial`] and [`super::standing`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_core::admission::Refusal;
use adit_core::choose::connections::{self, Candidate, Passed};
use adit_core::choose::links::Target;
use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::Class;
use tokio::sync::watch;

use super::conn::Conn;
use super::dials::Node;
use super::losses::{How, Losses};
use crate::endpoint::Closed;

/// A connection that a stream may take.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) conn: Arc<Conn>,
    /// Whether it is of the stream's lane.
    pub(super) lane: bool,
    /// Whether we dialled it from the stream's worker: the best there is.
    pub(super) own: bool,
}

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    /// With one node.
    pub(super) node: usize,
    /// With all nodes of one cluster.
    pub(super) cluster: usize,
}

/// A cluster's connections: by node, in the order in which they were made.
type Nodes = BTreeMap<NodeName, Vec<Arc<Conn>>>;

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Register {
    clusters: Mutex<BTreeMap<ClusterName, Nodes>>,
    /// Written while `clusters` is locked, so that who finds no connection finds the reason.
    pub(super) losses: Losses,
    /// Rung at each change among a cluster's connections.
    bells: Mutex<HashMap<ClusterName, watch::Sender<()>>>,
    /// Rung at each change.
    bell: watch::Sender<()>,
}

impl Register {
    /// Rings at every connection that comes, goes or begins to leave.
    pub(super) fn bell(&self) -> watch::Receiver<()> {
        self.bell.subscribe()
    }

    /// The same for one cluster's. Clusters are few and come from the configuration.
    pub(super) fn bell_of(&self, cluster: &ClusterName) -> watch::Receiver<()> {
        lock(&self.bells).entry(cluster.clone()).or_default().subscribe()
    }

    fn ring(&self, cluster: &ClusterName) {
        if let Some(bell) = lock(&self.bells).get(cluster) {
            bell.send_replace(());
        }
        self.bell.send_replace(());
    }

    /// Adds a connection.
    ///
    /// # Errors
    /// There are enough with its node, or with its cluster.
    pub(super) fn insert(&self, conn: &Arc<Conn>, most: Most) -> Result<(), Refusal> {
        let peer = &conn.peer;
        let mut clusters = lock(&self.clusters);
        let nodes = clusters.entry(peer.cluster.clone()).or_default();
        let with_node = nodes.get(&peer.node).map_or(0, Vec::len);
        let with_cluster = nodes.values().map(Vec::len).sum::<usize>();
        let full = |have, with| Refusal {
            code: Code::OverLimit,
            reason: format!("there are {have} connections with {with} already"),
        };
        if with_node >= most.node {
            return Err(full(with_node, format!("node {} of {}", peer.node, peer.cluster)));
        }
        if with_cluster >= most.cluster {
            return Err(full(with_cluster, peer.cluster.to_string()));
        }
        nodes.entry(peer.node.clone()).or_default().push(Arc::clone(conn));
        self.losses.forget(&conn.node());
        drop(clusters);
        self.ring(&peer.cluster);
        Ok(())
    }

    /// Removes a connection that ended like this.
    pub(super) fn remove(&self, conn: &Arc<Conn>, closed: &Closed) {
        let peer = &conn.peer;
        let mut clusters = lock(&self.clusters);
        let was = is_usable(&clusters, conn);
        if let Some(nodes) = clusters.get_mut(&peer.cluster) {
            if let Some(all) = nodes.get_mut(&peer.node) {
                all.retain(|c| !Arc::ptr_eq(c, conn));
            }
            nodes.retain(|_, all| !all.is_empty());
        }
        clusters.retain(|_, nodes| !nodes.is_empty());
        if was && !is_usable(&clusters, conn) && closed.code != Code::ConnectionUnused {
            self.losses.lost(&conn.node(), How::Ended(closed.clone()));
        }
        drop(clusters);
        self.ring(&peer.cluster);
    }

    /// The peer said that it takes nothing new on the connection.
    pub(super) fn peer_leaves(&self, conn: &Conn, code: Code) {
        let clusters = lock(&self.clusters);
        let was = is_usable(&clusters, conn);
        conn.leave(code);
        if was && !is_usable(&clusters, conn) && code != Code::ConnectionUnused {
            self.losses.lost(&conn.node(), How::Leaving);
        }
        drop(clusters);
        self.ring(&conn.peer.cluster);
    }

    /// Has the connection take no new streams of ours.
    pub(super) fn leave(&self, conn: &Conn, code: Code) {
        conn.leave(code);
        self.ring(&conn.peer.cluster);
    }

    /// A connection ended by silence: the others with that boot of the node take nothing new until
    /// something is heard on them. Each of them would end the same way, but later, since no two count
    /// from the same datagram; what is sent meanwhile would be lost. Says whether we dialled one of them.
    pub(super) fn fell_silent(&self, lost: &Conn, closed: &Closed) -> bool {
        let peer = &lost.peer;
        let clusters = lock(&self.clusters);
        let was = is_usable(&clusters, lost);
        let all = clusters.get(&peer.cluster).and_then(|nodes| nodes.get(&peer.node));
        let mut dialled = false;
        for conn in all.into_iter().flatten().filter(|conn| conn.peer.boot == peer.boot) {
            conn.fell_silent();
            dialled |= conn.peer.dialled && !std::ptr::eq(&**conn, lost);
        }
        if was && !is_usable(&clusters, lost) {
            self.losses.lost(&lost.node(), How::Ended(closed.clone()));
        }
        drop(clusters);
        self.ring(&peer.cluster);
        dialled
    }

    /// The connections that a stream to this node may take, best first.
    pub(super) fn choices(
        &self,
        (cluster, node): &Node,
        lane: Class,
        worker: usize,
        random: u64,
    ) -> Vec<Choice> {
        let clusters = lock(&self.clusters);
        let Some(all) = clusters.get(cluster).and_then(|nodes| nodes.get(node)) else {
            return Vec::new();
        };
        let candidates = candidates(all);
        let order = connections::order(&candidates, lane, worker, random);
        let choice = |n: usize| Choice {
            conn: Arc::clone(&all[n]),
            lane: candidates[n].lane == lane,
            own: candidates[n].worker == worker && candidates[n].dialled,
        };
        order.into_iter().map(choice).collect()
    }

    /// The slot for a connection that is about to be dialled; see [`connections::free_slot`].
    pub(super) fn free_slot(
        &self,
        (cluster, node): &Node,
        lane: Class,
        (worker, workers): (usize, usize),
        limit: usize,
    ) -> Option<u64> {
        let clusters = lock(&self.clusters);
        let all = clusters.get(cluster).and_then(|nodes| nodes.get(node));
        let all = candidates(all.map(Vec::as_slice).unwrap_or_default());
        connections::free_slot(&all, lane, worker, workers, limit)
    }

    /// All connections, each with the reason for which it takes no new streams, if it does not.
    pub(super) fn all(&self) -> Vec<(Arc<Conn>, Option<Passed>)> {
        let clusters = lock(&self.clusters);
        clusters.values().flat_map(|nodes| nodes.values()).flat_map(|all| judged(all)).collect()
    }

    /// The nodes of `cluster` with which there is a connection that takes new streams, in order of name.
    pub(super) fn connected(&self, cluster: &ClusterName) -> Vec<NodeName> {
        let clusters = lock(&self.clusters);
        let nodes = clusters.get(cluster).into_iter().flatten();
        nodes
            .filter(|(_, all)| usable(all).next().is_some())
            .map(|(node, _)| node.clone())
            .collect()
    }

    /// The connection that serves `target`: one that we dialled and that takes new streams. One that the
    /// peer dialled is the peer's to close, and does not tell us of its restart.
    pub(super) fn serving(&self, target: &Target) -> Option<Arc<Conn>> {
        let clusters = lock(&self.clusters);
        let best = |all: &Vec<Arc<Conn>>| {
            let ours = |c: &Arc<Conn>| c.peer.dialled && c.peer.lane == Class::Interactive;
            usable(all).filter(ours).min_by_key(|c| c.peer.slot)
        };
        match target {
            Target::Seeds(cluster) => clusters.get(cluster)?.values().find_map(best),
            Target::Node(cluster, node) => clusters.get(cluster)?.get(node).and_then(best),
        }
    }

    /// Marks the connections that are kept for their own sake: one for each target.
    pub(super) fn mark_standing(&self, targets: &BTreeSet<Target>) {
        let kept = targets.iter().filter_map(|t| self.serving(t)).map(|c| c.quic.id());
        let kept: HashSet<u64> = kept.collect();
        for conn in lock(&self.clusters).values().flat_map(|nodes| nodes.values()).flatten() {
            conn.set_standing(kept.contains(&conn.quic.id()));
        }
    }
}

fn candidates(all: &[Arc<Conn>]) -> Vec<Candidate> {
    all.iter().map(|c| c.candidate()).collect()
}

fn judged(all: &[Arc<Conn>]) -> impl Iterator<Item = (Arc<Conn>, Option<Passed>)> {
    all.iter().cloned().zip(connections::passed(&candidates(all)))
}

fn usable(all: &[Arc<Conn>]) -> impl Iterator<Item = Arc<Conn>> {
    judged(all).filter(|(_, passed)| passed.is_none()).map(|(conn, _)| conn)
}

/// Whether some connection with the same node takes new streams.
fn is_usable(clusters: &BTreeMap<ClusterName, Nodes>, conn: &Conn) -> bool {
    let all = clusters.get(&conn.peer.cluster).and_then(|nodes| nodes.get(&conn.peer.node));
    all.is_some_and(|all| usable(all).next().is_some())
}

/// No lock here is held across anything that could panic half-way.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
