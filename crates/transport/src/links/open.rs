//! Opens a stream to a node: on a connection that is there, or on one that is dialled for it.
//!
//! A connection that the stream's worker dialled in its class is best; another worker's, or the peer's,
//! serves at once while our own is dialled for the next; one of the other class serves if no connection of
//! the right one can be had. Until a stream is given out nothing of it has left this node, so every refusal
//! may be tried elsewhere.

use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeKey, NodeName};
use adit_core::snapshot::Class;
use adit_core::wire::StreamKind;
use futures_util::StreamExt as _;
use futures_util::future::OptionFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;

use super::connections::{ConnectionChoice, StreamGuard, StreamUse};
use super::dialer::{DialFailure, DialKey, PendingDial};
use super::inner::LinksInner;
use super::stream::{OpenStreamError, PeerStream};
use crate::endpoint;
use crate::stream::{RecvStream, SendStream};

/// Dials that one stream waits for. The first may meet a process that hands over at that moment; its
/// successor answers the next.
const MAX_DIALS: usize = 2;

/// The longest time that a stream waits for the dial of a node that was lost, from when the dial began: its
/// process may be back, which takes two round trips to find.
const LOST_DIAL_TIMEOUT: Duration = Duration::from_millis(800);

/// A stream that is to be opened.
struct OpenRequest {
    key: NodeKey,
    class: Class,
    worker: usize,
}

impl LinksInner {
    /// See [`super::Links::open`]; the stream is of this `kind`.
    pub(super) async fn open(
        self: &Arc<Self>,
        worker: usize,
        key: NodeKey,
        class: Class,
        kind: StreamKind,
    ) -> Result<PeerStream, OpenStreamError> {
        if self.runtime.shutdown.draining.is_cancelled() {
            let reason = "this node is going away".to_owned();
            return Err(OpenStreamError { code: Code::Draining, reason });
        }
        let request = OpenRequest { key, class, worker };
        let mut choices = self.choices(&request);
        let mut refused = None;
        if !choices.first().is_some_and(|c| c.is_of_class) {
            // A dial that fails leaves what there is of the other class.
            for _ in 0..MAX_DIALS {
                refused = self.dial_for_stream(&request).await.err().map(OpenStreamError::from);
                choices = self.choices(&request);
                if refused.is_some() || !choices.is_empty() {
                    break;
                }
            }
        }
        while !choices.is_empty() {
            // Nobody waits for it alone: it is for the streams to come.
            let further = self.is_another_wanted(&choices, &request);
            let further = further.then(|| self.start_or_join_dial(&request.dial_key()));
            match self.open_on_any(&choices, further, kind).await {
                Err(error) if error.code == Code::OpenTimeout => refused = Some(error),
                other => return other,
            }
            choices = self.further_choices(&request, &choices).await;
        }
        Err(refused.unwrap_or_else(|| OpenStreamError {
            code: Code::LinkDown,
            reason: format!("no connection with {} takes new streams", request.key),
        }))
    }

    fn choices(&self, request: &OpenRequest) -> Vec<ConnectionChoice> {
        self.connections.choices(
            &request.key,
            request.class,
            request.worker,
            (self.context.random)(),
        )
    }

    /// See [`super::Links::first_reachable`].
    pub(super) fn first_reachable<'a>(
        &self,
        cluster: &ClusterName,
        nodes: &[&'a NodeName],
    ) -> Option<&'a NodeName> {
        let connected = self.connections.first_connected(cluster, nodes);
        let before = &nodes[..connected.unwrap_or(nodes.len())];
        self.first_dialable(cluster, before).or_else(|| connected.map(|n| nodes[n]))
    }

    /// Dials for a stream, together with all others that wait for the same.
    async fn dial_for_stream(self: &Arc<Self>, request: &OpenRequest) -> Result<(), DialFailure> {
        let key = &request.key;
        let NodeKey { cluster, .. } = key;
        if let Some(failure) = self.why_unreachable(cluster) {
            return Err(failure);
        }
        if let Some(failure) = self.dialer.history.recent_failure(key) {
            return Err(failure);
        }
        if self.dialer.history.backing_off_until(key).is_some() {
            let text = format!("{key} went away a moment ago");
            return Err(DialFailure::new(Code::Draining, text));
        }
        if self.addresses_of(key).is_empty() {
            let text = format!("no address is known at which {key} can be dialled");
            return Err(DialFailure::new(Code::LinkDown, text));
        }
        let pending = self.start_or_join_dial(&request.dial_key());
        let mut wait = self.context.settings.dial_timeout;
        if self.connections.disconnects.get(key).is_some() {
            wait = wait.min(LOST_DIAL_TIMEOUT);
            // If the whole cluster was lost, and one of its nodes does not answer, nobody waits for each of
            // the others in turn: they are dialled for those who come later.
            let found_dead = self.dialer.history.last_recent_failure(cluster);
            if let Some(failure) = found_dead.filter(|_| !self.connections.is_connected(cluster)) {
                return Err(failure);
            }
        }
        if let Some(result) = pending.wait_result(wait).await {
            return result;
        }
        let text = format!("the dial of {key} takes too long");
        let failure = DialFailure::new(Code::LinkDown, text);
        // Each worker has a dial of its own, which need not be waited for as well. One that succeeds forgets it.
        let is_announced = self.is_announced(key);
        self.dialer.history.record_failure(key, is_announced, failure.clone());
        Err(failure)
    }

    /// True if another connection is worth dialling before a stream waits for it: the best one is another worker's or the
    /// peer's, or is about to be full.
    fn is_another_wanted(&self, choices: &[ConnectionChoice], request: &OpenRequest) -> bool {
        let Some(best) = choices.first() else { return false };
        let filling = self.endpoints.tuning().streams as usize / 4 * 3;
        let is_filling = best.streams >= filling && self.free_slot(&request.dial_key()).is_some();
        (!best.is_own || is_filling) && self.may_dial(&request.key)
    }

    /// All connections, if there is one that is not among those that were tried. If there is none it is dialled.
    async fn further_choices(
        self: &Arc<Self>,
        request: &OpenRequest,
        tried: &[ConnectionChoice],
    ) -> Vec<ConnectionChoice> {
        let is_new = |c: &ConnectionChoice| !tried.iter().any(|o| Arc::ptr_eq(&o.conn, &c.conn));
        let mut choices = self.choices(request);
        let is_of_class = tried.iter().any(|choice| choice.is_of_class);
        if !choices.iter().any(is_new) && is_of_class && self.may_dial(&request.key) {
            drop(self.dial_for_stream(request).await);
            choices = self.choices(request);
        }
        if choices.iter().any(is_new) { choices } else { Vec::new() }
    }

    /// Opens a stream on the best of these connections that has room for one, and sends its kind. If all are full it waits:
    /// a peer allows more streams as it uses them, which takes a round trip. It ends with [`Code::OpenTimeout`] after
    /// [`LinkSettings::open_timeout`](super::LinkSettings::open_timeout), or when a further connection has been dialled.
    async fn open_on_any(
        &self,
        choices: &[ConnectionChoice],
        further: Option<PendingDial>,
        kind: StreamKind,
    ) -> Result<PeerStream, OpenStreamError> {
        for choice in choices {
            if let Ok(reserved) = reserve_on(choice, Duration::ZERO, kind).await {
                return self.begin(reserved, kind).await;
            }
        }
        let limit = self.context.settings.open_timeout;
        let waits = choices.iter().map(|choice| reserve_on(choice, limit, kind));
        let dialled = async {
            let result = OptionFuture::from(further.map(|dial| dial.wait_result(limit))).await;
            if !matches!(result, Some(Some(Ok(())))) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            reserved = first_reserved(waits.collect()) => self.begin(reserved?, kind).await,
            () = dialled => Err(endpoint::OpenBiError::TimedOut(limit).into()),
        }
    }

    /// Sends the kind of a stream, which waits only while the connection's send window is full.
    async fn begin(
        &self,
        (mut send, recv, using): ReservedStream,
        kind: StreamKind,
    ) -> Result<PeerStream, OpenStreamError> {
        let sent = timeout(self.context.settings.open_timeout, send.send_all(&[kind.byte()])).await;
        match sent {
            Ok(Ok(())) => Ok(PeerStream::new(send, recv, using)),
            Ok(Err(error)) => {
                Err(OpenStreamError { code: error.code(), reason: error.to_string() })
            }
            Err(_) => {
                send.reset(Code::OpenTimeout);
                let node = &using.connection().peer.node;
                let reason = format!("the connection with node {node} is congested");
                Err(OpenStreamError { code: Code::OpenTimeout, reason })
            }
        }
    }
}

/// A stream of which nothing has been sent yet: no peer knows of it.
type ReservedStream = (SendStream, RecvStream, StreamGuard);

/// The first stream that can be reserved. If none can, and it was only for want of room, the error says so.
async fn first_reserved(
    mut waits: FuturesUnordered<impl Future<Output = Result<ReservedStream, OpenStreamError>>>,
) -> Result<ReservedStream, OpenStreamError> {
    let mut refused: Option<OpenStreamError> = None;
    while let Some(reserved) = waits.next().await {
        match reserved {
            Ok(reserved) => return Ok(reserved),
            Err(_) if refused.as_ref().is_some_and(|e| e.code == Code::OpenTimeout) => {}
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| OpenStreamError {
        code: Code::LinkDown,
        reason: "its connections have ended".to_owned(),
    }))
}

/// Reserves a stream on a connection that has room for it within `within`.
async fn reserve_on(
    choice: &ConnectionChoice,
    within: Duration,
    kind: StreamKind,
) -> Result<ReservedStream, OpenStreamError> {
    let conn = &choice.conn;
    if kind == StreamKind::Report {
        super::reports::check_answers_reports(&conn.peer)?;
    }
    let using = conn.try_begin_use(StreamUse::Data).ok_or_else(|| OpenStreamError {
        code: Code::Draining,
        reason: format!("node {} is going away", conn.peer.node),
    })?;
    let (send, recv) = conn.quic.open_bi(within).await?;
    Ok((send, recv, using))
}

impl OpenRequest {
    fn dial_key(&self) -> DialKey {
        DialKey { node: self.key.clone(), class: self.class, worker: self.worker }
    }
}

impl From<DialFailure> for OpenStreamError {
    fn from(failure: DialFailure) -> Self {
        Self { code: open_code(failure.code), reason: failure.text }
    }
}

impl From<endpoint::OpenBiError> for OpenStreamError {
    fn from(error: endpoint::OpenBiError) -> Self {
        Self { code: open_code(error.code()), reason: error.to_string() }
    }
}

/// The code under which a stream is refused for what happened to a connection. A stream that was never
/// sent was refused, whatever ended the connection; so it may be tried elsewhere.
fn open_code(code: Code) -> Code {
    let is_refusal = code.is_retryable();
    if is_refusal { code } else { Code::LinkDown }
}
