//! Flows that were refused of late, by target, source and reason: what status says while callers are refused. Those
//! that were reset for their memory are among them: that is how it is said who takes too much of it.
//!
//! A series ends when its source is served again; if it is refused again soon after, some of its connections are served and
//! some are not, and the series goes on. It is shown for [`SHOWN_LIFETIME`] after its last refusal, or for twice
//! as long as its source last paused between two of them, so that one that asks now and then does not come and go; and
//! it is forgotten after [`RECENT_LIFETIME`]. While connections to a target are refused for one reason, their number
//! never falls from one account to the next: what series that ended have counted is told without a source. How much is kept is bounded whatever a tenant or a peer asks for: sources beyond [`MAX_SOURCES`] of one target are
//! counted together, as are series beyond [`MAX_SERIES`], of which one peer cluster fills no more than
//! [`MAX_INBOUND`].

use std::collections::BTreeMap;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_core::policy::Target;
use adit_core::spiffe::Workload;
use adit_core::wire::report::RefusalSeries;
use tokio::time::Instant;

use super::direction::Direction;

/// A series is shown for this long after its last refusal at least.
const SHOWN_LIFETIME: Duration = Duration::from_secs(8);
/// A series is kept for this long after its last refusal, and shown at most.
const RECENT_LIFETIME: Duration = Duration::from_secs(60);
/// The most sources of one target that are told apart.
const MAX_SOURCES: usize = 8;
/// The most series.
const MAX_SERIES: usize = 256;
/// The most series of what the nodes of one peer cluster asked for.
const MAX_INBOUND: usize = 32;

/// Whom something was refused: a direction, the other cluster, what was asked for, and by whom, where that is
/// known and told apart.
pub(super) type RefusalKey = (Direction, ClusterName, Target, Option<Workload>);

#[derive(Debug)]
struct RefusalTally {
    count: u64,
    first: Instant,
    last: Instant,
    /// The pause of the source before its last one.
    pause: Duration,
    reason: String,
    /// The source was served since the last.
    was_served: bool,
    /// The source was served between two of them: that it was served once more ends nothing.
    is_mixed: bool,
}

/// Refusals of one target for one reason, as they were told.
type TargetReason = (Direction, ClusterName, Target, Code);

/// The number that was told of a target and reason, so that it never falls.
#[derive(Debug, Clone, Copy)]
struct ToldTotal {
    total: u64,
    /// The sum over series, when it was told.
    sum: u64,
    first: Instant,
}

impl RefusalTally {
    fn is_shown(&self, now: Instant) -> bool {
        if self.was_served && !self.is_mixed {
            return false;
        }
        let lifetime = SHOWN_LIFETIME.max(self.pause * 2).min(RECENT_LIFETIME);
        now.saturating_duration_since(self.last) < lifetime
    }
}

/// The refusals of late.
#[derive(Debug, Default)]
pub(super) struct RecentRefusals {
    all: BTreeMap<RefusalKey, BTreeMap<Code, RefusalTally>>,
    /// Those for which there was no place, and when the last was.
    others: Option<(u64, Instant)>,
    told: BTreeMap<TargetReason, ToldTotal>,
}

impl RecentRefusals {
    /// Counts one.
    pub(super) fn note(&mut self, mut asker: RefusalKey, code: Code, reason: &str, now: Instant) {
        if !self.has_room(&mut asker) {
            self.forget(now);
            self.forget_served();
            if !self.has_room(&mut asker) {
                let (count, last) = self.others.get_or_insert((0, now));
                (*count, *last) = (*count + 1, now);
                return;
            }
        }
        let first = || {
            let (pause, reason) = (Duration::ZERO, String::new());
            let (was_served, is_mixed) = (false, false);
            RefusalTally { count: 0, first: now, last: now, pause, reason, was_served, is_mixed }
        };
        let series = self.all.entry(asker).or_default().entry(code).or_insert_with(first);
        let pause = now.saturating_duration_since(series.last);
        if series.was_served && pause >= SHOWN_LIFETIME {
            *series = first();
        } else if series.was_served {
            (series.was_served, series.is_mixed) = (false, true);
        }
        series.pause = pause;
        (series.count, series.last) = (series.count + 1, now);
        reason.clone_into(&mut series.reason);
    }

    /// A source was served: nothing that was refused to it before is wrong any more, but for limits, which refuse
    /// some and serve others.
    pub(super) fn served(&mut self, asker: &RefusalKey) {
        let Some(series) = self.all.get_mut(asker) else { return };
        let is_limit = |code: &Code| matches!(code, Code::OverLimit | Code::OverBudget);
        for (_, series) in series.iter_mut().filter(|(code, _)| !is_limit(code)) {
            series.was_served = true;
        }
    }

    /// Those of late, outbound ones first and of these the most first, and how many more there were.
    pub(super) fn recent(&mut self, now: Instant) -> (Vec<RefusalSeries>, u64) {
        self.forget(now);
        let ago = |at: Instant| {
            u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX)
        };
        let all = self.all.iter().flat_map(|(asker, codes)| codes.iter().map(move |c| (asker, c)));
        let mut all: Vec<RefusalSeries> = all
            .filter(|(_, (_, series))| series.is_shown(now))
            .map(|((direction, cluster, target, source), (code, series))| RefusalSeries {
                is_inbound: *direction == Direction::Inbound,
                cluster: cluster.clone(),
                target: target.clone(),
                code: *code,
                source: source.clone(),
                count: series.count,
                first_ms: ago(series.first),
                last_ms: ago(series.last),
                sentence: if series.reason.is_empty() {
                    code.text().to_owned()
                } else {
                    series.reason.clone()
                },
            })
            .collect();
        self.complete(&mut all, now);
        all.sort_by_key(|series| (series.is_inbound, std::cmp::Reverse(series.count)));
        (all, self.others.map_or(0, |(count, _)| count))
    }

    /// Adds what series that are not shown any more have counted, to the one without a source.
    fn complete(&mut self, all: &mut Vec<RefusalSeries>, now: Instant) {
        let mut sums: BTreeMap<TargetReason, Vec<RefusalSeries>> = BTreeMap::new();
        for series in all.drain(..) {
            let direction =
                if series.is_inbound { Direction::Inbound } else { Direction::Outbound };
            let (cluster, target) = (series.cluster.clone(), series.target.clone());
            sums.entry((direction, cluster, target, series.code)).or_default().push(series);
        }
        self.told.retain(|key, _| sums.contains_key(key));
        for (key, mut group) in sums {
            let sum = group.iter().map(|series| series.count).sum();
            let first_ms = group.iter().map(|series| series.first_ms).max().unwrap_or_default();
            let first = now.checked_sub(Duration::from_millis(first_ms)).unwrap_or(now);
            let told = self.told.entry(key).or_insert(ToldTotal { total: sum, sum, first });
            told.total = told.total.saturating_add(sum.saturating_sub(told.sum));
            (told.sum, told.first) = (sum, told.first.min(first));
            let ended = told.total.saturating_sub(sum);
            let first_ms = now.saturating_duration_since(told.first).as_millis();
            let first_ms = u64::try_from(first_ms).unwrap_or(u64::MAX);
            if ended > 0 {
                match group.iter_mut().find(|series| series.source.is_none()) {
                    Some(nameless) => {
                        nameless.count = nameless.count.saturating_add(ended);
                        nameless.first_ms = nameless.first_ms.max(first_ms);
                    }
                    None => {
                        let newest = group.iter().min_by_key(|series| series.last_ms).cloned();
                        let (source, count) = (None, ended);
                        let nameless = newest.map(|newest| RefusalSeries {
                            source,
                            count,
                            first_ms,
                            ..newest
                        });
                        group.extend(nameless);
                    }
                }
            }
            all.append(&mut group);
        }
    }

    /// True if there is room for the asker; one whose source is one too many is counted without it.
    fn has_room(&self, asker: &mut RefusalKey) -> bool {
        if self.all.contains_key(asker) {
            return true;
        }
        let (direction, cluster, target, _) = &*asker;
        let (direction, cluster) = (*direction, cluster.clone());
        let of_target = |key: &RefusalKey| (key.0, &key.1, &key.2) == (direction, &cluster, target);
        if self.all.keys().filter(|key| of_target(key)).count() >= MAX_SOURCES {
            asker.3 = None;
            if self.all.contains_key(asker) {
                return true;
            }
        }
        let of_peer = |key: &&RefusalKey| (key.0, &key.1) == (Direction::Inbound, &cluster);
        let is_full = direction == Direction::Inbound
            && self.all.keys().filter(of_peer).count() >= MAX_INBOUND;
        !is_full && self.all.len() < MAX_SERIES
    }

    /// Whoever is served leaves his place to those who are not.
    fn forget_served(&mut self) {
        self.all.retain(|_, codes| {
            codes.retain(|_, series| !series.was_served || series.is_mixed);
            !codes.is_empty()
        });
    }

    fn forget(&mut self, now: Instant) {
        let is_recent = |last: Instant| now.saturating_duration_since(last) < RECENT_LIFETIME;
        self.all.retain(|_, codes| {
            codes.retain(|_, series| is_recent(series.last));
            !codes.is_empty()
        });
        self.others = self.others.filter(|(_, last)| is_recent(*last));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const STEP_INTERVAL: Duration = Duration::from_secs(1);

    /// Whom `agents/aN` was refused, by numbers.
    pub(in crate::flow) fn asker(
        direction: Direction,
        service: usize,
        source: Option<usize>,
    ) -> RefusalKey {
        let service = format!("agents/a{service}").parse().unwrap();
        let target = Target { service, port: "http".parse().unwrap() };
        let source = source.map(|n| Workload {
            namespace: "agents".parse().unwrap(),
            service_account: format!("s{n}").parse().unwrap(),
        });
        (direction, "bank".parse().unwrap(), target, source)
    }

    #[test]
    fn a_series_lasts_until_its_source_is_served_or_gives_up() {
        let (mut all, begin) = (RecentRefusals::default(), Instant::now());
        let one = asker(Direction::Outbound, 1, Some(1));
        for second in 0..5 {
            all.note(one.clone(), Code::Denied, "no grant", begin + second * STEP_INTERVAL);
        }
        let told = |all: &mut RecentRefusals, second| {
            let (recent, _) = all.recent(begin + second * STEP_INTERVAL);
            recent.iter().map(|s| (s.code, s.count, s.first_ms, s.last_ms)).collect::<Vec<_>>()
        };
        assert_eq!(told(&mut all, 10), [(Code::Denied, 5, 10_000, 6000)]);
        all.served(&asker(Direction::Outbound, 1, Some(2)));
        assert_eq!(told(&mut all, 10).len(), 1, "another source was served");
        all.note(one.clone(), Code::OverLimit, "", begin + 10 * STEP_INTERVAL);
        all.served(&one);
        assert_eq!(told(&mut all, 11), [(Code::OverLimit, 1, 1000, 1000)]);
        all.note(one.clone(), Code::OverBudget, "", begin + 10 * STEP_INTERVAL);
        all.served(&one);
        let limits = [Code::OverLimit, Code::OverBudget].map(|code| (code, 1, 2000, 2000));
        let told_limits = told(&mut all, 12);
        assert!(limits.iter().all(|limit| told_limits.contains(limit)), "{told_limits:?}");
        assert_eq!(told(&mut all, 70), []);
    }

    #[test]
    fn a_series_is_shown_for_ten_seconds_unless_its_source_pauses_for_longer() {
        let (mut all, begin) = (RecentRefusals::default(), Instant::now());
        let (often, rarely) =
            (asker(Direction::Outbound, 1, None), asker(Direction::Outbound, 2, None));
        let at = |second: u32| begin + second * STEP_INTERVAL;
        for second in 0..20 {
            all.note(often.clone(), Code::NoBackend, "", at(second));
        }
        for second in [0, 15, 30] {
            all.note(rarely.clone(), Code::NoBackend, "", at(second));
        }
        let mut shown = |second| {
            let recent = all.recent(at(second)).0;
            recent.iter().map(|s| s.target.service.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(shown(26), ["agents/a1", "agents/a2"]);
        // Eight seconds and the round in which nodes are asked.
        assert_eq!(shown(27), ["agents/a2"]);
        assert_eq!(shown(59), ["agents/a2"], "it asks every fifteen");
        assert_eq!(shown(60), [""; 0]);
    }

    /// The number of outbound refusals that are told in each second, while refusals go on.
    fn told_totals(
        seconds: u32,
        mut happens: impl FnMut(&mut RecentRefusals, u32, Instant),
    ) -> Vec<u64> {
        let (mut all, begin) = (RecentRefusals::default(), Instant::now());
        let mut totals = Vec::new();
        for second in 0..seconds {
            let now = begin + second * STEP_INTERVAL;
            happens(&mut all, second, now);
            totals.push(all.recent(now).0.iter().map(|series| series.count).sum());
        }
        totals
    }

    #[test]
    fn the_count_never_falls_while_refusals_go_on() {
        let of = |source| asker(Direction::Outbound, 1, Some(source));
        let refuse = |all: &mut RecentRefusals, source, now| {
            all.note(of(source), Code::BackendRefused, "", now);
        };
        // One backend of two answers: every second connection of a source is served.
        let halves = told_totals(120, |all, _, now| {
            refuse(all, 1, now);
            all.served(&of(1));
            refuse(all, 1, now);
        });
        // Sources come, give up, and are served, while one goes on.
        let changing = told_totals(300, |all, second, now| {
            refuse(all, 0, now);
            let source = 1 + second as usize / 20;
            match second % 20 {
                0..5 => refuse(all, source, now),
                10 if source.is_multiple_of(2) => all.served(&of(source)),
                _ => {}
            }
        });
        for (totals, least) in [(halves, 240), (changing, 300)] {
            assert!(totals.is_sorted(), "{totals:?}");
            assert!(totals.last() >= Some(&least), "{totals:?}");
        }
    }

    #[test]
    fn a_source_that_is_served_for_a_while_begins_anew() {
        let totals = told_totals(40, |all, second, now| match second {
            0..10 | 30..40 => all.note(asker(Direction::Outbound, 1, None), Code::Denied, "", now),
            _ => all.served(&asker(Direction::Outbound, 1, None)),
        });
        assert_eq!((totals[9], totals[10], totals[29], totals[39]), (10, 0, 0, 10), "{totals:?}");
    }

    #[test]
    fn what_is_kept_is_bounded_whatever_is_asked_for() {
        let (mut all, now) = (RecentRefusals::default(), Instant::now());
        for source in 0..1000 {
            all.note(asker(Direction::Outbound, 0, Some(source)), Code::Denied, "", now);
        }
        let (recent, others) = all.recent(now);
        assert_eq!((recent.len(), others), (MAX_SOURCES + 1, 0));
        assert_eq!((recent[0].source.as_ref(), recent[0].count), (None, 992), "most come first");
        for service in 0..1000 {
            all.note(asker(Direction::Inbound, service, Some(0)), Code::Denied, "", now);
        }
        let (recent, others) = all.recent(now);
        let inbound = recent.iter().filter(|s| s.is_inbound).count();
        assert_eq!((inbound, others), (MAX_INBOUND, 1000 - MAX_INBOUND as u64));
        assert!(recent[MAX_SOURCES + 1..].iter().all(|s| s.is_inbound), "ours come first");
        for service in 1..1000 {
            all.note(asker(Direction::Outbound, service, None), Code::NoBackend, "", now);
        }
        assert_eq!(all.recent(now).0.len(), MAX_SERIES);
        // What is old gives its place to what is new.
        let later = now + RECENT_LIFETIME;
        all.note(asker(Direction::Outbound, 1, None), Code::NoBackend, "", later);
        assert_eq!(all.recent(later).0.len(), 1);
    }
}
