//! Times of this process, as the kernel counts them.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Ticks a second of the times in `/proc`: `USER_HZ`, which is 100 on every architecture that we run on.
const TICKS: u64 = 100;

/// Processor time that all threads of this process have used.
#[must_use]
pub fn cpu_time() -> Duration {
    duration(clock_gettime(ClockId::ProcessCPUTime))
}

/// For how long this process has existed, to a hundredth of a second. `None` if `/proc` is not mounted.
#[must_use]
pub fn age() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in brackets, may hold anything; what follows is numbers, of which the start is the 20th.
    let (_, numbers) = stat.rsplit_once(')')?;
    let ticks: u64 = numbers.split_whitespace().nth(19)?.parse().ok()?;
    let since_boot = duration(clock_gettime(ClockId::Boottime));
    since_boot.checked_sub(Duration::from_millis(ticks * 1000 / TICKS))
}

fn duration(time: Timespec) -> Duration {
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_young_and_has_worked() {
        let age = age().unwrap();
        assert!(age < Duration::from_secs(24 * 60 * 60), "{age:?}");
        let (before, mut sum) = (cpu_time(), 0_u64);
        while cpu_time() == before {
            sum = sum.wrapping_add(1);
        }
        assert!(cpu_time() > before, "{sum}");
    }
}
