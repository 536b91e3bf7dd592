//! From what a node has seen to what its data path understands: a function of its arguments.
//!
//! An object that makes no sense is left out and named; it never takes the others with it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use adit_config::cluster::{ClusterConfig, Mode, Network};
use adit_core::name::{ClusterName, NodeName};
use adit_core::policy::{Grant, WorkloadPattern};
use adit_core::snapshot::{Backend, Class, Export, ExportPort, Hop, Import, ImportPort};
use adit_core::spiffe::Workload;

use super::Place;
use super::observed::{Endpoint, Observed, Slice};
use crate::api::{ExportSpec, ImportSpec, NAMESPACE, NODE, ServiceRef, Workloads};

/// What the cluster adds to a node's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeState {
    /// The other nodes, and where each can be dialled.
    pub siblings: BTreeMap<NodeName, Vec<SocketAddr>>,
    /// What is imported.
    pub imports: Vec<Import>,
    /// What is exported, with its backends.
    pub exports: Vec<Export>,
    /// This node's pods by address.
    pub workloads: HashMap<IpAddr, Workload>,
    /// Where linked clusters' nodes were last heard to be.
    pub seeds: BTreeMap<ClusterName, Vec<SocketAddr>>,
    /// Addresses that are nobody's backend: the API server's.
    pub forbidden: BTreeSet<IpAddr>,
    /// What was left out, and why.
    pub problems: Vec<String>,
}

/// The state of the node at `place`.
#[must_use]
pub fn state(seen: &Observed, config: &ClusterConfig, place: &Place) -> NodeState {
    let mut problems = Vec::new();
    let linked: BTreeSet<&ClusterName> = config.links.iter().map(|l| &l.cluster).collect();
    let mut slices: BTreeMap<&ServiceRef, Vec<&Slice>> = BTreeMap::new();
    for slice in seen.slices.values() {
        slices.entry(&slice.service).or_default().push(slice);
    }
    let of = |namespace: &str, name: &str| {
        let service = ServiceRef { namespace: namespace.into(), name: name.into() };
        slices.get(&service).into_iter().flatten().copied().collect::<Vec<_>>()
    };
    let own = of(NAMESPACE, NODE);
    let nodes: BTreeSet<IpAddr> =
        own.iter().flat_map(|s| &s.endpoints).map(|e| e.address).collect();
    let may_serve = |endpoint: &Endpoint, spec: &ExportSpec| {
        let ours = nodes.contains(&endpoint.address) || in_range(endpoint.address, &config.network);
        !ours && (endpoint.pod || spec.any_endpoint)
    };
    let mut tell = |kind: &str, name: &str, problem: String| {
        problems.push(format!("{kind} {name} is left out: {problem}"));
    };
    let mut imports = Vec::new();
    for (name, spec) in &seen.imports {
        match import(spec, config.network.mode, place, &linked) {
            Ok(import) => imports.extend(import),
            Err(problem) => tell("import", name, problem),
        }
    }
    let mut exports = Vec::new();
    for (name, spec) in &seen.exports {
        let behind = of(&spec.service.namespace, &spec.service.name);
        let serving = |e: &Endpoint| may_serve(e, spec);
        match export(spec, &behind, &serving, place, &linked) {
            Ok(export) => exports.push(export),
            Err(problem) => tell("export", name, problem),
        }
    }
    let api_server = of("default", "kubernetes");
    NodeState {
        siblings: siblings(&own, config.network.port, place),
        imports,
        exports,
        workloads: workloads(seen),
        seeds: seeds(seen, &linked),
        forbidden: api_server.iter().flat_map(|s| &s.endpoints).map(|e| e.address).collect(),
        problems,
    }
}

/// An import of a linked cluster; none where it was given up.
fn import(
    spec: &ImportSpec,
    mode: Mode,
    place: &Place,
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
        // One that has no address yet is found nowhere.
        Mode::LocalRange => &given,
        // It is found at the node's, by its ports alone.
        Mode::NodeAddress => &place.addresses,
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
    }))
}

fn export(
    spec: &ExportSpec,
    slices: &[&Slice],
    may_serve: &impl Fn(&Endpoint) -> bool,
    place: &Place,
    linked: &BTreeSet<&ClusterName>,
) -> Result<Export, String> {
    let port = |p: &crate::api::ExportPort| {
        Ok::<_, String>(ExportPort {
            name: parse(&p.name)?,
            number: p.number,
            app_protocol: p.app_protocol.as_deref().map(parse).transpose()?,
            backends: backends(&p.name, slices, may_serve, place),
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
    Ok(Export {
        service: spec.service.parse().map_err(|e| e.to_string())?,
        ports: spec.ports.iter().map(port).collect::<Result<_, _>>()?,
        allow,
        hop: match spec.hop.as_deref() {
            None | Some("any") => Hop::Any,
            Some("sameNode") => Hop::SameNode,
            Some(other) => return Err(format!("hop is any or sameNode, not {other:?}")),
        },
        class: match spec.class.as_deref() {
            None | Some("interactive") => Class::Interactive,
            Some("bulk") => Class::Bulk,
            Some(other) => return Err(format!("class is interactive or bulk, not {other:?}")),
        },
        replay: spec.replay,
        probe: spec.probe_ms.map(Duration::from_millis),
    })
}

/// Whether an address stands for imports: as a backend it would be a loop.
fn in_range(address: IpAddr, network: &Network) -> bool {
    match address {
        IpAddr::V4(ip) => {
            let (range, prefix) = network.range;
            (ip.to_bits() ^ range.to_bits()).leading_zeros() >= u32::from(prefix)
        }
        IpAddr::V6(ip) => {
            let (range, prefix) = network.range6;
            (ip.to_bits() ^ range.to_bits()).leading_zeros() >= u32::from(prefix)
        }
    }
}

/// The ready endpoints of one port. One that is no pod runs on no node: whoever takes the stream dials it.
fn backends(
    port: &str,
    slices: &[&Slice],
    may_serve: &impl Fn(&Endpoint) -> bool,
    place: &Place,
) -> Vec<Backend> {
    let mut all = BTreeSet::new();
    for slice in slices {
        let numbers = slice.ports.iter().filter(|(name, _)| name == port).map(|(_, n)| *n);
        for number in numbers {
            for endpoint in slice.endpoints.iter().filter(|e| e.ready && may_serve(e)) {
                let node = endpoint.node.as_deref().and_then(|n| n.parse().ok());
                all.insert(Backend {
                    address: SocketAddr::new(endpoint.address, number),
                    node: node.unwrap_or_else(|| place.node.clone()),
                    written_out: false,
                });
            }
        }
    }
    all.into_iter().collect()
}

fn siblings(slices: &[&Slice], port: u16, place: &Place) -> BTreeMap<NodeName, Vec<SocketAddr>> {
    let mut all: BTreeMap<NodeName, Vec<SocketAddr>> = BTreeMap::new();
    // One that is not ready may still be reached, and one that starts up has to be found.
    for endpoint in slices.iter().flat_map(|s| &s.endpoints) {
        let Some(Ok(node)) = endpoint.node.as_deref().map(str::parse::<NodeName>) else { continue };
        if node != place.node {
            all.entry(node).or_default().push(SocketAddr::new(endpoint.address, port));
        }
    }
    all
}

/// Pods by address. An address that two workloads claim is nobody's until one is gone: whoever speaks from
/// it waits, and is refused before it is mistaken for the other.
fn workloads(seen: &Observed) -> HashMap<IpAddr, Workload> {
    let mut all: HashMap<IpAddr, Option<Workload>> = HashMap::new();
    for pod in seen.pods.values() {
        let workload = match (pod.namespace.parse(), pod.service_account.parse()) {
            (Ok(namespace), Ok(service_account)) => Workload { namespace, service_account },
            _ => continue,
        };
        for address in &pod.addresses {
            let known = all.entry(*address);
            let same = |w: &mut Option<Workload>| {
                if w.as_ref() != Some(&workload) {
                    *w = None;
                }
            };
            known.and_modify(same).or_insert_with(|| Some(workload.clone()));
        }
    }
    all.into_iter().filter_map(|(address, workload)| Some((address, workload?))).collect()
}

fn seeds(
    seen: &Observed,
    linked: &BTreeSet<&ClusterName>,
) -> BTreeMap<ClusterName, Vec<SocketAddr>> {
    let one = |(cluster, addresses): (&String, &Vec<String>)| {
        let cluster: ClusterName = cluster.parse().ok()?;
        let addresses = addresses.iter().filter_map(|a| a.parse().ok()).collect();
        linked.contains(&cluster).then_some((cluster, addresses))
    };
    seen.links.iter().filter_map(one).collect()
}

fn workload_pattern(w: &Workloads) -> Result<WorkloadPattern, String> {
    Ok(WorkloadPattern {
        namespace: parse(&w.namespace)?,
        service_account: parse(&w.service_account)?,
    })
}

fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| e.to_string())
}

#[cfg(test)]
mod tests;
