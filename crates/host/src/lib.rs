//! The operating system's part: sockets, buffers, descriptors and routes.
//!
//! It owns the options that decide whether a burst is lost ([`udp`]), whether a dead neighbour is
//! noticed and a reset arrives as one ([`tcp`]), how many descriptors there are ([`descriptors`]) and
//! how much memory ([`memory`]),
//! which addresses are this node's alone ([`routes`]), the privilege for that ([`capabilities`]), how a
//! process hands its sockets to its successor ([`ipc`]), and how datagrams get to another process
//! ([`relay`]). It knows no policy and no QUIC; its sockets are plain non-blocking ones of the standard
//! library, for the caller to register where it likes.

pub mod capabilities;
pub mod descriptors;
pub mod ipc;
pub mod memory;
pub mod process;
pub mod relay;
pub mod routes;
pub mod tcp;
pub mod udp;
