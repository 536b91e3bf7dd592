//! Whether backends of an export answer, as our nodes find: what its condition says.
//!
//! Nodes tell what does not answer, and nothing of what does. So an export of which they say nothing is ready,
//! once they have had the time to find out.

use std::collections::BTreeMap;
use std::time::Duration;

use adit_core::name::{PortName, ServiceName};
use tokio::time::Instant;

use super::{Now, Plan, nodes};
use crate::controller::exports::Verdict;
use crate::controller::readiness::Steady;
use crate::summary::FailingPort;

/// From when an export is seen for the first time to when silence about it says that it is well: nodes have to
/// take it up, to dial its backends and to be asked.
const FIRST_VERDICT_TIMEOUT: Duration = Duration::from_secs(8);
/// How many ports a condition names.
const MAX_PORTS: usize = 3;

/// What was seen of exports before.
#[derive(Debug, Default)]
pub(in crate::controller::plan) struct ExportHistory(BTreeMap<ServiceName, Seen>);

#[derive(Debug)]
struct Seen {
    since: Instant,
    steady: Steady,
}

impl ExportHistory {
    /// Drops what is exported no longer.
    pub(in crate::controller::plan) fn keep(&mut self, is_exported: impl Fn(&ServiceName) -> bool) {
        self.0.retain(|service, _| is_exported(service));
    }

    /// What is to be said of an export that somebody may use, which was ready or not `before`; `None` while there is
    /// no news of it.
    pub(in crate::controller::plan) fn see(
        &mut self,
        now: &Now<'_>,
        service: &ServiceName,
        before: Option<bool>,
        plan: &mut Plan,
    ) -> Option<ExportVerdict> {
        let nodes = &now.peers.nodes;
        let (unserved, others): (Vec<FailingAt<'_>>, Vec<FailingAt<'_>>) =
            nodes.exports.of(service).partition(|(_, p)| p.is_unserved(nodes.answered));
        let steady = Steady::new(before.unwrap_or(true));
        let seen = self.0.entry(service.clone()).or_insert(Seen { since: now.at, steady });
        let is_known = now.peers.reporting && nodes.answered > 0;
        let is_unsaid = nodes.exports.is_cut && unserved.is_empty() && others.is_empty();
        let news = (is_known && !is_unsaid).then_some(unserved.is_empty());
        plan.wake_at(seen.steady.see(news, now.at));
        news?;
        if seen.steady.value() {
            let first = seen.since + FIRST_VERDICT_TIMEOUT;
            if before.is_none() && now.at < first {
                plan.wake_at(Some(first));
                return None;
            }
            return Some(ExportVerdict::well(service, &others, nodes.answered));
        }
        let (_, first) = unserved.first()?;
        let reason = nodes::reason(first.fault.map_or("no-backend", |fault| fault.code().name()));
        let note = told(service, &unserved, None);
        let message = told(service, &unserved, Some(nodes.answered));
        Some(ExportVerdict { verdict: Verdict::bad(reason, message), note: Some(note) })
    }
}

/// What is to be said of an export.
pub(in crate::controller::plan) struct ExportVerdict {
    pub(in crate::controller::plan) verdict: Verdict,
    /// For an Event, where it is not ready: the same words for as long as the reason is the same, since each change
    /// of them is told anew.
    pub(in crate::controller::plan) note: Option<String>,
}

/// A port of an export and what is wrong with it.
type FailingAt<'a> = (&'a PortName, &'a FailingPort);

impl ExportVerdict {
    /// A backend answers, if not on all nodes.
    fn well(service: &ServiceName, others: &[FailingAt<'_>], answered: usize) -> Self {
        let verdict = if others.is_empty() {
            Verdict::good("Ready", format!("backends of {service} answer"))
        } else {
            let but = told(service, others, Some(answered));
            let message = format!("backends of {service} answer, and not on all nodes: {but}");
            Verdict::good("NodesDiffer", message)
        };
        Self { verdict, note: None }
    }
}

/// The ports in words, with counts where so many nodes have answered.
fn told(service: &ServiceName, ports: &[FailingAt<'_>], answered: Option<usize>) -> String {
    let one = |(name, port): &FailingAt<'_>| {
        let counts = answered.map(|answered| format!(" ({})", port.counts(answered)));
        port.sentence(service, name) + &counts.unwrap_or_default()
    };
    let some: Vec<_> = ports.iter().take(MAX_PORTS).map(one).collect();
    some.join("; ")
}
