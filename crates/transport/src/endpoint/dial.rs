//! Dialling a peer, from a socket that no other connection has.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::snapshot::Class;
use adit_core::spiffe::{SpiffeId, TrustDomain};
use adit_pki::VerifyError;
use quinn::ClientConfig;

use super::closed::CloseReason;
use super::connection::{ConnectionFacts, QuicConnection};
use super::{Endpoints, EndpointsInner, peer_certificate};
use crate::cid;
use crate::socket::SharedBufferSocket;
use crate::tls::ConnectionPieces;

/// The target of a dial.
#[derive(Debug, Clone, Copy)]
pub struct DialRequest<'a> {
    /// The address to dial.
    pub address: SocketAddr,
    /// The trust domain whose node must answer.
    pub trust_domain: &'a TrustDomain,
    /// The traffic class that the connection will carry.
    pub class: Class,
}

/// The reason why a dial did not become a connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No socket could be had.
    #[error("no UDP socket to dial from: {0}")]
    Socket(io::Error),
    /// Nothing can be sent to this address.
    #[error("{0} cannot be dialled")]
    Address(SocketAddr),
    /// Nobody answered, or not in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The answer came in more pieces than any handshake has.
    #[error("its handshake came in too many pieces")]
    TooManyPieces,
    /// The handshake failed.
    #[error("{0}")]
    Closed(CloseReason),
    /// A node of another cluster answered.
    #[error("{found} answered where a node of {expected} was expected")]
    WrongCluster {
        /// The trust domain whose node was to answer.
        expected: TrustDomain,
        /// The identity that answered.
        found: SpiffeId,
    },
    /// The handshake succeeded and yet there is no readable identity; not met in practice.
    #[error("the peer's certificate cannot be read: {0}")]
    Identity(VerifyError),
}

impl DialError {
    /// The reason as one of the list.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Socket(_) => Code::LocalError,
            Self::Address(_) | Self::TimedOut(_) => Code::LinkDown,
            Self::TooManyPieces => Code::ProtocolError,
            Self::Closed(closed) => closed.code,
            Self::WrongCluster { .. } | Self::Identity(_) => Code::IdentityMismatch,
        }
    }
}

impl Endpoints {
    /// Dials a peer; the connection lives on this worker. May be cancelled.
    ///
    /// Success means that the peer is the one that was wanted, not yet that the peer accepted us: in
    /// TLS 1.3 the dialler is done first, and a refusal shows as the connection's end.
    ///
    /// # Errors
    /// [`DialError`], see there.
    ///
    /// # Panics
    /// If there is no worker of that number.
    pub async fn dial(
        &self,
        worker: usize,
        dial: DialRequest<'_>,
    ) -> Result<QuicConnection, DialError> {
        let shared = &self.0;
        let epoch = shared.tls.verifier.epoch();
        let pieces = Arc::<ConnectionPieces>::default();
        let connecting = shared.begin_dial(worker, dial, &pieces)?;
        let limit = shared.tuning.handshakes.timeout;
        let quinn = tokio::time::timeout(limit, connecting)
            .await
            .map_err(|_| DialError::TimedOut(limit))?
            .map_err(|error| match CloseReason::from_quinn(&error, None) {
                _ if pieces.is_exceeded() => DialError::TooManyPieces,
                closed => DialError::Closed(closed),
            })?;
        let peer = peer_certificate::peer_identity(&quinn).map_err(DialError::Identity)?;
        let worker = shared.workers[worker].clone();
        let facts = ConnectionFacts {
            id: shared.next_connection_id(),
            class: dial.class,
            dialled: true,
            worker,
            epoch,
            streams: shared.tuning.all_streams(),
            stream_windows: shared.tuning.stream_windows(dial.class),
            pieces,
        };
        let connection = QuicConnection::new(quinn, peer, facts);
        let found = connection.peer_id();
        if found.trust_domain() != dial.trust_domain {
            let error = DialError::WrongCluster {
                expected: dial.trust_domain.clone(),
                found: found.clone(),
            };
            connection.close(Code::IdentityMismatch, &error.to_string());
            return Err(error);
        }
        Ok(connection)
    }
}

impl EndpointsInner {
    /// Sends the first flight. The endpoint is the connection's alone: nobody else holds it, so it ends
    /// when the connection has.
    fn begin_dial(
        &self,
        worker: usize,
        dial: DialRequest<'_>,
        pieces: &Arc<ConnectionPieces>,
    ) -> Result<quinn::Connecting, DialError> {
        let worker = &self.workers[worker];
        let address = SocketAddr::new(dial.address.ip().to_canonical(), dial.address.port());
        let _context = worker.handle().enter();
        let socket = self.net.dial(address, &self.socket_options()).map_err(DialError::Socket)?;
        let scratch = Arc::clone(&self.recv_buffers[worker.index()]);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            self.endpoint_config(worker),
            None,
            Arc::new(SharedBufferSocket { socket, recv_buffer: scratch }),
            worker.runtime(&self.dialled),
        )
        .map_err(DialError::Socket)?;
        let mut config = ClientConfig::new(self.tls.for_dial(pieces));
        config
            .transport_config(self.tuning.dialler_transport(dial.class))
            .token_store(Arc::clone(&self.tokens) as _)
            .initial_dst_cid_provider(Arc::new(move || cid::first_flight(dial.class)));
        // The name is neither sent nor looked at, but tokens are kept under it: they are the node's.
        endpoint
            .connect_with(config, address, &address.ip().to_string())
            .map_err(|_| DialError::Address(address))
    }
}
