//! The process of `adit controller`: leads or stands by, and observes the cluster's own nodes.
//!
//! What it decides and writes is [`adit_kubernetes::controller`]'s. As an observer it connects with our own nodes'
//! hubs, which tell it what linked clusters say ([`sibling_observer`]), and asks each node for its report
//! ([`node_reports`]). It serves no streams and dials no other cluster. Its life is [`mod@run`]'s.

mod node_reports;
mod run;
mod sibling_observer;

pub use self::run::{ControllerOptions, run};
