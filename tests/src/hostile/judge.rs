//! Runs an attack beside honest traffic and says whether the victim held.
//!
//! A [`Trial`] has what was measured before, during and after one attack; [`Trial::faults`] is what is
//! wrong with it. Counts, bounds of memory and the way back are judged in every form; rates, percentiles
//! and ratios, which need a quiet machine, in the long one only.

mod trial;
mod watch;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

pub use self::trial::Trial;
use self::watch::{LeakProbe, Lured, VictimWatch, told};
use super::attacks::Attack;
use super::footprint::Footprint;
use super::load::{HonestLoad, LoadAccount};
use super::stage::{AttackStage, VICTIM};

/// Memory that a process that has been attacked may have beyond its first base, before any attack, in KiB.
const WARM: u64 = 16 << 10;
/// Descriptors that it may have beyond its base: of honest traffic.
const WARM_DESCRIPTORS: usize = 16;
/// Beyond both, where the enemy has announced a thousand nodes that nobody is at: the view of them, in KiB, and the sockets of
/// dials to them, of two hubs at 32 addresses each. It is the last that was heard, and stays while the link does.
const ANNOUNCED: (u64, usize) = (4 << 10, 2 * 32);
/// The time that streams may be open, and memory held, after all traffic has ended.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// The form in which an attack is run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Form {
    /// The attack's length, in seconds.
    pub seconds: f64,
    /// The share of its full size, up to 1.
    pub part: f64,
    /// The time that the way back to base may take, in seconds.
    pub recovery: f64,
    /// True if rates, percentiles and ratios are judged, too.
    pub timed: bool,
}

/// Runs attacks on one stage.
pub struct Court {
    stage: AttackStage,
    /// The victim before any attack: what it is to come back to however often it was attacked.
    first: Option<Footprint>,
    loads: [HonestLoad; 2],
    program: std::path::PathBuf,
}

impl Court {
    /// A stage with honest traffic. `program` is the one whose `attack` is the enemy's process.
    #[must_use]
    pub fn open(memory: Option<u64>, program: &Path) -> Self {
        let stage = AttackStage::start(memory);
        let loads = stage.loads();
        std::thread::sleep(Duration::from_secs(1));
        Self { stage, first: None, loads, program: program.into() }
    }

    /// Runs one attack.
    #[must_use]
    pub fn try_attack(&mut self, attack: &Attack, form: Form) -> Trial {
        let mut trial = Trial { name: attack.name, form: Some(form), ..Trial::default() };
        let quiet_from = Instant::now();
        let before = self.victim().unwrap_or_default();
        let log_before = self.log_len();
        let quiet_for = if form.timed { form.seconds.min(6.0) } else { 0.3 };
        std::thread::sleep(Duration::from_secs_f64(quiet_for));
        let quiet_to = Instant::now();
        trial.base = self.victim().unwrap_or_default();
        self.first = self.first.or(Some(trial.base));
        let idle_cpu = (trial.base.cpu.saturating_sub(before.cpu)).as_secs_f64() / quiet_for;
        let idle_log = (self.log_len() - log_before) as f64 / quiet_for;
        let known = told(&self.stage);
        let log_from = self.log_len();

        let watch = VictimWatch::begin(self, &known);
        let probe = (attack.name == "dial-backs").then(|| LeakProbe::open(&self.stage));
        let lured = (attack.name == "invented-nodes").then(|| Lured::begin(&self.stage));
        let street = self.street();
        let from = Instant::now();
        self.attack(attack, form, &mut trial);
        let to = Instant::now();
        drop(lured);
        trial.cpu.0 = (self.victim().map_or(Duration::ZERO, |v| v.cpu))
            .saturating_sub(trial.base.cpu)
            .as_secs_f64()
            - idle_cpu * (to - from).as_secs_f64();
        let seconds = (to - from).as_secs_f64();
        trial.log = (self.log_len() - log_from).saturating_sub((idle_log * seconds) as u64);
        self.wait_for_base(&mut trial);
        let seen = watch.end();
        (trial.peak_rss, trial.peak_fds, trial.peak_streams) = (seen.rss, seen.fds, seen.streams);
        trial.named = seen.named.into_iter().collect();
        trial.survived = self.victim().is_some();
        // Requests that were due at the end have their answer, or none for good.
        std::thread::sleep(Duration::from_secs_f64(if form.timed { 5.2 } else { 0.2 }));
        trial.quiet = self.account(quiet_from, quiet_to);
        trial.during = self.account(from, to);
        if let Some(probe) = probe {
            trial.more_faults.extend(probe.heard());
        }
        if attack.name == "spoofed-initials" {
            let (now, (rx, tx)) = (self.street(), street);
            let (heard, sent) = (now.0 - rx, now.1 - tx);
            if heard > 3 * sent {
                trial.more_faults.push(format!("{heard} bytes of replies to {sent}"));
            }
        }
        if trial.back.is_none() {
            self.stage.renew();
            self.first = None;
            std::thread::sleep(Duration::from_secs(1));
        }
        trial
    }

    /// Ends honest traffic, and says what is left of it in the victim, and of all attacks.
    #[must_use]
    pub fn close(mut self) -> Vec<String> {
        self.loads.iter_mut().for_each(HonestLoad::end);
        let deadline = Instant::now() + RECOVERY_TIMEOUT;
        loop {
            let mut left = Vec::new();
            let open = open_streams(&self.stage);
            if open != Some(0) {
                left.push(format!("{open:?} streams are open after all traffic has ended"));
            }
            let rss = self.victim().unwrap_or_default().rss;
            if rss > self.most_rss() {
                let first = self.first.unwrap_or_default().rss;
                left.push(format!("{rss} KiB of memory after all attacks, {first} KiB before"));
            }
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn victim(&self) -> Option<Footprint> {
        Footprint::of(self.stage.victim.pid())
    }

    /// The resident memory that counts as back at base, in KiB.
    fn most_rss(&self) -> u64 {
        self.first.map_or(u64::MAX, |first| first.rss + WARM)
    }

    fn log_len(&self) -> u64 {
        let log = self.stage.root.path().join("b1.log");
        std::fs::metadata(log).map_or(0, |m| m.len())
    }

    fn account(&self, from: Instant, to: Instant) -> [LoadAccount; 2] {
        [self.loads[0].account(from, to), self.loads[1].account(from, to)]
    }

    /// Bytes that the street's host has received and sent.
    fn street(&self) -> (u64, u64) {
        self.stage.street.enter(|| {
            let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
            let line = text.lines().find_map(|l| l.trim().strip_prefix("eth0:"));
            let numbers: Vec<u64> = line
                .unwrap_or_default()
                .split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect();
            (numbers.first().copied().unwrap_or(0), numbers.get(8).copied().unwrap_or(0))
        })
    }

    /// Runs the enemy's process to its end.
    fn attack(&self, attack: &Attack, form: Form, trial: &mut Trial) {
        let stranger = attack.name == "spoofed-initials";
        let host = if stranger { &self.stage.street } else { &self.stage.mallory };
        let mut child = host
            .command("nice")
            .args(["-n", "10"])
            .arg(&self.program)
            .args(["attack", attack.name, "--root"])
            .arg(self.stage.root.path())
            .args(["--target", VICTIM, "--seconds", &form.seconds.to_string()])
            .args(["--part", &form.part.to_string()])
            // One attack follows another: the victim need not wait for the silence of the last.
            .args((!form.timed).then_some("--goodbye"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        trial.cpu.1 = wait(&mut child, Duration::from_secs_f64(form.seconds + 20.0));
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).ok();
        trial.counts = serde_json::from_str(text.trim()).unwrap_or_default();
        // A cluster that is kept away for what it did before cannot do more.
        let is_barred = trial.counts.keys().any(|why| why.contains("none may dial for a while"));
        trial.proved = is_barred || trial.counts.get(attack.proof).is_some_and(|n| *n > 0);
    }

    fn wait_for_base(&self, trial: &mut Trial) {
        let began = Instant::now();
        let (view, dials) = if trial.name == "followed" { ANNOUNCED } else { (0, 0) };
        let most_rss = self.most_rss().saturating_add(view);
        let open = |_: &Footprint| open_streams(&self.stage).unwrap_or(u64::MAX);
        while let Some(now) = self.victim() {
            (trial.after, trial.open_streams) = (now, open(&now));
            // Honest traffic has some ten streams, and as many under way.
            let settled =
                trial.open_streams <= 30 && now.fds <= trial.base.fds + WARM_DESCRIPTORS + dials;
            let timed = trial.form.is_some_and(|form| form.timed);
            if settled && (!timed || now.rss <= most_rss) {
                trial.back = Some(began.elapsed());
                return;
            }
            if began.elapsed().as_secs_f64() > trial.form.map_or(0.0, |form| form.recovery) {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Waits for a process, ends it where it takes too long, and gives its processor seconds.
fn wait(child: &mut Child, patience: Duration) -> f64 {
    let (began, mut cpu) = (Instant::now(), Duration::ZERO);
    loop {
        cpu = Footprint::of(child.id()).map_or(cpu, |now| now.cpu.max(cpu));
        if child.try_wait().unwrap().is_some() {
            return cpu.as_secs_f64();
        }
        if began.elapsed() > patience {
            child.kill().ok();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn open_streams(stage: &AttackStage) -> Option<u64> {
    stage.victim.status()?["streams"]["open"].as_u64()
}
