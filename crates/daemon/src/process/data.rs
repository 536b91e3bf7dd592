//! The data side, as the process drives it: what it asks of links and data path, and nothing of how.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use adit_pki::PeerVerifier;

use crate::metrics::gauges::ProcessTotals;
use crate::status::build::Traffic;
use crate::status::{Link, PeerNode};

/// Links and data path of one node.
pub(super) trait DataPlane {
    /// What the status asks; it is asked on another thread.
    type StatusSource: StatusSource;

    /// What can be asked about it.
    fn status_source(&self) -> Self::StatusSource;

    /// Ends the connections whose certificate has ended; with a verifier whose trust has changed, also those
    /// that it no longer believes.
    fn recheck(&self, verifier: Option<&PeerVerifier>);

    /// Goes away: tells peers, refuses what is new, waits up to `within` for streams to end, then resets
    /// what is left and ends all connections. Says how many streams that broke.
    fn drain(&self, within: Duration) -> impl Future<Output = u64>;
}

/// What the status asks of links and data path.
pub(super) trait StatusSource: Send + Sync + 'static {
    /// The links, and the other nodes of this cluster, as the transport sees them.
    fn links(&self) -> (Vec<Link>, Vec<PeerNode>);

    /// Another living process that has this node's name, in words, where its siblings see one.
    fn own_duplicate(&self) -> Option<String> {
        None
    }

    /// What the data path counted, for the status.
    fn traffic(&self) -> Traffic;

    /// What it counted, for the metrics.
    fn totals(&self) -> ProcessTotals;

    /// Import addresses that could not be bound, and why.
    fn not_listening(&self) -> BTreeMap<SocketAddr, String>;
}
