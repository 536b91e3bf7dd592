//! Checks that the folder of a node's state can be written.
//!
//! A node serves on while it cannot, and nobody would notice: until its certificate has ended, since no new one could
//! be kept, or until it starts again and knows nothing.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::node::config_update::ConfigUpdate;

/// From one check to the next.
const CHECK_INTERVAL: Duration = Duration::from_secs(4);
/// The file that a check writes and removes.
pub(super) const PROBE_FILE: &str = "probe";
/// Bytes that a check writes: about as much as all that the node keeps for a small cluster.
const PROBE_BYTES: u64 = 1 << 16;

/// Checks `folder` for as long as it is polled, and sends what is wrong with it, and that it is well again.
pub(in crate::node) async fn watch_folder(folder: PathBuf, updates: mpsc::Sender<ConfigUpdate>) {
    let mut last = None;
    loop {
        let place = folder.clone();
        // A disk that hangs holds one thread, and keeps what was found last.
        let found = spawn_blocking(move || check_folder(&place).err()).await;
        if let Ok(found) = found
            && found != last
        {
            last.clone_from(&found);
            // The receiver is gone only when the process ends.
            drop(updates.send(ConfigUpdate::StateFolder(found)).await);
        }
        sleep(CHECK_INTERVAL).await;
    }
}

/// Writes in `folder` as much as a node may have to.
///
/// # Errors
/// The folder cannot be written, and the consequence.
fn check_folder(folder: &Path) -> Result<(), String> {
    let file = folder.join(PROBE_FILE);
    let written = write_probe(&file);
    let removed = match std::fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    written.and(removed).map_err(|error| {
        format!(
            "the state folder {} cannot be written: {error}; a new certificate could not be kept, nor what the next \
             start needs: make room on this node's disk",
            folder.display()
        )
    })
}

/// Nothing waits until it lies on the disk: a full one says so before.
fn write_probe(file: &Path) -> io::Result<()> {
    io::copy(&mut io::repeat(0).take(PROBE_BYTES), &mut File::create(file)?).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next update that is sent.
    async fn next(updates: &mut mpsc::Receiver<ConfigUpdate>) -> Option<String> {
        let ConfigUpdate::StateFolder(found) = updates.recv().await.unwrap() else {
            panic!("nothing else is sent")
        };
        found
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_cannot_be_written_is_told_once_and_so_is_its_end() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("state");
        let (say, mut updates) = mpsc::channel(4);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(watch_folder(folder.clone(), say));
        let said = next(&mut updates).await.unwrap();
        assert!(said.contains("state cannot be written: No such file or directory"), "{said}");
        sleep(CHECK_INTERVAL * 5).await;
        assert!(updates.is_empty());
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(next(&mut updates).await, None);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing is left there");
    }

    #[test]
    fn a_full_disk_is_told_by_the_error_of_the_system() {
        let place = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", place.path().join(PROBE_FILE)).unwrap();
        let said = check_folder(place.path()).unwrap_err();
        assert!(said.contains("No space left on device"), "{said}");
        assert_eq!(check_folder(place.path()), Ok(()), "what was in the way is gone");
    }
}
