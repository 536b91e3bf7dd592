//! QUIC between nodes: connections, lanes, links and the state they carry.
//!
//! The lower half is quinn, made safe to rest on: [`endpoint`] binds, accepts and dials, [`stream`] is
//! what carries bytes, [`tuning`] has the numbers, [`secret`] what outlives a process, [`tls`] who may
//! take part, [`network`] the seam to the network. No type of quinn's is part of what other crates use, but
//! for that seam.
//!
//! [`budget`] bounds what peers may have this node hold.
//!
//! The upper half is [`links`]: which connections there are, to whom ([`peer`]), and what is told on them.

pub mod budget;
mod cid;
pub mod endpoint;
pub mod links;
pub mod network;
pub mod peer;
pub mod secret;
mod socket;
pub mod stream;
mod stream_credit;
pub mod tls;
pub mod tuning;

pub use self::budget::BufferBudget;
pub use self::endpoint::{DialRequest, Endpoints, Incoming, QuicConnection, Worker};
pub use self::links::{Links, OpenStreamError, PeerStream, ServeStream};
pub use self::network::{OsUdpNetwork, UdpNetwork};
pub use self::peer::PeerInfo;
pub use self::secret::NodeSecret;
pub use self::stream::{RecvError, RecvStream, SendError, SendStream};
pub use self::tls::Tls;
pub use self::tuning::Tuning;
