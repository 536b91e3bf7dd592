//! Measurements of one attack, and what is wrong with them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Form, WARM};
use crate::hostile::footprint::Footprint;
use crate::hostile::load::LoadAccount;

/// The most that an attack may cost, in KiB of resident memory: the budget of one peer's buffers twice, and
/// what its connections and tasks take.
const MEMORY: u64 = 128 << 10;
/// Of many streams each may take so much beside what the budgets of one peer hold: windows, and stalled bytes.
const BUDGETS: u64 = 64 << 10;
const OF_STREAM: u64 = 40;
/// The same for who has no certificate.
const STRANGERS_MEMORY: u64 = 32 << 10;
/// Memory and part of a processor below which nobody needs to know whose doing it is: what an honest cluster takes in use.
const FELT_MEMORY: u64 = 16 << 10;
const FELT_CPU: f64 = 0.05;
/// A percentile below this is not worth comparing.
const LEAST_P99_DELAY: Duration = Duration::from_millis(20);

/// The measurements of one attack.
#[derive(Debug, Clone, Default)]
pub struct Trial {
    /// Its name.
    pub name: &'static str,
    pub(super) form: Option<Form>,
    /// The attack's counters.
    pub counts: BTreeMap<String, u64>,
    pub(super) proved: bool,
    /// Honest traffic before and during: the neighbour's and the victim's own.
    pub(super) quiet: [LoadAccount; 2],
    pub(super) during: [LoadAccount; 2],
    /// The victim before, at its largest, and after.
    pub(super) base: Footprint,
    pub(super) peak_rss: u64,
    pub(super) peak_fds: usize,
    pub(super) peak_streams: u64,
    pub(super) after: Footprint,
    /// Processor seconds: the victim's beyond what it takes when quiet, and the attacker's.
    pub(super) cpu: (f64, f64),
    /// Bytes of log that the attack made.
    pub(super) log: u64,
    /// The time that the way back took; `None` if it was not found.
    pub(super) back: Option<Duration>,
    pub(super) open_streams: u64,
    pub(super) survived: bool,
    /// The words of status about the enemy that were not there before.
    pub(super) named: Vec<String>,
    pub(super) more_faults: Vec<String>,
}

fn rate(account: &LoadAccount) -> f64 {
    account.answered as f64 / account.seconds
}

fn moved(account: &LoadAccount) -> f64 {
    account.moved as f64 / account.seconds
}

impl Trial {
    /// All that is wrong; empty where the victim held.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.more_faults.clone();
        let mut add = |wrong: bool, text: String| {
            if wrong {
                faults.push(text);
            }
        };
        add(!self.proved, format!("the attack did not take place: {:?}", self.counts));
        add(!self.survived, "the victim was killed".to_owned());
        let grown = self.peak_rss.saturating_sub(self.base.rss);
        let most = if self.is_strangers() {
            STRANGERS_MEMORY
        } else {
            MEMORY.max(BUDGETS + WARM + OF_STREAM * self.peak_streams)
        };
        add(grown > most, format!("{} MiB of memory", grown >> 10));
        add(
            self.survived && self.back.is_none(),
            format!(
                "not back to base: {} streams open, {} KiB of {}, {} descriptors of {}",
                self.open_streams, self.after.rss, self.base.rss, self.after.fds, self.base.fds
            ),
        );
        for (whose, now) in ["the neighbour's", "the victim's own"].iter().zip(&self.during) {
            add(now.lost > 0, format!("{} of {whose} idle streams broke", now.lost));
            add(
                now.shaken.1 < now.shaken.0,
                format!(
                    "{} of {} handshakes of a known node failed",
                    now.shaken.0 - now.shaken.1,
                    now.shaken.0
                ),
            );
            add(
                now.answered < now.asked,
                format!("{} of {} of {whose} requests failed", now.asked - now.answered, now.asked),
            );
        }
        if self.form.is_some_and(|form| form.timed) {
            faults.extend(self.timed_faults());
        }
        faults
    }

    fn timed_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let each =
            ["the neighbour's", "the victim's own"].iter().zip(self.quiet.iter().zip(&self.during));
        for (whose, (quiet, now)) in each {
            if rate(now) < 0.8 * rate(quiet) {
                faults.push(format!("{whose} requests: {:.0} of {:.0}/s", rate(now), rate(quiet)));
            }
            if moved(now) < 0.8 * moved(quiet) {
                faults
                    .push(format!("{whose} transfer: {:.0} %", 100.0 * moved(now) / moved(quiet)));
            }
            if now.p99 > 3 * quiet.p99.max(LEAST_P99_DELAY) {
                faults.push(format!("{whose} p99: {:?} of {:?}", now.p99, quiet.p99));
            }
            if now.longest_handshake > Duration::from_secs(2) {
                faults.push(format!("a handshake took {:?}", now.longest_handshake));
            }
        }
        if self.asymmetry() >= 10.0 {
            faults.push(format!("{:.1} s of processor for {:.1} s", self.cpu.0, self.cpu.1));
        }
        let seconds = self.form.map_or(1.0, |form| form.seconds);
        if self.log as f64 / seconds > 100_000.0 {
            faults.push(format!("{} KB of log", self.log / 1000));
        }
        if self.named.is_empty() && !self.is_strangers() && self.is_felt() {
            faults.push("status does not name mallory".to_owned());
        }
        faults
    }

    /// True if the victim did more for it than beside it: there is something that a person may want the name for.
    fn is_felt(&self) -> bool {
        let seconds = self.form.map_or(1.0, |form| form.seconds);
        self.cpu.0 > FELT_CPU * seconds || self.peak_rss.saturating_sub(self.base.rss) > FELT_MEMORY
    }

    /// True if the enemy needs no certificate for it.
    fn is_strangers(&self) -> bool {
        ["handshakes-17", "handshake-crumbs", "spoofed-initials"].contains(&self.name)
    }

    fn asymmetry(&self) -> f64 {
        let victim = self.cpu.0;
        if victim < 0.5 { 0.0 } else { victim / self.cpu.1.max(0.05) }
    }

    /// The names of [`Trial::row`]'s columns.
    pub const COLUMNS: &str = "attack                  | neighbour /s | own /s       | p99 ms, neighbour / own         | RSS MiB base/peak/after | CPU s victim/enemy ratio | log KB | back s | verdict";

    /// The line of the table.
    #[must_use]
    pub fn row(&self) -> String {
        let [q, p] = &self.quiet;
        let [d, e] = &self.during;
        let ms = |t: Duration| t.as_secs_f64() * 1000.0;
        let faults = self.faults();
        format!(
            "{:<23} | {:>4.0} -> {:>4.0} | {:>4.0} -> {:>4.0} | {:>5.1} -> {:>6.1}, {:>5.1} -> {:>6.1} | {:>6} / {:>6} / {:>6} | {:>6.1} / {:>5.1} {:>5.1} | {:>6} | {:>6} | {}",
            self.name,
            rate(q),
            rate(d),
            rate(p),
            rate(e),
            ms(q.p99),
            ms(d.p99),
            ms(p.p99),
            ms(e.p99),
            self.base.rss >> 10,
            self.peak_rss >> 10,
            self.after.rss >> 10,
            self.cpu.0,
            self.cpu.1,
            self.asymmetry(),
            self.log / 1000,
            self.back.map_or_else(|| "never".to_owned(), |t| format!("{:.1}", t.as_secs_f64())),
            if faults.is_empty() {
                "held".to_owned()
            } else {
                format!("BITES: {}", faults.join("; "))
            },
        )
    }

    /// The attack's counters, and the words of status about it.
    #[must_use]
    pub fn details(&self) -> String {
        format!("{}: {:?}; status: {:?}", self.name, self.counts, self.named)
    }
}
