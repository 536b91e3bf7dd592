//! `adit pki`, the real binary: what it writes, what it refuses, what it says and what it never says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use adit_core::spiffe::TrustDomain;
use adit_pki::files::{self, IfExists, load_bundle, load_node};
use adit_pki::{ClusterAuthority, KeyKind, UnixTime};
use tempfile::TempDir;

/// The result of a command.
struct PkiRun {
    status: i32,
    out: String,
    err: String,
}

/// A folder to work in; the command's working directory.
struct PkiFolder(TempDir);

impl PkiFolder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }

    /// Runs `adit` where no file can grow beyond `limit` bytes, as on a full disk; what it says.
    fn adit_on_full_disk(&self, limit: u32, words: &str) -> (i32, String) {
        // The signal that comes with the limit would kill.
        let script = r#"trap '' XFSZ; exec prlimit --fsize="$LIMIT" "$0" "$@""#;
        let output = Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_adit")])
            .args(words.split_whitespace())
            .env("LIMIT", limit.to_string())
            .current_dir(self.0.path())
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// Names in a folder of this place.
    fn names(&self, folder: &str) -> Vec<String> {
        let name = |e: std::io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
        let mut all: Vec<_> = fs::read_dir(self.path(folder)).unwrap().map(name).collect();
        all.sort();
        all
    }

    /// Runs `adit pki` with these words. Whatever it prints, no line of a key in this place is in it.
    fn pki(&self, words: &str) -> PkiRun {
        let output = Command::new(env!("CARGO_BIN_EXE_adit"))
            .arg("pki")
            .args(words.split_whitespace())
            .current_dir(self.0.path())
            .output()
            .unwrap();
        let done = PkiRun {
            status: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        };
        for secret in secrets(self.0.path()) {
            assert!(!done.out.contains(&secret) && !done.err.contains(&secret), "a key in {words}");
        }
        done
    }

    fn ok(&self, words: &str) -> String {
        let done = self.pki(words);
        assert_eq!((done.status, done.err.as_str()), (0, ""), "{words}");
        done.out
    }

    /// Runs it, expects `status`, and returns its error message.
    fn fails(&self, status: i32, words: &str) -> String {
        let done = self.pki(words);
        assert_eq!((done.status, done.out.as_str()), (status, ""), "{words}: {}", done.err);
        done.err
    }
}

/// The base64 lines of every key below a folder.
fn secrets(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            all.extend(secrets(&entry.path()));
        } else if entry.file_name().to_str().unwrap().ends_with(".key.pem") {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            all.extend(text.lines().filter(|l| !l.contains("-----")).map(str::to_owned));
        }
    }
    all
}

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

/// The tour of `adit pki --help`, as its reader would take it.
#[test]
fn two_clusters_from_nothing() {
    let place = PkiFolder::new();
    for (cluster, node) in [("edge", "e1"), ("bank", "b1")] {
        place.ok(&format!("init --trust-domain {cluster}.example --dir {cluster}/ca"));
        place.ok(&format!("issue --ca {cluster}/ca --node {node} --out {cluster}/{node}"));
        place.ok(&format!("bundle --ca {cluster}/ca --out {cluster}.pem"));
        place.ok(&format!("bundle --ca {cluster}/ca --out {cluster}.json --format spiffe"));
    }
    let (identity, own) =
        load_node(&place.path("edge/e1"), &domain("edge.example"), &[].into(), UnixTime::now())
            .unwrap();
    assert_eq!(identity.id().as_str(), "spiffe://edge.example/adit/node/e1");
    let bank = load_bundle(&place.path("bank.json"), &domain("bank.example")).unwrap();
    let same = load_bundle(&place.path("bank.pem"), &domain("bank.example")).unwrap();
    let certificate = |b: &adit_pki::TrustBundle| b.authorities()[0].certificate().clone();
    assert_eq!(certificate(&bank), certificate(&same));
    assert_ne!(certificate(&own), certificate(&bank));
    assert!(load_bundle(&place.path("bank.pem"), &domain("edge.example")).is_err());

    for (file, holder) in [
        ("bank.pem", "1. authority of bank.example\n"),
        ("bank.json", "1. authority of bank.example\n"),
        ("edge/e1/ca.pem", "1. authority of edge.example\n"),
        ("edge/e1/node.pem", "1. node e1 of edge.example\n"),
    ] {
        let shown = place.ok(&format!("show {file}"));
        assert!(shown.starts_with(holder) && !shown.contains('!'), "{shown}");
    }
    assert_eq!(place.ok("bundle --ca edge/ca"), place.read("edge.pem"));
    assert_eq!(place.ok("bundle --ca edge/ca --format spiffe"), place.read("edge.json"));
}

#[test]
fn keys_are_for_their_owner() {
    let place = PkiFolder::new();
    place.ok("init --trust-domain edge.example --dir ca");
    place.ok("issue --ca ca --node e1 --out node");
    for (name, mode) in
        [("ca", 0o700), ("ca/ca.key.pem", 0o600), ("node", 0o700), ("node/node.key.pem", 0o600)]
    {
        assert_eq!(place.mode(name), mode, "{name}");
    }
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(place.path("ca/ca.key.pem"), open).unwrap();
    let error = place.fails(1, "issue --ca ca --node e2 --out other");
    assert!(error.contains("ca/ca.key.pem") && error.contains("chmod 600"), "{error}");
    assert!(!place.path("other").exists(), "nothing is half done");
}

#[test]
fn what_exists_stays() {
    let place = PkiFolder::new();
    place.ok("init --trust-domain edge.example --dir ca");
    let (certificate, key) = (place.read("ca/ca.pem"), place.read("ca/ca.key.pem"));
    let error = place.fails(1, "init --trust-domain edge.example --dir ca");
    assert!(error.contains("ca/ca.pem exists and is left as it is"), "{error}");
    assert_eq!((place.read("ca/ca.pem"), place.read("ca/ca.key.pem")), (certificate, key));

    place.ok("issue --ca ca --node e1 --out node");
    let first = (place.read("node/node.pem"), place.read("node/node.key.pem"));
    let error = place.fails(1, "issue --ca ca --node e1 --out node");
    assert!(error.contains("--overwrite"), "{error}");
    assert_eq!((place.read("node/node.pem"), place.read("node/node.key.pem")), first);
    place.ok("issue --ca ca --node e1 --out node --overwrite");
    let second = (place.read("node/node.pem"), place.read("node/node.key.pem"));
    assert!(second.0 != first.0 && second.1 != first.1, "a renewal has a key of its own");
    assert_eq!(place.mode("node/node.key.pem"), 0o600);

    place.ok("bundle --ca ca --out edge.pem");
    let error = place.fails(1, "bundle --ca ca --out edge.pem");
    assert!(error.contains("edge.pem exists"), "{error}");
    place.ok("bundle --ca ca --out edge.pem --format spiffe --overwrite");
    assert!(place.read("edge.pem").starts_with('{'));
}

/// A node's ca.pem may hold the next authority already; renewing must not throw it away.
#[test]
fn a_nodes_bundle_is_kept_and_checked() {
    let place = PkiFolder::new();
    place.ok("init --trust-domain edge.example --dir old");
    place.ok("init --trust-domain edge.example --dir new");
    place.ok("issue --ca old --node e1 --out node");
    let error = place.fails(1, "issue --ca new --node e1 --out node --overwrite");
    assert!(error.contains("node/ca.pem does not hold the authority"), "{error}");

    let both = place.read("old/ca.pem") + &place.read("new/ca.pem");
    fs::write(place.path("node/ca.pem"), &both).unwrap();
    place.ok("issue --ca new --node e1 --out node --overwrite");
    assert_eq!(place.read("node/ca.pem"), both);
    let now = UnixTime::now();
    assert!(load_node(&place.path("node"), &domain("edge.example"), &[].into(), now).is_ok());
}

#[test]
fn the_ttl_is_what_was_asked() {
    let place = PkiFolder::new();
    place.ok("init --trust-domain edge.example --dir ca --valid-for 365d --key ed25519");
    for (ttl, words) in
        [("24h", "(1d from now)"), ("90m", "(1h 30m from now)"), ("90d", "(90d from now)")]
    {
        let said = place.ok(&format!("issue --ca ca --node e1 --out {ttl} --ttl {ttl}"));
        assert!(said.contains(words), "{said}");
    }
    let said = place.ok("issue --ca ca --node e1 --out default --key ed25519");
    assert!(said.contains("(30d from now)"), "{said}");
    for (ttl, rule) in [
        ("0s", "1m to 90d"),
        ("59s", "1m to 90d"),
        ("91d", "1m to 90d"),
        ("9999999999999999999d", "1m to 90d"),
        ("99999999999999999999d", "is not a duration"),
        ("soon", "is not a duration"),
        ("1", "is not a duration"),
        ("-1h", "is not a duration"),
        ("1.5h", "is not a duration"),
        ("h", "is not a duration"),
        ("24H", "is not a duration"),
        ("é", "is not a duration"),
    ] {
        let error = place.fails(2, &format!("issue --ca ca --node e1 --out x --ttl={ttl}"));
        assert!(error.contains(rule), "{error}");
    }
    let error = place.fails(2, "init --trust-domain a --dir x --valid-for 7301d");
    assert!(error.contains("1m to 7300d"), "{error}");
    assert!(!place.path("x").exists());
}

#[test]
fn wrong_words_are_status_2_and_say_the_rule() {
    let place = PkiFolder::new();
    for (words, rule) in [
        ("init --trust-domain EDGE --dir x", "a-z"),
        ("init --trust-domain spiffe://edge --dir x", "a-z"),
        ("init --trust-domain edge", "--dir"),
        ("init --trust-domain edge --dir x --key rsa", "p256"),
        ("issue --ca ca --node E1 --out x", "a-z"),
        ("issue --ca ca --node a/b --out x", "a-z"),
        ("bundle --ca ca --format der", "spiffe"),
        ("show", "<FILE>"),
        ("sign", "unrecognized"),
        ("", "Usage"),
    ] {
        let error = place.fails(2, words);
        assert!(error.contains(rule), "{words}: {error}");
    }
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_used_is_named() {
    let place = PkiFolder::new();
    place.ok("init --trust-domain edge.example --dir ca");
    place.ok("init --trust-domain bank.example --dir bank");
    place.ok("issue --ca ca --node e1 --out node");
    let says = |words: &str, reason: &str| {
        let error = place.fails(1, words);
        assert!(error.starts_with("adit: ") && error.contains(reason), "{error}");
        assert_eq!(error.lines().count(), 1, "one line: {error}");
    };
    says("issue --ca nowhere --node e1 --out x", "nowhere/ca.pem: No such file");
    says("bundle --ca nowhere", "nowhere/ca.pem: No such file");
    says("bundle --ca ca --out no/such/folder", "no/such/folder: No such file");
    says("show ca", "ca: not a file");

    fs::copy(place.path("bank/ca.key.pem"), place.path("ca/ca.key.pem")).unwrap();
    says("issue --ca ca --node e2 --out x", "does not belong to its certificate");
    fs::copy(place.path("node/node.pem"), place.path("ca/ca.pem")).unwrap();
    says("issue --ca ca --node e2 --out x", "is no authority (it is a leaf");
    says("bundle --ca ca", "is no authority (it is a leaf");
    fs::write(place.path("ca/ca.pem"), "hello").unwrap();
    says("bundle --ca ca", "there is no PEM section");
    assert!(!place.path("x").exists());
}

#[test]
fn a_key_is_never_shown() {
    let place = PkiFolder::new();
    place.ok("init --trust-domain edge.example --dir ca");
    for words in ["show ca/ca.key.pem", "show ca/ca.key.pem --json"] {
        let error = place.fails(1, words);
        assert!(error.contains("there is a private key in it"), "{error}");
    }
    let both = place.read("ca/ca.pem") + &place.read("ca/ca.key.pem");
    fs::write(place.path("ca/ca.pem"), both).unwrap();
    let error = place.fails(1, "bundle --ca ca --out edge.pem");
    assert!(error.contains("there is a private key in it"), "{error}");
    assert!(!place.path("edge.pem").exists());
}

/// An authority of a year ago and a node's certificate that it issued then.
fn last_year(place: &PkiFolder) {
    let day = Duration::from_secs(24 * 60 * 60);
    let now = Duration::from_secs(UnixTime::now().as_secs());
    let then = UnixTime::since_unix_epoch(now - 365 * day);
    let ca =
        ClusterAuthority::create(domain("edge.example"), KeyKind::P256, 400 * day, then).unwrap();
    let node = ca.issue(&"e1".parse().unwrap(), KeyKind::P256, day, then).unwrap();
    let put = |name: &str, text: String| {
        files::write(&place.path(name), text.as_bytes(), IfExists::Replace).unwrap();
    };
    put("old.pem", node.certificate.to_pem());
    put("ca.pem", ca.bundle().unwrap().to_pem());
    put("both.pem", node.certificate.to_pem() + &ca.bundle().unwrap().to_pem());
}

#[test]
fn what_is_expired_is_status_2() {
    let place = PkiFolder::new();
    last_year(&place);
    let done = place.pki("show old.pem");
    assert_eq!((done.status, done.err.as_str()), (2, ""));
    assert!(done.out.contains("   !! expired 364d ago\n"), "{}", done.out);
    assert_eq!(place.pki("show both.pem").status, 2);

    let done = place.pki("show ca.pem");
    assert_eq!(done.status, 0, "a warning is no failure");
    assert!(done.out.contains("   !  only 3"), "{}", done.out);

    let done = place.pki("show both.pem --json");
    assert_eq!(done.status, 2);
    let json: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((&json[0]["usable"], &json[1]["usable"]), (&false.into(), &true.into()));
    assert_eq!(json[0]["spiffeId"], "spiffe://edge.example/adit/node/e1");
    assert_eq!(json[0]["findings"][0]["text"], "expired 364d ago");
    assert_eq!(json[1]["findings"][0]["unusable"], false);
}

/// Help is where people learn this; what it promises must be there.
#[test]
fn help_teaches() {
    let place = PkiFolder::new();
    let help = place.ok("--help");
    for word in ["Two clusters, from nothing", "init", "issue", "bundle", "show", "fingerprints"] {
        assert!(help.contains(word), "{help}");
    }
    for (command, words) in [
        ("init", &["ca.key.pem", "0600", "never replaced"][..]),
        ("issue", &["node.pem", "spiffe://TRUSTDOMAIN/adit/node/NAME", "[default: 30d]"]),
        ("bundle", &["certificates only", "SPIRE"]),
        ("show", &["Exit status: 0 all usable now", "private key"]),
    ] {
        let help = place.ok(&format!("{command} --help")).replace('\n', " ");
        for word in words {
            assert!(help.contains(word), "{word}: {help}");
        }
    }
}

/// `adit pki show … | head -0` is no failure.
#[test]
fn a_reader_that_leaves_is_no_failure() {
    let place = PkiFolder::new();
    place.ok("init --trust-domain edge.example --dir ca");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["pki", "show"])
        .arg(place.path("ca/ca.pem"))
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_full_disk_leaves_nothing_that_is_in_the_way_afterwards() {
    let place = PkiFolder::new();
    let (init, issue) =
        ("init --trust-domain edge.example --dir ca", "issue --ca ca --node e1 --out e1");
    // Not even the key fits; then the key does, and the certificate does not.
    for limit in [0, 512] {
        let (status, said) = place.adit_on_full_disk(limit, &format!("pki {init}"));
        assert!(status != 0 && said.contains("File too large"), "{limit}: {said}");
        assert_eq!(place.names("ca"), [""; 0], "{limit}");
    }
    assert_eq!(place.pki(init).status, 0);
    for limit in [0, 512] {
        let (status, said) = place.adit_on_full_disk(limit, &format!("pki {issue}"));
        assert!(status != 0 && said.contains("File too large"), "{limit}: {said}");
        assert_eq!(place.names("e1"), [""; 0], "{limit}");
    }
    assert_eq!(place.pki(issue).status, 0);

    let config = "cluster: edge\ntrustDomain: edge.example\nnode: {name: e1, listen: \"127.0.0.1:0\", identity: e1}\n";
    fs::write(place.path("edge.yaml"), config).unwrap();
    for _ in 0..3 {
        let (status, said) = place.adit_on_full_disk(0, "node --config edge.yaml");
        assert!(status != 0 && said.contains("e1/node.secret: File too large"), "{said}");
    }
    assert_eq!(place.names("e1"), ["ca.pem", "node.key.pem", "node.pem"]);
}
