//! The control stream: a hello each way, then small urgent messages.
//!
//! A message is its type, its length, then fields; at most [`MAX_CONTROL_LEN`] bytes of fields. The first message
//! each way is the [`Hello`], within [`HEADER_TIMEOUT`](super::header::HEADER_TIMEOUT). Message types follow
//! the rule of fields: odd ones are critical.
//!
//! | message | fields |
//! |---|---|
//! | 1 hello | 1 lowest version, 3 highest version, 5 cluster, 7 node, 9 boot ID (16 bytes), 11 lane (0 interactive, 1 bulk), 2 capabilities (bits: 1 it [answers reports](ANSWERS_REPORTS)), 4 sender's clock (Unix time, ms), 6 the dialler's slot (absent for 0), 8 bytes that may be sent to the sender on one stream before it [grants](super::credit) more (absent where it grants none) |
//! | 3 go-away | 1 code, 2 milliseconds after which to dial again |
//! | 4 dial-me | 1 addresses to dial, 3 nonce that the dialler repeats; acted upon from a later version on |
//! | 6 doubled | 1 boot ID (16 bytes) of another living process that has the receiver's name, 3 where that is; believed of nodes and the controller of the receiver's own cluster, and looked into otherwise; skipped by earlier versions |
//! | 5 revoked, 7 proof | reserved |

use bytes::BytesMut;

use super::tlv::{
    TlvReader, TlvWriter, WireError, address, get_length_prefixed, get_varint, put_length_prefixed,
    put_varint, read_address,
};
use crate::code::Code;
use crate::name::{ClusterName, NodeName};
use crate::snapshot::{Class, ClusterView};

/// The longest message, in bytes of fields.
pub const MAX_CONTROL_LEN: usize = 4096;

/// The capability of a node that answers its own controller's report streams; an earlier one takes them for an
/// offence.
pub const ANSWERS_REPORTS: u64 = 1;

const HELLO: u64 = 1;
const GO_AWAY: u64 = 3;
const DIAL_ME: u64 = 4;
const DOUBLED: u64 = 6;

/// A message of the control stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlMessage {
    /// The sender's identity, and what it speaks.
    Hello(Hello),
    /// Open nothing new here; what runs may finish.
    GoAway {
        /// The reason.
        code: Code,
        /// After how many milliseconds a new dial makes sense.
        retry_after_ms: u64,
    },
    /// Please dial the sender: it cannot dial you.
    DialMe {
        /// The sender's addresses; at most [`ClusterView::MAX_ADDRESSES`].
        addresses: Vec<std::net::SocketAddr>,
        /// Repeated by the dialler.
        nonce: u64,
    },
    /// Another process that lives has the receiver's name.
    DuplicateIdentity {
        /// Its boot ID.
        boot: [u8; 16],
        /// The address at which the sender sees the other process.
        address: std::net::SocketAddr,
    },
}

/// The first message each way on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The lowest and highest protocol version that the sender speaks.
    pub versions: (u64, u64),
    /// The sender's abilities beyond its version, as bits.
    pub capabilities: u64,
    /// The sender's cluster.
    pub cluster: ClusterName,
    /// The sender's node; its certificate must say the same.
    pub node: NodeName,
    /// Random for each process, so that a restart can be told from a second connection.
    pub boot: [u8; 16],
    /// The traffic class of the connection.
    pub class: Class,
    /// The sender's clock, Unix time in milliseconds, for telling clock skew.
    pub clock_ms: u64,
    /// The number of this connection among the dialler's parallel ones of one class. A later connection of
    /// the same node, boot ID, class, dialler and slot takes the earlier one's place.
    pub slot: u64,
    /// Bytes that may be sent to the sender on one stream of this connection before it gives more credit, see
    /// [`super::credit`]; 0 if QUIC's own windows are all there is.
    pub stream_window: u64,
}

/// The version to speak with a peer.
///
/// # Errors
/// A sentence that names both sides' ranges, if they do not overlap.
pub fn negotiate(own: (u64, u64), peer: (u64, u64)) -> Result<u64, String> {
    let version = own.1.min(peer.1);
    if version >= own.0.max(peer.0) {
        return Ok(version);
    }
    let range = |(low, high): (u64, u64)| format!("{low} to {high}");
    Err(format!("we speak versions {} of the protocol and the peer {}", range(own), range(peer)))
}

impl ControlMessage {
    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut fields = TlvWriter::default();
        let kind = match self {
            Self::Hello(hello) => {
                fields.integer(1, hello.versions.0);
                if hello.capabilities != 0 {
                    fields.integer(2, hello.capabilities);
                }
                fields.integer(3, hello.versions.1);
                if hello.clock_ms != 0 {
                    fields.integer(4, hello.clock_ms);
                }
                fields.text(5, hello.cluster.as_str());
                if hello.slot != 0 {
                    fields.integer(6, hello.slot);
                }
                fields.text(7, hello.node.as_str());
                if hello.stream_window != 0 {
                    fields.integer(8, hello.stream_window);
                }
                fields.bytes(9, &hello.boot);
                fields.integer(11, class_number(hello.class));
                HELLO
            }
            Self::GoAway { code, retry_after_ms } => {
                fields.integer(1, code.number());
                if *retry_after_ms != 0 {
                    fields.integer(2, *retry_after_ms);
                }
                GO_AWAY
            }
            Self::DialMe { addresses, nonce } => {
                fields.list(1, addresses.iter().map(address)).integer(3, *nonce);
                DIAL_ME
            }
            Self::DuplicateIdentity { boot, address: at } => {
                fields.bytes(1, boot).bytes(3, &address(at));
                DOUBLED
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
        let Some(body) = get_length_prefixed(&mut rest, MAX_CONTROL_LEN)? else { return Ok(None) };
        let fields = TlvReader::new(body);
        let message = match kind {
            HELLO => Some(Self::Hello(Hello::read(fields)?)),
            GO_AWAY => Some(Self::read_go_away(fields)?),
            DIAL_ME => Some(Self::read_dial_me(fields)?),
            DOUBLED => Some(Self::read_duplicate_identity(fields)?),
            other => {
                TlvReader::skip_unknown(other)?;
                None
            }
        };
        Ok(Some((message, input.len() - rest.len())))
    }

    fn read_go_away(mut fields: TlvReader<'_>) -> Result<Self, WireError> {
        let (mut code, mut retry_after_ms) = (None, 0);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                1 => code = Some(Code::from_number(value.integer("code")?)),
                2 => retry_after_ms = value.integer("retry-after")?,
                other => TlvReader::skip_unknown(other)?,
            }
        }
        Ok(Self::GoAway { code: code.ok_or(WireError::Missing("code"))?, retry_after_ms })
    }

    fn read_duplicate_identity(mut fields: TlvReader<'_>) -> Result<Self, WireError> {
        let (mut boot, mut at) = (None, None);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                1 => boot = Some(value.array("boot ID")?),
                3 => at = Some(read_address(value)?),
                other => TlvReader::skip_unknown(other)?,
            }
        }
        Ok(Self::DuplicateIdentity {
            boot: boot.ok_or(WireError::Missing("boot ID"))?,
            address: at.ok_or(WireError::Missing("address"))?,
        })
    }

    fn read_dial_me(mut fields: TlvReader<'_>) -> Result<Self, WireError> {
        let (mut addresses, mut nonce) = (None, None);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                1 => {
                    let list = value.list(ClusterView::MAX_ADDRESSES, "addresses", read_address)?;
                    addresses = Some(list);
                }
                3 => nonce = Some(value.integer("nonce")?),
                other => TlvReader::skip_unknown(other)?,
            }
        }
        Ok(Self::DialMe {
            addresses: addresses.ok_or(WireError::Missing("addresses"))?,
            nonce: nonce.ok_or(WireError::Missing("nonce"))?,
        })
    }
}

impl Hello {
    fn read(mut fields: TlvReader<'_>) -> Result<Self, WireError> {
        let (mut low, mut high, mut cluster, mut node, mut boot, mut class) = Default::default();
        let (mut capabilities, mut clock_ms, mut slot, mut stream_window) = (0, 0, 0, 0);
        while let Some((kind, value)) = fields.next()? {
            match kind {
                1 => low = Some(value.integer("version")?),
                2 => capabilities = value.integer("capabilities")?,
                3 => high = Some(value.integer("version")?),
                4 => clock_ms = value.integer("clock")?,
                5 => cluster = Some(value.name("cluster")?),
                6 => slot = value.integer("slot")?,
                7 => node = Some(value.name("node")?),
                8 => stream_window = value.integer("stream window")?,
                9 => boot = Some(value.array("boot ID")?),
                11 => class = Some(class_from_number(value.integer("lane")?)?),
                other => TlvReader::skip_unknown(other)?,
            }
        }
        let versions = low.zip(high).ok_or(WireError::Missing("version"))?;
        if versions.0 > versions.1 {
            return Err(WireError::Invalid("version"));
        }
        Ok(Self {
            versions,
            capabilities,
            cluster: cluster.ok_or(WireError::Missing("cluster"))?,
            node: node.ok_or(WireError::Missing("node"))?,
            boot: boot.ok_or(WireError::Missing("boot ID"))?,
            class: class.ok_or(WireError::Missing("lane"))?,
            clock_ms,
            slot,
            stream_window,
        })
    }
}

fn class_number(class: Class) -> u64 {
    match class {
        Class::Interactive => 0,
        Class::Bulk => 1,
    }
}

fn class_from_number(number: u64) -> Result<Class, WireError> {
    match number {
        0 => Ok(Class::Interactive),
        1 => Ok(Class::Bulk),
        _ => Err(WireError::Invalid("lane")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            versions: (1, 3),
            capabilities: 0,
            cluster: "edge".parse().unwrap(),
            node: "e1.lan".parse().unwrap(),
            boot: [9; 16],
            class: Class::Bulk,
            clock_ms: 1_795_000_000_000,
            slot: 3,
            stream_window: 1 << 18,
        }
    }

    fn messages() -> Vec<ControlMessage> {
        vec![
            ControlMessage::Hello(hello()),
            ControlMessage::GoAway { code: Code::Draining, retry_after_ms: 1500 },
            ControlMessage::DialMe {
                addresses: vec!["172.18.1.2:7843".parse().unwrap(), "[fd00::1]:1".parse().unwrap()],
                nonce: 1 << 40,
            },
            ControlMessage::DuplicateIdentity {
                boot: [3; 16],
                address: "172.18.1.2:7843".parse().unwrap(),
            },
        ]
    }

    fn encoded(message: &ControlMessage) -> BytesMut {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        out
    }

    #[test]
    fn messages_round_trip_and_every_truncation_asks_for_more() {
        for message in messages() {
            let bytes = encoded(&message);
            assert_eq!(ControlMessage::decode(&bytes), Ok(Some((Some(message), bytes.len()))));
            for cut in 0..bytes.len() {
                assert_eq!(ControlMessage::decode(&bytes[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn every_flipped_byte_is_refused_or_reads_as_something_whole() {
        for bytes in messages().iter().map(encoded) {
            for at in 0..bytes.len() {
                for flip in 1..=255u8 {
                    let mut changed = bytes.clone();
                    changed[at] ^= flip;
                    if let Ok(Some((Some(read), taken))) = ControlMessage::decode(&changed) {
                        assert!(encoded(&read).len() <= taken, "byte {at} ^ {flip}");
                    }
                }
            }
        }
    }

    #[test]
    fn unknown_messages_follow_their_critical_bit() {
        assert_eq!(ControlMessage::decode(&[10, 1, 0]), Ok(Some((None, 3))));
        assert_eq!(ControlMessage::decode(&[9, 1, 0]), Err(WireError::UnknownCritical(9)));
        assert_eq!(ControlMessage::decode(&[1, 0x60, 0]), Err(WireError::TooLong(MAX_CONTROL_LEN)));
    }

    #[test]
    fn versions_overlap_or_name_both_sides() {
        assert_eq!(negotiate((1, 2), (2, 5)), Ok(2));
        assert_eq!(negotiate((1, 1), (1, 1)), Ok(1));
        let text = negotiate((1, 2), (3, 4)).unwrap_err();
        assert!(text.contains("1 to 2") && text.contains("3 to 4"), "{text}");
        let mut upside_down = hello();
        upside_down.versions = (3, 1);
        let bytes = encoded(&ControlMessage::Hello(upside_down));
        assert_eq!(ControlMessage::decode(&bytes), Err(WireError::Invalid("version")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_whole(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some((_, taken))) = ControlMessage::decode(&bytes) {
                prop_assert!(taken <= bytes.len());
            }
        }
    }
}
