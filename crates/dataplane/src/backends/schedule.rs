//! When this node dials backends of its own accord, and which comes next.
//!
//! Every backend is dialled once, so that what nobody answers at is known before a client finds out, and again while
//! it does not answer; where its export asks for it, one that answers as well. Tenants say how many backends there
//! are, and each namespace can make all of its own refuse or swallow every dial. So each has a pace and a number of
//! dials under way of its own, the namespaces take turns, and all together have a pace as well. A backend of another
//! node is dialled by that node and by hubs alone: how often it is dialled does not grow with the cluster.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use adit_core::backoff::Backoff;
use adit_core::name::Namespace;
use tokio::time::Instant;

/// A backend that nobody has dialled yet is dialled this long after it was first seen: peers are told of a new one
/// only then, and many are new at once.
const FIRST_DELAY: Duration = Duration::from_millis(50);
/// The pauses between two dials of a backend that is down.
const DIAL_BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
/// Dials under way at once, so that a thousand backends that went down are no storm.
pub(super) const MAX_PROBES: usize = 32;
/// The same of one namespace: those of others must not wait for dials that nobody answers.
const MAX_NAMESPACE_PROBES: usize = 8;
/// The least time between two dials.
const ANY_INTERVAL: Duration = Duration::from_millis(2);
/// The least time between two dials of one namespace after one of what was dialled before.
const AGAIN_INTERVAL: Duration = Duration::from_millis(10);

/// The probes that an export asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedProbes {
    /// The namespace of the export.
    pub(super) namespace: Namespace,
    /// The time between dials while it answers.
    pub(super) interval: Option<Duration>,
    /// True if it is dialled before a stream has failed to.
    pub(super) is_probed: bool,
}

/// A backend, and when to dial it.
#[derive(Debug)]
struct ScheduledBackend {
    planned: PlannedProbes,
    /// When it is dialled next; `None` while that is under way or not wanted.
    due: Option<Instant>,
    /// Dials in a row that failed.
    failures: u32,
}

/// The backends of one namespace.
#[derive(Debug, Default)]
struct NamespaceQueue {
    due: BTreeSet<(Instant, SocketAddr)>,
    under_way: usize,
    /// When the next dial may begin.
    next: Option<Instant>,
}

impl NamespaceQueue {
    /// When its next dial can begin.
    fn ready_at(&self) -> Option<Instant> {
        let (due, _) = self.due.first()?;
        (self.under_way < MAX_NAMESPACE_PROBES).then(|| self.next.map_or(*due, |at| at.max(*due)))
    }
}

/// All backends that this node may dial.
#[derive(Debug, Default)]
pub(super) struct ProbeSchedule {
    entries: HashMap<SocketAddr, ScheduledBackend>,
    queues: BTreeMap<Namespace, NamespaceQueue>,
    under_way: usize,
    /// When the next dial of any may begin.
    next: Option<Instant>,
}

impl ProbeSchedule {
    /// Takes up what is new in `plan`, and forgets what is not in it. What `is_known` already is not dialled first.
    pub(super) fn plan(
        &mut self,
        plan: &BTreeMap<SocketAddr, PlannedProbes>,
        is_known: impl Fn(&SocketAddr) -> bool,
        now: Instant,
    ) {
        let gone = |(address, entry): (&SocketAddr, &ScheduledBackend)| {
            (plan.get(address) != Some(&entry.planned)).then_some(*address)
        };
        let gone: Vec<SocketAddr> = self.entries.iter().filter_map(gone).collect();
        let mut failures = HashMap::new();
        for address in gone {
            self.set_due(address, None);
            // What changed is another plan for the same backend.
            failures.extend(self.entries.remove(&address).map(|e| (address, e.failures)));
        }
        for (address, planned) in plan {
            if self.entries.contains_key(address) {
                continue;
            }
            let failures = failures.get(address).copied().unwrap_or_default();
            let entry = ScheduledBackend { planned: planned.clone(), due: None, failures };
            self.entries.insert(*address, entry);
            let due = match planned.interval {
                _ if failures > 0 => Some(now + DIAL_BACKOFF.max),
                _ if !planned.is_probed => None,
                Some(interval) if is_known(address) => Some(now + interval),
                None if is_known(address) => None,
                Some(_) | None => Some(now + FIRST_DELAY),
            };
            self.set_due(*address, due);
        }
        self.queues.retain(|_, queue| !queue.due.is_empty() || queue.under_way > 0);
    }

    /// True if it is one of those that this node may dial.
    pub(super) fn contains(&self, backend: SocketAddr) -> bool {
        self.entries.contains_key(&backend)
    }

    /// When the next dial can begin; `None` if an outcome has to come first, or there is nothing to dial.
    pub(super) fn next(&self) -> Option<Instant> {
        let ready = self.queues.values().filter_map(NamespaceQueue::ready_at).min();
        let ready = ready.filter(|_| self.under_way < MAX_PROBES)?;
        Some(self.next.map_or(ready, |next| next.max(ready)))
    }

    /// The backend to dial now, if one is due, and whose it is: of the namespace that has waited for longest.
    pub(super) fn start(&mut self, now: Instant) -> Option<(SocketAddr, Namespace)> {
        if self.under_way >= MAX_PROBES || self.next.is_some_and(|next| next > now) {
            return None;
        }
        let ready =
            self.queues.iter_mut().filter(|(_, l)| l.ready_at().is_some_and(|at| at <= now));
        let (namespace, queue) = ready.min_by_key(|(_, queue)| queue.next)?;
        let (_, address) = queue.due.pop_first()?;
        let entry = self.entries.get_mut(&address)?;
        entry.due = None;
        let pace = if entry.failures == 0 { ANY_INTERVAL } else { AGAIN_INTERVAL };
        self.next = Some(now + ANY_INTERVAL);
        queue.next = Some(now + pace);
        queue.under_way += 1;
        self.under_way += 1;
        Some((address, namespace.clone()))
    }

    /// Takes note that a dial that [`Self::start`] gave is over.
    pub(super) fn end(&mut self, namespace: &Namespace) {
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(queue) = self.queues.get_mut(namespace) {
            queue.under_way = queue.under_way.saturating_sub(1);
        }
    }

    /// Takes what a dial found, whoever made it. `None` is no news of the backend: this node could not dial.
    pub(super) fn record(&mut self, backend: SocketAddr, answered: Option<bool>, now: Instant) {
        let Some(entry) = self.entries.get_mut(&backend) else { return };
        let due = match answered {
            Some(true) => {
                entry.failures = 0;
                let interval = entry.planned.interval.filter(|_| entry.planned.is_probed);
                interval.map(|interval| now + interval)
            }
            Some(false) => {
                let pause = DIAL_BACKOFF.delay(entry.failures);
                entry.failures = entry.failures.saturating_add(1);
                Some(now + pause)
            }
            None => entry.planned.is_probed.then(|| now + DIAL_BACKOFF.max),
        };
        self.set_due(backend, due);
    }

    fn set_due(&mut self, backend: SocketAddr, due: Option<Instant>) {
        let Some(entry) = self.entries.get_mut(&backend) else { return };
        let queue = self.queues.entry(entry.planned.namespace.clone()).or_default();
        if let Some(before) = std::mem::replace(&mut entry.due, due) {
            queue.due.remove(&(before, backend));
        }
        queue.due.extend(due.map(|at| (at, backend)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> SocketAddr {
        SocketAddr::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into(), 80)
    }

    fn plan(namespaces: &[(&str, u32)]) -> BTreeMap<SocketAddr, PlannedProbes> {
        let mut all = BTreeMap::new();
        for (name, count) in namespaces {
            let namespace = name.parse().unwrap();
            let planned = PlannedProbes { namespace, interval: None, is_probed: true };
            let first = u32::try_from(all.len()).unwrap();
            all.extend((first..first + count).map(|n| (address(n), planned.clone())));
        }
        all
    }

    /// Every dial that begins within so long: when, whose, of what. Each takes a time and is answered or not, as
    /// `dial` says of its namespace.
    fn run(
        schedule: &mut ProbeSchedule,
        (begin, long): (Instant, Duration),
        dial: impl Fn(&str) -> (Duration, bool),
    ) -> Vec<(Duration, String, SocketAddr)> {
        let (mut now, mut begun) = (begin, Vec::new());
        let mut under_way: BTreeMap<(Instant, SocketAddr), Namespace> = BTreeMap::new();
        while now < begin + long {
            while under_way.first_key_value().is_some_and(|((end, _), _)| *end <= now) {
                let ((_, backend), namespace) = under_way.pop_first().unwrap();
                schedule.end(&namespace);
                schedule.record(backend, Some(dial(namespace.as_str()).1), now);
            }
            while let Some((backend, namespace)) = schedule.start(now) {
                begun.push((now - begin, namespace.to_string(), backend));
                under_way.insert((now + dial(namespace.as_str()).0, backend), namespace);
            }
            assert!(under_way.len() <= MAX_PROBES);
            now += Duration::from_millis(1);
        }
        begun
    }

    const AT_ONCE: (Duration, bool) = (Duration::ZERO, true);

    #[test]
    fn each_backend_is_dialled_once_and_again_only_while_it_does_not_answer() {
        let (mut schedule, begin) = (ProbeSchedule::default(), Instant::now());
        schedule.plan(&plan(&[("a", 3), ("b", 2)]), |backend| *backend == address(0), begin);
        let answer = |namespace: &str| (Duration::ZERO, namespace == "a");
        let begun = run(&mut schedule, (begin, Duration::from_secs(60)), answer);
        let count = |n: u32| begun.iter().filter(|(_, _, b)| *b == address(n)).count();
        assert_eq!(
            [count(0), count(1), count(2)],
            [0, 1, 1],
            "a stream has reached the first already"
        );
        assert!((14..18).contains(&count(3)), "{}", count(3));
        assert!(begun.iter().all(|(at, _, _)| *at >= FIRST_DELAY));
        // A change of the plan begins nothing anew.
        let end = begin + Duration::from_secs(60);
        schedule.plan(&plan(&[("a", 3), ("b", 2)]), |_| false, end);
        let begun = run(&mut schedule, (end, DIAL_BACKOFF.max), answer);
        assert!(begun.iter().all(|(_, namespace, _)| namespace == "b"), "{begun:?}");
        schedule.plan(&plan(&[("a", 3)]), |_| false, end);
        assert_eq!(run(&mut schedule, (end, Duration::from_secs(9)), answer), []);
    }

    #[test]
    fn a_namespace_whose_backends_refuse_or_swallow_all_is_no_storm_and_holds_up_nobody() {
        let (refuses, swallows) = ((Duration::ZERO, false), (Duration::from_secs(5), false));
        for (worst, most) in
            [(refuses, 60 * 100 + 20_000), (swallows, 60 / 5 * MAX_NAMESPACE_PROBES)]
        {
            let (mut schedule, begin) = (ProbeSchedule::default(), Instant::now());
            schedule.plan(&plan(&[("enemy", 20_000), ("victim", 100)]), |_| false, begin);
            let dial = |namespace: &str| if namespace == "enemy" { worst } else { AT_ONCE };
            let begun = run(&mut schedule, (begin, Duration::from_secs(60)), dial);
            let of = |name: &str| begun.iter().filter(|(_, n, _)| n == name).collect::<Vec<_>>();
            assert!(of("enemy").len() <= most, "{}", of("enemy").len());
            let victim = of("victim");
            assert_eq!(victim.len(), 100);
            let last = victim.last().unwrap().0;
            assert!(last <= FIRST_DELAY + Duration::from_secs(1), "{last:?}");
        }
    }

    #[test]
    fn ten_thousand_dead_backends_of_a_hundred_tenants_are_a_bounded_rate() {
        let (mut schedule, begin) = (ProbeSchedule::default(), Instant::now());
        let names: Vec<String> = (0..100).map(|n| format!("enemy-{n}")).collect();
        let enemies = names.iter().map(|name| (&**name, 100));
        let all: Vec<_> = enemies.chain([("victim", 1)]).collect();
        schedule.plan(&plan(&all), |_| false, begin);
        let dead = |_: &str| (Duration::ZERO, false);
        let begun = run(&mut schedule, (begin, Duration::from_secs(60)), dead);
        assert!(begun.len() <= 60 * 500, "{}", begun.len());
        let victim: Vec<_> = begun.iter().filter(|(_, n, _)| n == "victim").collect();
        let pauses = victim.windows(2).map(|w| w[1].0 - w[0].0);
        assert!(victim.len() >= 10 && pauses.max().unwrap() < Duration::from_secs(6));
        // No backend is dialled more often than its backoff says, whatever others do.
        let mut counts: HashMap<SocketAddr, usize> = HashMap::new();
        begun.iter().for_each(|(_, _, backend)| *counts.entry(*backend).or_default() += 1);
        assert!(counts.values().all(|count| *count <= 17), "{:?}", counts.values().max());
    }

    #[test]
    fn what_other_nodes_probe_is_dialled_only_after_a_stream_has_failed_to() {
        let (mut schedule, begin) = (ProbeSchedule::default(), Instant::now());
        let mut all = plan(&[("a", 2)]);
        all.values_mut().for_each(|planned| planned.is_probed = false);
        schedule.plan(&all, |_| false, begin);
        assert_eq!(schedule.next(), None);
        schedule.record(address(0), Some(false), begin);
        assert_eq!(schedule.next(), Some(begin + DIAL_BACKOFF.first));
        let begun = run(&mut schedule, (begin, Duration::from_secs(60)), |_| AT_ONCE);
        assert_eq!(begun.len(), 1, "it answers again");
        // Another plan for the same backends: this node has become a hub.
        let end = begin + Duration::from_secs(60);
        schedule.plan(&plan(&[("a", 2)]), |backend| *backend == address(0), end);
        let begun = run(&mut schedule, (end, Duration::from_secs(9)), |_| AT_ONCE);
        assert_eq!(begun.iter().map(|(_, _, b)| *b).collect::<Vec<_>>(), [address(1)]);
    }

    #[test]
    fn what_this_node_cannot_dial_is_tried_again_without_a_failure() {
        let (mut schedule, begin) = (ProbeSchedule::default(), Instant::now());
        schedule.plan(&plan(&[("a", 1)]), |_| false, begin);
        let (backend, namespace) = schedule.start(begin + FIRST_DELAY).unwrap();
        schedule.end(&namespace);
        schedule.record(backend, None, begin + FIRST_DELAY);
        assert_eq!(schedule.next(), Some(begin + FIRST_DELAY + DIAL_BACKOFF.max));
    }
}
