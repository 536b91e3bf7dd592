//! The selectors and pods behind exports that no backend answers for.

use std::collections::{BTreeMap, BTreeSet};

use adit_core::name::ServiceName;
use adit_core::text::count_noun_is;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::api::{Export, ObjectStatus};
use crate::operator::context::{Context, ContextError};
use crate::service::{is_endpoint_ready, is_our_slice, selector_text};

/// Number of exports that are looked behind: each is two requests.
const MAX_EXPORTS: usize = 16;
/// Number of pods that are named.
const MAX_NAMED: usize = 3;

/// Describes what stands behind exports whose backends do not answer, by the name of the object; as far as it may be
/// read.
pub(super) async fn read_behind(context: &Context, exports: &[Export]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for export in exports.iter().filter(|export| is_unserved(export)).take(MAX_EXPORTS) {
        let Ok(service) = export.spec.backend().parse() else { continue };
        // What cannot be read is not told; the export's problem is, all the same.
        if let Ok(Some(text)) = describe_service(context, &service).await {
            found.insert(export.metadata.name.clone().unwrap_or_default(), text);
        }
    }
    found
}

fn is_unserved(export: &Export) -> bool {
    let mut conditions = ObjectStatus::conditions(export.status.as_ref()).iter();
    conditions.any(|one| one.type_ == "Ready" && one.status == "False")
}

async fn describe_service(
    context: &Context,
    name: &ServiceName,
) -> Result<Option<String>, ContextError> {
    let read =
        context.namespaced_api::<Service>(name.namespace.as_str()).get_opt(name.name()).await;
    let read = read.map_err(context.request_error(&format!("read Service {name}")))?;
    let Some(service) = read else { return Ok(None) };
    Ok(Some(describe(&service, &context.slices_of(name).await?)))
}

/// Describes the pods of a Service, by its slices.
fn describe(service: &Service, slices: &[EndpointSlice]) -> String {
    let selector = selector_text(service);
    let endpoints = slices.iter().filter(|slice| !is_our_slice(slice)).flat_map(|s| &s.endpoints);
    // A pod with addresses of both families is in two slices.
    let all: BTreeSet<(String, bool)> = endpoints
        .map(|endpoint| (describe_endpoint(endpoint), is_endpoint_ready(endpoint)))
        .collect();
    if all.is_empty() {
        return match selector {
            Some(selector) => format!("no pod matches its selector {selector}"),
            None => "its Service has no selector, and nobody gives it endpoints".to_owned(),
        };
    }
    let ready = all.iter().filter(|(_, ready)| *ready).count();
    let mut named: Vec<_> = all.iter().take(MAX_NAMED).map(|(name, _)| name.as_str()).collect();
    if all.len() > MAX_NAMED {
        named.push("others");
    }
    let pods = count_noun_is(ready as u64, "pod");
    let by = selector.map(|selector| format!(" with {selector}")).unwrap_or_default();
    format!("{pods} Ready, of {}{by}: {}", all.len(), named.join(", "))
}

/// `NAME at ADDRESS on NODE`, as far as that is known.
fn describe_endpoint(endpoint: &Endpoint) -> String {
    let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
    let address = endpoint.addresses.first().cloned().unwrap_or_default();
    let name = pod.map_or_else(|| address.clone(), |pod| format!("{pod} at {address}"));
    match &endpoint.node_name {
        Some(node) => format!("{name} on {node}"),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(selector: Option<&str>) -> Service {
        let selector = selector.map(|name| json!({"kagent": name}));
        serde_json::from_value(json!({"metadata": {"name": "b"}, "spec": {"selector": selector}}))
            .unwrap()
    }

    fn slice(family: &str, pods: &[(&str, bool)]) -> EndpointSlice {
        let endpoint = |(n, (pod, ready)): (usize, &(&str, bool))| {
            json!({"addresses": [format!("10.244.1.{n}")], "conditions": {"ready": ready}, "nodeName": "bank-1",
                "targetRef": {"kind": "Pod", "name": pod}})
        };
        let all: Vec<_> = pods.iter().enumerate().map(endpoint).collect();
        serde_json::from_value(
            json!({"metadata": {"name": family}, "addressType": family, "endpoints": all}),
        )
        .unwrap()
    }

    #[test]
    fn what_stands_behind_a_service_is_its_selector_and_its_pods() {
        let empty = slice("IPv4", &[]);
        let said = describe(&service(Some("fraud-bott")), std::slice::from_ref(&empty));
        assert_eq!(said, "no pod matches its selector kagent=fraud-bott");
        let said = describe(&service(None), &[]);
        assert_eq!(said, "its Service has no selector, and nobody gives it endpoints");
        let said = describe(
            &service(Some("b")),
            &[empty, slice("IPv4", &[("b-1", false), ("b-2", true)])],
        );
        assert_eq!(
            said,
            "1 pod is Ready, of 2 with kagent=b: b-1 at 10.244.1.0 on bank-1, b-2 at 10.244.1.1 on bank-1"
        );
        let many = slice("IPv4", &[("b-1", false), ("b-2", false), ("b-3", false), ("b-4", false)]);
        let said = describe(&service(Some("b")), &[many]);
        assert!(said.starts_with("0 pods are Ready, of 4 with kagent=b: b-1 at"), "{said}");
        assert!(said.ends_with("b-3 at 10.244.1.2 on bank-1, others"), "{said}");
    }
}
