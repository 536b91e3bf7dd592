//! Subscribes to a linked cluster's view: from one source at a time, and from another when that one ends or
//! grows old.
//!
//! [`adit_core::routing`] decides who may be a source, and who is a better one. A source that failed is left
//! alone for a while. A subscriber continues where it left off when it comes back to the same source; it
//! never merges two sources' views.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeKey};
use adit_core::routing;
use adit_core::routing::SourceRank;
use adit_core::snapshot::Class;
use adit_core::throttle::Throttle;
use adit_core::wire::header::HEADER_TIMEOUT;
use adit_core::wire::state::replica::MarkedView;
use adit_core::wire::state::{ReceivedMessage, StateMessage, SubscribeRequest, ViewReplica};
use adit_core::wire::{StreamKind, WireError};
use bytes::BytesMut;
use tokio::sync::watch;
use tokio::task::consume_budget;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::receive_budget::ReceiveBudget;
use super::views::{ReceivedView, STALE_TIMEOUT};
use crate::links::connections::{PeerConnection, StreamGuard, StreamUse};
use crate::links::context::RETRY_BACKOFF;
use crate::links::inner::LinksInner;
use crate::links::message_reader::MessageReader;
use crate::stream::SendStream;

/// The least time between two views of one link that are delivered: whoever acts on views has the same work
/// however often a peer changes its mind. After a pause the first is delivered at once.
const DELIVER_INTERVAL: Duration = Duration::from_millis(250);

/// The least time between two warnings of one link that something is left out: a peer has as many as it likes.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// A source that has sent no whole view within this, from when it was asked, is no source.
const WHOLE_VIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why a source was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndReason {
    /// Somebody better placed is connected.
    Better,
    /// The stream ended, could not be had, or brought nothing.
    Ended(Code),
    /// The source has no view that is new enough.
    Stale,
}

/// The subscriber of one link.
struct ViewSubscriber {
    shared: Arc<LinksInner>,
    cluster: ClusterName,
    /// The node that sent the view that we have, and the replica of it.
    last: Option<(NodeKey, ViewReplica)>,
    /// Sources that failed: how often, and until when they rest.
    backing_off: BTreeMap<NodeKey, (u32, Instant)>,
    /// The budget of what is received.
    budget: ReceiveBudget,
    /// Limits the warnings that something is left out.
    warnings: Throttle<(), Instant>,
    /// The time at which a view was delivered last.
    delivered_at: Option<Instant>,
}

/// The state of a subscription with one source.
struct Subscription {
    replica: ViewReplica,
    /// True if it sent a whole view.
    has_received: bool,
    /// The newest view, until it is delivered, and when it arrived.
    pending: Option<(MarkedView, Instant)>,
    /// The time at which the source is given up unless it sends more.
    deadline: Instant,
}

/// Wakes when another source may be better.
struct SourceChanges {
    of_cluster: watch::Receiver<()>,
    of_siblings: watch::Receiver<()>,
}

impl SourceChanges {
    fn mark_seen(&mut self) {
        self.of_cluster.mark_unchanged();
        self.of_siblings.mark_unchanged();
    }

    async fn wait(&mut self) {
        tokio::select! {
            Ok(()) = self.of_cluster.changed() => {}
            Ok(()) = self.of_siblings.changed() => {}
            else => std::future::pending().await,
        }
    }
}

/// Learns about `cluster` until `stop`.
pub(crate) async fn run_subscriber(
    shared: Arc<LinksInner>,
    cluster: ClusterName,
    stop: CancellationToken,
) {
    let mut subscriber = ViewSubscriber {
        shared,
        cluster,
        last: None,
        backing_off: BTreeMap::new(),
        budget: ReceiveBudget::new(),
        warnings: Throttle::new(WARN_INTERVAL),
        delivered_at: None,
    };
    // Cancelled or not, there is nothing to hand back.
    let _ = stop.run_until_cancelled(subscriber.run()).await;
}

impl ViewSubscriber {
    async fn run(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut changes = self.changes();
        loop {
            changes.mark_seen();
            let sources = self.sources();
            self.backing_off.retain(|source, _| sources.iter().any(|(_, s)| s == source));
            let Some((_, source)) = sources.into_iter().find(|(_, s)| self.is_available(s)) else {
                let next = self.backing_off.values().map(|(_, until)| *until).min();
                tokio::select! {
                    () = changes.wait() => {}
                    () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                }
                continue;
            };
            let end = self.subscribe_and_receive(&source).await;
            tracing::debug!(link = %self.cluster, source = %source.node, ?end, "left a source");
            if end != EndReason::Better {
                let failed = self.backing_off.get(&source).map_or(0, |(n, _)| *n);
                let wait = RETRY_BACKOFF.with_full_jitter(failed, shared.context.random_unit());
                self.backing_off.insert(source, (failed + 1, Instant::now() + wait));
            }
        }
    }

    /// Subscribes to changes of the sources: of the connections with the peer and with our own cluster.
    fn changes(&self) -> SourceChanges {
        let register = &self.shared.connections;
        let own_cluster = self.shared.snapshot().local.cluster.clone();
        SourceChanges {
            of_cluster: register.changes_of(&self.cluster),
            of_siblings: register.changes_of(&own_cluster),
        }
    }

    fn sources(&self) -> Vec<(SourceRank, NodeKey)> {
        let shared = &self.shared;
        let view = shared.knowledge.views.get(&self.cluster);
        let view = view.as_ref().map(|v| &*v.view);
        let snapshot = shared.snapshot();
        let of = |cluster: &ClusterName| {
            let nodes = shared.connections.connected(cluster).into_iter();
            nodes.map(|node| NodeKey::new(cluster, &node)).collect::<Vec<_>>()
        };
        let connected = of(&self.cluster).into_iter().chain(of(&snapshot.local.cluster)).collect();
        routing::view_sources(&snapshot, &self.cluster, view, &connected)
    }

    fn is_available(&self, source: &NodeKey) -> bool {
        self.backing_off.get(source).is_none_or(|(_, until)| *until <= Instant::now())
    }

    /// True if there is another source.
    fn has_other_source(&self, source: &NodeKey) -> bool {
        self.sources().iter().any(|(_, other)| other != source && self.is_available(other))
    }

    /// True if a better source than `source` is connected.
    fn has_better_source(&self, source: &NodeKey) -> bool {
        let sources = self.sources();
        let rank = sources.iter().find(|(_, s)| s == source).map(|(rank, _)| *rank);
        let better = |(other, s): &(SourceRank, NodeKey)| {
            rank.is_none_or(|r| *other < r) && self.is_available(s)
        };
        sources.iter().any(better)
    }

    /// Receives from one source until there is a reason to leave it.
    async fn subscribe_and_receive(&mut self, source: &NodeKey) -> EndReason {
        let shared = Arc::clone(&self.shared);
        let (mut send, mut messages, replica, using) = match self.open_subscription(source).await {
            Ok(subscribed) => subscribed,
            Err(code) => return EndReason::Ended(code),
        };
        let until = Instant::now() + WHOLE_VIEW_TIMEOUT;
        let mut subscription =
            Subscription { replica, has_received: false, pending: None, deadline: until };
        let mut end =
            self.receive(source, using.connection(), &mut messages, &mut subscription).await;
        // Views that came before the end are true nevertheless.
        if self.deliver(source, &mut subscription.pending).is_err() && end == EndReason::Better {
            end = EndReason::Stale;
        }
        let Subscription { replica, has_received, .. } = subscription;
        let broken = end == EndReason::Ended(Code::ProtocolError);
        messages.stop(if broken { Code::ProtocolError } else { Code::Finished });
        // The only error is that the stream has ended.
        send.finish().ok();
        shared.peers.metrics.state_received(&source.cluster, messages.bytes_read());
        if has_received || self.last.as_ref().is_none_or(|(s, _)| s == source) {
            self.last = (!broken).then(|| (source.clone(), replica));
        }
        end
    }

    async fn open_subscription(
        &mut self,
        source: &NodeKey,
    ) -> Result<(SendStream, MessageReader<Option<ReceivedMessage>>, ViewReplica, StreamGuard), Code>
    {
        let shared = &self.shared;
        let choices =
            shared.connections.choices(source, Class::Interactive, 0, (shared.context.random)());
        let best = choices.into_iter().next().ok_or(Code::LinkDown)?;
        let using = best.conn.try_begin_use(StreamUse::Subscribing).ok_or(Code::Draining)?;
        let opened = best.conn.quic.open_bi(HEADER_TIMEOUT).await;
        let (mut send, recv) = opened.map_err(|e| e.code())?;
        let replica = match &mut self.last {
            Some((teller, replica)) if teller == source => std::mem::take(replica),
            _ => ViewReplica::default(),
        };
        let subscribe =
            SubscribeRequest { cluster: self.cluster.clone(), have: replica.position() };
        let mut bytes = BytesMut::from(&[StreamKind::State.byte()][..]);
        StateMessage::Subscribe(subscribe).encode(&mut bytes);
        send.send_all(&bytes).await.map_err(|e| e.code())?;
        Ok((send, MessageReader::new(recv, decode), replica, using))
    }

    async fn receive(
        &mut self,
        source: &NodeKey,
        on: &PeerConnection,
        messages: &mut MessageReader<Option<ReceivedMessage>>,
        subscription: &mut Subscription,
    ) -> EndReason {
        let mut changes = self.changes();
        loop {
            // A peer that never pauses takes turns with everybody else.
            consume_budget().await;
            let held = self.budget.exhausted_until();
            let due = self.delivered_at.map_or_else(Instant::now, |at| at + DELIVER_INTERVAL);
            let before = messages.bytes_read();
            tokio::select! {
                biased;
                () = sleep_until(due), if subscription.pending.is_some() => {
                    if self.deliver(source, &mut subscription.pending).is_err() {
                        return EndReason::Stale;
                    }
                    if self.has_better_source(source) {
                        return EndReason::Better;
                    }
                }
                () = sleep_until(held.unwrap_or(due)), if held.is_some() => {
                    // The source was not read meanwhile, so it was not silent.
                    subscription.deadline = subscription.deadline.max(Instant::now() + WHOLE_VIEW_TIMEOUT);
                }
                message = messages.next(), if held.is_none() => {
                    let message = match message {
                        Ok(message) => message,
                        Err(error) => return EndReason::Ended(error.code()),
                    };
                    self.budget.spend(messages.bytes_read() - before);
                    let Some(message) = message else { continue };
                    if subscription.accept(message).is_err() {
                        return EndReason::Ended(Code::ProtocolError);
                    }
                }
                () = changes.wait() => {
                    // The source's next process knows better than one that has handed over.
                    let is_followed =
                        on.leaving_code().is_some() && self.shared.connections.has_successor(on);
                    if is_followed || self.has_better_source(source) {
                        return EndReason::Better;
                    }
                }
                () = sleep_until(subscription.deadline), if held.is_none() => return EndReason::Stale,
            }
        }
    }

    /// Delivers the pending view, if there is one. Fails if it is too old: then it is taken only if the view
    /// that we have is older still, and the source is to be left.
    fn deliver(
        &mut self,
        source: &NodeKey,
        waiting: &mut Option<(MarkedView, Instant)>,
    ) -> Result<(), EndReason> {
        let Some((marked, received)) = waiting.take() else { return Ok(()) };
        self.delivered_at = Some(Instant::now());
        let shared = &self.shared;
        let age = Duration::from_millis(marked.age_ms);
        let old = shared.knowledge.views.get(&self.cluster);
        let older = old.as_ref().is_none_or(|old| old.source == *source || old.age() > age);
        let MarkedView { view, omitted, position, lost, .. } = marked;
        // Another source may still be connected with it. If none is, they are asked in turn.
        let is_hearsay = age > STALE_TIMEOUT || (lost && self.has_other_source(source));
        if is_hearsay && !older {
            return Err(EndReason::Stale);
        }
        let is_news = old.as_ref().map(|old| &old.omitted) != Some(&omitted);
        if !omitted.is_empty() && is_news && self.warnings.try_pass((), Instant::now()) {
            let (link, count) = (&self.cluster, omitted.count());
            tracing::warn!(%link, count, "of what {link} says some is left out: {omitted}");
        }
        let new =
            ReceivedView { view, omitted, position, source: source.clone(), age, received, lost };
        // A view that is merely confirmed has been passed on already.
        if source.cluster == self.cluster && old.is_none_or(|old| !old.is_confirmed_by(&new)) {
            shared.knowledge.publishers.relay(&self.cluster, &new.view, &*shared.context.random);
        }
        shared.knowledge.views.set(&self.cluster, new);
        if is_hearsay {
            return Err(EndReason::Stale);
        }
        self.backing_off.remove(source);
        Ok(())
    }
}

/// The message that was read, `None` if it is to be skipped, and its length.
type DecodedMessage = (Option<Option<ReceivedMessage>>, usize);

/// Reads a message, also one that is to be skipped: that costs as much.
fn decode(input: &[u8]) -> Result<Option<DecodedMessage>, WireError> {
    Ok(ReceivedMessage::decode(input)?.map(|(message, taken)| (Some(message), taken)))
}

impl Subscription {
    /// Takes the next message.
    fn accept(&mut self, message: ReceivedMessage) -> Result<(), WireError> {
        match self.replica.receive(message)? {
            Some(marked) => {
                let (age, now) = (Duration::from_millis(marked.age_ms), Instant::now());
                self.deadline = now + STALE_TIMEOUT.saturating_sub(age);
                self.has_received = true;
                self.pending = Some((marked, now));
            }
            // A large view takes its time, but it must go on.
            None if !self.has_received => self.deadline = Instant::now() + WHOLE_VIEW_TIMEOUT,
            None => {}
        }
        Ok(())
    }
}
