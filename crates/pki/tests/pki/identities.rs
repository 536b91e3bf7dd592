//! Identities that a node may take for its own, from memory and from its folder.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use adit_pki::files::{self, FileError, IfExists};
use adit_pki::identity::IdentityError;
use adit_pki::{ClusterAuthority, Identity, KeyKind, TrustBundle, VerifyError};
use rcgen::ExtendedKeyUsagePurpose;

use crate::forge::{Forge, ForgedCert, HOUR, NOW, at, domain, leaf_params};

const BANK: &str = "bank.example";
const B1: &str = "spiffe://bank.example/adit/node/b1";

fn take(forged: ForgedCert, bundle: &TrustBundle) -> Result<Identity, IdentityError> {
    Identity::new(forged.chain, forged.key, bundle, &BTreeSet::new(), at(NOW))
}

#[test]
fn an_identity_is_one_that_peers_accept() {
    let (bank, edge) = (Forge::new(BANK), Forge::new("edge.example"));
    let bundle = bank.bundle(BANK);
    let good = take(bank.leaf(B1), &bundle).unwrap();
    assert_eq!(good.id().as_str(), B1);
    assert_eq!((good.not_before(), good.not_after()), (at(NOW - HOUR), at(NOW + 24 * HOUR)));

    let mut swapped = bank.leaf(B1);
    swapped.key = bank.leaf(B1).key;
    assert!(matches!(take(swapped, &bundle), Err(IdentityError::Mismatch)));

    let foreign = take(edge.leaf("spiffe://edge.example/adit/node/e1"), &bundle);
    assert!(matches!(foreign, Err(IdentityError::TrustDomain { .. })));
    let refused = |forged| match take(forged, &bundle) {
        Err(IdentityError::Refused(reason)) => reason.label(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(edge.leaf(B1)), "unknown-authority");
    assert_eq!(refused(Forge::new(BANK).leaf(B1)), "wrong-signature");
    assert_eq!(refused(bank.leaf("spiffe://bank.example/adit/controller")), "controller");
    assert_eq!(refused(bank.leaf("spiffe://bank.example/ns/a/sa/b")), "workload");
    assert_eq!(refused(ForgedCert { chain: vec![], ..bank.leaf(B1) }), "no-certificate");

    // A node dials and is dialled.
    for usage in [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth] {
        let mut params = leaf_params(B1);
        params.extended_key_usages = vec![usage];
        assert_eq!(refused(bank.issue(&params)), "usage");
    }
    let late = bank.leaf(B1);
    let late = Identity::new(late.chain, late.key, &bundle, &BTreeSet::new(), at(NOW + 25 * HOUR));
    assert!(matches!(late, Err(IdentityError::Refused(VerifyError::Expired { .. }))));

    let elsewhere = "spiffe://bank.example/ns/adit/sa/adit-node";
    let svid = bank.leaf(elsewhere);
    let allowed = [elsewhere.parse().unwrap()].into();
    assert!(Identity::new(svid.chain, svid.key, &bundle, &allowed, at(NOW)).is_ok());
}

#[test]
fn an_identity_does_not_show_its_key() {
    let bank = Forge::new(BANK);
    let forged = bank.leaf(B1);
    let secret = format!("{:?}", forged.key.secret_der());
    let shown = format!("{:?}", take(forged, &bank.bundle(BANK)).unwrap());
    assert_eq!(shown, format!("Identity {{ id: {B1}, .. }}"));
    assert!(!shown.contains(&secret));
}

/// A node's folder as `adit pki issue` leaves it.
fn folder(at_dir: &Path) -> ClusterAuthority {
    let life = Duration::from_secs(100 * HOUR);
    let ca = ClusterAuthority::create(domain(BANK), KeyKind::P256, life, at(NOW)).unwrap();
    let ttl = Duration::from_secs(24 * HOUR);
    let node = ca.issue(&"b1".parse().unwrap(), KeyKind::P256, ttl, at(NOW)).unwrap();
    let put = |name, text: &[u8]| {
        files::write(&at_dir.join(name), text, IfExists::Replace).unwrap();
    };
    put(files::BUNDLE, ca.bundle().unwrap().to_pem().as_bytes());
    put(files::NODE_CHAIN, node.certificate.to_pem().as_bytes());
    let key = at_dir.join(files::NODE_KEY);
    files::write_key(&key, node.key_pem().as_bytes(), IfExists::Replace).unwrap();
    ca
}

fn load(at_dir: &Path) -> Result<Identity, FileError> {
    let loaded = files::load_node(at_dir, &domain(BANK), &BTreeSet::new(), at(NOW));
    loaded.map(|(identity, _)| identity).map_err(|mut all| all.remove(0))
}

#[test]
fn a_folder_holds_an_identity() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    assert_eq!(load(dir.path()).unwrap().id().as_str(), B1);

    let error = files::load_node(dir.path(), &domain("edge.example"), &[].into(), at(NOW));
    let all = error.unwrap_err();
    assert!(matches!(&all[..], [FileError::Bundle { .. }]), "{all:?}");
    // The chain of one issue with the key of another, as half a renewal leaves it.
    let chain = fs::read(dir.path().join(files::NODE_CHAIN)).unwrap();
    let ca = folder(dir.path());
    fs::write(dir.path().join(files::NODE_CHAIN), chain).unwrap();
    let error = load(dir.path()).unwrap_err();
    assert!(matches!(error, FileError::Identity { .. }), "{error}");
    drop(ca);
    for name in [files::NODE_CHAIN, files::NODE_KEY, files::BUNDLE] {
        folder(dir.path());
        fs::remove_file(dir.path().join(name)).unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("No such file"), "{error}");
    }
}

#[test]
fn keys_are_their_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    let key = dir.path().join(files::NODE_KEY);
    let mode = fs::metadata(&key).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    for open in [0o640, 0o604, 0o660, 0o644] {
        fs::set_permissions(&key, fs::Permissions::from_mode(open)).unwrap();
        let error = load(dir.path()).unwrap_err();
        assert!(
            matches!(error, FileError::ReadableByOthers { mode, .. } if mode == open),
            "{error}"
        );
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
    assert!(load(dir.path()).is_ok());
}

#[test]
fn nothing_is_replaced_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    files::write_key(&path, b"one", IfExists::Keep).unwrap();
    let error = files::write_key(&path, b"two", IfExists::Keep).unwrap_err();
    assert!(matches!(error, FileError::Exists(_)));
    assert_eq!(fs::read(&path).unwrap(), b"one");
    // What a crash half-way through left behind is in nobody's way.
    fs::write(dir.path().join("x.new"), b"half").unwrap();
    files::write_key(&path, b"three", IfExists::Replace).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"three");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    // A link is not followed: what it points to may be anything.
    let (link, other) = (dir.path().join("link"), dir.path().join("other"));
    std::os::unix::fs::symlink(&other, &link).unwrap();
    assert!(files::write_key(&link, b"secret", IfExists::Keep).is_err());
    assert!(!other.exists());
}

#[test]
fn what_is_read_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big");
    let size = usize::try_from(files::MAX_FILE).unwrap();
    fs::write(&path, vec![b'x'; size]).unwrap();
    assert_eq!(files::read(&path).unwrap().len(), size);
    fs::write(&path, vec![b'x'; size + 1]).unwrap();
    assert!(matches!(files::read(&path).unwrap_err(), FileError::TooLarge(_)));
    let error = files::read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("not a file"), "{error}");
}
