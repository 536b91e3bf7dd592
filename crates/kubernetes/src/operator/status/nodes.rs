//! Nodes' reports, as the controller wrote them on its Lease: counts and texts of the moment,
//! beside what conditions say.

use std::collections::BTreeMap;

use adit_core::code::Code;
use adit_core::text::count_noun;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::report::{ClusterStatus, StatusItem};
use crate::api::NODES;
use crate::summary::{NodesSummary, SummaryItem};

/// Age at which the nodes' reports are no longer shown: the controller writes them every few
/// seconds.
const SUMMARY_LIFETIME: SignedDuration = SignedDuration::from_secs(150);

/// Reads the nodes' reports; empty if they are old, by the cluster's own clock, or cannot be read.
pub(in crate::operator) fn read_summary(lease: Option<&Lease>) -> NodesSummary {
    let fresh = || {
        let lease = lease?;
        let summary: NodesSummary = serde_json::from_str(lease.annotations().get(NODES)?).ok()?;
        let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
        let made: Timestamp = summary.at.parse().ok()?;
        (renewed.duration_since(made) < SUMMARY_LIFETIME).then_some(summary)
    };
    fresh().unwrap_or_default()
}

/// Adds the nodes' reports to a cluster's status: to the items that they are about, and else to the
/// cluster as a whole.
pub(super) fn add_items(status: &mut ClusterStatus, nodes: &NodesSummary) {
    for item in &nodes.items {
        let text = sentence(item, nodes);
        let (about, is_doubtful) = match item.kind.as_str() {
            "link" => (&mut status.links, !item.error),
            // A port that does not work is shown by its condition, unless the problem is one node's
            // own.
            "import" => {
                (&mut status.imports, item.refused.is_none() && !item.has_code(Code::LocalError))
            }
            "export" => (&mut status.exports, !item.error || item.refused.is_none()),
            _ => {
                status.troubles.push(text);
                continue;
            }
        };
        let known = about.iter_mut().find(|known| known.name == item.name);
        match known {
            Some(known) if !is_doubtful => {
                if known.problem.is_none() && item.refused.is_some() {
                    known.is_refused_by_link = item.known_code().is_some_and(Code::is_of_link);
                }
                let is_whole =
                    item.kind == "link" && item.describe_nodes(nodes.answered).is_empty();
                merge_into(known, item, text, is_whole);
            }
            _ if item.kind == "link" || item.refused.is_some() => {
                status.warnings.push(format!("{} {}: {text}", item.kind, item.name));
            }
            Some(_) | None => {}
        }
    }
    if nodes.more > 0 {
        status.troubles.push(format!("nodes say {} things more that are wrong", nodes.more));
    }
    if nodes.other_refusals > 0 {
        status
            .troubles
            .push(format!("{} connections more were refused of late", nodes.other_refusals));
    }
    status.troubles.extend(nodes.describe_silent());
    let all = [&mut status.links, &mut status.exports, &mut status.imports];
    for item in all.into_iter().flatten() {
        if let (Some(problem), Some((count, since))) = (&mut item.problem, item.refused.take()) {
            *problem += &format!("; {} refused since {since}", count_noun(count, "connection"));
        }
    }
}

/// Adds the nodes' reports to one item. Refused callers are counted with another problem, if there
/// is one.
///
/// `is_whole`: all nodes say the same of a link.
fn merge_into(known: &mut StatusItem, item: &SummaryItem, text: String, is_whole: bool) {
    // What all nodes say of a link its condition says a moment later.
    known.is_down |= is_whole;
    match (&known.problem, &item.refused) {
        (None, _) => known.problem = Some(text),
        (Some(_), Some(refused)) => {
            let (count, since) = known.refused.take().unwrap_or_else(|| (0, refused.since.clone()));
            // Both are RFC 3339 in UTC.
            let since = since.min(refused.since.clone());
            known.refused = Some((count.saturating_add(refused.count), since));
        }
        // The condition may have been written before any node reported the reason.
        (Some(_), None) if is_whole && known.is_down => known.problem = Some(text),
        (Some(_), None) => {}
    }
}

/// Describes one item.
fn sentence(item: &SummaryItem, nodes: &NodesSummary) -> String {
    let SummaryItem { sentence, code, .. } = item;
    let place = item.describe_nodes(nodes.answered);
    if let Some(refused) = &item.refused {
        let connections = count_noun(refused.count, "connection");
        let on = if place.is_empty() { place } else { format!(" on {place}") };
        let (since, last) = (ago(&nodes.at, &refused.since), ago(&nodes.at, &refused.last));
        return format!(
            "since {since}: {connections}{} refused{on}: {sentence} ({code}), the last {last} ago",
            refused.describe_sources()
        );
    }
    if item.kind == "node" && item.has_code(Code::LocalError) {
        // The sentence names the problem; the place says that it is the node's own.
        return match place.split_once(": ") {
            Some((count, names)) => format!("{count} ({names}): {sentence}"),
            None => format!("all nodes: {sentence}"),
        };
    }
    match (place.split_once(": "), item.kind.as_str()) {
        (Some((count, names)), "link") if item.error => {
            format!("{count} cannot reach {}: {names} ({sentence}: {code})", item.name)
        }
        (Some((count, names)), _) => format!("{count} ({names}): {sentence} ({code})"),
        (None, "node") => format!("all nodes: {sentence} ({code})"),
        (None, _) => format!("{sentence} ({code})"),
    }
}

/// Describes the time from `then` to `now`.
fn ago(now: &str, then: &str) -> String {
    let time = |text: &str| text.parse::<Timestamp>().ok();
    let seconds =
        time(now).zip(time(then)).map_or(0, |(now, then)| now.duration_since(then).as_secs());
    match seconds.max(0) {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

/// Counts items with the cause that they wait for: imports that are not ready because their link is
/// down, or whose callers are refused for that, count with the link, and have no problem of their own.
pub(super) fn group_waiting(status: &mut ClusterStatus) {
    let down: Vec<String> = status
        .links
        .iter()
        .filter(|link| link.problem.is_some() && link.is_down)
        .map(|link| link.name.clone())
        .collect();
    let mut waiting: BTreeMap<String, usize> = BTreeMap::new();
    for import in &mut status.imports {
        let waits = import.is_down || import.is_refused_by_link;
        let Some(from) = import.from.as_ref().filter(|from| waits && down.contains(from)) else {
            continue;
        };
        *waiting.entry(from.clone()).or_default() += 1;
        import.waits_for = Some(format!("link {from}"));
        import.problem = None;
    }
    for link in &mut status.links {
        if let (Some(problem), Some(count)) = (&mut link.problem, waiting.get(&link.name)) {
            *problem += &match count {
                1 => "; 1 import waits for it".to_owned(),
                n => format!("; {n} imports wait for it"),
            };
        }
    }
}
