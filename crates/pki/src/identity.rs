//! A node's own identity: its certificate chain and the key that belongs to it.
//!
//! An [`Identity`] exists only if its leaf and key belong together and its own cluster's bundle verifies
//! it as a node's, now; so a daemon that holds one can be understood by its peers. It never reads files
//! (see [`crate::files`]) and never shows its key.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use adit_core::spiffe::{SpiffeId, TrustDomain};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::bundle::TrustBundle;
use crate::crypto::provider;
use crate::pem::{self, PemError};
use crate::trust::{Trust, TrustBundles};
use crate::verify::{self, CertUsage, PeerIdentity, PeerVerifier, VerifyError};

/// The reason for which a chain and a key are not this node's identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The chain is not PEM certificates.
    #[error("the certificate chain is unusable: {0}")]
    Chain(PemError),
    /// The key is not one PEM private key.
    #[error("the private key is unusable: {0}")]
    Key(PemError),
    /// The key is of a kind that cannot sign handshakes.
    #[error("the private key is unusable: {0}")]
    KeyKind(rustls::Error),
    /// Key and leaf do not belong together.
    #[error(
        "the private key does not belong to the first certificate of the chain \
         (the node's own certificate must come first)"
    )]
    Mismatch,
    /// The leaf is of another trust domain than the cluster.
    #[error("the certificate is {id}, which is not of this cluster's trust domain {expected}")]
    TrustDomain {
        /// The ID in the certificate.
        id: SpiffeId,
        /// The cluster's own.
        expected: TrustDomain,
    },
    /// The cluster's own bundle does not verify it, so neither would a peer.
    #[error("peers would refuse the certificate: {0}")]
    Refused(#[from] VerifyError),
}

/// A node's certificate chain and key, checked. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    id: SpiffeId,
    certified: Arc<CertifiedKey>,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Identity {
    /// Takes a chain, leaf first, and its key, checked against the cluster's own `bundle` at `now`.
    /// `nodes_by_id` are whole IDs that count as nodes' (see [`Trust::nodes_by_id`]); usually none.
    ///
    /// # Errors
    /// [`IdentityError`], see there.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        bundle: &TrustBundle,
        nodes_by_id: &BTreeSet<SpiffeId>,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        let peer = verified(&chain, bundle, nodes_by_id, now)?;
        let key = provider().key_provider.load_private_key(key).map_err(IdentityError::KeyKind)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| IdentityError::Mismatch)?;
        Ok(Self {
            id: peer.id,
            certified: Arc::new(certified),
            not_before: peer.not_before,
            not_after: peer.not_after,
        })
    }

    /// Takes a chain and its key from PEM: certificates only in `chain`, one private key in `key`.
    ///
    /// # Errors
    /// [`IdentityError`], see there.
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        bundle: &TrustBundle,
        nodes_by_id: &BTreeSet<SpiffeId>,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        let chain = pem::certificates(chain).map_err(IdentityError::Chain)?;
        let key = pem::private_key(key).map_err(IdentityError::Key)?;
        Self::new(chain, key, bundle, nodes_by_id, now)
    }

    /// The SPIFFE ID of this node.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Its certificate chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Chain and key as rustls presents them.
    #[must_use]
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// Its certificate is valid from this second on.
    #[must_use]
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// Its certificate is valid up to this second.
    #[must_use]
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }
}

/// The identity in a chain, if peers that have `bundle` would accept it at `now`, as a server's and as a client's.
pub(crate) fn verified(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    nodes_by_id: &BTreeSet<SpiffeId>,
    now: UnixTime,
) -> Result<PeerIdentity, IdentityError> {
    let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    let claimed = verify::peer_id(chain)?;
    if claimed.id.trust_domain() != bundle.domain() {
        let expected = bundle.domain().clone();
        return Err(IdentityError::TrustDomain { id: claimed.id, expected });
    }
    let mut bundles = TrustBundles::default();
    // The only bundle of an empty set collides with nothing.
    if bundles.insert(bundle.clone()).is_err() {
        return Err(VerifyError::UnknownTrustDomain(bundle.domain().clone()).into());
    }
    let nodes_by_id = nodes_by_id.clone();
    let trust = Trust { bundles, nodes_by_id, ..Trust::default() };
    let verifier = PeerVerifier::new(trust);
    verifier.verify(leaf, intermediates, CertUsage::ServerAuth, now)?;
    Ok(verifier.verify(leaf, intermediates, CertUsage::ClientAuth, now)?)
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}
