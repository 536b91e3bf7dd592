//! The part of kagent's Agents that is read: their metadata, and whether they run without any pod.

use std::collections::{BTreeMap, BTreeSet};

use adit_core::name::ServiceName;
use kube::ResourceExt;
use kube::api::{ApiResource, GroupVersionKind};
use kube::core::{NotUsed, Object, ObjectMeta};
use serde::Deserialize;
use serde_json::Value;

use crate::api::service_name;
use crate::store::Store;

/// API group of Agents.
pub(super) const GROUP: &str = "kagent.dev";

/// An Agent of kagent, without what is not read.
pub(super) type KagentAgent = Object<Option<AgentSpec>, NotUsed>;

/// The part of an Agent's spec that is read. A spec of any shape can be read; an unknown one counts
/// as a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(from = "Value")]
pub(super) struct AgentSpec {
    /// True if its Deployment has no pod (`replicas: 0`). Without that field it has one.
    pub(super) without_pods: bool,
}

impl From<Value> for AgentSpec {
    fn from(spec: Value) -> Self {
        let kind = if spec["type"] == "BYO" { "byo" } else { "declarative" };
        Self { without_pods: spec[kind]["deployment"]["replicas"] == 0 }
    }
}

/// Returns the kind, as the API server knows it.
pub(super) fn agent_resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1alpha2", "Agent"), "agents")
}

/// Returns the metadata of all Agents by the Service that each makes, and those Agents that run
/// without any pod.
pub(super) fn read_agents(
    store: &Store<KagentAgent>,
) -> (BTreeMap<ServiceName, ObjectMeta>, BTreeSet<ServiceName>) {
    let (mut all, mut without_pods) = (BTreeMap::new(), BTreeSet::new());
    for agent in store.objects() {
        let Some(service) = service_name(&agent.metadata, &agent.name_any()) else { continue };
        if agent.spec.is_some_and(|spec| spec.without_pods) {
            without_pods.insert(service.clone());
        }
        all.insert(service, agent.metadata.clone());
    }
    (all, without_pods)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_replicas_that_are_zero_are_none() {
        for (spec, without_pods) in [
            (json!({"type": "BYO", "byo": {"deployment": {"replicas": 0}}}), true),
            (json!({"type": "Declarative", "declarative": {"deployment": {"replicas": 0}}}), true),
            (json!({"type": "Declarative", "byo": {"deployment": {"replicas": 0}}}), false),
            (json!({"type": "BYO", "byo": {"deployment": {"replicas": 1}}}), false),
            (json!({"type": "BYO", "byo": {"deployment": {}}}), false),
            (json!({"type": "BYO", "byo": {"deployment": {"replicas": "0"}}}), false),
            (json!("nonsense"), false),
        ] {
            assert_eq!(AgentSpec::from(spec.clone()).without_pods, without_pods, "{spec}");
        }
        let agent: KagentAgent =
            serde_json::from_value(json!({"metadata": {"name": "bot"}})).unwrap();
        assert_eq!(agent.spec, None, "an Agent without a spec can be read");
    }
}
