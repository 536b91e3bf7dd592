//! The file appears once, whole and private; the keys are the same at every start.

use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;

use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn made_once_and_private() {
    let folder = folder();
    let first = NodeSecret::load_or_create(folder.path()).unwrap();
    let second = NodeSecret::load_or_create(folder.path()).unwrap();
    assert_eq!(*first.0, *second.0);
    assert_ne!(*first.0, *NodeSecret::random().unwrap().0);
    let mode = fs::metadata(folder.path().join(SECRET_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a draft was left behind");
}

#[test]
fn processes_that_start_at_once_agree() {
    const MANY: usize = 8;
    let folder = folder();
    let barrier = Barrier::new(MANY);
    let secrets: Vec<_> = std::thread::scope(|scope| {
        let start = || {
            barrier.wait();
            *NodeSecret::load_or_create(folder.path()).unwrap().0
        };
        let threads: Vec<_> = (0..MANY).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(secrets.iter().all(|s| s == &secrets[0]));
}

#[test]
fn what_is_not_a_secret_is_refused() {
    let folder = folder();
    let path = folder.path().join(SECRET_FILE);
    files::write_key(&path, b"short", IfExists::Keep).unwrap();
    let error = NodeSecret::load_or_create(folder.path()).unwrap_err();
    assert!(matches!(error, SecretError::Length { found: 5, .. }), "{error}");

    files::write(&path, &[7; SECRET_LEN], IfExists::Replace).unwrap();
    let error = NodeSecret::load_or_create(folder.path()).unwrap_err();
    assert!(matches!(error, SecretError::File(FileError::ReadableByOthers { .. })), "{error}");

    let error = NodeSecret::load_or_create(&folder.path().join("missing")).unwrap_err();
    assert!(matches!(error, SecretError::File(FileError::Io { .. })), "{error}");
}

#[test]
fn keys_last_and_differ() {
    let tag = |key: &hmac::Key| hmac::sign(key, b"x").as_ref().to_vec();
    let (a, b) = (
        NodeSecret::from_bytes([1; SECRET_LEN]).keys(),
        NodeSecret::from_bytes([1; SECRET_LEN]).keys(),
    );
    assert_eq!(tag(&a.reset), tag(&b.reset));
    assert_eq!(a.token, b.token);
    let other = NodeSecret::from_bytes([2; SECRET_LEN]).keys();
    assert_ne!(tag(&a.reset), tag(&other.reset));
    assert_ne!(a.token, other.token);
    // Another purpose is another key.
    assert_ne!(tag(&a.reset), tag(&hmac::Key::new(hmac::HMAC_SHA256, &a.token)));
}
