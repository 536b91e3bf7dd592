//! The processes that commands start in a node's pod while clusters join by invitation.
//!
//! * [`inviter`]: on the inviting side, one on each node: between the command and the node's admin server.
//! * [`joiner`]: on the joining side, on one node, whose network reaches the other cluster's: it dials, by itself.
//! * [`lines`]: what both say and hear, one JSON document a line. Secrets come this way, never as arguments.

pub mod inviter;
pub mod joiner;
mod lines;

pub use self::lines::LineError;

#[cfg(test)]
mod tests;
