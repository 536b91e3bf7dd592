//! One connection in use: what it carries, and whether it takes more.
//!
//! Owns the counts that decide when a connection is idle. That it is registered, spoken on and closed is
//! [`super::register`]'s and [`super::session`]'s.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::choose::connections::Candidate;
use adit_core::code::Code;
use adit_core::wire::control::Control;
use adit_pki::VerifyError;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::dials::Node;
use super::misuse::ConnectionMisuse;
use super::register::lock;
use crate::endpoint::Connection;
use crate::peer::PeerInfo;

/// A connection in use.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) quic: Connection,
    pub(super) peer: Arc<PeerInfo>,
    pub(super) since: Instant,
    /// To the session, which writes it on the control stream.
    control: mpsc::Sender<Control>,
    using: Mutex<Use>,
    left: Notify,
    /// Whether its certificate stopped being believed while it was there.
    is_doubted: AtomicBool,
    /// What its peer opened in vain.
    pub(super) misuse: Mutex<ConnectionMisuse>,
}

#[derive(Debug)]
struct Use {
    /// Why it takes nothing new, if it does not.
    leaving: Option<Code>,
    /// Data streams, either way.
    streams: usize,
    /// State streams of ours, and of the peer's.
    learning: usize,
    telling: usize,
    /// When it last carried something.
    last: Instant,
    /// Whether it is kept for its own sake.
    standing: bool,
    /// How many datagrams had come when its node was found to have fallen silent.
    silent: Option<u64>,
    /// Whether its peer's successor is waited for.
    awaiting: bool,
}

/// What a connection is doing, for status.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doing {
    pub(super) streams: usize,
    pub(super) telling: usize,
    pub(super) standing: bool,
}

/// What a stream takes part in: a connection is not idle while somebody holds one.
#[derive(Debug)]
pub(super) struct InUse {
    conn: Arc<Conn>,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A data stream, whoever opened it.
    Data,
    /// A state stream on which we learn.
    Learning,
    /// A state stream on which the peer learns.
    Telling,
}

impl Conn {
    pub(super) fn new(
        quic: Connection,
        peer: Arc<PeerInfo>,
        control: mpsc::Sender<Control>,
    ) -> Arc<Self> {
        let now = Instant::now();
        let using = Use {
            leaving: None,
            streams: 0,
            learning: 0,
            telling: 0,
            last: now,
            standing: false,
            silent: None,
            awaiting: false,
        };
        Arc::new(Self {
            quic,
            peer,
            since: now,
            control,
            using: Mutex::new(using),
            left: Notify::new(),
            is_doubted: AtomicBool::new(false),
            misuse: Mutex::default(),
        })
    }

    /// Whether the same process of the same node dialled both in one lane and slot, or we did both.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let kind = |conn: &Self| {
            let peer = &conn.peer;
            (peer.boot, peer.lane, peer.dialled, peer.slot)
        };
        kind(self) == kind(other)
    }

    /// With whom it is.
    pub(super) fn node(&self) -> Node {
        (self.peer.cluster.clone(), self.peer.node.clone())
    }

    /// Notes that its peer's certificate is not believed any more; false where that was noted before.
    pub(super) fn begin_doubt(&self) -> bool {
        !self.is_doubted.swap(true, Ordering::Relaxed)
    }

    /// Takes [`begin_doubt`](Self::begin_doubt) back, before it is looked once more.
    pub(super) fn end_doubt(&self) {
        self.is_doubted.store(false, Ordering::Relaxed);
    }

    /// Ends it because its peer's certificate is not believed any more.
    pub(super) fn disbelieve(&self, refusal: &VerifyError) {
        let is_denied = refusal.label() == VerifyError::DENIED;
        let code = if is_denied { Code::DeniedIdentity } else { Code::CertificateEnded };
        self.quic.close(code, &refusal.to_string());
    }

    /// A use of it that the peer began: never refused.
    pub(super) fn used(self: &Arc<Self>, what: What) -> InUse {
        *lock(&self.using).count(what) += 1;
        InUse { conn: Arc::clone(self), what }
    }

    /// A use of it that we begin; none if it takes nothing new.
    pub(super) fn enter(self: &Arc<Self>, what: What) -> Option<InUse> {
        let mut using = lock(&self.using);
        if using.leaving.is_some() {
            return None;
        }
        *using.count(what) += 1;
        Some(InUse { conn: Arc::clone(self), what })
    }

    /// Leaves if nothing has used it for `idle`, and says when to ask again if something has. One that
    /// is kept for its own sake does not leave; one that is leaving already does.
    pub(super) fn leave_if_idle(&self, idle: Duration) -> Result<(), Instant> {
        let mut using = lock(&self.using);
        if using.leaving.is_some() {
            return Ok(());
        }
        if using.standing {
            return Err(Instant::now() + idle);
        }
        using.quiet_for(idle)?;
        using.leaving = Some(Code::ConnectionUnused);
        Ok(())
    }

    /// Whether nothing has used it for so long; when to ask again if something has.
    pub(super) fn quiet_for(&self, time: Duration) -> Result<(), Instant> {
        lock(&self.using).quiet_for(time)
    }

    /// Waits until it leaves for another reason.
    pub(super) async fn left(&self) {
        self.left.notified().await;
    }

    pub(super) fn is_leaving(&self) -> Option<Code> {
        lock(&self.using).leaving
    }

    pub(super) fn doing(&self) -> Doing {
        let using = lock(&self.using);
        Doing { streams: using.streams, telling: using.telling, standing: using.standing }
    }

    /// Takes nothing new from here on. The first reason stays.
    pub(super) fn leave(&self, code: Code) {
        lock(&self.using).leaving.get_or_insert(code);
        self.left.notify_one();
    }

    /// Its peer's successor is waited for from here on.
    pub(super) fn await_successor(&self) {
        lock(&self.using).awaiting = true;
    }

    /// True once it is.
    pub(super) fn is_awaiting(&self) -> bool {
        lock(&self.using).awaiting
    }

    /// Whether it is kept for its own sake from here on.
    pub(super) fn set_standing(&self, standing: bool) {
        let mut using = lock(&self.using);
        if using.standing && !standing {
            using.last = Instant::now();
        }
        using.standing = standing;
    }

    /// Its node has fallen silent: it takes nothing new until something is heard on it.
    pub(super) fn fell_silent(&self) {
        lock(&self.using).silent = Some(self.heard());
    }

    /// How many datagrams came from the peer.
    fn heard(&self) -> u64 {
        self.quic.stats().datagrams.1
    }

    /// Has the session say it to the peer. A session that does not get to it has a peer that does not
    /// read; then the connection's end must do.
    pub(super) fn tell(&self, message: Control) {
        drop(self.control.try_send(message));
    }

    pub(super) fn candidate(&self) -> Candidate {
        let using = lock(&self.using);
        Candidate {
            boot: self.peer.boot.0,
            lane: self.peer.lane,
            dialled: self.peer.dialled,
            slot: self.peer.slot,
            worker: self.quic.worker().index(),
            draining: using.leaving.is_some(),
            silent: using.silent.is_some_and(|heard| heard == self.heard()),
            streams: using.streams,
        }
    }
}

impl Use {
    fn count(&mut self, what: What) -> &mut usize {
        match what {
            What::Data => &mut self.streams,
            What::Learning => &mut self.learning,
            What::Telling => &mut self.telling,
        }
    }

    fn quiet_for(&self, time: Duration) -> Result<(), Instant> {
        let now = Instant::now();
        match () {
            () if self.streams + self.learning + self.telling > 0 => Err(now + time),
            () if self.last + time > now => Err(self.last + time),
            () => Ok(()),
        }
    }
}

impl InUse {
    pub(super) fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut using = lock(&self.conn.using);
        *using.count(self.what) -= 1;
        using.last = Instant::now();
    }
}
