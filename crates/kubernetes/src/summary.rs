//! Summary of all nodes' reports: made by the controller, written on its Lease, and read by `adit
//! status` with a context.
//!
//! There is one item for each problem and reason, however many nodes report it. The number of
//! items, names and bytes is bounded, whatever nodes report.

mod exports;
mod totals;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use self::exports::{ExportsSummary, FailingPort};
pub use self::totals::RefusalTotals;
use adit_core::code::Code;
use adit_core::name::NodeName;
use adit_core::text::shorten;
use adit_core::wire::report::{NodeReport, RefusalSeries, TroubleSubject};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Most items in a summary; errors come first.
pub const MAX_ITEMS: usize = 48;
/// Most releases that a summary tells apart: an update that is under way has two.
pub const MAX_RELEASES: usize = 8;
/// The name under which a summary counts all other releases.
pub const OTHER_RELEASES: &str = "other";
/// Number of nodes and sources that an item names.
const MAX_NAMED: usize = 4;
/// Longest sentence in a summary, in bytes.
const MAX_SENTENCE: usize = 240;

/// A node's answer, with its time.
#[derive(Debug, Clone)]
pub struct NodeAnswer {
    /// When the answer came, or was given up.
    pub at: Timestamp,
    /// The node's report, or the reason why it did not answer.
    pub report: Result<NodeReport, String>,
}

/// The reports of all nodes in sum.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodesSummary {
    /// When it was made, RFC 3339 in UTC.
    pub at: String,
    /// Number of nodes that answered.
    pub answered: usize,
    /// Number of nodes that did not.
    pub silent: usize,
    /// Some nodes that did not answer, with the reason.
    pub silent_nodes: BTreeMap<String, String>,
    /// The problems, errors first; at most [`MAX_ITEMS`].
    pub items: Vec<SummaryItem>,
    /// Number of problems beyond those.
    pub more: usize,
    /// Recently refused connections that belong to none of the items.
    pub other_refusals: u64,
    /// Number of nodes that run each release, of those that answered; at most [`MAX_RELEASES`], and the rest as
    /// [`OTHER_RELEASES`]. A node that does not say runs one of before releases were told: its release is empty.
    pub releases: BTreeMap<String, usize>,
    /// Exports for which no backend answers on some nodes: their own conditions say it, not the
    /// Lease.
    #[serde(skip)]
    pub exports: Arc<ExportsSummary>,
}

/// A problem on some nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SummaryItem {
    /// Kind of the object: `node`, `link`, `import` or `export`.
    pub kind: String,
    /// Its name: a cluster, or `NAMESPACE/NAME`; empty for nodes themselves.
    pub name: String,
    /// The reason, as a code of the closed list.
    pub code: String,
    /// True if it is an error; a warning otherwise.
    pub error: bool,
    /// Number of nodes that report it.
    pub count: usize,
    /// Some of them, by name.
    pub nodes: Vec<String>,
    /// The sentence of one of them, for people.
    pub sentence: String,
    /// The refused connections, if that is the problem.
    pub refused: Option<RefusedConnections>,
}

/// Connections that were recently refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RefusedConnections {
    /// Number of them since `since`, on all nodes.
    pub count: u64,
    /// When the first was, RFC 3339 in UTC.
    pub since: String,
    /// When the last was, RFC 3339 in UTC.
    pub last: String,
    /// Some of the callers, as `NAMESPACE/ACCOUNT`, with `@CLUSTER` if they are of another cluster.
    pub sources: Vec<String>,
    /// True if there are more than are named.
    pub others: bool,
}

/// The object of an item, a flag that keeps items of the same object and code apart, and the code.
/// The flag is set for refusals, and for errors of nodes themselves, which a warning there must not
/// hide.
type SummaryKey = (TroubleSubject, bool, String);

impl NodesSummary {
    /// Sums up the nodes' answers.
    #[must_use]
    pub fn from_answers(answers: &BTreeMap<NodeName, NodeAnswer>, now: Timestamp) -> Self {
        let mut summary = Self { at: rfc3339_seconds(now), ..Self::default() };
        let mut all: BTreeMap<SummaryKey, ItemBuilder<'_>> = BTreeMap::new();
        let mut exports = ExportsSummary::default();
        for (node, answer) in answers {
            let report = match &answer.report {
                Ok(report) => report,
                Err(why) => {
                    summary.silent += 1;
                    if summary.silent_nodes.len() < MAX_NAMED {
                        summary
                            .silent_nodes
                            .insert(node.to_string(), shorten(why, MAX_SENTENCE).into_owned());
                    }
                    continue;
                }
            };
            summary.answered += 1;
            summary.add_release(&report.version);
            exports.add(node, report);
            summary.other_refusals = summary.other_refusals.saturating_add(report.others);
            for trouble in &report.troubles {
                let is_apart = trouble.is_error && trouble.subject == TroubleSubject::Node;
                let topic = (without_port(&trouble.subject), is_apart, trouble.code.to_string());
                let gathered = all.entry(topic).or_default();
                gathered.add_node(node, &trouble.sentence);
                gathered.error |= trouble.is_error;
            }
            for series in &report.refusals {
                let about = match series.is_inbound {
                    true => TroubleSubject::Export(series.target.clone()),
                    false => TroubleSubject::Import(series.target.clone()),
                };
                let gathered =
                    all.entry((without_port(&about), true, series.code.to_string())).or_default();
                gathered.add_node(node, &series.sentence);
                gathered.error |= !series.is_askers_fault();
                gathered.add_refusals(series, answer.at);
            }
        }
        let mut items: Vec<_> = all.into_iter().map(|(topic, g)| g.build(topic)).collect();
        // Stable: equal items stay in the order of their names.
        items.sort_by_key(|item| (!item.error, item.kind != "link"));
        summary.more = items.len().saturating_sub(MAX_ITEMS);
        items.truncate(MAX_ITEMS);
        summary.items = items;
        summary.exports = Arc::new(exports);
        summary
    }

    /// Returns the summary without what changes all the time: counts, times and texts. Items that
    /// `before` has keep its text. So the result differs only if there is another problem, another
    /// place, or another reason.
    #[must_use]
    pub fn stable_part(&self, before: &Self) -> Self {
        let item = |item: &SummaryItem| {
            let is_same = |old: &&SummaryItem| {
                (&old.kind, &old.name, &old.code) == (&item.kind, &item.name, &item.code)
                    && old.refused.is_some() == item.refused.is_some()
                    && (item.kind != "node" || old.error == item.error)
            };
            let old = before.items.iter().find(is_same);
            let sentence = old.map_or(&item.sentence, |old| &old.sentence).clone();
            let refused = item.refused.as_ref().map(|now| RefusedConnections {
                sources: now.sources.clone(),
                others: now.others,
                ..RefusedConnections::default()
            });
            SummaryItem { sentence, refused, ..item.clone() }
        };
        let silent = self.silent_nodes.iter().map(|(node, why)| {
            (node.clone(), before.silent_nodes.get(node).unwrap_or(why).clone())
        });
        Self {
            at: String::new(),
            items: self.items.iter().map(item).collect(),
            silent_nodes: silent.collect(),
            other_refusals: 0,
            releases: self.releases.clone(),
            exports: Arc::clone(&self.exports),
            ..*self
        }
    }

    fn add_release(&mut self, release: &str) {
        let has_room = self.releases.len() < MAX_RELEASES || self.releases.contains_key(release);
        let key = if has_room { release } else { OTHER_RELEASES };
        *self.releases.entry(key.to_owned()).or_default() += 1;
    }

    /// Describes the nodes that do not answer; `None` if all do.
    #[must_use]
    pub fn describe_silent(&self) -> Option<String> {
        if self.silent == 0 {
            return None;
        }
        let some: Vec<_> =
            self.silent_nodes.iter().map(|(node, why)| format!("{node} ({why})")).collect();
        let all = self.silent + self.answered;
        let told = if all == 1 { "node does not tell" } else { "nodes do not tell" };
        let (silent, some) = (self.silent, some.join(", "));
        Some(format!("{silent} of {all} {told} the controller how they are: {some}"))
    }

    /// Returns the items about one object.
    pub fn items_about<'a>(
        &'a self,
        kind: &'a str,
        name: &'a str,
    ) -> impl Iterator<Item = &'a SummaryItem> {
        self.items.iter().filter(move |item| item.kind == kind && item.name == name)
    }
}

impl SummaryItem {
    /// Returns the code; `None` if this version does not know it.
    #[must_use]
    pub fn known_code(&self) -> Option<Code> {
        Code::from_name(&self.code)
    }

    /// Returns whether the code is this one.
    #[must_use]
    pub fn has_code(&self, code: Code) -> bool {
        self.code == code.name()
    }

    /// Describes on which of the nodes that answered the problem is; empty if all report it.
    #[must_use]
    pub fn describe_nodes(&self, answered: usize) -> String {
        if self.count >= answered {
            return String::new();
        }
        let more = self.count.saturating_sub(self.nodes.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{} of {answered} nodes: {}{more}", self.count, self.nodes.join(", "))
    }
}

impl RefusedConnections {
    /// Describes the callers, as far as they are known.
    #[must_use]
    pub fn describe_sources(&self) -> String {
        match (self.sources.as_slice(), self.others) {
            ([], _) => String::new(),
            (named, false) => format!(" of {}", named.join(", ")),
            (named, true) => format!(" of {} and others", named.join(", ")),
        }
    }
}

/// An item while it is being built.
#[derive(Debug, Default)]
struct ItemBuilder<'a> {
    error: bool,
    nodes: BTreeSet<&'a NodeName>,
    sentence: &'a str,
    refused: Option<(u64, Timestamp, Timestamp)>,
    sources: BTreeSet<String>,
    others: bool,
}

impl<'a> ItemBuilder<'a> {
    fn add_node(&mut self, node: &'a NodeName, sentence: &'a str) {
        self.nodes.insert(node);
        if self.sentence.is_empty() {
            self.sentence = sentence;
        }
    }

    fn add_refusals(&mut self, series: &RefusalSeries, at: Timestamp) {
        let ago = |ms: u64| {
            let ago = SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX));
            at.checked_sub(ago).unwrap_or(Timestamp::MIN)
        };
        let (first, last) = (ago(series.first_ms), ago(series.last_ms));
        let (count, since, until) = self.refused.unwrap_or((0, first, last));
        self.refused =
            Some((count.saturating_add(series.count), since.min(first), until.max(last)));
        match &series.source {
            // As many as may be named, and one that shows that there are more.
            Some(source) if self.sources.len() <= MAX_NAMED => {
                let of =
                    if series.is_inbound { format!("@{}", series.cluster) } else { String::new() };
                let name = format!("{}/{}{of}", source.namespace, source.service_account);
                self.sources.insert(name);
            }
            Some(_) | None => self.others = true,
        }
    }

    fn build(self, (about, _, code): SummaryKey) -> SummaryItem {
        let (kind, name) = match about {
            TroubleSubject::Node => ("node", String::new()),
            TroubleSubject::Link(cluster) => ("link", cluster.to_string()),
            TroubleSubject::Import(target) => ("import", target.service.to_string()),
            TroubleSubject::Export(target) => ("export", target.service.to_string()),
        };
        let others = self.others || self.sources.len() > MAX_NAMED;
        let sources: Vec<_> = self.sources.into_iter().take(MAX_NAMED).collect();
        let refused = self.refused.map(|(count, since, last)| RefusedConnections {
            count,
            since: rfc3339_seconds(since),
            last: rfc3339_seconds(last),
            sources,
            others,
        });
        SummaryItem {
            kind: kind.into(),
            name,
            code,
            error: self.error,
            count: self.nodes.len(),
            nodes: self.nodes.into_iter().take(MAX_NAMED).map(ToString::to_string).collect(),
            sentence: shorten(self.sentence, MAX_SENTENCE).into_owned(),
            refused,
        }
    }
}

/// Returns a subject without its port: imports and exports are reported as a whole.
fn without_port(about: &TroubleSubject) -> TroubleSubject {
    let whole = |target: &adit_core::policy::Target| adit_core::policy::Target {
        service: target.service.clone(),
        port: Default::default(),
    };
    match about {
        TroubleSubject::Import(target) => TroubleSubject::Import(whole(target)),
        TroubleSubject::Export(target) => TroubleSubject::Export(whole(target)),
        TroubleSubject::Node | TroubleSubject::Link(_) => about.clone(),
    }
}

fn rfc3339_seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

#[cfg(test)]
mod tests;
