//! kagent's Agents: what is read of them, and those without pods that are made for imports.
//!
//! The adapter is idle while the API server does not know the kind, and awake soon after it does. Of an Agent only
//! metadata, whether it runs without any pod, and the description are kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use adit_core::name::ServiceName;
use k8s_openapi::NamespaceResourceScope;
use kube::core::ObjectMeta;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::{MANAGED_BY, service_name};
use crate::store::Store;

/// API group of Agents.
pub(super) const GROUP: &str = "kagent.dev";
/// Version of the API that has Agents with a Service each (kagent 0.8 to 0.10).
const VERSION: &str = "v1alpha2";

/// An Agent of kagent, without what is not read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KagentAgent {
    #[serde(default = "api_version", skip_deserializing)]
    api_version: String,
    #[serde(default = "kind", skip_deserializing)]
    kind: String,
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: AgentSpec,
}

fn api_version() -> String {
    format!("{GROUP}/{VERSION}")
}

fn kind() -> String {
    "Agent".into()
}

impl Resource for KagentAgent {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        "Agent".into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        VERSION.into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        "agents".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl KagentAgent {
    /// Returns an Agent without pods.
    pub(super) fn stub(metadata: ObjectMeta, description: &str) -> Self {
        let spec = AgentSpec { without_pods: true, description: description.to_owned() };
        Self { api_version: api_version(), kind: kind(), metadata, spec }
    }
}

/// The part of an Agent's spec that is read. A spec of any shape can be read; an unknown one counts
/// as a default. It is written as that of an Agent of type BYO without pods.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Value", into = "Value")]
pub(super) struct AgentSpec {
    /// True if its Deployment has no pod (`replicas: 0`). Without that field it has one.
    pub(super) without_pods: bool,
    /// The text by which callers' models know it.
    description: String,
}

impl From<Value> for AgentSpec {
    fn from(spec: Value) -> Self {
        let kind = if spec["type"] == "BYO" { "byo" } else { "declarative" };
        let without_pods = spec[kind]["deployment"]["replicas"] == 0;
        let description = spec["description"].as_str().unwrap_or_default().to_owned();
        Self { without_pods, description }
    }
}

impl From<AgentSpec> for Value {
    fn from(spec: AgentSpec) -> Self {
        // The image is never pulled; kagent wants one.
        let deployment = json!({"image": "none", "replicas": 0});
        json!({"type": "BYO", "description": spec.description, "byo": {"deployment": deployment}})
    }
}

/// The cluster's Agents, by the Service that each makes.
#[derive(Debug, Clone, Default)]
pub(super) struct AgentState {
    /// Metadata of all.
    pub(super) all: BTreeMap<ServiceName, ObjectMeta>,
    /// Those that run without any pod.
    pub(super) without_pods: BTreeSet<ServiceName>,
    /// Those that were made for imports.
    pub(super) made: BTreeMap<ServiceName, Arc<KagentAgent>>,
    /// True if the API server knows the kind.
    pub(super) is_served: bool,
    /// True if Agents cannot be read: what they may ask for stays as it was.
    pub(super) is_unknown: bool,
}

impl AgentState {
    /// Reads the Agents.
    pub(super) fn read(store: &Store<KagentAgent>) -> Self {
        let mut state = Self {
            is_served: store.has_kind(),
            is_unknown: !store.was_listed(),
            ..Self::default()
        };
        for agent in store.objects() {
            let Some(service) = service_name(&agent.metadata, &agent.name_any()) else { continue };
            if agent.spec.without_pods {
                state.without_pods.insert(service.clone());
            }
            if agent.labels().get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1) {
                state.made.insert(service.clone(), agent.clone());
            }
            state.all.insert(service, agent.metadata.clone());
        }
        state
    }

    /// Returns whether kagent makes this Service, or is about to: none of ours may be in its way, which kagent would
    /// try to take over. `wants_agent`: an Agent of the name is asked for.
    pub(super) fn makes_service(&self, service: &ServiceName, wants_agent: bool) -> bool {
        self.is_served && (wants_agent || self.all.contains_key(service))
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(agent.spec, AgentSpec::default(), "an Agent without a spec can be read");
    }

    #[test]
    fn a_stub_is_read_as_it_is_written() {
        let metadata = ObjectMeta { name: Some("bot".into()), ..ObjectMeta::default() };
        let stub = KagentAgent::stub(metadata, "finds \"fraud\"");
        let written = serde_json::to_value(&stub).unwrap();
        let head = (&written["apiVersion"], &written["kind"]);
        assert_eq!(head, (&json!("kagent.dev/v1alpha2"), &json!("Agent")));
        assert_eq!(written["spec"]["byo"]["deployment"], json!({"image": "none", "replicas": 0}));
        assert_eq!(serde_json::from_value::<KagentAgent>(written).unwrap(), stub);
    }
}
