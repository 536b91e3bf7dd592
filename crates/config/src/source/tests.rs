//! Files that are missing, of the wrong kind or too large, and files that a good file refers to.

use std::fs;
use std::path::Path;

use crate::{MAX_BYTES, check, load};

fn refused(file: &Path) -> String {
    let Err(report) = load(file) else { panic!("accepted") };
    report.to_string().replace(&file.display().to_string(), "f")
}

#[test]
fn what_cannot_be_read_is_one_error_without_a_place() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        refused(&dir.path().join("none.yaml")),
        "f: cannot read: No such file or directory (os error 2)"
    );
    assert_eq!(refused(dir.path()), "f: cannot read: expected a file, found a folder");
    assert_eq!(
        refused(Path::new("/dev/null")),
        "f: cannot read: expected a file, found something else"
    );
    // A regular file that even root cannot read from its beginning.
    assert_eq!(
        refused(Path::new("/proc/self/mem")),
        "f: cannot read: Input/output error (os error 5)"
    );
    let large = dir.path().join("large.yaml");
    let most = usize::try_from(MAX_BYTES).unwrap();
    fs::write(&large, "#".repeat(most + 1)).unwrap();
    assert_eq!(refused(&large), "f: larger than 1 MiB: expected a configuration file");
    fs::write(&large, "#".repeat(most)).unwrap();
    assert!(refused(&large).contains("the file is empty"));
}

#[test]
fn check_looks_at_what_the_file_refers_to() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("edge.yaml");
    let text = "cluster: edge\ntrustDomain: edge\n\
                node: {name: e1, listen: \"127.0.0.1:0\", identity: id}\n\
                links: [{cluster: bank, trustDomain: bank, trustBundle: bank.pem}]\n";
    fs::write(&file, text).unwrap();
    let said = || check(&file).to_string().replace(&format!("{}/", dir.path().display()), "");
    const NONE: &str = "cannot read: No such file or directory (os error 2)";
    const ID: &str = "  hint: `adit pki issue` writes it";
    const BUNDLE: &str = "  hint: `adit pki bundle` on the other cluster writes it";
    assert_eq!(
        said(),
        format!(
            "edge.yaml:3:51: node.identity: id: no such folder\n{ID}\n\
             edge.yaml:4:57: links[0].trustBundle: bank.pem: {NONE}\n{BUNDLE}"
        )
    );
    fs::create_dir(dir.path().join("id")).unwrap();
    fs::create_dir(dir.path().join("bank.pem")).unwrap();
    fs::write(dir.path().join("id/node.pem"), "").unwrap();
    assert_eq!(
        said(),
        format!(
            "edge.yaml:3:51: node.identity: id/node.key.pem: {NONE}\n{ID}\n\
             edge.yaml:3:51: node.identity: id/ca.pem: {NONE}\n{ID}\n\
             edge.yaml:4:57: links[0].trustBundle: bank.pem: cannot read: expected a file, found a folder\n{BUNDLE}"
        )
    );
    fs::write(dir.path().join("id/node.key.pem"), "").unwrap();
    fs::write(dir.path().join("id/ca.pem"), "").unwrap();
    fs::remove_dir(dir.path().join("bank.pem")).unwrap();
    fs::write(dir.path().join("bank.pem"), "").unwrap();
    assert_eq!(said(), "");
    assert!(load(&file).is_ok());

    // What is wrong with the file itself comes with it.
    fs::write(&file, text.replace("name: e1", "name: E1").replace("bank.pem", "x.pem")).unwrap();
    assert_eq!(
        said(),
        format!(
            "edge.yaml:3:14: node.name: \"E1\" is not a valid node name: expected 1 to 253 characters: labels of a-z, 0-9 and '-' joined by dots, each beginning and ending with a letter or digit\n  hint: did you mean \"e1\"?\n\
             edge.yaml:4:57: links[0].trustBundle: x.pem: {NONE}\n{BUNDLE}"
        )
    );
}
