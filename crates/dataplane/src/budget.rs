//! How much memory stalled streams may hold, per peer and in all.
//!
//! A stream whose workload does not read holds up to its window of received bytes. Nothing bounds that
//! per connection on purpose: a connection-wide window would let some stalled streams stop all others.
//! So each stalled stream is charged its window here, and when a peer's or the process's budget is spent,
//! the one that has stalled for longest is reset ([`Code::OverBudget`](adit_core::code::Code::OverBudget)).
//! While there is budget a stream may stall for as long as it likes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use adit_core::name::ClusterName;
use tokio::sync::Notify;

/// The budgets of one process.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Mutex<Ledger>>);

/// Bounds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// What all stalled streams together may hold.
    pub process: usize,
    /// What the stalled streams of one peer cluster may hold, however many nodes it has.
    pub peer: usize,
}

#[derive(Debug)]
struct Ledger {
    bounds: Bounds,
    charged: usize,
    next: u64,
    /// What each peer is charged, and its stalled streams by age.
    peers: HashMap<ClusterName, Account>,
}

#[derive(Debug, Default)]
struct Account {
    charged: usize,
    stalled: BTreeMap<u64, Stalled>,
}

#[derive(Debug)]
struct Stalled {
    window: usize,
    evict: Weak<Notify>,
}

/// One stream's way to its peer's budget.
#[derive(Debug)]
pub struct PeerBudget {
    budget: Budget,
    peer: ClusterName,
    window: usize,
}

/// A stream that is stalled, for as long as this lives.
#[derive(Debug)]
pub struct Stall<'a> {
    account: &'a PeerBudget,
    number: u64,
    evict: Arc<Notify>,
}

impl Budget {
    /// Nothing charged yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let ledger = Ledger { bounds, charged: 0, next: 0, peers: HashMap::new() };
        Self(Arc::new(Mutex::new(ledger)))
    }

    /// A stream with `peer` whose window is `window` bytes.
    #[must_use]
    pub fn of(&self, peer: &ClusterName, window: usize) -> PeerBudget {
        PeerBudget { budget: self.clone(), peer: peer.clone(), window }
    }

    /// What stalled streams are charged at present, in bytes, and how many they are.
    #[must_use]
    pub fn charged(&self) -> (usize, usize) {
        let ledger = self.ledger();
        (ledger.charged, ledger.peers.values().map(|a| a.stalled.len()).sum())
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        // The ledger is only ever changed by code that cannot panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerBudget {
    /// Charges the stream's window until the result is dropped.
    #[must_use]
    pub fn stall(&self) -> Stall<'_> {
        let evict = Arc::new(Notify::new());
        let mut ledger = self.budget.ledger();
        let number = ledger.next;
        ledger.next += 1;
        ledger.charged += self.window;
        let account = ledger.peers.entry(self.peer.clone()).or_default();
        account.charged += self.window;
        let stalled = Stalled { window: self.window, evict: Arc::downgrade(&evict) };
        account.stalled.insert(number, stalled);
        ledger.enforce(&self.peer);
        drop(ledger);
        Stall { account: self, number, evict }
    }
}

impl Ledger {
    fn enforce(&mut self, peer: &ClusterName) {
        while self.peers.get(peer).is_some_and(|a| a.charged > self.bounds.peer) {
            self.evict_oldest(peer);
        }
        while self.charged > self.bounds.process {
            // The peer that holds most pays, so that one cannot starve the others.
            let heaviest = self.peers.iter().max_by_key(|(_, a)| a.charged).map(|(p, _)| p.clone());
            let Some(heaviest) = heaviest else { return };
            self.evict_oldest(&heaviest);
        }
    }

    fn evict_oldest(&mut self, peer: &ClusterName) {
        let oldest = self.peers.get(peer).and_then(|a| a.stalled.keys().next().copied());
        let stalled = oldest.and_then(|number| self.release(peer, number));
        if let Some(evict) = stalled.and_then(|s| s.evict.upgrade()) {
            evict.notify_one();
        }
    }

    fn release(&mut self, peer: &ClusterName, number: u64) -> Option<Stalled> {
        let account = self.peers.get_mut(peer)?;
        let stalled = account.stalled.remove(&number)?;
        account.charged -= stalled.window;
        self.charged -= stalled.window;
        if account.stalled.is_empty() {
            self.peers.remove(peer);
        }
        Some(stalled)
    }
}

impl Stall<'_> {
    /// Waits until the budget wants this stream's memory back.
    pub async fn evicted(&self) {
        self.evict.notified().await;
    }
}

impl Drop for Stall<'_> {
    fn drop(&mut self) {
        self.account.budget.ledger().release(&self.account.peer, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn budget(process: usize, peer: usize) -> Budget {
        Budget::new(Bounds { process, peer })
    }

    fn of(budget: &Budget, peer: &str, window: usize) -> PeerBudget {
        budget.of(&peer.parse().unwrap(), window)
    }

    fn evicted(stall: &Stall<'_>) -> bool {
        stall.evicted().now_or_never().is_some()
    }

    #[test]
    fn what_goes_on_gives_its_charge_back() {
        let budget = budget(100, 100);
        let stream = of(&budget, "bank", 60);
        for _ in 0..10 {
            let stall = stream.stall();
            assert!(!evicted(&stall));
        }
        assert_eq!(budget.charged(), (0, 0));
    }

    #[test]
    fn the_longest_stalled_of_the_spent_peer_pays() {
        let budget = budget(1000, 100);
        let (a, b) = (of(&budget, "bank", 40), of(&budget, "shop", 40));
        let other = b.stall();
        let (first, second, third) = (a.stall(), a.stall(), a.stall());
        assert!(evicted(&first) && !evicted(&second) && !evicted(&third) && !evicted(&other));
        assert_eq!(budget.charged(), (120, 3));
        drop((first, second, third, other));
        assert_eq!(budget.charged(), (0, 0));
    }

    #[test]
    fn the_heaviest_peer_pays_for_the_process() {
        let budget = budget(100, 80);
        let (a, b) = (of(&budget, "bank", 35), of(&budget, "shop", 35));
        let (heavy1, heavy2) = (a.stall(), a.stall());
        let light = b.stall();
        assert!(evicted(&heavy1) && !evicted(&heavy2) && !evicted(&light));
    }
}
