//! Plans Link objects: one for each configured link, with its state.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_config::cluster::{ClusterConfig, ClusterLink};
use adit_core::deny_list::is_cluster_denied;
use adit_core::name::ClusterName;
use adit_core::routing::dialable_addresses;
use adit_core::snapshot::{ClusterView, Seed};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::ResourceExt;
use tokio::time::Instant;

use super::cluster_state::ClusterState;
use super::conditions::{self, ConditionVerdict};
use super::debounce::Debounced;
use super::import::ImportDecisions;
use super::node_reports::{self, ReportedCondition, WordedTimes};
use super::plan::{ObjectChange, PlanInput, PlannedWrite, WritePlan};
use crate::api::{Condition, Link, LinkSpec, ObjectStatus};
use crate::interleave::interleave;
use crate::ownership::owned_metadata;

/// Time that a cluster that was never heard may take, from when its link is known, until that is a
/// warning: the first connection takes its time.
const FIRST_CONTACT_TIMEOUT: Duration = Duration::from_secs(60);
/// Most addresses that are learned of one cluster.
const MAX_ADDRESSES: usize = 16;

/// Readiness of each link, and the time from which it is known; kept from one plan to the next.
pub(super) type LinkHistory = BTreeMap<ClusterName, (Debounced, Instant)>;

pub(super) fn plan_links(
    state: &ClusterState,
    input: &PlanInput<'_>,
    imports: &ImportDecisions,
    (history, worded): (&mut LinkHistory, &mut WordedTimes),
    plan: &mut WritePlan,
) {
    let configured = &input.config.links;
    history.retain(|cluster, _| configured.iter().any(|l| l.cluster == *cluster));
    for link in configured {
        let stored = state.links.get(link.cluster.as_str());
        let subject = LinkSubject { state, input, link, stored };
        subject.plan(imports, (history, worded), plan);
    }
    for (name, stored) in &state.links {
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
    interleave(&nodes).take(MAX_ADDRESSES).collect()
}

/// Returns the verdict about everything that comes from a cluster which is denied as a whole: nodes have no link with it, and
/// say nothing of it.
pub(crate) fn denied_verdict(
    config: &ClusterConfig,
    cluster: &ClusterName,
) -> Option<ConditionVerdict> {
    let message = || format!("cluster {cluster} is denied by configuration (denied.clusters)");
    is_cluster_denied(&config.denied, cluster)
        .then(|| ConditionVerdict::bad("DeniedIdentity", message()))
}

/// A link and its object.
struct LinkSubject<'a> {
    state: &'a ClusterState,
    input: &'a PlanInput<'a>,
    link: &'a ClusterLink,
    stored: Option<&'a Arc<Link>>,
}

/// Findings about whether a link is up.
struct LinkReport {
    /// `None` keeps the condition that is there.
    verdict: Option<ConditionVerdict>,
    /// True if the cause is not known yet.
    is_vague: bool,
    /// True if a link that is down is worth a warning.
    is_due: bool,
}

impl LinkSubject<'_> {
    fn plan(
        &self,
        imports: &ImportDecisions,
        (history, worded): (&mut LinkHistory, &mut WordedTimes),
        plan: &mut WritePlan,
    ) {
        let report = self.report(history, plan);
        let spec = self.spec();
        let Some(stored) = self.stored else {
            let metadata =
                owned_metadata(self.link.cluster.as_str(), None, self.state.owner.as_ref());
            let object = Link { metadata, spec, status: None };
            plan.writes.push(PlannedWrite::Link(ObjectChange::Create(Box::new(object))));
            return;
        };
        if stored.spec != spec {
            let object = Link { spec, ..(**stored).clone() };
            plan.writes.push(PlannedWrite::Link(ObjectChange::Replace(Box::new(object))));
            return;
        }
        let before = ObjectStatus::conditions(stored.status.as_ref());
        let fresh = self.with_configured(before, stored);
        let fresh = self.with_nodes(&fresh, stored, report, worded, plan);
        let fresh = self.with_imports(&fresh, stored, imports, plan);
        if fresh != before {
            let status = Some(ObjectStatus { conditions: fresh });
            let object = Link { status, ..(**stored).clone() };
            plan.writes.push(PlannedWrite::Link(ObjectChange::Status(Box::new(object))));
        }
    }

    fn report(&self, history: &mut LinkHistory, plan: &mut WritePlan) -> LinkReport {
        let (input, cluster) = (self.input, &self.link.cluster);
        if let Some(verdict) = denied_verdict(input.config, cluster) {
            // What was heard before means nothing when it is denied no longer.
            history.remove(cluster);
            return LinkReport { verdict: Some(verdict), is_vague: false, is_due: true };
        }
        let conditions = ObjectStatus::conditions(self.stored.and_then(|l| l.status.as_ref()));
        let before = conditions::find(conditions, "Up");
        let live = input.peers.observed(cluster).map(|observed| observed.live);
        let (debounced, since) = history.entry(cluster.clone()).or_insert_with(|| {
            (Debounced::new(before.is_some_and(|c| c.status == "True")), input.at)
        });
        plan.wake_at(debounced.observe(live, input.at));
        let is_due = live.is_some() || input.at >= *since + FIRST_CONTACT_TIMEOUT;
        let why = node_reports::all_nodes_down(input, cluster.as_str());
        // The view of that cluster may be lost before any node was asked for the reason.
        let is_vague = why.is_none();
        let verdict = if let Some(why) = why.filter(|_| input.peers.reporting) {
            Some(why)
        } else if debounced.value() {
            Some(ConditionVerdict::good("LinkUp", format!("nodes of ours hear {cluster}")))
        } else if input.peers.reporting {
            Some(ConditionVerdict::bad("LinkDown", format!("no node of ours hears {cluster}")))
        } else if before.is_none() {
            let message = "no node of ours has told what it hears yet";
            Some(ConditionVerdict::bad("NotReporting", message))
        } else {
            None
        };
        LinkReport { verdict, is_vague, is_due }
    }

    fn spec(&self) -> LinkSpec {
        let configured = &self.link.addresses;
        let mut addresses = self.stored.map(|l| l.spec.addresses.clone()).unwrap_or_default();
        if let Some(view) = self.input.peers.live_view(&self.link.cluster) {
            let learned = learned_addresses(view, configured);
            if !learned.is_empty() {
                addresses = learned.iter().map(ToString::to_string).collect();
            }
        }
        // Removes what an earlier version accepted, too.
        let is_dialable = |a: SocketAddr| !dialable_addresses(&[a], configured).is_empty();
        addresses.retain(|address| address.parse().is_ok_and(is_dialable));
        LinkSpec { trust_domain: self.link.trust_domain.to_string(), addresses }
    }

    fn with_configured(&self, before: &[Condition], stored: &Link) -> Vec<Condition> {
        let verdict = match (self.input.trouble, self.input.bad_bundles.get(&self.link.cluster)) {
            (None, None) => {
                ConditionVerdict::good("Configured", "the configuration as written is in use")
            }
            (None, Some(error)) => ConditionVerdict::bad(
                "BadConfiguration",
                format!(
                    "the last good trust bundle and trust domain are in use; as written they cannot be: {error}"
                ),
            ),
            (Some(trouble), _) => ConditionVerdict::bad(
                "BadConfiguration",
                format!(
                    "the last good configuration is in use; as written it cannot be: {trouble}"
                ),
            ),
        };
        let (generation, clock) = (stored.metadata.generation, self.input.time());
        conditions::set(before, "Configured", &verdict, generation, &clock)
    }

    /// Adds the conditions about nodes' reports.
    fn with_nodes(
        &self,
        before: &[Condition],
        stored: &Link,
        report: LinkReport,
        worded: &mut WordedTimes,
        plan: &mut WritePlan,
    ) -> Vec<Condition> {
        let input = self.input;
        let condition = |kind, is_vague| ReportedCondition {
            object: format!("Link {}", self.link.cluster),
            generation: stored.metadata.generation,
            kind,
            is_vague,
            input,
        };
        let mut fresh = before.to_vec();
        let LinkReport { verdict, is_vague, is_due } = report;
        if let Some(up) = verdict {
            let condition = condition("Up", is_vague && !up.good);
            fresh = condition.apply(&fresh, Some(&up), worded, plan);
            if !up.good && up.reason != "NotReporting" && is_due {
                let cause = node_reports::cause_of(&up.message);
                plan.warn_of_cause(self.reference(stored), up.reason, &cause, &up.message);
            }
        }
        let some_down = node_reports::some_nodes_down(input, self.link.cluster.as_str());
        if let Some(verdict) = &some_down {
            let cause = node_reports::cause_of(&verdict.message);
            plan.warn_of_cause(self.reference(stored), verdict.reason, &cause, &verdict.message);
        }
        condition("NodesDown", false).apply(&fresh, some_down.as_ref(), worded, plan)
    }

    /// Adds the conditions about what the cluster exports and what is imported of it.
    fn with_imports(
        &self,
        before: &[Condition],
        stored: &Link,
        imports: &ImportDecisions,
        plan: &mut WritePlan,
    ) -> Vec<Condition> {
        let cluster = &self.link.cluster;
        let (generation, clock) = (stored.metadata.generation, self.input.time());
        let fresh = match imports.left_out.get(cluster) {
            None => conditions::clear(before, "TooManyImports"),
            Some(left_out) => {
                let (reason, message) = left_out.verdict(cluster);
                plan.warn(self.reference(stored), reason, &message);
                let verdict = ConditionVerdict::good(reason, message);
                conditions::set(before, "TooManyImports", &verdict, generation, &clock)
            }
        };
        match imports.unused.get(cluster) {
            None => conditions::clear(&fresh, "NotImported"),
            Some(message) => {
                let verdict = ConditionVerdict::good("NotImported", message);
                conditions::set(&fresh, "NotImported", &verdict, generation, &clock)
            }
        }
    }

    /// Returns the link as the object of an Event.
    fn reference(&self, stored: &Link) -> ObjectReference {
        ObjectReference {
            api_version: Some("adit.dev/v1alpha1".into()),
            kind: Some("Link".into()),
            name: Some(self.link.cluster.to_string()),
            uid: stored.uid(),
            ..ObjectReference::default()
        }
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
