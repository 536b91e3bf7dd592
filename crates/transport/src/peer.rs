//! The peer of a connection.
//!
//! Peers are nodes: of linked clusters, and siblings, which are the nodes of our own. What is here was
//! proved by the handshake or fits what was proved; see [`adit_core::admission`].

use std::fmt;
use std::net::SocketAddr;

use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::Class;
use adit_core::spiffe::SpiffeId;

/// Random for each process of a node, which distinguishes a restart from a second connection. Shown as
/// hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BootId(pub [u8; 16]);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The other end of one connection, and which of the connections with it this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its cluster, as this node's configuration calls it; our own for a sibling.
    pub cluster: ClusterName,
    /// Its name, as its certificate proved it.
    pub node: NodeName,
    /// The SPIFFE ID that its certificate proved.
    pub id: SpiffeId,
    /// Its process.
    pub boot: BootId,
    /// The traffic class of the connection.
    pub class: Class,
    /// True if we dialled it.
    pub dialled: bool,
    /// The number of the connection among its dialler's parallel ones of the class.
    pub slot: u64,
    /// The abilities beyond its version that its hello named, as bits; see [`adit_core::wire::control`].
    pub capabilities: u64,
    /// Bytes that it takes on one stream before it gives more credit; 0 if it gives none. See
    /// [`adit_core::wire::credit`].
    pub stream_window: u64,
    /// The peer's address when the connection was made. A peer behind a NAT may move.
    pub remote: SocketAddr,
}
