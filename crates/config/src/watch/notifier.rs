//! Reports of the operating system, as one signal: something that matters may have changed.
//!
//! Reports about other files of the same folders do not wake anybody, and neither does our own reading.
//! A file that was written to and not closed since is remembered, since it is probably half written.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind};

/// Signalled by the thread of the system's watcher, waited for by ours.
#[derive(Debug, Default)]
pub(super) struct Notifier {
    state: Mutex<NotifierState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct NotifierState {
    pending: bool,
    stopped: bool,
    /// The entries of folders that matter.
    entries: HashSet<PathBuf>,
    /// Those of them that somebody has written to and not closed.
    writing: HashSet<PathBuf>,
}

/// The reason for which [`Notifier::wait`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WakeReason {
    Changed,
    TimedOut,
    Stopped,
}

impl Notifier {
    fn state(&self) -> MutexGuard<'_, NotifierState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets only changes of `entries` wake the waiting thread from now on.
    pub(super) fn watch_entries(&self, entries: HashSet<PathBuf>) {
        let mut state = self.state();
        state.writing.retain(|path| entries.contains(path));
        state.entries = entries;
    }

    /// Takes a report of the operating system.
    pub(super) fn receive(&self, event: notify::Result<Event>) {
        let mut state = self.state();
        match event {
            Err(_) => state.pending = true,
            Ok(event) => state.receive(event),
        }
        if state.pending {
            self.changed.notify_one();
        }
    }

    /// Waits for a change, at most `at_most` from now. A change that came before the call counts.
    pub(super) fn wait(&self, at_most: Duration) -> WakeReason {
        let quiet = |state: &mut NotifierState| !state.pending && !state.stopped;
        let waited = self.changed.wait_timeout_while(self.state(), at_most, quiet);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let changed = std::mem::take(&mut state.pending);
        match (state.stopped, changed) {
            (true, _) => WakeReason::Stopped,
            (false, true) => WakeReason::Changed,
            (false, false) => WakeReason::TimedOut,
        }
    }

    /// True if one of the entries is probably half written.
    pub(super) fn is_writing(&self) -> bool {
        !self.state().writing.is_empty()
    }

    pub(super) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_one();
    }
}

impl NotifierState {
    fn receive(&mut self, event: Event) {
        // The system's queue ran over: anything may have happened.
        if event.need_rescan() {
            self.writing.clear();
            self.pending = true;
        }
        let closed = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
        if event.kind.is_access() && !closed {
            return;
        }
        let written = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)));
        for path in event.paths.into_iter().filter(|path| self.entries.contains(path)) {
            self.pending = true;
            if written {
                self.writing.insert(path);
            } else {
                self.writing.remove(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, Flag, RenameMode};

    use super::*;

    const DATA: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const OPENED: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));

    fn notifier() -> Notifier {
        let notifier = Notifier::default();
        notifier.watch_entries(HashSet::from(["/a/f".into()]));
        notifier
    }

    fn wakes_on(notifier: &Notifier, kind: EventKind, path: &str) -> bool {
        notifier.receive(Ok(Event::new(kind).add_path(path.into())));
        notifier.wait(Duration::ZERO) == WakeReason::Changed
    }

    #[test]
    fn only_changes_of_watched_entries_wake() {
        let notifier = notifier();
        assert!(wakes_on(&notifier, EventKind::Create(CreateKind::File), "/a/f"));
        assert!(wakes_on(&notifier, EventKind::Modify(ModifyKind::Name(RenameMode::To)), "/a/f"));
        assert!(!wakes_on(&notifier, EventKind::Create(CreateKind::File), "/a/g"));
        assert!(!wakes_on(&notifier, OPENED, "/a/f"), "or our own reading would wake us");
        notifier.watch_entries(HashSet::from(["/a/g".into()]));
        assert!(!wakes_on(&notifier, DATA, "/a/f"));
        assert!(wakes_on(&notifier, DATA, "/a/g"));
    }

    #[test]
    fn a_file_is_half_written_until_it_is_closed_or_replaced() {
        let notifier = notifier();
        assert!(wakes_on(&notifier, DATA, "/a/f") && notifier.is_writing());
        assert!(wakes_on(&notifier, CLOSED, "/a/f") && !notifier.is_writing());
        assert!(wakes_on(&notifier, DATA, "/a/f") && notifier.is_writing());
        let replaced = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert!(wakes_on(&notifier, replaced, "/a/f") && !notifier.is_writing());
        assert!(wakes_on(&notifier, DATA, "/a/f") && notifier.is_writing());
        notifier.watch_entries(HashSet::new());
        assert!(!notifier.is_writing(), "it does not matter any more");
    }

    #[test]
    fn a_lost_report_wakes() {
        let notifier = notifier();
        notifier.receive(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        assert_eq!(notifier.wait(Duration::ZERO), WakeReason::Changed);
        notifier.receive(Err(notify::Error::generic("lost")));
        assert_eq!(notifier.wait(Duration::ZERO), WakeReason::Changed);
        assert_eq!(notifier.wait(Duration::ZERO), WakeReason::TimedOut);
        notifier.stop();
        assert_eq!(notifier.wait(Duration::from_secs(3600)), WakeReason::Stopped);
    }
}
