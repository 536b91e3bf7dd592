//! Connections: who there is.
//!
//! * [`table`]: all connections with peers, by cluster and node. * [`connection`]: one of them in use.
//! * [`ack_watch`]: whether what is sent on it is acknowledged.
//! * [`permits`]: how many there may be. * [`disconnects`]: how nodes were lost. * [`boot_history`]: in which
//!   order the processes of a node connected; both in [`recent_nodes`], which bounds what is kept.
//!
//! Nothing here dials, reads or writes: see [`super::dialer`] and [`super::session`].

mod ack_watch;
mod boot_history;
mod connection;
mod disconnects;
mod permits;
mod recent_nodes;
mod table;

pub(crate) use self::connection::{PeerConnection, StreamGuard, StreamUse};
pub(crate) use self::disconnects::Disconnect;
pub(crate) use self::permits::{ConnectionPermit, PermitRequest};
pub(crate) use self::recent_nodes::RecentNodes;
pub(crate) use self::table::{ConnectionChoice, ConnectionTable};
