//! Exports of Services of type ExternalName, as Knative makes them: they lead to another Service.
//!
//! The name is never resolved by DNS, which would let whoever may edit the Service have our nodes dial any
//! address. It has to be the name of a Service of this cluster in full, and its endpoints are dialled as
//! those of any export: never a node, a Service's address, a metadata service, or ourselves. It may be a
//! Service of another namespace, so only an administrator's export by name follows it. Whoever may edit
//! the ExternalName can lead it to any Service of the cluster but those of Kubernetes and ours.

use adit_core::name::ServiceName;
use k8s_openapi::api::core::v1::Service;

use super::offer::{ExportOffer, ExportOrigin};
use crate::api::NAMESPACE;
use crate::controller::cluster_state::ClusterState;
use crate::controller::conditions::ConditionVerdict;
use crate::service::why_unusable;

/// Returns the Service that an offered one leads to, if it is an ExternalName.
pub(crate) fn target(
    offer: &ExportOffer,
    state: &ClusterState,
) -> Result<Option<ServiceName>, ConditionVerdict> {
    let service = &offer.backend;
    let Some(name) = state.services.get(service).and_then(|object| external_name(object)) else {
        return Ok(None);
    };
    let refuse = |why: &str| {
        let message = format!("{service} cannot be exported: {why}");
        Err(ConditionVerdict::bad("UnsupportedService", message))
    };
    if offer.origin != ExportOrigin::Named {
        return refuse(
            "it is an ExternalName, which may lead to another namespace; an export by name (`adit export`) follows it",
        );
    }
    let Some(target) = parse_cluster_name(name) else {
        return refuse(
            "it is an ExternalName, and leads to no Service of this cluster by its full name \
             (NAME.NAMESPACE.svc.cluster.local); other names are not followed",
        );
    };
    let namespace = target.namespace.as_str();
    if namespace.starts_with("kube-") || namespace == NAMESPACE {
        return refuse("it is an ExternalName, and leads to a Service of Kubernetes or of Adit");
    }
    match state.services.get(&target) {
        None => {
            let message = format!("{service} leads to {target}, and there is no such Service");
            Err(ConditionVerdict::bad("NoService", message))
        }
        Some(object) if why_unusable(object).is_some() => {
            refuse("it is an ExternalName that leads to another ExternalName")
        }
        Some(_) => Ok(Some(target)),
    }
}

fn external_name(object: &Service) -> Option<&str> {
    why_unusable(object)?;
    object.spec.as_ref().map(|spec| spec.external_name.as_deref().unwrap_or_default())
}

/// Parses `NAME.NAMESPACE.svc` or `NAME.NAMESPACE.svc.cluster.local`, with or without a dot at the end.
fn parse_cluster_name(text: &str) -> Option<ServiceName> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let text = text.strip_suffix(".cluster.local").unwrap_or(text).strip_suffix(".svc")?;
    let (name, namespace) = text.split_once('.')?;
    format!("{namespace}/{name}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_names_of_services_of_this_cluster_are_followed() {
        for good in ["b.a.svc", "b.a.svc.", "b.a.svc.cluster.local", "b.a.svc.cluster.local."] {
            assert_eq!(parse_cluster_name(good).unwrap().to_string(), "a/b", "{good}");
        }
        for bad in [
            "",
            "b",
            "b.a",
            "b.a.cluster.local",
            "b.a.svc.example.com",
            "c.b.a.svc",
            "example.com",
            "10.0.0.1",
            "169.254.169.254",
            "metadata.google.internal",
            "b.a.svc.cluster.local.evil.com",
            ".a.svc",
            "b..svc",
            "svc",
            ".svc",
        ] {
            assert_eq!(parse_cluster_name(bad), None, "{bad}");
        }
    }
}
