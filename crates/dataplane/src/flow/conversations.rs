//! Conversations: flows of one source to one target, counted together for whoever looks (`adit top`).
//!
//! A flow joins once policy has allowed it, and its bytes are counted as they pass. A conversation is kept while a flow of it
//! is open and for [`IDLE_LIFETIME`] after the last, so that rates can be told of flows that are shorter than the time between two
//! looks. How many are kept is bounded whatever a peer names: sources beyond [`MAX_OF_CLUSTER`] of one cluster and direction, or
//! beyond [`MAX_NAMED`], are counted together, by target.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_core::policy::Target;
use adit_core::spiffe::Workload;
use adit_runtime::Mutex;
use tokio::time::Instant;

use super::direction::Direction;
use super::{Flow, Flows};

/// A conversation is kept for so long after its last flow began or ended.
const IDLE_LIFETIME: Duration = Duration::from_secs(60);
/// The most conversations whose source is told.
const MAX_NAMED: usize = 1024;
/// The most of these of one other cluster in one direction.
const MAX_OF_CLUSTER: usize = 256;
/// Idle ones are looked for at most this often while there is no room.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A direction, the other cluster, what was asked for, and by whom, where that is told apart.
type ConversationKey = (Direction, ClusterName, Target, Option<Workload>);

/// The flows of one source to one target.
#[derive(Debug)]
pub(super) struct LiveConversation {
    pub(super) sent: Arc<AtomicU64>,
    pub(super) received: Arc<AtomicU64>,
    since: Instant,
    state: Mutex<ConversationState>,
}

#[derive(Debug)]
struct ConversationState {
    open: u64,
    begun: u64,
    ended: BTreeMap<Code, u64>,
    last: Instant,
}

/// All conversations of a process.
#[derive(Debug, Default)]
pub(super) struct Conversations {
    all: HashMap<ConversationKey, Arc<LiveConversation>>,
    /// The number of those whose source is told, by direction and other cluster.
    named: HashMap<(Direction, ClusterName), usize>,
    swept: Option<Instant>,
}

/// A conversation as it is told. All numbers but `open` only grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationTotals {
    /// The direction of its flows.
    pub direction: Direction,
    /// The other cluster.
    pub cluster: ClusterName,
    /// The service that is asked for.
    pub target: Target,
    /// The workload that asks; `None` for many that are counted together.
    pub source: Option<Workload>,
    /// The time for which it is counted.
    pub age: Duration,
    /// Flows that are open.
    pub open: u64,
    /// Flows that have begun.
    pub begun: u64,
    /// Flows that have ended, by code.
    pub ended: BTreeMap<Code, u64>,
    /// Bytes from local workloads to the other cluster.
    pub bytes_sent: u64,
    /// Bytes from the other cluster to local workloads.
    pub bytes_received: u64,
}

/// Conversations, as many as were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConversationList {
    /// Those with the most open flows first, then those of which something was seen last.
    pub told: Vec<ConversationTotals>,
    /// The number of the others, and of their open flows.
    pub untold: (u64, u64),
}

impl LiveConversation {
    fn new(now: Instant) -> Self {
        let state = ConversationState { open: 0, begun: 0, ended: BTreeMap::new(), last: now };
        Self {
            sent: Arc::default(),
            received: Arc::default(),
            since: now,
            state: Mutex::new(state),
        }
    }

    fn begin(&self, now: Instant) {
        let mut state = self.state.lock();
        (state.open, state.begun, state.last) = (state.open + 1, state.begun + 1, now);
    }

    /// Counts the end of a flow.
    pub(super) fn end(&self, code: Code, now: Instant) {
        let mut state = self.state.lock();
        (state.open, state.last) = (state.open.saturating_sub(1), now);
        *state.ended.entry(code).or_default() += 1;
    }

    fn is_idle(&self, now: Instant) -> bool {
        let state = self.state.lock();
        state.open == 0 && now.saturating_duration_since(state.last) >= IDLE_LIFETIME
    }
}

impl Conversations {
    /// The conversation of a flow that begins.
    fn join(&mut self, mut key: ConversationKey, now: Instant) -> Arc<LiveConversation> {
        if !self.all.contains_key(&key) && !self.has_room(&key, now) {
            key.3 = None;
        }
        let (direction, cluster, is_named) = (key.0, key.1.clone(), key.3.is_some());
        let is_new = !self.all.contains_key(&key);
        let one = self.all.entry(key).or_insert_with(|| Arc::new(LiveConversation::new(now)));
        one.begin(now);
        if is_new && is_named {
            *self.named.entry((direction, cluster)).or_default() += 1;
        }
        Arc::clone(one)
    }

    fn has_room(
        &mut self,
        (direction, cluster, _, source): &ConversationKey,
        now: Instant,
    ) -> bool {
        if source.is_none() {
            return true;
        }
        let place = (*direction, cluster.clone());
        let fits = |named: &HashMap<(Direction, ClusterName), usize>| {
            named.get(&place).copied().unwrap_or_default() < MAX_OF_CLUSTER
                && named.values().sum::<usize>() < MAX_NAMED
        };
        if fits(&self.named) {
            return true;
        }
        if self.swept.is_some_and(|last| now.saturating_duration_since(last) < SWEEP_INTERVAL) {
            return false;
        }
        self.sweep(now);
        fits(&self.named)
    }

    /// Forgets those that are idle.
    fn sweep(&mut self, now: Instant) {
        self.swept = Some(now);
        self.all.retain(|_, one| !one.is_idle(now));
        self.named.clear();
        for (direction, cluster, _, source) in self.all.keys() {
            if source.is_some() {
                *self.named.entry((*direction, cluster.clone())).or_default() += 1;
            }
        }
    }
}

impl Flows {
    /// The conversations that are under way, or were within the last minute: at most so many conversations, and how many more there are.
    #[must_use]
    pub fn conversations(&self, max: usize) -> ConversationList {
        let now = Instant::now();
        let mut all: Vec<_> = {
            let mut table = self.table();
            table.conversations.sweep(now);
            let all = table.conversations.all.iter();
            all.map(|(key, one)| (key.clone(), Arc::clone(one))).collect()
        };
        let order = |one: &LiveConversation| {
            let state = one.state.lock();
            (state.open, state.last)
        };
        all.sort_by_cached_key(|(key, one)| (std::cmp::Reverse(order(one)), key.clone()));
        let untold = all.split_off(all.len().min(max));
        let open = untold.iter().map(|(_, one)| one.state.lock().open).sum();
        ConversationList {
            told: all.into_iter().map(|(key, one)| totals(key, &one, now)).collect(),
            untold: (untold.len() as u64, open),
        }
    }
}

fn totals(key: ConversationKey, one: &LiveConversation, now: Instant) -> ConversationTotals {
    let (direction, cluster, target, source) = key;
    let (open, begun, ended) = {
        let state = one.state.lock();
        (state.open, state.begun, state.ended.clone())
    };
    ConversationTotals {
        direction,
        cluster,
        target,
        source,
        age: now.saturating_duration_since(one.since),
        open,
        begun,
        ended,
        bytes_sent: one.sent.load(Relaxed),
        bytes_received: one.received.load(Relaxed),
    }
}

impl Flow {
    /// Counts the flow among those of its source to its target, from now on with its bytes, and tells whoever taps them that it
    /// begins. Never before policy allowed it, and never one that only asks.
    pub(crate) fn join_conversation(&mut self) {
        let (Some((direction, target, cluster)), false) = (&self.group, self.is_probe) else {
            return;
        };
        let source = self.source.as_ref().map(|source| source.workload.clone());
        let key = (*direction, cluster.clone(), target.clone(), source);
        let one = self.flows.table().conversations.join(key, Instant::now());
        self.sent.share(&one.sent);
        self.received.share(&one.received);
        self.conversation = Some(one);
        self.tell_begin();
    }
}

#[cfg(test)]
mod tests {
    use adit_core::policy::Source;

    use super::*;
    use crate::capacity::StreamCapacity;

    fn flows() -> Flows {
        Flows::new(StreamCapacity { all: 1 << 20 })
    }

    fn begin(flows: &Flows, direction: Direction, cluster: &str, account: &str) -> Flow {
        let mut flow = flows.begin(direction, [0; 16]);
        let target =
            Target { service: "agents/fraud-bot".parse().unwrap(), port: "http".parse().unwrap() };
        flow.attribute_to_target(&target, &cluster.parse().unwrap());
        let workload = Workload {
            namespace: "agents".parse().unwrap(),
            service_account: account.parse().unwrap(),
        };
        flow.source = Some(Source { cluster: "edge".parse().unwrap(), workload });
        flow.join_conversation();
        flow
    }

    fn told(flows: &Flows) -> Vec<(String, u64, u64, u64, u64)> {
        let list = flows.conversations(usize::MAX);
        assert_eq!(list.untold, (0, 0));
        let one = |one: ConversationTotals| {
            let source = one.source.map_or_else(String::new, |s| s.service_account.to_string());
            let bytes = (one.bytes_sent, one.bytes_received);
            (source, one.open, one.begun, bytes.0, bytes.1)
        };
        list.told.into_iter().map(one).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn flows_are_counted_by_source_and_target_while_they_run_and_a_minute_longer() {
        let flows = flows();
        let first = begin(&flows, Direction::Outbound, "bank", "support");
        let second = begin(&flows, Direction::Outbound, "bank", "support");
        let other = begin(&flows, Direction::Outbound, "bank", "intern");
        first.sent.add(10);
        second.sent.add(5);
        second.received.add(7);
        assert_eq!(told(&flows), [("support".into(), 2, 2, 15, 7), ("intern".into(), 1, 1, 0, 0)]);
        first.end(Ok(()));
        second.end(Err(Code::BackendReset.into()));
        drop(other);
        let list = flows.conversations(1);
        assert_eq!(list.untold, (1, 0));
        tokio::time::advance(IDLE_LIFETIME / 2).await;
        let again = begin(&flows, Direction::Outbound, "bank", "support");
        let list = flows.conversations(1);
        let ended = [(Code::Finished, 1), (Code::BackendReset, 1)].into();
        assert_eq!((list.told[0].open, list.told[0].begun, &list.told[0].ended), (1, 3, &ended));
        assert_eq!((list.told[0].age, list.untold), (IDLE_LIFETIME / 2, (1, 0)));
        tokio::time::advance(IDLE_LIFETIME / 2).await;
        assert_eq!(told(&flows), [("support".into(), 1, 3, 15, 7)], "the idle one is forgotten");
        again.end(Ok(()));
        tokio::time::advance(IDLE_LIFETIME).await;
        assert_eq!(told(&flows), []);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded_whatever_sources_a_peer_names() {
        let flows = flows();
        let mut kept = Vec::new();
        for n in 0..1000 {
            kept.push(begin(&flows, Direction::Inbound, "mallory", &format!("s{n}")));
        }
        kept.push(begin(&flows, Direction::Inbound, "edge", "honest"));
        let all = told(&flows);
        assert_eq!(all.len(), MAX_OF_CLUSTER + 2);
        assert_eq!((&*all[0].0, all[0].1), ("", 1000 - MAX_OF_CLUSTER as u64), "together");
        assert!(all.iter().any(|one| one.0 == "honest"), "another cluster has its own room");
        // Those that nobody uses any more give their places up.
        kept.clear();
        tokio::time::advance(IDLE_LIFETIME).await;
        let late = begin(&flows, Direction::Inbound, "mallory", "late");
        assert_eq!(told(&flows), [("late".into(), 1, 1, 0, 0)]);
        drop(late);
        for n in 0..20 {
            for account in 0..MAX_OF_CLUSTER {
                kept.push(begin(
                    &flows,
                    Direction::Inbound,
                    &format!("c{n}"),
                    &format!("s{account}"),
                ));
            }
        }
        assert!(told(&flows).len() <= MAX_NAMED + 20, "{}", told(&flows).len());
    }

    #[test]
    fn a_flow_that_only_asks_is_in_no_conversation() {
        let flows = flows();
        let mut flow = flows.begin(Direction::Inbound, [0; 16]);
        flow.mark_probe();
        flow.join_conversation();
        assert_eq!(flows.conversations(9), ConversationList::default());
    }
}
