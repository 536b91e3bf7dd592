//! Prerequisites of tests that a machine may lack.
//!
//! A test that cannot run says so, and fails where nothing may be missing: in CI a skip is a lie.

/// Says that a test is skipped and why; fails where `CI=true`.
///
/// # Panics
/// Where `CI=true`.
pub fn skip(name: &str, why: &str) {
    println!("SKIP {name}: {why}");
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!ci, "SKIP {name}: {why} (nothing may be skipped in CI)");
}

/// Waits until `probe` gives something, for at most `seconds`.
///
/// # Panics
/// When the time is up, with what was waited for.
pub fn eventually<T>(what: &str, seconds: u64, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "not within {seconds} s: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
