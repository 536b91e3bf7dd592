//! Hot reload: follows a configuration file, and the files that it refers to, as they change.
//!
//! A thread of its own looks when the operating system reports a change (`watch/bell.rs`) and every
//! [`POLL_INTERVAL`] in any case, since reports get lost. What it sees (`watch/eyes.rs`) is believed once it rests,
//! so that a file which is being written is not read half; what is the same as before is no change.
//! The caller keeps the last good configuration; nothing here does.

mod files;
mod notifier;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::files::{FileObserver, ObservedFiles};
use self::notifier::{Notifier, WakeReason};
use crate::problem::{ProblemKind, ProblemSeverity, ValueProblem};
use crate::{Config, ConfigReport, parse};

/// The files are read this often without a report of the system, from one reading to the next.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// The files are believed after this time without a change. Enough for the renames and writes of one
/// save, and not noticed by whoever waits for it.
const QUIET_DELAY: Duration = Duration::from_millis(25);
/// The same while somebody has one of them open and has written to it, or while the configuration is
/// missing: programs that replace a file by deleting it first need a moment.
const WRITING_QUIET_DELAY: Duration = Duration::from_millis(500);
/// A file that never rests is believed after this time.
const QUIET_TIMEOUT: Duration = Duration::from_secs(3);

/// A change of a file that is watched.
#[derive(Debug)]
pub enum ConfigChange {
    /// The file has changed and is good. Comes with its warnings. A return to the configuration before
    /// a bad one is also reported, so that the complaint about the bad one can end.
    Config(Box<Config>, ConfigReport),
    /// The file has changed and is bad, or is gone. Reported once; the last good configuration stays.
    Refused(ConfigReport),
    /// These of the files that the last good configuration refers to have changed, appeared or gone.
    Files(Vec<PathBuf>),
}

/// Keeps a file watched until it is stopped or dropped.
#[derive(Debug)]
pub struct ConfigWatch {
    notifier: Arc<Notifier>,
    thread: Option<JoinHandle<()>>,
}

impl ConfigWatch {
    /// Stops, and waits until no call of the callback is under way. A callback that waits for the
    /// thread that calls this would make it wait for ever.
    pub fn stop(mut self) {
        self.notifier.stop();
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for ConfigWatch {
    /// Stops without waiting.
    fn drop(&mut self) {
        self.notifier.stop();
    }
}

/// Loads `file`, like [`load`](crate::load), and calls `on_change` at each change from that moment on,
/// on a thread of its own. No change is missed between loading and watching.
///
/// Paths in what is reported are absolute, also where `file` is not.
///
/// Where the operating system cannot report changes (its limit of watches is reached), the files are read
/// every 10 s, and the report says so in a warning.
///
/// # Errors
/// Everything that is wrong with the file now; it is not watched then.
pub fn watch(
    file: &Path,
    on_change: impl FnMut(ConfigChange) + Send + 'static,
) -> Result<(Config, ConfigReport, ConfigWatch), ConfigReport> {
    follow(file, WatchOptions::PRODUCTION, on_change)
}

/// The means and times of watching, which tests vary.
#[derive(Debug, Clone, Copy)]
struct WatchOptions {
    notified: bool,
    poll: Duration,
    quiet: Duration,
    quiet_while_writing: Duration,
}

impl WatchOptions {
    const PRODUCTION: Self = Self {
        notified: true,
        poll: POLL_INTERVAL,
        quiet: QUIET_DELAY,
        quiet_while_writing: WRITING_QUIET_DELAY,
    };
}

fn follow<F: FnMut(ConfigChange) + Send + 'static>(
    file: &Path,
    how: WatchOptions,
    on_change: F,
) -> Result<(Config, ConfigReport, ConfigWatch), ConfigReport> {
    let bell = Arc::new(Notifier::default());
    let mut eyes = FileObserver::new(file, how.notified.then_some(&bell));
    let seen = eyes.observe();
    let (config, mut report) = read(eyes.file(), &seen)?;
    let seen = eyes.observe_references(seen, &config);
    if let Some(reason) = eyes.poll_only_reason() {
        let message = format!(
            "changes are noticed within 10 s, not at once: the system does not report them ({reason})"
        );
        let flaw = ValueProblem::new(ProblemKind::Unreadable, message);
        report = report.with([flaw.at(ProblemSeverity::Warning, "", None)]);
    }
    let follower = WatchThread { files: eyes, notifier: bell.clone(), seen, how, on_change };
    let thread = thread::Builder::new().name("config-watch".into()).spawn(|| follower.run());
    let thread = thread.map_err(|error| {
        let message = format!("cannot start the thread that watches: {error}");
        let flaw = ValueProblem::new(ProblemKind::Unreadable, message);
        ConfigReport::new(file, vec![flaw.at(ProblemSeverity::Error, "", None)])
    })?;
    Ok((config, report, ConfigWatch { notifier: bell, thread: Some(thread) }))
}

fn read(file: &Path, seen: &ObservedFiles) -> Result<(Config, ConfigReport), ConfigReport> {
    match &seen.text {
        Ok(text) => parse(text, file),
        Err(problem) => Err(ConfigReport::new(file, vec![(**problem).clone()])),
    }
}

/// The state of the thread that watches.
struct WatchThread<F> {
    files: FileObserver,
    notifier: Arc<Notifier>,
    /// The state that was reported last.
    seen: ObservedFiles,
    how: WatchOptions,
    on_change: F,
}

impl<F: FnMut(ConfigChange)> WatchThread<F> {
    fn run(mut self) {
        loop {
            if let Some(sight) = self.wait_until_quiet() {
                // It may refer to other files now, which have to be watched: look before waiting.
                self.report(sight);
            } else if self.notifier.wait(self.how.poll) == WakeReason::Stopped {
                return;
            }
        }
    }

    /// Looks until what is seen rests. None where it is what was seen before, or where we are stopped.
    fn wait_until_quiet(&mut self) -> Option<ObservedFiles> {
        let began = Instant::now();
        let mut last = self.files.observe();
        while last != self.seen {
            let unfinished = self.notifier.is_writing() || last.text.is_err();
            let woken = self.notifier.wait(if unfinished {
                self.how.quiet_while_writing
            } else {
                self.how.quiet
            });
            if woken == WakeReason::Stopped {
                return None;
            }
            let next = self.files.observe();
            let rests = woken == WakeReason::TimedOut && next == last;
            last = next;
            if rests || began.elapsed() > QUIET_TIMEOUT {
                return (last != self.seen).then_some(last);
            }
        }
        None
    }

    fn report(&mut self, sight: ObservedFiles) {
        let before = std::mem::replace(&mut self.seen, sight);
        if self.seen.text != before.text {
            let change = match read(self.files.file(), &self.seen) {
                Ok((config, report)) => {
                    let seen = std::mem::take(&mut self.seen);
                    self.seen = self.files.observe_references(seen, &config);
                    ConfigChange::Config(Box::new(config), report)
                }
                Err(report) => ConfigChange::Refused(report),
            };
            (self.on_change)(change);
        }
        // Files that the configuration did not refer to before are read by whoever takes it.
        let changed = |(file, digest): (&PathBuf, &u64)| {
            before.files.get(file).is_some_and(|old| old != digest).then(|| file.clone())
        };
        let changed: Vec<_> = self.seen.files.iter().filter_map(changed).collect();
        if !changed.is_empty() {
            (self.on_change)(ConfigChange::Files(changed));
        }
    }
}

#[cfg(test)]
mod tests;
