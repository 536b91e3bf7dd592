//! Choices: which nodes are hubs, which node, backend or connection is tried first.
//!
//! * [`mod@route`]: the nodes and backends of a stream, in order, by [`draw`]. * [`connections`]: the connections
//!   with one node that it may take.
//! * [`mod@hubs`]: the nodes that hold a cluster's standing connections. * [`standing`]: with whom a node keeps
//!   such connections, and from whom it gets views.
//! * [`addresses`]: which addresses are dialled, and in which order.
//!
//! Randomness is an argument, so that a test can try thousands of draws and a simulation can repeat one.

mod addresses;
pub mod connections;
mod draw;
mod hubs;
mod route;
mod standing;

pub use self::addresses::{dialable_addresses, interleave_families, is_dialable};
pub use self::hubs::{HUBS, HubCache, LinkHubs, hubs, is_any_hub, is_hub_for, own_hubs};
pub(crate) use self::route::count_per_node;
pub use self::route::{
    MAX_READY, ROUTE_NODES, Route, backend_fault, backends, ready_counts, route,
};
pub use self::standing::{LinkReach, SourceRank, StandingTarget, standing_targets, view_sources};

#[cfg(test)]
mod tests;
