//! The process: composition, admin, metrics, logs and drain.
//!
//! Sees both sides below it and owns no decision of either. Where to look:
//!
//! * [`node`]: the process of a node. [`controller`]: that of a controller. [`mod@process`]: what both share.
//! * [`invitation`]: what commands start in a node's pod while clusters join by invitation.
//! * [`status`]: the document that tells how a node is doing, and what is wrong first.
//! * [`readiness`]: what is still awaited. [`telemetry`]: the log.

pub mod admin;
pub mod controller;
pub mod invitation;
pub mod metrics;
pub mod node;
pub mod process;
pub mod readiness;
pub mod status;
pub mod telemetry;
#[cfg(test)]
mod testing;
