//! Agents of kagent without pods, made for imports that ask for one: callers there can name only an Agent.
//!
//! They are made as soon as they are asked for, whatever the other cluster exports by then, so that they are there before
//! their callers. An Agent that somebody else made stays as it is.

use std::collections::BTreeMap;

use adit_core::name::ServiceName;

use super::decision::WantedImport;
use crate::api::MADE_FOR;
use crate::controller::cluster_state::ClusterState;
use crate::controller::kagent::KagentAgent;
use crate::controller::plan::{ObjectChange, PlannedWrite, WritePlan};
use crate::ownership::owned_metadata;

/// Plans the Agents that are wanted, and removes those that no longer are.
pub(crate) fn plan_agents(
    state: &ClusterState,
    wanted: &BTreeMap<ServiceName, WantedImport>,
    plan: &mut WritePlan,
) {
    let agents = &state.agents;
    if !agents.is_served {
        return;
    }
    for (service, want) in wanted {
        let Some(description) = &want.agent else { continue };
        let stub = stub(service, want, description, state);
        let change = match (agents.made.get(service), agents.all.contains_key(service)) {
            (Some(stored), _) if stored.spec != stub.spec => {
                let mut fixed = KagentAgent::clone(stored);
                fixed.spec = stub.spec;
                Some(ObjectChange::Replace(Box::new(fixed)))
            }
            (None, false) if state.namespaces.contains(service.namespace.as_str()) => {
                Some(ObjectChange::Create(Box::new(stub)))
            }
            (Some(_) | None, _) => None,
        };
        plan.writes.extend(change.map(PlannedWrite::Agent));
    }
    for (service, agent) in &agents.made {
        if wanted.get(service).is_none_or(|want| want.agent.is_none()) {
            plan.writes.push(PlannedWrite::Agent(ObjectChange::Delete(agent.clone())));
        }
    }
}

fn stub(
    service: &ServiceName,
    want: &WantedImport,
    description: &str,
    state: &ClusterState,
) -> KagentAgent {
    let (namespace, owner) = (service.namespace.as_str(), state.owner.as_ref());
    let mut metadata = owned_metadata(service.name(), Some(namespace), owner);
    metadata.annotations = Some([(MADE_FOR.into(), want.from.to_string())].into());
    KagentAgent::stub(metadata, description)
}
