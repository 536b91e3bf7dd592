//! Imports whose export was withdrawn after it had been served here, without anybody here having
//! asked for that.
//!
//! An Import that was ready once carries the condition [`SERVED`], which lasts as long as the
//! object and so outlives this controller. While its Service exists too, such an import stays
//! listed after its export was withdrawn: not ready, with the reason, its address and its metric.
//! Deleting the Service or the Import, closing the namespace to the link, or removing the link says
//! that it is no longer wanted.

use kube::ResourceExt;

use adit_core::name::ServiceName;

use crate::api::{Import, ObjectStatus};
use crate::controller::cluster_state::ClusterState;
use crate::controller::conditions;

/// Condition of an Import that was ready once.
pub(crate) const SERVED: &str = "Served";
/// Most withdrawn imports of one cluster that stay listed, the oldest first: a cluster that exports
/// and withdraws one name after the other gets no more than these, and displaces none that was
/// there before.
pub(crate) const MAX_WITHDRAWN: usize = 250;
/// Most ports of these together.
pub(crate) const MAX_WITHDRAWN_PORTS: usize = 2 * MAX_WITHDRAWN;

/// Returns whether requests were once served through this import.
pub(crate) fn was_ready(import: &Import) -> bool {
    let conditions = ObjectStatus::conditions(import.status.as_ref());
    let is_true = |kind| conditions::find(conditions, kind).is_some_and(|c| c.status == "True");
    is_true(SERVED) || is_true("Ready")
}

/// Returns whether an import that is no longer exported to us stays listed.
pub(crate) fn stays_listed(state: &ClusterState, service: &ServiceName) -> bool {
    state.services.contains_key(service) && state.import_of(service).is_some_and(was_ready)
}

/// Sorts these imports, the oldest first.
pub(crate) fn oldest_first(
    state: &ClusterState,
    mut services: Vec<ServiceName>,
) -> Vec<ServiceName> {
    let age = |service: &ServiceName| {
        state.import_of(service).and_then(|import| import.creation_timestamp()).map(|time| time.0)
    };
    services.sort_by_cached_key(|service| (age(service), service.clone()));
    services
}
