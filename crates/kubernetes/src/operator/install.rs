//! Installs Adit in a cluster, from the manifests that this program carries.
//!
//! * [`manifests`] renders what `daemonset/` holds, as Kustomize does. [`kinds`] says where objects of a kind are reached.
//! * [`preflight`] asks whether the server is new enough and which rights are missing, before anything is changed.
//! * [`plan`] compares the manifests with the cluster: names that are taken, fields that others hold. [`apply`] writes a plan.
//! * [`rollout`] waits until controller and nodes are ready.
//! * [`upgrade`] has pods replaced whose manifests stay the same.
//! * [`remove`] takes all of it away again.
//! * [`error`] is every reason why a cluster is not installed.

pub mod apply;
pub mod error;
pub mod kinds;
pub mod manifests;
pub mod plan;
pub mod preflight;
pub mod remove;
pub mod rollout;
pub mod upgrade;

#[cfg(test)]
mod tests;
