//! The life of a running node: takes changes as they come, until it is asked to go away.
//!
//! One task, one event at a time, so that no two reloads meet. It decides nothing about traffic: it swaps
//! values that others read, and at the end drains.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_config::{Config, ConfigReport};
use adit_pki::UnixTime;
use adit_pki::time::rfc3339;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};

use super::config_diff;
use super::config_source::ConfigSource;
use super::config_update::{ConfigUpdate, LoadedConfig};
use super::data_plane::{DataPlane, StatusSource};
use super::handover::HandoverState;
use super::handover::holder::Successor;
use super::older_processes;
use super::process_state::ProcessState;
use super::snapshot::SnapshotBuilder;
use crate::admin::control::{AdminCommand, ReloadReply};
use crate::metrics::{self, FileReadOutcome};
use crate::process::log::{line_format, log_warnings};
use crate::process::signals::SignalAction;
use crate::process::{ProcessExit, report_lines};

/// Connections whose certificate has ended are looked for this often.
const CERTIFICATE_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// A node that leaves looks this often whether any stream is open.
const STREAMS_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// A node without a successor accepts nothing new for this long before its deadline: short streams may end by
/// themselves.
const FINAL_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// A node that must end at once may take this long to tell its peers.
const IMMEDIATE_END_TIMEOUT: Duration = Duration::from_millis(300);
/// Resetting the last streams and telling peers may take this long, from the drain's deadline.
const RESET_TIMEOUT: Duration = Duration::from_secs(10);

/// The reason why a process no longer simply serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaveReason {
    /// A signal (with its number) or an operator asked the process to end.
    EndRequested(Option<u8>),
    /// Another process has taken over.
    TakenOver,
    /// No process has taken over, and streams that run may finish within this.
    NoSuccessor(Duration),
}

/// The sources of a supervisor's events.
pub(super) struct SupervisorEvents<S> {
    /// Waits for the next signal.
    pub(super) signals: S,
    /// Commands from the admin server.
    pub(super) commands: mpsc::Receiver<AdminCommand>,
    /// Changes of the configuration and of its files.
    pub(super) config_updates: mpsc::Receiver<ConfigUpdate>,
    /// Processes that have taken over.
    pub(super) successors: mpsc::Receiver<Successor>,
}

/// The running node.
pub(super) struct NodeSupervisor<D: DataPlane> {
    pub(super) config_source: ConfigSource,
    pub(super) data_plane: D,
    pub(super) state: Arc<ProcessState<D::StatusSource>>,
    pub(super) base: watch::Sender<SnapshotBuilder>,
    pub(super) handover: HandoverState,
    /// True if somebody starts a successor when this process is asked to end.
    pub(super) expects_successor: bool,
}

impl<D: DataPlane> NodeSupervisor<D> {
    /// Serves until a signal or an operator says otherwise, or another process has taken over; then drains.
    pub(super) async fn run(
        self,
        mut events: SupervisorEvents<impl AsyncFnMut() -> SignalAction>,
    ) -> ProcessExit {
        let mut recheck = interval(CERTIFICATE_CHECK_INTERVAL);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut left = self.next_leave_reason(&mut events, &mut recheck).await;
        self.state.draining.store(true, Ordering::Relaxed);
        // A pod that only finishes what it carries is as it should be: the DaemonSet counts the oldest of each node.
        let mut not_ready = None;
        if let LeaveReason::EndRequested(_) = left {
            not_ready = Some(self.state.readiness.wait_for("draining"));
            self.handover.ending.cancel();
            left = self.leave(&mut events, &mut recheck).await;
        }
        let within = match left {
            LeaveReason::NoSuccessor(within) => within,
            LeaveReason::TakenOver => {
                drop(not_ready.take());
                self.handover.taken_over.cancel();
                self.state.config().limits.drain
            }
            // The second time.
            LeaveReason::EndRequested(signal) => {
                let signal = signal.unwrap_or_default();
                tracing::warn!(signal, "asked again: ending at once");
                timeout(IMMEDIATE_END_TIMEOUT, self.data_plane.drain(Duration::ZERO)).await.ok();
                return ProcessExit::Immediate { signal };
            }
        };
        self.drain(within, &mut events, &mut recheck).await
    }

    /// Acts on each event, until one is about the end of this process; returns that one.
    async fn next_leave_reason(
        &self,
        events: &mut SupervisorEvents<impl AsyncFnMut() -> SignalAction>,
        recheck: &mut Interval,
    ) -> LeaveReason {
        loop {
            tokio::select! {
                biased;
                action = (events.signals)() => match action {
                    SignalAction::End(signal) => {
                        tracing::info!(signal, "asked to end");
                        return LeaveReason::EndRequested(Some(signal));
                    }
                    SignalAction::Reload => drop(self.reload()),
                },
                Some(successor) = events.successors.recv() => {
                    let version = successor.version;
                    tracing::info!(version, "another process of this node has taken over");
                    return LeaveReason::TakenOver;
                }
                Some(command) = events.commands.recv() => match command {
                    AdminCommand::Drain => {
                        tracing::info!("asked to end by an operator");
                        return LeaveReason::EndRequested(None);
                    }
                    // An operator who has gone needs no answer.
                    AdminCommand::Reload(answer) => drop(answer.send(self.reload())),
                },
                Some(input) = events.config_updates.recv() => self.take_update(input),
                _ = recheck.tick() => self.data_plane.recheck(None),
            }
        }
    }

    fn take_update(&self, input: ConfigUpdate) {
        match input {
            ConfigUpdate::Config(loaded) => drop(self.load(loaded)),
            ConfigUpdate::Files(files) => {
                let files: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
                tracing::info!(files = files.join(", "), "identity or trust files changed");
                self.reread_credentials(&self.state.config());
            }
            ConfigUpdate::StateFolder(error) => {
                match &error {
                    Some(error) => tracing::error!("{error}"),
                    None => tracing::info!("the state folder can be written again"),
                }
                self.state.with_mutable(|c| c.folder_error = error);
            }
        }
    }

    /// Reads the configuration and its files again, now.
    fn reload(&self) -> ReloadReply {
        self.load(self.config_source.load())
    }

    fn load(&self, loaded: LoadedConfig) -> ReloadReply {
        match loaded {
            Ok((config, reports)) => self.apply(*config, &reports),
            Err(reports) => self.refuse(&reports),
        }
    }

    fn refuse(&self, reports: &[ConfigReport]) -> ReloadReply {
        metrics::config_read(FileReadOutcome::Rejected);
        for (report, problem) in reports.iter().flat_map(|r| r.errors().map(move |p| (r, p))) {
            let (place, hint) = (report.location(problem), problem.hint.as_deref());
            tracing::error!(key = problem.path, hint, "{place}: {}", problem.message);
        }
        tracing::error!("the configuration is not taken; the last good one stays");
        let error = report_lines(reports);
        self.state.with_mutable(|c| c.configuration.error = Some(error.clone()));
        ReloadReply::Rejected { error }
    }

    /// Runs on the configuration `new` from now on, as far as a running process can.
    fn apply(&self, new: Config, reports: &[ConfigReport]) -> ReloadReply {
        log_warnings(reports);
        let old = self.state.config();
        let config_diff::ConfigDiff { config, applied, needs_restart } =
            config_diff::between(&old, &new);
        let config = Arc::new(config);
        self.state.with_mutable(|c| {
            let old = std::mem::take(&mut c.configuration);
            c.configuration = self.config_source.describe();
            c.configuration.needs_restart.extend(needs_restart.iter().map(|k| (*k).to_owned()));
            if applied.is_empty() {
                c.configuration.loaded_at = old.loaded_at;
            }
            c.config = config.clone();
        });
        if !needs_restart.is_empty() {
            tracing::warn!(keys = needs_restart.join(", "), "these changes need a restart");
        }
        // Trust before routes: nobody is dialled who could not be believed.
        let errors = self.reread_credentials(&config);
        if applied.is_empty() {
            metrics::config_read(FileReadOutcome::Unchanged);
            tracing::info!("configuration read: it is good, and nothing in it has changed");
        } else {
            metrics::config_read(FileReadOutcome::Applied);
            self.base
                .send_replace(SnapshotBuilder::from_config(&config, &self.state.statics.listen));
            if let Some(log) = &self.state.log {
                log.set_format(line_format(config.log.format));
                if config.log.level != old.log.level
                    && let Err(error) = log.set_level(config.log.level.as_str())
                {
                    tracing::error!(%error, "the log's level stays");
                }
            }
            tracing::info!(changed = applied.join(", "), "configuration applied");
        }
        if errors.is_empty() {
            ReloadReply::Applied { changes: applied.iter().map(|s| (*s).to_owned()).collect() }
        } else {
            ReloadReply::Rejected { error: errors.join("\n") }
        }
    }

    fn reread_credentials(&self, config: &Config) -> Vec<String> {
        let reread = self.state.credentials.reload(config, UnixTime::now());
        metrics::identity_read(match (reread.errors.is_empty(), reread.changed) {
            (false, _) => FileReadOutcome::Rejected,
            (true, true) => FileReadOutcome::Applied,
            (true, false) => FileReadOutcome::Unchanged,
        });
        for error in &reread.errors {
            tracing::error!("the last good one stays: {error}");
        }
        if reread.changed {
            self.data_plane.recheck(Some(&self.state.credentials.verifier));
            let identity = self.state.credentials.identity.get();
            tracing::info!(id = %identity.id(), not_after = rfc3339(identity.not_after()), "identity or trust replaced");
        }
        let error = (!reread.errors.is_empty()).then(|| reread.errors.join("\n"));
        let good = error.is_none();
        let before = self.state.with_mutable(|c| std::mem::replace(&mut c.identity_error, error));
        if good && before.is_some() {
            tracing::info!("identity and trust files are good again");
        }
        reread.errors
    }

    /// Serves on after the process was asked to end, so that there is no time without a node: until another process
    /// takes over, or nothing is open and no process is to come, or the time is up.
    async fn leave(
        &self,
        events: &mut SupervisorEvents<impl AsyncFnMut() -> SignalAction>,
        recheck: &mut Interval,
    ) -> LeaveReason {
        let within = self.state.config().limits.leave;
        let until = Instant::now() + within.saturating_sub(FINAL_DRAIN_TIMEOUT);
        tracing::info!(open = self.open_streams(), deadline_s = within.as_secs(), "leaving");
        let mut look = interval(STREAMS_CHECK_INTERVAL);
        loop {
            tokio::select! {
                biased;
                happened = self.next_leave_reason(events, recheck) => return happened,
                _ = look.tick() => {
                    let expected = self.expects_successor && !self.handover.removed.is_cancelled();
                    if Instant::now() >= until || (self.open_streams() == 0 && !expected) {
                        return LeaveReason::NoSuccessor(FINAL_DRAIN_TIMEOUT.min(within));
                    }
                }
            }
        }
    }

    /// Drains the node: it takes nothing new, streams may finish until the deadline, the rest is reset. Changes of the
    /// configuration still count meanwhile: streams that lose their right end.
    async fn drain(
        &self,
        within: Duration,
        events: &mut SupervisorEvents<impl AsyncFnMut() -> SignalAction>,
        recheck: &mut Interval,
    ) -> ProcessExit {
        tracing::info!(open = self.open_streams(), deadline_s = within.as_secs(), "draining");
        let folder = self.state.config().node.identity.clone();
        let telling = async {
            // Nobody asks for it where nobody took over.
            self.handover.taken_over.cancelled().await;
            older_processes::report_open_streams(folder, &self.state.statics.boot_id, || {
                self.open_streams()
            })
            .await
        };
        let ended = tokio::select! {
            biased;
            ended = self.end_streams(within) => ended,
            ended = self.serve_until_asked_again(events, recheck) => ended,
            never = telling => match never {},
        };
        if let ProcessExit::Immediate { .. } = ended {
            // Peers are told, or their callers would wait until silence says so.
            timeout(IMMEDIATE_END_TIMEOUT, self.data_plane.drain(Duration::ZERO)).await.ok();
        }
        tracing::info!(?ended, "ended");
        ended
    }

    /// Waits for streams until the deadline, resets the rest, and waits until the process may end.
    async fn end_streams(&self, within: Duration) -> ProcessExit {
        let ending = async {
            match timeout(within + RESET_TIMEOUT, self.data_plane.drain(within)).await {
                Ok(0) => ProcessExit::Drained { reset: 0 },
                Ok(reset) => {
                    tracing::warn!(reset, "the deadline passed, and what was left was reset");
                    ProcessExit::Drained { reset }
                }
                Err(_) => {
                    tracing::error!("streams or connections are left that do not end");
                    ProcessExit::Drained { reset: self.open_streams() }
                }
            }
        };
        // Whoever removes Adit does not wait for streams that may last.
        let removed = async {
            self.handover.removed.cancelled().await;
            sleep(self.state.config().limits.leave).await;
            let reset = timeout(RESET_TIMEOUT, self.data_plane.drain(Duration::ZERO)).await;
            ProcessExit::Drained { reset: reset.unwrap_or_else(|_| self.open_streams()) }
        };
        let ended = tokio::select! { biased; ended = ending => ended, ended = removed => ended };
        // Kubernetes starts a container again that ends before its pod does.
        if self.expects_successor {
            self.handover.ending.cancelled().await;
        }
        ended
    }

    /// Takes what comes during a drain, until a second signal asks the process to end at once.
    async fn serve_until_asked_again(
        &self,
        events: &mut SupervisorEvents<impl AsyncFnMut() -> SignalAction>,
        recheck: &mut Interval,
    ) -> ProcessExit {
        loop {
            match self.next_leave_reason(events, recheck).await {
                LeaveReason::EndRequested(_) if !self.handover.ending.is_cancelled() => {
                    self.handover.ending.cancel();
                }
                LeaveReason::EndRequested(Some(signal)) => {
                    tracing::warn!(signal, "asked again: ending at once");
                    return ProcessExit::Immediate { signal };
                }
                LeaveReason::EndRequested(None)
                | LeaveReason::TakenOver
                | LeaveReason::NoSuccessor(_) => {}
            }
        }
    }

    fn open_streams(&self) -> u64 {
        self.state.status_source.traffic().streams.open
    }
}

#[cfg(test)]
mod tests;
