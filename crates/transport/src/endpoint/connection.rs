//! An authenticated connection with one peer.
//!
//! It knows the peer's identity, as the handshake proved it, and how it ended; the layers above decide what
//! is sent on it. It lives as long as a handle or one of its streams does.

mod windows;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use adit_core::code::Code;
use adit_core::snapshot::Class;
use adit_core::spiffe::SpiffeId;
use adit_pki::{CertUsage, PeerIdentity, PeerVerifier, UnixTime, VerifyError};
use quinn::ConnectionError;

use super::closed::{CloseReason, ClosedBy, TOO_MANY_PIECES};
use super::{Worker, peer_certificate, varint};
use crate::budget::ConnectionWindows;
use crate::stream::{RecvStream, SendStream};
use crate::stream_credit::{CreditLimits, StreamCredits};
use crate::tls::ConnectionPieces;
use crate::tuning::{Tuning, acknowledged_packets};

/// An authenticated connection. Cheap to clone; every clone is the same connection.
#[derive(Clone)]
pub struct QuicConnection(Arc<ConnectionInner>);

struct ConnectionInner {
    quinn: quinn::Connection,
    peer: PeerIdentity,
    facts: ConnectionFacts,
    /// The reason with which this side closed it.
    closed_here: OnceLock<CloseReason>,
    peer_streams: PeerStreams,
    /// Its windows, once it is known whose it is.
    windows: OnceLock<ConnectionWindows>,
    /// The credit of its streams, if both sides keep to credit.
    credits: OnceLock<StreamCredits>,
}

/// The streams that the peer has opened.
struct PeerStreams {
    /// Halves of them that are still held here.
    open_halves: AtomicU32,
    /// The most streams that the peer may have open at once, now and at most.
    allowed: AtomicU32,
    most: u32,
}

/// The facts about a connection besides its peer.
#[derive(Debug, Clone)]
pub(super) struct ConnectionFacts {
    pub(super) id: u64,
    pub(super) class: Class,
    pub(super) dialled: bool,
    pub(super) worker: Worker,
    /// The verifier's epoch before the handshake.
    pub(super) epoch: u64,
    /// The most streams that the peer may have open at once.
    pub(super) streams: u32,
    /// The bytes that the peer may send on one stream before they are taken: at first, and at most.
    pub(super) stream_windows: CreditLimits,
    /// The pieces that came on it, from its first packet on.
    pub(super) pieces: Arc<ConnectionPieces>,
}

/// The reason why no stream could be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenBiError {
    /// The peer allowed no further stream in this time: its limit is reached.
    #[error("the peer granted no stream within {0:?}")]
    TimedOut(Duration),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    ConnectionLost(Code),
}

impl OpenBiError {
    /// The reason as one of the list.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::TimedOut(_) => Code::OpenTimeout,
            Self::ConnectionLost(code) => code,
        }
    }
}

/// The state of a connection; totals since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionStats {
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

/// Frames that ask for an acknowledgement, and what came of them; totals since the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AckCounts {
    /// Number of frames sent that ask for an acknowledgement.
    pub(crate) ack_eliciting: u64,
    /// Number of our packets that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Number of datagrams that came.
    pub(crate) received: u64,
}

impl QuicConnection {
    pub(super) fn new(
        quinn: quinn::Connection,
        peer: PeerIdentity,
        facts: ConnectionFacts,
    ) -> Self {
        let peers = PeerStreams {
            open_halves: AtomicU32::new(0),
            allowed: AtomicU32::new(facts.streams.min(Tuning::STREAMS_AT_FIRST)),
            most: facts.streams,
        };
        Self(Arc::new(ConnectionInner {
            quinn,
            peer,
            facts,
            closed_here: OnceLock::new(),
            peer_streams: peers,
            windows: OnceLock::new(),
            credits: OnceLock::new(),
        }))
    }

    /// The peer's SPIFFE ID, as its certificate proved it.
    #[must_use]
    pub fn peer_id(&self) -> &SpiffeId {
        &self.0.peer.id
    }

    /// The content of its certificate: the ID, the node's name, and how long it is valid.
    #[must_use]
    pub fn identity(&self) -> &PeerIdentity {
        &self.0.peer
    }

    /// Checks whether a handshake now would end as this connection's did: with a certificate that is
    /// believed.
    ///
    /// # Errors
    /// Why it would not.
    pub fn verify(&self, verifier: &PeerVerifier, now: UnixTime) -> Result<(), VerifyError> {
        let chain = peer_certificate::certificate_chain(&self.0.quinn);
        let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
        let usage = if self.dialled() { CertUsage::ServerAuth } else { CertUsage::ClientAuth };
        verifier.verify(leaf, intermediates, usage, now).map(drop)
    }

    /// Checks whether its certificate is still believed, if trust has changed since its handshake began.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn verify_if_trust_changed(
        &self,
        verifier: &PeerVerifier,
        now: UnixTime,
    ) -> Result<(), VerifyError> {
        if verifier.epoch() == self.0.facts.epoch { Ok(()) } else { self.verify(verifier, now) }
    }

    /// The peer's present address. A peer behind a NAT may move.
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

    /// The traffic class that it is tuned for. The dialler chose it, and the acceptor learned it from the
    /// first packet, which proves nothing: the hello must name the same.
    #[must_use]
    pub fn class(&self) -> Class {
        self.0.facts.class
    }

    /// True if this side dialled.
    #[must_use]
    pub fn dialled(&self) -> bool {
        self.0.facts.dialled
    }

    /// The worker on which it lives, and on which its streams are served best.
    #[must_use]
    pub fn worker(&self) -> &Worker {
        &self.0.facts.worker
    }

    /// Opens a stream, as soon as the peer's limit allows one. The peer learns of it with its first
    /// byte. `within` of zero asks whether there is room right now.
    ///
    /// # Errors
    /// [`OpenBiError`], see there.
    pub async fn open_bi(&self, within: Duration) -> Result<(SendStream, RecvStream), OpenBiError> {
        // Without a limit this would wait for ever at the peer's (measured at quinn's default of 100).
        let opened = tokio::time::timeout(within, self.0.quinn.open_bi()).await;
        match opened.map_err(|_| OpenBiError::TimedOut(within))? {
            Ok((send, recv)) => Ok(self.wrap_stream(send, recv)),
            Err(error) => Err(OpenBiError::ConnectionLost(self.lost_code(&error))),
        }
    }

    /// The next stream that the peer opens.
    ///
    /// # Errors
    /// How the connection ended, after all streams that came before.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), CloseReason> {
        match self.0.quinn.accept_bi().await {
            Ok((send, recv)) => {
                self.count_peer_stream();
                Ok(self.wrap_stream(send, recv))
            }
            Err(error) => Err(self.closed_reason(&error)),
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
        self.0.closed_here.get_or_init(|| CloseReason::new(code, text, ClosedBy::Us));
        self.0.quinn.close(varint(code), text.as_bytes());
    }

    /// Waits for the end.
    pub async fn closed(&self) -> CloseReason {
        let error = self.0.quinn.closed().await;
        self.closed_reason(&error)
    }

    /// The way it ended; `None` while it lives.
    #[must_use]
    pub fn is_closed(&self) -> Option<CloseReason> {
        self.0.quinn.close_reason().map(|error| self.closed_reason(&error))
    }

    /// Its present state.
    #[must_use]
    pub fn stats(&self) -> ConnectionStats {
        let stats = self.0.quinn.stats();
        ConnectionStats {
            rtt: stats.path.rtt,
            window: stats.path.cwnd,
            mtu: stats.path.current_mtu,
            sent: stats.path.sent_packets,
            lost: stats.path.lost_packets,
            datagrams: (stats.udp_tx.datagrams, stats.udp_rx.datagrams),
            bytes: (stats.udp_tx.bytes, stats.udp_rx.bytes),
        }
    }

    /// Its acknowledgements so far. Rare frames are not counted, but what is sent again is.
    pub(crate) fn ack_counts(&self) -> AckCounts {
        let stats = self.0.quinn.stats();
        let frames = stats.frame_tx;
        let ack_eliciting = [
            frames.ping,
            frames.stream,
            frames.max_data,
            frames.max_stream_data,
            frames.max_streams_bidi,
            frames.reset_stream,
            frames.stop_sending,
        ];
        AckCounts {
            ack_eliciting: ack_eliciting.iter().sum(),
            acknowledged: acknowledged_packets(self.0.quinn.congestion_state()),
            received: stats.udp_rx.datagrams,
        }
    }

    /// Number of our streams that the peer has stopped so far.
    pub(crate) fn stops_received(&self) -> u64 {
        self.0.quinn.stats().frame_rx.stop_sending
    }

    /// Pieces of streams that came in vain since it was made: out of order, or never taken as they are.
    pub(crate) fn pieces_in_vain(&self) -> u64 {
        self.0.facts.pieces.in_vain()
    }

    /// True if it ended because of too many of these.
    pub(crate) fn has_too_many_pieces(&self) -> bool {
        self.0.facts.pieces.is_exceeded()
    }

    /// The code under which a stream learns that its connection is gone.
    pub(crate) fn lost_code(&self, error: &ConnectionError) -> Code {
        self.closed_reason(error).code
    }

    /// Counts a stream of the peer's, and lets it have more at once when it has used most of what it
    /// was allowed. quinn pays for every stream that a peer may open, so the bound follows the use.
    fn count_peer_stream(&self) {
        let peers = &self.0.peer_streams;
        let halves = peers.open_halves.fetch_add(2, Ordering::Relaxed) + 2;
        let allowed = peers.allowed.load(Ordering::Relaxed);
        if allowed < peers.most && halves / 2 >= allowed / 4 * 3 {
            let more = allowed.saturating_mul(4).min(peers.most);
            peers.allowed.store(more, Ordering::Relaxed);
            self.0.quinn.set_max_concurrent_bi_streams(more.into());
        }
    }

    /// Counts the end of one half of a stream; `id` says which side opened it (RFC 9000 §2.1).
    pub(crate) fn half_closed(&self, id: quinn::StreamId) {
        let by_dialler = id.initiator() == quinn::Side::Client;
        if by_dialler != self.dialled() {
            self.0.peer_streams.open_halves.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn closed_reason(&self, error: &ConnectionError) -> CloseReason {
        let closed_here = self.0.closed_here.get();
        if closed_here.is_none() && self.has_too_many_pieces() {
            return CloseReason::new(Code::ProtocolError, TOO_MANY_PIECES, ClosedBy::Us);
        }
        CloseReason::from_quinn(error, closed_here)
    }

    fn wrap_stream(
        &self,
        send: quinn::SendStream,
        recv: quinn::RecvStream,
    ) -> (SendStream, RecvStream) {
        (SendStream::new(send, self.clone()), RecvStream::new(recv, self.clone()))
    }
}

impl PartialEq for QuicConnection {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for QuicConnection {}

impl std::fmt::Debug for QuicConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicConnection")
            .field("id", &self.id())
            .field("peer", self.peer_id())
            .finish_non_exhaustive()
    }
}
