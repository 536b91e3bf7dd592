//! The rules by which a Service and its EndpointSlices are read, the same for controller, nodes and commands.

use adit_core::text::shorten;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;

use crate::api::SLICE_MANAGED_BY;

/// The longest text of a selector, in bytes: it is a tenant's.
const MAX_SELECTOR_LEN: usize = 200;

/// Returns the TCP ports of a Service.
pub(crate) fn tcp_ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    ports.iter().filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP")
}

/// Returns the reason why a Service can be neither exported nor imported.
pub(crate) fn why_unusable(service: &Service) -> Option<&'static str> {
    let spec = service.spec.as_ref()?;
    (spec.type_.as_deref() == Some("ExternalName")).then_some("it is an ExternalName")
}

/// Returns the reason why endpoints of ours cannot be put into a Service.
pub(crate) fn why_unfillable(service: &Service) -> Option<&'static str> {
    let headless = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None");
    // Its clients would connect to the addresses in our slice with the Service's port, not with
    // ours.
    why_unusable(service).or_else(|| headless.then_some("it has no cluster IP"))
}

/// Returns the labels by which a Service selects pods, as `kubectl get --selector` takes them, cut if it is long; `None`
/// if it selects none.
pub(crate) fn selector_text(service: &Service) -> Option<String> {
    let selector = service.spec.as_ref()?.selector.as_ref()?;
    let all: Vec<_> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let text = all.join(",");
    (!text.is_empty()).then(|| shorten(&text, MAX_SELECTOR_LEN).into_owned())
}

/// Returns whether we wrote this slice.
pub(crate) fn is_our_slice(slice: &EndpointSlice) -> bool {
    slice.labels().get(SLICE_MANAGED_BY.0).is_some_and(|v| v == SLICE_MANAGED_BY.1)
}

/// Returns whether an endpoint is ready. A missing value means that it is (EndpointConditions).
pub(crate) fn is_endpoint_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_none_or(|c| c.ready != Some(false))
}

/// Returns whether somebody takes all endpoints of a slice out of service.
pub(crate) fn do_all_leave(slice: &EndpointSlice) -> bool {
    slice.endpoints.iter().all(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.is_some_and(|c| c.ready == Some(false) && c.terminating == Some(true))
    })
}
