//! A node's knowledge, as one immutable value.
//!
//! The operator's file, the Kubernetes API and the views of other clusters are merged into a [`Snapshot`];
//! the data path reads a snapshot and nothing else. A new snapshot replaces the one before it as a whole, and
//! shares with it what has not changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::address;
use crate::fault::BackendFault;
use crate::name::{ClusterName, NodeName, ServiceName};
use crate::shared_map::SharedMap;
use crate::spiffe::{TrustDomain, Workload};

mod services;
mod siblings;
mod view;

pub use self::services::{
    Backend, Class, Export, ExportPort, HoldLimits, Hop, Import, ImportPort, Imports,
};
pub use self::siblings::SiblingTable;
pub use self::view::{ClusterView, PeerExport, PeerPort, ReadyCounts};

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
    /// Backends that do not answer at present, and why: as this node's own dials and probes found or, for a backend
    /// that this node does not probe, as the nodes that run it reported.
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
