//! A seat for each connection, from the moment in which its peer is known to its end.
//!
//! A connection costs memory before its hello has come, so its place is taken before that. Owns how many
//! seats each cluster and node has, and how fast each cluster's nodes connect. How many there may be is
//! [`adit_core::admission::places`]' to say.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::admission::pace::Pace;
use adit_core::admission::places::{self, Asking, Bounds, Full};
use adit_core::admission::{self, Refusal};
use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::Snapshot;
use tokio::time::Instant;

use super::dials::Node;
use super::local::Settings;
use super::register::lock;
use super::shared::Shared;
use crate::endpoint::Connection;

/// Workers that a peer's node is granted at least, since it may have more of them than this one.
const WORKERS: usize = 16;

/// How often an announced node without a connection is let in although its cluster's nodes connect too often.
const RETURN_INTERVAL: Duration = Duration::from_secs(5);

/// All seats.
#[derive(Debug)]
pub(super) struct Seats {
    begun: Instant,
    clusters: Mutex<BTreeMap<ClusterName, Taken>>,
}

/// One cluster's.
#[derive(Debug, Default)]
struct Taken {
    all: usize,
    strangers: usize,
    nodes: HashMap<NodeName, usize>,
    pace: Pace,
    /// When an announced node was let in beyond the pace, lately: it had no connection.
    returned: HashMap<NodeName, Duration>,
}

/// One connection's seat. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    node: Node,
    is_announced: bool,
}

/// What is known of a node that wants a seat.
struct Applicant<'a> {
    node: &'a Node,
    is_announced: bool,
    members: usize,
    /// Whether it came by itself, rather than being dialled by us.
    knocks: bool,
}

impl Default for Seats {
    fn default() -> Self {
        Self { begun: Instant::now(), clusters: Mutex::default() }
    }
}

impl Seats {
    /// Takes a seat. `now` says which clusters share the places.
    fn take(
        self: &Arc<Self>,
        bounds: Bounds,
        now: &Snapshot,
        applicant: &Applicant<'_>,
    ) -> Result<Seat, Refusal> {
        let (cluster, node) = applicant.node;
        let over = |reason| Err(Refusal { code: Code::OverLimit, reason });
        let mut clusters = lock(&self.clusters);
        let promised = bounds.promised(now.links.len());
        let linked = clusters.iter().filter(|(name, _)| **name != now.this.cluster);
        let lent = linked.map(|(_, taken)| taken.all.saturating_sub(promised)).sum();
        let taken = clusters.entry(cluster.clone()).or_default();
        let allowed = places::connecting(applicant.members);
        let since = self.begun.elapsed();
        if applicant.knocks && !taken.pace.take(since, allowed) && !taken.returns(applicant, since)
        {
            return over(format!("nodes of {cluster} connect too often"));
        }
        let asking = Asking {
            with_node: taken.nodes.get(node).copied().unwrap_or_default(),
            with_cluster: taken.all,
            with_strangers: taken.strangers,
            is_announced: applicant.is_announced,
            members: applicant.members,
        };
        let admitted = match *cluster == now.this.cluster {
            true => bounds.admit_within(&asking),
            false => bounds.admit(&asking, now.links.len(), lent),
        };
        if let Err(full) = admitted {
            let Asking { with_node, with_cluster, with_strangers, .. } = asking;
            return over(match full {
                Full::Node => {
                    format!(
                        "there are {with_node} connections with node {node} of {cluster} already"
                    )
                }
                Full::Cluster => {
                    format!("there are {with_cluster} connections with {cluster} already")
                }
                Full::Strangers => format!(
                    "there are {with_strangers} connections with nodes that {cluster} has not announced already"
                ),
                Full::All => {
                    format!("all places are taken, and {cluster} has {with_cluster} of them")
                }
            });
        }
        taken.all += 1;
        taken.strangers += usize::from(!applicant.is_announced);
        *taken.nodes.entry(node.clone()).or_default() += 1;
        let (node, is_announced) = (applicant.node.clone(), applicant.is_announced);
        Ok(Seat { seats: Arc::clone(self), node, is_announced })
    }

    /// Forgets the clusters that `keep` does not want and that have no seat any more.
    pub(super) fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        lock(&self.clusters).retain(|cluster, taken| taken.all > 0 || keep(cluster));
    }
}

impl Taken {
    /// Whether this is the first connection of an announced node after a while. Where all of a cluster's nodes
    /// come back at once, with several connections each, nobody's second keeps out another's first. No more
    /// names are remembered than are announced.
    fn returns(&mut self, applicant: &Applicant<'_>, now: Duration) -> bool {
        let (_, node) = applicant.node;
        // While it is not known who is announced, everybody counts as it.
        let is_member = applicant.is_announced && applicant.members > 0;
        if !is_member || self.nodes.contains_key(node) {
            return false;
        }
        if self.returned.len() >= applicant.members {
            self.returned.retain(|_, at| *at + RETURN_INTERVAL > now);
        }
        let is_due = self.returned.get(node).is_none_or(|at| *at + RETURN_INTERVAL <= now);
        if is_due {
            self.returned.insert(node.clone(), now);
        }
        is_due
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let (cluster, node) = &self.node;
        let mut clusters = lock(&self.seats.clusters);
        let Some(taken) = clusters.get_mut(cluster) else { return };
        taken.all -= 1;
        taken.strangers -= usize::from(!self.is_announced);
        if let Some(with_node) = taken.nodes.get_mut(node) {
            *with_node -= 1;
            if *with_node == 0 {
                taken.nodes.remove(node);
            }
        }
    }
}

impl Shared {
    /// Takes a seat for a connection, whose handshake has just ended, before anything is said on it.
    ///
    /// # Errors
    /// The peer is nobody's node, comes too often, or there is no place for it.
    pub(super) fn seat(&self, quic: &Connection) -> Result<Seat, Refusal> {
        let now = self.now();
        let node = admission::peer(&now, quic.peer())?;
        let (is_announced, members) = self.standing_of(&now, &node);
        let applicant = Applicant { node: &node, is_announced, members, knocks: !quic.dialled() };
        self.register.seats.take(self.bounds(), &now, &applicant)
    }

    /// Whether a node is announced by its cluster, and how many are; all are, while nothing is known.
    fn standing_of(&self, now: &Snapshot, (cluster, node): &Node) -> (bool, usize) {
        if *cluster == now.this.cluster {
            let is_announced = now.siblings.contains_key(node) || node.is_controller();
            return (is_announced || now.siblings.is_empty(), now.siblings.len());
        }
        let view = self.known.views.get(cluster);
        view.map_or((true, 0), |v| (v.view.nodes.contains_key(node), v.view.nodes.len()))
    }

    /// Whether a node is announced by its cluster: what is noted of others is worth less.
    pub(super) fn is_announced(&self, node: &Node) -> bool {
        self.standing_of(&self.now(), node).0
    }

    /// The slots in each lane from which a peer's node dials: those of its workers, each with as many
    /// connections in parallel as we would make. Who makes more is broken.
    pub(super) fn slots(&self) -> usize {
        let Settings { parallel, .. } = self.local.settings;
        self.endpoints.workers().len().max(WORKERS) * parallel
    }

    /// With one node there may be both lanes' connections, in two generations; with more of them where it has
    /// fewer workers than [`WORKERS`], as most have.
    fn bounds(&self) -> Bounds {
        Bounds { all: self.local.settings.connections, node: self.slots() * 2 * 2 }
    }
}
