//! The Service of an alias in the exporting cluster, so that one URL is valid in both clusters.
//!
//! It has the selector of the exported Service, so Kubernetes itself keeps its endpoints, also while
//! no controller of ours runs, and nothing of ours leads to addresses of pods. So it is of the same
//! namespace, and a Service without a selector gets none. An ExternalName would give clients another
//! name than the one they have certificates and Host headers for, and can change no port.

use std::collections::BTreeSet;
use std::sync::Arc;

use adit_core::name::ServiceName;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::offer::{ExportDecisions, ResolvedExport};
use crate::api::{ALIAS_OF, ExportPort};
use crate::controller::cluster_state::{ClusterState, is_alias};
use crate::controller::conditions::ConditionVerdict;
use crate::controller::plan::{ObjectChange, PlanInput, PlannedWrite, WritePlan};
use crate::ownership::owned_metadata;
use crate::service::tcp_ports;

/// Plans the Service of an alias. Returns whether it is there; `None` if none is wanted.
pub(crate) fn plan_alias(
    (state, input): (&ClusterState, &PlanInput<'_>),
    name: &ServiceName,
    export: &ResolvedExport,
    plan: &mut WritePlan,
) -> Option<ConditionVerdict> {
    if !export.make_alias || export.spec.ports.is_empty() {
        return None;
    }
    let wanted = match wanted_service(state, name, export) {
        Ok(wanted) => wanted,
        Err(why) => {
            let message = format!("no Service {name} is made here: {why}");
            return Some(ConditionVerdict::bad("AliasNotMade", message));
        }
    };
    let change = match state.services.get(name) {
        None => Some(ObjectChange::Create(Box::new(wanted))),
        Some(stored) => corrected(stored, wanted).map(|s| ObjectChange::Replace(Box::new(s))),
    };
    let change = change.map(PlannedWrite::Service);
    let failed = change.as_ref().and_then(|change| input.failing.get(&change.key()));
    let verdict = match failed {
        Some(why) => {
            let message = format!("Service {name} cannot be written: {why}");
            ConditionVerdict::bad("AliasNotWritten", message)
        }
        None => {
            let message = format!("Service {name} leads to the pods of {} here", export.backend);
            ConditionVerdict::good("AliasMade", message)
        }
    };
    plan.writes.extend(change);
    Some(verdict)
}

/// Plans the removal of Services that were made for aliases that nobody wants any more.
pub(crate) fn plan_removals(state: &ClusterState, exports: &ExportDecisions, plan: &mut WritePlan) {
    let wanted = exports.all.iter().filter(|(_, export)| export.make_alias);
    let wanted: BTreeSet<&ServiceName> = wanted.map(|(name, _)| name).collect();
    for (service, object) in &state.services {
        if is_alias(object) && !wanted.contains(service) {
            plan.writes.push(PlannedWrite::Service(ObjectChange::Delete(object.clone())));
        }
    }
}

/// Returns the Service as it should be, or the reason why there can be none.
fn wanted_service(
    state: &ClusterState,
    name: &ServiceName,
    export: &ResolvedExport,
) -> Result<Service, String> {
    let backend = &export.backend;
    if *name == *backend {
        return Err("that is the name of the exported Service itself".into());
    }
    if name.namespace != backend.namespace {
        return Err(format!(
            "it would select pods of its own namespace, and those of {backend} are in another"
        ));
    }
    if state.services.get(name).is_some_and(|stored| !is_alias(stored)) {
        return Err("there is one that Adit did not make".into());
    }
    let spec = state.services.get(backend).and_then(|service| service.spec.as_ref());
    let selector = spec.and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let Some(spec) = spec.filter(|_| !selector.is_empty()) else {
        return Err(format!("{backend} has no selector that it could have, too"));
    };
    let owner = state.owner.as_ref();
    let mut metadata = owned_metadata(name.name(), Some(name.namespace.as_str()), owner);
    metadata.annotations = Some([(ALIAS_OF.into(), backend.to_string())].into());
    let spec = ServiceSpec {
        selector: Some(selector),
        ports: Some(service_ports(spec, &export.spec.ports)),
        ip_family_policy: Some("PreferDualStack".into()),
        publish_not_ready_addresses: spec.publish_not_ready_addresses.filter(|publish| *publish),
        session_affinity: spec.session_affinity.clone(),
        ..ServiceSpec::default()
    };
    Ok(Service { metadata, spec: Some(spec), status: None })
}

/// Returns the exported ports: each leads to where the Service's port of that name leads.
fn service_ports(backend: &ServiceSpec, exported: &[ExportPort]) -> Vec<ServicePort> {
    let own = backend.ports.as_deref().unwrap_or_default();
    let port = |exported: &ExportPort| {
        let is_it = |own: &&ServicePort| own.name.as_deref().unwrap_or_default() == exported.name;
        let own = own.iter().find(is_it)?;
        Some(ServicePort {
            name: own.name.clone(),
            port: exported.number.into(),
            protocol: Some("TCP".into()),
            target_port: Some(target_port(own)),
            app_protocol: exported.app_protocol.clone(),
            ..ServicePort::default()
        })
    };
    exported.iter().filter_map(port).collect()
}

/// Returns the pods' port behind a port of a Service.
fn target_port(port: &ServicePort) -> IntOrString {
    port.target_port.clone().unwrap_or(IntOrString::Int(port.port))
}

/// Returns a Service of ours as it should be; `None` if it is so.
fn corrected(stored: &Arc<Service>, wanted: Service) -> Option<Service> {
    let face = |service: &Service| {
        let spec = service.spec.as_ref()?;
        let port =
            |p: &ServicePort| (p.name.clone(), p.port, target_port(p), p.app_protocol.clone());
        let of = service.metadata.annotations.as_ref().and_then(|all| all.get(ALIAS_OF));
        Some((
            spec.selector.clone(),
            tcp_ports(service).map(port).collect::<Vec<_>>(),
            spec.publish_not_ready_addresses.unwrap_or(false),
            spec.session_affinity.clone().unwrap_or_else(|| "None".into()),
            of.cloned(),
        ))
    };
    if face(stored) == face(&wanted) {
        return None;
    }
    let mut fixed = Service::clone(stored);
    let (spec, fresh) = (fixed.spec.get_or_insert_default(), wanted.spec.unwrap_or_default());
    spec.selector = fresh.selector;
    spec.ports = fresh.ports;
    spec.publish_not_ready_addresses = fresh.publish_not_ready_addresses;
    spec.session_affinity = fresh.session_affinity;
    fixed
        .metadata
        .annotations
        .get_or_insert_default()
        .extend(wanted.metadata.annotations.unwrap_or_default());
    Some(fixed)
}
