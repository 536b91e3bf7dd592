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
    let ports = export.ports.iter();
    let ports = ports.map(|p| (p.name.as_str(), p.app_protocol.as_ref().map(|p| p.as_str())));
    let grants = export.grants.iter().map(grant_names);
    let ready: usize = export.ports.iter().map(ready_counts).sum();
    unready_export([service.namespace.as_str(), service.name()], ports, grants) + ready
}

/// The size of an export none of whose backends is ready, in bytes: of its Service's namespace and name, of its
/// ports' names and what they speak, and of its grants' namespaces and service accounts, `None` for any.
#[must_use]
pub fn unready_export<'a>(
    [namespace, name]: [&str; 2],
    ports: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    grants: impl Iterator<Item = [Option<&'a str>; 2]>,
) -> usize {
    let key = size_of::<ServiceName>() + text(namespace) + text(name);
    let inline = size_of::<usize>() + ALLOCATION_OVERHEAD + size_of::<PeerExport>();
    let port = |(name, protocol): (&str, Option<&str>)| {
        size_of::<PeerPort>() + text(name) + protocol.map_or(0, text) + ALLOCATION_OVERHEAD
    };
    let grant = |names: [Option<&str>; 2]| {
        size_of::<WorkloadPattern>() + names.into_iter().flatten().map(text).sum::<usize>()
    };
    let lists = 2 * ALLOCATION_OVERHEAD;
    key + inline + lists + ports.map(port).sum::<usize>() + grants.map(grant).sum::<usize>()
}

/// The heap size of the ready counts of a port.
fn ready_counts(port: &PeerPort) -> usize {
    let count = |(node, _): (&NodeName, &u32)| size_of::<(NodeName, u32)>() + text(node.as_str());
    port.ready.iter().map(count).sum()
}

fn grant_names(grant: &WorkloadPattern) -> [Option<&str>; 2] {
    let namespace = match &grant.namespace {
        Pattern::Any => None,
        Pattern::Exact(name) => Some(name.as_str()),
    };
    let account = match &grant.service_account {
        Pattern::Any => None,
        Pattern::Exact(name) => Some(name.as_str()),
    };
    [namespace, account]
}

/// The heap size of a text.
fn text(text: &str) -> usize {
    ALLOCATION_OVERHEAD + text.len()
}
