//! All connections with peers.
//!
//! Owns the order in which they were made, and says when one comes, goes or begins to leave: to those who
//! care for its cluster, and to those who care for any. Notes how a node was lost with which none is
//! usable any more. Which one is chosen is
//! [`adit_core::choose::connections`]' to decide; who makes and ends them is [`super::session`],
//! [`super::dial`] and [`super::standing`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_core::admission::Refusal;
use adit_core::choose::connections::{self, Candidate, Passed};
use adit_core::choose::links::Target;
use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::Class;
use tokio::sync::watch;

use super::boots::BootHistory;
use super::conn::Conn;
use super::dials::Node;
use super::losses::{How, Losses};
use super::seats::Seats;
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

/// Connections of one boot, lane, dialler and slot that there may be: the one that takes streams, and one
/// whose place it took while it carried some.
const MAX_ALIKE: usize = 2;

/// A connection that another of its kind took the place of ends once nothing has used it for so long: who
/// dialled it has had time to send what it began to.
const REPLACED_TIMEOUT: Duration = Duration::from_secs(3);

/// A cluster's connections.
#[derive(Debug, Default)]
struct Nodes {
    /// By node, in the order in which they were made. No node is without one.
    all: BTreeMap<NodeName, Vec<Arc<Conn>>>,
    /// The nodes with which some connection is not leaving; on it the node may still have fallen silent.
    open: BTreeSet<NodeName>,
}

impl Nodes {
    /// Has `open` follow what became of a node's connections.
    fn follow(&mut self, node: &NodeName) {
        let all = self.all.get(node);
        if all.is_some_and(|all| all.iter().any(|conn| conn.is_leaving().is_none())) {
            self.open.insert(node.clone());
        } else {
            self.open.remove(node);
        }
        if all.is_some_and(Vec::is_empty) {
            self.all.remove(node);
        }
    }

    /// The nodes with which some connection takes new streams, in order of name.
    fn connected(&self) -> impl Iterator<Item = &NodeName> {
        self.open.iter().filter(|node| self.is_connected(node))
    }

    fn is_connected(&self, node: &NodeName) -> bool {
        self.all.get(node).is_some_and(|all| is_usable(all))
    }
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Register {
    clusters: Mutex<BTreeMap<ClusterName, Nodes>>,
    /// Written while `clusters` is locked, so that who finds no connection finds the reason.
    pub(super) losses: Losses,
    /// In which order processes connected.
    pub(super) boots: BootHistory,
    /// How many there may be.
    pub(super) seats: Arc<Seats>,
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

    /// Adds a connection, whose dialler has so many slots. What it takes the place of ends, unless it is
    /// in use.
    ///
    /// # Errors
    /// It is of no slot, or there are enough of its kind.
    pub(super) fn insert(&self, conn: &Arc<Conn>, slots: usize) -> Result<(), Refusal> {
        let peer = &conn.peer;
        let over = |what| {
            let reason = format!("node {} of {} {what}", peer.node, peer.cluster);
            Err(Refusal { code: Code::OverLimit, reason })
        };
        if !peer.dialled && usize::try_from(peer.slot).map_or(true, |slot| slot >= slots) {
            return over(format!("names slot {} of {slots}", peer.slot));
        }
        let mut clusters = lock(&self.clusters);
        let nodes = clusters.entry(peer.cluster.clone()).or_default();
        let before = nodes.all.get(&peer.node).map(Vec::as_slice).unwrap_or_default();
        let alike = before.iter().filter(|c| c.is_like(conn) && c.quic.is_closed().is_none());
        let (mut ends, mut stays): (Vec<_>, Vec<_>) =
            alike.cloned().partition(|c| c.quiet_for(REPLACED_TIMEOUT).is_ok());
        // What we learn on it can be learnt elsewhere; only an application's streams are worth keeping it.
        if stays.len() >= MAX_ALIKE {
            let spare = stays.iter().position(|c| c.doing().streams == 0);
            ends.extend(spare.map(|n| stays.remove(n)));
        }
        if stays.len() >= MAX_ALIKE {
            return over(format!("has {} connections of slot {}", stays.len(), peer.slot));
        }
        nodes.all.entry(peer.node.clone()).or_default().push(Arc::clone(conn));
        nodes.follow(&peer.node);
        self.losses.forget(&conn.node());
        drop(clusters);
        self.ring(&peer.cluster);
        ends.iter().for_each(|old| old.quic.close(Code::Replaced, ""));
        Ok(())
    }

    /// Removes a connection that ended like this. How a node was lost is kept for longer where its cluster
    /// announces it.
    pub(super) fn remove(&self, conn: &Arc<Conn>, closed: &Closed, is_announced: bool) {
        let peer = &conn.peer;
        let mut clusters = lock(&self.clusters);
        if let Some(nodes) = clusters.get_mut(&peer.cluster) {
            let was = nodes.is_connected(&peer.node);
            if let Some(all) = nodes.all.get_mut(&peer.node) {
                all.retain(|c| !Arc::ptr_eq(c, conn));
            }
            nodes.follow(&peer.node);
            if was && !nodes.is_connected(&peer.node) && closed.code != Code::ConnectionUnused {
                self.losses.lost(&conn.node(), is_announced, How::Ended(closed.clone()));
            }
            if nodes.all.is_empty() {
                clusters.remove(&peer.cluster);
            }
        }
        drop(clusters);
        self.ring(&peer.cluster);
    }

    /// The peer said that it takes nothing new on the connection.
    pub(super) fn peer_leaves(&self, conn: &Conn, code: Code, is_announced: bool) {
        let peer = &conn.peer;
        let mut clusters = lock(&self.clusters);
        let was = clusters.get(&peer.cluster).is_some_and(|n| n.is_connected(&peer.node));
        conn.leave(code);
        if let Some(nodes) = clusters.get_mut(&peer.cluster) {
            nodes.follow(&peer.node);
            if was && !nodes.is_connected(&peer.node) && code != Code::ConnectionUnused {
                self.losses.lost(&conn.node(), is_announced, How::Leaving);
            }
        }
        drop(clusters);
        self.ring(&peer.cluster);
    }

    /// Has the connection take no new streams of ours.
    pub(super) fn leave(&self, conn: &Conn, code: Code) {
        let peer = &conn.peer;
        let mut clusters = lock(&self.clusters);
        conn.leave(code);
        if let Some(nodes) = clusters.get_mut(&peer.cluster) {
            nodes.follow(&peer.node);
        }
        drop(clusters);
        self.ring(&peer.cluster);
    }

    /// A connection ended by silence: the others with that boot of the node take nothing new until
    /// something is heard on them. Each of them would end the same way, but later, since no two count
    /// from the same datagram; what is sent meanwhile would be lost. Says whether we dialled one of them.
    pub(super) fn fell_silent(&self, lost: &Conn, closed: &Closed, is_announced: bool) -> bool {
        let peer = &lost.peer;
        let clusters = lock(&self.clusters);
        let all = clusters.get(&peer.cluster).and_then(|nodes| nodes.all.get(&peer.node));
        let all = all.map(Vec::as_slice).unwrap_or_default();
        let was = is_usable(all);
        let mut dialled = false;
        for conn in all.iter().filter(|conn| conn.peer.boot == peer.boot) {
            conn.fell_silent();
            dialled |= conn.peer.dialled && !std::ptr::eq(&**conn, lost);
        }
        if was && !is_usable(all) {
            self.losses.lost(&lost.node(), is_announced, How::Ended(closed.clone()));
        }
        drop(clusters);
        self.ring(&peer.cluster);
        dialled
    }

    /// Whether another process of the connection's node takes new streams.
    pub(super) fn is_followed(&self, conn: &Conn) -> bool {
        let peer = &conn.peer;
        let clusters = lock(&self.clusters);
        let all = clusters.get(&peer.cluster).and_then(|nodes| nodes.all.get(&peer.node));
        all.is_some_and(|all| all.iter().any(|c| c.peer.boot != peer.boot && c.candidate().lives()))
    }

    /// True where the successor of the connection's process is waited for already.
    pub(super) fn is_awaited(&self, conn: &Conn) -> bool {
        let peer = &conn.peer;
        let clusters = lock(&self.clusters);
        let all = clusters.get(&peer.cluster).and_then(|nodes| nodes.all.get(&peer.node));
        let awaits =
            |c: &Arc<Conn>| c.peer.boot == peer.boot && c.is_leaving().is_none() && c.is_awaiting();
        all.is_some_and(|all| all.iter().any(awaits))
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
        let Some(all) = clusters.get(cluster).and_then(|nodes| nodes.all.get(node)) else {
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
        let all = clusters.get(cluster).and_then(|nodes| nodes.all.get(node));
        let all = candidates(all.map(Vec::as_slice).unwrap_or_default());
        connections::free_slot(&all, lane, worker, workers, limit)
    }

    /// All connections, each with the reason for which it takes no new streams, if it does not.
    pub(super) fn all(&self) -> Vec<(Arc<Conn>, Option<Passed>)> {
        let clusters = lock(&self.clusters);
        clusters.values().flat_map(|nodes| nodes.all.values()).flat_map(|all| judged(all)).collect()
    }

    /// The nodes of `cluster` with which there is a connection that takes new streams, in order of name.
    pub(super) fn connected(&self, cluster: &ClusterName) -> Vec<NodeName> {
        let clusters = lock(&self.clusters);
        clusters.get(cluster).into_iter().flat_map(Nodes::connected).cloned().collect()
    }

    /// Whether there is a connection that takes new streams with any node of `cluster`.
    pub(super) fn is_connected(&self, cluster: &ClusterName) -> bool {
        lock(&self.clusters).get(cluster).is_some_and(|nodes| nodes.connected().next().is_some())
    }

    /// The position of the first of these nodes with which there is a connection that takes new streams.
    pub(super) fn first_connected(
        &self,
        cluster: &ClusterName,
        among: &[&NodeName],
    ) -> Option<usize> {
        let clusters = lock(&self.clusters);
        let nodes = clusters.get(cluster)?;
        among.iter().position(|node| nodes.is_connected(node))
    }

    /// The first node of `cluster` by name, but for `except`, with which there is a connection that takes
    /// new streams.
    pub(super) fn other_connected(
        &self,
        cluster: &ClusterName,
        except: &[NodeName],
    ) -> Option<NodeName> {
        let clusters = lock(&self.clusters);
        clusters.get(cluster)?.connected().find(|node| !except.contains(node)).cloned()
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
            Target::Seeds(cluster) => clusters.get(cluster)?.all.values().find_map(best),
            Target::Node(cluster, node) => clusters.get(cluster)?.all.get(node).and_then(best),
        }
    }

    /// Marks the connections that are kept for their own sake: one for each target.
    pub(super) fn mark_standing(&self, targets: &BTreeSet<Target>) {
        let kept = targets.iter().filter_map(|t| self.serving(t)).map(|c| c.quic.id());
        let kept: HashSet<u64> = kept.collect();
        for conn in lock(&self.clusters).values().flat_map(|nodes| nodes.all.values()).flatten() {
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

/// Whether one of a node's connections takes new streams.
fn is_usable(all: &[Arc<Conn>]) -> bool {
    all.iter().any(|conn| conn.candidate().lives())
}

/// No lock here is held across anything that could panic half-way.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
