//! Invitations: a key that lets whoever holds it ask, once and for a short while, to be linked.
//!
//! The secret of an invitation is an Ed25519 key. Nodes of the inviting cluster know its public half alone
//! ([`InvitedKeys`]), so that TLS proves who is invited and no secret crosses the wire. It is good for joining
//! (ALPN [`crate::tls::JOIN_ALPN`]) and for nothing else: nobody is a peer by it.
//!
//! * [`token`]: the text that one operator gives to the other. * [`handshake`]: both verifiers, as rustls calls them.
//! * [`check_inviter`]: whether who answered is a node of the cluster that made the token.

mod handshake;
mod token;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_core::spiffe::SpiffeId;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use zeroize::Zeroizing;

pub(crate) use self::handshake::{InvitationVerifier, UncheckedInviter};
pub use self::token::{InvitationToken, InvitationTokenError};
use crate::authority::{AuthorityError, crypto_error};
use crate::bundle::TrustBundle;
use crate::crypto::provider;
use crate::fields::CertFields;
use crate::fingerprint::BundleFingerprint;
use crate::trust::{Trust, TrustBundles};
use crate::verify::{CertUsage, PeerVerifier, VerifyError};

/// SubjectPublicKeyInfo of Ed25519 without its outer header and its key (RFC 8410 §4).
const ED25519_SPKI: [u8; 10] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The secret of an invitation, which its token carries. Never shown.
#[derive(Clone)]
pub struct InvitationSecret(Zeroizing<[u8; Self::LEN]>);

impl InvitationSecret {
    /// Its length, in bytes.
    pub const LEN: usize = 32;

    /// A new one.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn generate() -> Result<Self, AuthorityError> {
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        aws_lc_rs::rand::fill(&mut bytes[..]).map_err(crypto_error)?;
        Ok(Self(bytes))
    }

    fn key_pair(&self) -> Result<Ed25519KeyPair, AuthorityError> {
        Ed25519KeyPair::from_seed_unchecked(&self.0[..]).map_err(crypto_error)
    }

    /// The public half, which the inviting cluster's nodes know.
    ///
    /// # Errors
    /// [`AuthorityError::Crypto`]; not met in practice.
    pub fn key(&self) -> Result<InvitationKey, AuthorityError> {
        let mut key = [0; InvitationKey::LEN];
        key.copy_from_slice(self.key_pair()?.public_key().as_ref());
        Ok(InvitationKey(key))
    }

    /// The proof that TLS presents: a certificate that says nothing but the key.
    pub(crate) fn certified(&self) -> Result<Arc<CertifiedKey>, AuthorityError> {
        let pkcs8 = self.key_pair()?.to_pkcs8().map_err(crypto_error)?;
        let pkcs8 = Zeroizing::new(pkcs8.as_ref().to_vec());
        let key = KeyPair::try_from(&pkcs8[..]).map_err(crypto_error)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let certificate = params.self_signed(&key).map_err(crypto_error)?;
        let private = PrivateKeyDer::Pkcs8(pkcs8.to_vec().into());
        let private = provider().key_provider.load_private_key(private).map_err(crypto_error)?;
        Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], private)))
    }
}

impl fmt::Debug for InvitationSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvitationSecret").finish_non_exhaustive()
    }
}

/// The public key of an invitation: names it, and is no secret. Its text is hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InvitationKey([u8; Self::LEN]);

impl InvitationKey {
    /// Its length, in bytes.
    pub const LEN: usize = 32;

    /// The key of the invitation that the peer of a finished handshake proved to hold; `None` if it showed anything
    /// else.
    #[must_use]
    pub fn of_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let [only] = chain else { return None };
        let fields = CertFields::parse(only).ok()?;
        fields.spki.strip_prefix(&ED25519_SPKI)?.try_into().ok().map(Self)
    }
}

impl fmt::Display for InvitationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InvitationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InvitationKey({self})")
    }
}

/// The text is not the hexadecimal form of an invitation's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key of an invitation has {} hexadecimal digits", 2 * InvitationKey::LEN)]
pub struct InvitationKeyError;

impl FromStr for InvitationKey {
    type Err = InvitationKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 2 * Self::LEN || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(InvitationKeyError);
        }
        let mut key = [0; Self::LEN];
        for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| InvitationKeyError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvitationKeyError)?;
        }
        Ok(Self(key))
    }
}

/// The keys that may be used to join now. While there is none, nobody can even try.
#[derive(Debug, Default)]
pub struct InvitedKeys(Mutex<BTreeMap<InvitationKey, UnixTime>>);

impl InvitedKeys {
    /// Lets whoever holds `key` ask until `until`; forgets the keys whose time had passed at `now`.
    pub fn admit(&self, key: InvitationKey, until: UnixTime, now: UnixTime) {
        let mut keys = self.lock();
        keys.retain(|_, until| now < *until);
        keys.insert(key, until);
    }

    /// True if whoever holds `key` may ask at `now`.
    #[must_use]
    pub fn is_admitted(&self, key: &InvitationKey, now: UnixTime) -> bool {
        self.lock().get(key).is_some_and(|until| now < *until)
    }

    /// Forgets a key.
    pub fn forget(&self, key: &InvitationKey) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InvitationKey, UnixTime>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reason why whoever answered is not a node of the cluster that made the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviterError {
    /// Whoever answers hands over another bundle than the token was made for.
    #[error(
        "whoever answers there hands over trust bundle {found}, and the token was made by the cluster with {expected}"
    )]
    OtherBundle {
        /// The fingerprint of what it handed over.
        found: BundleFingerprint,
        /// The token's.
        expected: BundleFingerprint,
    },
    /// The bundle is that cluster's, and it could not prove to be one of its nodes.
    #[error("whoever answers there is no node of the cluster that made the token: {0}")]
    NotItsNode(#[from] VerifyError),
}

/// Decides whether the peer that showed `chain` in a finished handshake is a node of the cluster whose bundle has the
/// fingerprint `expected`. `bundle` is what the peer itself handed over. Before this nothing may be sent to it.
///
/// # Errors
/// [`InviterError`], see there.
pub fn check_inviter(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    expected: BundleFingerprint,
    now: UnixTime,
) -> Result<SpiffeId, InviterError> {
    let found = BundleFingerprint::of(bundle);
    if found != expected {
        return Err(InviterError::OtherBundle { found, expected });
    }
    let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    let mut bundles = TrustBundles::default();
    if bundles.insert(bundle.clone()).is_err() {
        return Err(VerifyError::UnknownTrustDomain(bundle.domain().clone()).into());
    }
    let verifier = PeerVerifier::new(Trust { bundles, ..Trust::default() });
    Ok(verifier.verify(leaf, intermediates, CertUsage::ServerAuth, now)?.id)
}

#[cfg(test)]
mod tests;
