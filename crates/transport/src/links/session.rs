//! One connection, from its hello to its end.
//!
//! A session takes the peer's streams by their kind, speaks on the control stream, and closes a
//! connection that we dialled and nothing uses. It runs on the connection's worker, and so does all that
//! it starts. It never ends a connection that carries streams, but where the peer breaks the protocol.

use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::Refusal;
use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_core::snapshot::{Class, Export};
use adit_core::wire::StreamKind;
use adit_core::wire::control::Control;
use adit_core::wire::header::DEADLINE;
use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::conn::{Conn, What};
use super::dials::DialFailure;
use super::hello::Greeted;
use super::messages::Messages;
use super::seats::Seat;
use super::shared::Shared;
use super::{Served, Stream, grants, publish, reports};
use crate::endpoint::{By, Closed, Connection};
use crate::peer::BootId;
use crate::stream::{RecvStream, SendStream};

/// Messages that wait to be written on a control stream: a go-away or two. Who adds more has a peer that
/// does not read.
const CONTROL_QUEUE: usize = 4;

/// After saying that a connection is not used any more, how long its end waits for a stream that the
/// peer began before it heard: many round trips.
const LINGER: Duration = Duration::from_secs(3);

/// A peer that goes away cannot have us stay away for longer than this.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Puts a connection to use, which has its seat: registers it and starts its session.
pub(super) fn begin(
    shared: &Arc<Shared>,
    quic: Connection,
    greeted: Greeted,
    seat: Seat,
) -> Result<Arc<Conn>, Refusal> {
    let Greeted { peer, send, messages } = greeted;
    if !peer.dialled {
        shared.work.misuse.admit(&peer.cluster, &peer.node)?;
    }
    let (queue, control) = mpsc::channel(CONTROL_QUEUE);
    let conn = Conn::new(quic, Arc::new(peer), queue);
    shared.register.insert(&conn, shared.slots())?;
    shared.endpoints.met(&conn.peer.cluster, conn.peer.remote.ip());
    shared.work.faults.passed(&conn.peer.cluster, conn.peer.remote.ip());
    let (of, is_announced) = (conn.node(), shared.is_announced(&conn.node()));
    shared.register.boots.note((&of.0, &of.1), is_announced, conn.peer.boot);
    let class = Shared::window_class(&conn, |peer| {
        shared.now().exports.values().any(|export| bulk_grants(export).any(|c| c == peer))
    });
    let (budget, tuning) = (&shared.work.budget, shared.endpoints.tuning());
    conn.quic.charge_to(budget, &conn.peer.cluster, tuning, class);
    conn.quic.keep_grants(conn.peer.stream_window);
    shared.work.metrics.opened(&conn.peer);
    // What changed since the hello was checked has been acted upon for the connections known then.
    shared.close_if_unlinked(&shared.now(), &conn);
    shared.close_if_disbelieved(&conn);
    let stages = &shared.work.stages;
    if stages.leaving.is_cancelled() || stages.draining.is_cancelled() {
        conn.tell(shared.go_away());
    }
    if stages.draining.is_cancelled() {
        shared.register.leave(&conn, Code::Draining);
    }
    let session =
        Session { shared: Arc::clone(shared), conn: Arc::clone(&conn), send, _seat: seat };
    let worker = conn.quic.worker().handle().clone();
    shared.work.tasks.spawn_on(session.run(messages, control), &worker);
    shared.work.tasks.spawn_on(grants::tell(Arc::clone(&conn)), &worker);
    Ok(conn)
}

struct Session {
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    send: SendStream,
    /// Given back with the session's end.
    _seat: Seat,
}

impl Session {
    async fn run(mut self, mut incoming: Messages<Control>, mut queue: mpsc::Receiver<Control>) {
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
                    Ok(message) => self.heard(message),
                    // A lost connection shows at the next turn, with its reason.
                    Err(error) => conn.quic.close(error.code(), &error.to_string()),
                },
                Some(message) = queue.recv() => self.say(&message).await,
                () = &mut idle => conn.quic.close(Code::ConnectionUnused, ""),
            }
        };
        if closed.by == By::Silence {
            self.shared.fell_silent(&conn, &closed);
        }
        let is_announced = self.shared.is_announced(&conn.node());
        self.shared.register.remove(&conn, &closed, is_announced);
        self.shared.work.metrics.closed(&conn.peer, closed.code);
        tracing::debug!(peer = %conn.peer.id, lane = ?conn.peer.lane, %closed, "connection ended");
    }

    /// Serves a stream of the peer's, in a task of its own.
    fn serve(&self, mut send: SendStream, mut recv: RecvStream) {
        let (shared, conn) = (Arc::clone(&self.shared), Arc::clone(&self.conn));
        if shared.work.stages.heard.is_cancelled() {
            send.reset(Code::Draining);
            recv.stop(Code::Draining);
            return shared.in_vain(&conn, Code::Draining);
        }
        let worker = conn.quic.worker().handle().clone();
        self.shared.work.tasks.spawn_on(serve(shared, conn, send, recv), &worker);
    }

    fn heard(&self, message: Control) {
        match message {
            Control::GoAway { code, retry_after_ms } => {
                self.shared.leaves(&self.conn, code, Duration::from_millis(retry_after_ms));
            }
            Control::Doubled { boot, address } => {
                self.shared.hear_of_double(&self.conn, BootId(boot), address);
            }
            // From a later version on, a node that cannot dial asks to be dialled.
            Control::DialMe { .. } => {}
            Control::Hello(_) => self.conn.quic.close(Code::ProtocolError, "a second hello"),
        }
    }

    async fn say(&mut self, message: &Control) {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        match timeout(DEADLINE, self.send.send_all(&bytes)).await {
            Ok(Ok(())) => {}
            // The connection is lost, which shows at the next turn.
            Ok(Err(_)) => {}
            Err(_) => self.conn.quic.close(Code::ProtocolError, "the control stream is not read"),
        }
    }
}

impl Shared {
    /// The class as which a connection's windows grow. The dialler chooses the lane, so large ones are only for
    /// who has something to carry in bulk: an export of ours that the peer's cluster was granted, or an import
    /// of ours, which we dial for ourselves.
    pub(super) fn window_class(
        conn: &Conn,
        is_granted: impl FnOnce(&ClusterName) -> bool,
    ) -> Class {
        let peer = &conn.peer;
        let is_bulk = peer.lane == Class::Bulk && (peer.dialled || is_granted(&peer.cluster));
        if is_bulk { Class::Bulk } else { Class::Interactive }
    }

    /// The peer said that it takes nothing new on a connection. Said again it is no news: it neither wakes
    /// anybody nor has us stay away for longer.
    fn leaves(self: &Arc<Self>, conn: &Arc<Conn>, code: Code, retry_after: Duration) {
        if conn.is_leaving().is_some() {
            return;
        }
        if code == Code::Draining && retry_after.is_zero() && self.meet_successor(conn) {
            return;
        }
        let key = conn.node();
        let is_announced = self.is_announced(&key);
        self.register.peer_leaves(conn, code, is_announced);
        if code != Code::ConnectionUnused {
            let at = Instant::now() + retry_after.min(RETRY_AFTER);
            self.work.dials.not_before(&key, is_announced, conn.quic.remote(), at);
        }
    }

    /// The peer's node is dead or out of reach: streams need not wait for its silence on other connections,
    /// nor for a dial. Whoever keeps standing connections dials it nevertheless. A process that was
    /// started again says nothing on what its predecessor had dialled, but would have said so on
    /// what we had: only there does silence mean that a dial is in vain.
    fn fell_silent(&self, conn: &Conn, closed: &Closed) {
        let key = conn.node();
        let is_announced = self.is_announced(&key);
        let dialled = self.register.fell_silent(conn, closed, is_announced);
        // A process that had handed over has died: its successor lives.
        let has_other = self.register.is_followed(conn);
        if (dialled || conn.peer.dialled) && !has_other {
            let text = format!("node {} of {} fell silent a moment ago", key.1, key.0);
            let failure = DialFailure::new(Code::LinkDown, text);
            self.work.dials.remember(&key, is_announced, failure);
        }
    }

    /// Ends when a connection that we dialled has had no use for long enough, and the peer has had time
    /// to hear so. Never ends for one that we accepted: that is its dialler's to close.
    async fn leave_when_idle(self: Arc<Self>, conn: Arc<Conn>) {
        if !conn.peer.dialled {
            std::future::pending::<()>().await;
        }
        let idle = self.local.settings.idle;
        while let Err(again) = conn.leave_if_idle(idle) {
            tokio::select! {
                () = sleep_until(again) => {}
                () = conn.left() => {}
            }
        }
        if conn.is_leaving() == Some(Code::ConnectionUnused) {
            conn.tell(Control::GoAway { code: Code::ConnectionUnused, retry_after_ms: 0 });
            self.register.leave(&conn, Code::ConnectionUnused);
        }
        while let Err(again) = conn.quiet_for(LINGER) {
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
async fn serve(shared: Arc<Shared>, conn: Arc<Conn>, mut send: SendStream, mut recv: RecvStream) {
    let mut kind = [0];
    let deadline = shared.local.settings.header_deadline;
    let code = match timeout(deadline, recv.read(&mut kind)).await {
        Ok(Ok(Some(_))) => match StreamKind::from_byte(kind[0]) {
            Some(StreamKind::Data) => {
                let using = conn.used(What::Data);
                let stream = Stream::new(send, recv, using);
                if let Served::InVain(code) = shared.work.serve.serve(stream).await {
                    shared.in_vain(&conn, code);
                }
                return;
            }
            Some(StreamKind::State) => {
                let using = conn.used(What::Telling);
                // A large view is told without a worker's waiting for it.
                let (tasks, control) = (shared.work.tasks.clone(), shared.work.control.clone());
                tasks.spawn_on(publish::serve(shared, using, send, recv), &control);
                return;
            }
            Some(StreamKind::Report) => {
                let using = conn.used(What::Telling);
                let (tasks, control) = (shared.work.tasks.clone(), shared.work.control.clone());
                tasks.spawn_on(reports::serve(shared, using, send, recv), &control);
                return;
            }
            Some(StreamKind::Grants) => {
                if let Some(code) = grants::hear(&conn, send, recv).await {
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
