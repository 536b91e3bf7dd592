//! What the kernel knows of this process: memory, descriptors, threads, lost datagrams.
//!
//! Read from `/proc` at each scrape. A value that cannot be read is absent rather than zero.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

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
    /// Datagrams that the kernel dropped because a socket's buffer was full.
    pub udp_drops: Option<u64>,
    /// Lines of the log that were dropped.
    pub log_dropped: u64,
}

impl Process {
    /// Reads all of it; `udp_ports` are the local ports of our QUIC sockets.
    #[must_use]
    pub fn read(udp_ports: &BTreeSet<u16>, log_dropped: u64) -> Self {
        let proc = Path::new("/proc/self");
        let read = |name: &str| fs::read_to_string(proc.join(name)).ok();
        let status = read("status").unwrap_or_default();
        let drops = |table: Option<String>| table.map(|t| udp_drops(&t, udp_ports));
        let (v4, v6) = (drops(read("net/udp")), drops(read("net/udp6")));
        Self {
            resident: field(&status, "VmRSS:").map(|kib| kib * 1024),
            // One of them is the descriptor that reads the folder.
            descriptors: fs::read_dir(proc.join("fd"))
                .ok()
                .map(|all| (all.count() as u64).saturating_sub(1)),
            max_descriptors: read("limits").and_then(|l| field(&l, "Max open files")),
            threads: field(&status, "Threads:"),
            udp_drops: v4.or(v6).map(|_| v4.unwrap_or_default() + v6.unwrap_or_default()),
            log_dropped,
        }
    }
}

/// The first number after `name` on its line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The sum of the last column over the lines whose local port is one of `ports` (proc_pid_net(5)).
fn udp_drops(table: &str, ports: &BTreeSet<u16>) -> u64 {
    let drops = |line: &str| -> Option<u64> {
        let mut columns = line.split_whitespace();
        let (_, port) = columns.nth(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        if ports.contains(&port) { columns.last()?.parse().ok() } else { None }
    };
    table.lines().skip(1).filter_map(drops).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_threads_and_descriptors() {
        let before = Process::read(&BTreeSet::new(), 7);
        let _open = fs::File::open("/proc/self/status").unwrap();
        let after = Process::read(&BTreeSet::new(), 7);
        assert!(before.resident.is_some_and(|n| n > 1 << 20), "{before:?}");
        assert!(before.threads.is_some_and(|n| n >= 1) && before.max_descriptors.is_some());
        // Other tests of this process open and close descriptors meanwhile.
        assert!(after.descriptors.is_some_and(|n| n >= 4), "{after:?}");
        assert_eq!((after.udp_drops, after.log_dropped), (Some(0), 7));
    }

    #[test]
    fn drops_are_counted_for_our_ports_only() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            10: 00000000:1EA3 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 19 2 0000000000000000 42\n\
            11: 0100007F:1EA3 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 20 2 0000000000000000 8\n\
            12: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 21 2 0000000000000000 1000\n";
        assert_eq!(udp_drops(table, &[7843].into()), 50);
        assert_eq!(udp_drops(table, &BTreeSet::new()), 0);
        assert_eq!(udp_drops("", &[7843].into()), 0);
    }
}
