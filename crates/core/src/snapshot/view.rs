//! The view of a cluster: its nodes and exports, as it announces them to one other cluster.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::services::{Class, Hop};
use crate::code::Code;
use crate::fault::BackendFault;
use crate::grant::WorkloadPattern;
use crate::name::{AppProtocol, ClusterName, NodeName, PortName, ServiceName};
use crate::shared_map::SharedMap;

/// The announcement of a cluster about itself: a linked cluster to this one, or this one to its links.
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

    /// True if a request for this export of its is served: at once, or as soon as there is a backend.
    #[must_use]
    pub fn is_served(&self, export: &PeerExport) -> bool {
        export.hold.is_some() || self.has_ready_backend(export)
    }

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
    /// The workloads of the cluster that it is announced to which may use it.
    pub grants: Vec<WorkloadPattern>,
    /// Says at which nodes a stream may enter.
    pub hop: Hop,
    /// The class of connections that its streams take.
    pub class: Class,
    /// True if a stream of unknown outcome may be sent again.
    pub replay: bool,
    /// The longest time for which a stream waits there while no backend answers; `None` if it is refused at
    /// once.
    pub hold: Option<Duration>,
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
