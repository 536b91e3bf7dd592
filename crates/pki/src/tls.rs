//! TLS between two nodes: one version, no resumption, the identity of the moment.
//!
//! Both configurations stay for an endpoint's life. What changes is behind them: the identity in a
//! [`Current`] that is read when a handshake begins, and the trust inside the [`PeerVerifier`]; so neither
//! a renewed certificate nor a new bundle needs a new endpoint. QUIC's side of it (transport parameters,
//! `QuicServerConfig::try_from`) is `adit-transport`'s.
//!
//! Resumption would let a peer back in without its certificate being looked at again, so there are no
//! tickets, no stored sessions and no early data (`SECURITY.md`, on identity).

use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, ServerConfig, SignatureScheme};

use crate::authority::{AuthorityError, crypto_error};
use crate::crypto::provider;
use crate::current::Current;
use crate::identity::Identity;
use crate::invitation::{InvitationSecret, InvitationVerifier, InvitedKeys, UncheckedInviter};
use crate::verify::PeerVerifier;

/// The application protocol between nodes. Versions of it are agreed on inside (hello), not here.
pub const ALPN: &[u8] = b"adit";
/// The application protocol of whoever joins by invitation.
pub const JOIN_ALPN: &[u8] = adit_core::wire::join::JOIN_ALPN;

/// The only TLS version: QUIC knows no older one, and kube's stack compiles TLS 1.2 into rustls.
const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The system's clock, for everybody but simulations.
#[must_use]
pub fn system_clock() -> Arc<dyn TimeProvider> {
    Arc::new(DefaultTimeProvider)
}

/// The configuration with which this node is dialled: it presents what `identity` holds when a handshake begins
/// and accepts whom `verifier` accepts. `clock` is what certificates are checked against.
///
/// # Errors
/// rustls' own, where its build lacks TLS 1.3 or a suite; not met in practice.
pub fn server_config(
    identity: &Arc<Current<Identity>>,
    verifier: &Arc<PeerVerifier>,
    clock: &Arc<dyn TimeProvider>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    server_config_for(identity, Arc::clone(verifier) as _, clock, ALPN)
}

fn server_config_for(
    identity: &Arc<Current<Identity>>,
    verifier: Arc<dyn ClientCertVerifier>,
    clock: &Arc<dyn TimeProvider>,
    protocol: &[u8],
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_details(Arc::clone(provider()), Arc::clone(clock))
        .with_protocol_versions(VERSIONS)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(IdentityResolver(Arc::clone(identity))));
    config.alpn_protocols = vec![protocol.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(Arc::new(config))
}

/// The configuration with which this node dials: as [`server_config`]. The server name that a caller must give is
/// neither sent nor looked at.
///
/// # Errors
/// rustls' own, where its build lacks TLS 1.3 or a suite; not met in practice.
pub fn client_config(
    identity: &Arc<Current<Identity>>,
    verifier: &Arc<PeerVerifier>,
    clock: &Arc<dyn TimeProvider>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let resolver = Arc::new(IdentityResolver(Arc::clone(identity)));
    client_config_for(resolver, Arc::clone(verifier) as _, clock, ALPN)
}

fn client_config_for(
    resolver: Arc<dyn ResolvesClientCert>,
    verifier: Arc<dyn ServerCertVerifier>,
    clock: &Arc<dyn TimeProvider>,
    protocol: &[u8],
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = ClientConfig::builder_with_details(Arc::clone(provider()), Arc::clone(clock))
        .with_protocol_versions(VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(resolver);
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// The configuration with which this node answers whoever joins by invitation: it presents what `identity` holds when a
/// handshake begins, and accepts the keys that `invited` has then, for [`JOIN_ALPN`] alone.
///
/// # Errors
/// rustls' own, where its build lacks TLS 1.3 or a suite; not met in practice.
pub fn invitation_server_config(
    identity: &Arc<Current<Identity>>,
    invited: &Arc<InvitedKeys>,
    clock: &Arc<dyn TimeProvider>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let verifier = Arc::new(InvitationVerifier(Arc::clone(invited)));
    server_config_for(identity, verifier, clock, JOIN_ALPN)
}

/// The configuration with which somebody joins by invitation: it proves to have `secret`, and takes whoever answers.
/// [`crate::invitation::check_inviter`] has to decide about him before anything is sent.
///
/// # Errors
/// If there can be no TLS, or no certificate; not met in practice.
pub fn invitation_client_config(
    secret: &InvitationSecret,
    clock: &Arc<dyn TimeProvider>,
) -> Result<Arc<ClientConfig>, AuthorityError> {
    let resolver = Arc::new(InvitationResolver(secret.certified()?));
    let config = client_config_for(resolver, Arc::new(UncheckedInviter), clock, JOIN_ALPN);
    config.map_err(crypto_error)
}

/// Presents the certificate of an invitation.
#[derive(Debug)]
struct InvitationResolver(Arc<CertifiedKey>);

impl ResolvesClientCert for InvitationResolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Presents the identity that is current when a handshake begins.
#[derive(Debug)]
struct IdentityResolver(Arc<Current<Identity>>);

impl ResolvesServerCert for IdentityResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.get().certified())
    }
}

impl ResolvesClientCert for IdentityResolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.get().certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
