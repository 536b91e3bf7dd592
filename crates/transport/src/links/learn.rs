//! Learns what a linked cluster says of itself: from one source at a time, another when that one ends or
//! grows old.
//!
//! Who may be a source, and who is a better one, is [`adit_core::choose::links::sources`]'s to say. A
//! source that failed rests for a while. Continues where it left off when it comes back to the same
//! source; never merges what two said.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use adit_core::choose;
use adit_core::choose::links::Rank;
use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::Class;
use adit_core::wire::header::DEADLINE;
use adit_core::wire::state::replica::Marked;
use adit_core::wire::state::{Heard, Message, Replica, Subscribe};
use adit_core::wire::{StreamKind, WireError};
use bytes::BytesMut;
use tokio::sync::watch;
use tokio::task::consume_budget;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::allowance::Allowance;
use super::conn::{Conn, InUse, What};
use super::messages::Messages;
use super::shared::Shared;
use super::views::{LinkView, STALE};
use crate::stream::SendStream;

/// A node that tells, and its cluster.
type Source = (ClusterName, NodeName);

/// The least time between two views of one link that are handed on: whoever acts on views has the same work
/// however often a peer changes its mind. After a pause the first is handed on at once.
const HAND_ON_INTERVAL: Duration = Duration::from_millis(250);

/// The least time between two warnings of one link that something is left out: a peer has as many as it likes.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// A source that has told nothing whole for so long is no source.
const FIRST: Duration = Duration::from_secs(5);

/// Why a source was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Somebody better placed is connected.
    Better,
    /// The stream ended, could not be had, or brought nothing.
    Ended(Code),
    /// It knows nothing that is new enough.
    Stale,
}

/// One link's learning.
struct Learner {
    shared: Arc<Shared>,
    cluster: ClusterName,
    /// Who told what we know, and where that was.
    told: Option<(Source, Replica)>,
    /// Sources that failed: how often, and until when they rest.
    resting: BTreeMap<Source, (u32, Instant)>,
    /// How much is heard.
    allowance: Allowance,
    /// When it was last said in the log that something is left out.
    warned: Option<Instant>,
    /// When a view was handed on last.
    handed_on: Option<Instant>,
}

/// What a source has told so far.
struct Hearing {
    replica: Replica,
    /// Whether it told anything whole.
    heard: bool,
    /// The newest view, until it is handed on, and when it arrived.
    waiting: Option<(Marked, Instant)>,
    /// When the source is given up unless it says more.
    until: Instant,
}

/// Tells when another source may be better.
struct Changes {
    theirs: watch::Receiver<()>,
    ours: watch::Receiver<()>,
}

impl Changes {
    fn forget(&mut self) {
        self.theirs.mark_unchanged();
        self.ours.mark_unchanged();
    }

    async fn wait(&mut self) {
        tokio::select! {
            Ok(()) = self.theirs.changed() => {}
            Ok(()) = self.ours.changed() => {}
            else => std::future::pending().await,
        }
    }
}

/// Learns about `cluster` until `stop`.
pub(super) async fn learn(shared: Arc<Shared>, cluster: ClusterName, stop: CancellationToken) {
    let mut learner = Learner {
        shared,
        cluster,
        told: None,
        resting: BTreeMap::new(),
        allowance: Allowance::new(),
        warned: None,
        handed_on: None,
    };
    // Cancelled or not, there is nothing to hand back.
    let _ = stop.run_until_cancelled(learner.run()).await;
}

impl Learner {
    async fn run(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut changes = self.changes();
        loop {
            changes.forget();
            let sources = self.sources();
            self.resting.retain(|source, _| sources.iter().any(|(_, s)| s == source));
            let Some((_, source)) = sources.into_iter().find(|(_, s)| self.is_awake(s)) else {
                let next = self.resting.values().map(|(_, until)| *until).min();
                tokio::select! {
                    () = changes.wait() => {}
                    () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                }
                continue;
            };
            let left = self.follow(&source).await;
            tracing::debug!(link = %self.cluster, source = %source.1, ?left, "left a source");
            if left != Left::Better {
                let failed = self.resting.get(&source).map_or(0, |(n, _)| *n);
                let wait = choose::backoff(failed, shared.local.unit());
                self.resting.insert(source, (failed + 1, Instant::now() + wait));
            }
        }
    }

    /// Who may be a source changes with the connections of two clusters: the peer and our own.
    fn changes(&self) -> Changes {
        let register = &self.shared.register;
        let ours = self.shared.now().this.cluster.clone();
        Changes { theirs: register.bell_of(&self.cluster), ours: register.bell_of(&ours) }
    }

    fn sources(&self) -> Vec<(Rank, Source)> {
        let shared = &self.shared;
        let view = shared.known.views.get(&self.cluster);
        let view = view.as_ref().map(|v| &*v.view);
        let now = shared.now();
        let of = |cluster: &ClusterName| {
            let nodes = shared.register.connected(cluster).into_iter();
            nodes.map(|node| (cluster.clone(), node)).collect::<Vec<_>>()
        };
        let connected = of(&self.cluster).into_iter().chain(of(&now.this.cluster)).collect();
        choose::links::sources(&now, &self.cluster, view, &connected)
    }

    fn is_awake(&self, source: &Source) -> bool {
        self.resting.get(source).is_none_or(|(_, until)| *until <= Instant::now())
    }

    /// Whether there is somebody else to ask.
    fn has_other(&self, source: &Source) -> bool {
        self.sources().iter().any(|(_, other)| other != source && self.is_awake(other))
    }

    /// Whether somebody is connected who is better placed than `source`.
    fn is_outdone(&self, source: &Source) -> bool {
        let sources = self.sources();
        let rank = sources.iter().find(|(_, s)| s == source).map(|(rank, _)| *rank);
        let better =
            |(other, s): &(Rank, Source)| rank.is_none_or(|r| *other < r) && self.is_awake(s);
        sources.iter().any(better)
    }

    /// Hears one source until there is a reason to leave it.
    async fn follow(&mut self, source: &Source) -> Left {
        let shared = Arc::clone(&self.shared);
        let (mut send, mut messages, replica, using) = match self.subscribe(source).await {
            Ok(subscribed) => subscribed,
            Err(code) => return Left::Ended(code),
        };
        let until = Instant::now() + FIRST;
        let mut hearing = Hearing { replica, heard: false, waiting: None, until };
        let mut left = self.hear(source, using.conn(), &mut messages, &mut hearing).await;
        // What was said before the end is true nevertheless.
        if self.hand_on(source, &mut hearing.waiting).is_err() && left == Left::Better {
            left = Left::Stale;
        }
        let Hearing { replica, heard, .. } = hearing;
        let broken = left == Left::Ended(Code::ProtocolError);
        messages.stop(if broken { Code::ProtocolError } else { Code::Finished });
        // The only error is that the stream has ended.
        send.finish().ok();
        shared.work.metrics.state_received(&source.0, messages.taken());
        if heard || self.told.as_ref().is_none_or(|(s, _)| s == source) {
            self.told = (!broken).then(|| (source.clone(), replica));
        }
        left
    }

    async fn subscribe(
        &mut self,
        source: &Source,
    ) -> Result<(SendStream, Messages<Option<Heard>>, Replica, InUse), Code> {
        let shared = &self.shared;
        let choices =
            shared.register.choices(source, Class::Interactive, 0, (shared.local.random)());
        let best = choices.into_iter().next().ok_or(Code::LinkDown)?;
        let using = best.conn.enter(What::Learning).ok_or(Code::Draining)?;
        let opened = best.conn.quic.open_bi(DEADLINE).await;
        let (mut send, recv) = opened.map_err(|e| e.code())?;
        let replica = match &mut self.told {
            Some((teller, replica)) if teller == source => std::mem::take(replica),
            _ => Replica::default(),
        };
        let subscribe = Subscribe { cluster: self.cluster.clone(), have: replica.position() };
        let mut bytes = BytesMut::from(&[StreamKind::State.byte()][..]);
        Message::Subscribe(subscribe).encode(&mut bytes);
        send.send_all(&bytes).await.map_err(|e| e.code())?;
        Ok((send, Messages::new(recv, decode), replica, using))
    }

    async fn hear(
        &mut self,
        source: &Source,
        on: &Conn,
        messages: &mut Messages<Option<Heard>>,
        hearing: &mut Hearing,
    ) -> Left {
        let mut changes = self.changes();
        loop {
            // A peer that never pauses is heard in turns with everybody else.
            consume_budget().await;
            let held = self.allowance.exhausted_until();
            let due = self.handed_on.map_or_else(Instant::now, |at| at + HAND_ON_INTERVAL);
            let before = messages.taken();
            tokio::select! {
                biased;
                () = sleep_until(due), if hearing.waiting.is_some() => {
                    if self.hand_on(source, &mut hearing.waiting).is_err() {
                        return Left::Stale;
                    }
                    if self.is_outdone(source) {
                        return Left::Better;
                    }
                }
                () = sleep_until(held.unwrap_or(due)), if held.is_some() => {
                    // That it was not heard is not its silence.
                    hearing.until = hearing.until.max(Instant::now() + FIRST);
                }
                message = messages.next(), if held.is_none() => {
                    let message = match message {
                        Ok(message) => message,
                        Err(error) => return Left::Ended(error.code()),
                    };
                    self.allowance.spend(messages.taken() - before);
                    let Some(message) = message else { continue };
                    if hearing.take(message).is_err() {
                        return Left::Ended(Code::ProtocolError);
                    }
                }
                () = changes.wait() => {
                    // The source's next process knows better than one that has handed over.
                    let is_followed =
                        on.is_leaving().is_some() && self.shared.register.is_followed(on);
                    if is_followed || self.is_outdone(source) {
                        return Left::Better;
                    }
                }
                () = sleep_until(hearing.until), if held.is_none() => return Left::Stale,
            }
        }
    }

    /// Hands on the view that waits, if one does. Fails where it is too old: then it is taken only if what we
    /// have is older still, and the source is to be left.
    fn hand_on(
        &mut self,
        source: &Source,
        waiting: &mut Option<(Marked, Instant)>,
    ) -> Result<(), Left> {
        let Some((marked, received)) = waiting.take() else { return Ok(()) };
        self.handed_on = Some(Instant::now());
        let shared = &self.shared;
        let age = Duration::from_millis(marked.age_ms);
        let old = shared.known.views.get(&self.cluster);
        let older = old.as_ref().is_none_or(|old| old.from == *source || old.age() > age);
        let Marked { view, omitted, position, lost, .. } = marked;
        // Somebody else may still be connected with it. Where nobody is, they are asked in turn.
        let is_hearsay = age > STALE || (lost && self.has_other(source));
        if is_hearsay && !older {
            return Err(Left::Stale);
        }
        let is_news = old.as_ref().map(|old| &old.omitted) != Some(&omitted);
        let said = self.warned.is_some_and(|at| at.elapsed() < WARN_INTERVAL);
        if !omitted.is_empty() && is_news && !said {
            self.warned = Some(Instant::now());
            let (link, count) = (&self.cluster, omitted.count());
            tracing::warn!(%link, count, "of what {link} says some is left out: {omitted}");
        }
        let new = LinkView { view, omitted, position, from: source.clone(), age, received, lost };
        // What is merely confirmed has been passed on.
        if source.0 == self.cluster && old.is_none_or(|old| !old.is_confirmed_by(&new)) {
            shared.known.feeds.relay(&self.cluster, &new.view, &*shared.local.random);
        }
        shared.known.views.set(&self.cluster, new);
        if is_hearsay {
            return Err(Left::Stale);
        }
        self.resting.remove(source);
        Ok(())
    }
}

/// What was read, none where it is to be skipped, and its length.
type Read = (Option<Option<Heard>>, usize);

/// Reads a message, also one that is to be skipped: that costs as much.
fn decode(input: &[u8]) -> Result<Option<Read>, WireError> {
    Ok(Heard::decode(input)?.map(|(heard, taken)| (Some(heard), taken)))
}

impl Hearing {
    /// Takes what was heard next.
    fn take(&mut self, message: Heard) -> Result<(), WireError> {
        match self.replica.hear(message)? {
            Some(marked) => {
                let (age, now) = (Duration::from_millis(marked.age_ms), Instant::now());
                self.until = now + STALE.saturating_sub(age);
                self.heard = true;
                self.waiting = Some((marked, now));
            }
            // A large view takes its time, but it must go on.
            None if !self.heard => self.until = Instant::now() + FIRST,
            None => {}
        }
        Ok(())
    }
}
