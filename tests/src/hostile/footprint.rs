//! The cost of a process for its machine: memory, processor time, descriptors; and the memory that it may have.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// The kernel's figures of a process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Resident memory in KiB.
    pub rss: u64,
    /// Processor time so far, in all its threads.
    pub cpu: Duration,
    /// Open descriptors.
    pub fds: usize,
}

/// Ticks of [`Footprint::cpu`] in a second: the kernel's interface has no other.
const TICKS: u64 = 100;

impl Footprint {
    /// The footprint of the process `pid`; `None` if it has ended.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let field = |text: &str, name: &str| -> Option<u64> {
            let line = text.lines().find_map(|l| l.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse().ok()
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold spaces; what follows its bracket does not. utime and stime are 14 and 15.
        let ticks: u64 = stat
            .rsplit_once(')')?
            .1
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|n| n.parse::<u64>().ok())
            .sum();
        Some(Self {
            rss: field(&status, "VmRSS:")?,
            cpu: Duration::from_millis(ticks * 1000 / TICKS),
            fds: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
        })
    }
}

/// A control group that bounds memory; gone when dropped, for which its processes must have ended.
#[derive(Debug)]
pub struct Cage {
    folder: PathBuf,
    limit_file: &'static str,
}

impl Cage {
    /// A group of `mebibytes`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn new(mebibytes: u64) -> Result<Self, String> {
        let name = format!("adit-hostile-{}-{mebibytes}", std::process::id());
        let v1 = PathBuf::from("/sys/fs/cgroup/memory");
        let v2 = PathBuf::from("/sys/fs/cgroup");
        let controls = |file| fs::read_to_string(v2.join(file)).unwrap_or_default();
        let (root, limit_file) = if v1.join("memory.limit_in_bytes").exists() {
            (v1, "memory.limit_in_bytes")
        } else if controls("cgroup.subtree_control").contains("memory") {
            (v2, "memory.max")
        } else {
            return Err("no memory controller below /sys/fs/cgroup".to_owned());
        };
        let folder = root.join(name);
        let failed = |error| format!("{}: {error}", folder.display());
        if !folder.exists() {
            fs::create_dir(&folder).map_err(failed)?;
        }
        let cage = Self { folder: folder.clone(), limit_file };
        fs::write(folder.join(limit_file), (mebibytes << 20).to_string()).map_err(failed)?;
        Ok(cage)
    }

    /// Puts a process in.
    ///
    /// # Panics
    /// Where the kernel does not.
    pub fn hold(&self, pid: u32) {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// The most memory that was in use, in KiB, page cache and kernel memory included.
    #[must_use]
    pub fn peak(&self) -> u64 {
        let file = match self.limit_file {
            "memory.max" => "memory.peak",
            _ => "memory.max_usage_in_bytes",
        };
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0) >> 10
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // The kernel needs a moment after the last process has been reaped; what is left is empty.
        for _ in 0..20 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
