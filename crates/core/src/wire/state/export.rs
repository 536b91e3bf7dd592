//! The codec of one export, and what bounds it.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::super::tlv::{TlvReader, TlvValue, TlvWriter, WireError};
use super::{MAX_MESSAGE_LEN, MAX_NODES, memory_size};
use crate::code::Code;
use crate::fault::BackendFault;
use crate::grant::{Pattern, WorkloadPattern};
use crate::name::{NameError, NodeName, PortName, ServiceName};
use crate::snapshot::{Class, HoldLimits, Hop, PeerExport, PeerPort};

/// The most ports of one export.
pub const MAX_PORTS: usize = 100;
/// The most grants of an export to one cluster.
pub const MAX_GRANTS: usize = 500;

const SAME_NODE: u64 = 1;
const BULK: u64 = 2;
const REPLAY: u64 = 4;

pub(super) fn write_export(fields: &mut TlvWriter, service: &ServiceName, export: &PeerExport) {
    let flags = [
        (export.hop == Hop::SameNode, SAME_NODE),
        (export.class == Class::Bulk, BULK),
        (export.replay, REPLAY),
    ];
    let flags = flags.into_iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum();
    fields.text(1, &service.to_string());
    fields.list(3, export.ports.iter().map(write_port));
    fields.list(5, export.grants.iter().map(write_grant));
    if flags != 0 {
        fields.integer(6, flags);
    }
    // A reader that does not know it sends nothing while no backend is ready.
    if let Some(hold) = export.hold {
        fields.integer(8, hold.as_secs());
    }
}

fn write_port(port: &PeerPort) -> BytesMut {
    let mut fields = TlvWriter::default();
    if !port.name.as_str().is_empty() {
        fields.text(1, port.name.as_str());
    }
    fields.integer(3, u64::from(port.number));
    if let Some(protocol) = &port.app_protocol {
        fields.text(4, protocol.as_str());
    }
    let count = |(node, count): (&NodeName, &u32)| {
        TlvWriter::default().text(1, node.as_str()).integer(3, u64::from(*count)).finish()
    };
    fields.list(5, port.ready.iter().map(count));
    // With a ready backend it would mean nothing.
    if let Some(fault) = port.fault.filter(|_| port.ready.values().all(|count| *count == 0)) {
        fields.integer(6, fault.code().number());
    }
    fields.finish()
}

fn write_grant(grant: &WorkloadPattern) -> BytesMut {
    let mut fields = TlvWriter::default();
    if let Pattern::Exact(namespace) = &grant.namespace {
        fields.text(1, namespace.as_str());
    }
    if let Pattern::Exact(account) = &grant.service_account {
        fields.text(3, account.as_str());
    }
    fields.finish()
}

pub(super) fn read_export(body: &[u8]) -> Result<(ServiceName, Arc<PeerExport>), WireError> {
    let (mut service, mut ports, mut grants, mut flags, mut hold) = (None, None, None, 0, 0);
    let mut fields = TlvReader::new(body);
    while let Some((kind, value)) = fields.next()? {
        match kind {
            1 => service = Some(value.name("service")?),
            3 => ports = Some(value.list(MAX_PORTS, "ports", read_port)?),
            5 => grants = Some(value.list(MAX_GRANTS, "grants", read_grant)?),
            6 => flags = value.integer("flags")?,
            8 => hold = value.integer("hold")?,
            other => TlvReader::skip_unknown(other)?,
        }
    }
    let ports = ports.ok_or(WireError::Missing("ports"))?;
    if has_duplicate_ports(&ports) {
        return Err(WireError::Repeated("ports"));
    }
    let mut grants = grants.ok_or(WireError::Missing("grants"))?;
    dedup_grants(&mut grants);
    let export = PeerExport {
        grants,
        hop: if flags & SAME_NODE != 0 { Hop::SameNode } else { Hop::Any },
        class: if flags & BULK != 0 { Class::Bulk } else { Class::Interactive },
        replay: flags & REPLAY != 0,
        // Callers here wait for as long, so no peer says how long without a bound.
        hold: (hold > 0).then(|| Duration::from_secs(hold).min(HoldLimits::MAX_TIMEOUT)),
        ports,
    };
    Ok((service.ok_or(WireError::Missing("service"))?, Arc::new(export)))
}

/// Removes repeated grants. A grant that comes again grants nothing more, and would be the cheapest way to
/// fill a reader's memory.
pub(crate) fn dedup_grants(grants: &mut Vec<WorkloadPattern>) {
    let mut seen = BTreeSet::new();
    let again: Vec<bool> = grants.iter().map(|grant| !seen.insert(grant)).collect();
    let mut again = again.into_iter();
    grants.retain(|_| !again.next().unwrap_or_default());
    grants.shrink_to_fit();
}

fn has_duplicate_ports(ports: &[PeerPort]) -> bool {
    let before = |(n, p): (usize, &PeerPort)| ports[..n].iter().any(|q| q.name == p.name);
    ports.iter().enumerate().any(before)
}

/// The reason why a reader would refuse an export that has valid names; `None` if it accepts it.
pub(crate) fn export_error(export: &PeerExport, service: &ServiceName) -> Option<WireError> {
    let PeerExport { ports, grants, .. } = export;
    if ports.len() > MAX_PORTS {
        return Some(WireError::TooMany("ports", MAX_PORTS));
    }
    if grants.len() > MAX_GRANTS {
        return Some(WireError::TooMany("grants", MAX_GRANTS));
    }
    if ports.iter().any(|port| port.ready.len() > MAX_NODES) {
        return Some(WireError::TooMany("nodes with a ready backend", MAX_NODES));
    }
    if ports.iter().any(|port| port.number == 0) {
        return Some(WireError::Invalid("port number"));
    }
    if has_duplicate_ports(ports) {
        return Some(WireError::Repeated("ports"));
    }
    // On the wire it takes less than in memory, which is counted faster.
    if memory_size::export(service, export) <= MAX_MESSAGE_LEN {
        return None;
    }
    let mut fields = TlvWriter::default();
    write_export(&mut fields, service, export);
    (fields.finish().len() > MAX_MESSAGE_LEN).then_some(WireError::TooLong(MAX_MESSAGE_LEN))
}

fn read_port(value: TlvValue<'_>) -> Result<PeerPort, WireError> {
    let (mut name, mut number, mut app_protocol, mut ready) = (None, None, None, None);
    let mut fault = None;
    let mut fields = TlvReader::new(value.0);
    while let Some((kind, value)) = fields.next()? {
        match kind {
            1 => name = Some(value.name::<PortName>("port")?),
            3 => number = u16::try_from(value.integer("port number")?).ok(),
            4 => app_protocol = Some(value.name("appProtocol")?),
            5 => ready = Some(value.list(MAX_NODES, "nodes with a ready backend", read_count)?),
            // Of a later version's code for it only that there is none is understood.
            6 => fault = BackendFault::from_code(Code::from_number(value.integer("fault")?)),
            other => TlvReader::skip_unknown(other)?,
        }
    }
    let unnamed = || "".parse().map_err(|_| WireError::Invalid("port"));
    let counts = ready.ok_or(WireError::Missing("ready"))?;
    Ok(PeerPort {
        name: name.map_or_else(unnamed, Ok)?,
        number: number.filter(|n| *n != 0).ok_or(WireError::Invalid("port number"))?,
        app_protocol,
        fault: fault.filter(|_| counts.iter().all(|(_, count)| *count == 0)),
        ready: counts.into_iter().collect(),
    })
}

fn read_count(value: TlvValue<'_>) -> Result<(NodeName, u32), WireError> {
    let (mut node, mut count) = (None, None);
    let mut fields = TlvReader::new(value.0);
    while let Some((kind, value)) = fields.next()? {
        match kind {
            1 => node = Some(value.name("node")?),
            3 => count = u32::try_from(value.integer("count")?).ok(),
            other => TlvReader::skip_unknown(other)?,
        }
    }
    node.zip(count).ok_or(WireError::Invalid("ready"))
}

fn read_grant(value: TlvValue<'_>) -> Result<WorkloadPattern, WireError> {
    let (mut namespace, mut service_account) = (Pattern::Any, Pattern::Any);
    let mut fields = TlvReader::new(value.0);
    while let Some((kind, value)) = fields.next()? {
        match kind {
            1 => namespace = read_exact_name(value, "namespace")?,
            3 => service_account = read_exact_name(value, "service account")?,
            other => TlvReader::skip_unknown(other)?,
        }
    }
    Ok(WorkloadPattern { namespace, service_account })
}

/// A name, and not the `*` that a pattern's own text form would allow: "any" is encoded by absence.
fn read_exact_name<T>(value: TlvValue<'_>, what: &'static str) -> Result<Pattern<T>, WireError>
where
    T: FromStr<Err = NameError>,
{
    value.name(what).map(Pattern::Exact)
}
