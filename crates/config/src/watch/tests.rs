//! Real files, changed in the ways in which people and programs change them.
//!
//! No test sleeps: each waits for the next report, and that something is not reported is shown by the
//! report that comes after it. Where the system's reports are under test, polling is out of reach.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::sync::mpsc::{Receiver, channel};

use super::*;

const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
const NEVER_INTERVAL: Duration = Duration::from_secs(3600);
const NOTIFIED: WatchOptions = WatchOptions { poll: NEVER_INTERVAL, ..WatchOptions::PRODUCTION };
const POLLED: WatchOptions =
    WatchOptions { notified: false, poll: Duration::from_millis(20), ..WatchOptions::PRODUCTION };

/// A good file; the node's name tells versions apart.
fn text(name: &str) -> String {
    format!(
        "cluster: edge\ntrustDomain: edge\n\
         node: {{name: {name}, listen: \"127.0.0.1:0\", identity: id}}\n\
         links: [{{cluster: bank, trustDomain: bank, trustBundle: bundles/bank.pem}}]\n"
    )
}

struct WatchLab {
    dir: tempfile::TempDir,
    changes: Option<Receiver<ConfigChange>>,
    watch: Option<ConfigWatch>,
}

impl WatchLab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("id")).unwrap();
        fs::create_dir(dir.path().join("bundles")).unwrap();
        fs::write(dir.path().join("bundles/bank.pem"), "first").unwrap();
        fs::write(dir.path().join("id/node.pem"), "first").unwrap();
        Self { dir, changes: None, watch: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Empties the file and writes into it.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// As an editor saves, and `adit pki`.
    fn replace(&self, name: &str, text: &str) {
        let temporary = self.path(&format!("{name}.tmp"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.path(name)).unwrap();
    }

    fn watch(&mut self, options: WatchOptions) {
        let (send, receive) = channel();
        let on_change = move |change| drop(send.send(change));
        let (_, report, watch) = follow(&self.path("edge.yaml"), options, on_change).unwrap();
        assert_eq!(report.to_string(), "");
        (self.changes, self.watch) = (Some(receive), Some(watch));
    }

    /// A watched file with the name `e1` in it.
    fn watched(options: WatchOptions) -> Self {
        let mut lab = Self::new();
        lab.write("edge.yaml", &text("e1"));
        lab.watch(options);
        lab
    }

    fn next(&self) -> ConfigChange {
        self.changes.as_ref().unwrap().recv_timeout(CHANGE_TIMEOUT).expect("a report")
    }

    #[track_caller]
    fn expect_config(&self, name: &str) {
        let next = self.next();
        let ConfigChange::Config(config, _) = next else { panic!("expected {name}, got {next:?}") };
        assert_eq!((config.node.name.as_str(), config.links.len()), (name, 1));
    }

    /// Where the file is not replaced at once, a machine that stands still in between may see a bad
    /// one; but never a half good one.
    #[track_caller]
    fn expect_config_at_last(&self, name: &str) {
        let mut changes = std::iter::repeat_with(|| self.next());
        let next = changes.find(|change| !matches!(change, ConfigChange::Refused(_))).unwrap();
        let ConfigChange::Config(config, _) = next else { panic!("expected {name}, got {next:?}") };
        assert_eq!((config.node.name.as_str(), config.links.len()), (name, 1));
    }

    #[track_caller]
    fn expect_refusal(&self, part: &str) {
        let next = self.next();
        let ConfigChange::Refused(report) = next else {
            panic!("expected a refusal, got {next:?}")
        };
        assert!(report.to_string().contains(part), "{report}");
    }

    #[track_caller]
    fn expect_files(&self, names: &[&str]) {
        let next = self.next();
        let ConfigChange::Files(files) = next else { panic!("expected {names:?}, got {next:?}") };
        let expected: Vec<_> = names.iter().map(|name| self.path(name)).collect();
        assert_eq!(files, expected);
    }
}

#[test]
fn a_rewrite_in_place_is_followed() {
    for options in [NOTIFIED, POLLED] {
        let lab = WatchLab::watched(options);
        for name in ["e2", "e3", "e4"] {
            lab.write("edge.yaml", &text(name));
            lab.expect_config_at_last(name);
        }
    }
}

#[test]
fn a_rename_over_the_file_is_followed() {
    for options in [NOTIFIED, POLLED] {
        let lab = WatchLab::watched(options);
        for name in ["e2", "e3", "e4"] {
            lab.replace("edge.yaml", &text(name));
            lab.expect_config(name);
        }
    }
}

/// Writes as kubelet does to a mounted ConfigMap.
fn kubelet_writes(lab: &WatchLab, version: u32, text: &str) {
    let folder = format!("..2026_{version}");
    fs::create_dir(lab.path(&folder)).unwrap();
    lab.write(&format!("{folder}/edge.yaml"), text);
    symlink(&folder, lab.path("..data_tmp")).unwrap();
    fs::rename(lab.path("..data_tmp"), lab.path("..data")).unwrap();
    if version > 1 {
        fs::remove_dir_all(lab.path(&format!("..2026_{}", version - 1))).unwrap();
    }
}

#[test]
fn a_swap_of_kubernetes_data_link_is_followed() {
    for options in [NOTIFIED, POLLED] {
        let mut lab = WatchLab::new();
        kubelet_writes(&lab, 1, &text("e1"));
        symlink("..data/edge.yaml", lab.path("edge.yaml")).unwrap();
        lab.watch(options);
        for version in 2..6 {
            kubelet_writes(&lab, version, &text(&format!("e{version}")));
            lab.expect_config(&format!("e{version}"));
        }
        // Not how kubelet does it, but the folder that the link leads to is watched as well.
        lab.write("..data/edge.yaml", &text("e6"));
        lab.expect_config_at_last("e6");
    }
}

#[test]
fn a_file_that_is_written_in_pieces_is_never_taken_half() {
    let lab = WatchLab::watched(NOTIFIED);
    for name in ["e2", "e3", "e4"] {
        let text = text(name);
        let mut file = fs::File::create(lab.path("edge.yaml")).unwrap();
        for piece in text.as_bytes().chunks(16) {
            file.write_all(piece).unwrap();
            file.flush().unwrap();
        }
        drop(file);
        lab.expect_config_at_last(name);
    }
}

#[test]
fn a_file_that_is_held_open_is_not_taken_before_it_is_closed() {
    let patient = WatchLab::watched(WatchOptions {
        quiet: Duration::ZERO,
        quiet_while_writing: NEVER_INTERVAL,
        ..NOTIFIED
    });
    // Shows that there was something to see.
    let (send, hasty) = channel();
    let on_change = move |change| drop(send.send(change));
    let options =
        WatchOptions { quiet: Duration::ZERO, quiet_while_writing: Duration::ZERO, ..NOTIFIED };
    let _hasty = follow(&patient.path("edge.yaml"), options, on_change).unwrap();

    let text = text("e2");
    let half = text.find("links").unwrap();
    let mut file = fs::File::create(patient.path("edge.yaml")).unwrap();
    file.write_all(&text.as_bytes()[..half]).unwrap();
    loop {
        // First it may see an empty file.
        if let ConfigChange::Config(config, _) = hasty.recv_timeout(CHANGE_TIMEOUT).unwrap() {
            assert_eq!(config.links.len(), 0);
            break;
        }
    }
    file.write_all(&text.as_bytes()[half..]).unwrap();
    drop(file);
    patient.expect_config("e2");
}

#[test]
fn what_is_the_same_is_no_change() {
    for options in [NOTIFIED, POLLED] {
        let lab = WatchLab::watched(options);
        lab.replace("edge.yaml", &text("e1"));
        lab.replace("bundles/bank.pem", "first");
        lab.replace("other.yaml", "x");
        lab.replace("id/node.pem", "second");
        lab.expect_files(&["id/node.pem"]);
        lab.replace("edge.yaml", &text("e2"));
        lab.expect_config("e2");
    }
}

#[test]
fn a_bad_file_is_reported_once_and_the_way_back_is_reported() {
    for options in [NOTIFIED, POLLED] {
        let lab = WatchLab::watched(options);
        let bad = text("e2").replace("listen", "lisen");
        lab.replace("edge.yaml", &bad);
        lab.expect_refusal("did you mean listen?");
        lab.replace("edge.yaml", &bad);
        // Whoever looks after this has seen the bad file again, and says nothing of it.
        lab.replace("bundles/bank.pem", "second");
        lab.expect_files(&["bundles/bank.pem"]);
        lab.replace("edge.yaml", &text("e1"));
        lab.expect_config("e1");
        fs::remove_file(lab.path("edge.yaml")).unwrap();
        lab.expect_refusal("cannot read: No such file or directory");
        lab.replace("edge.yaml", "");
        lab.expect_refusal("the file is empty");
        lab.replace("edge.yaml", &text("e3"));
        lab.expect_config("e3");
    }
}

#[test]
fn changes_of_referenced_files_are_told() {
    for options in [NOTIFIED, POLLED] {
        let lab = WatchLab::watched(options);
        lab.replace("bundles/bank.pem", "second");
        lab.expect_files(&["bundles/bank.pem"]);
        lab.replace("id/node.pem", "second");
        lab.expect_files(&["id/node.pem"]);
        lab.replace("id/node.secret", "not ours to tell");
        lab.replace("id/ca.pem", "appears");
        lab.expect_files(&["id/ca.pem"]);
        fs::remove_file(lab.path("id/ca.pem")).unwrap();
        lab.expect_files(&["id/ca.pem"]);

        // Another bundle, whose first sight is no change; then its folder is one made later.
        lab.replace("edge.yaml", &text("e2").replace("bundles/bank.pem", "new/bank.pem"));
        lab.expect_config("e2");
        lab.replace("bundles/bank.pem", "not referred to any more");
        fs::create_dir(lab.path("new")).unwrap();
        lab.replace("new/bank.pem", "third");
        lab.expect_files(&["new/bank.pem"]);
        lab.replace("new/bank.pem", "fourth");
        lab.expect_files(&["new/bank.pem"]);
    }
}

#[test]
fn while_the_file_is_bad_the_last_good_ones_references_are_watched() {
    let lab = WatchLab::watched(NOTIFIED);
    lab.replace("edge.yaml", "cluster: [");
    lab.expect_refusal("not valid YAML");
    lab.replace("bundles/bank.pem", "second");
    lab.expect_files(&["bundles/bank.pem"]);
}

#[test]
fn a_folder_that_is_made_anew_is_found_by_polling() {
    let lab = WatchLab::watched(WatchOptions { notified: true, ..POLLED });
    for round in 0..3 {
        fs::remove_dir_all(lab.path("bundles")).unwrap();
        lab.expect_files(&["bundles/bank.pem"]);
        fs::create_dir(lab.path("bundles")).unwrap();
        lab.replace("bundles/bank.pem", &format!("round {round}"));
        lab.expect_files(&["bundles/bank.pem"]);
    }
}

#[test]
fn a_bad_file_is_not_watched_and_a_stopped_watch_is_silent() {
    let mut lab = WatchLab::new();
    lab.replace("edge.yaml", "");
    let refused = watch(&lab.path("edge.yaml"), |_| {}).map(drop);
    assert!(refused.unwrap_err().to_string().contains("the file is empty"));

    lab.replace("edge.yaml", &text("e1"));
    lab.watch(NOTIFIED);
    lab.watch.take().unwrap().stop();
    lab.replace("edge.yaml", &text("e2"));
    // The callback, and with it the sender, is gone.
    assert!(lab.changes.unwrap().recv_timeout(CHANGE_TIMEOUT).is_err());
}
