//! Counters of a node's endpoints.

use std::sync::atomic::{AtomicU64, Ordering};

use super::EndpointsInner;

/// Totals since the endpoints were bound, but for [`EndpointCounters::handshakes`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndpointCounters {
    /// Handshakes of peers that dialled us, under way now.
    pub handshakes: u64,
    /// Peers accepted.
    pub accepted: u64,
    /// Handshakes that failed for another reason than those below: no protocol in common, a peer that gave up.
    pub failed: u64,
    /// Handshakes in which this side refused the peer's certificate.
    pub certificate_refused: u64,
    /// Handshakes in which the peer refused this side's.
    pub refused_by_peer: u64,
    /// Handshakes that took too long, or that the peer gave up because it received no answer.
    pub timed_out: u64,
    /// Handshakes that were ended because they came in more pieces than any has.
    pub too_many_pieces: u64,
    /// First packets that were answered with the demand to prove the sender's address.
    pub retried: u64,
    /// First packets that were not answered because too many handshakes were under way.
    pub refused_busy: u64,
    /// Peers refused because the node is going away.
    pub refused_draining: u64,
    /// Datagrams that reached their connection over another worker's socket.
    pub rerouted: u64,
    /// Datagrams that should have and were dropped, because too many waited.
    pub rerouted_dropped: u64,
    /// Datagrams that were forwarded to an older process of this node, which still has their connections.
    pub forwarded: u64,
    /// Datagrams that should have been and were dropped, because that process is behind or gone.
    pub forward_dropped: u64,
    /// Datagrams that a younger process forwarded to this one.
    pub received: u64,
    /// Datagrams that the system dropped because the sockets' buffers were full; `None` if it does not tell.
    pub dropped: Option<u64>,
}

impl EndpointsInner {
    pub(super) fn counters(&self) -> EndpointCounters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let limiter = &self.handshake_limiter;
        EndpointCounters {
            handshakes: limiter.in_progress() as u64,
            accepted: load(&limiter.accepted),
            failed: load(&limiter.failed),
            certificate_refused: load(&limiter.certificate_refused),
            refused_by_peer: load(&limiter.refused_by_peer),
            timed_out: load(&limiter.timed_out),
            too_many_pieces: load(&limiter.too_many_pieces),
            retried: load(&limiter.retried),
            refused_busy: load(&limiter.busy),
            refused_draining: load(&limiter.draining),
            rerouted: load(&self.forward_counters.rerouted),
            rerouted_dropped: load(&self.forward_counters.rerouted_dropped),
            forwarded: load(&self.forward_counters.forwarded),
            forward_dropped: load(&self.forward_counters.forward_dropped),
            received: load(&self.forward_counters.received),
            dropped: adit_host::udp::drops(&self.inodes).into_iter().flatten().reduce(|a, b| a + b),
        }
    }
}
