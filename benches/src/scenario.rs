//! The loads that a subject is put under, and the values that they give.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::load::{Bulk, Hold, LoadOutcome, LoadSpec, Rpc};
use crate::process::{HeldConnections, ask, cpu_of, resident, slab};
use crate::subject::{Subject, SubjectKind};
use crate::test_bed::TestBed;

/// Values by name.
pub(crate) type Values = BTreeMap<&'static str, f64>;

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Requests on one connection.
    Serial,
    /// Requests on 32 connections.
    Parallel,
    /// Requests on 8 connections, 2000 a second aimed at, beside two bulk streams.
    Mixed,
    /// A new connection for each request, 16 at a time.
    Churn,
    /// A single bulk stream.
    Bulk,
    /// Thousands of connections on which nothing happens.
    Idle,
    /// Requests on one connection, without and with a hundred readers that do not read.
    Stalled,
    /// A new connection for each request, one at a time, over the WAN.
    FirstByte,
    /// Requests on 32 connections, 640 a second aimed at, over the lossy WAN.
    LossyRequests,
    /// A single bulk stream over the lossy WAN.
    LossyBulk,
}

/// All, in the order in which they run.
pub(crate) const ALL: [Scenario; 10] = [
    Scenario::Serial,
    Scenario::Parallel,
    Scenario::Mixed,
    Scenario::Churn,
    Scenario::Bulk,
    Scenario::Idle,
    Scenario::Stalled,
    Scenario::FirstByte,
    Scenario::LossyRequests,
    Scenario::LossyBulk,
];

/// The test bed of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BedKind {
    /// On loopback.
    Loopback,
    /// Over the WAN, nothing lost.
    Wan,
    /// Over the WAN with loss.
    LossyWan,
}

/// The amount of load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadExtent {
    /// Seconds that a load counts.
    pub(crate) seconds: f64,
    /// The same over the lossy WAN, where a second has fewer events.
    pub(crate) lossy_seconds: f64,
    /// Idle connections.
    pub(crate) idle: usize,
}

impl Scenario {
    /// The test bed on which it runs.
    pub(crate) fn place(self) -> BedKind {
        match self {
            Self::Serial | Self::Parallel | Self::Mixed | Self::Churn => BedKind::Loopback,
            Self::Bulk | Self::Idle | Self::Stalled => BedKind::Loopback,
            Self::FirstByte => BedKind::Wan,
            Self::LossyRequests | Self::LossyBulk => BedKind::LossyWan,
        }
    }

    /// The subjects whose values are wanted.
    pub(crate) fn subjects(self) -> &'static [SubjectKind] {
        use SubjectKind::{Adit, AditJumbo, Direct, HaproxyMtls, HaproxyTcp};
        match self {
            Self::Serial | Self::Churn | Self::FirstByte => {
                &[Direct, HaproxyTcp, HaproxyMtls, Adit]
            }
            Self::Parallel | Self::Bulk => &[Direct, HaproxyTcp, HaproxyMtls, Adit, AditJumbo],
            Self::Mixed => &[HaproxyTcp, HaproxyMtls, Adit],
            Self::Idle => &[HaproxyTcp, Adit],
            Self::Stalled => &[Adit],
            Self::LossyRequests | Self::LossyBulk => &[Direct, HaproxyTcp, Adit],
        }
    }

    /// True if it wants daemons that have done nothing before, since memory that they have grown once
    /// hides what they need.
    pub(crate) fn wants_fresh(self) -> bool {
        matches!(self, Self::Idle | Self::Stalled)
    }

    /// Runs it once.
    pub(crate) fn run(
        self,
        place: &TestBed,
        subject: &Subject,
        extent: LoadExtent,
    ) -> Result<Values> {
        let seconds =
            if self.place() == BedKind::LossyWan { extent.lossy_seconds } else { extent.seconds };
        let warm = (seconds / 4.0).clamp(0.1, 1.0);
        let watch = subject.pids();
        let load = LoadSpec { warm, seconds, watch: watch.clone(), ..LoadSpec::default() };
        let rpc = |connections, per_second, fresh| {
            Some(Rpc { to: subject.rpc, connections, per_second, fresh })
        };
        let bulk = |connections| Some(Bulk { to: subject.bulk, connections });
        let net = place.near.net();
        let timed = |load: LoadSpec| -> Result<Values> { values(&load, &ask(net, "load", &load)?) };
        match self {
            Self::Serial => timed(LoadSpec { rpc: rpc(1, 0.0, false), ..load }),
            Self::Parallel => timed(LoadSpec { rpc: rpc(32, 0.0, false), ..load }),
            Self::Mixed => timed(LoadSpec { rpc: rpc(8, 2000.0, false), bulk: bulk(2), ..load }),
            Self::Churn => timed(LoadSpec { rpc: rpc(16, 0.0, true), ..load }),
            Self::Bulk | Self::LossyBulk => timed(LoadSpec { bulk: bulk(1), ..load }),
            Self::FirstByte => timed(LoadSpec { rpc: rpc(1, 0.0, true), ..load }),
            Self::LossyRequests => timed(LoadSpec { rpc: rpc(32, 640.0, false), ..load }),
            Self::Idle => {
                let memory = || -> Result<(f64, f64)> {
                    Ok((watch.iter().map(|pid| resident(*pid)).sum::<Result<f64>>()?, slab()?))
                };
                let hold = Hold { to: subject.rpc, connections: extent.idle, stall: false };
                let (rss, kernel) = memory()?;
                let held = HeldConnections::open(net, &hold)?;
                let (rss_after, kernel_after) = memory()?;
                held.release()?;
                let scale = 10_000.0 / extent.idle as f64 / 1e6;
                Ok(BTreeMap::from([
                    ("rss_mb", (rss_after - rss) * scale),
                    ("slab_mb", (kernel_after - kernel) * scale),
                ]))
            }
            Self::Stalled => {
                let load = LoadSpec { rpc: rpc(1, 0.0, false), ..load };
                let before = timed(load.clone())?;
                let hold = Hold { to: subject.rpc, connections: 100, stall: true };
                let held = HeldConnections::open(net, &hold)?;
                until_at_rest(&watch)?;
                let during = timed(load)?;
                let rss = watch.iter().map(|pid| resident(*pid)).collect::<Result<Vec<f64>>>()?;
                held.release()?;
                Ok(BTreeMap::from([
                    ("p50_us", during["p50_us"]),
                    ("slower", during["p50_us"] / before["p50_us"]),
                    ("rss_mb", rss.into_iter().fold(0.0, f64::max) / 1e6),
                ]))
            }
        }
    }
}

fn values(load: &LoadSpec, outcome: &LoadOutcome) -> Result<Values> {
    let mut values = BTreeMap::new();
    if load.rpc.is_some() {
        ensure!(outcome.rpcs > 0, "no request was answered in the window");
        values.insert("p50_us", outcome.p50_us);
        values.insert("p99_us", outcome.p99_us);
        values.insert("per_second", outcome.rpcs as f64 / outcome.seconds);
        values.insert("cpu_us", outcome.cpu * 1e6 / outcome.rpcs as f64);
    }
    if load.bulk.is_some() {
        ensure!(outcome.bulk_bytes > 0, "no byte of bulk arrived in the window");
        values.insert("mbit", outcome.bulk_bytes as f64 * 8e-6 / outcome.seconds);
        values.insert("cpu_s_per_gb", outcome.cpu * 1e9 / outcome.bulk_bytes as f64);
    }
    Ok(values)
}

/// Waits until these processes have nothing to do: until all windows and socket buffers are full.
fn until_at_rest(pids: &[u32]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut before = -1.0;
    loop {
        let now = cpu_of(pids);
        if now - before < 0.01 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "daemons with stalled readers do not come to rest");
        before = now;
        std::thread::sleep(Duration::from_millis(200));
    }
}
