//! The certificate that the peer of a finished handshake showed.

use adit_pki::{PeerIdentity, VerifyError};
use rustls::pki_types::CertificateDer;

/// The identity of the peer of a finished handshake.
pub(super) fn peer_identity(quinn: &quinn::Connection) -> Result<PeerIdentity, VerifyError> {
    adit_pki::peer_id(&certificate_chain(quinn))
}

/// The certificates that the peer of a finished handshake showed, leaf first.
pub(super) fn certificate_chain(quinn: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    let any = quinn.peer_identity();
    any.and_then(|any| any.downcast().ok()).map(|chain| *chain).unwrap_or_default()
}
