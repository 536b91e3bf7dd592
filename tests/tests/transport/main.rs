//! The transport's lower half: streams, endpoints and the demultiplexer, as its users see them.
//!
//! * [`streams`], [`paths`], [`endings`], [`legs`], [`admission`], [`trust`], [`invitations`]: on a network in memory and a paused
//!   clock, so that times are exact. * [`crashes`]: over turmoil, where hosts die and come back.
//!   * [`sockets`], [`handover`]: over the system's own sockets, with a runtime per worker.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it must be")]

mod admission;
mod crashes;
mod endings;
mod handover;
mod invitations;
mod paths;
mod sockets;
mod streams;
mod trust;
mod worker_sockets;
