//! Networks for tests, behind the transport's seam.
//!
//! * [`memory`]: everything in one runtime on tokio's paused clock; its links lose, delay and cut what a
//!   test says, and its NATs forget ports. Fast and exact: the first choice.
//! * [`pipe`]: TCP between workloads and their node, resets and half-closes included.
//! * [`simulated`]: over turmoil, where hosts crash and come back and every run has a seed.

pub mod memory;
pub mod pipe;
#[cfg(feature = "simulation")]
pub mod simulated;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A datagram as it left: when, from where, to where, how long. Bytes differ between runs, since TLS
/// is random; these do not.
pub type Sent = (Duration, SocketAddr, SocketAddr, usize);

/// Randomness for the `nth` endpoint of a host in one run: the same each time.
fn seed(run: u64, host: IpAddr, nth: u64) -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&run.to_le_bytes());
    seed[8..16].copy_from_slice(&nth.to_le_bytes());
    seed[16..].copy_from_slice(&match host {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    });
    seed
}
