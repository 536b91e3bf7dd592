//! The process of a node, from its configuration to its exit.
//!
//! [`run()`] and [`run_in_cluster`] differ in where the configuration comes from ([`config_source`]); after that both
//! go the same way ([`start`]): know who we are and whom we believe ([`credentials`]), bind everything ([`bind`],
//! [`takeover`]), start the data plane ([`data_plane`]), then serve until told otherwise ([`supervisor`]). Whatever can
//! be wrong at the start is reported all at once, and nothing is left behind.
//!
//! * **A request** goes through the data plane, which reads nothing of this room but the [`snapshot`].
//! * **A change of the configuration** comes from `adit_config`'s thread, or from [`kubernetes`]' follower, as a
//!   `ConfigUpdate`; the [`supervisor`] compares it ([`config_diff`]) and gives [`snapshot`] its new part.
//! * **The status** is made from [`process_state`], which reads links and traffic of the data plane.
//!
//! Threads: `worker-N` for the data path ([`workers`]), `admin` for both HTTP servers ([`servers`]), `log`,
//! `config-watch`, `handover`, and the caller's for the supervisor.

mod bind;
mod config_diff;
mod config_source;
mod config_update;
mod credentials;
pub mod data_plane;
mod handover;
mod kubernetes;
mod link_log;
mod links;
mod memory;
mod metrics_admission;
mod older_processes;
mod process_state;
mod readiness_checks;
mod run;
mod servers;
pub mod snapshot;
mod start;
mod supervisor;
mod takeover;
mod traffic;
mod workers;

pub use self::credentials::check;
pub use self::kubernetes::KubernetesNodeOptions;
pub use self::run::{run, run_in_cluster};
pub use self::takeover::WAITING_EXTENSION;
