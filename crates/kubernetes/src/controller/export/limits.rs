//! Limits of what can be announced to other clusters, and of one namespace's share of it.
//!
//! A reader skips a message that exceeds a bound of the wire format, and a view has a number of
//! places for all namespaces together. So exports beyond a limit are left out here, where their
//! owner can be told, and in an order in which a new export never takes a place that is taken.
//! [`super::quota`] bounds what those that are left take together.

use std::collections::{BTreeMap, BTreeSet};

use adit_core::announce;
use adit_core::name::{ClusterName, ServiceName};
use adit_core::policy::Grant;
use adit_core::snapshot::{Class, Export, ExportPort, Hop};
use adit_core::wire::state::message::{MAX_GRANTS, MAX_PORTS};
use adit_core::wire::state::{MAX_EXPORTS, MAX_MESSAGE_LEN};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::offer::{ExportDecisions, ExportOffer, ExportOrigin};
use super::quota::{CLUSTER_BYTES, NAMESPACE_BYTES, NAMESPACE_GRANTS, NAMESPACE_PORTS};
use crate::api::{self, ServiceRef};
use crate::controller::cluster_state::ClusterState;
use crate::controller::conditions::ConditionVerdict;

/// Most Services of one namespace that are exported by labels and annotations, valid or not: a
/// fifth of what a cluster may export in all, and twice the thousand agents of a large namespace.
/// Four namespaces that use up their share leave a fifth to the rest. What the administrator named
/// does not count.
pub(crate) const NAMESPACE_EXPORTS: usize = 2_000;

/// Returns the reason why an export with these ports and grants could be announced to no cluster.
pub(crate) fn why_unannounceable(
    service: &ServiceName,
    ports: &[api::ExportPort],
    allow: &[Grant],
) -> Option<ConditionVerdict> {
    if ports.len() > MAX_PORTS {
        let message = format!(
            "{service} has {} TCP ports, and an export {MAX_PORTS} at most: divide them among Services",
            ports.len()
        );
        return Some(ConditionVerdict::bad("TooManyPorts", message));
    }
    let mut grants: BTreeMap<&ClusterName, usize> = BTreeMap::new();
    allow.iter().for_each(|grant| *grants.entry(&grant.cluster).or_default() += 1);
    if let Some((cluster, count)) = grants.iter().find(|(_, count)| **count > MAX_GRANTS) {
        let message = format!(
            "{service} has {count} grants for {cluster}, and an export {MAX_GRANTS} at most for each \
             cluster: write * for a namespace or ServiceAccount where one stands for many"
        );
        return Some(ConditionVerdict::bad("TooManyGrants", message));
    }
    let port = |port: &api::ExportPort| {
        let app_protocol = port.app_protocol.as_deref().map(str::parse).transpose();
        Some(ExportPort {
            name: port.name.parse().ok()?,
            number: port.number,
            app_protocol: app_protocol.ok()?,
            backends: Vec::new(),
            has_foreign: false,
        })
    };
    let export = Export {
        service: service.clone(),
        ports: ports.iter().filter_map(port).collect(),
        allow: allow.to_vec(),
        hop: Hop::Any,
        class: Class::Interactive,
        replay: false,
        probe: None,
        hold: None,
    };
    let cluster = grants.into_keys().find(|cluster| !announce::export_fits(&export, cluster))?;
    let message = format!(
        "{service} is too large to be told to {cluster}: {} KiB at most for names of ports, what they speak, \
         and grants together; write * where one grant stands for many",
        MAX_MESSAGE_LEN / 1024
    );
    Some(ConditionVerdict::bad("TooLarge", message))
}

/// Removes from `offers` what exceeds a limit, and records it in `exports`.
pub(crate) fn enforce_limits(
    offers: &mut BTreeMap<ServiceName, ExportOffer>,
    state: &ClusterState,
    exports: &mut ExportDecisions,
) {
    let named = offers.values().filter(|offer| offer.origin == ExportOrigin::Named).count();
    let kept = state.exports.values().filter(|stored| exports.keeps_stored(state, stored));
    let mut by_namespace: BTreeMap<String, usize> = BTreeMap::new();
    kept.for_each(|e| *by_namespace.entry(e.spec.service.namespace.clone()).or_default() += 1);
    let mut taken = named + by_namespace.values().sum::<usize>();
    for service in by_seniority(offers, state) {
        let strength = offers.get(&service).map(|offer| offer.origin);
        let here = by_namespace.entry(service.namespace.to_string()).or_default();
        let (most, whose) = match strength {
            // They were counted before all others.
            Some(ExportOrigin::Named) => continue,
            _ if *here >= NAMESPACE_EXPORTS => (NAMESPACE_EXPORTS, "a namespace"),
            _ if taken >= MAX_EXPORTS => (MAX_EXPORTS, "a cluster"),
            _ => {
                *here += 1;
                taken += 1;
                continue;
            }
        };
        let service = offers.remove(&service).map_or(service, |offer| offer.backend);
        let message = format!(
            "{service} is not exported: by labels and annotations {whose} exports {most} Services at most, those \
             that were exported first; take the label or annotation off others, or name this one in the \
             configuration (adit export)"
        );
        exports.left_out.insert(service, message);
    }
}

/// Returns the Services by priority: those that have a place first, then by age.
fn by_seniority(
    offers: &BTreeMap<ServiceName, ExportOffer>,
    state: &ClusterState,
) -> Vec<ServiceName> {
    let age = |service: &ServiceName| -> (bool, Option<Timestamp>) {
        let stored = state.exports.get(&ServiceRef::from(service).object_name());
        if let Some(export) = stored.filter(|export| !export.spec.ports.is_empty()) {
            return (false, export.creation_timestamp().map(|time| time.0));
        }
        let backend = offers.get(service).map_or(service, |offer| &offer.backend);
        let service = state.services.get(backend);
        (true, service.and_then(|s| s.creation_timestamp()).map(|time| time.0))
    };
    let mut all: Vec<ServiceName> = offers.keys().cloned().collect();
    all.sort_by_cached_key(|service| (age(service), service.clone()));
    all
}

/// Returns what was left out for lack of a place, in one line for the status.
pub(crate) fn describe_left_out(left_out: &BTreeMap<ServiceName, String>) -> Option<String> {
    let namespaces: BTreeSet<&str> = left_out.keys().map(|s| s.namespace.as_str()).collect();
    let first = *namespaces.first()?;
    let others = match namespaces.len() - 1 {
        0 => String::new(),
        others => format!(" and {others} other namespaces"),
    };
    Some(format!(
        "{} Services of namespace {first}{others} are not exported: by labels and annotations a namespace exports \
         {NAMESPACE_EXPORTS} at most, with {NAMESPACE_GRANTS} grants, {NAMESPACE_PORTS} ports and {} KiB of their \
         names, and a cluster {MAX_EXPORTS} in all, with {} KiB for each cluster that is told of them",
        left_out.len(),
        NAMESPACE_BYTES / 1024,
        CLUSTER_BYTES / 1024
    ))
}
