//! The memory that a record takes in a process that holds a view.
//!
//! Counted as if nothing were shared: an upper bound, the same wherever and whenever it is counted, so that
//! publisher and subscriber agree. Because values are shared in fact, a view is smaller than it counts for.

use std::net::SocketAddr;

use crate::grant::{Pattern, WorkloadPattern};
use crate::name::{NodeName, ServiceName};
use crate::snapshot::{PeerExport, PeerPort};

/// An allocation, besides what is in it: the allocator's own, rounding, and the counts of an `Arc`.
const ALLOCATION_OVERHEAD: usize = 32;

/// The size of a node and its addresses, in bytes.
#[must_use]
pub fn node(name: &NodeName, addresses: &[SocketAddr]) -> usize {
    let inline = size_of::<NodeName>() + size_of::<Vec<SocketAddr>>();
    inline + text(name.as_str()) + ALLOCATION_OVERHEAD + size_of_val(addresses)
}

/// The size of an export, in bytes.
#[must_use]
pub fn export(service: &ServiceName, export: &PeerExport) -> usize {
    let key = size_of::<ServiceName>() + text(service.namespace.as_str()) + text(service.name());
    let lists =
        2 * ALLOCATION_OVERHEAD + size_of_val(&*export.ports) + size_of_val(&*export.grants);
    let inline = size_of::<usize>() + ALLOCATION_OVERHEAD + size_of::<PeerExport>();
    let ports: usize = export.ports.iter().map(port).sum();
    let grants: usize = export.grants.iter().map(grant).sum();
    key + inline + lists + ports + grants
}

/// The heap size of a port.
fn port(port: &PeerPort) -> usize {
    let count = |(node, _): (&NodeName, &u32)| size_of::<(NodeName, u32)>() + text(node.as_str());
    let protocol = port.app_protocol.as_ref().map_or(0, |p| text(p.as_str()));
    text(port.name.as_str())
        + protocol
        + ALLOCATION_OVERHEAD
        + port.ready.iter().map(count).sum::<usize>()
}

/// The heap size of a grant.
fn grant(grant: &WorkloadPattern) -> usize {
    let namespace = match &grant.namespace {
        Pattern::Any => 0,
        Pattern::Exact(name) => text(name.as_str()),
    };
    let account = match &grant.service_account {
        Pattern::Any => 0,
        Pattern::Exact(name) => text(name.as_str()),
    };
    namespace + account
}

/// The heap size of a text.
fn text(text: &str) -> usize {
    ALLOCATION_OVERHEAD + text.len()
}
