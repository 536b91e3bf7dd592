//! The process: composition, admin, metrics, logs and drain.
//!
//! Sees both sides below it and owns no decision of either. Where to look:
//!
//! * [`telemetry`]: the log.

pub mod telemetry;
