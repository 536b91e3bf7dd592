//! Streams that older processes of this node still carry, told to the one that took over.
//!
//! A process that was taken over from writes their number into a file of its own in the folder that both share, until
//! it ends. A number that is not written anew is of a process that was killed, and counts no more.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::status::OlderProcesses;

/// The name of each of these files begins with this.
const FILE_PREFIX: &str = "finishing.";
/// A process writes its number this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// From when a number was written to when it counts no more.
const STALE_TIMEOUT: Duration = Duration::from_secs(10);

/// A file with a process's number, removed with the process that writes it.
struct CountFile(PathBuf);

impl Drop for CountFile {
    fn drop(&mut self) {
        // Left behind, it is stale soon.
        fs::remove_file(&self.0).ok();
    }
}

/// Writes into `folder` what `open` says, as the process that is called `name`, for as long as it is polled.
pub(super) async fn report_open_streams(
    folder: PathBuf,
    name: &str,
    open: impl Fn() -> u64,
) -> Infallible {
    let file = CountFile(folder.join(format!("{FILE_PREFIX}{name}")));
    let mut again = interval(REPORT_INTERVAL);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        again.tick().await;
        let (path, text) = (file.0.clone(), open().to_string());
        // The disk may be slow. That a count is missing harms nobody.
        drop(spawn_blocking(move || fs::write(path, text)).await);
    }
}

/// The older processes of the node with this folder, at `now`. Removes the files of those that were killed.
pub(super) fn read_older_processes(folder: &Path, now: SystemTime) -> OlderProcesses {
    let mut all = OlderProcesses::default();
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        if !entry.file_name().to_string_lossy().starts_with(FILE_PREFIX) {
            continue;
        }
        let written = entry.metadata().and_then(|found| found.modified());
        let age = written.ok().and_then(|written| now.duration_since(written).ok());
        if age.is_some_and(|age| age > STALE_TIMEOUT) {
            fs::remove_file(entry.path()).ok();
            continue;
        }
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if let Ok(streams @ 1..) = text.parse::<u64>() {
            all.processes += 1;
            all.streams = all.streams.saturating_add(streams);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_older_processes_carry_is_known_until_they_end_or_are_killed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |seconds| {
            read_older_processes(folder.path(), SystemTime::now() + Duration::from_secs(seconds))
        };
        assert_eq!(at(0), OlderProcesses::default());
        {
            let one = report_open_streams(folder.path().to_owned(), "one", || 3);
            let two = report_open_streams(folder.path().to_owned(), "two", || 4);
            let done = report_open_streams(folder.path().to_owned(), "three", || 0);
            let all = async { tokio::join!(one, two, done) };
            let seen = async {
                while at(0).streams < 7 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                at(0)
            };
            // They write for as long as they are polled, and end with this.
            let seen = tokio::select! { _ = all => OlderProcesses::default(), seen = seen => seen };
            let both = OlderProcesses { processes: 2, streams: 7 };
            assert_eq!(seen, both, "who has nothing left is not counted");
        }
        assert_eq!(at(0), OlderProcesses::default(), "each takes its file away");
        fs::write(folder.path().join("finishing.killed"), "9").unwrap();
        assert_eq!(at(5).streams, 9);
        assert_eq!(at(60), OlderProcesses::default());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
