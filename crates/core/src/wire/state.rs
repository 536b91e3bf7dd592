//! The state stream: a cluster's view of itself, sent incrementally.
//!
//! A subscriber opens a state stream, sends a [`SubscribeRequest`] and reads messages for as long as the
//! connection lasts. A publisher sends a [`ClusterView`](crate::snapshot::ClusterView) as records, one for each node and each export. It
//! numbers its changes, and a changed record is sent once, whole, with its latest value: a record that
//! changed five times while the stream was busy is sent once. The cost of a change is the record that
//! changed.
//!
//! A message is its type, its length, then fields; at most [`MAX_MESSAGE_LEN`] bytes of fields. Odd types are critical.
//!
//! | message | fields |
//! |---|---|
//! | 1 subscribe | 1 cluster, 2 epoch and 4 sequence that the subscriber has already |
//! | 3 begin | 1 epoch, 3 whether what follows replaces all that was known (0 or 1) |
//! | 5 node | 1 name, 3 list of addresses (4 or 16 bytes, then 2 of port) |
//! | 7 export | 1 service, 3 list of ports, 5 list of grants, 6 flags (1 same-node, 2 bulk, 4 replay) |
//! | 9 node gone | 1 name |
//! | 11 export gone | 1 service |
//! | 13 mark | 1 sequence, 2 whether the publisher has lost that cluster, 3 age in ms: all up to here is one consistent view, which was true that long ago |
//!
//! A port is: 1 name (absent if unnamed), 3 number, 4 appProtocol, 5 list of ready counts, 6 why there is none
//! ([`crate::fault::BackendFault`]'s code); a count is 1 node, 3 number. A grant is: 1 namespace, 3 service account; each absent for "any".
//!
//! A reader skips a node or an export that breaks a bound or a grammar, and forgets what it knew of it; it
//! also leaves out what would make the view larger than it may be. It takes the rest. Only a message that is
//! not framed correctly, or out of place, ends the stream.
//!
//! Pod addresses never travel; a source's identity and a port's name do. [`replica`] reads, [`view_log`]
//! writes; the codec is [`message`] and [`export`]; what is left out is [`omissions`].

pub mod export;
pub mod memory_size;
pub mod message;
pub mod omissions;
pub mod replica;
pub mod view_log;

pub use message::{ReceivedMessage, StateMessage, SubscribeRequest};
pub use omissions::{Omission, Omissions, RecordKey};
pub use replica::ViewReplica;
pub use view_log::{ViewLog, ViewUpdates};

/// The longest message, in bytes of fields: an export with ready backends on some 3,000 nodes.
pub const MAX_MESSAGE_LEN: usize = 128 * 1024;
/// The most nodes that one view may hold.
pub const MAX_NODES: usize = 5_000;
/// The most exports that one view may hold.
pub const MAX_EXPORTS: usize = 10_000;
/// The most memory that one view may take in a process that holds it, in bytes as [`memory_size`] counts
/// them: 1,600 for each of [`MAX_EXPORTS`]. A process that holds a view pays for it, and for its successor
/// while that arrives, and passes it on.
pub const MAX_BYTES: usize = 16 << 20;

/// The most that a subscriber has to take off the stream for a whole view of the largest size, in bytes with
/// [`MESSAGE_COST`]: a view takes less on the wire than in memory.
pub const WHOLE_VIEW_COST: usize = MAX_BYTES + (MAX_NODES + MAX_EXPORTS + 2) * MESSAGE_COST;
/// The bytes that a message counts for besides its own where messages are charged: receiving one costs the
/// reader as much as some hundred bytes, however short it is.
pub const MESSAGE_COST: usize = 256;
