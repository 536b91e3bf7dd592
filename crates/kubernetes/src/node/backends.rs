//! Backends of an export: which endpoints a node believes, and on which node they run.
//!
//! Whoever may write EndpointSlices in a namespace can write anything into them: the API server
//! checks neither an address, nor a node's name, nor whose pod it is. So the backends of an export
//! that a tenant can make, by a label or an annotation, are pods of its own namespace that this
//! node has seen itself. An endpoint said to run on another node is only counted for that node,
//! which looks at its own pods. An export that an administrator named may lead anywhere else,
//! except to what [`BackendFilter::is_forbidden`] has.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use adit_config::cluster::NetworkConfig;
use adit_core::address;
use adit_core::name::NodeName;
use adit_core::prefix::IpPrefix;
use adit_core::snapshot::{Backend, Export};
use adit_core::spiffe::Workload;

use super::location::NodeLocation;
use super::observed::{ObservedCluster, ObservedEndpoint, ObservedSlice};
use crate::api::ExportSpec;

/// Most backends of one namespace's exports together, each port of each endpoint being one: 5,000
/// pods with four ports. All nodes keep them, and read all of them whenever one changes.
pub(super) const MAX_BACKENDS: usize = 20_000;
/// Of those, the most that are forbidden and are kept so that the reason can be told. They are
/// searched for each unknown source, and copied with each snapshot.
pub(super) const MAX_FORBIDDEN: usize = 100;

/// Number of backends that one namespace may still have.
#[derive(Debug, Clone, Copy)]
pub(super) struct BackendQuota {
    all: usize,
    forbidden: usize,
}

impl BackendQuota {
    /// Returns the quota of a namespace without backends.
    pub(super) fn new() -> Self {
        Self { all: MAX_BACKENDS, forbidden: MAX_FORBIDDEN }
    }

    /// Returns whether the namespace has as many as it may.
    pub(super) fn is_exhausted(self) -> bool {
        self.all == 0
    }
}

/// Decides which endpoints are backends, by what the node knows itself or from trusted objects.
pub(super) struct BackendFilter<'a> {
    local: &'a NodeLocation,
    /// The other nodes that have a daemon.
    siblings: &'a BTreeMap<NodeName, Vec<SocketAddr>>,
    /// This node's pods by address.
    workloads: &'a HashMap<IpAddr, Workload>,
    /// Addresses of nodes, this one included.
    nodes: BTreeSet<IpAddr>,
    /// Prefixes that stand for imports, and those of Services.
    ranges: Vec<IpPrefix>,
}

impl<'a> BackendFilter<'a> {
    /// `own` are the slices of the nodes' own Service.
    pub(super) fn new(
        observed: &ObservedCluster,
        network: &NetworkConfig,
        location: &'a NodeLocation,
        own: &[&ObservedSlice],
        siblings: &'a BTreeMap<NodeName, Vec<SocketAddr>>,
        workloads: &'a HashMap<IpAddr, Workload>,
    ) -> Self {
        let others = own.iter().flat_map(|s| &s.endpoints).map(|e| e.address);
        let here = location.addresses.iter().map(IpAddr::to_canonical);
        let node_local = [network.range, network.range6];
        let services = observed.service_ranges.iter().filter_map(|text| text.parse().ok());
        Self {
            local: location,
            siblings,
            workloads,
            nodes: others.chain(here).collect(),
            ranges: node_local.into_iter().chain(services).collect(),
        }
    }

    /// Returns whether an address must never be a backend, whoever named the Service: one of a
    /// node, of the range that stands for imports (that would be a loop), of the Services' range,
    /// or one that [`address::is_reserved_for_machine`] has.
    fn is_forbidden(&self, ip: IpAddr) -> bool {
        let carried = address::effective_ip(ip);
        let known =
            |ip| self.nodes.contains(&ip) || self.ranges.iter().any(|range| range.contains(ip));
        known(ip) || known(carried) || address::is_reserved_for_machine(ip)
    }

    /// Returns the forbidden addresses among an export's backends. They stay there, so that the
    /// reason why they are not dialled can be told.
    pub(super) fn forbidden(&self, export: &Export) -> impl Iterator<Item = IpAddr> {
        let backends = export.ports.iter().flat_map(|port| &port.backends);
        backends.map(|backend| backend.address.ip()).filter(|ip| self.is_forbidden(*ip))
    }

    /// Returns the node that an endpoint of this export counts for; `None` if nobody dials it.
    fn dialing_node(&self, endpoint: &ObservedEndpoint, spec: &ExportSpec) -> Option<NodeName> {
        let here = &self.local.node;
        let named = endpoint.node.as_deref().and_then(|name| name.parse::<NodeName>().ok());
        let known = named.filter(|node| node == here || self.siblings.contains_key(node));
        if spec.any_endpoint || self.is_forbidden(endpoint.address) {
            // On no node that has a daemon: dialled by whichever node takes the stream.
            return Some(known.unwrap_or_else(|| here.clone()));
        }
        // The node depends on the endpoint's own statement alone, so that all nodes count it the
        // same way.
        let owner = || self.workloads.get(&endpoint.address).map(|pod| pod.namespace.as_str());
        let is_right = |node: &NodeName| {
            endpoint.pod && (node != here || owner() == Some(&*spec.backend().namespace))
        };
        known.filter(is_right)
    }

    /// Returns whether an endpoint surely is no pod of the Service's namespace. One that claims to
    /// be a pod of this node, where nobody has its address, may only just have begun.
    fn is_foreign(&self, endpoint: &ObservedEndpoint, spec: &ExportSpec) -> bool {
        let owner = self.workloads.get(&endpoint.address).map(|pod| pod.namespace.as_str());
        !endpoint.pod || owner.is_some_and(|owner| owner != spec.backend().namespace)
    }

    /// Returns the ready endpoints of the port of that name, as far as the quota allows, and
    /// charges them; and whether there are others that do not count, as no pods of the Service's
    /// namespace.
    pub(super) fn backends(
        &self,
        port: &str,
        spec: &ExportSpec,
        slices: &[&ObservedSlice],
        quota: &mut BackendQuota,
    ) -> (Vec<Backend>, bool) {
        let (mut all, mut has_foreign) = (BTreeSet::new(), false);
        for slice in slices {
            let numbers = slice.ports.iter().filter(|(name, _)| name == port).map(|(_, n)| *n);
            for number in numbers {
                for endpoint in slice.endpoints.iter().filter(|e| e.ready) {
                    let Some(node) = self.dialing_node(endpoint, spec) else {
                        has_foreign |= self.is_foreign(endpoint, spec);
                        continue;
                    };
                    if quota.is_exhausted() {
                        return (all.into_iter().collect(), has_foreign);
                    }
                    let forbidden = self.is_forbidden(endpoint.address);
                    if forbidden && quota.forbidden == 0 {
                        continue;
                    }
                    let address = SocketAddr::new(endpoint.address, number);
                    if all.insert(Backend { address, node, explicit: false }) {
                        quota.all -= 1;
                        quota.forbidden -= usize::from(forbidden);
                    }
                }
            }
        }
        (all.into_iter().collect(), has_foreign)
    }
}

#[cfg(test)]
mod tests;
