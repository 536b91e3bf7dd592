//! The promises of `adit-pki`, seen from outside: certificates good and bad, over real handshakes.
//!
//! * `cluster`: certificates as ours are. `forge`: certificates that no authority of ours would make.
//! * `wire`: handshakes in memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod authority;
mod bad_certificates;
mod bad_paths;
mod bundles;
mod cluster;
mod denied;
mod forge;
mod handshake;
mod identities;
mod inspection;
mod wire;
