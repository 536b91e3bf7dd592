//! `adit check`, the real binary: its exit status and the shape of what it prints.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use adit_pki::files::{self, IfExists};
use adit_pki::{ClusterAuthority, KeyKind, UnixTime};

/// Exit status and standard output; nothing is ever said on standard error.
fn check(folder: &Path, words: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    let output = command.arg("check").args(words).current_dir(folder).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_file_can_be_used_once_all_that_it_refers_to_is_there_and_good() {
    let dir = tempfile::tempdir().unwrap();
    let text = adit_config::EXAMPLE.replace("/var/lib/adit", "id");
    fs::write(dir.path().join("edge.yaml"), text).unwrap();
    let (status, said) = check(dir.path(), &["edge.yaml"]);
    assert_eq!(status, 1);
    assert!(said.starts_with("edge.yaml:24:13: node.identity: id: no such folder\n"), "{said}");
    assert!(
        said.contains("\nedge.yaml:39:18: links[0].trustBundle: bundles/bank.pem: cannot read:")
    );
    assert!(said.ends_with("\nedge.yaml cannot be used: 2 errors\n"), "{said}");
    assert!(!said.contains('\u{1b}'), "no colours but on a terminal");

    fs::create_dir_all(dir.path().join("bundles")).unwrap();
    fs::create_dir_all(dir.path().join("id")).unwrap();
    for file in ["bundles/bank.pem", "id/node.pem", "id/node.key.pem", "id/ca.pem"] {
        fs::write(dir.path().join(file), "").unwrap();
    }
    let (status, said) = check(dir.path(), &["edge.yaml"]);
    assert_eq!(status, 1, "{said}");
    for place in [
        "edge.yaml:24:13: node.identity: id/ca.pem: ",
        "edge.yaml:24:13: node.identity: id/node.pem: ",
        "edge.yaml:24:13: node.identity: id/node.key.pem holds a key and can be read by others",
        "edge.yaml:39:18: links[0].trustBundle: bundles/bank.pem: ",
    ] {
        assert!(said.contains(place), "all at once: {said}");
    }

    let pki = |words: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command.arg("pki").args(words.split(' ')).current_dir(dir.path());
        assert!(command.status().unwrap().success(), "{words}");
    };
    pki("init --trust-domain bank.trustusbank.example --dir bank");
    pki("bundle --ca bank --out bundles/bank.pem --overwrite");
    pki("init --trust-domain edge.trustusbank.example --dir edge");
    fs::remove_dir_all(dir.path().join("id")).unwrap();
    pki("issue --ca edge --node e2 --out id");
    let (status, said) = check(dir.path(), &["edge.yaml"]);
    assert!(status == 1 && said.contains("e2"), "another node's certificate: {said}");
    pki("issue --ca edge --node e1 --out id --overwrite");
    let (status, said) = check(dir.path(), &["edge.yaml"]);
    assert_eq!(status, 0, "{said}");
    assert!(said.starts_with("denied.clusters: lab\n"), "whom it denies comes first: {said}");
    assert!(said.ends_with("\nedge.yaml can be used\n"), "{said}");
}

/// A node's file with all that it refers to, in `folder`; its certificate is valid from some days after now on.
fn scene(folder: &Path, days: u64) {
    const DAY_LIFETIME: Duration = Duration::from_secs(86_400);
    let now = Duration::from_secs(UnixTime::now().as_secs());
    let ca = |domain: &str| {
        let domain = domain.parse().unwrap();
        ClusterAuthority::create(domain, KeyKind::P256, 100 * DAY_LIFETIME, UnixTime::now())
            .unwrap()
    };
    let (edge, bank) = (ca("edge.example"), ca("bank.example"));
    let begins = UnixTime::since_unix_epoch(now + DAY_LIFETIME * u32::try_from(days).unwrap());
    let node = edge.issue(&"e1".parse().unwrap(), KeyKind::P256, DAY_LIFETIME, begins).unwrap();
    fs::create_dir(folder.join("id")).unwrap();
    fs::write(folder.join("id/ca.pem"), edge.bundle().unwrap().to_pem()).unwrap();
    fs::write(folder.join("id/node.pem"), node.certificate.to_pem()).unwrap();
    files::write_key(&folder.join("id/node.key.pem"), node.key_pem().as_bytes(), IfExists::Keep)
        .unwrap();
    fs::write(folder.join("bank.pem"), bank.bundle().unwrap().to_pem()).unwrap();
    let text = "cluster: edge\ntrustDomain: edge.example\n\
                node: {name: e1, listen: \"127.0.0.1:0\", advertise: [\"127.0.0.1:7843\"], identity: id}\n\
                links: [{cluster: bank, trustDomain: bank.example, trustBundle: bank.pem}]\n";
    fs::write(folder.join("edge.yaml"), text).unwrap();
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_named() {
    let dir = tempfile::tempdir().unwrap();
    scene(dir.path(), 10);
    let (status, said) = check(dir.path(), &["edge.yaml"]);
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("node.identity: id/node.pem: "), "{said}");
    assert!(said.contains("not valid before"), "{said}");
    let ready = tempfile::tempdir().unwrap();
    scene(ready.path(), 0);
    assert_eq!(check(ready.path(), &["edge.yaml"]).0, 0);
}

#[test]
fn a_file_that_may_not_be_read_is_not_told_as_missing() {
    let dir = tempfile::tempdir().unwrap();
    scene(dir.path(), 0);
    let open = |name: &str, mode| {
        fs::set_permissions(dir.path().join(name), Permissions::from_mode(mode)).unwrap();
    };
    open("", 0o755);
    open("id", 0o755);
    open("bank.pem", 0o000);
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command.args(["check", "edge.yaml"]).current_dir(dir.path());
    if is_root() {
        // To root nothing is closed.
        command.uid(65_534);
    }
    let Ok(output) = command.output() else {
        eprintln!("SKIP a_file_that_may_not_be_read: another user may not run {command:?}");
        return;
    };
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("id/node.key.pem: cannot read: Permission denied") || !is_root());
    assert!(said.contains("bank.pem: cannot read: Permission denied"), "{said}");
    assert!(said.contains("run as its owner") && !said.contains("writes it"), "{said}");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn machines_get_one_object_and_the_same_status() {
    let dir = tempfile::tempdir().unwrap();
    let (status, said) = check(dir.path(), &["none.yaml", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, &answer["usable"]), (1, &serde_json::json!(false)));
    assert_eq!(answer["problems"][0]["kind"], "unreadable");
}
