//! Kubernetes: what is watched and what is written.
//!
//! The place of all code that knows the Kubernetes API, so that neither the data path nor the file-driven
//! node ever depends on it. It turns objects into values of [`adit_core`] and [`adit_config`] and back.
//!
//! Three rooms use what the rest provides, and not each other:
//!
//! * [`node`]: what a node watches and asks for.
//! * [`controller`]: the active controller of a cluster, which writes everything that is written.
//! * [`operator`]: commands for people.
//!
//! Shared by them: [`api`] has our own objects and the names of everything, `service` the rules by which a Service and
//! its slices are read, [`config_map`] the operator's configuration, checked, and [`summary`] the nodes' reports in sum.
//! [`store`] keeps what the API server holds of a kind through its failures; [`client`] reaches it.

pub mod api;
mod certificate_answer;
pub mod client;
pub mod config_map;
pub mod controller;
mod interleave;
pub mod node;
pub mod operator;
mod ownership;
mod service;
pub mod store;
pub mod summary;

pub use kube::Client;

#[cfg(test)]
mod fake_api_server;
