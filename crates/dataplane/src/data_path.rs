//! The state that both directions of the data path share, and nothing that belongs to one flow.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use adit_core::code::Code;
use adit_core::policy::Permit;
use adit_core::snapshot::Snapshot;
use adit_runtime::{Mutex, count_down};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backends::BackendHealth;
use crate::flow::{FlowFailure, Flows};
use crate::holds::HeldStreams;
use crate::probe_limits::ProbeLimits;
use crate::revocation::PermitRevocations;
use crate::tcp::TcpNetwork;

/// Bounds of the data path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataPathLimits {
    /// The most streams that the nodes of one peer cluster may have open here, over all connections.
    pub streams_per_peer: usize,
    /// The most time for a stream's header, from the stream's arrival.
    pub header_deadline: Duration,
    /// The most time for one dial of a backend.
    pub dial_timeout: Duration,
    /// The time for which a connection from an unknown address is held before it is refused. Zero
    /// where the table of workloads is complete.
    pub unknown_source_hold: Duration,
}

/// Connections from unknown sources that are held at once.
const MAX_HELD: usize = 1024;
/// The same from one address: a pod that begins to speak before its cluster shows it has a few.
const MAX_HELD_PER_ADDRESS: usize = 32;

/// The data path of one node.
#[derive(Debug)]
pub struct DataPath<N: TcpNetwork> {
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(crate) net: Arc<N>,
    pub(crate) context: DataPathContext,
    pub(crate) limits: DataPathLimits,
    pub(crate) started: Instant,
    /// Streams that wait for a backend.
    pub(crate) holds: HeldStreams,
    /// The snapshot at the start: no stream was permitted by an older one.
    first_snapshot: Arc<Snapshot>,
    revocations: PermitRevocations,
}

/// The records of flows and backends, and the means to end the former.
#[derive(Debug)]
pub struct DataPathContext {
    /// Every flow.
    pub flows: Flows,
    /// Which backends answer.
    pub backends: BackendHealth,
    /// Cancelled when the drain deadline has passed: what still runs is reset.
    pub drained: CancellationToken,
    /// Draws and flow IDs.
    pub random: FlowRandom,
    /// Connections that wait for their source to become known.
    pub held: HeldSources,
    /// Streams that only ask, by the cluster that asks.
    pub probes: ProbeLimits,
}

/// Connections from unknown sources that are held, by address.
#[derive(Debug, Default)]
pub struct HeldSources(Mutex<HashMap<IpAddr, usize>>);

/// A connection that is held, for as long as this guard lives.
#[derive(Debug)]
pub(crate) struct HeldSource<'a> {
    all: &'a HeldSources,
    from: IpAddr,
}

impl HeldSources {
    /// A place for one more from this address, if there is one.
    pub(crate) fn try_hold(&self, from: IpAddr) -> Option<HeldSource<'_>> {
        let mut held = self.lock();
        let all: usize = held.values().sum();
        let same = held.get(&from).copied().unwrap_or_default();
        if all >= MAX_HELD || same >= MAX_HELD_PER_ADDRESS {
            return None;
        }
        held.insert(from, same + 1);
        Some(HeldSource { all: self, from })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock()
    }
}

impl Drop for HeldSource<'_> {
    fn drop(&mut self) {
        count_down(&mut self.all.lock(), &self.from);
    }
}

/// Draws for choices and flow IDs; not for keys. Seeded, so that a simulation repeats.
#[derive(Debug)]
pub struct FlowRandom(AtomicU64);

impl FlowRandom {
    /// Draws that follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next draw (SplitMix64).
    pub(crate) fn draw(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
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

impl<N: TcpNetwork> DataPath<N> {
    /// A node that reads `snapshot` and reaches workloads by `net`.
    pub fn new(
        snapshot: watch::Receiver<Arc<Snapshot>>,
        net: Arc<N>,
        records: DataPathContext,
        limits: DataPathLimits,
    ) -> Self {
        let started = Instant::now();
        let first = snapshot.borrow().clone();
        Self {
            snapshot,
            net,
            context: records,
            limits,
            started,
            holds: HeldStreams::default(),
            first_snapshot: first,
            revocations: PermitRevocations::default(),
        }
    }

    /// The snapshot in force.
    pub(crate) fn current_snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Waits until the flow must end although nothing is wrong with it: policy has changed, or the node
    /// has waited long enough for it.
    pub(crate) async fn withdrawn(&self, permit: &Permit) -> FlowFailure {
        let mut changes = self.revocations.subscribe(permit.basis());
        loop {
            changes.mark_unchanged();
            if let Err(denial) = permit.recheck(&self.current_snapshot()) {
                return FlowFailure { code: Code::Revoked, reason: denial.reason };
            }
            tokio::select! {
                () = self.context.drained.cancelled() => return Code::Drained.into(),
                Ok(()) = changes.changed() => {}
            }
        }
    }

    /// Drives the `copying` of a flow that was taken, until it ends or the flow's right is withdrawn. By reference: a
    /// future that is handed over is kept twice, by the caller's frame and by this one, for as long as the flow lives.
    pub(crate) async fn while_permitted(
        &self,
        permit: &Permit,
        copying: Pin<&mut impl Future<Output = Result<(), Code>>>,
    ) -> Result<(), FlowFailure> {
        tokio::select! {
            biased;
            withdrawn = self.withdrawn(permit) => Err(withdrawn),
            end = copying => end.map_err(FlowFailure::broken),
        }
    }

    /// Withdraws rights as snapshots are published, until `stop`: to be driven for as long as flows live.
    pub async fn run_revocations(&self, stop: CancellationToken) {
        self.revocations.run(self.snapshot.clone(), self.first_snapshot.clone(), stop).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::os::OsTcpNetwork;

    /// The size of the future of an async function of two or three arguments.
    fn size_of_two<A, B, F>(_: fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    fn size_of_three<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_flow_keeps_little_besides_its_sockets() {
        let outbound = size_of_three(crate::outbound::serve::<OsTcpNetwork>);
        let inbound = size_of_two(crate::inbound::serve::<OsTcpNetwork>);
        // jemalloc's next larger sizes are 6 and 7 KiB; tokio adds its own head to the task of a connection.
        assert!(outbound <= 5 * 1024 - 128, "{outbound} bytes for a connection of a workload");
        assert!(inbound <= 5 * 1024, "{inbound} bytes for a stream of a peer");
    }

    #[test]
    fn one_address_does_not_take_all_places_of_unknown_sources() {
        let held = HeldSources::default();
        let from = |n: u8| IpAddr::from([10, 244, 0, n]);
        let mut of_one = Vec::new();
        while let Some(hold) = held.try_hold(from(1)) {
            of_one.push(hold);
        }
        assert_eq!(of_one.len(), MAX_HELD_PER_ADDRESS);
        let others: Vec<_> = (2..=255).flat_map(|n| [from(n); 9]).collect();
        let holds: Vec<_> = others.iter().filter_map(|ip| held.try_hold(*ip)).collect();
        assert_eq!(holds.len(), MAX_HELD - MAX_HELD_PER_ADDRESS);
        drop((of_one, holds));
        assert!(held.lock().is_empty(), "no address is kept");
    }
}
