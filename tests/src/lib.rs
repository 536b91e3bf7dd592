//! The library that the suites share. Nothing here is a test.
//!
//! * [`net`]: simulated networks, behind the transport's seam; [`identity`]: nodes that can prove
//!   themselves to each other; [`pair`]: two such nodes, ready to connect;
//! * [`sites`]: nodes with links and no more, on any of these networks; [`sim`]: whole nodes with their
//!   data path, and the workloads on both sides;
//! * [`lab`]: hosts and cables without root; [`daemon`]: the real `adit`, started and asked;
//!   [`clusters`]: two clusters of it; [`loopback`]: what two of its nodes on loopback serve;
//! * [`hostile`]: a linked cluster that attacks, and a court that judges its victim;
//! * [`workload`]: clients and backends whose every ending can be told apart;
//! * [`prerequisite`]: `SKIP name: why`, and a failure in CI;
//! * [`sources`]: the Rust files of the workspace, for the tests that read them.

#![expect(clippy::unwrap_used, reason = "in a test a panic is how it fails")]

pub mod clusters;
pub mod daemon;
pub mod hostile;
pub mod identity;
pub mod lab;
pub mod loopback;
pub mod net;
pub mod pair;
pub mod prerequisite;
#[cfg(feature = "simulation")]
pub mod sim;
pub mod sites;
pub mod sources;
pub mod workload;
