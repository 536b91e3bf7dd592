//! Networks for tests, behind the transport's seam.
//!
//! * [`memory`]: everything in one runtime on tokio's paused clock; its links lose, delay and cut what a
//!   test says, and its NATs forget ports. Fast and exact: the first choice.
//! * [`pipe`]: TCP between workloads and their node, resets and half-closes included.
//! * [`simulated`]: over turmoil, where hosts crash and come back and every run has a seed.

pub mod memory;
pub mod pipe;
pub mod simulated;

use std::net::SocketAddr;
use std::time::Duration;

/// One datagram as it left: when, from where, to where, how long. Bytes differ between runs, since TLS
/// is random; these do not.
pub type Sent = (Duration, SocketAddr, SocketAddr, usize);
