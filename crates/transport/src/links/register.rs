//! All connections with peers, and who uses them.
//!
//! Owns the order in which they were made, what they carry, and whether they take new streams. Says
//! when any of that changes. Which one is chosen is [`adit_core::choose::connections`]' to decide; who
//! makes and ends them is [`super::session`], [`super::dial`] and [`super::standing`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_core::choose::connections::{self, Candidate, Passed};
use adit_core::choose::links::Target;
use adit_core::code::Code;
use adit_core::snapshot::Class;
use adit_core::wire::control::Control;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::dials::Node;
use crate::endpoint::Connection;
use crate::peer::PeerInfo;

/// A connection in use.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) quic: Connection,
    pub(super) peer: Arc<PeerInfo>,
    pub(super) since: Instant,
    /// To the session, which writes it on the control stream.
    control: mpsc::Sender<Control>,
    using: Mutex<Use>,
    left: Notify,
}

#[derive(Debug)]
struct Use {
    /// Why it takes nothing new, if it does not.
    leaving: Option<Code>,
    /// Data streams, either way.
    streams: usize,
    /// State streams of ours, and of the peer's.
    learning: usize,
    telling: usize,
    /// When it last carried something.
    last: Instant,
    /// Whether it is kept for its own sake.
    standing: bool,
    /// How many datagrams had come when its node was found to have fallen silent.
    silent: Option<u64>,
}

/// What a connection is doing, for status.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doing {
    pub(super) streams: usize,
    pub(super) telling: usize,
    pub(super) standing: bool,
}

/// What a stream takes part in: a connection is not idle while somebody holds one.
#[derive(Debug)]
pub(super) struct InUse {
    conn: Arc<Conn>,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A data stream, whoever opened it.
    Data,
    /// A state stream on which we learn.
    Learning,
    /// A state stream on which the peer learns.
    Telling,
}

impl Conn {
    pub(super) fn new(
        quic: Connection,
        peer: Arc<PeerInfo>,
        control: mpsc::Sender<Control>,
    ) -> Arc<Self> {
        let now = Instant::now();
        let using = Use {
            leaving: None,
            streams: 0,
            learning: 0,
            telling: 0,
            last: now,
            standing: false,
            silent: None,
        };
        Arc::new(Self {
            quic,
            peer,
            since: now,
            control,
            using: Mutex::new(using),
            left: Notify::new(),
        })
    }

    /// A use of it that the peer began: never refused.
    pub(super) fn used(self: &Arc<Self>, what: What) -> InUse {
        *lock(&self.using).count(what) += 1;
        InUse { conn: Arc::clone(self), what }
    }

    /// A use of it that we begin; none if it takes nothing new.
    pub(super) fn enter(self: &Arc<Self>, what: What) -> Option<InUse> {
        let mut using = lock(&self.using);
        if using.leaving.is_some() {
            return None;
        }
        *using.count(what) += 1;
        Some(InUse { conn: Arc::clone(self), what })
    }

    /// Leaves if nothing has used it for `idle`, and says when to ask again if something has. One that
    /// is kept for its own sake does not leave; one that is leaving already does.
    pub(super) fn leave_if_idle(&self, idle: Duration) -> Result<(), Instant> {
        let mut using = lock(&self.using);
        if using.leaving.is_some() {
            return Ok(());
        }
        if using.standing {
            return Err(Instant::now() + idle);
        }
        using.quiet_for(idle)?;
        using.leaving = Some(Code::ConnectionUnused);
        Ok(())
    }

    /// Whether nothing has used it for so long; when to ask again if something has.
    pub(super) fn quiet_for(&self, time: Duration) -> Result<(), Instant> {
        lock(&self.using).quiet_for(time)
    }

    /// Waits until it leaves for another reason.
    pub(super) async fn left(&self) {
        self.left.notified().await;
    }

    pub(super) fn is_leaving(&self) -> Option<Code> {
        lock(&self.using).leaving
    }

    pub(super) fn doing(&self) -> Doing {
        let using = lock(&self.using);
        Doing { streams: using.streams, telling: using.telling, standing: using.standing }
    }

    /// Has the session say it to the peer. A session that does not get to it has a peer that does not
    /// read; then the connection's end must do.
    pub(super) fn tell(&self, message: Control) {
        drop(self.control.try_send(message));
    }

    /// How many datagrams came from the peer.
    fn heard(&self) -> u64 {
        self.quic.stats().datagrams.1
    }

    fn candidate(&self) -> Candidate {
        let using = lock(&self.using);
        Candidate {
            boot: self.peer.boot.0,
            lane: self.peer.lane,
            dialled: self.peer.dialled,
            slot: self.peer.slot,
            worker: self.quic.worker().index(),
            draining: using.leaving.is_some(),
            silent: using.silent.is_some_and(|heard| heard == self.heard()),
            streams: using.streams,
        }
    }
}

impl Use {
    fn count(&mut self, what: What) -> &mut usize {
        match what {
            What::Data => &mut self.streams,
            What::Learning => &mut self.learning,
            What::Telling => &mut self.telling,
        }
    }

    fn quiet_for(&self, time: Duration) -> Result<(), Instant> {
        let now = Instant::now();
        match () {
            () if self.streams + self.learning + self.telling > 0 => Err(now + time),
            () if self.last + time > now => Err(self.last + time),
            () => Ok(()),
        }
    }
}

impl InUse {
    pub(super) fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut using = lock(&self.conn.using);
        *using.count(self.what) -= 1;
        using.last = Instant::now();
    }
}

/// A connection that a stream may take.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) conn: Arc<Conn>,
    /// Whether it is of the stream's lane.
    pub(super) lane: bool,
    /// Whether we dialled it from the stream's worker: the best there is.
    pub(super) own: bool,
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Register {
    /// By node, in the order in which they were made.
    nodes: Mutex<BTreeMap<Node, Vec<Arc<Conn>>>>,
    changes: watch::Sender<u64>,
}

impl Register {
    /// Tells of every connection that comes, goes or begins to leave.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn insert(&self, conn: Arc<Conn>) {
        let key = (conn.peer.cluster.clone(), conn.peer.node.clone());
        lock(&self.nodes).entry(key).or_default().push(conn);
        self.changed();
    }

    pub(super) fn remove(&self, conn: &Arc<Conn>) {
        let mut nodes = lock(&self.nodes);
        let key = (conn.peer.cluster.clone(), conn.peer.node.clone());
        if let Some(all) = nodes.get_mut(&key) {
            all.retain(|c| !Arc::ptr_eq(c, conn));
            if all.is_empty() {
                nodes.remove(&key);
            }
        }
        drop(nodes);
        self.changed();
    }

    /// Has the connection take no new streams of ours. Its first reason stays.
    pub(super) fn leave(&self, conn: &Conn, code: Code) {
        lock(&conn.using).leaving.get_or_insert(code);
        conn.left.notify_one();
        self.changed();
    }

    /// A connection ended by silence: the others with that boot of the node take nothing new until
    /// something is heard on them. Each of them would end the same way, but later, since no two count
    /// from the same datagram; what is sent meanwhile would be lost.
    pub(super) fn fell_silent(&self, lost: &Conn) {
        let key = (lost.peer.cluster.clone(), lost.peer.node.clone());
        for conn in lock(&self.nodes).get(&key).into_iter().flatten() {
            if conn.peer.boot == lost.peer.boot {
                lock(&conn.using).silent = Some(conn.heard());
            }
        }
        self.changed();
    }

    /// The connections that a stream to this node may take, best first.
    pub(super) fn choices(
        &self,
        key: &Node,
        lane: Class,
        worker: usize,
        random: u64,
    ) -> Vec<Choice> {
        let nodes = lock(&self.nodes);
        let Some(all) = nodes.get(key) else { return Vec::new() };
        let candidates: Vec<Candidate> = all.iter().map(|c| c.candidate()).collect();
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
        key: &Node,
        lane: Class,
        (worker, workers): (usize, usize),
        limit: usize,
    ) -> Option<u64> {
        let nodes = lock(&self.nodes);
        let all = nodes.get(key).map(Vec::as_slice).unwrap_or_default();
        let candidates: Vec<Candidate> = all.iter().map(|c| c.candidate()).collect();
        connections::free_slot(&candidates, lane, worker, workers, limit)
    }

    /// All connections, each with the reason for which it takes no new streams, if it does not.
    pub(super) fn all(&self) -> Vec<(Arc<Conn>, Option<Passed>)> {
        let nodes = lock(&self.nodes);
        let mut found = Vec::new();
        for all in nodes.values() {
            let candidates: Vec<Candidate> = all.iter().map(|c| c.candidate()).collect();
            found.extend(all.iter().cloned().zip(connections::passed(&candidates)));
        }
        found
    }

    /// The nodes, of any cluster, with which there is a connection that takes new streams.
    pub(super) fn connected(&self) -> BTreeSet<Node> {
        let usable = self.all().into_iter().filter(|(_, passed)| passed.is_none());
        usable.map(|(c, _)| (c.peer.cluster.clone(), c.peer.node.clone())).collect()
    }

    /// The connection that serves `target`: one that we dialled and that takes new streams. One that the
    /// peer dialled is the peer's to close, and does not tell us of its restart.
    pub(super) fn serving(&self, target: &Target) -> Option<Arc<Conn>> {
        let fits = |c: &Conn| match target {
            Target::Seeds(cluster) => c.peer.cluster == *cluster,
            Target::Node(cluster, node) => c.peer.cluster == *cluster && c.peer.node == *node,
        };
        let all = self.all().into_iter();
        let usable = all.filter(|(_, passed)| passed.is_none()).map(|(c, _)| c);
        let ours = usable.filter(|c| c.peer.dialled && c.peer.lane == Class::Interactive);
        ours.filter(|c| fits(c)).min_by_key(|c| c.peer.slot)
    }

    /// Marks the connections that are kept for their own sake: one for each target.
    pub(super) fn mark_standing(&self, targets: &BTreeSet<Target>) {
        let kept: Vec<Arc<Conn>> = targets.iter().filter_map(|t| self.serving(t)).collect();
        for (conn, _) in self.all() {
            let standing = kept.iter().any(|k| Arc::ptr_eq(k, &conn));
            let mut using = lock(&conn.using);
            if using.standing && !standing {
                using.last = Instant::now();
            }
            using.standing = standing;
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// No lock here is held across anything that could panic half-way.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
