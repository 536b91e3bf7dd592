//! From what the process knows to the status document, as a pure function.
//!
//! For each import and export it finds the *first* thing that is wrong, in the order in which a stream
//! would meet it, so that what an operator repairs is the cause and not its last echo.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use adit_core::code::Code;
use adit_core::fault::{BackendFault, NETWORK_POLICY_HINT};
use adit_core::name::ServiceName;
use adit_core::policy::{Target, WorkloadPattern};
use adit_core::snapshot::{self, Snapshot};
use adit_core::text::first_of;
use adit_core::wire::report::RefusalSeries;

use super::services::{Backend, BackendState, Export, ExportPort, Grant, Import, ImportPort};
use super::{
    ActiveSource, DenyEntryStatus, Link, LinkHealth, NodeStatus, PeerNode, Reason, RefusedFlows,
    StatusDocument, StreamCounts, StreamSummary, problems,
};

/// The facts that the document is made from, of one moment.
#[derive(Debug)]
pub struct StatusInputs<'a> {
    /// About itself.
    pub node: NodeStatus,
    /// The snapshot in force.
    pub snapshot: &'a Snapshot,
    /// About its links, as the transport sees them.
    pub links: Vec<Link>,
    /// About the other nodes of this cluster.
    pub siblings: Vec<PeerNode>,
    /// Whom it refuses.
    pub denied: Vec<DenyEntryStatus>,
    /// Import addresses that could not be bound, and why.
    pub not_listening: &'a BTreeMap<SocketAddr, String>,
    /// About traffic, as the data path counted it.
    pub traffic: Traffic,
}

/// The data path's counts.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Per imported port.
    pub outbound: BTreeMap<Target, StreamCounts>,
    /// Per exported port.
    pub inbound: BTreeMap<Target, StreamCounts>,
    /// The sources that use each export now.
    pub using: BTreeMap<ServiceName, Vec<ActiveSource>>,
    /// The result of the last dial of each backend.
    pub dials: BTreeMap<SocketAddr, Reason>,
    /// Ended streams by code.
    pub streams: StreamSummary,
    /// Those that were refused of late, and how many more there were.
    pub refusals: (Vec<RefusalSeries>, u64),
}

/// The document.
#[must_use]
pub fn build_status(facts: StatusInputs<'_>) -> StatusDocument {
    let StatusInputs { node, snapshot, links, siblings, denied, not_listening, mut traffic } =
        facts;
    let imports: Vec<Import> = snapshot
        .imports
        .iter()
        .map(|i| import(i, snapshot, &links, not_listening, &traffic))
        .collect();
    let exports = snapshot.exports.values().map(|e| export(e, snapshot, &mut traffic)).collect();
    let imports = mark_denied(imports, &denied);
    let (streams, (refusals, mut refused_others)) = (traffic.streams, traffic.refusals);
    let (told, untold) = refusals.split_at(refusals.len().min(RefusedFlows::MAX));
    refused_others += untold.iter().map(|series| series.count).sum::<u64>();
    let mut status = StatusDocument {
        node,
        links,
        siblings,
        denied,
        imports,
        exports,
        refused: told.iter().map(RefusedFlows::from).collect(),
        refused_others,
        streams,
        problems: Vec::new(),
    };
    status.problems = problems::find_problems(&status);
    status
}

/// Nothing is imported from a cluster that is denied; that comes before all else that may be wrong.
fn mark_denied(mut imports: Vec<Import>, denied: &[DenyEntryStatus]) -> Vec<Import> {
    for import in &mut imports {
        let whole = format!("denied.clusters: {}", import.from);
        if denied.iter().any(|entry| entry.entry == whole) {
            let sentence = format!("cluster {} is denied by configuration", import.from);
            for port in &mut import.ports {
                port.ready = false;
                port.reason = Some(Reason::new(Code::DeniedIdentity, sentence.clone()));
            }
        }
    }
    imports
}

fn import(
    import: &snapshot::Import,
    snapshot: &Snapshot,
    links: &[Link],
    not_listening: &BTreeMap<SocketAddr, String>,
    traffic: &Traffic,
) -> Import {
    let port = |p: &snapshot::ImportPort| {
        let reason = import_reason(import, p, snapshot, links, not_listening);
        let target = Target { service: import.service.clone(), port: p.name.clone() };
        ImportPort {
            name: p.name.to_string(),
            port: p.number,
            listen: strings(&p.listen),
            ready: reason.is_none(),
            reason,
            backends: ready_backends(import, p, snapshot).unwrap_or_default(),
            streams: traffic.outbound.get(&target).cloned().unwrap_or_default(),
        }
    };
    Import {
        service: import.service.to_string(),
        from: import.from.to_string(),
        allow: strings(&import.allow),
        ports: import.ports.iter().map(port).collect(),
    }
}

/// The ready backends of a port by node, as far as their nodes are announced.
fn ready_backends(
    import: &snapshot::Import,
    port: &snapshot::ImportPort,
    snapshot: &Snapshot,
) -> Option<BTreeMap<String, u32>> {
    let view = snapshot.views.get(&import.from)?;
    let export = view.exports.get(&import.service)?;
    let peer = export.ports.iter().find(|p| p.name == port.name)?;
    let ready = peer.ready.iter().filter(|(node, _)| view.nodes.contains_key(node));
    Some(ready.map(|(node, count)| (node.to_string(), *count)).collect())
}

/// The names of a list that a sentence has room for: a peer's lists are long.
const NAMED_OF_LIST: usize = 5;

/// The first thing that would stop a connection made now.
fn import_reason(
    import: &snapshot::Import,
    port: &snapshot::ImportPort,
    snapshot: &Snapshot,
    links: &[Link],
    not_listening: &BTreeMap<SocketAddr, String>,
) -> Option<Reason> {
    let from = &import.from;
    if let Some((address, why)) = port.listen.iter().find_map(|a| not_listening.get_key_value(a)) {
        return Some(Reason::new(Code::LocalError, format!("cannot listen on {address}: {why}")));
    }
    if let Some(by) = &import.displaced_by {
        let sentence = format!("{by} serves in its place here, and nobody is led to {from}");
        return Some(Reason::new(Code::ImportUnknown, sentence));
    }
    let link = links.iter().find(|l| l.cluster == from.as_str());
    if let Some(link) = link.filter(|l| l.state == LinkHealth::Down) {
        let why = link.reason.as_ref().map_or("", |r| &r.sentence);
        return Some(Reason::new(Code::LinkDown, format!("the link with {from} is down: {why}")));
    }
    let Some(view) = snapshot.views.get(from) else {
        return Some(Reason::new(
            Code::LinkDown,
            format!("nothing is known of cluster {from} yet"),
        ));
    };
    let Some(export) = view.exports.get(&import.service) else {
        let sentence =
            format!("{from} does not export {} to {}", import.service, snapshot.local.cluster);
        return Some(Reason::new(Code::ExportUnknown, sentence));
    };
    let Some(peer) = export.ports.iter().find(|p| p.name == port.name) else {
        let names = export.ports.iter().map(|p| format!("{:?}", p.name.as_str()));
        let sentence = format!(
            "the export in {from} has no port named {:?}; it has {}",
            port.name.as_str(),
            first_of(names, NAMED_OF_LIST, ", ")
        );
        return Some(Reason::new(Code::PortUnknown, sentence));
    };
    if !import.allow.iter().any(|here| export.grants.iter().any(|there| here.overlaps(there))) {
        let sentence = format!(
            "nobody may use it: the import allows {} and the export in {from} grants {}",
            list(&import.allow),
            list(&export.grants)
        );
        return Some(Reason::new(Code::Denied, sentence));
    }
    if !view.is_port_ready(peer) && export.hold.is_none() {
        let sentence = peer.unready_sentence(&import.service, from);
        return Some(Reason::new(peer.why_unready(), sentence));
    }
    None
}

fn export(export: &snapshot::Export, snapshot: &Snapshot, traffic: &mut Traffic) -> Export {
    let mut using = traffic.using.remove(&export.service).unwrap_or_default();
    using.sort_by(|a, b| b.streams.cmp(&a.streams).then_with(|| a.source.cmp(&b.source)));
    using.truncate(Export::MAX_USING);
    let grant = |g: &adit_core::policy::Grant| Grant {
        cluster: g.cluster.to_string(),
        namespace: g.workloads.namespace.to_string(),
        service_account: g.workloads.service_account.to_string(),
    };
    Export {
        service: export.service.to_string(),
        ports: export.ports.iter().map(|p| export_port(export, p, snapshot, traffic)).collect(),
        allow: export.allow.iter().map(grant).collect(),
        hop: match export.hop {
            snapshot::Hop::Any => "any".into(),
            snapshot::Hop::SameNode => "sameNode".into(),
        },
        class: export.class.name().into(),
        replay: export.replay,
        hold_seconds: export.hold.map(|hold| hold.timeout.as_secs()),
        using,
    }
}

fn export_port(
    export: &snapshot::Export,
    port: &snapshot::ExportPort,
    snapshot: &Snapshot,
    traffic: &Traffic,
) -> ExportPort {
    let backends: Vec<Backend> = port
        .backends
        .iter()
        .map(|b| Backend {
            address: b.address.to_string(),
            node: b.node.to_string(),
            state: match (snapshot.may_dial(b), snapshot.down.contains_key(&b.address)) {
                (false, _) => BackendState::Forbidden,
                (true, true) => BackendState::Down,
                (true, false) => BackendState::Up,
            },
            last_dial: traffic.dials.get(&b.address).cloned(),
        })
        .collect();
    let reason = export_reason(export, port, &backends, snapshot);
    let target = Target { service: export.service.clone(), port: port.name.clone() };
    ExportPort {
        name: port.name.to_string(),
        port: port.number,
        app_protocol: port.app_protocol.as_ref().map(ToString::to_string),
        ready: reason.is_none(),
        reason,
        backends,
        streams: traffic.inbound.get(&target).cloned().unwrap_or_default(),
    }
}

/// The first thing that would stop a stream that comes now, wherever it enters the cluster.
fn export_reason(
    export: &snapshot::Export,
    port: &snapshot::ExportPort,
    backends: &[Backend],
    snapshot: &Snapshot,
) -> Option<Reason> {
    if export.allow.is_empty() {
        return Some(Reason::new(Code::Denied, "nobody may use it: it has no allow"));
    }
    if backends.is_empty() && port.has_foreign {
        let sentence = format!("it has no backend: {}", BackendFault::Foreign.description());
        return Some(Reason::new(Code::BackendForeign, sentence));
    }
    if backends.is_empty() {
        // Streams wait for one: so it is meant.
        let is_meant = export.hold.is_some();
        return (!is_meant).then(|| Reason::new(Code::NoBackend, "it has no backend"));
    }
    let states: BTreeSet<&str> = backends.iter().map(|b| b.address.as_str()).collect();
    if backends.iter().all(|b| b.state == BackendState::Forbidden) {
        let all = states.into_iter().collect::<Vec<_>>().join(", ");
        let sentence = format!("no backend has an address that may be dialled: {all}");
        return Some(Reason::new(Code::BackendForbidden, sentence));
    }
    if backends.iter().all(|b| b.state != BackendState::Up) {
        let down = backends.iter().filter(|b| b.state == BackendState::Down);
        let Some(last) = down.into_iter().find_map(|b| b.last_dial.as_ref()) else {
            return Some(Reason::new(Code::NoBackend, "no backend answers"));
        };
        let mut sentence = format!("no backend answers: {}", last.sentence);
        // What is written into a file is ready because somebody says so.
        let is_pod = port.backends.iter().any(|backend| !backend.explicit);
        if last.code == Code::BackendTimeout.name() && is_pod {
            sentence += &format!("; {NETWORK_POLICY_HINT}");
        }
        return Some(Reason { code: last.code.clone(), sentence });
    }
    let here = snapshot.local.node.as_str();
    let elsewhere = backends.iter().all(|b| b.state != BackendState::Up || b.node != here);
    if export.hop == snapshot::Hop::SameNode && elsewhere && snapshot.siblings.is_empty() {
        let sentence = format!("hop is sameNode and no backend runs on {here}, the only node");
        return Some(Reason::new(Code::HopRefused, sentence));
    }
    None
}

fn strings<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

fn list(patterns: &[WorkloadPattern]) -> String {
    if patterns.is_empty() {
        return "nobody".into();
    }
    first_of(patterns, NAMED_OF_LIST, ", ")
}

#[cfg(test)]
mod tests;
