//! The local workloads that may use an import.
//!
//! A rule for an import may name them. Otherwise they are those of the Service's own namespace and
//! those that the link's `alsoAllow` names. Both are an operator's words; no annotation adds to
//! them.

use adit_config::cluster::{ClusterConfig, ImportRule};
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
    for pattern in link.iter().flat_map(|link| &link.also_allow) {
        let workloads = Workloads::from(pattern);
        if !all.contains(&workloads) {
            all.push(workloads);
        }
    }
    all
}
