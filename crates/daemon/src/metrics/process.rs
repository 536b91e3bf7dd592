//! What the kernel knows of this process: memory, descriptors, threads.
//!
//! Read at each scrape. A value that cannot be read is absent rather than zero.

use adit_host::descriptors;

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// Resident memory, in bytes.
    pub resident: Option<u64>,
    /// Descriptors that are open.
    pub descriptors: Option<u64>,
    /// Descriptors that may be open.
    pub max_descriptors: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Lines of the log that were dropped.
    pub log_dropped: u64,
}

impl Process {
    /// Reads it from the kernel; what others count is given.
    #[must_use]
    pub fn read(log_dropped: u64) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            resident: field(&status, "VmRSS:").map(|kib| kib * 1024),
            descriptors: descriptors::open().ok(),
            max_descriptors: Some(descriptors::limit().soft).filter(|n| *n != u64::MAX),
            threads: field(&status, "Threads:"),
            log_dropped,
        }
    }
}

/// The first number after `name` on its line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_threads_and_descriptors() {
        let process = Process::read(7);
        assert!(process.resident.is_some_and(|n| n > 1 << 20), "{process:?}");
        assert!(process.threads.is_some_and(|n| n >= 1), "{process:?}");
        assert!(process.descriptors.is_some_and(|n| n >= 3), "{process:?}");
        assert_eq!(process.log_dropped, 7);
        assert_eq!(field("VmRSS:\t  12 kB\nThreads:\tx\n", "Threads:"), None);
    }
}
