//! Runs an attack beside honest traffic and says whether the victim held.
//!
//! A [`Trial`] has what was measured before, during and after one attack; [`Trial::faults`] is what is
//! wrong with it. Counts, bounds of memory and the way back are judged in every form; rates, percentiles
//! and ratios, which need a quiet machine, in the long one only.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::attacks::Attack;
use super::attacks::state::BACK;
use super::footprint::Footprint;
use super::load::{Account, Load, on, request};
use super::stage::{LURE_AT, Stage, VICTIM};

/// What an attack may cost at most, in KiB of resident memory: the budget of one peer's buffers twice, and
/// what its connections and tasks take.
const MEMORY: u64 = 128 << 10;
/// How long the way back to base may take.
const RECOVERY: Duration = Duration::from_secs(30);
/// A percentile below this is not worth comparing.
const LEAST_P99: Duration = Duration::from_millis(10);

/// How an attack is run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Form {
    /// How long it goes on, in seconds.
    pub seconds: f64,
    /// How much of its full size it has.
    pub part: f64,
    /// Whether rates, percentiles and ratios are judged, too.
    pub timed: bool,
}

/// What was measured of one attack.
#[derive(Debug, Clone, Default)]
pub struct Trial {
    /// Its name.
    pub name: &'static str,
    form: Option<Form>,
    /// What the attack counted.
    pub counts: BTreeMap<String, u64>,
    proved: bool,
    /// Honest traffic before and during: the neighbour's and the victim's own.
    quiet: [Account; 2],
    during: [Account; 2],
    /// The victim before, at its largest, and after.
    base: Footprint,
    peak_rss: u64,
    peak_fds: usize,
    after: Footprint,
    /// Processor seconds: the victim's beyond what it takes when quiet, and the attacker's.
    cpu: (f64, f64),
    /// Bytes of log that the attack made.
    log: u64,
    /// How long the way back took; none where it was not found.
    back: Option<Duration>,
    open_streams: u64,
    survived: bool,
    /// What status said of the enemy that it had not said before.
    named: Vec<String>,
    more_faults: Vec<String>,
}

/// Runs attacks on one stage.
pub struct Court {
    stage: Stage,
    loads: [Load; 2],
    program: std::path::PathBuf,
}

impl Court {
    /// A stage with honest traffic. `program` is the one whose `attack` is the enemy's process.
    #[must_use]
    pub fn open(memory: Option<u64>, program: &Path) -> Self {
        let stage = Stage::start(memory);
        let loads = stage.loads();
        std::thread::sleep(Duration::from_secs(1));
        Self { stage, loads, program: program.into() }
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
        let idle_cpu = (trial.base.cpu.saturating_sub(before.cpu)).as_secs_f64() / quiet_for;
        let idle_log = (self.log_len() - log_before) as f64 / quiet_for;
        let known = told(&self.stage, &mut 0);
        let log_from = self.log_len();

        let watch = Watch::begin(self, &known);
        let ears = (attack.name == "dial-backs").then(|| Ears::open(&self.stage));
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
        (trial.peak_rss, trial.peak_fds) = (seen.rss, seen.fds);
        trial.named = seen.named.into_iter().collect();
        trial.survived = self.victim().is_some();
        // Requests that were due at the end have their answer, or none for good.
        std::thread::sleep(Duration::from_secs_f64(if form.timed { 5.2 } else { 0.2 }));
        trial.quiet = self.account(quiet_from, quiet_to);
        trial.during = self.account(from, to);
        if let Some(ears) = ears {
            trial.more_faults.extend(ears.heard());
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
            std::thread::sleep(Duration::from_secs(1));
        }
        trial
    }

    /// Ends honest traffic, and says what is left of it in the victim.
    #[must_use]
    pub fn close(mut self) -> Vec<String> {
        self.loads.iter_mut().for_each(Load::end);
        let deadline = Instant::now() + RECOVERY;
        loop {
            let left = open_streams(&self.stage);
            if left == Some(0) {
                return Vec::new();
            }
            if Instant::now() > deadline {
                return vec![format!("{left:?} streams are open after all traffic has ended")];
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn victim(&self) -> Option<Footprint> {
        Footprint::of(self.stage.victim.pid())
    }

    fn log_len(&self) -> u64 {
        let log = self.stage.root.path().join("b1.log");
        std::fs::metadata(log).map_or(0, |m| m.len())
    }

    fn account(&self, from: Instant, to: Instant) -> [Account; 2] {
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
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        trial.cpu.1 = wait(&mut child, Duration::from_secs_f64(form.seconds + 20.0));
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).ok();
        trial.counts = serde_json::from_str(text.trim()).unwrap_or_default();
        trial.proved = trial.counts.get(attack.proof).is_some_and(|n| *n > 0);
    }

    fn wait_for_base(&self, trial: &mut Trial) {
        let began = Instant::now();
        let most_rss = trial.base.rss + trial.base.rss / 5;
        let open = |_: &Footprint| open_streams(&self.stage).unwrap_or(u64::MAX);
        while let Some(now) = self.victim() {
            (trial.after, trial.open_streams) = (now, open(&now));
            // Honest traffic has some ten streams, and as many under way.
            let settled = trial.open_streams <= 30 && now.fds <= trial.base.fds + 16;
            let timed = trial.form.is_some_and(|form| form.timed);
            if settled && (!timed || now.rss <= most_rss) {
                trial.back = Some(began.elapsed());
                return;
            }
            if began.elapsed() > RECOVERY {
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

fn open_streams(stage: &Stage) -> Option<u64> {
    stage.victim.status()?["streams"]["open"].as_u64()
}

/// What status says that names the enemy: codes of problems, and fields of its link.
fn told(stage: &Stage, failed: &mut usize) -> BTreeSet<String> {
    let Some(status) = stage.victim.status() else {
        *failed += 1;
        return BTreeSet::new();
    };
    told_in(&status)
}

fn told_in(status: &serde_json::Value) -> BTreeSet<String> {
    let problems = status["problems"].as_array().into_iter().flatten();
    problems
        .filter(|p| {
            p["about"].to_string().contains("mallory")
                || p["sentence"].to_string().contains("mallory")
        })
        .filter(|p| !["link-down", "connection-lost"].iter().any(|c| p["code"] == *c))
        .map(|p| format!("{} {}: {}", p["about"], p["code"], p["sentence"]))
        .collect()
}

/// Samples the victim while an attack goes on.
struct Watch {
    over: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    rss: u64,
    fds: usize,
    named: BTreeSet<String>,
}

impl Watch {
    fn begin(court: &Court, known: &BTreeSet<String>) -> Self {
        let (over, seen) =
            (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let pid = court.stage.victim.pid();
        let (ended, noted) = (over.clone(), seen.clone());
        let looking = std::thread::spawn(move || {
            while !ended.load(Relaxed) {
                if let Some(now) = Footprint::of(pid) {
                    let mut seen = noted.lock().unwrap();
                    (seen.rss, seen.fds) = (seen.rss.max(now.rss), seen.fds.max(now.fds));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let (ended, noted, known) = (over.clone(), seen.clone(), known.clone());
        let socket = court.stage.root.path().join("b1.sock");
        let asking = std::thread::spawn(move || {
            while !ended.load(Relaxed) {
                if let Some(status) = crate::daemon::status_at(&socket) {
                    let mut new = told_in(&status);
                    new.retain(|text| !known.contains(text));
                    noted.lock().unwrap().named.append(&mut new);
                }
                std::thread::sleep(Duration::from_millis(400));
            }
        });
        Self { over, seen, threads: vec![looking, asking] }
    }

    fn end(self) -> Seen {
        self.over.store(true, Relaxed);
        self.threads.into_iter().for_each(|t| t.join().unwrap());
        self.seen.lock().unwrap().clone()
    }
}

/// Hears what the victim sends to places that no peer may lead it to.
struct Ears(Vec<(&'static str, UdpSocket)>);

impl Ears {
    fn open(stage: &Stage) -> Self {
        stage.bank.enter(|| {
            drop(
                std::process::Command::new("ip")
                    .args(["addr", "add", "169.254.169.254/32", "dev", "lo"])
                    .output(),
            );
        });
        let pod = crate::lab::Host::named("fraud");
        let open = |address: &'static str| {
            let host = if address.starts_with("10.244") { &pod } else { &stage.bank };
            let socket = host.enter(move || UdpSocket::bind(address).unwrap());
            socket.set_nonblocking(true).unwrap();
            (address, socket)
        };
        Self(BACK.map(open).into())
    }

    fn heard(self) -> Option<String> {
        let count = |socket: &UdpSocket| {
            let mut buffer = [0; 2000];
            (0..100_000).take_while(|_| socket.recv(&mut buffer).is_ok()).count()
        };
        let heard: Vec<_> = self.0.iter().map(|(at, socket)| (*at, count(socket))).collect();
        let any = heard.iter().any(|(_, n)| *n > 0);
        any.then(|| {
            let each = heard.iter().map(|(at, n)| format!("{n} at {at}")).collect::<Vec<_>>();
            format!("datagrams arrived where no peer may lead: {}", each.join(", "))
        })
    }
}

/// A workload of the victim's that uses what the enemy announces.
struct Lured(Arc<AtomicBool>);

impl Lured {
    fn begin(stage: &Stage) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let asked = Arc::new(AtomicUsize::new(0));
        drop(on(&stage.teller, move || async move {
            while !ended.load(Relaxed) {
                let asked = asked.clone();
                tokio::spawn(async move {
                    let address = LURE_AT.parse().unwrap();
                    drop(tokio::time::timeout(Duration::from_secs(3), request(address)).await);
                    asked.fetch_add(1, Relaxed);
                });
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }));
        Self(over)
    }
}

impl Drop for Lured {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn rate(account: &Account) -> f64 {
    account.answered as f64 / account.seconds
}

fn moved(account: &Account) -> f64 {
    account.moved as f64 / account.seconds
}

impl Trial {
    /// What is wrong; empty where the victim held.
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
        add(grown > MEMORY, format!("{} MiB of memory", grown >> 10));
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
            if now.p99 > 3 * quiet.p99.max(LEAST_P99) {
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
        if self.named.is_empty() && !["handshakes-17", "spoofed-initials"].contains(&self.name) {
            faults.push("status does not name mallory".to_owned());
        }
        faults
    }

    fn asymmetry(&self) -> f64 {
        let victim = self.cpu.0;
        if victim < 0.5 { 0.0 } else { victim / self.cpu.1.max(0.05) }
    }

    /// The names of [`Trial::row`]'s columns.
    pub const COLUMNS: &str = "attack                  | neighbour /s | own /s       | p99 ms, neighbour / own         | RSS MiB base/peak/after | CPU s victim/enemy ratio | log KB | back s | verdict";

    /// One line of the table.
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
            self.back.map_or("never".to_owned(), |t| format!("{:.1}", t.as_secs_f64())),
            if faults.is_empty() {
                "held".to_owned()
            } else {
                format!("BITES: {}", faults.join("; "))
            },
        )
    }

    /// What the attack counted, and what status said of it.
    #[must_use]
    pub fn details(&self) -> String {
        format!("{}: {:?}; status: {:?}", self.name, self.counts, self.named)
    }
}
