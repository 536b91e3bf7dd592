//! Kubernetes: what is watched and what is written.
//!
//! The place of all code that knows the Kubernetes API, so that neither the data path nor the file-driven
//! node ever depends on it. It turns objects into values of [`adit_core`] and [`adit_config`] and back.
//!
//! * [`api`]: our own objects and the names of everything. [`config_map`]: the operator's, checked.
//! * [`node`]: what a node watches and asks for. [`client`]: how the API server is reached.
//! * For the operator's commands: [`context`] and [`edit`] reach and change a cluster's ConfigMap, [`join`] links
//!   clusters, [`declare`] exports and imports, [`report`] tells how a cluster is.
//! * [`summary`]: what nodes say of themselves, from the controller to [`report`].
//! * [`store`]: what the API server holds of a kind, kept through its failures. [`tasks`]: what must not end.
//! * [`controller`]: the active one of a cluster, which writes all that there is to write.

pub mod api;
pub mod client;
pub mod config_map;
pub mod context;
pub mod controller;
pub mod declare;
pub mod edit;
pub mod join;
pub mod node;
pub mod report;
pub mod store;
pub mod summary;
pub mod tasks;

pub use kube::Client;

#[cfg(test)]
mod tests;
