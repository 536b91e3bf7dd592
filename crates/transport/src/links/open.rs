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
use tokio::time::timeout;

use super::connections::{ConnectionChoice, StreamUse};
use super::dialer::{DialFailure, DialKey};
use super::inner::LinksInner;
use super::stream::{OpenStreamError, PeerStream};
use crate::endpoint;
use crate::stream::SendStream;

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
        } else if !choices.first().is_some_and(|c| c.is_own) && self.may_dial(&request.key) {
            // Nobody waits for it: it is for the streams to come.
            drop(self.start_or_join_dial(&request.dial_key()));
        }
        for choice in &choices {
            match self.open_on(choice, OpenWait::Now, kind).await {
                Ok(stream) => return Ok(stream),
                Err(error) => refused = Some(error),
            }
        }
        // All of them are full. A peer allows more streams as it uses them, which takes a round trip.
        if let Some(best) = choices.first() {
            match self.open_on(best, OpenWait::Soon, kind).await {
                Err(error) if error.code == Code::OpenTimeout => refused = Some(error),
                other => return other,
            }
        }
        // A further connection, if there may be one.
        if choices.iter().any(|c| c.is_of_class)
            && self.may_dial(&request.key)
            && self.dial_for_stream(&request).await.is_ok()
        {
            let tried =
                |c: &ConnectionChoice| choices.iter().any(|o| Arc::ptr_eq(&o.conn, &c.conn));
            if let Some(new) = self.choices(&request).iter().find(|c| !tried(c)) {
                return self.open_on(new, OpenWait::Soon, kind).await;
            }
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

    /// Opens a stream on a connection, and sends its kind.
    async fn open_on(
        &self,
        choice: &ConnectionChoice,
        wait: OpenWait,
        kind: StreamKind,
    ) -> Result<PeerStream, OpenStreamError> {
        let conn = &choice.conn;
        if kind == StreamKind::Report {
            super::reports::check_answers_reports(&conn.peer)?;
        }
        let within = match wait {
            OpenWait::Now => Duration::ZERO,
            OpenWait::Soon => self.context.settings.open_timeout,
        };
        let using = conn.try_begin_use(StreamUse::Data).ok_or_else(|| OpenStreamError {
            code: Code::Draining,
            reason: format!("node {} is going away", conn.peer.node),
        })?;
        let (mut send, recv) = conn.quic.open_bi(within).await?;
        // The first byte waits only while the connection's send window is full.
        let sent = timeout(self.context.settings.open_timeout, send_kind(&mut send, kind)).await;
        match sent {
            Ok(Ok(())) => Ok(PeerStream::new(send, recv, using)),
            Ok(Err(error)) => {
                Err(OpenStreamError { code: error.code(), reason: error.to_string() })
            }
            Err(_) => {
                send.reset(Code::OpenTimeout);
                let reason = format!("the connection with node {} is congested", conn.peer.node);
                Err(OpenStreamError { code: Code::OpenTimeout, reason })
            }
        }
    }
}

/// Says whether to wait for a connection to have room.
#[derive(Debug, Clone, Copy)]
enum OpenWait {
    Now,
    Soon,
}

impl OpenRequest {
    fn dial_key(&self) -> DialKey {
        DialKey { node: self.key.clone(), class: self.class, worker: self.worker }
    }
}

async fn send_kind(
    send: &mut SendStream,
    kind: StreamKind,
) -> Result<(), crate::stream::SendError> {
    send.send_all(&[kind.byte()]).await
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
