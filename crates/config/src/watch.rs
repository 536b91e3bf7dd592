//! Hot reload: follows a configuration file, and the files that it refers to, as they change.
//!
//! A thread of its own reads the files (`watch/files.rs`) when the operating system reports a change
//! (`watch/notifier.rs`), and every [`POLL_INTERVAL`] in any case, since reports get lost. Contents are believed once
//! they have not changed for a moment, so that a file which is being written is not read half; the same contents as
//! before are no change. The caller keeps the last good configuration; nothing here does.

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

/// The time from one reading of the files to the next, if the system reports nothing.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// The time without a change after which the files are believed. Enough for the renames and writes of one
/// save, and not noticed by whoever waits for it.
const QUIET_DELAY: Duration = Duration::from_millis(25);
/// The same time while somebody has one of them open and has written to it, or while the configuration is
/// missing: programs that replace a file by deleting it first need a moment.
const WRITING_QUIET_DELAY: Duration = Duration::from_millis(500);
/// The time after which files that never stop changing are believed, from the first change on.
const QUIET_TIMEOUT: Duration = Duration::from_secs(3);

/// A change of a file that is watched.
#[derive(Debug)]
pub enum ConfigChange {
    /// The file has changed and is good. Comes with its warnings. A return to the configuration before
    /// a bad one is also reported, so that the warning about the bad one can end.
    Config(Box<Config>, ConfigReport),
    /// The file has changed and is bad, or is gone. Reported once; the last good configuration stays.
    Refused(ConfigReport),
    /// These files, to which the last good configuration refers, have changed, appeared or disappeared.
    Files(Vec<PathBuf>),
}

/// Keeps a file watched until it is stopped or dropped.
#[derive(Debug)]
pub struct ConfigWatch {
    notifier: Arc<Notifier>,
    thread: Option<JoinHandle<()>>,
}

impl ConfigWatch {
    /// Stops, and waits until no call of the callback is running. If the callback waits for the thread that calls
    /// this, neither ever ends.
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
/// Reports have absolute paths, also if `file` is relative.
///
/// If the operating system cannot report changes (its limit of watches is reached), the files are read
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
    options: WatchOptions,
    on_change: F,
) -> Result<(Config, ConfigReport, ConfigWatch), ConfigReport> {
    let notifier = Arc::new(Notifier::default());
    let mut observer = FileObserver::new(file, options.notified.then_some(&notifier));
    let seen = observer.observe();
    let (config, mut report) = read(observer.file(), &seen)?;
    let seen = observer.observe_references(seen, &config);
    if let Some(reason) = observer.poll_only_reason() {
        let message = format!(
            "changes are noticed within 10 s, not at once: the system does not report them ({reason})"
        );
        let finding = ValueProblem::new(ProblemKind::Unreadable, message);
        report = report.with([finding.at(ProblemSeverity::Warning, "", None)]);
    }
    let follower =
        WatchThread { files: observer, notifier: notifier.clone(), seen, options, on_change };
    let thread = thread::Builder::new().name("config-watch".into()).spawn(|| follower.run());
    let thread = thread.map_err(|error| {
        let message = format!("cannot start the thread that watches: {error}");
        let finding = ValueProblem::new(ProblemKind::Unreadable, message);
        ConfigReport::new(file, vec![finding.at(ProblemSeverity::Error, "", None)])
    })?;
    Ok((config, report, ConfigWatch { notifier, thread: Some(thread) }))
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
    options: WatchOptions,
    on_change: F,
}

impl<F: FnMut(ConfigChange)> WatchThread<F> {
    fn run(mut self) {
        loop {
            if let Some(observed) = self.wait_until_quiet() {
                // The configuration may refer to other files now, which have to be watched: read before waiting.
                self.report(observed);
            } else if self.notifier.wait(self.options.poll) == WakeReason::Stopped {
                return;
            }
        }
    }

    /// Reads the files until they stop changing. `None` if they are as they were reported, or if the thread has to stop.
    fn wait_until_quiet(&mut self) -> Option<ObservedFiles> {
        let began = Instant::now();
        let mut last = self.files.observe();
        while last != self.seen {
            let unfinished = self.notifier.is_writing() || last.text.is_err();
            let woken = self.notifier.wait(if unfinished {
                self.options.quiet_while_writing
            } else {
                self.options.quiet
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

    fn report(&mut self, observed: ObservedFiles) {
        let before = std::mem::replace(&mut self.seen, observed);
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
        // Files to which the configuration did not refer before are read by whoever takes it.
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
