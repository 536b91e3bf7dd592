//! Incoming handshakes: which are let in, and how each ends.
//!
//! Anybody may send a first packet, from any address he likes to claim. So the number of handshakes under way
//! is bounded; beyond a part of that, strangers must first validate their address (Retry), only so many are
//! let in from one network, and beyond all of it they are not answered: see `handshake_limiter`. Every way in
//! which an attempt ends is counted.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::ClusterName;
use adit_core::snapshot::Class;
use adit_pki::{InvitationKey, VerifyError};
use quinn::ServerConfig;
use tokio::time::Instant;

use super::closed::{CloseReason, ClosedBy};
use super::connection::{ConnectionFacts, QuicConnection};
use super::handshake_limiter::{FirstPacketDecision, HandshakeLimiter, HandshakePermit};
use super::peer_certificate::{certificate_chain, peer_identity};
use super::{Endpoints, EndpointsInner};
use crate::cid;
use crate::tls::{ConnectionPieces, Tls};

/// The shortest time after which a peer that gives up has probably received no answer, from the handshake's
/// begin: a peer that received one has gone on or refused long before, and one that was served at another
/// address gives up sooner.
pub(crate) const UNHEARD_TIMEOUT: Duration = Duration::from_secs(2);

/// An incoming handshake, within the limits. Dropping it refuses.
#[derive(Debug)]
pub struct Incoming {
    quinn: quinn::Incoming,
    class: Class,
    /// True if the peer wants to join by invitation, and there is one.
    is_invitee: bool,
    permit: HandshakePermit,
    worker: usize,
    shared: Arc<EndpointsInner>,
}

/// The reason why an incoming handshake did not become a connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// The handshake took too long.
    #[error("the handshake did not end within {0:?}")]
    TimedOut(Duration),
    /// The peer gave up after so long: nothing that was sent to it seems to have arrived.
    #[error("the peer heard nothing, and gave up after {0:?}")]
    Unheard(Duration),
    /// The handshake came in more pieces than any has. Without the proof of its address it may be anybody's.
    #[error("the handshake came in too many pieces")]
    TooManyPieces {
        /// True if the address was proved before the handshake began.
        is_address_validated: bool,
    },
    /// The handshake failed: a certificate that is not believed, no protocol in common, a peer that
    /// gave up.
    #[error("{0}")]
    Closed(CloseReason),
    /// The handshake succeeded and yet there is no readable identity; not met in practice.
    #[error("the peer's certificate cannot be read: {0}")]
    Identity(VerifyError),
}

impl AcceptError {
    /// The fault of the path, of a certificate, or of a peer at a proved address, and why a certificate was refused:
    /// [`Code::OneWay`], [`Code::CertificateRefused`], [`Code::RefusedByPeer`] or [`Code::ProtocolError`]. `None` for
    /// all else.
    #[must_use]
    pub fn path_fault(&self) -> Option<(Code, &str)> {
        match self {
            Self::TimedOut(_) | Self::Unheard(_) => Some((Code::OneWay, "")),
            Self::TooManyPieces { is_address_validated: true } => Some((Code::ProtocolError, "")),
            Self::Closed(closed) => closed.refused_certificate(),
            Self::TooManyPieces { is_address_validated: false } | Self::Identity(_) => None,
        }
    }
}

impl Endpoints {
    /// The linked clusters, and our own, that have a node at this address as far as is known.
    #[must_use]
    pub fn clusters_at(&self, address: IpAddr) -> Vec<ClusterName> {
        self.0.handshake_limiter.clusters_at(address)
    }

    /// The next incoming handshake at this worker, within the limits; `None` once the endpoints are closed.
    /// Call it in a loop, on the worker's own runtime; the handshake is for another task. Waits for ever if
    /// the node does not listen.
    pub async fn accept(&self, worker: usize) -> Option<Incoming> {
        let endpoints = self.0.servers.get(worker)?;
        loop {
            let quinn = match endpoints.as_slice() {
                [] => std::future::pending().await,
                [only] => only.accept().await,
                several => {
                    let each = several.iter().map(|endpoint| Box::pin(endpoint.accept()));
                    futures_util::future::select_all(each).await.0
                }
            }?;
            if let Some(incoming) = self.admit(worker, quinn) {
                return Some(incoming);
            }
            // A flood must not keep the worker from its connections.
            tokio::task::consume_budget().await;
        }
    }

    fn admit(&self, worker: usize, quinn: quinn::Incoming) -> Option<Incoming> {
        let (limiter, bounds) = (&self.0.handshake_limiter, &self.0.tuning.handshakes);
        let validated = quinn.remote_address_validated();
        if self.0.draining.load(Ordering::Relaxed) {
            if !self.0.is_reading_paused() {
                limiter.draining.fetch_add(1, Ordering::Relaxed);
                quinn.refuse();
                return None;
            }
            // It is sent again, and that one reaches the successor. A client that was asked to prove its
            // address here goes on here: its packets have an ID of this process.
            if quinn.may_retry() {
                quinn.ignore();
                return None;
            }
        }
        match HandshakeLimiter::admit(limiter, quinn.remote_address().ip(), validated, bounds) {
            FirstPacketDecision::Admit(place) => {
                let first = quinn.orig_dst_cid();
                let class = cid::class_of(&first);
                let shared = Arc::clone(&self.0);
                // Without an invitation this is a handshake like any other, and ends as in a version that has none.
                let is_invitee = cid::is_invitees(&first) && shared.invitations.is_any();
                return Some(Incoming { quinn, class, is_invitee, permit: place, worker, shared });
            }
            FirstPacketDecision::Retry => {
                limiter.retried.fetch_add(1, Ordering::Relaxed);
                // An address that is not proved can always be asked to; the error would be that it cannot.
                drop(quinn.retry());
            }
            FirstPacketDecision::Ignore => {
                limiter.busy.fetch_add(1, Ordering::Relaxed);
                // A peer sends it again, and there may be a place by then; anybody else is not owed an
                // answer.
                quinn.ignore();
            }
        }
        None
    }

    /// Sets the addresses of the nodes of `cluster`: handshakes from there have places that no stranger
    /// takes. Replaces what was set before.
    pub fn set_known_addresses(
        &self,
        cluster: &ClusterName,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) {
        self.0.handshake_limiter.set_known_addresses(cluster, addresses);
    }

    /// Records that a node of `cluster` has proved its identity from this address, which is known for an hour
    /// from now.
    pub fn record_met_address(&self, cluster: &ClusterName, address: IpAddr) {
        self.0.handshake_limiter.record_met_address(cluster, address);
    }

    /// Forgets the addresses of all clusters but those that `keep` wants.
    pub fn retain_known_clusters(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.0.handshake_limiter.retain_clusters(keep);
    }
}

impl Incoming {
    /// The address that the peer claims to have.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        let address = self.quinn.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// True if the peer wants to join by invitation, and there is one.
    #[must_use]
    pub fn is_invitee(&self) -> bool {
        self.is_invitee
    }

    /// Does the handshake with somebody who joins by invitation, and gives him to the book of invitations until he has
    /// his answer. He is no peer by it.
    ///
    /// # Errors
    /// [`AcceptError`], see there: above all, he proved to hold no invitation.
    pub async fn serve_invitee(self) -> Result<(), AcceptError> {
        let (shared, remote) = (Arc::clone(&self.shared), self.remote());
        let pieces = Arc::<ConnectionPieces>::default();
        let config = shared.server_configs.for_invitee(&shared.tls, &pieces);
        let (quinn, key) = self
            .shake_hands(config, &pieces, |quinn| {
                let key = InvitationKey::of_chain(&certificate_chain(quinn));
                key.ok_or(VerifyError::NoCertificate)
            })
            .await?;
        shared.invitations.serve(&quinn, remote, key).await;
        Ok(())
    }

    /// Does the handshake.
    ///
    /// # Errors
    /// [`AcceptError`], see there.
    pub async fn accept(self) -> Result<QuicConnection, AcceptError> {
        let (shared, class, worker) = (Arc::clone(&self.shared), self.class, self.worker);
        let epoch = shared.tls.verifier.epoch();
        let pieces = Arc::<ConnectionPieces>::default();
        let config = shared.server_configs.for_handshake(class, &shared.tls, &pieces);
        let (quinn, peer) = self.shake_hands(config, &pieces, peer_identity).await?;
        let worker = shared.workers[worker].clone();
        let facts = ConnectionFacts {
            id: shared.next_connection_id(),
            class,
            dialled: false,
            worker,
            epoch,
            streams: shared.tuning.all_streams(),
            stream_windows: shared.tuning.stream_windows(class),
            pieces,
        };
        Ok(QuicConnection::new(quinn, peer, facts))
    }

    /// Does the handshake with this configuration, counts how it ends, and reads who the peer is.
    async fn shake_hands<T>(
        self,
        config: Arc<ServerConfig>,
        pieces: &Arc<ConnectionPieces>,
        identify: impl FnOnce(&quinn::Connection) -> Result<T, VerifyError>,
    ) -> Result<(quinn::Connection, T), AcceptError> {
        let Self { quinn, permit: place, shared, .. } = self;
        let limit = shared.tuning.handshakes.timeout;
        let connected = shake_hands(quinn, config, limit, pieces).await;
        let connected = connected.and_then(|quinn| {
            let peer = identify(&quinn).map_err(AcceptError::Identity)?;
            Ok((quinn, peer))
        });
        // Whatever it came to, it is no handshake under way any more.
        drop(place);
        let limiter = &shared.handshake_limiter;
        let counter = match &connected {
            Ok(_) => &limiter.accepted,
            Err(AcceptError::TooManyPieces { .. }) => &limiter.too_many_pieces,
            Err(error) => match error.path_fault() {
                Some((Code::OneWay, _)) => &limiter.timed_out,
                Some((Code::RefusedByPeer, _)) => &limiter.refused_by_peer,
                Some(_) => &limiter.certificate_refused,
                None => &limiter.failed,
            },
        };
        counter.fetch_add(1, Ordering::Relaxed);
        connected
    }
}

async fn shake_hands(
    quinn: quinn::Incoming,
    config: Arc<ServerConfig>,
    limit: Duration,
    pieces: &Arc<ConnectionPieces>,
) -> Result<quinn::Connection, AcceptError> {
    let began = Instant::now();
    let is_address_validated = quinn.remote_address_validated();
    let closed = |error| match CloseReason::from_quinn(&error, None) {
        _ if pieces.is_exceeded() => AcceptError::TooManyPieces { is_address_validated },
        CloseReason { code: Code::ConnectionUnused, by: ClosedBy::Peer, .. }
            if began.elapsed() >= UNHEARD_TIMEOUT =>
        {
            AcceptError::Unheard(began.elapsed())
        }
        closed => AcceptError::Closed(closed),
    };
    let connecting = quinn.accept_with(config).map_err(closed)?;
    tokio::time::timeout(limit, connecting)
        .await
        .map_err(|_| AcceptError::TimedOut(limit))?
        .map_err(closed)
}

/// The server configurations, by class.
pub(super) struct ServerConfigs {
    pub(super) interactive: Arc<ServerConfig>,
    pub(super) bulk: Arc<ServerConfig>,
    /// For whoever joins by invitation.
    pub(super) invitee: Arc<ServerConfig>,
}

impl ServerConfigs {
    /// The configuration of one handshake, whose pieces are counted.
    fn for_handshake(
        &self,
        class: Class,
        tls: &Tls,
        pieces: &Arc<ConnectionPieces>,
    ) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(match class {
            Class::Interactive => &self.interactive,
            Class::Bulk => &self.bulk,
        });
        config.crypto = tls.for_incoming(pieces);
        Arc::new(config)
    }

    /// The configuration of one handshake with somebody who joins by invitation.
    fn for_invitee(&self, tls: &Tls, pieces: &Arc<ConnectionPieces>) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.invitee);
        config.crypto = tls.for_invitee(pieces);
        Arc::new(config)
    }
}
