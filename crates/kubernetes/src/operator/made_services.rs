//! The Services that were made for imports, and which of them a change of the configuration
//! removes.
//!
//! The controller removes a Service that it made once nothing asks for it. Whoever takes one over
//! removes its label, so it is not among these.

use adit_config::cluster::{ClusterConfig, NamePattern};
use adit_core::name::{ClusterName, ServiceName};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::ListParams;

use super::context::{Context, ContextError};
use crate::api::{MADE_FOR, MANAGED_BY};

/// Lists the Services that were made for imports from `other` and that nobody took over since.
///
/// # Errors
/// If the cluster cannot be asked, or refuses.
pub async fn list_made_services(
    context: &Context,
    other: &ClusterName,
) -> Result<Vec<ServiceName>, ContextError> {
    let own_label = ListParams::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
    let services: Vec<Service> = context.list(&own_label, "Services").await?;
    let mut names: Vec<_> =
        services.iter().filter_map(|service| service_made_for(service, other)).collect();
    names.sort();
    Ok(names)
}

fn service_made_for(service: &Service, other: &ClusterName) -> Option<ServiceName> {
    let made_for = service.annotations().get(MADE_FOR)?;
    let is_theirs = service.owner_references().iter().any(|owner| owner.controller == Some(true));
    let named = || format!("{}/{}", service.namespace()?, service.name_any()).parse().ok();
    if made_for == other.as_str() && !is_theirs { named() } else { None }
}

/// Returns those of the Services `made` for imports from `other` that a configuration has no reason
/// to keep.
#[must_use]
pub fn unneeded_services(
    config: &ClusterConfig,
    other: &ClusterName,
    made: Vec<ServiceName>,
) -> Vec<ServiceName> {
    let link = config.links.iter().find(|link| link.cluster == *other);
    let is_wanted = |service: &ServiceName| {
        let by_link = link.is_some_and(|link| {
            link.create_services && NamePattern::any_matches(&link.import, &service.namespace)
        });
        by_link || config.imports.iter().any(|i| i.service == *service && i.create_service)
    };
    made.into_iter().filter(|service| !is_wanted(service)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_made_goes_unless_something_still_asks_for_it() {
        let bank = "bank".parse().unwrap();
        let service = |name: &str, cluster: &str, owner: bool| -> Service {
            let owners = json!([{"apiVersion": "v1", "kind": "Agent", "name": "a", "uid": "u", "controller": owner}]);
            let annotations = json!({MADE_FOR: cluster});
            serde_json::from_value(json!({
                "metadata": {"namespace": "team-a", "name": name, "annotations": annotations, "ownerReferences": owners}
            }))
            .unwrap()
        };
        assert!(service_made_for(&service("bot", "bank", false), &bank).is_some());
        assert!(service_made_for(&service("bot", "lab", false), &bank).is_none(), "another link's");
        assert!(
            service_made_for(&service("bot", "bank", true), &bank).is_none(),
            "an Agent took it over"
        );

        let left = |rest: &str| {
            let text = format!("cluster: edge\n{rest}");
            let config =
                adit_config::parse_cluster(&[("c.yaml".to_owned(), text)].into()).unwrap().0;
            let made = ["team-a/bot", "team-b/bot"].map(|name| name.parse().unwrap()).to_vec();
            let gone = unneeded_services(&config, &bank, made);
            gone.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let link = |import: &str| {
            format!(
                "links: [{{cluster: bank, trustDomain: b.example, trustBundle: x, import: {import}}}]\n"
            )
        };
        assert_eq!(left(&link("{namespaces: [\"team-*\"], createServices: true}")), "");
        assert_eq!(left(&link("{namespaces: [team-a], createServices: true}")), "team-b/bot");
        let kept = "imports: [{service: team-b/bot, from: bank}]\n";
        assert_eq!(left(&(link("{namespaces: [\"team-*\"]}") + kept)), "team-a/bot");
        assert_eq!(left(""), "team-a/bot team-b/bot", "there is no link any more");
    }
}
