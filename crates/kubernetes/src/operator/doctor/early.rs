//! Agents of kagent that were made before the import's Agent, which they name as a tool.
//!
//! Seen with kagent 0.9.12 and 0.10.0-rc3: such an Agent has condition `Accepted=False` with the name that was not found, and
//! no pod; it is looked at again only when a label of it or its spec changes.

use adit_core::doctor::facts::EarlyAgent;
use adit_core::name::ServiceName;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use serde_json::Value;

use super::if_readable;
use crate::operator::context::{Context, ContextError};

/// The longest reason of kagent that is told, in characters.
const MAX_MESSAGE_CHARS: usize = 200;

/// Returns the first Agent in the Service's namespace that names it, and was refused for that though it is there by now.
pub(super) async fn early_agent(
    context: &Context,
    service: &ServiceName,
) -> Result<Option<EarlyAgent>, ContextError> {
    let kind = ApiResource {
        group: "kagent.dev".to_owned(),
        version: "v1alpha2".to_owned(),
        api_version: "kagent.dev/v1alpha2".to_owned(),
        kind: "Agent".to_owned(),
        plural: "agents".to_owned(),
    };
    let namespace = service.namespace.as_str();
    let agents: Api<DynamicObject> =
        Api::namespaced_with(context.client().clone(), namespace, &kind);
    let listed = agents.list(&ListParams::default()).await;
    let listed = if_readable(listed.map_err(context.request_error("list Agents of kagent")))?;
    let all = listed.map(|list| list.items).unwrap_or_default();
    if !all.iter().any(|agent| agent.name_any() == service.name()) {
        return Ok(None);
    }
    let mut early = all.iter().filter_map(|agent| {
        let message = refused_for(&agent.data, namespace, service.name())?;
        Some(EarlyAgent {
            name: format!("{namespace}/{}", agent.name_any()),
            message: message.chars().take(MAX_MESSAGE_CHARS).collect(),
            version: agent.resource_version().unwrap_or_default(),
        })
    });
    Ok(early.next())
}

/// Returns why an Agent is not accepted, if that is the Agent `name` which it names as a tool.
fn refused_for<'a>(agent: &'a Value, namespace: &str, name: &str) -> Option<&'a str> {
    let list = |path: &str| agent.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let is_it = |tool: &Value| {
        let of = &tool["agent"];
        let elsewhere =
            of["namespace"].as_str().is_some_and(|ns| !ns.is_empty() && ns != namespace);
        of["name"] == name && !elsewhere
    };
    if !list("/spec/declarative/tools").any(is_it) {
        return None;
    }
    let is_refusal = |one: &&Value| one["type"] == "Accepted" && one["status"] == "False";
    let message = list("/status/conditions").find(is_refusal)?["message"].as_str()?;
    (message.contains("not found") && message.contains(&format!("\"{name}\""))).then_some(message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_agent_is_early_only_if_it_was_refused_for_the_tool_that_is_meant() {
        let agent = |tool: &Value, status: &str, message: &str| {
            json!({
                "spec": {"type": "Declarative", "declarative": {"tools": [{"type": "Agent", "agent": tool}]}},
                "status": {"conditions": [{"type": "Accepted", "status": status, "message": message}]},
            })
        };
        let (it, missing) =
            (json!({"name": "fraud-bot"}), "Agent.kagent.dev \"fraud-bot\" not found");
        let found = |agent: &Value| refused_for(agent, "agents", "fraud-bot").is_some();
        assert!(found(&agent(&it, "False", missing)));
        assert!(found(&agent(
            &json!({"name": "fraud-bot", "namespace": "agents"}),
            "False",
            missing
        )));
        assert!(!found(&agent(&it, "True", missing)), "it was accepted");
        assert!(!found(&agent(&it, "False", "ModelConfig \"m\" not found")), "for something else");
        assert!(!found(&agent(&json!({"name": "other-bot"}), "False", missing)), "another tool");
        let elsewhere = json!({"name": "fraud-bot", "namespace": "team"});
        assert!(!found(&agent(&elsewhere, "False", missing)), "in another namespace");
        assert!(!found(&json!("nonsense")));
    }
}
