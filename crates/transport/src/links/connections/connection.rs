//! A connection in use: what it carries, and whether it takes more.
//!
//! Owns the counts that decide when a connection is idle. That it is registered, spoken on and closed is
//! [`super::table`]'s and [`crate::links::session`]'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::NodeKey;
use adit_core::routing::connections::ConnectionCandidate;
use adit_core::wire::control::ControlMessage;
use adit_pki::VerifyError;
use adit_runtime::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::ack_watch::AckWatch;
use crate::endpoint::QuicConnection;
use crate::links::metrics::CountedPackets;
use crate::links::misuse::ConnectionMisuse;
use crate::links::pieces::PieceMeter;
use crate::peer::PeerInfo;

/// A connection in use.
#[derive(Debug)]
pub(crate) struct PeerConnection {
    pub(crate) quic: QuicConnection,
    pub(crate) peer: Arc<PeerInfo>,
    pub(crate) connected_at: Instant,
    /// To the session, which writes it on the control stream.
    control: mpsc::Sender<ControlMessage>,
    usage: Mutex<UsageState>,
    leave_notify: Notify,
    /// True if its certificate stopped being believed while it was open.
    is_distrusted: AtomicBool,
    /// The streams that its peer opened in vain.
    pub(crate) misuse: Mutex<ConnectionMisuse>,
    /// The pieces of its peer's streams that cannot be put together.
    pub(crate) pieces: Mutex<PieceMeter>,
    ack_watch: Mutex<AckWatch>,
    /// The packets that are counted.
    pub(crate) counted: CountedPackets,
}

#[derive(Debug)]
struct UsageState {
    /// The reason why it takes no new streams; `None` while it does.
    leaving: Option<Code>,
    /// Data streams, either way.
    streams: usize,
    /// State streams of ours, and of the peer's.
    subscribing: usize,
    publishing: usize,
    /// The time at which it last carried something.
    last_used: Instant,
    /// True if it is kept for its own sake.
    standing: bool,
    /// Number of datagrams that had come when its node was found to have fallen silent.
    silent_at_datagrams: Option<u64>,
    /// True if its peer is received and does not receive.
    unacknowledged: bool,
    /// True if its peer's successor is waited for.
    awaits_successor: bool,
}

/// The use of a connection, for status.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionUsage {
    pub(crate) streams: usize,
    pub(crate) publishing: usize,
    pub(crate) standing: bool,
}

/// A stream's use of a connection: a connection is not idle while somebody holds one.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    connection: Arc<PeerConnection>,
    stream_use: StreamUse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamUse {
    /// A data stream, whoever opened it.
    Data,
    /// A state stream on which we learn.
    Subscribing,
    /// A state stream on which the peer learns.
    Publishing,
}

impl PeerConnection {
    pub(crate) fn new(
        quic: QuicConnection,
        peer: Arc<PeerInfo>,
        control: mpsc::Sender<ControlMessage>,
    ) -> Arc<Self> {
        let now = Instant::now();
        let using = UsageState {
            leaving: None,
            streams: 0,
            subscribing: 0,
            publishing: 0,
            last_used: now,
            standing: false,
            silent_at_datagrams: None,
            unacknowledged: false,
            awaits_successor: false,
        };
        Arc::new(Self {
            quic,
            peer,
            connected_at: now,
            control,
            usage: Mutex::new(using),
            leave_notify: Notify::new(),
            is_distrusted: AtomicBool::new(false),
            misuse: Mutex::default(),
            pieces: Mutex::default(),
            ack_watch: Mutex::default(),
            counted: CountedPackets::default(),
        })
    }

    /// True if the same process of the same node dialled both in one class and slot, or we did both.
    pub(crate) fn is_same_slot(&self, other: &Self) -> bool {
        let kind = |conn: &Self| {
            let peer = &conn.peer;
            (peer.boot, peer.class, peer.dialled, peer.slot)
        };
        kind(self) == kind(other)
    }

    /// The node that it is with.
    pub(crate) fn key(&self) -> NodeKey {
        NodeKey::new(&self.peer.cluster, &self.peer.node)
    }

    /// Records that its peer's certificate is not believed any more; false if that was recorded before.
    pub(crate) fn mark_distrusted(&self) -> bool {
        !self.is_distrusted.swap(true, Ordering::Relaxed)
    }

    /// Takes [`mark_distrusted`](Self::mark_distrusted) back, before it is checked once more.
    pub(crate) fn clear_distrusted(&self) {
        self.is_distrusted.store(false, Ordering::Relaxed);
    }

    /// Ends it because its peer's certificate is not believed any more.
    pub(crate) fn close_distrusted(&self, refusal: &VerifyError) {
        let is_denied = refusal.label() == VerifyError::DENIED;
        let code = if is_denied { Code::DeniedIdentity } else { Code::CertificateEnded };
        self.quic.close(code, &refusal.to_string());
    }

    /// A use of it that the peer began: never refused.
    pub(crate) fn begin_use(self: &Arc<Self>, what: StreamUse) -> StreamGuard {
        *self.usage.lock().count_mut(what) += 1;
        StreamGuard { connection: Arc::clone(self), stream_use: what }
    }

    /// Begins a use of it by this side; `None` if it takes no new streams.
    pub(crate) fn try_begin_use(self: &Arc<Self>, what: StreamUse) -> Option<StreamGuard> {
        let mut using = self.usage.lock();
        if using.leaving.is_some() {
            return None;
        }
        *using.count_mut(what) += 1;
        Some(StreamGuard { connection: Arc::clone(self), stream_use: what })
    }

    /// Begins to leave if nothing has used it for `idle`; the error is when to ask again. A connection that
    /// is kept for its own sake does not leave; one that is leaving already does.
    pub(crate) fn leave_if_idle(&self, idle: Duration) -> Result<(), Instant> {
        let mut using = self.usage.lock();
        if using.leaving.is_some() {
            return Ok(());
        }
        if using.standing {
            return Err(Instant::now() + idle);
        }
        using.check_idle_for(idle)?;
        using.leaving = Some(Code::ConnectionUnused);
        Ok(())
    }

    /// Checks whether nothing has used it for so long. The error is when to ask again.
    pub(crate) fn check_idle_for(&self, time: Duration) -> Result<(), Instant> {
        self.usage.lock().check_idle_for(time)
    }

    /// Waits until it leaves for another reason.
    pub(crate) async fn wait_leaving(&self) {
        self.leave_notify.notified().await;
    }

    pub(crate) fn leaving_code(&self) -> Option<Code> {
        self.usage.lock().leaving
    }

    pub(crate) fn usage_counts(&self) -> ConnectionUsage {
        let using = self.usage.lock();
        ConnectionUsage {
            streams: using.streams,
            publishing: using.publishing,
            standing: using.standing,
        }
    }

    /// Takes nothing new from here on. The first reason stays.
    pub(crate) fn mark_leaving(&self, code: Code) {
        self.usage.lock().leaving.get_or_insert(code);
        self.leave_notify.notify_one();
    }

    /// Its peer's successor is waited for from here on.
    pub(crate) fn await_successor(&self) {
        self.usage.lock().awaits_successor = true;
    }

    /// True once it is.
    pub(crate) fn is_awaiting_successor(&self) -> bool {
        self.usage.lock().awaits_successor
    }

    /// Sets whether it is kept for its own sake from here on.
    pub(crate) fn set_standing(&self, standing: bool) {
        let mut using = self.usage.lock();
        if using.standing && !standing {
            using.last_used = Instant::now();
        }
        using.standing = standing;
    }

    /// Records that its node has fallen silent: it takes no new streams until something is received on it.
    pub(crate) fn mark_silent(&self) {
        self.usage.lock().silent_at_datagrams = Some(self.datagrams_received());
    }

    /// Checks whether the peer acknowledges what is sent; true if it is received and does not.
    pub(crate) fn check_acknowledgements(&self, now: Instant) -> bool {
        self.ack_watch.lock().check(self.quic.ack_counts(), now)
    }

    /// A time after which the peer was heard for certain.
    pub(crate) fn heard_after(&self) -> Option<Instant> {
        self.ack_watch.lock().heard_after()
    }

    /// True if the peer acknowledged something of late.
    pub(crate) fn is_acknowledged(&self, now: Instant) -> bool {
        self.ack_watch.lock().is_acknowledged(now)
    }

    /// Records whether its peer is received and does not receive; true if that is a change.
    pub(crate) fn set_unacknowledged(&self, unacknowledged: bool) -> bool {
        std::mem::replace(&mut self.usage.lock().unacknowledged, unacknowledged) != unacknowledged
    }

    pub(crate) fn is_unacknowledged(&self) -> bool {
        self.usage.lock().unacknowledged
    }

    /// Number of datagrams that came from the peer.
    fn datagrams_received(&self) -> u64 {
        self.quic.stats().datagrams.1
    }

    /// Has the session send the message to the peer. A session that does not get to it has a peer that does
    /// not read; then the connection's end must do.
    pub(crate) fn send_control(&self, message: ControlMessage) {
        drop(self.control.try_send(message));
    }

    pub(crate) fn candidate(&self) -> ConnectionCandidate {
        let using = self.usage.lock();
        ConnectionCandidate {
            boot: self.peer.boot.0,
            class: self.peer.class,
            dialled: self.peer.dialled,
            slot: self.peer.slot,
            worker: self.quic.worker().index(),
            draining: using.leaving.is_some(),
            silent: using.unacknowledged
                || using
                    .silent_at_datagrams
                    .is_some_and(|heard| heard == self.datagrams_received()),
            streams: using.streams,
        }
    }
}

impl UsageState {
    fn count_mut(&mut self, what: StreamUse) -> &mut usize {
        match what {
            StreamUse::Data => &mut self.streams,
            StreamUse::Subscribing => &mut self.subscribing,
            StreamUse::Publishing => &mut self.publishing,
        }
    }

    fn check_idle_for(&self, time: Duration) -> Result<(), Instant> {
        let now = Instant::now();
        match () {
            () if self.streams + self.subscribing + self.publishing > 0 => Err(now + time),
            () if self.last_used + time > now => Err(self.last_used + time),
            () => Ok(()),
        }
    }
}

impl StreamGuard {
    pub(crate) fn connection(&self) -> &Arc<PeerConnection> {
        &self.connection
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut using = self.connection.usage.lock();
        *using.count_mut(self.stream_use) -= 1;
        using.last_used = Instant::now();
    }
}
