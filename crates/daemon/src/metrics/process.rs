//! Memory, processor time, descriptors and threads of this process, as the kernel counts them.
//!
//! Read at each scrape. A value that cannot be read is absent rather than zero.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use adit_host::{descriptors, process};

/// The process's use of the machine, as read from the kernel.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProcessUsage {
    /// Processor time that all threads have used.
    pub cpu: Option<Duration>,
    /// Resident memory, in bytes.
    pub resident: Option<u64>,
    /// Virtual memory, in bytes.
    pub virtual_memory: Option<u64>,
    /// Descriptors that are open.
    pub descriptors: Option<u64>,
    /// Descriptors that may be open.
    pub max_descriptors: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// When it started, since the Unix epoch.
    pub started: Option<Duration>,
}

impl ProcessUsage {
    /// Reads it from the kernel.
    #[must_use]
    pub fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            cpu: Some(process::cpu_time()),
            resident: field(&status, "VmRSS:").map(|kib| kib * 1024),
            virtual_memory: field(&status, "VmSize:").map(|kib| kib * 1024),
            descriptors: descriptors::open().ok(),
            max_descriptors: Some(descriptors::limit().soft).filter(|n| *n != u64::MAX),
            threads: field(&status, "Threads:"),
            started: started(),
        }
    }
}

/// Asked once, because a moment that moves with the clock would look like one restart after another.
pub(super) fn started() -> Option<Duration> {
    static STARTED: OnceLock<Option<Duration>> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        now.checked_sub(process::age()?)
    })
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
        let process = ProcessUsage::read();
        assert!(process.resident.is_some_and(|n| n > 1 << 20), "{process:?}");
        assert!(process.virtual_memory > process.resident, "{process:?}");
        assert!(process.threads.is_some_and(|n| n >= 1), "{process:?}");
        assert!(process.descriptors.is_some_and(|n| n >= 3), "{process:?}");
        assert!(process.cpu.is_some_and(|t| !t.is_zero()), "{process:?}");
        assert_eq!(field("VmRSS:\t  12 kB\nThreads:\tx\n", "Threads:"), None);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let age = now - process.started.unwrap();
        assert!(age < Duration::from_secs(24 * 60 * 60), "a test does not run for days: {age:?}");
        assert_eq!(ProcessUsage::read().started, process.started);
    }
}
