//! The session of one connection, from its hello to its end.
//!
//! A session takes the peer's streams by their kind, writes the control stream, and closes a connection that
//! we dialled and nothing uses. It runs on the connection's worker, and so does all that it starts. It never
//! ends a connection that carries streams, unless the peer breaks the protocol.

use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::PeerRefusal;
use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_core::snapshot::{Class, Export};
use adit_core::wire::StreamKind;
use adit_core::wire::control::ControlMessage;
use adit_core::wire::header::HEADER_TIMEOUT;
use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::connections::{ConnectionPermit, PeerConnection, StreamUse};
use super::dialer::DialFailure;
use super::handshake::HelloExchange;
use super::inner::LinksInner;
use super::message_reader::MessageReader;
use super::state::publish_stream;
use super::stream::{PeerStream, ServeOutcome};
use super::{credit_streams, reports};
use crate::endpoint::{CloseReason, ClosedBy, QuicConnection};
use crate::peer::BootId;
use crate::stream::{RecvStream, SendStream};

/// Messages that wait to be written on a control stream: a go-away or two. If there are more, the peer does
/// not read.
const CONTROL_QUEUE: usize = 4;

/// Time that the end of an unused connection waits for a stream that the peer began before it received the
/// go-away, from its last use: many round trips.
const LINGER_TIMEOUT: Duration = Duration::from_secs(3);

/// A peer that goes away cannot have us stay away for longer than this.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(60);

/// Puts a connection to use, which has its permit: adds it to the table and starts its session.
pub(super) fn start(
    shared: &Arc<LinksInner>,
    quic: QuicConnection,
    handshake: HelloExchange,
    permit: ConnectionPermit,
) -> Result<Arc<PeerConnection>, PeerRefusal> {
    let HelloExchange { peer, send, messages } = handshake;
    if !peer.dialled {
        shared.peers.misuse.admit(&peer.cluster, &peer.node)?;
    }
    let (queue, control) = mpsc::channel(CONTROL_QUEUE);
    let conn = PeerConnection::new(quic, Arc::new(peer), queue);
    shared.connections.insert(&conn, shared.max_slots())?;
    shared.endpoints.record_met_address(&conn.peer.cluster, conn.peer.remote.ip());
    shared.peers.handshake_faults.clear_for_address(&conn.peer.cluster, conn.peer.remote.ip());
    let key = conn.key();
    let is_announced = shared.is_announced(&key);
    shared.connections.boots.record_connection(&key, is_announced, conn.peer.boot);
    let class = LinksInner::window_class(&conn, |peer| {
        shared.snapshot().exports.values().any(|export| bulk_grants(export).any(|c| c == peer))
    });
    let (budget, tuning) = (&shared.peers.budget, shared.endpoints.tuning());
    conn.quic.charge_to(budget, &conn.peer.cluster, tuning, class);
    conn.quic.enable_credits(conn.peer.stream_window);
    shared.peers.metrics.opened(&conn.peer);
    // Changes since the hello was checked were applied only to the connections known then.
    shared.close_if_unlinked(&shared.snapshot(), &conn);
    shared.close_if_distrusted(&conn);
    let stages = &shared.runtime.shutdown;
    if stages.leaving.is_cancelled() || stages.draining.is_cancelled() {
        conn.send_control(shared.go_away_message());
    }
    if stages.draining.is_cancelled() {
        shared.connections.mark_leaving(&conn, Code::Draining);
    }
    let session =
        Session { shared: Arc::clone(shared), conn: Arc::clone(&conn), send, _permit: permit };
    let worker = conn.quic.worker().handle().clone();
    shared.runtime.tasks.spawn_on(session.run(messages, control), &worker);
    shared
        .runtime
        .tasks
        .spawn_on(credit_streams::send_credits(Arc::clone(shared), Arc::clone(&conn)), &worker);
    Ok(conn)
}

struct Session {
    shared: Arc<LinksInner>,
    conn: Arc<PeerConnection>,
    send: SendStream,
    /// Given back with the session's end.
    _permit: ConnectionPermit,
}

impl Session {
    async fn run(
        mut self,
        mut incoming: MessageReader<ControlMessage>,
        mut queue: mpsc::Receiver<ControlMessage>,
    ) {
        let conn = Arc::clone(&self.conn);
        let mut idle = std::pin::pin!(self.shared.clone().leave_when_idle(Arc::clone(&conn)));
        let closed = loop {
            tokio::select! {
                biased;
                accepted = conn.quic.accept_bi() => match accepted {
                    Ok((send, recv)) => self.serve(send, recv),
                    Err(closed) => break closed,
                },
                message = incoming.next() => match message {
                    Ok(message) => self.receive_control(message),
                    // A lost connection shows at the next turn, with its reason.
                    Err(error) => conn.quic.close(error.code(), &error.to_string()),
                },
                Some(message) = queue.recv() => self.send_control(&message).await,
                () = &mut idle => conn.quic.close(Code::ConnectionUnused, ""),
            }
        };
        self.shared.record_if_in_pieces(&conn);
        if closed.by == ClosedBy::Silence {
            self.shared.mark_node_silent(&conn, &closed);
        }
        let is_announced = self.shared.is_announced(&conn.key());
        self.shared.connections.remove(&conn, &closed, is_announced);
        let metrics = &self.shared.peers.metrics;
        metrics.count_packets(&conn.peer.cluster, &conn.counted, &conn.quic.stats());
        metrics.closed(&conn.peer, closed.code);
        tracing::debug!(peer = %conn.peer.id, lane = ?conn.peer.class, %closed, "connection ended");
    }

    /// Serves a stream of the peer's, in a task of its own.
    fn serve(&self, mut send: SendStream, mut recv: RecvStream) {
        let (shared, conn) = (Arc::clone(&self.shared), Arc::clone(&self.conn));
        if shared.runtime.shutdown.peers_informed.is_cancelled() {
            send.reset(Code::Draining);
            recv.stop(Code::Draining);
            return shared.in_vain(&conn, Code::Draining);
        }
        let worker = conn.quic.worker().handle().clone();
        self.shared.runtime.tasks.spawn_on(serve(shared, conn, send, recv), &worker);
    }

    fn receive_control(&self, message: ControlMessage) {
        match message {
            ControlMessage::GoAway { code, retry_after_ms } => {
                self.shared.peer_leaves(&self.conn, code, Duration::from_millis(retry_after_ms));
            }
            ControlMessage::DuplicateIdentity { boot, address } => {
                self.shared.receive_duplicate_report(&self.conn, BootId(boot), address);
            }
            // From a later version on, a node that cannot dial asks to be dialled.
            ControlMessage::DialMe { .. } => {}
            ControlMessage::Hello(_) => self.conn.quic.close(Code::ProtocolError, "a second hello"),
        }
    }

    async fn send_control(&mut self, message: &ControlMessage) {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        match timeout(HEADER_TIMEOUT, self.send.send_all(&bytes)).await {
            Ok(Ok(())) => {}
            // The connection is lost, which shows at the next turn.
            Ok(Err(_)) => {}
            Err(_) => self.conn.quic.close(Code::ProtocolError, "the control stream is not read"),
        }
    }
}

impl LinksInner {
    /// The class by which a connection's windows grow. The dialler chooses the class, so large windows are
    /// only for peers with something to carry in bulk: an export of ours that the peer's cluster was granted,
    /// or an import of ours, which we dial for ourselves.
    pub(super) fn window_class(
        conn: &PeerConnection,
        is_granted: impl FnOnce(&ClusterName) -> bool,
    ) -> Class {
        let peer = &conn.peer;
        let is_bulk = peer.class == Class::Bulk && (peer.dialled || is_granted(&peer.cluster));
        if is_bulk { Class::Bulk } else { Class::Interactive }
    }

    /// Handles a go-away: the peer takes no new streams on a connection. A repeated one is no news: it
    /// neither wakes anybody nor has us stay away for longer.
    fn peer_leaves(
        self: &Arc<Self>,
        conn: &Arc<PeerConnection>,
        code: Code,
        retry_after: Duration,
    ) {
        if conn.leaving_code().is_some() {
            return;
        }
        if code == Code::Draining && retry_after.is_zero() && self.meet_successor(conn) {
            return;
        }
        let key = conn.key();
        let is_announced = self.is_announced(&key);
        self.connections.mark_peer_leaving(conn, code, is_announced);
        if code != Code::ConnectionUnused {
            let at = Instant::now() + retry_after.min(MAX_RECONNECT_DELAY);
            self.dialer.history.set_not_before(&key, is_announced, conn.quic.remote(), at);
        }
    }

    /// Handles the end of a connection by silence. The peer's node is dead or out of reach: streams need not
    /// wait for its silence on other connections, nor for a dial. The reconciler dials standing connections
    /// nevertheless. A process that was started again sends nothing on what its predecessor had dialled, but
    /// would have answered on what we had dialled: only there does silence mean that a dial is in vain.
    fn mark_node_silent(&self, conn: &PeerConnection, closed: &CloseReason) {
        let key = conn.key();
        let is_announced = self.is_announced(&key);
        let dialled = self.connections.mark_silent(conn, closed, is_announced);
        // A process that had handed over has died: its successor lives.
        let has_other = self.connections.has_successor(conn);
        if (dialled || conn.peer.dialled) && !has_other {
            let text = format!("{key} fell silent a moment ago");
            let failure = DialFailure::new(Code::LinkDown, text);
            self.dialer.history.record_failure(&key, is_announced, failure);
        }
    }

    /// Ends when a connection that we dialled has had no use for long enough, and the peer has had time to
    /// receive the go-away. Never ends for one that we accepted: that is its dialler's to close.
    async fn leave_when_idle(self: Arc<Self>, conn: Arc<PeerConnection>) {
        if !conn.peer.dialled {
            std::future::pending::<()>().await;
        }
        let idle = self.context.settings.idle_timeout;
        while let Err(again) = conn.leave_if_idle(idle) {
            tokio::select! {
                () = sleep_until(again) => {}
                () = conn.wait_leaving() => {}
            }
        }
        if conn.leaving_code() == Some(Code::ConnectionUnused) {
            conn.send_control(ControlMessage::GoAway {
                code: Code::ConnectionUnused,
                retry_after_ms: 0,
            });
            self.connections.mark_leaving(&conn, Code::ConnectionUnused);
        }
        while let Err(again) = conn.check_idle_for(LINGER_TIMEOUT) {
            sleep_until(again).await;
        }
    }
}

/// The clusters that may use an export in bulk.
pub(super) fn bulk_grants(export: &Export) -> impl Iterator<Item = &ClusterName> {
    let grants = if export.class == Class::Bulk { &export.allow[..] } else { &[] };
    grants.iter().map(|grant| &grant.cluster)
}

/// Serves one stream of a peer's according to its first byte.
async fn serve(
    shared: Arc<LinksInner>,
    conn: Arc<PeerConnection>,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let mut kind = [0];
    let deadline = shared.context.settings.header_timeout;
    let code = match timeout(deadline, recv.read(&mut kind)).await {
        Ok(Ok(Some(_))) => match StreamKind::from_byte(kind[0]) {
            Some(StreamKind::Data) => {
                let using = conn.begin_use(StreamUse::Data);
                let stream = PeerStream::new(send, recv, using);
                if let ServeOutcome::InVain(code) = shared.runtime.serve.serve(stream).await {
                    shared.in_vain(&conn, code);
                }
                return;
            }
            Some(StreamKind::State) => {
                let using = conn.begin_use(StreamUse::Publishing);
                // A large view is sent without a worker's waiting for it.
                let (tasks, control) =
                    (shared.runtime.tasks.clone(), shared.runtime.control_runtime.clone());
                tasks.spawn_on(publish_stream::serve(shared, using, send, recv), &control);
                return;
            }
            Some(StreamKind::Report) => {
                let using = conn.begin_use(StreamUse::Publishing);
                let (tasks, control) =
                    (shared.runtime.tasks.clone(), shared.runtime.control_runtime.clone());
                tasks.spawn_on(reports::serve(shared, using, send, recv), &control);
                return;
            }
            Some(StreamKind::Credits) => {
                if let Some(code) =
                    credit_streams::receive_credits(&shared, &conn, send, recv).await
                {
                    shared.in_vain(&conn, code);
                }
                return;
            }
            // There is one control stream, and this version knows no other kinds.
            Some(StreamKind::Control) | None => Code::ProtocolError,
        },
        Ok(Ok(None)) => Code::ProtocolError,
        Ok(Err(error)) => error.code(),
        Err(_) => Code::HeaderTimeout,
    };
    send.reset(code);
    recv.stop(code);
    if conn.quic.is_closed().is_none() {
        shared.in_vain(&conn, code);
    }
}
