//! Plans Link objects: one for each configured link, with its state.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use adit_config::cluster::ClusterLink;
use adit_core::routing::links::dialable_addresses;
use adit_core::snapshot::{ClusterView, Seed};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::ResourceExt;

use super::{
    ObjectChange, PlanHistory, PlanInput, PlannedWrite, WritePlan, node_reports, owned_metadata,
};
use crate::api::{Link, LinkSpec, Status};
use crate::controller::cluster_state::ClusterState;
use crate::controller::conditions;
use crate::controller::debounce::Debounced;
use crate::controller::exports::ConditionVerdict;
use crate::controller::imports::ImportDecisions;

/// Time that a cluster that was never heard may take, from when its link is known, until that is a
/// warning: the first connection takes its time.
const FIRST_CONTACT_TIMEOUT: Duration = Duration::from_secs(60);
/// Most addresses that are learned of one cluster.
const MAX_ADDRESSES: usize = 16;

pub(super) fn plan_links(
    world: &ClusterState,
    now: &PlanInput<'_>,
    imports: &ImportDecisions,
    memory: &mut PlanHistory,
    plan: &mut WritePlan,
) {
    let configured = &now.config.links;
    memory.links.retain(|cluster, _| configured.iter().any(|l| l.cluster == *cluster));
    for link in configured {
        plan_link(world, now, (link, imports), memory, plan);
    }
    for (name, stored) in &world.links {
        if !configured.iter().any(|l| l.cluster.as_str() == name) {
            plan.writes.push(PlannedWrite::Link(ObjectChange::Delete(stored.clone())));
        }
    }
}

/// Returns addresses at which to find that cluster when nothing else is known any more: one of each
/// of its nodes in turn. They become seeds, which are dialled without further checks, so only
/// addresses are taken that would be dialled anyway.
fn learned_addresses(view: &ClusterView, configured: &[Seed]) -> Vec<SocketAddr> {
    let nodes: Vec<Vec<SocketAddr>> =
        view.nodes.values().map(|announced| dialable_addresses(announced, configured)).collect();
    let most = nodes.iter().map(Vec::len).max().unwrap_or_default();
    let mut seen = BTreeSet::new();
    let in_turn = (0..most).flat_map(|n| nodes.iter().filter_map(move |node| node.get(n)));
    in_turn.copied().filter(|address| seen.insert(*address)).take(MAX_ADDRESSES).collect()
}

fn plan_link(
    world: &ClusterState,
    now: &PlanInput<'_>,
    (link, imports): (&ClusterLink, &ImportDecisions),
    memory: &mut PlanHistory,
    plan: &mut WritePlan,
) {
    let name = link.cluster.as_str();
    let stored = world.links.get(name);
    let conditions = Status::conditions(stored.and_then(|l| l.status.as_ref()));
    let before = conditions::find(conditions, "Up");

    let live = now.peers.observed(&link.cluster).map(|heard| heard.live);
    let (steady, since) = memory
        .links
        .entry(link.cluster.clone())
        .or_insert_with(|| (Debounced::new(before.is_some_and(|c| c.status == "True")), now.at));
    plan.wake_at(steady.observe(live, now.at));
    let since = *since;
    let why = node_reports::all_nodes_down(now, name);
    // The view of that cluster may be lost before any node was asked for the reason.
    let is_vague = why.is_none();
    let up = if let Some(why) = why.filter(|_| now.peers.reporting) {
        Some(why)
    } else if steady.value() {
        Some(ConditionVerdict::good("LinkUp", format!("nodes of ours hear {name}")))
    } else if now.peers.reporting {
        Some(ConditionVerdict::bad("LinkDown", format!("no node of ours hears {name}")))
    } else if before.is_none() {
        Some(ConditionVerdict::bad("NotReporting", "no node of ours has told what it hears yet"))
    } else {
        None
    };

    let mut addresses = stored.map(|l| l.spec.addresses.clone()).unwrap_or_default();
    if let Some(view) = now.peers.live_view(&link.cluster) {
        let learned = learned_addresses(view, &link.addresses);
        if !learned.is_empty() {
            addresses = learned.iter().map(ToString::to_string).collect();
        }
    }
    // Removes what an earlier version accepted, too.
    addresses
        .retain(|a| a.parse().is_ok_and(|a| !dialable_addresses(&[a], &link.addresses).is_empty()));
    let spec = LinkSpec { trust_domain: link.trust_domain.to_string(), addresses };
    let Some(stored) = stored else {
        let object = Link { metadata: owned_metadata(world, name), spec, status: None };
        plan.writes.push(PlannedWrite::Link(ObjectChange::Create(Box::new(object))));
        return;
    };
    if stored.spec != spec {
        let object = Link { spec, ..(**stored).clone() };
        plan.writes.push(PlannedWrite::Link(ObjectChange::Replace(Box::new(object))));
        return;
    }

    let configured = match now.trouble {
        None => ConditionVerdict::good("Configured", "the configuration as written is in use"),
        Some(trouble) => ConditionVerdict::bad(
            "BadConfiguration",
            format!("the last good configuration is in use; as written it cannot be: {trouble}"),
        ),
    };
    let generation = stored.metadata.generation;
    let clock = now.timestamp();
    let mut fresh = conditions::set(conditions, "Configured", &configured, generation, &clock);
    let about = || ObjectReference {
        api_version: Some("adit.dev/v1alpha1".into()),
        kind: Some("Link".into()),
        name: Some(name.into()),
        uid: stored.uid(),
        ..ObjectReference::default()
    };
    let told = |kind, is_vague| {
        let object = format!("Link {name}");
        node_reports::NodeCondition { object, generation, kind, is_vague, now }
    };
    if let Some(up) = up {
        fresh = told("Up", is_vague && !up.good).apply(&fresh, Some(&up), memory, plan);
        let is_down = !up.good && up.reason != "NotReporting";
        if is_down && (live.is_some() || now.at >= since + FIRST_CONTACT_TIMEOUT) {
            plan.warn(about(), up.reason, &up.message);
        }
    }
    let not_all = node_reports::some_nodes_down(now, name);
    fresh = told("NodesDown", false).apply(&fresh, not_all.as_ref(), memory, plan);
    if let Some(not_all) = &not_all {
        plan.warn(about(), not_all.reason, &not_all.message);
    }
    fresh = match imports.left_out.get(&link.cluster) {
        None => conditions::clear(&fresh, "TooManyImports"),
        Some(left_out) => {
            let (reason, message) = left_out.verdict(&link.cluster);
            plan.warn(about(), reason, &message);
            let verdict = ConditionVerdict::good(reason, message);
            conditions::set(&fresh, "TooManyImports", &verdict, generation, &clock)
        }
    };
    fresh = match imports.unused.get(&link.cluster) {
        None => conditions::clear(&fresh, "NotImported"),
        Some(message) => {
            let verdict = ConditionVerdict::good("NotImported", message);
            conditions::set(&fresh, "NotImported", &verdict, generation, &clock)
        }
    };
    if fresh != conditions {
        let status = Some(Status { conditions: fresh });
        let object = Link { status, ..(**stored).clone() };
        plan.writes.push(PlannedWrite::Link(ObjectChange::Status(Box::new(object))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learned_is_of_all_nodes_and_nothing_that_lies_near() {
        let mut view = ClusterView::default();
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let many: Vec<SocketAddr> =
            (1..=20).map(|n| address(&format!("10.0.0.{n}:7843"))).collect();
        view.nodes.insert("a".parse().unwrap(), many);
        let near = ["127.0.0.1:7", "169.254.169.254:80", "10.0.1.1:7843"].map(address);
        view.nodes.insert("b".parse().unwrap(), near.to_vec());
        let configured = Seed::Address(address("10.0.0.1:7843"));
        let learned = learned_addresses(&view, &[configured]);
        assert_eq!(learned.len(), MAX_ADDRESSES);
        assert_eq!(learned[..2], ["10.0.0.1:7843", "10.0.1.1:7843"].map(address));
        assert!(learned.iter().all(|a| !a.ip().is_loopback()), "{learned:?}");
        assert!(!learned.contains(&address("169.254.169.254:80")), "{learned:?}");
    }
}
