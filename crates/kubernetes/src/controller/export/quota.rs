//! Quotas of what exports by labels and annotations take together: grants, ports and bytes.
//!
//! Each export is bounded by itself, and so is their number; the product of both is not. Every node holds all
//! Exports, and says all of their ports in its metrics; and an announcement has a number of bytes for all
//! namespaces together. What does not fit is left out here, where its owner is told, so that what is called
//! exported is announced. Who has a place keeps it: an export that grows asks anew for what it has not got.

use std::collections::{BTreeMap, BTreeSet};

use adit_core::announce;
use adit_core::name::ServiceName;
use adit_core::wire::state::{MAX_BYTES, memory_size};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::offer::ExportDecisions;
use crate::api::{self, ExportSpec, ServiceRef};
use crate::controller::cluster_state::ClusterState;

/// Most grants of the exports of one namespace: ten for each of the most Services that it exports.
pub(crate) const NAMESPACE_GRANTS: usize = 20_000;
/// Most ports of the exports of one namespace: four for each of the most Services that it exports.
pub(crate) const NAMESPACE_PORTS: usize = 8_000;
/// Most bytes of the exports of one namespace, as a node holds them.
pub(crate) const NAMESPACE_BYTES: usize = 4 << 20;
/// Most bytes of exports in the announcement to one cluster. The rest is for nodes, and for the counts of ready
/// backends, which change all the time and must not decide what is exported.
pub(crate) const CLUSTER_BYTES: usize = MAX_BYTES / 4 * 3;
/// Bytes of these that are kept for namespaces that have not got their equal share of them.
const RESERVED_BYTES: usize = CLUSTER_BYTES / 4;

/// Share of an export in what there is for all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct ExportCost {
    grants: usize,
    ports: usize,
    bytes: usize,
    /// Bytes of what each cluster is told.
    announced: BTreeMap<String, usize>,
}

impl ExportCost {
    fn of(spec: &ExportSpec) -> Self {
        let mut by_cluster: BTreeMap<&str, Vec<&api::Workloads>> = BTreeMap::new();
        for grant in &spec.allow {
            by_cluster.entry(&grant.cluster).or_default().push(&grant.workloads);
        }
        let clusters: usize =
            spec.allow.iter().map(|g| size_of::<String>() + g.cluster.len()).sum();
        Self {
            grants: spec.allow.len(),
            ports: spec.ports.len(),
            bytes: clusters + announced_size(spec, spec.allow.iter().map(|grant| &grant.workloads)),
            announced: by_cluster
                .into_iter()
                .map(|(cluster, grants)| {
                    (cluster.to_owned(), announced_size(spec, grants.into_iter()))
                })
                .collect(),
        }
    }

    /// Returns whether all of it is in what `other` has.
    fn is_within(&self, other: &Self) -> bool {
        let told =
            |(cluster, bytes): (&String, &usize)| other.announced.get(cluster) >= Some(bytes);
        (self.grants <= other.grants && self.ports <= other.ports && self.bytes <= other.bytes)
            && self.announced.iter().all(told)
    }
}

/// Returns the bytes of an export for a cluster with these grants.
fn announced_size<'a>(
    spec: &'a ExportSpec,
    grants: impl Iterator<Item = &'a api::Workloads>,
) -> usize {
    let service = [spec.service.namespace.as_str(), spec.service.name.as_str()];
    let ports = spec.ports.iter().map(|p| (p.name.as_str(), p.app_protocol.as_deref()));
    memory_size::unready_export(service, ports, grants.map(exact_names))
}

/// Returns the names of a grant; `None` for any.
fn exact_names(workloads: &api::Workloads) -> [Option<&str>; 2] {
    let names = [workloads.namespace.as_str(), workloads.service_account.as_str()];
    names.map(|name| Some(name).filter(|name| *name != "*"))
}

/// Grants, ports and bytes that are given away in one pass.
#[derive(Debug, Default)]
struct ExportRoom {
    /// Grants, ports and bytes by namespace.
    namespaces: BTreeMap<String, [usize; 3]>,
    announcements: BTreeMap<String, AnnouncementRoom>,
}

/// Bytes that are given away of the announcement to one cluster.
#[derive(Debug, Default)]
struct AnnouncementRoom {
    bytes: usize,
    by_namespace: BTreeMap<String, usize>,
    /// Namespaces that ask for some of it.
    asking: BTreeSet<String>,
}

impl ExportRoom {
    fn take(&mut self, namespace: &str, cost: &ExportCost) {
        let all = self.namespaces.entry(namespace.to_owned()).or_default();
        for (all, one) in all.iter_mut().zip([cost.grants, cost.ports, cost.bytes]) {
            *all += one;
        }
        self.take_announced(namespace, cost);
    }

    fn take_announced(&mut self, namespace: &str, cost: &ExportCost) {
        for (cluster, bytes) in &cost.announced {
            let room = self.announcements.entry(cluster.clone()).or_default();
            room.bytes += bytes;
            *room.by_namespace.entry(namespace.to_owned()).or_default() += bytes;
        }
    }

    /// Returns the reason why there is no room, as the end of a sentence.
    fn shortage(&self, one: &PlaceRequest<'_>) -> Option<String> {
        let (cost, namespace) = (&one.cost, one.service.namespace.as_str());
        let used = self.namespaces.get(namespace).copied().unwrap_or_default();
        let of_namespace = [
            (used[0] + cost.grants, NAMESPACE_GRANTS, "grants", 1),
            (used[1] + cost.ports, NAMESPACE_PORTS, "ports", 1),
            (used[2] + cost.bytes, NAMESPACE_BYTES, "KiB of names of ports and grants", 1024),
        ];
        for (wanted, most, what, unit) in of_namespace {
            if wanted > most {
                return Some(format!(
                    "the Services that a namespace exports have {} {what} at most, and with it they would have {}",
                    most / unit,
                    wanted.div_ceil(unit)
                ));
            }
        }
        let shortage = |(cluster, bytes): (&String, &usize)| {
            let room = self.announcements.get(cluster)?;
            let own = room.by_namespace.get(namespace).copied().unwrap_or_default() + bytes;
            let share = RESERVED_BYTES / room.asking.len().max(1);
            let most = if one.has_place || own <= share {
                CLUSTER_BYTES
            } else {
                CLUSTER_BYTES - RESERVED_BYTES
            };
            (room.bytes + bytes > most).then(|| {
                format!(
                    "{cluster} is told {} KiB of exports at most, of which {} KiB are kept in equal shares for \
                     namespaces that take less; {} KiB are taken, and it needs {}",
                    CLUSTER_BYTES / 1024,
                    RESERVED_BYTES / 1024,
                    room.bytes.div_ceil(1024),
                    bytes.div_ceil(1024)
                )
            })
        };
        cost.announced.iter().find_map(shortage)
    }
}

/// An export that asks for a place.
struct PlaceRequest<'a> {
    service: &'a ServiceName,
    cost: ExportCost,
    /// True if it has all of it already.
    has_place: bool,
    /// True if an Export stands for it.
    is_stored: bool,
    made: Option<Timestamp>,
}

/// Removes from `exports` what exceeds a quota, and records it there. What the administrator named is counted
/// where clusters are told of it, and never left out.
pub(crate) fn enforce_quotas(exports: &mut ExportDecisions, state: &ClusterState) {
    let mut room = ExportRoom::default();
    for stored in state.exports.values().filter(|stored| exports.keeps_stored(state, stored)) {
        room.take(&stored.spec.service.namespace, &ExportCost::of(&stored.spec));
    }
    let mut shortages = Vec::new();
    for one in in_order(exports, state, &mut room) {
        match room.shortage(&one) {
            None => room.take(one.service.namespace.as_str(), &one.cost),
            Some(why) => shortages.push((one.service.clone(), why)),
        }
    }
    for (service, why) in shortages {
        let resolved = exports.all.remove(&service);
        let service = resolved.map_or(service, |resolved| resolved.backend);
        let message = format!(
            "{service} is not exported: {why}; write * where one grant stands for many, take the label or \
             annotation off others, or name this one in the configuration (adit export)"
        );
        exports.left_out.insert(service, message);
    }
}

/// Returns what asks for a place: first those that have one, then namespaces in turns by what they take, within each
/// the older first. What the administrator named takes its room here.
fn in_order<'a>(
    exports: &'a ExportDecisions,
    state: &ClusterState,
    room: &mut ExportRoom,
) -> Vec<PlaceRequest<'a>> {
    let mut all = Vec::new();
    for (service, resolved) in &exports.all {
        let (cost, namespace) = (ExportCost::of(&resolved.spec), service.namespace.as_str());
        for cluster in cost.announced.keys() {
            let room = room.announcements.entry(cluster.clone()).or_default();
            room.asking.insert(namespace.to_owned());
        }
        if resolved.spec.any_endpoint {
            room.take_announced(namespace, &cost);
            continue;
        }
        let stored = state.exports.get(&ServiceRef::from(service).object_name());
        let made = match stored {
            Some(stored) => stored.creation_timestamp(),
            None => state.services.get(&resolved.backend).and_then(|s| s.creation_timestamp()),
        };
        all.push(PlaceRequest {
            service,
            has_place: stored.is_some_and(|stored| {
                stored.spec == resolved.spec || cost.is_within(&ExportCost::of(&stored.spec))
            }),
            is_stored: stored.is_some(),
            made: made.map(|time| time.0),
            cost,
        });
    }
    all.sort_by_key(|one| (!one.has_place, !one.is_stored, one.made));
    let mut all = announce::in_turns(all, |one| (&one.service.namespace, one.cost.bytes));
    all.sort_by_key(|one| !one.has_place);
    all
}

#[cfg(test)]
mod tests;
