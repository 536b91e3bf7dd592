//! The state of the process, and the status document made from it.
//!
//! Written by the process, read by the admin server's thread; each lock is held for a copy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use adit_config::Config;
use adit_core::deny_list::DenyEntry;
use adit_core::snapshot::Snapshot;
use adit_core::wire::report::{NodeReport, ReportQuestion};
use adit_dataplane::backends::BackendHealth;
use adit_pki::UnixTime;
use adit_pki::time::rfc3339;
use adit_runtime::Mutex;
use tokio::sync::watch;

use super::credentials::Credentials;
use super::data_plane::StatusSource;
use super::older_processes;
use crate::readiness::Readiness;
use crate::status::build::{StatusInputs, Traffic, build_status};
use crate::status::report::node_report;
use crate::status::{
    CertificateStatus, ConfigurationStatus, DenyEntryStatus, NodeStatus, OlderProcesses,
    StatusDocument,
};
use crate::telemetry::ProcessLog;

/// The part that stays the same for the life of a process.
#[derive(Debug)]
pub(super) struct StaticState {
    pub(super) boot_id: String,
    pub(super) started: Instant,
    pub(super) started_at: UnixTime,
    /// UDP addresses as bound.
    pub(super) listen: Vec<SocketAddr>,
}

impl StaticState {
    pub(super) fn new(boot_id: String, started: Instant, listen: Vec<SocketAddr>) -> Self {
        Self { boot_id, started, started_at: UnixTime::now(), listen }
    }
}

/// The part that changes.
#[derive(Debug)]
pub(super) struct MutableState {
    /// The configuration in use.
    pub(super) config: Arc<Config>,
    /// Its source, as the status shows it.
    pub(super) configuration: ConfigurationStatus,
    /// The faults for which the newest identity files were not taken.
    pub(super) identity_error: Option<String>,
    /// The fault of the folder of the node's state, if it has one.
    pub(super) folder_error: Option<String>,
    /// The time at which the controller last asked for a report.
    pub(super) controller_asked_at: Option<Instant>,
}

impl MutableState {
    pub(super) fn new(
        config: Config,
        configuration: ConfigurationStatus,
        identity_error: Option<String>,
    ) -> Self {
        let config = Arc::new(config);
        Self {
            config,
            configuration,
            identity_error,
            folder_error: None,
            controller_asked_at: None,
        }
    }
}

/// The state of a process: the part that stays, the part that changes, and the sources of its status.
#[derive(Debug)]
pub(super) struct ProcessState<W> {
    pub(super) statics: StaticState,
    pub(super) mutable: Mutex<MutableState>,
    pub(super) draining: AtomicBool,
    pub(super) readiness: Readiness,
    pub(super) credentials: Arc<Credentials>,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) status_source: W,
    /// `None` in tests, which have no log of their own.
    pub(super) log: Option<ProcessLog>,
}

impl<W> ProcessState<W> {
    /// Reads or changes the part that changes.
    pub(super) fn with_mutable<T>(&self, act: impl FnOnce(&mut MutableState) -> T) -> T {
        act(&mut self.mutable.lock())
    }

    /// The configuration in use.
    pub(super) fn config(&self) -> Arc<Config> {
        self.with_mutable(|c| c.config.clone())
    }

    fn node_status(&self) -> NodeStatus {
        let (config, configuration, error, folder_error, asked) = self.with_mutable(|c| {
            (
                c.config.clone(),
                c.configuration.clone(),
                c.identity_error.clone(),
                c.folder_error.clone(),
                c.controller_asked_at,
            )
        });
        let waiting_for: Vec<String> =
            self.readiness.pending().into_iter().map(|r| r.into_owned()).collect();
        NodeStatus {
            cluster: config.cluster.to_string(),
            trust_domain: config.trust_domain.to_string(),
            node: config.node.name.to_string(),
            boot_id: self.statics.boot_id.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started: rfc3339(self.statics.started_at),
            uptime_seconds: self.statics.started.elapsed().as_secs(),
            ready: waiting_for.is_empty(),
            waiting_for,
            draining: self.draining.load(Ordering::Relaxed),
            older: if self.draining.load(Ordering::Relaxed) {
                OlderProcesses::default()
            } else {
                older_processes::read_older_processes(
                    &config.node.identity,
                    std::time::SystemTime::now(),
                )
            },
            double: None,
            folder_error,
            certificate: certificate(&self.credentials, error, UnixTime::now()),
            configuration,
            log_level: self.log.as_ref().map(ProcessLog::level).unwrap_or_default(),
            listen: self.statics.listen.iter().map(ToString::to_string).collect(),
            controller_asked_seconds_ago: asked.map(|at| at.elapsed().as_secs()),
        }
    }
}

impl<W: StatusSource> ProcessState<W> {
    /// Takes what the controller says with its question. A question that cannot be read says nothing.
    pub(super) fn apply_question(&self, question: &[u8], backends: &BackendHealth) {
        if let Ok(ReportQuestion { unserved, valid_ms }) = ReportQuestion::decode(question) {
            let faults = unserved.into_iter().filter_map(|e| Some((e.target, e.fault?)));
            backends.set_remote_faults(faults.collect(), Duration::from_millis(valid_ms));
        }
    }

    /// The report to the controller of our cluster.
    pub(super) fn report(&self) -> NodeReport {
        self.with_mutable(|c| c.controller_asked_at = Some(Instant::now()));
        let traffic = self.status_source.traffic();
        let refusals = traffic.refusals.clone();
        node_report(&self.status_with(traffic), refusals)
    }

    /// The status document now.
    pub(super) fn status(&self) -> StatusDocument {
        self.status_with(self.status_source.traffic())
    }

    fn status_with(&self, traffic: Traffic) -> StatusDocument {
        let snapshot = self.snapshot.borrow().clone();
        let (links, siblings) = self.status_source.links();
        build_status(StatusInputs {
            node: NodeStatus { double: self.status_source.own_duplicate(), ..self.node_status() },
            snapshot: &snapshot,
            links,
            siblings,
            denied: denied(&self.config(), &self.credentials),
            not_listening: &self.status_source.not_listening(),
            traffic,
        })
    }
}

/// The deny list, and how often each of its entries has refused a peer.
fn denied(config: &Config, credentials: &Credentials) -> Vec<DenyEntryStatus> {
    let verifier = &credentials.verifier;
    let identity = credentials.identity.get();
    let chain = identity.chain().iter().map(|certificate| &certificate[..]);
    let own_entry = verifier.trust().denied.find(identity.id(), chain);
    let one = |entry: &DenyEntry| {
        let refused = verifier.refused(&entry.peer);
        DenyEntryStatus {
            entry: entry.peer.to_string(),
            reason: entry.reason.as_deref().map(str::to_owned),
            refused: refused.as_ref().map_or(0, |refused| refused.times),
            last: refused.map(|refused| refused.last.to_string()),
            this_node: own_entry.as_ref().is_some_and(|own_entry| own_entry.peer == entry.peer),
        }
    };
    config.denied.iter().map(one).collect()
}

fn certificate(
    credentials: &Credentials,
    error: Option<String>,
    now: UnixTime,
) -> CertificateStatus {
    let identity = credentials.identity.get();
    let (from, to) = (identity.not_before(), identity.not_after());
    let left = to.as_secs().cast_signed() - now.as_secs().cast_signed();
    let life = Duration::from_secs(to.as_secs().saturating_sub(from.as_secs()));
    CertificateStatus {
        id: identity.id().to_string(),
        not_before: rfc3339(from),
        not_after: rfc3339(to),
        starts_in_seconds: from.as_secs().saturating_sub(now.as_secs()),
        seconds_left: left,
        life_left: Duration::from_secs(left.max(0).cast_unsigned()).div_duration_f64(life).min(1.0),
        error,
    }
}
