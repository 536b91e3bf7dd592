//! QUIC between nodes: connections, links and the state they carry.
//!
//! The lower half is quinn, made safe to use: [`endpoint`] binds, accepts and dials, [`stream`] carries
//! bytes, [`tuning`] has the numbers, [`secret`] has what outlives a process, [`tls`] decides who may take
//! part, [`network`] is the seam to the network. No type of quinn's is part of what other crates use, but for
//! that seam.
//!
//! [`budget`] bounds what peers may have this node hold.
//!
//! [`join`] is how clusters that do not know each other yet are linked by invitation.
//!
//! The upper half is [`links`]: which connections there are, to which peers ([`peer`]), and what is sent on
//! them.

pub mod budget;
mod cid;
pub mod endpoint;
pub mod join;
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
