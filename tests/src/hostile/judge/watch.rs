//! Looks at the victim while an attack goes on, and lures it.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Court;
use crate::hostile::attacks::state::BACK;
use crate::hostile::footprint::Footprint;
use crate::hostile::load::{on, request};
use crate::hostile::stage::{AttackStage, LURE_AT};

/// The entries of status that name the enemy: codes of problems, and fields of its link.
pub(super) fn told(stage: &AttackStage) -> BTreeSet<String> {
    stage.victim.status().map(|status| told_in(&status)).unwrap_or_default()
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
pub(super) struct VictimWatch {
    over: Arc<AtomicBool>,
    seen: Arc<Mutex<VictimObservation>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct VictimObservation {
    pub(super) rss: u64,
    pub(super) fds: usize,
    pub(super) streams: u64,
    pub(super) named: BTreeSet<String>,
}

impl VictimWatch {
    pub(super) fn begin(court: &Court, known: &BTreeSet<String>) -> Self {
        let (over, seen) =
            (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(VictimObservation::default())));
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
                    let mut seen = noted.lock().unwrap();
                    let open = status["streams"]["open"].as_u64().unwrap_or_default();
                    seen.streams = seen.streams.max(open);
                    seen.named.append(&mut new);
                }
                std::thread::sleep(Duration::from_millis(400));
            }
        });
        Self { over, seen, threads: vec![looking, asking] }
    }

    pub(super) fn end(self) -> VictimObservation {
        self.over.store(true, Relaxed);
        self.threads.into_iter().for_each(|t| t.join().unwrap());
        self.seen.lock().unwrap().clone()
    }
}

/// Hears what the victim sends to places that no peer may lead it to.
pub(super) struct LeakProbe(Vec<(&'static str, UdpSocket)>);

impl LeakProbe {
    pub(super) fn open(stage: &AttackStage) -> Self {
        stage.bank.enter(|| {
            drop(
                std::process::Command::new("ip")
                    .args(["addr", "add", "169.254.169.254/32", "dev", "lo"])
                    .output(),
            );
        });
        let pod = crate::lab::LabHost::named("fraud");
        let open = |address: &'static str| {
            let host = if address.starts_with("10.244") { &pod } else { &stage.bank };
            let socket = host.enter(move || UdpSocket::bind(address).unwrap());
            socket.set_nonblocking(true).unwrap();
            (address, socket)
        };
        Self(BACK.map(open).into())
    }

    pub(super) fn heard(self) -> Option<String> {
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
pub(super) struct Lured(Arc<AtomicBool>);

impl Lured {
    pub(super) fn begin(stage: &AttackStage) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        drop(on(&stage.teller, move || async move {
            let mut asking = tokio::task::JoinSet::new();
            while !ended.load(Relaxed) {
                asking.spawn(async move {
                    let address = LURE_AT.parse().unwrap();
                    drop(tokio::time::timeout(Duration::from_secs(3), request(address)).await);
                });
                while asking.try_join_next().is_some() {}
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
