//! The rows: what is compared with what, what a prototype reached, and where the gate stands.
//!
//! The numbers of prototype and gate are the project's targets; `README.md` explains each row.

use serde::Serialize;

use crate::scenario::Scenario::{
    self, Bulk, Churn, FirstByte, Idle, LossyBulk, LossyRequests, Mixed, Parallel, Serial, Stalled,
};
use crate::subject::SubjectKind::{self, Adit, AditJumbo, HaproxyMtls, HaproxyTcp};

/// Foreign CPU, in cores, above which a round does not count where enough others do.
pub(crate) const QUIET: f64 = 0.1;
/// The number of quiet rounds that are enough.
const ENOUGH: usize = 3;

/// Which way is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// Times, memory.
    Lower,
    /// Rates.
    Higher,
}

/// The value or unit that a value is divided by.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Baseline {
    /// The same value of another subject in the same round.
    Subject(SubjectKind),
    /// A constant; the unit of what comes out.
    Unit(f64, &'static str),
}

/// A figure of a row.
#[derive(Debug)]
pub(crate) struct Figure {
    /// The row, as `--rows` takes it.
    pub(crate) row: &'static str,
    /// Its name, for people.
    pub(crate) what: &'static str,
    /// Which values it takes.
    pub(crate) scenario: Scenario,
    of: SubjectKind,
    key: &'static str,
    against: Baseline,
    /// The prototype's value: one number, or a range.
    pub(crate) prototype: Option<(f64, f64)>,
    /// The value that passes the gate.
    pub(crate) gate: f64,
    better: Better,
}

const fn figure(
    (row, what): (&'static str, &'static str),
    (scenario, of, key): (Scenario, SubjectKind, &'static str),
    against: Baseline,
    prototype: Option<(f64, f64)>,
    (better, gate): (Better, f64),
) -> Figure {
    Figure { row, what, scenario, of, key, against, prototype, gate, better }
}

const TCP: Baseline = Baseline::Subject(HaproxyTcp);
const MTLS: Baseline = Baseline::Subject(HaproxyMtls);
const MS: Baseline = Baseline::Unit(1e3, "ms");
const MB: Baseline = Baseline::Unit(1.0, "MB");
const ROUND_TRIP: Baseline = Baseline::Unit(50e3, "RTT");
const SECONDS: Baseline = Baseline::Unit(1.0, "s/GB");
use Better::{Higher, Lower};

/// All, in the order of the table: (row, what), (load, subject, value), against what, prototype, gate.
#[rustfmt::skip]
pub(crate) const ALL: [Figure; 20] = [
    figure(("a1", "serial RPC, p50"), (Serial, Adit, "p50_us"), TCP, Some((1.56, 1.56)), (Lower, 1.4)),
    figure(("a2", "serial RPC, p99"), (Serial, Adit, "p99_us"), TCP, Some((1.35, 1.35)), (Lower, 1.3)),
    figure(("a3", "32 connections, p50"), (Parallel, Adit, "p50_us"), TCP, Some((1.0, 1.2)), (Lower, 1.0)),
    figure(("a3", "32 connections, p99"), (Parallel, Adit, "p99_us"), TCP, Some((1.05, 1.05)), (Lower, 1.0)),
    figure(("a4", "RPC beside 2 bulk flows, p99"), (Mixed, Adit, "p99_us"), TCP, Some((0.22, 0.22)), (Lower, 0.33)),
    figure(("b", "new connections a second"), (Churn, Adit, "per_second"), TCP, Some((1.04, 1.04)), (Higher, 1.1)),
    figure(("b", "new connections a second"), (Churn, Adit, "per_second"), MTLS, Some((7.2, 7.2)), (Higher, 7.0)),
    figure(("c1", "bulk"), (Bulk, Adit, "mbit"), MTLS, Some((1.0, 1.0)), (Higher, 1.1)),
    figure(("c2", "bulk, MTU 6500"), (Bulk, AditJumbo, "mbit"), MTLS, Some((1.6, 1.6)), (Higher, 1.5)),
    figure(("d", "memory of 10k idle connections"), (Idle, Adit, "rss_mb"), MB, Some((110.0, 110.0)), (Lower, 66.0)),
    figure(("d2", "kernel memory of the same"), (Idle, Adit, "slab_mb"), TCP, Some((0.65, 0.65)), (Lower, 0.67)),
    figure(("e", "first byte at 50 ms RTT"), (FirstByte, Adit, "p50_us"), ROUND_TRIP, Some((1.03, 1.03)), (Lower, 1.05)),
    figure(("f", "CPU for bulk"), (Bulk, Adit, "cpu_s_per_gb"), SECONDS, Some((3.2, 3.2)), (Lower, 2.8)),
    figure(("f", "CPU for bulk, MTU 6500"), (Bulk, AditJumbo, "cpu_s_per_gb"), SECONDS, Some((1.5, 1.85)), (Lower, 1.8)),
    figure(("f2", "CPU for an RPC"), (Parallel, Adit, "cpu_us"), Baseline::Unit(1.0, "us"), Some((32.0, 40.0)), (Lower, 35.0)),
    figure(("g", "1 % loss, 50 ms: RPC p50"), (LossyRequests, Adit, "p50_us"), MS, Some((50.9, 50.9)), (Lower, 53.0)),
    figure(("g", "1 % loss, 50 ms: RPC p99"), (LossyRequests, Adit, "p99_us"), MS, Some((104.0, 110.0)), (Lower, 125.0)),
    figure(("g2", "1 % loss, 50 ms: bulk"), (LossyBulk, Adit, "mbit"), Baseline::Unit(1.0, "Mbit/s"), Some((354.0, 367.0)), (Higher, 250.0)),
    figure(("h", "100 stalled readers: RPC p50"), (Stalled, Adit, "slower"), Baseline::Unit(1.0, "x unstalled"), None, (Lower, 1.2)),
    figure(("h", "100 stalled readers: memory"), (Stalled, Adit, "rss_mb"), MB, None, (Lower, 64.0)),
];

/// A run of a scenario on a subject.
#[derive(Debug, Serialize)]
pub(crate) struct Sample {
    /// In which round.
    pub(crate) round: u32,
    /// The scenario that was run.
    pub(crate) scenario: Scenario,
    /// On what.
    pub(crate) subject: SubjectKind,
    /// The values that were measured.
    pub(crate) values: crate::scenario::Values,
    /// Cores that other programs took meanwhile.
    pub(crate) foreign: f64,
}

/// The values of a figure over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// The middle.
    pub(crate) median: f64,
    /// The quartiles.
    pub(crate) quartiles: (f64, f64),
    /// The ends.
    pub(crate) ends: (f64, f64),
    /// Over so many rounds.
    pub(crate) rounds: usize,
    /// True if rounds count in which other programs were at work, because there are no better ones.
    pub(crate) noisy: bool,
}

impl Figure {
    /// The unit of its numbers.
    pub(crate) fn unit(&self) -> String {
        match self.against {
            Baseline::Subject(kind) => format!("x {}", kind.name()),
            Baseline::Unit(_, unit) => unit.to_owned(),
        }
    }

    /// The factor by which a value is further from good than another; below 1 it is better.
    pub(crate) fn behind(&self, value: f64, other: f64) -> f64 {
        match self.better {
            Lower => value / other,
            Higher => other / value,
        }
    }

    /// The factor by which the median is behind the worse end of the prototype's range.
    pub(crate) fn behind_prototype(&self, spread: &Spread) -> Option<f64> {
        let (low, high) = self.prototype?;
        Some(self.behind(spread.median, low).min(self.behind(spread.median, high)))
    }

    /// Its value in each round; `None` if nothing was measured.
    pub(crate) fn spread(&self, samples: &[Sample]) -> Option<Spread> {
        let value = |round: u32, subject: SubjectKind| {
            let of = |s: &&Sample| {
                s.round == round && s.scenario == self.scenario && s.subject == subject
            };
            let sample = samples.iter().find(of)?;
            Some((*sample.values.get(self.key)?, sample.foreign <= QUIET))
        };
        let rounds = samples.iter().map(|s| s.round).max()?;
        let all: Vec<(f64, bool)> = (0..=rounds)
            .filter_map(|round| {
                let (value_of, quiet) = value(round, self.of)?;
                Some(match self.against {
                    Baseline::Unit(scale, _) => (value_of / scale, quiet),
                    Baseline::Subject(kind) => {
                        let (other, also) = value(round, kind)?;
                        (value_of / other, quiet && also)
                    }
                })
            })
            .collect();
        let quiet: Vec<f64> = all.iter().filter(|(_, quiet)| *quiet).map(|(v, _)| *v).collect();
        let noisy = quiet.len() < ENOUGH.min(all.len());
        summary(if noisy { all.iter().map(|(v, _)| *v).collect() } else { quiet }, noisy)
    }
}

/// Median, quartiles and ends.
pub(crate) fn summary(mut values: Vec<f64>, noisy: bool) -> Option<Spread> {
    values.retain(|value| value.is_finite());
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let at = |share: f64| {
        let place = share * last as f64;
        let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
        below + (above - below) * place.fract()
    };
    Some(Spread {
        median: at(0.5),
        quartiles: (at(0.25), at(0.75)),
        ends: (values[0], values[last]),
        rounds: values.len(),
        noisy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, subject: SubjectKind, p50: f64, foreign: f64) -> Sample {
        let values = [("p50_us", p50)].into();
        Sample { round, scenario: Serial, subject, values, foreign }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let samples = [(0, 100.0, 150.0), (1, 200.0, 320.0), (2, 50.0, 70.0)]
            .into_iter()
            .flat_map(|(n, a, b)| [sample(n, HaproxyTcp, a, 0.0), sample(n, Adit, b, 0.0)]);
        let spread = ALL[0].spread(&samples.collect::<Vec<_>>()).unwrap();
        assert_eq!((spread.median, spread.ends), (1.5, (1.4, 1.6)));
        assert!(!spread.noisy);
    }

    #[test]
    fn disturbed_rounds_count_only_for_want_of_quiet_ones() {
        let mut samples: Vec<Sample> = (0..4)
            .flat_map(|n| [sample(n, HaproxyTcp, 100.0, 0.0), sample(n, Adit, 100.0, 0.0)])
            .collect();
        samples.extend([sample(4, HaproxyTcp, 100.0, 0.5), sample(4, Adit, 900.0, 0.0)]);
        let spread = ALL[0].spread(&samples).unwrap();
        assert_eq!((spread.rounds, spread.noisy, spread.ends), (4, false, (1.0, 1.0)));
        samples.iter_mut().for_each(|s| s.foreign = 0.5);
        let spread = ALL[0].spread(&samples).unwrap();
        assert_eq!((spread.rounds, spread.noisy, spread.ends), (5, true, (1.0, 9.0)));
    }

    #[test]
    fn behind_is_above_one_whichever_way_is_good() {
        let rate = ALL.iter().find(|f| f.row == "c1").unwrap();
        assert_eq!((ALL[0].behind(2.0, 1.0), rate.behind(1.0, 2.0)), (2.0, 2.0));
    }
}
