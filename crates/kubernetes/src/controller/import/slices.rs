//! The Service and EndpointSlices of an import, as they should be.
//!
//! kube-proxy finds a Service's endpoints by port *name*. So a slice's ports have the names that
//! the Service's ports have, whatever the exporting side calls them; everything else is taken from
//! the exporting side.

use std::collections::BTreeMap;
use std::net::IpAddr;

use adit_config::cluster::NetworkMode;
use adit_core::name::{ClusterName, NodeName, ServiceName};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::addresses::IpFamilies;
use crate::api::{ImportPort, MADE_FOR, SLICE_MANAGED_BY, SLICE_SERVICE};
use crate::ownership::owned_metadata;
use crate::service::tcp_ports;

/// Most endpoints of one slice.
const MAX_ENDPOINTS: usize = 1000;

/// Suffixes of the names of a Service's slices.
pub(crate) const NAME_SUFFIXES: [&str; 2] = ["-adit-ipv4", "-adit-ipv6"];

/// Source of an import's endpoints.
#[derive(Debug, Clone, Copy)]
pub(crate) enum EndpointSource<'a> {
    /// The import's node-local addresses.
    Local(&'a [IpAddr]),
    /// The addresses of all nodes.
    Nodes(&'a BTreeMap<NodeName, Vec<IpAddr>>),
}

/// Returns the traffic policy of a Service that we made. If its endpoints are nodes, traffic stays
/// on the caller's own node: no other node knows who calls.
fn traffic_policy(mode: NetworkMode) -> &'static str {
    match mode {
        NetworkMode::LocalRange => "Cluster",
        NetworkMode::NodeAddress => "Local",
    }
}

/// Returns the Service of an import that has none.
pub(crate) fn stub_service(
    service: &ServiceName,
    from: &ClusterName,
    ports: &[ImportPort],
    mode: NetworkMode,
    owner: Option<&OwnerReference>,
) -> Service {
    let mut metadata = owned_metadata(service.name(), Some(service.namespace.as_str()), owner);
    metadata.annotations = Some([(MADE_FOR.into(), from.to_string())].into());
    let spec = ServiceSpec {
        ports: Some(stub_ports(ports)),
        // One family if the cluster has one, both if it has both.
        ip_family_policy: Some("PreferDualStack".into()),
        internal_traffic_policy: Some(traffic_policy(mode).into()),
        ..ServiceSpec::default()
    };
    Service { metadata, spec: Some(spec), status: None }
}

/// Returns a Service of ours with the ports that it should have; `None` if it has them.
pub(crate) fn corrected_stub(
    stub: &Service,
    ports: &[ImportPort],
    mode: NetworkMode,
) -> Option<Service> {
    let wanted = stub_ports(ports);
    let face = |p: &ServicePort| {
        let name = p.name.clone().unwrap_or_default();
        let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
        (name, p.port, protocol, p.app_protocol.clone())
    };
    let current = stub.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let selects =
        stub.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty());
    let policy = stub.spec.as_ref().and_then(|s| s.internal_traffic_policy.as_deref());
    let leads = policy.unwrap_or("Cluster") == traffic_policy(mode);
    if current.iter().map(face).eq(wanted.iter().map(face)) && !selects && leads {
        return None;
    }
    let mut fixed = stub.clone();
    let spec = fixed.spec.get_or_insert_default();
    spec.ports = Some(wanted);
    spec.selector = None;
    spec.internal_traffic_policy = Some(traffic_policy(mode).into());
    Some(fixed)
}

fn stub_ports(ports: &[ImportPort]) -> Vec<ServicePort> {
    let port = |p: &ImportPort| ServicePort {
        name: (!p.name.is_empty()).then(|| p.name.clone()),
        port: p.number.into(),
        protocol: Some("TCP".into()),
        app_protocol: p.app_protocol.clone(),
        ..ServicePort::default()
    };
    ports.iter().map(port).collect()
}

/// Returns the IP families of a Service.
pub(crate) fn families(service: &Service) -> IpFamilies {
    let families = service.spec.as_ref().and_then(|s| s.ip_families.as_deref()).unwrap_or_default();
    let has = |family: &str| families.iter().any(|f| f == family);
    IpFamilies { v4: has("IPv4"), v6: has("IPv6") }
}

/// Returns the ports of the slices of `service`: each of its ports that the import has, matched by
/// name, else by number; if both have only one, that one.
pub(crate) fn slice_ports(service: &Service, ports: &[ImportPort]) -> Vec<EndpointPort> {
    let port = |(own, import): (&ServicePort, &ImportPort)| EndpointPort {
        name: Some(own.name.clone().unwrap_or_default()),
        port: Some(import.listen.into()),
        protocol: Some("TCP".into()),
        app_protocol: import.app_protocol.clone(),
    };
    matching_ports(service, ports).map(port).collect()
}

/// Returns the ports of `service` that the import has, each with its port of the import.
pub(crate) fn matching_ports<'a>(
    service: &'a Service,
    ports: &'a [ImportPort],
) -> impl Iterator<Item = (&'a ServicePort, &'a ImportPort)> {
    let own: Vec<&ServicePort> = tcp_ports(service).collect();
    let only = (own.len() == 1 && ports.len() == 1).then(|| ports.first()).flatten();
    own.into_iter().filter_map(move |port| {
        let name = port.name.as_deref().unwrap_or_default();
        let by_name = ports.iter().find(|p| !name.is_empty() && p.name == name);
        let by_number = || ports.iter().find(|p| i32::from(p.number) == port.port);
        Some((port, by_name.or_else(by_number).or(only)?))
    })
}

/// Returns the slices of `service`: one for each of its families for which there are addresses.
pub(crate) fn import_slices(
    name: &ServiceName,
    service: &Service,
    ports: &[EndpointPort],
    behind: EndpointSource<'_>,
    ready: bool,
    owner: Option<&OwnerReference>,
) -> Vec<EndpointSlice> {
    let families = families(service);
    let all = [("IPv4", NAME_SUFFIXES[0], families.v4), ("IPv6", NAME_SUFFIXES[1], families.v6)];
    let mut slices = Vec::new();
    for (address_type, suffix, _) in all.into_iter().filter(|(_, _, wanted)| *wanted) {
        let fits = |a: &&IpAddr| a.is_ipv4() == (address_type == "IPv4");
        let endpoints: Vec<Endpoint> = match behind {
            EndpointSource::Local(addresses) => {
                addresses.iter().filter(fits).map(|a| endpoint(a, ready)).collect()
            }
            EndpointSource::Nodes(nodes) => nodes
                .iter()
                .filter_map(|(node, addresses)| {
                    Some((node.to_string(), addresses.iter().find(fits)?))
                })
                .take(MAX_ENDPOINTS)
                .map(|(node, address)| Endpoint {
                    node_name: Some(node.clone()),
                    hints: Some(EndpointHints {
                        for_nodes: Some(vec![ForNode { name: node }]),
                        for_zones: None,
                    }),
                    ..endpoint(address, ready)
                })
                .collect(),
        };
        if endpoints.is_empty() {
            continue;
        }
        let mut metadata = owned_metadata(
            format!("{}{suffix}", name.name()),
            Some(name.namespace.as_str()),
            owner,
        );
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(SLICE_SERVICE.into(), name.name().into());
        labels.insert(SLICE_MANAGED_BY.0.into(), SLICE_MANAGED_BY.1.into());
        let ports = Some(ports.to_vec());
        slices.push(EndpointSlice {
            metadata,
            address_type: address_type.into(),
            endpoints,
            ports,
        });
    }
    slices
}

/// Returns an endpoint of ours. While the import is not ready, kube-proxy still uses it, so that
/// callers reach our listener and are refused by it, at once and at any rate. Without an endpoint,
/// the kernel refuses them by ICMP, once a second, and the others hang. Kubernetes has conditions
/// for an endpoint that is used only where none is ready (KEP-1669).
fn endpoint(address: &IpAddr, ready: bool) -> Endpoint {
    let conditions =
        EndpointConditions { ready: Some(ready), serving: Some(true), terminating: Some(!ready) };
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(conditions),
        ..Endpoint::default()
    }
}

/// Returns whether a slice is as it should be.
pub(crate) fn is_current(stored: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let has = |want: &Option<BTreeMap<String, String>>| {
        let labels = stored.metadata.labels.as_ref();
        want.iter().flatten().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
    };
    stored.address_type == wanted.address_type
        && stored.endpoints == wanted.endpoints
        && stored.ports == wanted.ports
        && has(&wanted.metadata.labels)
        && stored.metadata.owner_references == wanted.metadata.owner_references
}
