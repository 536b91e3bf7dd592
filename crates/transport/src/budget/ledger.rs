//! The ledger of charges: sums, bounds, and which stalled stream pays when a bound is passed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Weak;

use adit_core::name::ClusterName;
use tokio::sync::Notify;

/// Bounds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferLimits {
    /// All peers together, windows and stalled streams.
    pub process: usize,
    /// The stalled streams of one peer cluster, however many nodes it has; its windows have as much again.
    pub peer: usize,
}

/// The part of its bound that a peer's windows have for certain, even if the process's are spent.
const PROMISED_PART: usize = 8;

/// The part of a bound for stalled streams from which on no stream's window grows.
const PRESSED_PART: usize = 4;

/// Bytes that are charged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BufferCharges {
    /// Bytes that connections may hold while everything goes well, beyond what each begins with.
    pub windows: usize,
    /// Bytes that stalled streams may hold.
    pub stalled: usize,
    /// Streams that are stalled.
    pub streams: usize,
}

#[derive(Debug)]
pub(super) struct BudgetLedger {
    /// For windows, and once more for stalled streams.
    limits: BufferLimits,
    windows: usize,
    stalled: usize,
    next: u64,
    accounts: HashMap<ClusterName, ClusterAccount>,
}

/// The charges of one peer cluster.
#[derive(Debug, Default)]
struct ClusterAccount {
    windows: usize,
    stalled: usize,
    /// Stalled streams, the longest stalled first.
    streams: BTreeMap<u64, StalledStream>,
}

#[derive(Debug)]
struct StalledStream {
    bytes: usize,
    evict: Weak<Notify>,
}

impl ClusterAccount {
    fn is_empty(&self) -> bool {
        self.windows == 0 && self.streams.is_empty()
    }

    fn charges(&self) -> BufferCharges {
        BufferCharges { windows: self.windows, stalled: self.stalled, streams: self.streams.len() }
    }
}

impl BudgetLedger {
    pub(super) fn new(bounds: BufferLimits) -> Self {
        Self { limits: bounds, windows: 0, stalled: 0, next: 0, accounts: HashMap::new() }
    }

    pub(super) fn charges(&self) -> BufferCharges {
        let streams = self.accounts.values().map(|account| account.streams.len()).sum();
        BufferCharges { windows: self.windows, stalled: self.stalled, streams }
    }

    pub(super) fn charges_of(&self, cluster: &ClusterName) -> BufferCharges {
        self.accounts.get(cluster).map(ClusterAccount::charges).unwrap_or_default()
    }

    pub(super) fn try_reserve(&mut self, cluster: &ClusterName, bytes: usize) -> bool {
        let windows = self.accounts.get(cluster).map_or(0, |account| account.windows);
        let sum = windows.saturating_add(bytes);
        // A few connections of each peer have theirs whatever the others took.
        let has_room = sum <= self.limits.peer
            && (self.windows.saturating_add(bytes) <= self.limits.process
                || sum <= self.limits.peer / PROMISED_PART);
        if has_room {
            self.reserve(cluster, bytes);
        }
        has_room
    }

    pub(super) fn reserve(&mut self, cluster: &ClusterName, bytes: usize) {
        self.windows += bytes;
        self.accounts.entry(cluster.clone()).or_default().windows += bytes;
    }

    pub(super) fn release(&mut self, cluster: &ClusterName, bytes: usize) {
        let Some(account) = self.accounts.get_mut(cluster) else { return };
        account.windows -= bytes;
        self.windows -= bytes;
        self.forget_if_empty(cluster);
    }

    pub(super) fn stall(
        &mut self,
        cluster: &ClusterName,
        bytes: usize,
        evict: Weak<Notify>,
    ) -> (u64, bool) {
        let number = self.next;
        self.next += 1;
        self.stalled += bytes;
        let account = self.accounts.entry(cluster.clone()).or_default();
        account.stalled += bytes;
        account.streams.insert(number, StalledStream { bytes, evict });
        // What was granted for streams that do not stall any more is charged as a window until it is used up.
        // A peer that has too much of that could use it twice.
        let may_grow = account.windows <= self.limits.peer && self.windows <= self.limits.process;
        self.enforce(cluster);
        (number, may_grow)
    }

    /// True if the stalled streams of a peer, or of all, hold a good part of what they may.
    pub(super) fn is_pressed(&self, cluster: &ClusterName) -> bool {
        let stalled = self.accounts.get(cluster).map_or(0, |account| account.stalled);
        stalled > self.limits.peer / PRESSED_PART
            || self.stalled > self.limits.process / PRESSED_PART
    }

    /// Ends the stall of a stream.
    pub(super) fn end_stall(&mut self, cluster: &ClusterName, number: u64) {
        self.remove(cluster, number);
        self.forget_if_empty(cluster);
    }

    fn enforce(&mut self, cluster: &ClusterName) {
        while self.accounts.get(cluster).is_some_and(|a| a.stalled > self.limits.peer) {
            self.evict_oldest(cluster);
        }
        while self.stalled > self.limits.process {
            // The peer that holds most pays, so that one cannot starve the others.
            let heaviest = self.accounts.iter().max_by_key(|(_, account)| account.stalled);
            let Some(heaviest) = heaviest.map(|(cluster, _)| cluster.clone()) else { return };
            self.evict_oldest(&heaviest);
        }
    }

    fn evict_oldest(&mut self, cluster: &ClusterName) {
        let account = self.accounts.get(cluster);
        let oldest = account.and_then(|account| account.streams.keys().next().copied());
        let stream = oldest.and_then(|number| self.remove(cluster, number));
        if let Some(evict) = stream.and_then(|stream| stream.evict.upgrade()) {
            evict.notify_one();
        }
    }

    fn remove(&mut self, cluster: &ClusterName, number: u64) -> Option<StalledStream> {
        let account = self.accounts.get_mut(cluster)?;
        let stream = account.streams.remove(&number)?;
        account.stalled -= stream.bytes;
        self.stalled -= stream.bytes;
        Some(stream)
    }

    fn forget_if_empty(&mut self, cluster: &ClusterName) {
        if self.accounts.get(cluster).is_some_and(ClusterAccount::is_empty) {
            self.accounts.remove(cluster);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;

    /// A ledger, and stalled streams by cluster.
    struct LedgerRun(BudgetLedger);

    impl LedgerRun {
        fn new(process: usize, peer: usize) -> Self {
            Self(BudgetLedger::new(BufferLimits { process, peer }))
        }

        fn stall(&mut self, cluster: &str, bytes: usize) -> (u64, Arc<Notify>) {
            let evict = Arc::new(Notify::new());
            let (number, _) =
                self.0.stall(&cluster.parse().unwrap(), bytes, Arc::downgrade(&evict));
            (number, evict)
        }
    }

    fn evicted((_, evict): &(u64, Arc<Notify>)) -> bool {
        evict.notified().now_or_never().is_some()
    }

    #[test]
    fn a_stream_that_goes_on_gives_its_charge_back() {
        let mut ledger = LedgerRun::new(100, 100);
        for _ in 0..10 {
            let stall = ledger.stall("bank", 60);
            assert!(!evicted(&stall));
            ledger.0.end_stall(&"bank".parse().unwrap(), stall.0);
        }
        assert_eq!(ledger.0.charges(), BufferCharges::default());
        assert!(ledger.0.accounts.is_empty(), "nothing is kept of a peer that holds nothing");
    }

    #[test]
    fn the_longest_stalled_stream_of_the_spent_peer_pays() {
        let mut ledger = LedgerRun::new(1000, 100);
        let other = ledger.stall("shop", 40);
        let (first, second, third) =
            (ledger.stall("bank", 40), ledger.stall("bank", 40), ledger.stall("bank", 40));
        assert!(evicted(&first) && !evicted(&second) && !evicted(&third) && !evicted(&other));
        assert_eq!((ledger.0.charges().stalled, ledger.0.charges().streams), (120, 3));
    }

    #[test]
    fn the_heaviest_peer_pays_for_the_process() {
        let mut ledger = LedgerRun::new(100, 80);
        let (heavy1, heavy2) = (ledger.stall("bank", 35), ledger.stall("bank", 35));
        let light = ledger.stall("shop", 35);
        assert!(evicted(&heavy1) && !evicted(&heavy2) && !evicted(&light));
    }

    #[test]
    fn windows_have_bounds_of_their_own() {
        let mut ledger = LedgerRun::new(100, 60);
        let (bank, shop) = ("bank".parse().unwrap(), "shop".parse().unwrap());
        assert!(ledger.0.try_reserve(&bank, 60) && !ledger.0.try_reserve(&bank, 1));
        assert!(
            ledger.0.try_reserve(&shop, 40) && !ledger.0.try_reserve(&shop, 1),
            "the process's"
        );
        let lab = "lab".parse().unwrap();
        assert!(
            ledger.0.try_reserve(&lab, 7) && !ledger.0.try_reserve(&lab, 1),
            "what is promised"
        );
        ledger.0.release(&lab, 7);
        let stall = ledger.stall("bank", 60);
        assert!(!evicted(&stall), "a busy peer has room for a stalled stream");
        ledger.0.release(&bank, 60);
        ledger.0.release(&shop, 40);
        assert_eq!(ledger.0.charges().windows, 0);
        assert!(ledger.0.try_reserve(&bank, 60));
    }

    #[test]
    fn a_peer_with_more_windows_than_its_bound_gets_no_more_for_stalls() {
        let mut ledger = LedgerRun::new(1000, 60);
        let bank: ClusterName = "bank".parse().unwrap();
        let evict = Arc::new(Notify::new());
        assert!(ledger.0.stall(&bank, 10, Arc::downgrade(&evict)).1);
        ledger.0.reserve(&bank, 61);
        assert!(!ledger.0.stall(&bank, 10, Arc::downgrade(&evict)).1);
    }
}
