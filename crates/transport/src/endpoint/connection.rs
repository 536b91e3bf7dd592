//! An authenticated connection with one peer.
//!
//! It knows who the peer is, as the handshake proved it, and how it ended; what is spoken on it is
//! decided above. It lives as long as a handle or one of its streams does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_core::snapshot::Class;
use adit_core::spiffe::SpiffeId;
use adit_pki::{PeerIdentity, PeerVerifier, UnixTime, Usage, VerifyError};
use quinn::ConnectionError;

use super::closed::{By, Closed};
use super::{Worker, dial, varint};
use crate::budget::{BufferBudget, ConnectionWindows, Windowed};
use crate::grants::{GrantBook, GrantLimits, ReceiveGrant};
use crate::stream::{RecvStream, SendStream};
use crate::tuning::Tuning;

/// An authenticated connection. Cheap to clone; every clone is the same connection.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    quinn: quinn::Connection,
    peer: PeerIdentity,
    facts: Facts,
    /// What this side closed it with.
    ours: OnceLock<Closed>,
    peers: PeerStreams,
    /// What it may hold, once it is known whose it is.
    windows: OnceLock<ConnectionWindows>,
    /// How far its streams may be sent, where both sides keep to that.
    grants: OnceLock<GrantBook>,
}

/// The streams that the peer has opened.
struct PeerStreams {
    /// Halves of them that are still held here.
    halves: AtomicU32,
    /// How many the peer may have open at once, now and at most.
    allowed: AtomicU32,
    most: u32,
}

/// What is known of a connection besides its peer.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) id: u64,
    pub(super) class: Class,
    pub(super) dialled: bool,
    pub(super) worker: Worker,
    /// The verifier's epoch before the handshake.
    pub(super) epoch: u64,
    /// The most streams that the peer may have open at once.
    pub(super) streams: u32,
    /// The bytes that the peer may send on one stream before they are taken: at first, and at most.
    pub(super) stream_windows: GrantLimits,
}

/// Why no stream could be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer allowed no further stream in this time: its limit is reached.
    #[error("the peer granted no stream within {0:?}")]
    TimedOut(Duration),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    ConnectionLost(Code),
}

impl OpenError {
    /// The reason as one of the list.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::TimedOut(_) => Code::OpenTimeout,
            Self::ConnectionLost(code) => code,
        }
    }
}

/// How a connection is doing; totals since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// The round trip, smoothed; a guess before the first one was measured.
    pub rtt: Duration,
    /// Bytes that may be in flight at once.
    pub window: u64,
    /// The largest datagram that the path is known to carry, in bytes of UDP payload.
    pub mtu: u16,
    /// Packets sent.
    pub sent: u64,
    /// Packets given up for lost; they were sent again in others.
    pub lost: u64,
    /// UDP datagrams sent and received.
    pub datagrams: (u64, u64),
    /// UDP payload sent and received, in bytes.
    pub bytes: (u64, u64),
}

impl Connection {
    pub(super) fn new(quinn: quinn::Connection, peer: PeerIdentity, facts: Facts) -> Self {
        let peers = PeerStreams {
            halves: AtomicU32::new(0),
            allowed: AtomicU32::new(facts.streams.min(Tuning::STREAMS_AT_FIRST)),
            most: facts.streams,
        };
        Self(Arc::new(Inner {
            quinn,
            peer,
            facts,
            ours: OnceLock::new(),
            peers,
            windows: OnceLock::new(),
            grants: OnceLock::new(),
        }))
    }

    /// The peer's SPIFFE ID, as its certificate proved it.
    #[must_use]
    pub fn peer(&self) -> &SpiffeId {
        &self.0.peer.id
    }

    /// What its certificate said: the ID, the node's name, and how long it is valid.
    #[must_use]
    pub fn identity(&self) -> &PeerIdentity {
        &self.0.peer
    }

    /// Whether a handshake now would end as this connection's did: by a certificate that is believed.
    ///
    /// # Errors
    /// Why it would not.
    pub fn verify(&self, verifier: &PeerVerifier, now: UnixTime) -> Result<(), VerifyError> {
        let chain = dial::chain(&self.0.quinn);
        let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
        let usage = if self.dialled() { Usage::ServerAuth } else { Usage::ClientAuth };
        verifier.verify(leaf, intermediates, usage, now).map(drop)
    }

    /// Whether its certificate is still believed, where trust has changed since its handshake began.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn verify_anew(
        &self,
        verifier: &PeerVerifier,
        now: UnixTime,
    ) -> Result<(), VerifyError> {
        if verifier.epoch() == self.0.facts.epoch { Ok(()) } else { self.verify(verifier, now) }
    }

    /// Where the peer is now. A peer behind a NAT may move.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        let address = self.0.quinn.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// A number that no other connection of these endpoints has or had.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.facts.id
    }

    /// The traffic class that it is tuned for. The dialler chose it, and the acceptor learned it from
    /// the first packet, which proves nothing: the hello must say the same.
    #[must_use]
    pub fn class(&self) -> Class {
        self.0.facts.class
    }

    /// Whether this side dialled.
    #[must_use]
    pub fn dialled(&self) -> bool {
        self.0.facts.dialled
    }

    /// Where it lives, and where its streams are served best.
    #[must_use]
    pub fn worker(&self) -> &Worker {
        &self.0.facts.worker
    }

    /// Opens a stream, as soon as the peer's limit allows one. The peer learns of it with its first
    /// byte. `within` of zero asks whether there is room right now.
    ///
    /// # Errors
    /// [`OpenError`], see there.
    pub async fn open_bi(&self, within: Duration) -> Result<(SendStream, RecvStream), OpenError> {
        // Without a limit this would wait for ever at the peer's (measured at quinn's default of 100).
        let opened = tokio::time::timeout(within, self.0.quinn.open_bi()).await;
        match opened.map_err(|_| OpenError::TimedOut(within))? {
            Ok((send, recv)) => Ok(self.streams(send, recv)),
            Err(error) => Err(OpenError::ConnectionLost(self.lost(&error))),
        }
    }

    /// The next stream that the peer opens.
    ///
    /// # Errors
    /// How the connection ended, after all streams that came before.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), Closed> {
        match self.0.quinn.accept_bi().await {
            Ok((send, recv)) => {
                self.grow();
                Ok(self.streams(send, recv))
            }
            Err(error) => Err(self.explain(&error)),
        }
    }

    /// Ends the connection at once. All its streams end with `code`, on both sides, and bytes that were
    /// not yet acknowledged may be lost: finish and wait for [`SendStream::stopped`] first. The text is
    /// for people; about 1 KiB of it reaches the peer.
    pub fn close(&self, code: Code, text: &str) {
        // quinn would let this replace the reason for which the connection has ended already.
        if self.0.quinn.close_reason().is_some() {
            return;
        }
        self.0.ours.get_or_init(|| Closed::new(code, text, By::Us));
        self.0.quinn.close(varint(code), text.as_bytes());
    }

    /// Waits for the end.
    pub async fn closed(&self) -> Closed {
        let error = self.0.quinn.closed().await;
        self.explain(&error)
    }

    /// How it ended; `None` while it lives.
    #[must_use]
    pub fn is_closed(&self) -> Option<Closed> {
        self.0.quinn.close_reason().map(|error| self.explain(&error))
    }

    /// How it is doing.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let stats = self.0.quinn.stats();
        Stats {
            rtt: stats.path.rtt,
            window: stats.path.cwnd,
            mtu: stats.path.current_mtu,
            sent: stats.path.sent_packets,
            lost: stats.path.lost_packets,
            datagrams: (stats.udp_tx.datagrams, stats.udp_rx.datagrams),
            bytes: (stats.udp_tx.bytes, stats.udp_rx.bytes),
        }
    }

    /// How many streams of ours the peer has stopped so far.
    pub(crate) fn stops_received(&self) -> u64 {
        self.0.quinn.stats().frame_rx.stop_sending
    }

    /// Charges what it may hold to the budget of its peer's cluster, from now on and once, and lets it have
    /// as much as a connection of `class` may: `Interactive` unless the peer has something to carry in
    /// bulk. Until then it may hold [`Tuning::WINDOW_AT_FIRST`].
    pub fn charge_to(
        &self,
        budget: &BufferBudget,
        cluster: &ClusterName,
        tuning: &Tuning,
        class: Class,
    ) {
        self.0.windows.get_or_init(|| {
            let limits = tuning.windows(class);
            ConnectionWindows::new(&self.0.quinn, budget.clone(), cluster.clone(), limits)
        });
    }

    /// Its windows, where its peer is known, and what sets them.
    pub(crate) fn windows(&self) -> Option<(&ConnectionWindows, &quinn::Connection)> {
        Some((self.0.windows.get()?, &self.0.quinn))
    }

    /// Changes how large its windows may become.
    pub(crate) fn limit_windows(&self, tuning: &Tuning, class: Class) {
        if let Some((windows, _)) = self.windows() {
            windows.limit(tuning.windows(class));
        }
    }

    /// Lets its windows shrink if they have grown and are not used.
    pub(crate) fn shrink_windows_if_unused(&self) {
        if let Some((windows, quinn)) = self.windows() {
            windows.shrink_if_unused(quinn);
        }
    }

    /// What the peer may send on one stream before it is taken, where nothing less was agreed on.
    pub(crate) fn stream_window(&self) -> u64 {
        self.0.facts.stream_windows.most
    }

    /// The windows that its streams may have where the peer keeps to grants. In the bulk lane all have the largest
    /// from the start.
    pub(crate) fn grant_limits(&self) -> Option<GrantLimits> {
        Some(self.0.facts.stream_windows).filter(|_| self.class() == Class::Interactive)
    }

    /// Has all streams from here on keep to grants, if the peer does so: its hello said how much it lets come at
    /// first. Both sides see both hellos, and so agree.
    pub(crate) fn keep_grants(&self, theirs: u64) {
        if let Some(limits) = self.grant_limits().filter(|_| theirs > 0) {
            self.0.grants.get_or_init(|| GrantBook::new(theirs, limits));
        }
    }

    /// How far its streams may be sent, where both sides keep to that.
    pub(crate) fn grants(&self) -> Option<&GrantBook> {
        self.0.grants.get()
    }

    /// Bytes of one of its streams were taken, so the peer may be granted more.
    pub(crate) fn grant(&self, stream: u64, grant: &mut ReceiveGrant, taken: u64) {
        let Some(book) = self.grants() else { return };
        book.taken(stream, grant, taken, || {
            let is_pressed = self.windows().is_none_or(|(windows, _)| windows.is_pressed());
            (self.0.quinn.rtt(), is_pressed)
        });
    }

    /// Bytes that the peer sent were taken.
    pub(crate) fn taken(&self, bytes: usize) {
        if let Some((windows, quinn)) = self.windows() {
            windows.taken(quinn, bytes as u64);
        }
    }

    /// Bytes were given to it to send.
    pub(crate) fn sent(&self, bytes: usize) {
        if let Some((windows, quinn)) = self.windows() {
            windows.sent(quinn, bytes as u64);
        }
    }

    /// The code under which a stream learns that its connection is gone.
    pub(crate) fn lost(&self, error: &ConnectionError) -> Code {
        self.explain(error).code
    }

    /// Counts a stream of the peer's, and lets it have more at once when it has used most of what it
    /// was allowed. quinn pays for every stream that a peer may open, so the bound follows the use.
    fn grow(&self) {
        let peers = &self.0.peers;
        let halves = peers.halves.fetch_add(2, Ordering::Relaxed) + 2;
        let allowed = peers.allowed.load(Ordering::Relaxed);
        if allowed < peers.most && halves / 2 >= allowed / 4 * 3 {
            let more = allowed.saturating_mul(4).min(peers.most);
            peers.allowed.store(more, Ordering::Relaxed);
            self.0.quinn.set_max_concurrent_bi_streams(more.into());
        }
    }

    /// One half of a stream is gone; `id` says whose stream it was (RFC 9000 §2.1).
    pub(crate) fn half_gone(&self, id: quinn::StreamId) {
        let by_dialler = id.initiator() == quinn::Side::Client;
        if by_dialler != self.dialled() {
            self.0.peers.halves.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn explain(&self, error: &ConnectionError) -> Closed {
        Closed::from_quinn(error, self.0.ours.get())
    }

    fn streams(
        &self,
        send: quinn::SendStream,
        recv: quinn::RecvStream,
    ) -> (SendStream, RecvStream) {
        (SendStream::new(send, self.clone()), RecvStream::new(recv, self.clone()))
    }
}

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Connection {}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id())
            .field("peer", self.peer())
            .finish_non_exhaustive()
    }
}

impl Windowed for quinn::Connection {
    fn set_receive_window(&self, bytes: u64) {
        // A value that does not fit is as good as none.
        self.set_receive_window(quinn::VarInt::from_u64(bytes).unwrap_or(quinn::VarInt::MAX));
    }

    fn set_send_window(&self, bytes: u64) {
        self.set_send_window(bytes);
    }

    fn rtt(&self) -> Duration {
        self.rtt()
    }
}
