//! `adit check`, the real binary: its exit status and the shape of what it prints.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

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
    assert!(said.contains("trust bundle of link bank: bundles/bank.pem"), "{said}");

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

#[test]
fn machines_get_one_object_and_the_same_status() {
    let dir = tempfile::tempdir().unwrap();
    let (status, said) = check(dir.path(), &["none.yaml", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, &answer["usable"]), (1, &serde_json::json!(false)));
    assert_eq!(answer["problems"][0]["kind"], "unreadable");
}
