//! Commands for people: they read and change a cluster through its API server, with the rights of whoever runs them.
//!
//! Neither node nor controller uses any of this.
//!
//! * [`context`] reaches a cluster by a kubeconfig; [`edit`] changes its ConfigMap, checked as a whole.
//! * [`declare`] exports and imports a Service. [`link`] links clusters by their [`bundle`]; [`made_services`] says which
//!   Services a changed link removes.
//! * [`invitation`] links clusters whose operators have access to their own alone.
//! * [`migrate`] leads from a hand-written slice to an import, without a lost request.
//! * [`install`] puts Adit into a cluster, from the manifests that this program carries.
//! * [`release`] compares the releases that clusters run. `pod_state` reads the status of a pod,
//!   `node_process` runs a command in a node's.
//! * [`status`] reads how a cluster is. [`doctor`] reads what a request to one import would meet. [`agents`] lists all agents, with
//!   their `card`s. [`node_lines`] follows what nodes say.

pub mod agents;
pub mod bundle;
mod card;
pub mod context;
pub mod declare;
pub mod doctor;
pub mod edit;
pub mod install;
pub mod invitation;
pub mod link;
pub mod made_services;
pub mod migrate;
pub mod node_lines;
mod node_process;
mod pod_state;
pub mod release;
pub mod status;
