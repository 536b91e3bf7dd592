//! In which order the processes of each node connected: whether two of them take turns.
//!
//! A process has a boot ID of its own, and a process that was replaced does not come back: a restart begins a
//! new one, and a process that has handed over makes no more connections. If two boot IDs of one name both
//! come back after the other had been there for a while, two processes have one identity, though they may
//! never be seen side by side ([`crate::links::duplicate_identity`]): an address that leads to one and then
//! to the other, a machine that is cut off by turns.

use std::collections::BTreeMap;
use std::time::Duration;

use adit_core::name::{ClusterName, NodeKey, NodeName};
use tokio::time::Instant;

use super::recent_nodes::RecentNodes;
use crate::peer::BootId;

/// From a process's first connection to when one before it that connects again has come back: a hand-over, in which
/// both connect, is long over.
const RETURN_DELAY: Duration = Duration::from_secs(60);
/// Time for which a return counts, from when the process came back.
const ALTERNATION_LIFETIME: Duration = Duration::from_secs(600);
/// Processes of one node that are remembered.
const MAX_BOOTS: usize = 4;

/// The order in which the processes of nodes connected, as far as [`RecentNodes`] keeps it.
#[derive(Debug)]
pub(crate) struct BootHistory(RecentNodes<Vec<BootRecord>>);

/// A process of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BootRecord {
    boot: BootId,
    /// The times of its first connection and of its last.
    first: Instant,
    last: Instant,
    /// The time at which it came back after another had been there.
    returned_at: Option<Instant>,
}

impl Default for BootHistory {
    fn default() -> Self {
        Self(RecentNodes::new(ALTERNATION_LIFETIME))
    }
}

impl BootHistory {
    /// Records that a connection with this process of a node was made now.
    pub(crate) fn record_connection(&self, key: &NodeKey, is_announced: bool, boot: BootId) {
        let mut history = self.0.get(key).unwrap_or_default();
        record_boot(&mut history, boot, Instant::now());
        self.0.insert(key, is_announced, history);
    }

    /// Two processes of the node that take turns, the one that came last first.
    pub(crate) fn alternating(&self, key: &NodeKey) -> Option<[BootId; 2]> {
        alternating_pair(&self.0.get(key)?)
    }

    /// All nodes of a cluster whose processes take turns.
    pub(crate) fn all(&self, cluster: &ClusterName) -> BTreeMap<NodeName, [BootId; 2]> {
        let all = self.0.all(cluster).into_iter();
        all.filter_map(|(node, history)| Some((node, alternating_pair(&history)?))).collect()
    }

    /// Forgets the clusters that `keep` does not want.
    pub(crate) fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.0.retain(keep);
    }
}

fn record_boot(history: &mut Vec<BootRecord>, boot: BootId, now: Instant) {
    let before = history.iter().find(|seen| seen.boot == boot).copied();
    let Some(before) = before else {
        history.push(BootRecord { boot, first: now, last: now, returned_at: None });
        if history.len() > MAX_BOOTS
            && let Some(oldest) = (0..history.len()).min_by_key(|n| history[*n].last)
        {
            history.remove(oldest);
        }
        return;
    };
    let is_back = history.iter().any(|other| {
        other.boot != boot && other.last > before.last && other.first + RETURN_DELAY <= now
    });
    for seen in history.iter_mut().filter(|seen| seen.boot == boot) {
        seen.last = now;
        if is_back {
            seen.returned_at = Some(now);
        }
    }
}

fn alternating_pair(history: &[BootRecord]) -> Option<[BootId; 2]> {
    let lately =
        |seen: &&BootRecord| seen.returned_at.is_some_and(|at| at.elapsed() < ALTERNATION_LIFETIME);
    let mut back: Vec<&BootRecord> = history.iter().filter(lately).collect();
    back.sort_by_key(|seen| std::cmp::Reverse(seen.last));
    match back[..] {
        [one, other, ..] => Some([one.boot, other.boot]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pair that is found if these boots connect, each so many seconds after the one before.
    async fn found(connections: &[(u8, u64)]) -> Option<[BootId; 2]> {
        let history = BootHistory::default();
        let key = NodeKey::new(&"bank".parse().unwrap(), &"b1".parse().unwrap());
        for (boot, after) in connections {
            tokio::time::advance(Duration::from_secs(*after)).await;
            history.record_connection(&key, true, BootId([*boot; 16]));
        }
        history.alternating(&key)
    }

    #[tokio::test(start_paused = true)]
    async fn two_that_both_come_back_take_turns_however_fast() {
        let both = Some([BootId([2; 16]), BootId([1; 16])]);
        assert_eq!(found(&[(1, 0), (2, 100), (1, 100), (2, 100)]).await, both);
        let fast: Vec<_> = (0..80).map(|n| (1 + n % 2, 1)).collect();
        assert_eq!(found(&fast).await, both);
        assert_eq!(found(&fast[..60]).await, None, "it could be a hand-over yet");
    }

    #[tokio::test(start_paused = true)]
    async fn neither_restarts_nor_handovers_nor_a_handover_that_fails_are_turns() {
        // A crash loop.
        let restarts: Vec<_> = (1..200).map(|n| (n, 10)).collect();
        assert_eq!(found(&restarts).await, None);
        // The old one connects some more after the new one did.
        let handover = [(1, 0), (2, 1000), (1, 5), (2, 5), (1, 20), (2, 1), (2, 600), (3, 10)];
        assert_eq!(found(&handover).await, None);
        // Each successor dies, and the old one goes on.
        let failing: Vec<_> = (2..40).flat_map(|n| [(n, 70), (1, 70)]).collect();
        assert_eq!(found(&failing).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_that_have_ended_are_forgotten() {
        let mut long = vec![(1, 0), (2, 100), (1, 100), (2, 100)];
        long.extend([(2, 300), (2, 301)]);
        assert_eq!(found(&long).await, None);
    }
}
