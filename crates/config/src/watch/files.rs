//! Reads files, and watches the folders whose changes can change them.
//!
//! A file is reached through entries of folders: itself and each symbolic link on its way. Kubernetes
//! changes a mounted file by renaming one such link (`..data`), editors by renaming the file, others
//! write into it. So it is the folders that are watched, and the way is followed anew at each reading.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::notifier::Notifier;
use crate::problem::ConfigProblem;
use crate::{Config, source};

/// The contents of all files at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ObservedFiles {
    /// The configuration file.
    pub(super) text: Result<Vec<u8>, Box<ConfigProblem>>,
    /// A digest of each file that it refers to, or of why that cannot be read.
    pub(super) files: BTreeMap<PathBuf, u64>,
}

impl Default for ObservedFiles {
    fn default() -> Self {
        Self { text: Ok(Vec::new()), files: BTreeMap::new() }
    }
}

/// Reads one configuration file and the files to which its last good version refers.
#[derive(Debug)]
pub(super) struct FileObserver {
    file: PathBuf,
    references: BTreeSet<PathBuf>,
    notifier: Option<Arc<Notifier>>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    poll_only: Option<String>,
}

impl FileObserver {
    /// With a notifier, changes between readings are reported to it.
    pub(super) fn new(file: &Path, notifier: Option<&Arc<Notifier>>) -> Self {
        let watcher = notifier.map(|notifier| {
            let notifier = notifier.clone();
            notify::recommended_watcher(move |event| notifier.receive(event))
        });
        let (watcher, poll_only) = match watcher {
            Some(Ok(watcher)) => (Some(watcher), None),
            Some(Err(error)) => (None, Some(error.to_string())),
            None => (None, None),
        };
        // A later change of the working directory must not mean another file.
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let (references, watched) = (BTreeSet::new(), BTreeSet::new());
        Self { file, references, notifier: notifier.cloned(), watcher, watched, poll_only }
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// The reason for which changes between readings are not reported; `None` if they are.
    pub(super) fn poll_only_reason(&self) -> Option<&str> {
        self.poll_only.as_deref()
    }

    /// Reads all files now. Watches first, so that a change after the reading is reported.
    pub(super) fn observe(&mut self) -> ObservedFiles {
        self.rewatch();
        let files = self.references.iter().map(|file| (file.clone(), digest(file)));
        ObservedFiles { text: source::read(&self.file), files: files.collect() }
    }

    /// Observes the files to which `config` refers from now on. Files that were read before keep their digest; new ones
    /// are read now, before anybody else can read them, so that no later change is missed.
    pub(super) fn observe_references(
        &mut self,
        seen: ObservedFiles,
        config: &Config,
    ) -> ObservedFiles {
        self.references = config.files().collect();
        self.rewatch();
        let digest_of =
            |file: &PathBuf| seen.files.get(file).copied().unwrap_or_else(|| digest(file));
        let files = self.references.iter().map(|file| (file.clone(), digest_of(file))).collect();
        ObservedFiles { text: seen.text, files }
    }

    fn rewatch(&mut self) {
        let (Some(notifier), Some(watcher)) = (&self.notifier, &mut self.watcher) else { return };
        let mut trail = Trail::default();
        for file in std::iter::once(&self.file).chain(&self.references) {
            trail.follow(file);
        }
        notifier.watch_entries(trail.entries);
        for old in self.watched.difference(&trail.folders) {
            // An error says that it is not watched any more, as after its removal.
            drop(watcher.unwatch(old));
        }
        for folder in &trail.folders {
            // Again where it was watched before: it may be another folder of the same name.
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                self.poll_only.get_or_insert_with(|| error.to_string());
            }
        }
        self.watched = trail.folders;
    }
}

/// The folders and entries through which files are reached.
#[derive(Debug, Default)]
struct Trail {
    folders: BTreeSet<PathBuf>,
    entries: HashSet<PathBuf>,
}

impl Trail {
    /// Follows an absolute path; if a part is missing, to where it would appear.
    fn follow(&mut self, path: &Path) {
        /// The number that Linux follows.
        const MAX_LINKS: usize = 40;
        let mut links = 0;
        let mut at = PathBuf::from("/");
        let mut ahead: Vec<OsString> = parts(path);
        while let Some(part) = ahead.pop() {
            match Path::new(&part).components().next() {
                Some(Component::ParentDir) => drop(at.pop()),
                Some(Component::Normal(name)) => {
                    let next = at.join(name);
                    let link = fs::read_link(&next).ok();
                    if link.is_none() && !ahead.is_empty() && next.is_dir() {
                        at = next;
                        continue;
                    }
                    self.folders.insert(at.clone());
                    self.entries.insert(next);
                    match link {
                        Some(target) if links < MAX_LINKS => {
                            links += 1;
                            ahead.extend(parts(&target));
                        }
                        _ => return,
                    }
                }
                Some(Component::RootDir) => at = PathBuf::from("/"),
                Some(Component::CurDir | Component::Prefix(_)) | None => {}
            }
        }
    }
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    path.components().rev().map(|part| part.as_os_str().to_owned()).collect()
}

/// A digest that changes with the file; a collision by accident is one in 2^64.
fn digest(file: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    if file.to_string_lossy().ends_with(".key.pem") {
        // A key is not read by whoever does not use it: its inode, size and time say enough.
        let stamp = |m: fs::Metadata| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec());
        fs::metadata(file).map(stamp).map_err(|error| error.to_string()).hash(&mut hasher);
    } else {
        source::read_file(file).map_err(|finding| finding.message).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::super::notifier::WakeReason;
    use super::*;

    #[test]
    fn a_trail_leads_over_every_link() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(root.join("..1")).unwrap();
        fs::write(root.join("..1/f"), "").unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("../../..data/f", root.join("a/b/f")).unwrap();
        symlink(root.join("a"), root.join("c")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let trail = |path: &str| {
            let mut trail = Trail::default();
            trail.follow(&root.join(path));
            let relative = |p: &PathBuf| p.strip_prefix(&root).unwrap().display().to_string();
            let entries: BTreeSet<_> = trail.entries.iter().map(relative).collect();
            let folders: Vec<_> = trail.folders.iter().map(relative).collect();
            (entries.into_iter().collect::<Vec<_>>(), folders)
        };
        let expect = |entries: &[&str], folders: &[&str]| {
            let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
            (owned(entries), owned(folders))
        };
        assert_eq!(trail("..1/f"), expect(&["..1/f"], &["..1"]));
        assert_eq!(trail("c/b/f"), expect(&["..1/f", "..data", "a/b/f", "c"], &["", "..1", "a/b"]));
        assert_eq!(trail("a/none/f"), expect(&["a/none"], &["a"]));
        assert_eq!(trail("a/b/none"), expect(&["a/b/none"], &["a/b"]));
        assert_eq!(trail("..1/f/below"), expect(&["..1/f"], &["..1"]));
        assert_eq!(trail("loop"), expect(&["loop"], &[""]));
    }

    #[test]
    fn a_folder_of_the_same_name_is_watched_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("a"), dir.path().join("a/f"));
        let notifier = Arc::new(Notifier::default());
        fs::create_dir(&folder).unwrap();
        let mut observer = FileObserver::new(&file, Some(&notifier));
        observer.observe();
        fs::remove_dir(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        observer.observe();
        while notifier.wait(Duration::ZERO) == WakeReason::Changed {}
        fs::write(&file, "").unwrap();
        assert_eq!(notifier.wait(Duration::from_secs(60)), WakeReason::Changed);
        assert_eq!(observer.poll_only_reason(), None);
    }

    #[test]
    fn a_digest_changes_with_the_file_and_a_key_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let (file, key) = (dir.path().join("f.pem"), dir.path().join("node.key.pem"));
        let missing = digest(&file);
        fs::write(&file, "a").unwrap();
        let a = digest(&file);
        fs::write(&file, "b").unwrap();
        let b = digest(&file);
        fs::write(&file, "a").unwrap();
        assert!(missing != a && a != b && a == digest(&file));

        let missing = digest(&key);
        fs::write(&key, "a").unwrap();
        let short = digest(&key);
        fs::write(&key, "bb").unwrap();
        assert!(missing != short && short != digest(&key));
    }
}
