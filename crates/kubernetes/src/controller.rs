//! `adit controller`: keeps the cluster's objects as the configuration and our nodes demand.
//!
//! Of several pods one is active, elected by a Lease (`leader`). It creates or reads the CA (`ca`), signs its nodes'
//! certificates (`signer`), and keeps Link, Export and Import objects, and the Services and EndpointSlices of imports.
//! The process feeds it with what nodes learn of linked clusters, as [`LinkedClusters`]; it tells the process by
//! [`ObserverConfig`] which nodes to ask.
//!
//! Each pass of `reconcile` reads the `stores` into a `cluster_state`, has the `planner` make a `plan` (a pure function)
//! and writes the differences (`write`). A pass begins when anything changes; changes that come at the same time share
//! one pass.
//!
//! * `import` and `export` are rooms of their own: each decides which Services there are, then plans their objects.
//!   `link` plans Link objects, and `node_reports` what all three say of nodes.
//! * `network_migration` follows a change of the nodes' network from pass to pass.
//! * `conditions`, `events`, `phase` and `debounce` are how anything is told; `request` bounds each request.

mod ca;
mod cluster_state;
mod conditions;
mod config_state;
mod debounce;
mod events;
mod export;
mod import;
mod kagent;
mod leader;
mod link;
mod network_migration;
mod node_reports;
mod peers;
mod phase;
mod plan;
mod planner;
mod reconcile;
mod request;
mod run;
mod signer;
mod stores;
mod write;

pub use self::peers::{LinkedClusters, ObservedPeer, ObserverConfig};
pub use self::phase::{ControllerPhase, ControllerState};
pub use self::run::{ControllerError, ControllerPod, run};

#[cfg(test)]
mod tests;
