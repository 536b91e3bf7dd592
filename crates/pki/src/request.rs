//! Asking an authority for a certificate: a key that never leaves its node, and the request that proves it.

use std::fmt;

use adit_core::spiffe::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use zeroize::Zeroizing;

use crate::authority::{AuthorityError, KeyKind, crypto_error, key_pem};

/// A PKCS #10 request (RFC 2986) and the key that it is about.
pub struct SigningRequest {
    pem: String,
    key: KeyPair,
}

impl SigningRequest {
    /// Makes a key of `kind` and asks for a certificate of `id`: no subject, and this one URI.
    ///
    /// # Errors
    /// [`AuthorityError::Crypto`].
    pub fn new(id: &SpiffeId, kind: KeyKind) -> Result<Self, AuthorityError> {
        let key = kind.generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names =
            vec![SanType::URI(id.as_str().try_into().map_err(crypto_error)?)];
        let request = params.serialize_request(&key).map_err(crypto_error)?;
        Ok(Self { pem: request.pem().map_err(crypto_error)?, key })
    }

    /// The request as PEM, for the authority.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The key as PEM, for the file that keeps it.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        key_pem(&self.key)
    }
}

impl fmt::Debug for SigningRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningRequest").finish_non_exhaustive()
    }
}
