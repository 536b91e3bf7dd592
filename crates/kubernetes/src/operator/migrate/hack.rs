//! Recognises a lateral hack: slices that somebody wrote by hand, and the node ports of the other cluster that they lead to.

use std::collections::BTreeSet;

use adit_core::name::ServiceName;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::ListParams;

use super::record::{self, MigrationRecord, SavedNodePorts};
use super::{MigrationError, MigrationRequest, MigrationSides};
use crate::api::{Export, SLICE_CONTROLLER, SLICE_MANAGED_BY, ServiceRef};
use crate::operator::context::Context;
use crate::service::{do_all_leave, is_our_slice, why_unfillable};

/// The writer of slices that mirror an Endpoints object.
const MIRROR_CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// Most names in a sentence.
const MAX_NAMED: usize = 10;

/// Finds the hack, and what is to be known about it.
pub(super) async fn find(
    sides: &MigrationSides,
    request: &MigrationRequest,
) -> Result<(MigrationRecord, Vec<String>), MigrationError> {
    let service = &request.service;
    let refused = |context: &Context, what: String, hint: &str| MigrationError::Refused {
        context: context.name.clone(),
        what,
        hint: hint.to_owned(),
    };
    let (from, to) = (&sides.exporting, &sides.importing);
    let round =
        "--from-context is the cluster whose pods answer, --to-context the one whose pods call";
    let Some(here) = read_service(to, service).await? else {
        return Err(refused(to, format!("there is no Service {service}"), round));
    };
    let Some(there) = read_service(from, service).await? else {
        return Err(refused(from, format!("there is no Service {service}"), round));
    };
    if let Some(why) = why_unfillable(&here) {
        let hint = "an import needs a Service with a cluster IP of that name";
        return Err(refused(to, format!("{service} cannot stand for an import: {why}"), hint));
    }
    let own_slices = hand_written(service, to.slices_of(service).await?)
        .map_err(|(what, hint)| refused(to, what, hint))?;
    let kept = record::read(to, service).await?;
    let Some(slices) = originals(own_slices, kept.as_ref()) else {
        let hand_written_there = hand_written(service, from.slices_of(service).await?);
        let swapped = hand_written_there.is_ok_and(|slices| !slices.is_empty());
        let hint = if swapped {
            "one does in the other context: exchange --from-context and --to-context"
        } else {
            "`adit export` and `adit import` are all that is needed"
        };
        let what = format!(
            "no EndpointSlice that somebody wrote fills {service}: there is nothing to migrate from"
        );
        return Err(refused(to, what, hint));
    };
    require_callers(sides, request).await?;
    let nodes: Vec<Node> = from.list(&ListParams::default(), "Nodes").await?;
    let (led_to, mut notes) = node_ports(&there, &slices, &addresses(&nodes));
    notes.extend(strangers(to, request).await?);
    let node_ports = led_to.or_else(|| kept.and_then(|kept| kept.node_ports));
    Ok((MigrationRecord { slices, node_ports }, notes))
}

/// Refuses if nobody would be allowed to use the export.
async fn require_callers(
    sides: &MigrationSides,
    request: &MigrationRequest,
) -> Result<(), MigrationError> {
    let (service, context) = (&request.service, &sides.exporting);
    if !request.allow.is_empty() {
        return Ok(());
    }
    let name = ServiceRef::from(service).object_name();
    let export = context.cluster_api::<Export>().get_opt(&name).await;
    let export = export.map_err(context.request_error(&format!("read Export {name}")))?;
    if export.is_some_and(|export| !export.spec.allow.is_empty()) {
        return Ok(());
    }
    Err(MigrationError::Refused {
        context: context.name.clone(),
        what: format!("nobody may use {service} yet; through the node port everybody could"),
        hint: "--allow SERVICEACCOUNT,… names the callers; \"*\" is any of the Service's namespace, \"*/*\" any at all"
            .to_owned(),
    })
}

/// Returns the slices as they were in service: those that somebody has just written, else those that were kept.
fn originals(
    found: Vec<EndpointSlice>,
    kept: Option<&MigrationRecord>,
) -> Option<Vec<EndpointSlice>> {
    let kept = kept.map(|kept| kept.slices.clone()).unwrap_or_default();
    let mut all: Vec<EndpointSlice> = Vec::new();
    for mut slice in found {
        let before = kept.iter().find(|one| one.name_any() == slice.name_any());
        let leaves = do_all_leave(&slice);
        match before {
            Some(before) if leaves => slice = before.clone(),
            _ => {
                // Somebody put them on their way out, and nothing says how they were: as any that serve.
                for endpoint in slice.endpoints.iter_mut().filter(|_| leaves) {
                    endpoint.conditions = None;
                }
                let name = Some(slice.name_any());
                let namespace = slice.namespace();
                let (labels, annotations) = (slice.metadata.labels, slice.metadata.annotations);
                slice.metadata = Default::default();
                slice.metadata.name = name;
                slice.metadata.namespace = namespace;
                slice.metadata.labels = labels;
                slice.metadata.annotations = annotations;
            }
        }
        all.push(slice);
    }
    if all.is_empty() {
        all = kept;
    }
    (!all.is_empty()).then_some(all)
}

async fn read_service(
    context: &Context,
    service: &ServiceName,
) -> Result<Option<Service>, MigrationError> {
    let services = context.namespaced_api::<Service>(service.namespace.as_str());
    let found = services.get_opt(service.name()).await;
    Ok(found.map_err(context.request_error(&format!("read Service {service}")))?)
}

/// Returns the slices with endpoints that somebody wrote by hand; or what is in the way, and how to get on.
fn hand_written(
    service: &ServiceName,
    slices: Vec<EndpointSlice>,
) -> Result<Vec<EndpointSlice>, (String, &'static str)> {
    let mut found = Vec::new();
    for slice in slices.into_iter().filter(|s| !s.endpoints.is_empty() && !is_our_slice(s)) {
        let name = slice.name_any();
        match slice.labels().get(SLICE_MANAGED_BY.0).map(String::as_str) {
            Some(SLICE_CONTROLLER) => {
                let what = format!("{service} has pods of its own (EndpointSlice {name})");
                return Err((
                    what,
                    "--to-context is the cluster whose pods call; one that has pods of the Service serves itself",
                ));
            }
            Some(MIRROR_CONTROLLER) => {
                let what = format!(
                    "EndpointSlice {name} mirrors an Endpoints object, and Kubernetes would write it back"
                );
                return Err((
                    what,
                    "write the same addresses into an EndpointSlice of your own, delete the Endpoints, and run this again",
                ));
            }
            _ => found.push(slice),
        }
    }
    Ok(found)
}

fn addresses(nodes: &[Node]) -> BTreeSet<String> {
    let all = nodes.iter().filter_map(|node| node.status.as_ref()?.addresses.as_ref());
    all.flatten().map(|address| address.address.clone()).collect()
}

/// Returns the node ports of the exporting Service if the slices lead to them, and what else is to be known of where they lead.
fn node_ports(
    service: &Service,
    slices: &[EndpointSlice],
    nodes: &BTreeSet<String>,
) -> (Option<SavedNodePorts>, Vec<String>) {
    let saved = SavedNodePorts::of(service);
    let numbers: BTreeSet<i32> = saved.iter().flat_map(|s| s.ports.values().copied()).collect();
    let (mut leads, mut elsewhere) = (false, BTreeSet::new());
    for slice in slices {
        let ports: Vec<i32> = slice.ports.iter().flatten().filter_map(|port| port.port).collect();
        for address in slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
            for port in &ports {
                if nodes.contains(address) && numbers.contains(port) {
                    leads = true;
                } else {
                    elsewhere.insert(format!("{address}:{port}"));
                }
            }
        }
    }
    let mut notes = Vec::new();
    if !elsewhere.is_empty() {
        notes.push(format!(
            "{} is no node port of that Service; whatever passes traffic on from there stays as it is",
            listed(elsewhere)
        ));
    }
    if saved.is_some() && !leads {
        notes.push("the Service's own node port stays: the slices do not lead to it".to_owned());
    }
    (saved.filter(|_| leads), notes)
}

/// Returns a note about pods of the Service's namespace that may call today and are not among the allowed.
async fn strangers(
    context: &Context,
    request: &MigrationRequest,
) -> Result<Option<String>, MigrationError> {
    if request.allow.is_empty() {
        return Ok(None);
    }
    let namespace = &request.service.namespace;
    let pods = context.namespaced_api::<Pod>(namespace.as_str()).list(&ListParams::default()).await;
    let pods = pods.map_err(context.request_error(&format!("list Pods of {namespace}")))?.items;
    let accounts = pods.iter().filter_map(|pod| pod.spec.as_ref()?.service_account_name.clone());
    let accounts: BTreeSet<String> = accounts.collect();
    let allowed = |account: &String| {
        account.parse().is_ok_and(|account| {
            request.allow.iter().any(|pattern| {
                pattern.namespace.matches(namespace) && pattern.service_account.matches(&account)
            })
        })
    };
    let others: BTreeSet<String> =
        accounts.into_iter().filter(|account| !allowed(account)).collect();
    Ok((!others.is_empty()).then(|| {
        format!(
            "pods of namespace {namespace} with ServiceAccount {} may call today, and will be refused: --allow names whoever does call",
            listed(others)
        )
    }))
}

fn listed(names: BTreeSet<String>) -> String {
    let more = names.len().saturating_sub(MAX_NAMED);
    let mut text = names.into_iter().take(MAX_NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
