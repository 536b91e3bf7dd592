//! Routes: the nodes to try for an outbound stream, and the backends for an inbound one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::draw;
use crate::code::Code;
use crate::fault::BackendFault;
use crate::name::{ClusterName, NodeName};
use crate::policy::Permit;
use crate::snapshot::{Backend, Class, ExportPort, Hop, Snapshot};

/// The most nodes of a route: several times as many as are tried, since some of them may be known to be out
/// of reach.
pub const ROUTE_NODES: usize = 16;

/// The most ready backends for which a node counts: far more than a machine runs, and too few to make all
/// other nodes' share vanish.
pub const MAX_READY: u32 = 10_000;

/// The nodes of the exporting cluster to try for a stream, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The exporting cluster.
    pub cluster: ClusterName,
    /// Nodes that run a ready backend: each is drawn with the weight of its ready backends. There are
    /// [`ROUTE_NODES`] at most.
    pub nodes: Vec<NodeName>,
    /// Says whether any other connected node will do if none of `nodes` can be reached.
    pub hop: Hop,
    /// The class of the export, and of the connections that its streams take.
    pub class: Class,
    /// True if a stream of unknown outcome may be sent again.
    pub replay: bool,
    /// The longest time for which a stream may wait for a backend at the node that it enters; `None` if none
    /// waits.
    pub hold: Option<Duration>,
}

/// Picks the nodes to try for an outbound stream, among those that the cluster announces. What it says of the
/// backends of any other node is ignored.
///
/// # Errors
/// [`Code::LinkDown`] while there is no view of the cluster,
/// [`PeerPort::why_unready`](crate::snapshot::PeerPort::why_unready) if it reports no ready backend, and has no
/// stream wait for one.
pub fn route(
    snapshot: &Snapshot,
    from: &ClusterName,
    permit: &Permit,
    random: u64,
) -> Result<Route, Code> {
    let view = snapshot.views.get(from).ok_or(Code::LinkDown)?;
    let target = permit.target();
    let export = view.exports.get(&target.service).ok_or(Code::ExportUnknown)?;
    let port = export.ports.iter().find(|p| p.name == target.port).ok_or(Code::PortUnknown)?;
    let ready = port.ready.iter().map(|(node, n)| (node, (*n).min(MAX_READY)));
    let winners = draw::draw(ready, ROUTE_NODES, random, |node| view.nodes.contains_key(node));
    let nodes: Vec<NodeName> = winners.into_iter().cloned().collect();
    let (hop, class, replay, hold) = (export.hop, export.class, export.replay, export.hold);
    // A stream that is to wait enters at any node.
    if nodes.is_empty() && (hold.is_none() || hop == Hop::SameNode) {
        return Err(port.why_unready());
    }
    Ok(Route { cluster: from.clone(), nodes, hop, class, replay, hold })
}

/// The backends to dial for an inbound stream, best first: those of this node, then, if the export allows the
/// hop, those of other nodes; each group from a random start.
///
/// # Errors
/// [`Code::BackendForbidden`] if every ready backend has an address that may not be dialled;
/// [`Code::HopRefused`] if only other nodes have one and the export wants the same node; the fault of the
/// dials if all failed; [`Code::NoBackend`] if there is no backend.
pub fn backends(snapshot: &Snapshot, permit: &Permit, random: u64) -> Result<Vec<Backend>, Code> {
    let target = permit.target();
    let export = snapshot.exports.get(&target.service).ok_or(Code::ExportUnknown)?;
    let port = export.port(&target.port).ok_or(Code::PortUnknown)?;
    let well: Vec<&Backend> =
        port.backends.iter().filter(|b| !snapshot.down.contains_key(&b.address)).collect();
    if well.is_empty() {
        return Err(backend_fault(snapshot, port).map_or(Code::NoBackend, BackendFault::code));
    }
    let allowed: Vec<&Backend> = well.into_iter().filter(|b| snapshot.may_dial(b)).collect();
    if allowed.is_empty() {
        return Err(Code::BackendForbidden);
    }
    let (mut here, mut elsewhere): (Vec<&Backend>, Vec<&Backend>) =
        allowed.into_iter().partition(|b| b.node == snapshot.local.node);
    if export.hop == Hop::SameNode {
        elsewhere.clear();
    }
    for group in [&mut here, &mut elsewhere] {
        if let Some(start) = random.checked_rem(group.len() as u64) {
            group.rotate_left(usize::try_from(start).unwrap_or_default());
        }
    }
    let order: Vec<Backend> = here.into_iter().chain(elsewhere).cloned().collect();
    if order.is_empty() { Err(Code::HopRefused) } else { Ok(order) }
}

/// Number of ready backends of a port, by node: what is announced to importing clusters.
pub fn ready_counts(snapshot: &Snapshot, port: &ExportPort) -> BTreeMap<NodeName, u32> {
    let is_known =
        |at: &SocketAddr| !snapshot.down.contains_key(at) && !snapshot.never_answered.contains(at);
    let is_ready = |b: &&Backend| is_known(&b.address) && snapshot.may_dial(b);
    count_per_node(port.backends.iter().filter(is_ready))
}

/// The reason why none of a port's backends is ready; of several reasons, one that a dial found. `None` if
/// there is no endpoint at all, or none has been dialled yet. Meaningless if a backend is ready.
#[must_use]
pub fn backend_fault(snapshot: &Snapshot, port: &ExportPort) -> Option<BackendFault> {
    let of = |backend: &Backend| match snapshot.may_dial(backend) {
        true => snapshot.down.get(&backend.address).copied(),
        false => Some(BackendFault::Forbidden),
    };
    let foreign = port.has_foreign.then_some(BackendFault::Foreign);
    port.backends.iter().filter_map(of).min().or(foreign)
}

/// Number of these backends that each node runs.
pub(crate) fn count_per_node<'a>(
    backends: impl IntoIterator<Item = &'a Backend>,
) -> BTreeMap<NodeName, u32> {
    let mut counts = BTreeMap::new();
    for backend in backends {
        *counts.entry(backend.node.clone()).or_insert(0) += 1;
    }
    counts
}
