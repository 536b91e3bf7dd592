//! The place of a node in its cluster.

use std::net::IpAddr;

use adit_core::name::NodeName;

/// Name and addresses of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLocation {
    /// The Kubernetes node.
    pub node: NodeName,
    /// Its addresses, where siblings and peers can dial it.
    pub addresses: Vec<IpAddr>,
}
