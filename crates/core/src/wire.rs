//! Every byte that two nodes exchange.
//!
//! Nodes speak QUIC with mutual TLS 1.3 and ALPN [`ALPN`]. All streams are bidirectional, and the first
//! byte of each says its kind ([`StreamKind`]):
//!
//! | kind | opened by | carries |
//! |---|---|---|
//! | 0 control | the dialler, first and once | [`control`]: a [`Hello`](control::Hello) each way, then small urgent messages each way |
//! | 1 state | whoever wants to know | a [`Subscribe`](state::SubscribeRequest), answered by [`state`] messages, for as long as the connection lasts |
//! | 2 data | whoever has a TCP connection to carry | a [`Header`](header::StreamHeader), answered by an [`Answer`](header::StreamAnswer); each is followed by the bytes of its direction |
//! | 3 report | our own cluster's controller alone, towards nodes whose hello says that they [answer](control::ANSWERS_REPORTS) | a [`ReportQuestion`](report::ReportQuestion), answered by a [`NodeReport`](report::NodeReport). Whoever else asks is refused |
//! | 4 credits | whoever receives, once, if both hellos name a stream window | [`credit`]: how far each stream may be sent; nothing the other way |
//!
//! **Encoding.** Integers are QUIC variable-length integers (RFC 9000 §16) in their shortest form; a
//! longer form is refused. A message is a sequence of fields: type, length, value. Types ascend, so that
//! there is one encoding of each message and no field twice. An **odd** type is critical: a receiver that
//! does not know it refuses the message. An **even** type that is not known is skipped. Text is UTF-8 that
//! obeys the grammar of what it names, so no control byte passes. A message that breaks any of this is a
//! [`WireError`] and ends its stream ([`Code::HeaderInvalid`](crate::code::Code::HeaderInvalid)) or its
//! connection ([`Code::ProtocolError`](crate::code::Code::ProtocolError)).
//!
//! **Versions.** A hello names the lowest and highest version that its sender speaks; the highest common one
//! is used. If there is none, the connection is closed with
//! [`Code::VersionMismatch`](crate::code::Code::VersionMismatch) and a text that names both sides' range. A
//! release speaks its predecessor's version, too. A version may add without a new number: even field types,
//! even message types, capability bits, [`Code`](crate::code::Code) numbers.
//!
//! **Invitations.** A connection with ALPN [`join::JOIN_ALPN`] carries [`join`] messages and nothing else. There is none
//! unless an operator has made an invitation.
//!
//! **Ends.** A direction that finished ends with FIN. Every other end is RESET_STREAM or STOP_SENDING
//! with a [`Code`](crate::code::Code)'s number, and a connection ends by CONNECTION_CLOSE with one.

pub mod control;
pub mod credit;
pub mod header;
pub mod join;
pub mod report;
pub mod state;
mod tlv;

pub use tlv::WireError;

/// The ALPN protocol name of every connection between nodes.
pub const ALPN: &[u8] = b"adit";

/// The lowest and highest protocol version that this build speaks.
pub const VERSIONS: (u64, u64) = (1, 1);

/// The purpose of a stream: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// The dialler's hello, then urgent messages.
    Control,
    /// A subscription to a cluster's view.
    State,
    /// A TCP connection.
    Data,
    /// A question of our own cluster's controller, how this node is.
    Report,
    /// Credit: how far the other streams of the connection may be sent.
    Credits,
}

impl StreamKind {
    /// The byte on the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Control => 0,
            Self::State => 1,
            Self::Data => 2,
            Self::Report => 3,
            Self::Credits => 4,
        }
    }

    /// The kind of a byte from the wire; `None` for a kind that this version does not know.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Control),
            1 => Some(Self::State),
            2 => Some(Self::Data),
            3 => Some(Self::Report),
            4 => Some(Self::Credits),
            _ => None,
        }
    }
}
