//! The memory of what was served here: an import that ended without anybody here having said so.
//!
//! An Import that was ready once carries the condition [`SERVED`], which lasts as long as the object does, and so
//! outlives this controller. While its Service is there too, such an import stays listed when its export is
//! withdrawn: not ready, with the reason, its address and its metric. Whoever deletes the Service or the Import,
//! closes the namespace to the link, or removes the link, says that it is wanted no longer.

use kube::ResourceExt;

use adit_core::name::ServiceName;

use super::super::cluster_state::ClusterState;
use super::super::conditions;
use crate::api::{Import, Status};

/// The condition of an Import that was ready once.
pub(in super::super) const SERVED: &str = "Served";
/// The most withdrawn imports of one cluster that stay listed, the oldest: a cluster that exports and withdraws one
/// name after the other gets no more than these, and pushes out none that was there before.
pub(super) const MAX_KEPT: usize = 250;
/// The most ports that these have together.
pub(super) const MAX_KEPT_PORTS: usize = 2 * MAX_KEPT;

/// True if requests were served through this import at some time.
pub(in super::super) fn was_ready(import: &Import) -> bool {
    let conditions = Status::conditions(import.status.as_ref());
    let is_true = |kind| conditions::find(conditions, kind).is_some_and(|c| c.status == "True");
    is_true(SERVED) || is_true("Ready")
}

/// True if an import that nobody exports to us any more stays listed.
pub(super) fn stays_listed(world: &ClusterState, service: &ServiceName) -> bool {
    world.services.contains_key(service) && world.import_of(service).is_some_and(was_ready)
}

/// These imports, the oldest first.
pub(super) fn oldest_first(
    world: &ClusterState,
    mut services: Vec<ServiceName>,
) -> Vec<ServiceName> {
    let age = |service: &ServiceName| {
        world.import_of(service).and_then(|import| import.creation_timestamp()).map(|time| time.0)
    };
    services.sort_by_cached_key(|service| (age(service), service.clone()));
    services
}
