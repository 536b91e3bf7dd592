//! Says in the log, and to whom it happens, that a node's name has two living processes: most likely an identity
//! folder was copied.
//!
//! The processes themselves learn it from whoever sees both. Nodes and the controller of their own cluster are
//! believed; what a linked cluster says is only a reason to look: whoever answers there must prove to have this node's
//! name, and must not be this very process.
//!
//! Neither a restart (what was connected with the process before ends within seconds) nor a hand-over (the
//! process before goes away) looks like that for long. What it comes to, see
//! [`adit_core::choose::connections`]: new streams go to the process that came last.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::choose::connections::Passed;
use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::Class;
use adit_core::wire::control::Control;
use tokio::time::{Instant, sleep};

use super::conn::Conn;
use super::dials::Node;
use super::register::lock;
use super::shared::Shared;
use crate::endpoint::Dial;
use crate::peer::BootId;

/// A process that lives beside another for so long is not about to go away.
const BESIDE_TIMEOUT: Duration = Duration::from_secs(30);
/// The least time between two lines of one cluster: it has as many such nodes as it likes.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// The least time between two words to a sibling about its double.
const TELL_INTERVAL: Duration = Duration::from_secs(30);
/// From when a sibling said so last to when this node is doubled no more.
const TOLD_TIMEOUT: Duration = Duration::from_secs(90);

/// From when somebody answered in our name to when this process has heard of it, where it is itself who answered.
const ECHO_TIMEOUT: Duration = Duration::from_secs(2);

/// From when a linked cluster says that there is a double to when this process looks, at most.
const LOOK_TIMEOUT: Duration = Duration::from_secs(15);

/// What is known of a double of this process.
#[derive(Debug, Default)]
pub(super) struct DoubleRecord {
    last: Mutex<Option<OwnDouble>>,
    /// When it was looked last, because a linked cluster said so.
    looked: Mutex<Option<Instant>>,
    /// Peers that came in this very name.
    namesakes: AtomicU64,
}

/// Another living process that has this one's name, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnDouble {
    /// Its boot ID.
    pub boot: BootId,
    /// Where it is.
    pub address: SocketAddr,
    /// Which node says so; the controller, where it is no node's name.
    pub by: NodeName,
    /// When it said so.
    pub at: Instant,
}

impl Shared {
    /// Tells processes that have one name of each other.
    pub(super) fn tell_doubled(&self, told: &mut Option<Instant>) {
        if told.is_some_and(|at| at.elapsed() < TELL_INTERVAL) {
            return;
        }
        let mut nodes: HashMap<Node, Vec<Arc<Conn>>> = HashMap::new();
        for (conn, passed) in self.register.all() {
            if lives(passed) {
                nodes.entry(conn.node()).or_default().push(conn);
            }
        }
        for (node, all) in nodes {
            let turns = self.register.boots.alternating(&node.0, &node.1);
            for conn in &all {
                let boot = conn.peer.boot;
                let beside = |other: &&Arc<Conn>| {
                    let is_old = |c: &Conn| c.since.elapsed() >= BESIDE_TIMEOUT;
                    other.peer.boot != boot && is_old(other) && is_old(conn)
                };
                let other = all.iter().find(beside).map(|c| (c.peer.boot, c.quic.remote()));
                let turn = turns.and_then(|pair| pair.into_iter().find(|other| *other != boot));
                // Who is not there has been where its name is, as far as is known.
                if let Some((other, at)) =
                    other.or_else(|| turn.map(|other| (other, conn.quic.remote())))
                {
                    conn.tell(Control::Doubled { boot: other.0, address: at });
                    *told = Some(Instant::now());
                }
            }
        }
    }

    /// A peer says that this process has a double.
    pub(super) fn hear_of_double(self: &Arc<Self>, conn: &Conn, boot: BootId, address: SocketAddr) {
        if boot == self.local.boot {
            return;
        }
        let by = conn.peer.node.clone();
        let double = OwnDouble { boot, address, by, at: Instant::now() };
        if conn.peer.cluster == self.now().this.cluster {
            self.note_double(double);
        } else if conn.since.elapsed() >= BESIDE_TIMEOUT && self.may_look() {
            // Until then it may be the process that hands over to this one.
            let looking = Arc::clone(self).look_for_double(double);
            self.work.tasks.spawn_on(looking, &self.work.control);
        }
    }

    /// A peer came that has this very node's name.
    pub(super) fn met_namesake(&self) {
        self.work.double.namesakes.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it is time to look: whatever peers say, now and then only.
    fn may_look(&self) -> bool {
        let mut looked = lock(&self.work.double.looked);
        let is_due = looked.is_none_or(|at| at.elapsed() >= TELL_INTERVAL);
        let stages = &self.work.stages;
        let is_due = is_due && !stages.leaving.is_cancelled() && !stages.draining.is_cancelled();
        if is_due {
            *looked = Some(Instant::now());
        }
        is_due
    }

    /// Dials where a double is said to be, at the port where this node listens.
    async fn look_for_double(self: Arc<Self>, double: OwnDouble) {
        let now = self.now();
        let Some(port) = now.this.advertise.first().map(SocketAddr::port) else { return };
        if now.is_inside(double.address.ip()) {
            return;
        }
        // The double is told at the same time, and looks here.
        sleep(LOOK_TIMEOUT.mul_f64(self.local.unit())).await;
        let before = self.work.double.namesakes.load(Ordering::Relaxed);
        let dial = Dial {
            address: SocketAddr::new(double.address.ip(), port),
            trust_domain: &now.this.trust_domain,
            class: Class::Interactive,
        };
        let looking = async {
            let quic = self.endpoints.dial(0, dial).await.ok()?;
            let is_namesake = quic.identity().node.as_ref() == Some(&now.this.node);
            sleep(ECHO_TIMEOUT).await;
            quic.close(Code::ConnectionUnused, "");
            is_namesake.then_some(())
        };
        let ended = self.work.stages.ended.clone();
        let found = ended.run_until_cancelled(looking).await.flatten().is_some();
        // A word that led to this very process, by whatever way, would have been heard here.
        if found && self.work.double.namesakes.load(Ordering::Relaxed) == before {
            self.note_double(double);
        }
    }

    fn note_double(&self, double: OwnDouble) {
        let before = lock(&self.work.double.last).replace(double.clone());
        if before.is_none_or(|before| before.at.elapsed() >= TOLD_TIMEOUT) {
            tracing::error!(
                boot = %double.boot, address = %double.address, by = %double.by,
                "another living process has the name of this node: was its identity folder copied?"
            );
        }
    }

    /// Another living process that has this one's name, as was said lately.
    pub(super) fn own_double(&self) -> Option<OwnDouble> {
        lock(&self.work.double.last).clone().filter(|double| double.at.elapsed() < TOLD_TIMEOUT)
    }

    /// Warns of one such node of each cluster, where that was not done a moment ago.
    pub(super) fn warn_of_doubled(&self, warned: &mut BTreeMap<ClusterName, Instant>) {
        warned.retain(|_, at| at.elapsed() < WARN_INTERVAL);
        let mut first: HashMap<Node, BootId> = HashMap::new();
        for (conn, passed) in self.register.all() {
            if !is_beside(&conn, passed) || warned.contains_key(&conn.peer.cluster) {
                continue;
            }
            let boot = conn.peer.boot;
            let other = *first.entry(conn.node()).or_insert(boot);
            if other != boot {
                let (peer, remote) = (&conn.peer.id, conn.quic.remote());
                tracing::warn!(
                    %peer, %boot, %remote, %other,
                    "two living processes have this name: was an identity folder copied? New streams go to \
                     the one that came last"
                );
                warned.insert(conn.peer.cluster.clone(), Instant::now());
            }
        }
    }
}

fn lives(passed: Option<Passed>) -> bool {
    matches!(passed, None | Some(Passed::OlderBoot))
}

fn is_beside(conn: &Conn, passed: Option<Passed>) -> bool {
    lives(passed) && conn.since.elapsed() >= BESIDE_TIMEOUT
}
