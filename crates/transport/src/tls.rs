//! The one place where TLS meets QUIC.
//!
//! `adit-pki` decides what is presented and who is believed; here both configurations become quinn's. They
//! stay for the endpoints' life: a renewed identity or a new bundle shows in the next handshake, because they
//! are read anew at each. The keys that come out of a handshake count the pieces of what they decrypt
//! (`packet_pieces`).

mod frame_noise;
mod frames;
mod packet_pieces;
mod sessions;
mod stream_order;

use std::sync::Arc;

use adit_pki::{Current, Identity, InvitationSecret, InvitedKeys, PeerVerifier};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::time_provider::TimeProvider;

pub(crate) use self::packet_pieces::{ConnectionPieces, PieceDebt};
use self::sessions::{BoundedClientConfig, BoundedServerConfig};

/// The reason why there can be no TLS: a build of rustls without TLS 1.3 or its AES suite. Not met in
/// practice.
#[derive(Debug, Clone, thiserror::Error)]
#[error("TLS cannot be set up: {0}")]
pub struct TlsError(String);

/// The TLS configurations of this node for both directions: its own proof and its verifier. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    server: Arc<QuicServerConfig>,
    client: Arc<QuicClientConfig>,
    /// For whoever joins by invitation.
    inviter: Arc<QuicServerConfig>,
    /// The keys of invitations that may be used now.
    pub(crate) invited: Arc<InvitedKeys>,
    /// The verifier in both directions.
    pub(crate) verifier: Arc<PeerVerifier>,
}

impl Tls {
    /// Presents what `identity` holds when a handshake begins, and accepts peers that `verifier` accepts
    /// then. `clock` is the time against which certificates are checked.
    ///
    /// # Errors
    /// [`TlsError`], see there.
    pub fn new(
        identity: &Arc<Current<Identity>>,
        verifier: &Arc<PeerVerifier>,
        clock: &Arc<dyn TimeProvider>,
    ) -> Result<Self, TlsError> {
        let server = adit_pki::tls::server_config(identity, verifier, clock)
            .map_err(|error| TlsError(error.to_string()))?;
        let client = adit_pki::tls::client_config(identity, verifier, clock)
            .map_err(|error| TlsError(error.to_string()))?;
        let invited = Arc::new(InvitedKeys::default());
        let inviter = adit_pki::tls::invitation_server_config(identity, &invited, clock)
            .map_err(|error| TlsError(error.to_string()))?;
        Ok(Self {
            server: Arc::new(server.try_into().map_err(suite)?),
            client: Arc::new(client.try_into().map_err(suite)?),
            inviter: Arc::new(inviter.try_into().map_err(suite)?),
            invited,
            verifier: Arc::clone(verifier),
        })
    }

    /// The configuration for a connection that a peer begins, whose pieces are counted.
    pub(crate) fn for_incoming(
        &self,
        pieces: &Arc<ConnectionPieces>,
    ) -> Arc<dyn quinn::crypto::ServerConfig> {
        let (inner, pieces) = (Arc::clone(&self.server), Arc::clone(pieces));
        Arc::new(BoundedServerConfig { inner, pieces })
    }

    /// The configuration for a connection of somebody who joins by invitation, whose pieces are counted.
    pub(crate) fn for_invitee(
        &self,
        pieces: &Arc<ConnectionPieces>,
    ) -> Arc<dyn quinn::crypto::ServerConfig> {
        let (inner, pieces) = (Arc::clone(&self.inviter), Arc::clone(pieces));
        Arc::new(BoundedServerConfig { inner, pieces })
    }

    /// The configuration for a connection that this side begins, whose pieces are counted.
    pub(crate) fn for_dial(
        &self,
        pieces: &Arc<ConnectionPieces>,
    ) -> Arc<dyn quinn::crypto::ClientConfig> {
        let (inner, pieces) = (Arc::clone(&self.client), Arc::clone(pieces));
        Arc::new(BoundedClientConfig { inner, pieces })
    }
}

/// The configuration with which somebody joins by invitation, whose pieces are counted.
///
/// # Errors
/// [`TlsError`], see there.
pub(crate) fn for_joining(
    secret: &InvitationSecret,
    pieces: &Arc<ConnectionPieces>,
) -> Result<Arc<dyn quinn::crypto::ClientConfig>, TlsError> {
    let clock = adit_pki::tls::system_clock();
    let config = adit_pki::tls::invitation_client_config(secret, &clock)
        .map_err(|error| TlsError(error.to_string()))?;
    let inner = Arc::new(QuicClientConfig::try_from(config).map_err(suite)?);
    Ok(Arc::new(BoundedClientConfig { inner, pieces: Arc::clone(pieces) }))
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

fn suite(error: quinn::crypto::rustls::NoInitialCipherSuite) -> TlsError {
    TlsError(error.to_string())
}
