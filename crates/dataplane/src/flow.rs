//! The record of each flow: one TCP connection, one stream, and what became of them.
//!
//! A [`Flow`] is made when a connection or stream arrives and records itself when it is dropped, so that there is
//! exactly one line ([`line`](mod@line)), one count ([`table`]) and one end for each, even where its task is cancelled.
//! What it says of identity is what is known: the peer daemon's verified ID, the source as this node found it
//! (outbound) or as the peer asserts it (inbound, and marked so).

mod conversations;
mod counters;
mod direction;
pub(crate) mod failure;
mod futile;
mod line;
mod log_limit;
pub(crate) mod metrics;
mod refusals;
mod refused_sources;
mod table;
mod taps;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::fault::BackendFault;
use adit_core::name::{ClusterName, Namespace, NodeName};
use adit_core::policy::{Permit, Source, Target};
use adit_core::spiffe::Workload;
use adit_core::text::count_noun;
use adit_runtime::count_down;
use tokio::time::Instant;

use self::conversations::LiveConversation;
pub use self::conversations::{ConversationList, ConversationTotals};
pub use self::counters::ByteCounter;
pub use self::direction::Direction;
pub use self::failure::FlowFailure;
use self::metrics::TargetMetrics;
pub use self::table::{ExportUser, Flows, TargetKey, TargetTotals};
use self::table::{FlowOpener, TargetFlows};
pub use self::taps::{StreamEnd, StreamEvent, StreamTap, TapFilter, TapItem};
use crate::capacity::OpenStreams;

/// The record of a flow, reported when it is dropped.
#[derive(Debug)]
pub struct Flow {
    flows: Flows,
    direction: Direction,
    started: Instant,
    /// Joins both sides' lines.
    pub(crate) id: [u8; 16],
    /// The TCP connection's other end: the workload that asks, or the backend.
    pub(crate) workload: Option<SocketAddr>,
    pub(crate) source: Option<Source>,
    pub(crate) target: Option<Target>,
    pub(crate) peer: Option<(ClusterName, NodeName)>,
    /// True if another node than the backend's own was entered.
    pub(crate) hop: bool,
    /// Nodes or backends that refused before one took it.
    pub(crate) retries: u32,
    /// Bytes from TCP to the stream, and from the stream to TCP.
    pub(crate) sent: ByteCounter,
    pub(crate) received: ByteCounter,
    /// The ways that have come to their end.
    ended_ways: AtomicU8,
    group: Option<TargetKey>,
    /// The metrics of the target's flows, if the target is counted by name.
    target_metrics: Option<Arc<TargetMetrics>>,
    user: Option<ExportUser>,
    conversation: Option<Arc<LiveConversation>>,
    /// The cluster or workload among whose flows it is counted.
    opener: Option<FlowOpener>,
    /// Somebody has taken it: the peer has answered so, or a backend was reached.
    is_answered: bool,
    end: Result<(), FlowFailure>,
    /// True if it carries nothing and only asks: it takes a stream's place and is counted apart.
    is_probe: bool,
}

impl Flows {
    /// Begins the record of a new flow.
    pub(crate) fn begin(&self, direction: Direction, id: [u8; 16]) -> Flow {
        let mut table = self.table();
        table.open += 1;
        table.inbound += usize::from(direction == Direction::Inbound);
        drop(table);
        let metrics = self.0.metrics_of(direction);
        metrics.open.increment(1.0);
        Flow {
            flows: self.clone(),
            direction,
            started: Instant::now(),
            id,
            workload: None,
            source: None,
            target: None,
            peer: None,
            hop: false,
            retries: 0,
            sent: ByteCounter::new(&metrics.sent),
            received: ByteCounter::new(&metrics.received),
            ended_ways: AtomicU8::new(0),
            group: None,
            target_metrics: None,
            user: None,
            conversation: None,
            opener: None,
            is_answered: false,
            // What stands if the task ends without a word: it was cancelled or panicked.
            end: Err(Code::Internal.into()),
            is_probe: false,
        }
    }
}

impl Flow {
    /// Counts the flow among those of the workload at this address, and refuses it if there are too many.
    ///
    /// # Errors
    /// [`Code::OverLimit`].
    pub(crate) fn admit_workload(&mut self, from: IpAddr) -> Result<(), FlowFailure> {
        let open = self.attribute_to_opener(FlowOpener::Workload(from.to_canonical()));
        self.flows.0.capacity.admit_workload(open)
    }

    /// Refuses a flow whose workload opens too many in vain. Only once it is known which that is.
    ///
    /// # Errors
    /// [`Code::OverLimit`].
    pub(crate) fn admit_source(
        &self,
        to: &ClusterName,
        source: &Workload,
    ) -> Result<(), FlowFailure> {
        self.flows.0.futile.admit(&(to.clone(), source.namespace.clone()))
    }

    /// Which cluster took this for a stream in vain, if one did, and of which namespace's.
    fn futile_debtor(&self) -> Option<(ClusterName, Namespace)> {
        let (cluster, _) = self.peer.as_ref().filter(|_| self.direction == Direction::Outbound)?;
        let unanswered = self.received.bytes() == 0;
        let in_vain = unanswered && futile::is_futile(self.code(), self.started.elapsed());
        let source = self.source.as_ref().filter(|_| in_vain)?;
        Some((cluster.clone(), source.workload.namespace.clone()))
    }

    /// Counts the flow among those that nodes of `cluster` have begun, and refuses it if there are too many:
    /// more than `limit` of our `own` cluster, or than its share beside so many linked `clusters`. Only for a cluster that its
    /// certificate has proved.
    ///
    /// # Errors
    /// [`Code::OverLimit`].
    pub(crate) fn admit_peer(
        &mut self,
        cluster: &ClusterName,
        own: &ClusterName,
        limit: usize,
        clusters: usize,
    ) -> Result<(), FlowFailure> {
        let open = self.attribute_to_opener(FlowOpener::Peer(cluster.clone()));
        if open.own > limit {
            let reason = format!(
                "{own} allows {cluster} {} at a time on each node (limits.streamsPerPeer of {own})",
                count_noun(limit as u64, "stream")
            );
            return Err(FlowFailure::new(Code::OverLimit, reason));
        }
        let borrowed = |promised| self.flows.table().borrowed(promised);
        self.flows.0.capacity.admit_peer(open, clusters, borrowed)
    }

    fn attribute_to_opener(&mut self, opener: FlowOpener) -> OpenStreams {
        let mut table = self.flows.table();
        let own = table.openers.entry(opener.clone()).or_default();
        *own += 1;
        let own = *own;
        let (all, inbound) = (table.open, table.inbound);
        drop(table);
        self.opener = Some(opener);
        let direction = if self.direction == Direction::Inbound { inbound } else { all - inbound };
        OpenStreams { all, direction, own }
    }

    /// Counts the flow for a configured target. Never for one that only a peer has named: what is kept
    /// must be bounded by our own configuration.
    pub(crate) fn attribute_to_target(&mut self, target: &Target, cluster: &ClusterName) {
        let key = (self.direction, target.clone(), cluster.clone());
        let mut table = self.flows.table();
        if !table.groups.contains_key(&key) {
            table.groups.insert(key.clone(), TargetFlows::new(&key));
        }
        if let Some(flows) = table.groups.get_mut(&key) {
            flows.group.open += 1;
            self.sent.count_in(&flows.metrics.sent);
            self.received.count_in(&flows.metrics.received);
            self.target_metrics = Some(Arc::clone(&flows.metrics));
        }
        drop(table);
        self.target = Some(target.clone());
        self.group = Some(key);
    }

    /// Counts the flow for its source. Never before policy allowed it: what is kept must be bounded by
    /// flows that exist, not by names that a peer invents.
    pub(crate) fn attribute_to_source(&mut self, permit: &Permit) {
        let user = (permit.target().service.clone(), permit.source().clone());
        *self.flows.table().users.entry(user.clone()).or_default() += 1;
        self.user = Some(user);
        self.join_conversation();
    }

    /// Records how long the flow has waited for its answer: outbound for the peer's, inbound for a backend's.
    pub(crate) fn answered(&mut self) {
        self.is_answered = true;
        let waited = self.started.elapsed();
        match &self.target_metrics {
            Some(metrics) => metrics.answered(waited),
            None => metrics::answered_unnamed(self.direction, self.link(), waited),
        }
    }

    /// Records how long a backend took to accept.
    pub(crate) fn dialled(&self, waited: Duration) {
        if let Some(metrics) = &self.target_metrics {
            metrics.dialled.record(waited.as_secs_f64());
        }
    }

    /// The cluster at the other end, as a label: the one that the import or the grant names, or else the one that
    /// the peer's certificate has proved. Empty if there is none.
    fn link(&self) -> &str {
        let named = self.group.as_ref().map(|(_, _, cluster)| cluster);
        let proved = self.peer.as_ref().map(|(cluster, _)| cluster);
        named.or(proved).map_or("", ClusterName::as_str)
    }

    /// Counts it among those that only ask, from now on.
    pub(crate) fn mark_probe(&mut self) {
        self.is_probe = true;
    }

    /// Sets how the flow ended; it is recorded when it is dropped.
    pub(crate) fn end(mut self, end: Result<(), FlowFailure>) {
        self.end = end;
    }

    /// True if nothing was delivered. A peer that answers with a number of its own has taken nothing.
    fn is_refused(&self, code: Code) -> bool {
        code.is_refusal() || (matches!(code, Code::Unknown(_)) && !self.is_answered)
    }

    fn code(&self) -> Code {
        self.end.as_ref().err().map_or(Code::Finished, |f| f.code)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let (direction, code) = (self.direction, self.code());
        let duration = self.started.elapsed();
        if let Some(debtor) = self.futile_debtor() {
            self.flows.0.futile.note(&debtor, code);
        }
        // Numbers that only a peer knows are one: what is kept must be bounded by our own list.
        let known = if let Code::Unknown(_) = code { Code::Unknown(0) } else { code };
        self.leave_half_open();
        let metrics = self.flows.0.metrics_of(direction);
        metrics.open.decrement(1.0);
        match &self.target_metrics {
            _ if self.is_probe => metrics::probe_ended(direction, known, self.link()),
            Some(metrics) => metrics.ended(known),
            None => metrics::ended_unnamed(direction, known, self.link()),
        }
        if !self.is_probe {
            metrics.lasted(duration);
        }
        if let Some(conversation) = &self.conversation {
            conversation.end(known, Instant::now());
        }
        self.leave_table(known);
        self.tell_end(code, duration);
        self.log(code, duration);
    }
}

impl Flow {
    /// Gives its places back, and counts its end, unless it only asked.
    fn leave_table(&mut self, known: Code) {
        let direction = self.direction;
        let flows = self.flows.clone();
        let mut table = flows.table();
        table.open -= 1;
        table.inbound -= usize::from(direction == Direction::Inbound);
        if let Some(user) = &self.user {
            count_down(&mut table.users, user);
        }
        if let Some(opener) = &self.opener {
            count_down(&mut table.openers, opener);
        }
        let group = self.group.take();
        let totals = group.as_ref().and_then(|key| table.groups.get_mut(key));
        if let Some(TargetFlows { group, .. }) = totals {
            group.open -= 1;
            if !self.is_probe {
                self.count_end(group);
            }
        }
        if self.is_probe {
            return;
        }
        *table.ended.entry((direction, known)).or_default() += 1;
        if let Some((direction, target, cluster)) = group {
            let source = self.source.as_ref().map(|source| source.workload.clone());
            let (asker, code) = ((direction, cluster, target, source), self.code());
            let is_refused = self.is_refused(code);
            if is_refused {
                table.refused.count(&asker, known);
            }
            match &self.end {
                Err(failure) if is_refused || code == Code::OverBudget => {
                    let reason = self.local_reason(failure);
                    table.recent.note(asker, known, &reason, Instant::now());
                }
                Ok(()) | Err(_) if self.is_answered => table.recent.served(&asker),
                // The source gave up, or the node went away: nothing is known of who would have been served.
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// The reason as this node's own operator is told it: with the backend that was dialled in vain.
    fn local_reason<'a>(&self, failure: &'a FlowFailure) -> Cow<'a, str> {
        let dialled = self.workload.filter(|_| {
            self.direction == Direction::Inbound
                && BackendFault::from_code(failure.code).is_some()
                && !failure.reason.is_empty()
        });
        match dialled {
            Some(dialled) => format!("{} ({dialled})", failure.reason).into(),
            None => failure.reason.as_str().into(),
        }
    }

    fn count_end(&self, group: &mut TargetTotals) {
        let is_refused = self.is_refused(self.code());
        group.ended += 1;
        group.bytes_sent += self.sent.bytes();
        group.bytes_received += self.received.bytes();
        group.hops += u64::from(self.hop);
        group.refused_in_a_row = match is_refused {
            true => group.refused_in_a_row + 1,
            false if self.is_answered => 0,
            false => group.refused_in_a_row,
        };
        if let Err(failure) = &self.end {
            group.refused += u64::from(is_refused);
            group.failed += u64::from(!is_refused);
            group.last_failure = Some((failure.code, self.local_reason(failure).into_owned()));
        }
    }
}
