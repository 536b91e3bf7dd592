//! A node's knowledge, as one immutable value.
//!
//! The operator's file, the Kubernetes API and the views of other clusters are merged into a [`Snapshot`];
//! the data path reads a snapshot and nothing else. A new snapshot replaces the one before it as a whole, and
//! shares with it what has not changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::address;
use crate::code::Code;
use crate::fault::BackendFault;
use crate::name::{AppProtocol, ClusterName, NodeName, PortName, ServiceName};
use crate::policy::{Grant, WorkloadPattern};
use crate::shared_map::SharedMap;
use crate::spiffe::{TrustDomain, Workload};

mod siblings;
pub use siblings::SiblingTable;

/// A node's knowledge at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// This node itself.
    pub local: LocalNode,
    /// The other nodes of this cluster and where they can be dialled.
    pub siblings: SiblingTable,
    /// The clusters that this one is linked with.
    pub links: BTreeMap<ClusterName, Arc<Link>>,
    /// The services of other clusters that can be used here.
    pub imports: Imports,
    /// The services of this cluster that others may use.
    pub exports: SharedMap<ServiceName, Arc<Export>>,
    /// The workloads that open connections here, by source address.
    pub workloads: HashMap<IpAddr, Workload>,
    /// The latest view of each linked cluster.
    pub views: BTreeMap<ClusterName, Arc<ClusterView>>,
    /// Backends that do not answer at present and why, as this node's own dials and probes found.
    pub down: BTreeMap<SocketAddr, BackendFault>,
    /// Backends that this node dials and that have not answered it yet: it may send streams there, and
    /// announces to nobody that they are ready.
    pub never_answered: BTreeSet<SocketAddr>,
    /// Addresses that no backend may have unless the operator wrote it out: this node's own, the API
    /// server's. Those of [`address::is_reserved_for_machine`] are always among them; multicast and unspecified addresses,
    /// written out or not.
    pub forbidden: BTreeSet<IpAddr>,
}

/// The identity of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNode {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its cluster's trust domain.
    pub trust_domain: TrustDomain,
    /// Its own name.
    pub node: NodeName,
    /// Addresses at which siblings and peers can dial it; at most [`ClusterView::MAX_ADDRESSES`] are
    /// announced.
    pub advertise: Vec<SocketAddr>,
}

/// The standing relation with another cluster, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The other cluster.
    pub cluster: ClusterName,
    /// Its trust domain. No two links share one.
    pub trust_domain: TrustDomain,
    /// Addresses at which dialling begins: any of its nodes. Empty if only they can dial.
    pub seeds: Vec<Seed>,
}

/// An address at which a node of another cluster may be dialled.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(untagged)]
pub enum Seed {
    /// An address and UDP port.
    Address(SocketAddr),
    /// A DNS name, resolved again at each failure, and a UDP port.
    Name {
        /// The DNS name.
        host: Arc<str>,
        /// The UDP port.
        port: u16,
    },
}

impl std::fmt::Display for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// A service of another cluster that can be used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The service, named as in the exporting cluster.
    pub service: ServiceName,
    /// The exporting cluster.
    pub from: ClusterName,
    /// Its ports.
    pub ports: Vec<ImportPort>,
    /// Which local workloads may use it.
    pub allow: Vec<WorkloadPattern>,
    /// The Service that takes the import's place in this cluster, in words: whoever asks for the name is not
    /// led here.
    pub displaced_by: Option<String>,
}

/// A port of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportPort {
    /// Its name in the exporting cluster.
    pub name: PortName,
    /// Its number there; informative.
    pub number: u16,
    /// The local addresses that stand for it. The local address of an accepted connection tells which import
    /// and port is meant, so no two ports of any import share one.
    pub listen: Vec<SocketAddr>,
}

/// All imports, found by service or by the local address of an accepted connection. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Imports(Arc<ImportTables>);

#[derive(Debug, PartialEq, Eq, Default)]
struct ImportTables {
    by_service: BTreeMap<ServiceName, Arc<Import>>,
    by_address: HashMap<SocketAddr, (Arc<Import>, usize)>,
}

impl Imports {
    /// The import of a service.
    #[must_use]
    pub fn get(&self, service: &ServiceName) -> Option<&Arc<Import>> {
        self.0.by_service.get(service)
    }

    /// The import and port that a local address stands for.
    #[must_use]
    pub fn at(&self, local: SocketAddr) -> Option<(&Arc<Import>, &ImportPort)> {
        let (import, port) = self.0.by_address.get(&local)?;
        Some((import, &import.ports[*port]))
    }

    /// All imports, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Import>> {
        self.0.by_service.values()
    }

    /// True if both are one and the same value: never true of two that differ.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// All local addresses that stand for a port.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.by_address.keys().copied()
    }
}

impl FromIterator<Import> for Imports {
    fn from_iter<I: IntoIterator<Item = Import>>(imports: I) -> Self {
        let mut all = ImportTables::default();
        for import in imports.into_iter().map(Arc::new) {
            for (n, port) in import.ports.iter().enumerate() {
                for address in &port.listen {
                    all.by_address.insert(*address, (import.clone(), n));
                }
            }
            all.by_service.insert(import.service.clone(), import);
        }
        Self(Arc::new(all))
    }
}

/// A service of this cluster that others may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The service.
    pub service: ServiceName,
    /// Its ports.
    pub ports: Vec<ExportPort>,
    /// The workloads that may use it.
    pub allow: Vec<Grant>,
    /// Says whether a stream may enter at a node that has no backend of its own.
    pub hop: Hop,
    /// Which lane its streams take.
    pub class: Class,
    /// True if a stream whose outcome is unknown may be sent again: the service is idempotent.
    pub replay: bool,
    /// The interval at which backends are probed by a TCP connect while they are ready; `None` by default. A
    /// backend that is down is dialled again in any case.
    pub probe: Option<Duration>,
}

impl Export {
    /// The port of that name.
    #[must_use]
    pub fn port(&self, name: &PortName) -> Option<&ExportPort> {
        self.ports.iter().find(|p| p.name == *name)
    }
}

/// A port of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportPort {
    /// Its name; empty for the one port of a Service that names none.
    pub name: PortName,
    /// The Service's port number.
    pub number: u16,
    /// The Service's `appProtocol`.
    pub app_protocol: Option<AppProtocol>,
    /// The addresses that can be dialled for it.
    pub backends: Vec<Backend>,
}

/// An address to dial for an export.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// The address on which it listens.
    pub address: SocketAddr,
    /// The node that it runs on.
    pub node: NodeName,
    /// True if the operator wrote this very address into the configuration. Only then may it be one of
    /// [`Snapshot::forbidden`] or a loopback address.
    pub explicit: bool,
}

/// The nodes of the exporting cluster at which a stream may enter.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum Hop {
    /// At any connected node; the way from there to the backend's node is the cluster's own network.
    #[default]
    Any,
    /// Only at the node that runs the backend.
    SameNode,
}

/// The kind of traffic that an export carries. Each class has connections of its own.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Requests, answers, events: small windows, so that nothing waits behind a queue.
    #[default]
    Interactive,
    /// Large transfers: large windows, on connections of their own.
    Bulk,
}

/// The view that a linked cluster announced to us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// Its nodes and where they can be dialled.
    pub nodes: SharedMap<NodeName, Vec<SocketAddr>>,
    /// The services that it exports to us.
    pub exports: SharedMap<ServiceName, Arc<PeerExport>>,
}

impl ClusterView {
    /// The most addresses that one node may announce.
    pub const MAX_ADDRESSES: usize = 16;

    /// True if any port of this export of its has a ready backend.
    #[must_use]
    pub fn has_ready_backend(&self, export: &PeerExport) -> bool {
        export.ports.iter().any(|port| self.is_port_ready(port))
    }

    /// True if a node that the cluster announces has a ready backend of this port. What it says of the
    /// backends of any other node is ignored: no stream could be sent there.
    #[must_use]
    pub fn is_port_ready(&self, port: &PeerPort) -> bool {
        port.ready.iter().any(|(node, ready)| *ready > 0 && self.nodes.contains_key(node))
    }
}

/// An export as its cluster announces it to one importing cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerExport {
    /// Its ports.
    pub ports: Vec<PeerPort>,
    /// Which of *our* workloads may use it.
    pub grants: Vec<WorkloadPattern>,
    /// Says at which nodes a stream may enter.
    pub hop: Hop,
    /// Which lane its streams take.
    pub class: Class,
    /// True if a stream of unknown outcome may be sent again.
    pub replay: bool,
}

impl PeerExport {
    /// The port of that name.
    #[must_use]
    pub fn port(&self, name: &PortName) -> Option<&PeerPort> {
        self.ports.iter().find(|p| p.name == *name)
    }
}

/// A port as its cluster announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPort {
    /// Its name.
    pub name: PortName,
    /// The Service's port number there.
    pub number: u16,
    /// Its `appProtocol`.
    pub app_protocol: Option<AppProtocol>,
    /// Number of ready backends on each node; nodes without one are left out.
    pub ready: ReadyCounts,
    /// The reason why none of its backends is ready; `None` if one is, if there is none, or if no reason is
    /// announced.
    pub fault: Option<BackendFault>,
}

impl PeerPort {
    /// The code of a stream that is refused because no backend is ready.
    #[must_use]
    pub fn why_unready(&self) -> Code {
        self.fault.map_or(Code::NoBackend, BackendFault::code)
    }

    /// The reason why no backend is ready as a sentence, about the service of that name in that cluster.
    #[must_use]
    pub fn unready_sentence(&self, service: &ServiceName, from: &ClusterName) -> String {
        match self.fault {
            Some(fault) => {
                format!("no backend of {service} in {from} answers: {}", fault.description())
            }
            None => format!("{from} has no ready backend of {service}"),
        }
    }
}

/// Number of ready backends on each node, in order of node. Cheap to clone, and as small as can be: a view
/// holds one for each port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadyCounts(Arc<[(NodeName, u32)]>);

impl ReadyCounts {
    /// The nodes and their counts, in order of node.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, &u32)> + Clone {
        self.0.iter().map(|(node, count)| (node, count))
    }

    /// The counts, in order of node.
    pub fn values(&self) -> impl Iterator<Item = &u32> + Clone {
        self.0.iter().map(|(_, count)| count)
    }

    /// The count of a node, if it has one.
    #[must_use]
    pub fn get(&self, node: &NodeName) -> Option<&u32> {
        let at = self.0.binary_search_by(|(n, _)| n.cmp(node)).ok()?;
        self.0.get(at).map(|(_, count)| count)
    }

    /// True if both are one and the same list in memory.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Number of nodes with a count.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if no node has a count.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets the count of a node. Copies all of them.
    pub fn insert(&mut self, node: NodeName, count: u32) {
        let others = self.iter().map(|(n, c)| (n.clone(), *c));
        *self = others.chain([(node, count)]).collect();
    }

    /// Removes all counts.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl FromIterator<(NodeName, u32)> for ReadyCounts {
    fn from_iter<I: IntoIterator<Item = (NodeName, u32)>>(counts: I) -> Self {
        Self(counts.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect())
    }
}

impl<const N: usize> From<[(NodeName, u32); N]> for ReadyCounts {
    fn from(counts: [(NodeName, u32); N]) -> Self {
        counts.into_iter().collect()
    }
}

impl Snapshot {
    /// True if an address is one of our own: this machine's or a node's, a workload's or a backend's. A peer
    /// that announces such an address as a node of its own must not make us dial it. Loopback belongs to
    /// nobody: it is shared if clusters are on one machine. Searches everything: call it once for a dial, not
    /// for a stream.
    #[must_use]
    pub fn is_own_address(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let is = |address: &SocketAddr| address.ip().to_canonical() == ip;
        let is_backend = || {
            let mut ports = self.exports.values().flat_map(|export| &export.ports);
            ports.any(|port| port.backends.iter().any(|backend| is(&backend.address)))
        };
        !ip.is_loopback()
            && (self.forbidden.contains(&ip)
                || self.workloads.contains_key(&ip)
                || self.siblings.is_at(ip)
                || is_backend())
    }

    /// True if an address is one of this machine, of a sibling or of the API server, which no pod with a
    /// network of its own can have. Traffic from there comes from the host's network. Call it only for
    /// addresses that no workload is known by.
    #[must_use]
    pub fn is_host_address(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || self.forbidden.contains(&ip) || self.siblings.is_at(ip)
    }

    /// True if this node dials a backend of `export`. A backend on another node is dialled by that node if
    /// the export says so, unless the operator wrote its address out.
    #[must_use]
    pub fn should_dial(&self, export: &Export, backend: &Backend) -> bool {
        let is_ours = export.hop == Hop::Any || backend.explicit || backend.node == self.local.node;
        is_ours && self.may_dial(backend)
    }

    /// True if this node probes a backend of `export`. A backend on a sibling is probed there, and by hubs,
    /// which announce it to other clusters.
    #[must_use]
    pub fn should_probe(&self, export: &Export, backend: &Backend, is_hub: bool) -> bool {
        self.should_dial(export, backend) && (is_hub || !self.siblings.contains_key(&backend.node))
    }

    /// True if `backend` may be dialled: its address is an ordinary one, or written out by the operator, and
    /// in no case one that stands for an import.
    #[must_use]
    pub fn may_dial(&self, backend: &Backend) -> bool {
        // Compared as what a packet to it may end at, in whatever form it is written.
        let ip = address::effective_ip(backend.address.ip());
        let at = SocketAddr::new(ip, backend.address.port());
        // One of our own listeners as a backend would be a loop.
        let never = ip.is_unspecified() || ip.is_multicast() || self.imports.at(at).is_some();
        let forbidden = [ip, backend.address.ip()].iter().any(|ip| self.forbidden.contains(ip));
        let ordinary = !address::is_reserved_for_machine(ip) && !forbidden;
        !never && (ordinary || backend.explicit)
    }
}

#[cfg(test)]
pub(crate) mod tests;
