//! What the operating system gives: sockets, buffers and descriptors.
//!
//! It owns the options that decide whether a burst is lost ([`udp`]), whether a dead neighbour is
//! noticed and a reset arrives as one ([`tcp`]), and how many descriptors there are
//! ([`descriptors`]). It knows no policy, no QUIC and no runtime: what it makes are plain
//! non-blocking sockets of the standard library, for the caller to register where it likes.

pub mod descriptors;
pub mod tcp;
pub mod udp;
