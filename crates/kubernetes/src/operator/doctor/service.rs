//! A Service and what is behind it: its pods, their workloads, its slices, and others that lay claim to it.

use std::collections::BTreeMap;

use adit_core::doctor::facts::{PodFacts, PortFacts, ServiceFacts, SliceFacts};
use adit_core::name::ServiceName;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};

use super::if_readable;
use crate::api::SLICE_MANAGED_BY;
use crate::operator::context::{Context, ContextError};
use crate::operator::pod_state::is_pod_ready;
use crate::service::{is_endpoint_ready, is_our_slice, tcp_ports};

/// The most pods of a Service that are looked at, and the most endpoints whose address is told.
const MAX_PODS: usize = 50;
const MAX_ADDRESSES: usize = 8;
/// Prefixes of labels and annotations by which a mesh lays claim to a Service.
const MESH_PREFIXES: [&str; 4] =
    ["solo.io/", "networking.istio.io/", "multicluster.x-k8s.io/", "service.cilium.io/"];
/// The objects of other multi-cluster systems that have a Service's own name: group, version, kind, plural.
const NAMESAKES: [(&str, &str, &str, &str); 3] = [
    ("multicluster.x-k8s.io", "v1alpha1", "ServiceImport", "serviceimports"),
    ("multicluster.x-k8s.io", "v1alpha1", "ServiceExport", "serviceexports"),
    ("submariner.io", "v1", "GlobalIngressIP", "globalingressips"),
];

pub(super) async fn facts(
    context: &Context,
    name: &ServiceName,
) -> Result<Option<ServiceFacts>, ContextError> {
    let namespace = name.namespace.as_str();
    let read = context.namespaced_api::<Service>(namespace).get_opt(name.name()).await;
    let read = read.map_err(context.request_error(&format!("read Service {name}")))?;
    let Some(service) = read else { return Ok(None) };
    let spec = service.spec.clone().unwrap_or_default();
    let selector = spec.selector.clone().unwrap_or_default();
    let (pods, workloads) = if selector.is_empty() {
        (Vec::new(), Vec::new())
    } else {
        behind(context, namespace, &selector).await?
    };
    let target = |target: &IntOrString| match target {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    let ports = tcp_ports(&service).map(|port| PortFacts {
        name: port.name.clone().unwrap_or_default(),
        number: u16::try_from(port.port).unwrap_or_default(),
        target: port.target_port.as_ref().map(target).unwrap_or_default(),
    });
    Ok(Some(ServiceFacts {
        kind: spec.type_.unwrap_or_else(|| "ClusterIP".to_owned()),
        ports: ports.collect(),
        selector: selector_text(&selector),
        pods,
        workloads,
        meshes: meshes(context, name, &service).await?,
    }))
}

fn selector_text(selector: &BTreeMap<String, String>) -> String {
    let all: Vec<_> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    all.join(",")
}

/// The pods that a selector finds, and the workloads whose pods it would find.
async fn behind(
    context: &Context,
    namespace: &str,
    selector: &BTreeMap<String, String>,
) -> Result<(Vec<PodFacts>, Vec<(String, u32)>), ContextError> {
    let labelled = ListParams::default().labels(&selector_text(selector));
    let pods = context.namespaced_api::<Pod>(namespace).list(&labelled).await;
    let pods = if_readable(pods.map_err(context.request_error("list pods")))?;
    let pods = pods.into_iter().flat_map(|list| list.items);
    let living = pods.filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let pods = living.take(MAX_PODS).map(|pod| pod_facts(&pod)).collect();
    let selects = |template: &PodTemplateSpec| {
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        labels.is_some_and(|labels| selector.iter().all(|(k, v)| labels.get(k) == Some(v)))
    };
    let mut workloads = Vec::new();
    let all = ListParams::default();
    let deployments = context.namespaced_api::<Deployment>(namespace).list(&all).await;
    let deployments = if_readable(deployments.map_err(context.request_error("list Deployments")))?;
    for deployment in deployments.into_iter().flat_map(|list| list.items) {
        let spec = deployment.spec.as_ref();
        if spec.is_some_and(|spec| selects(&spec.template)) {
            let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
            workloads.push((format!("deployment/{}", deployment.name_any()), unsigned(replicas)));
        }
    }
    let sets = context.namespaced_api::<StatefulSet>(namespace).list(&all).await;
    let sets = if_readable(sets.map_err(context.request_error("list StatefulSets")))?;
    for set in sets.into_iter().flat_map(|list| list.items) {
        let spec = set.spec.as_ref();
        if spec.is_some_and(|spec| selects(&spec.template)) {
            let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
            workloads.push((format!("statefulset/{}", set.name_any()), unsigned(replicas)));
        }
    }
    Ok((pods, workloads))
}

fn unsigned(n: i32) -> u32 {
    u32::try_from(n).unwrap_or_default()
}

pub(super) fn pod_facts(pod: &Pod) -> PodFacts {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let containers = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let ports = containers.map(|port| PortFacts {
        name: port.name.clone().unwrap_or_default(),
        number: u16::try_from(port.container_port).unwrap_or_default(),
        target: String::new(),
    });
    let ready = is_pod_ready(pod);
    let namespace = pod.namespace().unwrap_or_default();
    PodFacts {
        name: format!("{namespace}/{}", pod.name_any()),
        service_account: spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned()),
        node: spec.node_name.clone().unwrap_or_default(),
        ip: status.pod_ip.clone(),
        host_network: spec.host_network == Some(true),
        ready,
        waiting: (!ready).then(|| waiting(pod)).flatten(),
        ports: ports.collect(),
    }
}

/// Returns why a pod is not ready: what one of its containers waits for, or else a condition.
fn waiting(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let states = status.container_statuses.iter().flatten().filter_map(|s| s.state.as_ref());
    let mut reasons = states.filter_map(|state| state.waiting.as_ref()?.reason.clone());
    reasons.next().or_else(|| {
        let bad = status.conditions.iter().flatten().find(|c| c.status == "False")?;
        let reason = bad.reason.clone().unwrap_or_else(|| bad.type_.clone());
        Some(
            bad.message
                .as_ref()
                .map_or_else(|| reason.clone(), |message| format!("{reason}: {message}")),
        )
    })
}

pub(super) async fn slices(
    context: &Context,
    service: &ServiceName,
) -> Result<Vec<SliceFacts>, ContextError> {
    Ok(context.slices_of(service).await?.iter().map(slice_facts).collect())
}

fn slice_facts(slice: &EndpointSlice) -> SliceFacts {
    let writer = slice.labels().get(SLICE_MANAGED_BY.0).cloned().unwrap_or_default();
    let of = slice.endpoints.iter();
    let count = of.clone().filter(|endpoint| is_endpoint_ready(endpoint)).count();
    let port = slice.ports.iter().flatten().find_map(|port| port.port).unwrap_or_default();
    let addresses = of.flat_map(|endpoint| &endpoint.addresses).map(|address| {
        if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    });
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    SliceFacts {
        name: slice.name_any(),
        is_ours: is_our_slice(slice),
        writer,
        ready: small(count),
        not_ready: small(slice.endpoints.len() - count),
        addresses: addresses.take(MAX_ADDRESSES).collect(),
    }
}

/// Others that lay claim to a Service: labels and annotations of meshes, and objects that name it.
async fn meshes(
    context: &Context,
    name: &ServiceName,
    service: &Service,
) -> Result<Vec<String>, ContextError> {
    let is_mesh = |key: &&String| MESH_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
    let labels = service.labels().iter().filter(|(key, _)| is_mesh(key));
    let mut found: Vec<_> = labels.map(|(key, value)| format!("label {key}={value}")).collect();
    let annotations = service.annotations().iter().filter(|(key, _)| is_mesh(key));
    found.extend(annotations.map(|(key, value)| format!("annotation {key}={value}")));
    for (group, version, kind, plural) in NAMESAKES {
        let resource = resource(group, version, kind, plural);
        let api: Api<DynamicObject> =
            Api::namespaced_with(context.client().clone(), name.namespace.as_str(), &resource);
        let read =
            api.get_opt(name.name()).await.map_err(context.request_error("read others' objects"));
        if if_readable(read)?.flatten().is_some() {
            found.push(format!("{kind} {name} of {group}"));
        }
    }
    let entries = resource("networking.istio.io", "v1", "ServiceEntry", "serviceentries");
    let api: Api<DynamicObject> = Api::all_with(context.client().clone(), &entries);
    let read = api.list(&ListParams::default()).await;
    let read = if_readable(read.map_err(context.request_error("list ServiceEntries")))?;
    let entries = read.into_iter().flat_map(|list| list.items);
    let host = format!("{}.{}", name.name(), name.namespace);
    found.extend(entries.filter(|entry| names(&entry.data, &host)).map(|entry| {
        format!(
            "ServiceEntry {}/{} of Istio",
            entry.namespace().unwrap_or_default(),
            entry.name_any()
        )
    }));
    Ok(found)
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// True if a ServiceEntry names this host.
fn names(entry: &serde_json::Value, host: &str) -> bool {
    let hosts = entry.pointer("/spec/hosts").and_then(serde_json::Value::as_array);
    let hosts = hosts.into_iter().flatten().filter_map(serde_json::Value::as_str);
    hosts.into_iter().any(|named| named == host || named.starts_with(&format!("{host}.")))
}
