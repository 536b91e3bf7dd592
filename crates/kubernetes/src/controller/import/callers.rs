//! The local workloads that may use an import.
//!
//! A rule for an import may name them. Otherwise they are those of the Service's own namespace,
//! those that the link's `alsoAllow` names, and those of `importCallers` for the namespace. All are an
//! operator's words; no annotation adds to them.

use adit_config::cluster::{ClusterConfig, ImportRule, NamePattern, NamespaceCallers};
use adit_core::name::{ClusterName, ServiceName};

use crate::api::Workloads;

/// Returns the callers that a rule names, or else the default ones.
pub(crate) fn callers_of_rule(config: &ClusterConfig, rule: &ImportRule) -> Vec<Workloads> {
    let named = rule.allow.as_ref().map(|allow| allow.iter().map(Into::into).collect());
    named.unwrap_or_else(|| default_callers(config, &rule.service, &rule.from))
}

/// Returns the callers of an import for which nobody named any.
pub(crate) fn default_callers(
    config: &ClusterConfig,
    service: &ServiceName,
    from: &ClusterName,
) -> Vec<Workloads> {
    let namespace = service.namespace.to_string();
    let mut all = vec![Workloads { namespace, service_account: "*".into() }];
    let link = config.links.iter().find(|link| link.cluster == *from);
    let of_link = link.iter().flat_map(|link| &link.also_allow);
    let is_here = |callers: &&NamespaceCallers| {
        NamePattern::any_matches(&callers.namespaces, &service.namespace)
    };
    let of_namespace = config.import_callers.iter().filter(is_here).flat_map(|c| &c.allow);
    for pattern in of_link.chain(of_namespace) {
        let workloads = Workloads::from(pattern);
        if !all.contains(&workloads) {
            all.push(workloads);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_and_a_namespace_say_once_who_may_use_their_imports() {
        let text = "cluster: edge\nlinks: [{cluster: bank, trustDomain: b.example, trustBundle: x, import: \
                    {alsoAllow: [{namespace: catalog, serviceAccount: a}]}}]\n\
                    importCallers: [{namespaces: [\"team*\"], allow: [{namespace: catalog, serviceAccount: a}, \
                    {namespace: rossoctl-system, serviceAccount: backend}]}]\n";
        let config = adit_config::parse_cluster(&[("c.yaml".to_owned(), text.to_owned())].into());
        let config = config.unwrap().0;
        let callers = |service: &str, from: &str| {
            let of = |w: Workloads| format!("{}/{}", w.namespace, w.service_account);
            let all = default_callers(&config, &service.parse().unwrap(), &from.parse().unwrap());
            all.into_iter().map(of).collect::<Vec<_>>()
        };
        let both = ["team1/*", "catalog/a", "rossoctl-system/backend"];
        assert_eq!(callers("team1/bot", "bank"), both);
        assert_eq!(callers("other/bot", "bank"), ["other/*", "catalog/a"]);
        assert_eq!(callers("team1/bot", "lab"), both, "of whatever comes there");
    }
}
