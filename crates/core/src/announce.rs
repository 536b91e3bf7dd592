//! The announcement of this cluster to one other cluster.
//!
//! A function of the snapshot alone, so that all hubs of a cluster announce the same, and a change of policy
//! is announced as soon as it is in force. The announcement has the members and, of the exports, those that
//! have a grant for that very cluster, with those grants only; never a backend's address. What a reader would
//! refuse is left out, and named: one export that does not fit is no reason to withhold the others.
//! [`crate::wire::state`] is how it is sent.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::fault::BackendFault;
use crate::grant::WorkloadPattern;
use crate::name::{ClusterName, Namespace, NodeName, ServiceName};
use crate::routing;
use crate::shared_map::SharedMap;
use crate::snapshot::{ClusterView, Export, ExportPort, PeerExport, PeerPort, Snapshot};
use crate::wire::WireError;
use crate::wire::state::export::{dedup_grants, export_error};
use crate::wire::state::{
    MAX_BYTES, MAX_EXPORTS, MAX_NODES, Omission, Omissions, RecordKey, memory_size,
};

/// The announcement to one other cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Announcement {
    /// The view that is sent, which any reader accepts as a whole.
    pub view: ClusterView,
    /// The records that are left out although the cluster has a right to them, and why.
    pub omitted: Omissions,
}

/// Our cluster as `to` may see it.
#[must_use]
pub fn view(snapshot: &Snapshot, to: &ClusterName) -> ClusterView {
    PreparedAnnouncement::new(snapshot).for_cluster(to).view
}

/// All that may be announced, prepared once for all linked clusters: each of them then costs what is
/// announced to it, not a look at every export.
#[derive(Debug)]
pub struct PreparedAnnouncement<'a> {
    nodes: SharedMap<NodeName, Vec<SocketAddr>>,
    /// Nodes that are left out.
    omitted: Omissions,
    /// Bytes that exports may take.
    export_bytes_left: usize,
    /// Exports that anybody was granted, in order.
    exports: Vec<(&'a Export, Vec<PeerPort>)>,
    /// By cluster: its exports by their index above, each with its grants.
    grants_by_cluster: HashMap<&'a ClusterName, Vec<(usize, Vec<&'a WorkloadPattern>)>>,
}

impl<'a> PreparedAnnouncement<'a> {
    /// Prepares the announcements of this snapshot.
    #[must_use]
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let mut omitted = Omissions::default();
        let nodes = announced_nodes(snapshot, &mut omitted);
        let taken: usize = nodes.iter().map(|(name, a)| memory_size::node(name, a)).sum();
        let mut exports: Vec<(&Export, Vec<PeerPort>)> = Vec::new();
        let mut granted: HashMap<_, Vec<(usize, Vec<_>)>> = HashMap::new();
        for export in snapshot.exports.values().filter(|export| !export.allow.is_empty()) {
            for grant in &export.allow {
                let grants_of_cluster = granted.entry(&grant.cluster).or_default();
                match grants_of_cluster.last_mut().filter(|(index, _)| *index == exports.len()) {
                    Some((_, grants)) => grants.push(&grant.workloads),
                    None => grants_of_cluster.push((exports.len(), vec![&grant.workloads])),
                }
            }
            let ports = export.ports.iter().map(|port| {
                let ready = routing::ready_counts(snapshot, port);
                let fault =
                    if ready.is_empty() { routing::backend_fault(snapshot, port) } else { None };
                announced_port(port, ready, fault)
            });
            exports.push((export, ports.collect()));
        }
        let export_bytes_left = MAX_BYTES.saturating_sub(taken);
        Self { nodes, omitted, export_bytes_left, exports, grants_by_cluster: granted }
    }

    /// The announcement to `to`, and what of it does not fit. If not all exports fit, namespaces have turns by
    /// the bytes that they take: each gets an equal share, then what others leave of theirs. No tenant takes the
    /// place of another.
    #[must_use]
    pub fn for_cluster(&self, to: &ClusterName) -> Announcement {
        let mut omitted = self.omitted.clone();
        let mut exports = Vec::new();
        for (index, grants) in self.grants_by_cluster.get(to).into_iter().flatten() {
            let (export, ports) = &self.exports[*index];
            let (service, announced) =
                (&export.service, announced_export(export, ports.clone(), grants));
            match export_error(&announced, service) {
                None => exports.push((
                    service.clone(),
                    memory_size::export(service, &announced),
                    announced,
                )),
                Some(why) => omitted.add(Some(RecordKey::Export(service.clone())), why.into()),
            }
        }
        let size: usize = exports.iter().map(|(_, size, _)| size).sum();
        if exports.len() > MAX_EXPORTS || size > self.export_bytes_left {
            exports = fit_exports(exports, self.export_bytes_left, &mut omitted);
        }
        let exports = exports.into_iter().map(|(service, _, export)| (service, Arc::new(export)));
        let view = ClusterView { nodes: self.nodes.clone(), exports: exports.collect() };
        Announcement { view, omitted }
    }
}

/// The nodes that are announced: all, up to the most that a view may have.
fn announced_nodes(
    snapshot: &Snapshot,
    omitted: &mut Omissions,
) -> SharedMap<NodeName, Vec<SocketAddr>> {
    let mut nodes = SharedMap::clone(&snapshot.siblings);
    nodes.insert(snapshot.local.node.clone(), snapshot.local.advertise.clone());
    let long = |a: &Vec<_>| a.len() > ClusterView::MAX_ADDRESSES;
    if nodes.values().any(long) {
        nodes.values_mut().for_each(|a| a.truncate(ClusterView::MAX_ADDRESSES));
    }
    let surplus: Vec<NodeName> = nodes.keys().skip(MAX_NODES).cloned().collect();
    for name in surplus {
        nodes.remove(&name);
        omitted.add(Some(RecordKey::Node(name)), Omission::Nodes);
    }
    nodes
}

/// An export that would be announced, and its size.
type SizedExport = (ServiceName, usize, PeerExport);

/// As many exports as there is room for, namespaces in turns.
fn fit_exports(
    all: Vec<SizedExport>,
    mut bytes_left: usize,
    omitted: &mut Omissions,
) -> Vec<SizedExport> {
    // A place among all counts as much as its share of the bytes, so that turns divide places, too.
    let place = bytes_left.div_ceil(MAX_EXPORTS);
    let turns = in_turns(all, |(service, size, _)| (&service.namespace, place.max(*size)));
    let mut fitting = Vec::new();
    for one in turns {
        let why = match bytes_left.checked_sub(one.1) {
            _ if fitting.len() == MAX_EXPORTS => Omission::Exports,
            None => Omission::Bytes,
            Some(rest) => {
                bytes_left = rest;
                fitting.push(one);
                continue;
            }
        };
        omitted.add(Some(RecordKey::Export(one.0)), why);
    }
    fitting
}

/// Sorts what namespaces ask for so that whoever has taken less comes first, each namespace's own in the order
/// given. `cost` says whose one is, and what it takes. If room is given away in this order, each of N
/// namespaces gets the first of what it asks for that takes an Nth of the room together, whatever the others
/// ask for; and what some leave of their shares goes to others.
#[must_use]
pub fn in_turns<T>(all: Vec<T>, cost: impl Fn(&T) -> (&Namespace, usize)) -> Vec<T> {
    let mut taken: BTreeMap<Namespace, usize> = BTreeMap::new();
    let turn = |one: T| {
        let (namespace, cost) = cost(&one);
        let taken = taken.entry(namespace.clone()).or_default();
        *taken = taken.saturating_add(cost);
        (*taken, one)
    };
    let mut turns: Vec<(usize, T)> = all.into_iter().map(turn).collect();
    // Stable: those of one turn stay in the order given.
    turns.sort_by_key(|(taken, _)| *taken);
    turns.into_iter().map(|(_, one)| one).collect()
}

/// True if [`view`] may give something else for `after` than for `before`, to any cluster. Most snapshots
/// differ in what other clusters announced, and that is announced to nobody.
#[must_use]
pub fn may_differ(before: &Snapshot, after: &Snapshot) -> bool {
    before.local != after.local
        || before.siblings != after.siblings
        || before.links.keys().ne(after.links.keys())
        || before.exports != after.exports
        || before.down != after.down
        || before.never_answered != after.never_answered
        || before.forbidden != after.forbidden
}

/// True if an export fits into the one message that would announce it to `to`, whichever backends are ready.
#[must_use]
pub fn export_fits(export: &Export, to: &ClusterName) -> bool {
    why_export_does_not_fit(export, to).is_none()
}

/// The reason why an export does not fit, in words that end a sentence about it. `None` if it fits.
#[must_use]
pub fn why_export_does_not_fit(export: &Export, to: &ClusterName) -> Option<WireError> {
    let grants: Vec<_> =
        export.allow.iter().filter(|g| g.cluster == *to).map(|g| &g.workloads).collect();
    if grants.is_empty() {
        return None;
    }
    let port =
        |port: &ExportPort| announced_port(port, routing::count_per_node(&port.backends), None);
    let announced = announced_export(export, export.ports.iter().map(port).collect(), &grants);
    export_error(&announced, &export.service)
}

/// A port as any cluster may see it, with these ready backends, or why there is none.
fn announced_port(
    port: &ExportPort,
    ready: BTreeMap<NodeName, u32>,
    fault: Option<BackendFault>,
) -> PeerPort {
    PeerPort {
        name: port.name.clone(),
        number: port.number,
        app_protocol: port.app_protocol.clone(),
        ready: ready.into_iter().collect(),
        fault,
    }
}

/// An export as a cluster with these grants may see it.
fn announced_export(
    export: &Export,
    ports: Vec<PeerPort>,
    grants: &[&WorkloadPattern],
) -> PeerExport {
    let mut grants: Vec<_> = grants.iter().map(|grant| (*grant).clone()).collect();
    dedup_grants(&mut grants);
    let hold = export.hold.map(|hold| hold.timeout);
    PeerExport { ports, grants, hop: export.hop, class: export.class, replay: export.replay, hold }
}

#[cfg(test)]
mod tests;
