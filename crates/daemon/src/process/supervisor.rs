//! The life of a running node: takes changes as they come, until it is asked to go away.
//!
//! One task, one event at a time, so that no two reloads meet. It decides nothing about traffic: it swaps
//! values that others read, and at the end drains.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_config::{Config, Report};
use adit_pki::UnixTime;
use adit_pki::time::rfc3339;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};

use super::changes;
use super::data::{DataSide, Witness};
use super::finishing;
use super::handover::Custody;
use super::handover::holder::Successor;
use super::known::Known;
use super::origin::{Input, Loaded, Origin};
use super::signals::Wish;
use crate::admin::control::{Command, Reloaded};
use crate::compose::Base;
use crate::metrics::{self, Outcome};

/// How often is looked for connections whose certificate has ended.
const RECHECK: Duration = Duration::from_secs(5);
/// How often a node that leaves looks whether anything is open.
const LOOK: Duration = Duration::from_millis(100);
/// A node that nobody takes over from accepts nothing new for the last of its time: what is short may end by itself.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// How long a node that must end at once takes to say so to its peers.
const PARTING: Duration = Duration::from_millis(300);
/// What resetting the last streams, and telling peers, may take beyond the drain's deadline.
const FAREWELL: Duration = Duration::from_secs(10);

/// How a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// As asked; this many streams were reset because they had not ended in time.
    Drained {
        /// Streams that were reset.
        reset: u64,
    },
    /// At once, by a second signal with this number.
    AtOnce {
        /// The signal.
        signal: u8,
    },
}

/// Why a process no longer simply serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// It was asked to end, by a signal or by an operator.
    Asked(Option<u8>),
    /// Another process has taken over.
    Succeeded,
    /// Nobody has, and what runs may finish within this.
    Alone(Duration),
}

/// Where events come from.
pub(super) struct Events<S> {
    /// The next signal, for ever.
    pub(super) signals: S,
    /// From the admin server.
    pub(super) commands: mpsc::Receiver<Command>,
    /// From where the configuration comes.
    pub(super) inputs: mpsc::Receiver<Input>,
    /// Processes that have taken over.
    pub(super) successors: mpsc::Receiver<Successor>,
}

/// The running node.
pub(super) struct Supervisor<D: DataSide> {
    pub(super) origin: Origin,
    pub(super) data: D,
    pub(super) known: Arc<Known<D::Witness>>,
    pub(super) base: watch::Sender<Base>,
    pub(super) custody: Custody,
    /// Whether somebody starts a successor where this process is asked to end.
    pub(super) followed: bool,
}

impl<D: DataSide> Supervisor<D> {
    /// Serves until a signal or an operator says otherwise, or another process has taken over; then drains.
    pub(super) async fn run(self, mut events: Events<impl AsyncFnMut() -> Wish>) -> Ended {
        let mut recheck = interval(RECHECK);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut left = self.next(&mut events, &mut recheck).await;
        self.known.draining.store(true, Ordering::Relaxed);
        // A pod that only finishes what it carries is as it should be: the DaemonSet counts the oldest of each node.
        let mut not_ready = None;
        if let Left::Asked(_) = left {
            not_ready = Some(self.known.readiness.wait_for("draining"));
            self.custody.ending.cancel();
            left = self.leave(&mut events, &mut recheck).await;
        }
        let within = match left {
            Left::Alone(within) => within,
            Left::Succeeded => {
                drop(not_ready.take());
                self.custody.succeeded.cancel();
                self.known.config().limits.drain
            }
            // The second time.
            Left::Asked(signal) => {
                let signal = signal.unwrap_or_default();
                tracing::warn!(signal, "asked again: ending at once");
                timeout(PARTING, self.data.drain(Duration::ZERO)).await.ok();
                return Ended::AtOnce { signal };
            }
        };
        self.drain(within, &mut events, &mut recheck).await
    }

    /// Takes what comes, until something of it is about the end of this process.
    async fn next(
        &self,
        events: &mut Events<impl AsyncFnMut() -> Wish>,
        recheck: &mut Interval,
    ) -> Left {
        loop {
            tokio::select! {
                biased;
                wish = (events.signals)() => match wish {
                    Wish::End(signal) => {
                        tracing::info!(signal, "asked to end");
                        return Left::Asked(Some(signal));
                    }
                    Wish::Reload => drop(self.reload()),
                },
                Some(successor) = events.successors.recv() => {
                    let version = successor.version;
                    tracing::info!(version, "another process of this node has taken over");
                    return Left::Succeeded;
                }
                Some(command) = events.commands.recv() => match command {
                    Command::Drain => {
                        tracing::info!("asked to end by an operator");
                        return Left::Asked(None);
                    }
                    // An operator who has gone needs no answer.
                    Command::Reload(answer) => drop(answer.send(self.reload())),
                },
                Some(input) = events.inputs.recv() => self.take(input),
                _ = recheck.tick() => self.data.recheck(None),
            }
        }
    }

    fn take(&self, input: Input) {
        match input {
            Input::Config(loaded) => drop(self.load(loaded)),
            Input::Files(files) => {
                let files: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
                tracing::info!(files = files.join(", "), "identity or trust files changed");
                self.reread_credentials(&self.known.config());
            }
        }
    }

    /// Reads everything again, now.
    fn reload(&self) -> Reloaded {
        self.load(self.origin.load())
    }

    fn load(&self, loaded: Loaded) -> Reloaded {
        match loaded {
            Ok((config, reports)) => self.apply(*config, &reports),
            Err(reports) => self.refuse(&reports),
        }
    }

    fn refuse(&self, reports: &[Report]) -> Reloaded {
        metrics::config_read(Outcome::Rejected);
        for (report, problem) in reports.iter().flat_map(|r| r.errors().map(move |p| (r, p))) {
            let (place, hint) = (report.location(problem), problem.hint.as_deref());
            tracing::error!(key = problem.path, hint, "{place}: {}", problem.message);
        }
        tracing::error!("the configuration is not taken; the last good one stays");
        let error = all(reports);
        self.known.with(|c| c.configuration.error = Some(error.clone()));
        Reloaded::Rejected { error }
    }

    /// Runs on `new` from now on, as far as a running process can.
    fn apply(&self, new: Config, reports: &[Report]) -> Reloaded {
        warn(reports);
        let old = self.known.config();
        let changes::Changes { config, applied, needs_restart } = changes::between(&old, &new);
        let config = Arc::new(config);
        self.known.with(|c| {
            let old = std::mem::take(&mut c.configuration);
            c.configuration = self.origin.describe();
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
            metrics::config_read(Outcome::Unchanged);
            tracing::info!("configuration read: it is good, and nothing in it has changed");
        } else {
            metrics::config_read(Outcome::Applied);
            self.base.send_replace(Base::of(&config, &self.known.fixed.listen));
            if let Some(log) = &self.known.log {
                log.set_format(super::format(config.log.format));
                if config.log.level != old.log.level
                    && let Err(error) = log.set_level(config.log.level.as_str())
                {
                    tracing::error!(%error, "the log's level stays");
                }
            }
            tracing::info!(changed = applied.join(", "), "configuration applied");
        }
        if errors.is_empty() {
            Reloaded::Applied { changes: applied.iter().map(|s| (*s).to_owned()).collect() }
        } else {
            Reloaded::Rejected { error: errors.join("\n") }
        }
    }

    fn reread_credentials(&self, config: &Config) -> Vec<String> {
        let reread = self.known.credentials.reload(config, UnixTime::now());
        metrics::identity_read(match (reread.errors.is_empty(), reread.changed) {
            (false, _) => Outcome::Rejected,
            (true, true) => Outcome::Applied,
            (true, false) => Outcome::Unchanged,
        });
        for error in &reread.errors {
            tracing::error!("the last good one stays: {error}");
        }
        if reread.changed {
            self.data.recheck(Some(&self.known.credentials.verifier));
            let identity = self.known.credentials.identity.get();
            tracing::info!(id = %identity.id(), not_after = rfc3339(identity.not_after()), "identity or trust replaced");
        }
        let error = (!reread.errors.is_empty()).then(|| reread.errors.join("\n"));
        let good = error.is_none();
        let before = self.known.with(|c| std::mem::replace(&mut c.identity_error, error));
        if good && before.is_some() {
            tracing::info!("identity and trust files are good again");
        }
        reread.errors
    }

    /// Asked to end, and nobody has taken over: goes on as before, so that there is no time without a node, until
    /// somebody takes over, or nothing is open and nobody is to come, or the time is up.
    async fn leave(
        &self,
        events: &mut Events<impl AsyncFnMut() -> Wish>,
        recheck: &mut Interval,
    ) -> Left {
        let within = self.known.config().limits.leave;
        let until = Instant::now() + within.saturating_sub(LAST_MOMENT);
        tracing::info!(open = self.open(), deadline_s = within.as_secs(), "leaving");
        let mut look = interval(LOOK);
        loop {
            tokio::select! {
                biased;
                happened = self.next(events, recheck) => return happened,
                _ = look.tick() => {
                    let expected = self.followed && !self.custody.removed.is_cancelled();
                    if Instant::now() >= until || (self.open() == 0 && !expected) {
                        return Left::Alone(LAST_MOMENT.min(within));
                    }
                }
            }
        }
    }

    /// Goes away: nothing new, what runs may finish until the deadline, the rest is reset. Meanwhile the
    /// operator's word counts: what loses its right ends.
    async fn drain(
        &self,
        within: Duration,
        events: &mut Events<impl AsyncFnMut() -> Wish>,
        recheck: &mut Interval,
    ) -> Ended {
        tracing::info!(open = self.open(), deadline_s = within.as_secs(), "draining");
        let draining = async {
            let ending = async {
                match timeout(within + FAREWELL, self.data.drain(within)).await {
                    Ok(0) => Ended::Drained { reset: 0 },
                    Ok(reset) => {
                        tracing::warn!(reset, "the deadline passed, and what was left was reset");
                        Ended::Drained { reset }
                    }
                    Err(_) => {
                        tracing::error!("streams or connections are left that do not end");
                        Ended::Drained { reset: self.open() }
                    }
                }
            };
            // Who removes Adit does not wait for streams that may last.
            let removed = async {
                self.custody.removed.cancelled().await;
                sleep(self.known.config().limits.leave).await;
                let reset = timeout(FAREWELL, self.data.drain(Duration::ZERO)).await;
                Ended::Drained { reset: reset.unwrap_or_else(|_| self.open()) }
            };
            let ended =
                tokio::select! { biased; ended = ending => ended, ended = removed => ended };
            // Kubernetes starts a container again that ends before its pod does.
            if self.followed {
                self.custody.ending.cancelled().await;
            }
            ended
        };
        let interrupted = async {
            loop {
                match self.next(events, recheck).await {
                    Left::Asked(_) if !self.custody.ending.is_cancelled() => {
                        self.custody.ending.cancel();
                    }
                    Left::Asked(Some(signal)) => {
                        tracing::warn!(signal, "asked again: ending at once");
                        return Ended::AtOnce { signal };
                    }
                    Left::Asked(None) | Left::Succeeded | Left::Alone(_) => {}
                }
            }
        };
        let folder = self.known.config().node.identity.clone();
        let telling = async {
            // Nobody asks for it where nobody took over.
            self.custody.succeeded.cancelled().await;
            finishing::tell(folder, &self.known.fixed.boot_id, || self.open()).await
        };
        let ended = tokio::select! {
            biased;
            ended = draining => ended,
            ended = interrupted => ended,
            never = telling => match never {},
        };
        if let Ended::AtOnce { .. } = ended {
            // Peers are told, or their callers would wait until silence says so.
            timeout(PARTING, self.data.drain(Duration::ZERO)).await.ok();
        }
        tracing::info!(?ended, "ended");
        ended
    }

    fn open(&self) -> u64 {
        self.known.witness.traffic().streams.open
    }
}

/// Logs what is odd about a configuration that is taken all the same.
pub(super) fn warn(reports: &[Report]) {
    for (report, problem) in reports.iter().flat_map(|r| r.warnings().map(move |p| (r, p))) {
        let (place, hint) = (report.location(problem), problem.hint.as_deref());
        tracing::warn!(key = problem.path, hint, "{place}: {}", problem.message);
    }
}

/// All that reports say.
pub(super) fn all(reports: &[Report]) -> String {
    let said: Vec<String> = reports.iter().map(Report::to_string).collect();
    said.join("\n")
}

#[cfg(test)]
mod tests;
