//! Whether backends of an export answer, as our nodes find: what its condition says.
//!
//! Nodes tell what does not answer, and nothing of what does. So an export of which they say nothing is ready,
//! once they have had the time to find out.

use std::collections::BTreeMap;
use std::time::Duration;

use adit_core::name::{PortName, ServiceName};
use tokio::time::Instant;

use super::{PlanInput, WritePlan, node_reports};
use crate::controller::debounce::Debounced;
use crate::controller::exports::ConditionVerdict;
use crate::summary::FailingPort;

/// From when an export is seen for the first time to when silence about it says that it is well: nodes have to
/// take it up, to dial its backends and to be asked.
const FIRST_VERDICT_TIMEOUT: Duration = Duration::from_secs(8);
/// How many ports a condition names.
const MAX_PORTS: usize = 3;

/// What was seen of exports before.
#[derive(Debug, Default)]
pub(in crate::controller::plan) struct ExportHistory(BTreeMap<ServiceName, ExportRecord>);

#[derive(Debug)]
struct ExportRecord {
    since: Instant,
    debounced: Debounced,
}

impl ExportHistory {
    /// Drops what is exported no longer.
    pub(in crate::controller::plan) fn retain(
        &mut self,
        is_exported: impl Fn(&ServiceName) -> bool,
    ) {
        self.0.retain(|service, _| is_exported(service));
    }

    /// What is to be said of an export that somebody may use, which was ready or not `before`; `None` while there is
    /// no news of it.
    pub(in crate::controller::plan) fn observe(
        &mut self,
        now: &PlanInput<'_>,
        service: &ServiceName,
        before: Option<bool>,
        plan: &mut WritePlan,
    ) -> Option<ExportVerdict> {
        let nodes = &now.peers.nodes;
        let (unserved, others): (Vec<FailingAt<'_>>, Vec<FailingAt<'_>>) =
            nodes.exports.ports_of(service).partition(|(_, p)| p.is_unserved(nodes.answered));
        let steady = Debounced::new(before.unwrap_or(true));
        let seen = self
            .0
            .entry(service.clone())
            .or_insert(ExportRecord { since: now.at, debounced: steady });
        let is_known = now.peers.reporting && nodes.answered > 0;
        let is_unsaid = nodes.exports.is_cut && unserved.is_empty() && others.is_empty();
        let news = (is_known && !is_unsaid).then_some(unserved.is_empty());
        plan.wake_at(seen.debounced.observe(news, now.at));
        news?;
        if seen.debounced.value() {
            let first = seen.since + FIRST_VERDICT_TIMEOUT;
            if before.is_none() && now.at < first {
                plan.wake_at(Some(first));
                return None;
            }
            return Some(ExportVerdict::ready(service, &others, nodes.answered));
        }
        let (_, first) = unserved.first()?;
        let reason = node_reports::code_reason(
            first.fault.map_or("no-backend", |fault| fault.code().name()),
        );
        let note = describe_ports(service, &unserved, None);
        let message = describe_ports(service, &unserved, Some(nodes.answered));
        Some(ExportVerdict { verdict: ConditionVerdict::bad(reason, message), note: Some(note) })
    }
}

/// What is to be said of an export.
pub(in crate::controller::plan) struct ExportVerdict {
    pub(in crate::controller::plan) verdict: ConditionVerdict,
    /// For an Event, where it is not ready: the same words for as long as the reason is the same, since each change
    /// of them is told anew.
    pub(in crate::controller::plan) note: Option<String>,
}

/// A port of an export and what is wrong with it.
type FailingAt<'a> = (&'a PortName, &'a FailingPort);

impl ExportVerdict {
    /// A backend answers, if not on all nodes.
    fn ready(service: &ServiceName, others: &[FailingAt<'_>], answered: usize) -> Self {
        let verdict = if others.is_empty() {
            ConditionVerdict::good("Ready", format!("backends of {service} answer"))
        } else {
            let but = describe_ports(service, others, Some(answered));
            let message = format!("backends of {service} answer, and not on all nodes: {but}");
            ConditionVerdict::good("NodesDiffer", message)
        };
        Self { verdict, note: None }
    }
}

/// The ports in words, with counts where so many nodes have answered.
fn describe_ports(
    service: &ServiceName,
    ports: &[FailingAt<'_>],
    answered: Option<usize>,
) -> String {
    let one = |(name, port): &FailingAt<'_>| {
        let counts = answered.map(|answered| format!(" ({})", port.describe_counts(answered)));
        port.sentence(service, name) + &counts.unwrap_or_default()
    };
    let some: Vec<_> = ports.iter().take(MAX_PORTS).map(one).collect();
    some.join("; ")
}
