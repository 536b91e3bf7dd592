//! What both directions of the data path share, and nothing that belongs to one flow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use adit_core::code::Code;
use adit_core::policy::Permit;
use adit_core::snapshot::{Class, Snapshot};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::backends::Backends;
use crate::budget::Budget;
use crate::flow::{Failure, Flows};
use crate::tcp::Net;

/// Bounds of the data path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many streams the nodes of one peer cluster may have open here, over all connections.
    pub streams_per_peer: usize,
    /// How long a stream's header may take.
    pub header_deadline: Duration,
    /// How long one dial of a backend may take.
    pub dial_timeout: Duration,
    /// How long a connection from an address that nobody is known by is held before it is refused. Zero
    /// where the table of workloads is complete.
    pub unknown_source_hold: Duration,
    /// Received bytes that a stalled interactive stream may hold.
    pub interactive_window: usize,
    /// Received bytes that a stalled bulk stream may hold.
    pub bulk_window: usize,
}

impl Limits {
    pub(crate) fn window(&self, class: Class) -> usize {
        match class {
            Class::Interactive => self.interactive_window,
            Class::Bulk => self.bulk_window,
        }
    }
}

/// Connections from unknown sources that are held at once.
const HELD: usize = 1024;

/// The data path of one node.
#[derive(Debug)]
pub struct Node<N: Net> {
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(crate) net: Arc<N>,
    pub(crate) records: Records,
    pub(crate) limits: Limits,
}

/// What is kept about flows and backends, and the means to end the former.
#[derive(Debug)]
pub struct Records {
    /// Every flow.
    pub flows: Flows,
    /// What stalled flows may hold.
    pub budget: Budget,
    /// Which backends answer.
    pub backends: Backends,
    /// Cancelled when the drain deadline has passed: what still runs is reset.
    pub drained: CancellationToken,
    /// Draws and flow IDs.
    pub random: Random,
}

/// Draws for choices and flow IDs; not for keys. Seeded, so that a simulation repeats.
#[derive(Debug)]
pub struct Random {
    state: AtomicU64,
    /// One for each connection from an unknown source that may be held.
    pub(crate) held: Semaphore,
}

impl Random {
    /// Draws that follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed), held: Semaphore::new(HELD) }
    }

    /// The next draw (SplitMix64).
    pub(crate) fn draw(&self) -> u64 {
        let mut z = self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn flow_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.draw().to_be_bytes());
        id[8..].copy_from_slice(&self.draw().to_be_bytes());
        id
    }
}

impl<N: Net> Node<N> {
    /// A node that reads `snapshot` and reaches workloads by `net`.
    pub fn new(
        snapshot: watch::Receiver<Arc<Snapshot>>,
        net: Arc<N>,
        records: Records,
        limits: Limits,
    ) -> Self {
        Self { snapshot, net, records, limits }
    }

    /// What is believed now.
    pub(crate) fn now(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Waits until the flow must end although nothing is wrong with it: policy has changed, or the node
    /// has waited long enough for it.
    pub(crate) async fn withdrawn(&self, permit: &Permit) -> Failure {
        let mut snapshot = self.snapshot.clone();
        loop {
            if let Err(denial) = permit.recheck(&snapshot.borrow_and_update().clone()) {
                return Failure { code: Code::Revoked, reason: denial.reason };
            }
            tokio::select! {
                () = self.records.drained.cancelled() => return Code::Drained.into(),
                changed = snapshot.changed() => if changed.is_err() {
                    // A snapshot that will never change again withdraws nothing.
                    self.records.drained.cancelled().await;
                    return Code::Drained.into();
                }
            }
        }
    }
}
