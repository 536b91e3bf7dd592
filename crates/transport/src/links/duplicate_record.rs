//! The record of a duplicate of this process.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

use adit_core::name::NodeName;
use adit_runtime::Mutex;
use tokio::time::Instant;

use crate::peer::BootId;

/// The duplicate of this process, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct DuplicateRecord {
    pub(super) last: Mutex<Option<OwnDuplicate>>,
    /// The time of the last probe that a linked cluster's report caused.
    pub(super) probed_at: Mutex<Option<Instant>>,
    /// Peers that came in this very name.
    pub(super) namesakes: AtomicU64,
}

/// Another living process that has this one's name, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnDuplicate {
    /// Its boot ID.
    pub boot: BootId,
    /// Its address.
    pub address: SocketAddr,
    /// The node that reported it; the controller, if it is no node's name.
    pub reported_by: NodeName,
    /// The time of the report.
    pub reported_at: Instant,
}
