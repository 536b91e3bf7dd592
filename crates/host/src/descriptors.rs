//! File descriptors: how many there may be, how many there are.
//!
//! Every carried connection costs at least one descriptor, so the limit is the number of flows that
//! a node can hold. Nothing here refuses anything; whoever accepts compares [`open`] with [`limit`].

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The descriptors that this process may have open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// The limit in force; `u64::MAX` if there is none.
    pub soft: u64,
    /// The limit that [`raise`] can reach without privilege; `u64::MAX` if there is none.
    pub hard: u64,
}

/// The limit that holds now.
#[must_use]
pub fn limit() -> DescriptorLimit {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    DescriptorLimit { soft: current.unwrap_or(u64::MAX), hard: maximum.unwrap_or(u64::MAX) }
}

/// Raises the soft limit to the hard one and returns what holds afterwards.
///
/// # Errors
/// If the system refuses, which leaves the limit as it was.
pub fn raise() -> io::Result<DescriptorLimit> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(limit())
}

/// The number of open descriptors. It reads a directory of that many entries, so ask once a
/// second rather than once a connection.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn open() -> io::Result<u64> {
    // The directory handle that counts is among the counted.
    Ok((std::fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raising_reaches_the_hard_limit() {
        let before = limit();
        let after = raise().unwrap();
        assert_eq!(after.hard, before.hard);
        assert_eq!(after.soft, after.hard);
        assert_eq!(limit(), after);
    }

    #[test]
    fn an_open_file_is_counted() {
        // Other tests of this process open and close descriptors meanwhile, so many are opened.
        const MANY: u64 = 200;
        let before = open().unwrap();
        let files: Vec<_> =
            (0..MANY).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
        assert!(open().unwrap() >= before + MANY / 2);
        drop(files);
    }
}
