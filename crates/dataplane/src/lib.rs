//! TCP to stream and back: the path of one request.
//!
//! Read [`outbound`] for a connection that a local workload makes and [`inbound`] for a stream that a peer
//! opens; each is a short function, whose steps are the functions below it. Both stand on:
//!
//! * [`copy`](mod@copy): bytes each way, with every kind of end; [`first_flight`]: a stream's opening;
//! * [`flow`]: the record of each, exactly once; [`capacity`]: who may have how many;
//! * [`backends`]: which backends answer; [`listeners`]: the sockets of imports;
//! * [`probe`]: streams that carry nothing, and only ask what would become of one;
//! * [`tcp`]: what is needed of TCP, so that all this runs under simulation too.
//!
//! Nothing here knows QUIC, Kubernetes or a file: peers are reached through `adit_transport::Links`, and
//! all that is believed is in one `adit_core::snapshot::Snapshot`.

pub mod backends;
pub mod capacity;
mod copy;
pub mod data_path;
mod first_flight;
pub mod flow;
mod holds;
pub mod inbound;
pub mod listeners;
pub mod outbound;
pub mod probe;
pub mod probe_limits;
mod revocation;
pub mod tcp;
#[cfg(test)]
mod testing;

pub use flow::metrics::{ANSWER_SECONDS, DIAL_SECONDS, begin_service as begin_service_metrics};

/// Describes all metrics of this crate to the recorder: once, after it is installed.
pub fn describe_metrics() {
    flow::metrics::describe();
    listeners::describe();
}

/// Has all that this crate counts, but for services, begin at 0: once, after it is described.
pub fn begin_metrics() {
    flow::metrics::begin();
    listeners::begin_metrics();
}
