//! Hot reload: follows a configuration file, and the files that it refers to, as they change.
//!
//! A thread of its own looks when the operating system reports a change (`watch/bell.rs`) and every
//! [`POLL`] in any case, since reports get lost. What it sees (`watch/eyes.rs`) is believed once it rests,
//! so that a file which is being written is not read half; what is the same as before is no change.
//! The caller keeps the last good configuration; nothing here does.

mod bell;
mod eyes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::bell::{Bell, Woken};
use self::eyes::{Eyes, Sight};
use crate::problem::{Flaw, Kind, Severity};
use crate::{Config, Report, parse};

/// How often is looked without a reason.
const POLL: Duration = Duration::from_secs(10);
/// How long the files must rest before they are believed. Enough for the renames and writes of one
/// save, and not noticed by whoever waits for it.
const REST: Duration = Duration::from_millis(25);
/// The same while somebody has one of them open and has written to it, or while the configuration is
/// missing: programs that replace a file by deleting it first need a moment.
const LONG_REST: Duration = Duration::from_millis(500);
/// A file that never rests is believed after this time.
const PATIENCE: Duration = Duration::from_secs(3);

/// What happened to a file that is watched.
#[derive(Debug)]
pub enum Change {
    /// The file has changed and is good. Comes with its warnings. A return to the configuration before
    /// a bad one is also reported, so that the complaint about the bad one can end.
    Config(Box<Config>, Report),
    /// The file has changed and is bad, or is gone. Reported once; the last good configuration stays.
    Refused(Report),
    /// These of the files that the last good configuration refers to have changed, appeared or gone.
    Files(Vec<PathBuf>),
}

/// Keeps a file watched until it is stopped or dropped.
#[derive(Debug)]
pub struct Watch {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Stops, and waits until no call of the callback is under way. A callback that waits for the
    /// thread that calls this would make it wait for ever.
    pub fn stop(mut self) {
        self.bell.stop();
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Watch {
    /// Stops without waiting.
    fn drop(&mut self) {
        self.bell.stop();
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
    on_change: impl FnMut(Change) + Send + 'static,
) -> Result<(Config, Report, Watch), Report> {
    follow(file, How::USUAL, on_change)
}

/// What tests vary.
#[derive(Debug, Clone, Copy)]
struct How {
    notified: bool,
    poll: Duration,
    rest: Duration,
    long_rest: Duration,
}

impl How {
    const USUAL: Self = Self { notified: true, poll: POLL, rest: REST, long_rest: LONG_REST };
}

fn follow<F: FnMut(Change) + Send + 'static>(
    file: &Path,
    how: How,
    on_change: F,
) -> Result<(Config, Report, Watch), Report> {
    let bell = Arc::new(Bell::default());
    let mut eyes = Eyes::new(file, how.notified.then_some(&bell));
    let seen = eyes.look();
    let (config, mut report) = read(eyes.file(), &seen)?;
    let seen = eyes.look_again(seen, &config);
    if let Some(reason) = eyes.blind() {
        let message = format!(
            "changes are noticed within 10 s, not at once: the system does not report them ({reason})"
        );
        let flaw = Flaw::new(Kind::Unreadable, message);
        report = report.with([flaw.at(Severity::Warning, "", None)]);
    }
    let follower = Follower { eyes, bell: bell.clone(), seen, how, on_change };
    let thread = thread::Builder::new().name("config-watch".into()).spawn(|| follower.run());
    let thread = thread.map_err(|error| {
        let message = format!("cannot start the thread that watches: {error}");
        let flaw = Flaw::new(Kind::Unreadable, message);
        Report::new(file, vec![flaw.at(Severity::Error, "", None)])
    })?;
    Ok((config, report, Watch { bell, thread: Some(thread) }))
}

fn read(file: &Path, seen: &Sight) -> Result<(Config, Report), Report> {
    match &seen.text {
        Ok(text) => parse(text, file),
        Err(problem) => Err(Report::new(file, vec![(**problem).clone()])),
    }
}

/// What the thread runs.
struct Follower<F> {
    eyes: Eyes,
    bell: Arc<Bell>,
    /// What was reported last.
    seen: Sight,
    how: How,
    on_change: F,
}

impl<F: FnMut(Change)> Follower<F> {
    fn run(mut self) {
        loop {
            if let Some(sight) = self.settle() {
                // It may refer to other files now, which have to be watched: look before waiting.
                self.report(sight);
            } else if self.bell.wait(self.how.poll) == Woken::Stopped {
                return;
            }
        }
    }

    /// Looks until what is seen rests. None where it is what was seen before, or where we are stopped.
    fn settle(&mut self) -> Option<Sight> {
        let began = Instant::now();
        let mut last = self.eyes.look();
        while last != self.seen {
            let unfinished = self.bell.is_writing() || last.text.is_err();
            let woken = self.bell.wait(if unfinished { self.how.long_rest } else { self.how.rest });
            if woken == Woken::Stopped {
                return None;
            }
            let next = self.eyes.look();
            let rests = woken == Woken::Silence && next == last;
            last = next;
            if rests || began.elapsed() > PATIENCE {
                return (last != self.seen).then_some(last);
            }
        }
        None
    }

    fn report(&mut self, sight: Sight) {
        let before = std::mem::replace(&mut self.seen, sight);
        if self.seen.text != before.text {
            let change = match read(self.eyes.file(), &self.seen) {
                Ok((config, report)) => {
                    let seen = std::mem::take(&mut self.seen);
                    self.seen = self.eyes.look_again(seen, &config);
                    Change::Config(Box::new(config), report)
                }
                Err(report) => Change::Refused(report),
            };
            (self.on_change)(change);
        }
        // Files that the configuration did not refer to before are read by whoever takes it.
        let changed = |(file, digest): (&PathBuf, &u64)| {
            before.files.get(file).is_some_and(|old| old != digest).then(|| file.clone())
        };
        let changed: Vec<_> = self.seen.files.iter().filter_map(changed).collect();
        if !changed.is_empty() {
            (self.on_change)(Change::Files(changed));
        }
    }
}

#[cfg(test)]
mod tests;
