//! The part of the status document about connections that were refused of late, and what is said of them.

use std::collections::BTreeMap;

use adit_core::code::Code;
use adit_core::text::human_seconds;
use adit_core::wire::report::{RefusalSeries, is_askers_fault};
use serde::{Deserialize, Serialize};

use super::{Reason, StatusProblem, StatusSeverity};

/// Connections of one source to one port that were refused of late for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RefusedFlows {
    /// `outbound` for connections of this cluster's workloads, `inbound` for those of the other one's.
    pub direction: String,
    /// The service that was asked for, `NAMESPACE/NAME`.
    pub service: String,
    /// Its port, by name; may be empty.
    pub port: String,
    /// The other cluster.
    pub cluster: String,
    /// The source that asked, `NAMESPACE/ACCOUNT`; absent if it is not known, and for many that are counted together.
    pub source: Option<String>,
    /// Refused connections since the first.
    pub count: u64,
    /// Seconds since the first.
    pub first_seconds_ago: u64,
    /// Seconds since the last.
    pub last_seconds_ago: u64,
    /// Why the last was.
    #[serde(flatten)]
    pub reason: Reason,
}

impl RefusedFlows {
    /// The most entries that a document has.
    pub const MAX: usize = 32;
}

impl From<&RefusalSeries> for RefusedFlows {
    fn from(from: &RefusalSeries) -> Self {
        let source = from.source.as_ref();
        Self {
            direction: if from.is_inbound { "inbound" } else { "outbound" }.into(),
            service: from.target.service.to_string(),
            port: from.target.port.to_string(),
            cluster: from.cluster.to_string(),
            source: source.map(|w| format!("{}/{}", w.namespace, w.service_account)),
            count: from.count,
            first_seconds_ago: from.first_ms / 1000,
            last_seconds_ago: from.last_ms / 1000,
            reason: Reason::new(from.code, from.sentence.clone()),
        }
    }
}

/// The most sources that a sentence names.
const NAMED: usize = 3;

/// `SERVICE:PORT`, or the service alone where its port has no name.
#[must_use]
pub fn with_port(service: &str, port: &str) -> String {
    if port.is_empty() { service.to_owned() } else { format!("{service}:{port}") }
}

/// The problems: one for each direction, port and code. Ports about which something worse is
/// said already (`is_said`, by direction and name) are left out; see [`add_callers`].
pub(super) fn problems(
    all: &[RefusedFlows],
    is_said: impl Fn(&RefusedFlows) -> bool,
    mut add: impl FnMut(StatusProblem),
) {
    let mut groups: BTreeMap<(&str, &str, &str, &str), Vec<&RefusedFlows>> = BTreeMap::new();
    for one in all.iter().filter(|one| !is_said(one)) {
        let key = (&*one.direction, &*one.service, &*one.port, &*one.reason.code);
        groups.entry(key).or_default().push(one);
    }
    for ((direction, service, port, code), group) in groups {
        let is_inbound = direction == "inbound";
        let known = Code::ALL.iter().find(|c| c.name() == code);
        let is_theirs = known.is_some_and(|code| is_askers_fault(is_inbound, *code));
        let kind = if is_inbound { "export" } else { "import" };
        add(StatusProblem {
            severity: if is_theirs { StatusSeverity::Notice } else { StatusSeverity::Warning },
            about: format!("{kind} {}", with_port(service, port)),
            reason: Reason { code: code.to_owned(), sentence: sentence(&group) },
        });
    }
}

/// Adds to the problems of ports that do not work who meets them there: what is wrong, and whom it keeps out.
pub(super) fn add_callers(
    problems: &mut [StatusProblem],
    all: &[RefusedFlows],
    is_said: impl Fn(&RefusedFlows) -> bool,
) {
    let mut groups: BTreeMap<(bool, String), Vec<&RefusedFlows>> = BTreeMap::new();
    for one in all.iter().filter(|one| is_said(one)) {
        let key = (one.direction == "inbound", with_port(&one.service, &one.port));
        groups.entry(key).or_default().push(one);
    }
    for ((is_inbound, port), group) in groups {
        let about = format!("{} {port}", if is_inbound { "export" } else { "import" });
        if let Some(problem) = problems.iter_mut().find(|problem| problem.about == about) {
            problem.reason.sentence += &format!("; {}", refused_callers(&group));
        }
    }
}

fn sentence(group: &[&RefusedFlows]) -> String {
    let last = group.iter().min_by_key(|one| one.last_seconds_ago);
    let why = last.map_or("", |last| &last.reason.sentence);
    format!("{}: {why}", refused_callers(group))
}

/// Says how many connections of whom were refused, and when.
fn refused_callers(group: &[&RefusedFlows]) -> String {
    let count: u64 = group.iter().map(|one| one.count).sum();
    let first = group.iter().map(|one| one.first_seconds_ago).max().unwrap_or_default();
    let last = group.iter().map(|one| one.last_seconds_ago).min().unwrap_or_default();
    let mut named: Vec<String> = group
        .iter()
        .filter_map(|one| {
            let source = one.source.as_ref()?;
            let of = if one.direction == "inbound" {
                format!("@{}", one.cluster)
            } else {
                String::new()
            };
            Some(format!("{source}{of}"))
        })
        .collect();
    named.sort();
    let more = named.len() > NAMED || (group.len() > named.len() && !named.is_empty());
    named.truncate(NAMED);
    if more {
        named.push("others".to_owned());
    }
    let from = if named.is_empty() { String::new() } else { format!(" of {}", named.join(", ")) };
    let connections = if count == 1 { "1 connection" } else { &format!("{count} connections") };
    let ago = human_seconds;
    let over_budget = Code::OverBudget.name();
    let what =
        if group.iter().all(|one| one.reason.code == over_budget) { "reset" } else { "refused" };
    format!("{connections}{from} {what} since {} ago, the last {} ago", ago(first), ago(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(direction: &str, source: Option<&str>, code: Code, count: u64) -> RefusedFlows {
        RefusedFlows {
            direction: direction.into(),
            service: "agents/fraud-bot".into(),
            port: "http".into(),
            cluster: "bank".into(),
            source: source.map(str::to_owned),
            count,
            first_seconds_ago: 120,
            last_seconds_ago: 3,
            reason: Reason::new(code, "no grant names it"),
        }
    }

    fn found(all: &[RefusedFlows]) -> Vec<StatusProblem> {
        let mut found = Vec::new();
        problems(all, |_| false, |problem| found.push(problem));
        found
    }

    #[test]
    fn callers_that_are_refused_are_one_problem_for_each_reason() {
        let all = [
            refused("outbound", Some("agents/x"), Code::Denied, 1380),
            refused("outbound", Some("agents/intern-bot"), Code::Denied, 4),
            refused("outbound", None, Code::SourceUnknown, 1),
        ];
        let [denied, unknown] = &found(&all)[..] else { panic!("{:?}", found(&all)) };
        assert_eq!(
            (denied.severity, &*denied.about),
            (StatusSeverity::Warning, "import agents/fraud-bot:http")
        );
        assert_eq!(
            denied.reason.sentence,
            "1384 connections of agents/intern-bot, agents/x refused since 2 min 0 s ago, the last 3 s ago: no grant names it"
        );
        assert_eq!(unknown.reason.code, "source-unknown");
        assert!(unknown.reason.sentence.starts_with("1 connection refused since"), "{unknown:?}");
    }

    #[test]
    fn who_takes_too_much_memory_is_named() {
        let [problem] = &found(&[refused("inbound", Some("a/b"), Code::OverBudget, 9)])[..] else {
            panic!("not said")
        };
        assert_eq!(
            (problem.severity, &*problem.reason.code),
            (StatusSeverity::Warning, "over-budget")
        );
        let sentence = &problem.reason.sentence;
        assert!(sentence.starts_with("9 connections of a/b@bank reset since 2 min"), "{sentence}");
    }

    #[test]
    fn what_a_peer_asks_for_without_right_is_no_fault_here() {
        let severity = |code| found(&[refused("inbound", Some("a/b"), code, 9)])[0].severity;
        assert_eq!(severity(Code::Denied), StatusSeverity::Notice);
        assert_eq!(severity(Code::BackendRefused), StatusSeverity::Warning);
        let sentence =
            &found(&[refused("inbound", Some("a/b"), Code::Denied, 9)])[0].reason.sentence;
        assert!(sentence.contains("of a/b@bank"), "{sentence}");
    }
}
