//! The codec of the state stream's messages.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use bytes::BytesMut;

use super::super::tlv::{
    TlvReader, TlvWriter, WireError, address, get_length_prefixed, get_varint, put_length_prefixed,
    put_varint, read_address,
};
use super::MAX_MESSAGE_LEN;
pub use super::export::{MAX_GRANTS, MAX_PORTS};
use super::export::{read_export, write_export};
use super::omissions::RecordKey;
use crate::name::{ClusterName, NodeName, ServiceName};
use crate::snapshot::{ClusterView, PeerExport};

const SUBSCRIBE: u64 = 1;
const BEGIN: u64 = 3;
const NODE: u64 = 5;
const EXPORT: u64 = 7;
const NODE_GONE: u64 = 9;
const EXPORT_GONE: u64 = 11;
const MARK: u64 = 13;

/// Asks for a cluster's view from where the subscriber left off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeRequest {
    /// The cluster whose view is wanted: the peer's own, or, asked of a sibling hub, one that it is linked
    /// with.
    pub cluster: ClusterName,
    /// The epoch and sequence that the subscriber has, if any.
    pub have: Option<(u64, u64)>,
}

/// A message of the state stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateMessage {
    /// The subscriber's only message.
    Subscribe(SubscribeRequest),
    /// The start of records that belong to `epoch`; if it `replaces`, they are the whole view.
    Begin {
        /// Random for each publisher; sequences of two epochs have nothing to do with each other.
        epoch: u64,
        /// True if what was known before is to be forgotten.
        replaces: bool,
    },
    /// A node and where it can be dialled.
    Node(NodeName, Vec<SocketAddr>),
    /// A node that is gone.
    NodeGone(NodeName),
    /// An export as it is now.
    Export(ServiceName, Arc<PeerExport>),
    /// An export that is gone.
    ExportGone(ServiceName),
    /// All up to here is one consistent view.
    Mark {
        /// Its number.
        sequence: u64,
        /// Time since the view was known to be true, in milliseconds.
        age_ms: u64,
        /// True if the publisher has no connection with that cluster now.
        lost: bool,
    },
}

/// A message as a lenient reader takes it, if it is framed correctly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceivedMessage {
    /// A message.
    Message(StateMessage),
    /// A record that breaks a bound or a grammar: it is left out, and the rest is read on. The key is known
    /// if the record's name is valid.
    Invalid(Option<RecordKey>, WireError),
}

impl ReceivedMessage {
    /// Reads a message off the front of `input` as [`StateMessage::decode`] does, but is lenient with a node or
    /// an export that is wrong in itself.
    ///
    /// # Errors
    /// What is wrong with the framing, or with a message that others depend on.
    pub fn decode(input: &[u8]) -> Result<Option<(Option<Self>, usize)>, WireError> {
        let mut rest = input;
        let Some(kind) = get_varint(&mut rest)? else { return Ok(None) };
        let Some(body) = get_length_prefixed(&mut rest, MAX_MESSAGE_LEN)? else { return Ok(None) };
        let message = match (StateMessage::read(kind, body), kind) {
            (Ok(message), _) => message.map(Self::Message),
            (Err(why), NODE | NODE_GONE) => {
                Some(Self::Invalid(first_name(body).map(RecordKey::Node), why))
            }
            (Err(why), EXPORT | EXPORT_GONE) => {
                Some(Self::Invalid(first_name(body).map(RecordKey::Export), why))
            }
            (Err(error), _) => return Err(error),
        };
        Ok(Some((message, input.len() - rest.len())))
    }
}

/// The name that a record's first field gives, whatever comes after it.
fn first_name<T: FromStr>(body: &[u8]) -> Option<T> {
    match TlvReader::new(body).next() {
        Ok(Some((1, value))) => value.name("name").ok(),
        _ => None,
    }
}

impl StateMessage {
    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut fields = TlvWriter::default();
        let kind = match self {
            Self::Subscribe(SubscribeRequest { cluster, have }) => {
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
                let some = addresses.iter().take(ClusterView::MAX_ADDRESSES);
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
        put_length_prefixed(out, &fields.finish());
    }

    /// Reads a message off the front of `input`, and says how many bytes it took; `None` while more bytes are
    /// needed. The message is `None` if it is one to be skipped.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(input: &[u8]) -> Result<Option<(Option<Self>, usize)>, WireError> {
        let mut rest = input;
        let Some(kind) = get_varint(&mut rest)? else { return Ok(None) };
        let Some(body) = get_length_prefixed(&mut rest, MAX_MESSAGE_LEN)? else { return Ok(None) };
        Ok(Some((Self::read(kind, body)?, input.len() - rest.len())))
    }

    fn read(kind: u64, body: &[u8]) -> Result<Option<Self>, WireError> {
        Ok(match kind {
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
            EXPORT => {
                let (service, export) = read_export(body)?;
                Some(Self::Export(service, export))
            }
            EXPORT_GONE => Some(Self::ExportGone(one_name(body, "service")?)),
            MARK => Some(Self::read_mark(body)?),
            other => {
                TlvReader::skip_unknown(other)?;
                None
            }
        })
    }

    fn read_subscribe(body: &[u8]) -> Result<Self, WireError> {
        let (mut cluster, mut epoch, mut sequence) = (None, None, None);
        let mut fields = TlvReader::new(body);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                1 => cluster = Some(value.name("cluster")?),
                2 => epoch = Some(value.integer("epoch")?),
                4 => sequence = Some(value.integer("sequence")?),
                other => TlvReader::skip_unknown(other)?,
            }
        }
        let cluster = cluster.ok_or(WireError::Missing("cluster"))?;
        Ok(Self::Subscribe(SubscribeRequest { cluster, have: epoch.zip(sequence) }))
    }

    fn read_mark(body: &[u8]) -> Result<Self, WireError> {
        let (mut sequence, mut age_ms, mut lost) = (None, None, false);
        let mut fields = TlvReader::new(body);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                1 => sequence = Some(value.integer("mark")?),
                2 => lost = value.integer("mark")? != 0,
                3 => age_ms = Some(value.integer("mark")?),
                other => TlvReader::skip_unknown(other)?,
            }
        }
        let both = sequence.zip(age_ms).ok_or(WireError::Missing("mark"))?;
        Ok(Self::Mark { sequence: both.0, age_ms: both.1, lost })
    }

    fn read_node(body: &[u8]) -> Result<Self, WireError> {
        let (mut name, mut addresses) = (None, None);
        let mut fields = TlvReader::new(body);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                1 => name = Some(value.name("node")?),
                3 => {
                    let list = value.list(ClusterView::MAX_ADDRESSES, "addresses", read_address)?;
                    addresses = Some(list);
                }
                other => TlvReader::skip_unknown(other)?,
            }
        }
        let name = name.ok_or(WireError::Missing("node"))?;
        Ok(Self::Node(name, addresses.ok_or(WireError::Missing("addresses"))?))
    }
}

fn two_integers(body: &[u8], what: &'static str) -> Result<[u64; 2], WireError> {
    let (mut first, mut second) = (None, None);
    let mut fields = TlvReader::new(body);
    while let Some((kind, value)) = fields.next()? {
        match kind {
            1 => first = Some(value.integer(what)?),
            3 => second = Some(value.integer(what)?),
            other => TlvReader::skip_unknown(other)?,
        }
    }
    first.zip(second).map(|(a, b)| [a, b]).ok_or(WireError::Missing(what))
}

fn one_name<T: FromStr>(body: &[u8], what: &'static str) -> Result<T, WireError> {
    let mut name = None;
    let mut fields = TlvReader::new(body);
    while let Some((kind, value)) = fields.next()? {
        match kind {
            1 => name = Some(value.name(what)?),
            other => TlvReader::skip_unknown(other)?,
        }
    }
    name.ok_or(WireError::Missing(what))
}
