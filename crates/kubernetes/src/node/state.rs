//! Conversion of what a node has seen into what its data path understands: a function of its
//! arguments.
//!
//! An invalid object is left out and named; it never takes the others with it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use adit_config::cluster::{ClusterConfig, NetworkMode};
use adit_core::name::{ClusterName, NameError, NodeName};
use adit_core::policy::{Grant, WorkloadPattern};
use adit_core::snapshot::{Class, Export, ExportPort, Hop, Import, ImportPort};
use adit_core::spiffe::Workload;

use super::backends::{self, BackendFilter, BackendQuota};
use super::location::NodeLocation;
use super::observed::{ObservedCluster, ObservedSlice};
use crate::api::{ExportSpec, ImportSpec, NAMESPACE, NODE, ServiceRef, Workloads};

/// The cluster's part of a node's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeState {
    /// The other nodes, with the addresses at which each can be dialled.
    pub siblings: BTreeMap<NodeName, Vec<SocketAddr>>,
    /// The imports.
    pub imports: Vec<Import>,
    /// The exports, with their backends.
    pub exports: Vec<Export>,
    /// This node's pods by address.
    pub workloads: HashMap<IpAddr, Workload>,
    /// Last known addresses of linked clusters' nodes.
    pub seeds: BTreeMap<ClusterName, Vec<SocketAddr>>,
    /// Addresses that must never be a backend: the API server's, and those behind exports that
    /// belong to a node, a Service or an import.
    pub forbidden: BTreeSet<IpAddr>,
    /// Objects that were left out, with the reason.
    pub problems: Vec<String>,
}

/// Returns the state of the node at `place`.
#[must_use]
pub fn node_state(
    observed: &ObservedCluster,
    config: &ClusterConfig,
    location: &NodeLocation,
) -> NodeState {
    let mut problems = Vec::new();
    let linked: BTreeSet<&ClusterName> = config.links.iter().map(|l| &l.cluster).collect();
    let mut slices: BTreeMap<&ServiceRef, Vec<&ObservedSlice>> = BTreeMap::new();
    for slice in observed.slices.values() {
        slices.entry(&slice.service).or_default().push(slice);
    }
    let of = |namespace: &str, name: &str| {
        let service = ServiceRef { namespace: namespace.into(), name: name.into() };
        slices.get(&service).into_iter().flatten().copied().collect::<Vec<_>>()
    };
    let own = of(NAMESPACE, NODE);
    let siblings = siblings(&own, config.network.port, location);
    let workloads = workloads(observed);
    let known =
        BackendFilter::new(observed, &config.network, location, &own, &siblings, &workloads);
    let imports = convert_imports(observed, config.network.mode, location, &linked, &mut problems);
    let api_server = of("default", "kubernetes");
    let mut forbidden: BTreeSet<IpAddr> =
        api_server.iter().flat_map(|s| &s.endpoints).map(|e| e.address).collect();
    let mut exports = Vec::new();
    let mut quotas: BTreeMap<&str, BackendQuota> = BTreeMap::new();
    for (name, spec) in &observed.exports {
        let backend = spec.backend();
        let behind = of(&backend.namespace, &backend.name);
        let quota = quotas.entry(&backend.namespace).or_insert_with(BackendQuota::new);
        match convert_export(spec, &behind, &known, quota, &linked) {
            Ok(export) => {
                forbidden.extend(known.forbidden(&export));
                exports.push(export);
            }
            Err(problem) => problems.push(left_out("export", name, &problem)),
        }
    }
    for (namespace, _) in quotas.into_iter().filter(|(_, quota)| quota.is_exhausted()) {
        problems.push(format!(
            "namespace {namespace}: its exports have more than {} backends, the rest is left out: \
             export fewer of its Services, or fewer of their ports",
            backends::MAX_BACKENDS
        ));
    }
    NodeState {
        siblings,
        imports,
        exports,
        workloads,
        seeds: seeds(observed, &linked),
        forbidden,
        problems,
    }
}

/// Describes an object that was left out.
fn left_out(kind: &str, name: &str, problem: &str) -> String {
    format!("{kind} {name} is left out: {problem}")
}

fn convert_imports(
    observed: &ObservedCluster,
    mode: NetworkMode,
    location: &NodeLocation,
    linked: &BTreeSet<&ClusterName>,
    problems: &mut Vec<String>,
) -> Vec<Import> {
    let mut imports = Vec::new();
    for (name, spec) in &observed.imports {
        match convert_import(spec, mode, location, linked) {
            Ok(import) => imports.extend(import),
            Err(problem) => problems.push(left_out("import", name, &problem)),
        }
    }
    imports
}

/// Converts an import; `None` if its cluster is not linked, or if it was released.
fn convert_import(
    spec: &ImportSpec,
    mode: NetworkMode,
    location: &NodeLocation,
    linked: &BTreeSet<&ClusterName>,
) -> Result<Option<Import>, String> {
    if spec.released_at.is_some() {
        return Ok(None);
    }
    let from: ClusterName = parse(&spec.from)?;
    if !linked.contains(&from) {
        return Ok(None);
    }
    let given: Vec<IpAddr> = spec.addresses.iter().map(|a| parse(a)).collect::<Result<_, _>>()?;
    let addresses = match mode {
        // An import without an address yet cannot be found.
        NetworkMode::LocalRange => &given,
        // It is found at the node's addresses, by its ports alone.
        NetworkMode::NodeAddress => &location.addresses,
    };
    let port = |p: &crate::api::ImportPort| {
        Ok::<_, String>(ImportPort {
            name: parse(&p.name)?,
            number: p.number,
            listen: addresses.iter().map(|ip| SocketAddr::new(*ip, p.listen)).collect(),
        })
    };
    Ok(Some(Import {
        service: spec.service.parse().map_err(|e| e.to_string())?,
        from,
        ports: spec.ports.iter().map(port).collect::<Result<_, _>>()?,
        allow: spec.allow.iter().map(workload_pattern).collect::<Result<_, _>>()?,
        displaced_by: spec.displaced_by.clone(),
    }))
}

fn convert_export(
    spec: &ExportSpec,
    slices: &[&ObservedSlice],
    known: &BackendFilter<'_>,
    quota: &mut BackendQuota,
    linked: &BTreeSet<&ClusterName>,
) -> Result<Export, String> {
    let mut port = |p: &crate::api::ExportPort| {
        let (backends, has_foreign) = known.backends(&p.name, spec, slices, quota);
        Ok::<_, String>(ExportPort {
            name: parse(&p.name)?,
            number: p.number,
            app_protocol: p.app_protocol.as_deref().map(parse).transpose()?,
            backends,
            has_foreign,
        })
    };
    let mut allow = Vec::new();
    for grant in &spec.allow {
        let workloads = workload_pattern(&grant.workloads)?;
        let cluster: ClusterName = parse(&grant.cluster)?;
        if linked.contains(&cluster) {
            allow.push(Grant { cluster, workloads });
        }
    }
    // Only the node of a pod knows who has an address.
    let hop = match spec.hop.as_deref() {
        None | Some("any") if !spec.any_endpoint => Hop::SameNode,
        None | Some("any") => Hop::Any,
        Some("sameNode") => Hop::SameNode,
        Some(other) => return Err(format!("hop is any or sameNode, not {other:?}")),
    };
    Ok(Export {
        service: spec.service.parse().map_err(|e| e.to_string())?,
        ports: spec.ports.iter().map(&mut port).collect::<Result<_, _>>()?,
        allow,
        hop,
        // A stream that enters at one node cannot wait for the backend of another.
        hold: spec.hold.filter(|_| hop == Hop::Any).map(Into::into),
        class: spec.class.as_deref().map_or_else(
            || Ok(Class::default()),
            |text| text.parse().map_err(|_| format!("class is interactive or bulk, not {text:?}")),
        )?,
        replay: spec.replay,
        probe: spec.probe_ms.map(Duration::from_millis),
    })
}

fn siblings(
    slices: &[&ObservedSlice],
    port: u16,
    location: &NodeLocation,
) -> BTreeMap<NodeName, Vec<SocketAddr>> {
    let mut all: BTreeMap<NodeName, Vec<SocketAddr>> = BTreeMap::new();
    // One that is not ready may still be reached, and one that starts must be found.
    for endpoint in slices.iter().flat_map(|s| &s.endpoints) {
        let Some(Ok(node)) = endpoint.node.as_deref().map(str::parse::<NodeName>) else { continue };
        if node != location.node {
            all.entry(node).or_default().push(SocketAddr::new(endpoint.address, port));
        }
    }
    all
}

/// Returns pods by address. A terminating pod has no claim to an address that another pod has: it
/// was passed on. An address that two other pods claim belongs to nobody until one of them is gone:
/// a connection from it waits, and is refused rather than attributed to the wrong pod.
fn workloads(observed: &ObservedCluster) -> HashMap<IpAddr, Workload> {
    let mut all: HashMap<IpAddr, (bool, Option<Workload>)> = HashMap::new();
    for pod in observed.pods.values() {
        let workload = match (pod.namespace.parse(), pod.service_account.parse()) {
            (Ok(namespace), Ok(service_account)) => Workload { namespace, service_account },
            _ => continue,
        };
        let claim = (pod.ending, Some(workload));
        for address in &pod.addresses {
            let known = all.entry(*address).or_insert_with(|| claim.clone());
            if (known.0, pod.ending) == (true, false) {
                known.clone_from(&claim);
            } else if known.0 == pod.ending && known.1 != claim.1 {
                known.1 = None;
            }
        }
    }
    all.into_iter().filter_map(|(address, (_, workload))| Some((address, workload?))).collect()
}

fn seeds(
    observed: &ObservedCluster,
    linked: &BTreeSet<&ClusterName>,
) -> BTreeMap<ClusterName, Vec<SocketAddr>> {
    let one = |(cluster, addresses): (&String, &Vec<String>)| {
        let cluster: ClusterName = cluster.parse().ok()?;
        let addresses = addresses.iter().filter_map(|a| a.parse().ok()).collect();
        linked.contains(&cluster).then_some((cluster, addresses))
    };
    observed.links.iter().filter_map(one).collect()
}

fn workload_pattern(workloads: &Workloads) -> Result<WorkloadPattern, String> {
    workloads.try_into().map_err(|error: NameError| error.to_string())
}

fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| e.to_string())
}

#[cfg(test)]
mod tests;
