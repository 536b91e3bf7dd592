//! The codec of the state stream's messages.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use bytes::BytesMut;

use super::super::tlv::{
    Reader, Value, WireError, Writer, address, get_run, get_varint, put_run, put_varint,
    read_address,
};
use super::{LIMIT, MAX_NODES};
use crate::name::{ClusterName, NameError, NodeName, PortName, ServiceName};
use crate::policy::{Pattern, WorkloadPattern};
use crate::snapshot::{Class, Hop, PeerExport, PeerPort, View};

const SUBSCRIBE: u64 = 1;
const BEGIN: u64 = 3;
const NODE: u64 = 5;
const EXPORT: u64 = 7;
const NODE_GONE: u64 = 9;
const EXPORT_GONE: u64 = 11;
const MARK: u64 = 13;

/// The most ports of one export.
pub const MAX_PORTS: usize = 100;
/// The most grants of an export to one cluster.
pub const MAX_GRANTS: usize = 500;

const SAME_NODE: u64 = 1;
const BULK: u64 = 2;
const REPLAY: u64 = 4;

/// Asks for a cluster's view from where the subscriber left off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Whose view: the peer's own cluster, or, asked of a sibling hub, a cluster that it is linked with.
    pub cluster: ClusterName,
    /// The epoch and sequence that the subscriber has, if any.
    pub have: Option<(u64, u64)>,
}

/// A message of the state stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The subscriber's only message.
    Subscribe(Subscribe),
    /// What follows belongs to `epoch`; where it `replaces`, it is the whole view.
    Begin {
        /// Random for each publisher; sequences of two epochs have nothing to do with each other.
        epoch: u64,
        /// Whether what was known before is to be forgotten.
        replaces: bool,
    },
    /// A node and where it can be dialled.
    Node(NodeName, Vec<SocketAddr>),
    /// A node that is no more.
    NodeGone(NodeName),
    /// An export as it is now.
    Export(ServiceName, Arc<PeerExport>),
    /// An export that is no more.
    ExportGone(ServiceName),
    /// All up to here is one consistent view.
    Mark {
        /// Its number.
        sequence: u64,
        /// How long ago it was known to be true, in milliseconds.
        age_ms: u64,
        /// Whether who tells it has no connection with that cluster now.
        lost: bool,
    },
}

impl Message {
    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut fields = Writer::default();
        let kind = match self {
            Self::Subscribe(Subscribe { cluster, have }) => {
                fields.text(1, cluster.as_str());
                if let Some((epoch, sequence)) = have {
                    fields.integer(2, *epoch).integer(4, *sequence);
                }
                SUBSCRIBE
            }
            Self::Begin { epoch, replaces } => {
                fields.integer(1, *epoch).integer(3, u64::from(*replaces));
                BEGIN
            }
            Self::Node(name, addresses) => {
                let some = addresses.iter().take(View::MAX_ADDRESSES);
                fields.text(1, name.as_str()).list(3, some.map(address));
                NODE
            }
            Self::NodeGone(name) => {
                fields.text(1, name.as_str());
                NODE_GONE
            }
            Self::Export(service, export) => {
                write_export(&mut fields, service, export);
                EXPORT
            }
            Self::ExportGone(service) => {
                fields.text(1, &service.to_string());
                EXPORT_GONE
            }
            Self::Mark { sequence, age_ms, lost } => {
                fields.integer(1, *sequence);
                if *lost {
                    fields.integer(2, 1);
                }
                fields.integer(3, *age_ms);
                MARK
            }
        };
        put_varint(out, kind);
        put_run(out, &fields.take());
    }

    /// How many bytes it takes on the wire.
    #[must_use]
    pub fn length(&self) -> usize {
        let mut bytes = BytesMut::new();
        self.encode(&mut bytes);
        bytes.len()
    }

    /// Whether a reader takes the message: none of its lists is too long, nor is it as a whole.
    #[must_use]
    pub fn fits(&self) -> bool {
        let mut bytes = BytesMut::new();
        self.encode(&mut bytes);
        Self::decode(&bytes).is_ok()
    }

    /// Reads a message off the front of `input`, and says how many bytes it took; none while more bytes
    /// are needed. The message is none where it is one to be skipped.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(input: &[u8]) -> Result<Option<(Option<Self>, usize)>, WireError> {
        let mut rest = input;
        let Some(kind) = get_varint(&mut rest)? else { return Ok(None) };
        let Some(body) = get_run(&mut rest, LIMIT)? else { return Ok(None) };
        let message = match kind {
            SUBSCRIBE => Some(Self::read_subscribe(body)?),
            BEGIN => {
                let [epoch, replaces] = two_integers(body, "begin")?;
                let replaces = match replaces {
                    0 => false,
                    1 => true,
                    _ => return Err(WireError::Invalid("begin")),
                };
                Some(Self::Begin { epoch, replaces })
            }
            NODE => Some(Self::read_node(body)?),
            NODE_GONE => Some(Self::NodeGone(one_name(body, "node")?)),
            EXPORT => Some(read_export(body)?),
            EXPORT_GONE => Some(Self::ExportGone(one_name(body, "service")?)),
            MARK => Some(Self::read_mark(body)?),
            other => {
                Reader::unknown(other)?;
                None
            }
        };
        Ok(Some((message, input.len() - rest.len())))
    }

    fn read_subscribe(body: &[u8]) -> Result<Self, WireError> {
        let (mut cluster, mut epoch, mut sequence) = (None, None, None);
        let mut fields = Reader::new(body);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                1 => cluster = Some(value.name("cluster")?),
                2 => epoch = Some(value.integer("epoch")?),
                4 => sequence = Some(value.integer("sequence")?),
                other => Reader::unknown(other)?,
            }
        }
        let cluster = cluster.ok_or(WireError::Missing("cluster"))?;
        Ok(Self::Subscribe(Subscribe { cluster, have: epoch.zip(sequence) }))
    }

    fn read_mark(body: &[u8]) -> Result<Self, WireError> {
        let (mut sequence, mut age_ms, mut lost) = (None, None, false);
        let mut fields = Reader::new(body);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                1 => sequence = Some(value.integer("mark")?),
                2 => lost = value.integer("mark")? != 0,
                3 => age_ms = Some(value.integer("mark")?),
                other => Reader::unknown(other)?,
            }
        }
        let both = sequence.zip(age_ms).ok_or(WireError::Missing("mark"))?;
        Ok(Self::Mark { sequence: both.0, age_ms: both.1, lost })
    }

    fn read_node(body: &[u8]) -> Result<Self, WireError> {
        let (mut name, mut addresses) = (None, None);
        let mut fields = Reader::new(body);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                1 => name = Some(value.name("node")?),
                3 => {
                    let list = value.list(View::MAX_ADDRESSES, "addresses", read_address)?;
                    addresses = Some(list);
                }
                other => Reader::unknown(other)?,
            }
        }
        let name = name.ok_or(WireError::Missing("node"))?;
        Ok(Self::Node(name, addresses.ok_or(WireError::Missing("addresses"))?))
    }
}

fn two_integers(body: &[u8], what: &'static str) -> Result<[u64; 2], WireError> {
    let (mut first, mut second) = (None, None);
    let mut fields = Reader::new(body);
    while let Some((kind, value)) = fields.next()? {
        match kind {
            1 => first = Some(value.integer(what)?),
            3 => second = Some(value.integer(what)?),
            other => Reader::unknown(other)?,
        }
    }
    first.zip(second).map(|(a, b)| [a, b]).ok_or(WireError::Missing(what))
}

fn one_name<T: FromStr>(body: &[u8], what: &'static str) -> Result<T, WireError> {
    let mut name = None;
    let mut fields = Reader::new(body);
    while let Some((kind, value)) = fields.next()? {
        match kind {
            1 => name = Some(value.name(what)?),
            other => Reader::unknown(other)?,
        }
    }
    name.ok_or(WireError::Missing(what))
}

fn write_export(fields: &mut Writer, service: &ServiceName, export: &PeerExport) {
    let flags = [
        (export.hop == Hop::SameNode, SAME_NODE),
        (export.class == Class::Bulk, BULK),
        (export.replay, REPLAY),
    ];
    let flags = flags.into_iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum();
    fields.text(1, &service.to_string());
    fields.list(3, export.ports.iter().map(port));
    fields.list(5, export.grants.iter().map(grant));
    if flags != 0 {
        fields.integer(6, flags);
    }
}

fn port(port: &PeerPort) -> BytesMut {
    let mut fields = Writer::default();
    if !port.name.as_str().is_empty() {
        fields.text(1, port.name.as_str());
    }
    fields.integer(3, u64::from(port.number));
    if let Some(protocol) = &port.app_protocol {
        fields.text(4, protocol.as_str());
    }
    let count = |(node, count): (&NodeName, &u32)| {
        Writer::default().text(1, node.as_str()).integer(3, u64::from(*count)).take()
    };
    fields.list(5, port.ready.iter().map(count)).take()
}

fn grant(grant: &WorkloadPattern) -> BytesMut {
    let mut fields = Writer::default();
    if let Pattern::Exactly(namespace) = &grant.namespace {
        fields.text(1, namespace.as_str());
    }
    if let Pattern::Exactly(account) = &grant.service_account {
        fields.text(3, account.as_str());
    }
    fields.take()
}

fn read_export(body: &[u8]) -> Result<Message, WireError> {
    let (mut service, mut ports, mut grants, mut flags) = (None, None, None, 0);
    let mut fields = Reader::new(body);
    while let Some((kind, value)) = fields.next()? {
        match kind {
            1 => service = Some(value.name("service")?),
            3 => ports = Some(value.list(MAX_PORTS, "ports", read_port)?),
            5 => grants = Some(value.list(MAX_GRANTS, "grants", read_grant)?),
            6 => flags = value.integer("flags")?,
            other => Reader::unknown(other)?,
        }
    }
    let ports = ports.ok_or(WireError::Missing("ports"))?;
    let named_twice = |(n, p): (usize, &PeerPort)| ports[..n].iter().any(|q| q.name == p.name);
    if ports.iter().enumerate().any(named_twice) {
        return Err(WireError::Invalid("ports"));
    }
    let export = PeerExport {
        grants: grants.ok_or(WireError::Missing("grants"))?,
        hop: if flags & SAME_NODE != 0 { Hop::SameNode } else { Hop::Any },
        class: if flags & BULK != 0 { Class::Bulk } else { Class::Interactive },
        replay: flags & REPLAY != 0,
        ports,
    };
    Ok(Message::Export(service.ok_or(WireError::Missing("service"))?, Arc::new(export)))
}

fn read_port(value: Value<'_>) -> Result<PeerPort, WireError> {
    let (mut name, mut number, mut app_protocol, mut ready) = (None, None, None, None);
    let mut fields = Reader::new(value.0);
    while let Some((kind, value)) = fields.next()? {
        match kind {
            1 => name = Some(value.name::<PortName>("port")?),
            3 => number = u16::try_from(value.integer("port number")?).ok(),
            4 => app_protocol = Some(value.name("appProtocol")?),
            5 => ready = Some(value.list(MAX_NODES, "ready", read_count)?),
            other => Reader::unknown(other)?,
        }
    }
    let unnamed = || "".parse().map_err(|_| WireError::Invalid("port"));
    let counts = ready.ok_or(WireError::Missing("ready"))?;
    Ok(PeerPort {
        name: name.map_or_else(unnamed, Ok)?,
        number: number.filter(|n| *n != 0).ok_or(WireError::Invalid("port number"))?,
        app_protocol,
        ready: counts.into_iter().collect::<BTreeMap<_, _>>(),
    })
}

fn read_count(value: Value<'_>) -> Result<(NodeName, u32), WireError> {
    let (mut node, mut count) = (None, None);
    let mut fields = Reader::new(value.0);
    while let Some((kind, value)) = fields.next()? {
        match kind {
            1 => node = Some(value.name("node")?),
            3 => count = u32::try_from(value.integer("count")?).ok(),
            other => Reader::unknown(other)?,
        }
    }
    node.zip(count).ok_or(WireError::Invalid("ready"))
}

fn read_grant(value: Value<'_>) -> Result<WorkloadPattern, WireError> {
    let (mut namespace, mut service_account) = (Pattern::Any, Pattern::Any);
    let mut fields = Reader::new(value.0);
    while let Some((kind, value)) = fields.next()? {
        match kind {
            1 => namespace = exactly(value, "namespace")?,
            3 => service_account = exactly(value, "service account")?,
            other => Reader::unknown(other)?,
        }
    }
    Ok(WorkloadPattern { namespace, service_account })
}

/// A name, and not the `*` that a pattern's own text form would allow: "any" is told by absence.
fn exactly<T>(value: Value<'_>, what: &'static str) -> Result<Pattern<T>, WireError>
where
    T: FromStr<Err = NameError>,
{
    value.name(what).map(Pattern::Exactly)
}
