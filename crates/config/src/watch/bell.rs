//! What the operating system reports, as one bell: something that matters may have changed.
//!
//! Reports about other files of the same folders do not ring it, and neither does our own reading.
//! A file that was written to and not closed since is remembered, since it is probably half.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind};

/// Rung by the notifier's thread, waited for by ours.
#[derive(Debug, Default)]
pub(super) struct Bell {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rung: bool,
    stopped: bool,
    /// The entries of folders that matter.
    entries: HashSet<PathBuf>,
    /// Those of them that somebody has written to and not closed.
    writing: HashSet<PathBuf>,
}

/// Why [`Bell::wait`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    Rung,
    Silence,
    Stopped,
}

impl Bell {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on only changes of `entries` ring.
    pub(super) fn listen_for(&self, entries: HashSet<PathBuf>) {
        let mut state = self.state();
        state.writing.retain(|path| entries.contains(path));
        state.entries = entries;
    }

    /// Takes what the operating system reports.
    pub(super) fn hear(&self, event: notify::Result<Event>) {
        let mut state = self.state();
        match event {
            Err(_) => state.rung = true,
            Ok(event) => state.hear(event),
        }
        if state.rung {
            self.changed.notify_one();
        }
    }

    /// Waits for a ring, at most so long. Rings that came before the call count.
    pub(super) fn wait(&self, at_most: Duration) -> Woken {
        let quiet = |state: &mut State| !state.rung && !state.stopped;
        let waited = self.changed.wait_timeout_while(self.state(), at_most, quiet);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let rung = std::mem::take(&mut state.rung);
        match (state.stopped, rung) {
            (true, _) => Woken::Stopped,
            (false, true) => Woken::Rung,
            (false, false) => Woken::Silence,
        }
    }

    /// Whether one of the entries is probably half written.
    pub(super) fn is_writing(&self) -> bool {
        !self.state().writing.is_empty()
    }

    pub(super) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_one();
    }
}

impl State {
    fn hear(&mut self, event: Event) {
        // The system's queue ran over: anything may have happened.
        if event.need_rescan() {
            self.writing.clear();
            self.rung = true;
        }
        let closed = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
        if event.kind.is_access() && !closed {
            return;
        }
        let written = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)));
        for path in event.paths.into_iter().filter(|path| self.entries.contains(path)) {
            self.rung = true;
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

    fn bell() -> Bell {
        let bell = Bell::default();
        bell.listen_for(HashSet::from(["/a/f".into()]));
        bell
    }

    fn hears(bell: &Bell, kind: EventKind, path: &str) -> bool {
        bell.hear(Ok(Event::new(kind).add_path(path.into())));
        bell.wait(Duration::ZERO) == Woken::Rung
    }

    #[test]
    fn only_changes_of_what_matters_ring() {
        let bell = bell();
        assert!(hears(&bell, EventKind::Create(CreateKind::File), "/a/f"));
        assert!(hears(&bell, EventKind::Modify(ModifyKind::Name(RenameMode::To)), "/a/f"));
        assert!(!hears(&bell, EventKind::Create(CreateKind::File), "/a/g"));
        assert!(!hears(&bell, OPENED, "/a/f"), "or our own reading would ring");
        bell.listen_for(HashSet::from(["/a/g".into()]));
        assert!(!hears(&bell, DATA, "/a/f"));
        assert!(hears(&bell, DATA, "/a/g"));
    }

    #[test]
    fn a_file_is_half_written_until_it_is_closed_or_replaced() {
        let bell = bell();
        assert!(hears(&bell, DATA, "/a/f") && bell.is_writing());
        assert!(hears(&bell, CLOSED, "/a/f") && !bell.is_writing());
        assert!(hears(&bell, DATA, "/a/f") && bell.is_writing());
        let replaced = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert!(hears(&bell, replaced, "/a/f") && !bell.is_writing());
        assert!(hears(&bell, DATA, "/a/f") && bell.is_writing());
        bell.listen_for(HashSet::new());
        assert!(!bell.is_writing(), "it does not matter any more");
    }

    #[test]
    fn a_lost_report_rings() {
        let bell = bell();
        bell.hear(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        assert_eq!(bell.wait(Duration::ZERO), Woken::Rung);
        bell.hear(Err(notify::Error::generic("lost")));
        assert_eq!(bell.wait(Duration::ZERO), Woken::Rung);
        assert_eq!(bell.wait(Duration::ZERO), Woken::Silence);
        bell.stop();
        assert_eq!(bell.wait(Duration::from_secs(3600)), Woken::Stopped);
    }
}
