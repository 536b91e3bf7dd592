//! Link objects: one for each configured link, with what was heard of it.

use std::collections::BTreeSet;

use adit_config::cluster::ClusterLink;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::ResourceExt;

use super::{Change, Memory, Now, Plan, Write, ours};
use crate::api::{Link, LinkSpec, LinkStatus};
use crate::controller::conditions;
use crate::controller::exports::Verdict;
use crate::controller::readiness::Steady;
use crate::controller::world::World;

/// The most addresses that are learned of one cluster.
const MOST_ADDRESSES: usize = 16;

pub(super) fn plan(world: &World, now: &Now<'_>, memory: &mut Memory, plan: &mut Plan) {
    let configured = &now.config.links;
    memory.links.retain(|cluster, _| configured.iter().any(|l| l.cluster == *cluster));
    for link in configured {
        one(world, now, link, memory, plan);
    }
    for (name, stored) in &world.links {
        if !configured.iter().any(|l| l.cluster.as_str() == name) {
            plan.writes.push(Write::Link(Change::Delete(stored.clone())));
        }
    }
}

fn one(world: &World, now: &Now<'_>, link: &ClusterLink, memory: &mut Memory, plan: &mut Plan) {
    let name = link.cluster.as_str();
    let stored = world.links.get(name);
    let conditions =
        stored.and_then(|l| l.status.as_ref()).map_or(&[][..], |s| s.conditions.as_slice());
    let before = conditions::find(conditions, "Up");

    let heard = now.peers.clusters.get(&link.cluster);
    // That nobody says anything of the cluster is no news about it.
    let live = heard.filter(|_| now.peers.reporting).map(|h| h.live);
    let steady = memory
        .links
        .entry(link.cluster.clone())
        .or_insert_with(|| Steady::new(before.is_some_and(|c| c.status == "True")));
    plan.wake_at(steady.see(live, now.at));
    let up = if steady.value() {
        Some(Verdict::good("LinkUp", format!("nodes of ours hear {name}")))
    } else if now.peers.reporting {
        Some(Verdict::bad("LinkDown", format!("no node of ours hears {name}")))
    } else if before.is_none() {
        Some(Verdict::bad("NotReporting", "no node of ours has told what it hears yet"))
    } else {
        None
    };

    let mut addresses = stored.map(|l| l.spec.addresses.clone()).unwrap_or_default();
    if let Some(heard) = heard.filter(|h| h.live && now.peers.reporting) {
        let all: BTreeSet<_> = heard.view.nodes.values().flatten().collect();
        if !all.is_empty() {
            addresses = all.into_iter().take(MOST_ADDRESSES).map(ToString::to_string).collect();
        }
    }
    let spec = LinkSpec { trust_domain: link.trust_domain.to_string(), addresses };
    let Some(stored) = stored else {
        let object = Link { metadata: ours(world, name), spec, status: None };
        plan.writes.push(Write::Link(Change::Create(Box::new(object))));
        return;
    };
    if stored.spec != spec {
        let object = Link { spec, ..(**stored).clone() };
        plan.writes.push(Write::Link(Change::Replace(Box::new(object))));
        return;
    }

    let configured = match now.trouble {
        None => Verdict::good("Configured", "the configuration as written is in use"),
        Some(trouble) => Verdict::bad(
            "BadConfiguration",
            format!("the last good configuration is in use; as written it cannot be: {trouble}"),
        ),
    };
    let generation = stored.metadata.generation;
    let clock = now.text();
    let mut fresh = conditions::set(conditions, "Configured", &configured, generation, &clock);
    if let Some(up) = up {
        fresh = conditions::set(&fresh, "Up", &up, generation, &clock);
        if up.reason == "LinkDown" {
            let about = ObjectReference {
                api_version: Some("adit.dev/v1alpha1".into()),
                kind: Some("Link".into()),
                name: Some(name.into()),
                uid: stored.uid(),
                ..ObjectReference::default()
            };
            plan.complain(about, up.reason, &up.message);
        }
    }
    if fresh != conditions {
        let status = Some(LinkStatus { conditions: fresh });
        let object = Link { status, ..(**stored).clone() };
        plan.writes.push(Write::Link(Change::Status(Box::new(object))));
    }
}
