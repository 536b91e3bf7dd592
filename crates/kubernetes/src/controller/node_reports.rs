//! Conditions about nodes' reports: where nodes differ, and which callers they refuse.
//!
//! Texts and counts change all the time, conditions do not: one is written when its reason changes,
//! or when it comes or goes, and with a new text at most every [`REWORD_INTERVAL`]. Counts are on
//! the Lease.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use adit_core::code::Code;
use tokio::time::Instant;

use super::conditions::{self, ConditionVerdict};
use super::plan::{PlanInput, WritePlan};
use crate::api::Condition;
use crate::summary::SummaryItem;

/// From when a condition was written to when another text for the same reason may be.
const REWORD_INTERVAL: Duration = Duration::from_secs(30);
/// Number of reasons that one condition names.
const MAX_REASONS: usize = 3;
/// Number of nodes that one condition names.
const MAX_NODES: usize = 4;

/// Time at which each condition was last worded, by object and condition.
#[derive(Debug, Default)]
pub(super) struct WordedTimes(BTreeMap<(String, &'static str), Instant>);

impl WordedTimes {
    /// Drops entries that no longer delay anything.
    pub(super) fn expire(&mut self, now: Instant) {
        self.0.retain(|_, at| *at + REWORD_INTERVAL > now);
    }
}

/// A condition of one object.
pub(super) struct ReportedCondition<'a> {
    /// Kind and name of the object.
    pub(super) object: String,
    pub(super) generation: Option<i64>,
    /// The condition's type.
    pub(super) kind: &'static str,
    /// True if the cause is not known yet, so that a better text may follow at once.
    pub(super) is_vague: bool,
    pub(super) input: &'a PlanInput<'a>,
}

impl ReportedCondition<'_> {
    /// Returns `all` with the condition as `verdict` says, or without it. Another text for the same
    /// reason is delayed.
    pub(super) fn apply(
        self,
        all: &[Condition],
        verdict: Option<&ConditionVerdict>,
        worded: &mut WordedTimes,
        plan: &mut WritePlan,
    ) -> Vec<Condition> {
        let key = (self.object, self.kind);
        let Some(verdict) = verdict else {
            worded.0.remove(&key);
            return conditions::clear(all, self.kind);
        };
        let fresh = conditions::set(all, self.kind, verdict, self.generation, &self.input.time());
        if fresh == all {
            return fresh;
        }
        let is_same = conditions::find(all, self.kind).is_some_and(|old| {
            old.reason == verdict.reason && (old.status == "True") == verdict.good
        });
        if let Some(at) = worded.0.get(&key).filter(|_| is_same) {
            plan.wake_at(Some(*at + REWORD_INTERVAL));
            return all.to_vec();
        }
        if self.is_vague {
            worded.0.remove(&key);
        } else {
            worded.0.insert(key, self.input.at);
        }
        fresh
    }
}

/// Returns a verdict if some nodes cannot use a link, or if the state of some is unknown; `None` if
/// all can use it, or none.
pub(super) fn some_nodes_down(input: &PlanInput<'_>, cluster: &str) -> Option<ConditionVerdict> {
    let silence =
        || Some(ConditionVerdict::good("NodesSilent", input.peers.nodes.describe_silent()?));
    nodes_cut_off(input, cluster).or_else(silence)
}

fn nodes_cut_off(input: &PlanInput<'_>, cluster: &str) -> Option<ConditionVerdict> {
    let item = link_failure(input, cluster)?;
    let place = item.describe_nodes(input.peers.nodes.answered);
    let (count, nodes) = place.split_once(": ")?;
    let message = format!("{count} cannot reach {cluster}: {nodes} ({})", item.sentence);
    Some(ConditionVerdict::good("NodesCutOff", message))
}

/// Returns the reason why no node can use a link, if all nodes that answer agree on that.
pub(super) fn all_nodes_down(input: &PlanInput<'_>, cluster: &str) -> Option<ConditionVerdict> {
    let nodes = &input.peers.nodes;
    let item = link_failure(input, cluster).filter(|item| item.count >= nodes.answered)?;
    let message = format!("no node of ours can reach {cluster}: {}", item.sentence);
    Some(ConditionVerdict::bad(item.known_code().map_or("LinkDown", Code::link_reason), message))
}

/// Merges the reports of nodes that cannot use a link into one item. They may know different
/// causes; one that says more than "nothing comes back" is shown.
fn link_failure(input: &PlanInput<'_>, cluster: &str) -> Option<SummaryItem> {
    let about = input.peers.nodes.items_about("link", cluster).filter(|item| item.error);
    let mut all: Vec<&SummaryItem> = about.collect();
    all.sort_by_key(|item| (item.has_code(Code::LinkDown), Reverse(item.count)));
    let mut merged = SummaryItem::clone(all.first()?);
    for other in &all[1..] {
        merged.count += other.count;
        merged.nodes.extend(other.nodes.iter().cloned());
    }
    merged.nodes.sort();
    merged.nodes.truncate(MAX_NODES);
    Some(merged)
}

/// Returns a verdict if callers are refused; `kind` is `import` or `export`. Requests of another
/// cluster without permission are left out: that cluster could have the condition written at will.
pub(super) fn refused_callers(
    input: &PlanInput<'_>,
    kind: &str,
    name: &str,
) -> Option<ConditionVerdict> {
    let all = refusals(input, kind, name);
    let message: Vec<_> =
        all.iter().take(MAX_REASONS).map(|item| describe_refusal(input, item)).collect();
    let reason = all.first()?.known_code().map_or("Refused", Code::refusal_reason);
    Some(ConditionVerdict::good(reason, message.join("; ")))
}

/// Returns a warning for each code with which callers are refused: the code, which is its cause, and a sentence.
pub(super) fn refusal_warnings(
    input: &PlanInput<'_>,
    kind: &str,
    name: &str,
) -> Vec<(String, String)> {
    let all = refusals(input, kind, name);
    let mut seen = BTreeSet::new();
    let first = all.into_iter().filter(|item| seen.insert(&item.code)).take(MAX_REASONS);
    first.map(|item| (item.code.clone(), describe_refusal(input, item))).collect()
}

fn refusals<'a>(input: &'a PlanInput<'_>, kind: &'a str, name: &'a str) -> Vec<&'a SummaryItem> {
    let all = input.peers.nodes.items_about(kind, name);
    all.filter(|item| item.error && item.refused.is_some()).collect()
}

fn describe_refusal(input: &PlanInput<'_>, item: &SummaryItem) -> String {
    let askers = item.refused.as_ref().map(|r| r.describe_sources()).unwrap_or_default();
    let place = item.describe_nodes(input.peers.nodes.answered);
    let place = if place.is_empty() { place } else { format!(" on {place}") };
    let what = if item.has_code(Code::OverBudget) { "reset" } else { "refused" };
    format!("connections{askers} are {what}{place}: {} ({})", item.sentence, item.code)
}

/// Returns the part of a message of nodes that says the cause: without what differs from node to node, from moment to
/// moment and from one handshake to the next.
pub(super) fn cause_of(message: &str) -> String {
    let marks = [": node ", "; ", " (no node", " (its handshakes", "acknowledges nothing"];
    let end = marks.iter().filter_map(|mark| message.find(mark)).min();
    let cause = &message[..end.unwrap_or(message.len())];
    cause.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Returns a verdict if an import does not work on some nodes, for a local reason.
pub(super) fn broken_locally(input: &PlanInput<'_>, name: &str) -> Option<ConditionVerdict> {
    let nodes = &input.peers.nodes;
    let is_local = |item: &&SummaryItem| {
        item.error && item.refused.is_none() && item.has_code(Code::LocalError)
    };
    let item = nodes.items_about("import", name).find(is_local)?;
    let place = item.describe_nodes(nodes.answered);
    let place = if place.is_empty() { "all nodes".to_owned() } else { place };
    Some(ConditionVerdict::good(
        "NotServed",
        format!("it is not served on {place}: {}", item.sentence),
    ))
}
