//! The condition that says whether backends of an export answer, as our nodes find.
//!
//! Nodes report only backends that do not answer. So an export that no node reports is ready, once
//! the nodes have had the time to find out.

use std::collections::BTreeMap;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::fault::BackendFault;
use adit_core::name::{PortName, ServiceName};
use tokio::time::Instant;

use crate::controller::conditions::ConditionVerdict;
use crate::controller::debounce::Debounced;
use crate::controller::plan::{PlanInput, WritePlan};
use crate::summary::FailingPort;

/// From when an export is first seen until no report about it means that it is ready: nodes have to
/// take it up, to dial its backends and to be asked.
const FIRST_VERDICT_TIMEOUT: Duration = Duration::from_secs(8);
/// Number of ports that a condition names.
const MAX_PORTS: usize = 3;

/// State of exports that is kept from one plan to the next.
#[derive(Debug, Default)]
pub(crate) struct ExportHistory(BTreeMap<ServiceName, ExportRecord>);

#[derive(Debug)]
struct ExportRecord {
    since: Instant,
    debounced: Debounced,
}

impl ExportHistory {
    /// Drops exports that no longer exist.
    pub(crate) fn retain(&mut self, is_exported: impl Fn(&ServiceName) -> bool) {
        self.0.retain(|service, _| is_exported(service));
    }

    /// Returns the condition of an export that somebody may use, which was ready or not `before`;
    /// `None` while nothing new is known.
    pub(crate) fn observe(
        &mut self,
        input: &PlanInput<'_>,
        (service, selector): (&ServiceName, Option<&str>),
        before: Option<bool>,
        plan: &mut WritePlan,
    ) -> Option<ExportVerdict> {
        let nodes = &input.peers.nodes;
        let (unserved, others): (Vec<FailingAt<'_>>, Vec<FailingAt<'_>>) =
            nodes.exports.ports_of(service).partition(|(_, p)| p.is_unserved(nodes.answered));
        let steady = Debounced::new(before.unwrap_or(true));
        let seen = self
            .0
            .entry(service.clone())
            .or_insert(ExportRecord { since: input.at, debounced: steady });
        let is_known = input.peers.reporting && nodes.answered > 0;
        let is_unsaid = nodes.exports.is_cut && unserved.is_empty() && others.is_empty();
        let is_healthy = (is_known && !is_unsaid).then_some(unserved.is_empty());
        plan.wake_at(seen.debounced.observe(is_healthy, input.at));
        is_healthy?;
        if seen.debounced.value() {
            let first = seen.since + FIRST_VERDICT_TIMEOUT;
            if before.is_none() && input.at < first {
                plan.wake_at(Some(first));
                return None;
            }
            return Some(ExportVerdict::ready((service, selector), &others, nodes.answered));
        }
        let (_, first) = unserved.first()?;
        let reason = first.fault.map_or(Code::NoBackend, BackendFault::code).refusal_reason();
        let note = describe_ports((service, selector), &unserved, None);
        let message = describe_ports((service, selector), &unserved, Some(nodes.answered));
        Some(ExportVerdict { verdict: ConditionVerdict::bad(reason, message), note: Some(note) })
    }
}

/// Condition of an export.
pub(crate) struct ExportVerdict {
    pub(crate) verdict: ConditionVerdict,
    /// For an Event, if the export is not ready: without the counts of nodes, which change with each report.
    pub(crate) note: Option<String>,
}

/// A port of an export, and its problem.
type FailingAt<'a> = (&'a PortName, &'a FailingPort);

impl ExportVerdict {
    /// Returns the verdict if a backend answers, though perhaps not on all nodes.
    fn ready(
        (service, selector): (&ServiceName, Option<&str>),
        others: &[FailingAt<'_>],
        answered: usize,
    ) -> Self {
        let verdict = if others.is_empty() {
            ConditionVerdict::good("Ready", format!("backends of {service} answer"))
        } else {
            let but = describe_ports((service, selector), others, Some(answered));
            let message = format!("backends of {service} answer, and not on all nodes: {but}");
            ConditionVerdict::good("NodesDiffer", message)
        };
        Self { verdict, note: None }
    }
}

/// Describes the ports, with counts if `answered` is the number of nodes that answered.
fn describe_ports(
    (service, selector): (&ServiceName, Option<&str>),
    ports: &[FailingAt<'_>],
    answered: Option<usize>,
) -> String {
    let one = |(name, port): &FailingAt<'_>| {
        let counts = answered.map(|answered| format!(" ({})", port.describe_counts(answered)));
        port.sentence(service, name, selector) + &counts.unwrap_or_default()
    };
    let some: Vec<_> = ports.iter().take(MAX_PORTS).map(one).collect();
    some.join("; ")
}
