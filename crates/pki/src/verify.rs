//! Decides whether a certificate is a peer's: the one decision on which every connection rests.
//!
//! [`PeerVerifier`] serves both directions of a handshake. A certificate is verified by `webpki` against
//! the bundle *of the trust domain inside its own SPIFFE ID*, and never against any other; it has exactly
//! one URI among its names, byte for byte a SPIFFE ID, and that ID is a node's. Server names are ignored:
//! peers are known by identity, not by address. Last of all the deny list is asked, about the identity and
//! about each certificate and key of the path. What a peer may do is policy.
//!
//! * [`VerifyError`] lists every way to be refused; [`crate::trust`] has the bundles and IDs of known clusters.
//! * `verify/path.rs` verifies the path to an authority; `verify/handshake.rs` is the verifier as rustls calls it.

mod error;
mod handshake;
mod path;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_core::deny_list::DeniedPeer;
use adit_core::name::NodeName;
use adit_core::spiffe::{Role, SpiffeId};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::EndEntityCert;

use crate::bundle::TrustBundle;
use crate::current::Current;
use crate::fields::CertFields;
use crate::trust::Trust;

use self::error::ClaimedRefusal;
pub use self::error::{CertUsage, VerifyError};
pub(crate) use self::handshake::{SCHEMES, tls13_only};
use self::path::{PathContext, check_leaf, verify_path};

/// The most intermediates that a peer may present: none for our own authorities, two or three for
/// nested ones that operators bring along.
pub const MAX_INTERMEDIATES: usize = 3;

/// The identity of a peer, read from the certificate that its handshake rested on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// The node's name, where the ID says it; an ID brought from elsewhere may be many nodes'.
    pub node: Option<NodeName>,
    /// Its certificate is valid from this second on.
    pub not_before: UnixTime,
    /// Its certificate is valid up to this second; a connection must not rest on it any longer.
    pub not_after: UnixTime,
}

/// The effect of an entry of the deny list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalCount {
    /// The number of refusals by it, at handshakes and where connections were checked again.
    pub times: u64,
    /// The ID of the peer that it refused last.
    pub last: SpiffeId,
}

impl RefusalCount {
    fn new(last: &SpiffeId) -> Self {
        Self { times: 0, last: last.clone() }
    }
}

/// The function that is called with every refusal.
type RefusalObserver = dyn Fn(&VerifyError) + Send + Sync;

/// Accepts the nodes of known clusters, and nobody else.
pub struct PeerVerifier {
    trust: Current<Trust>,
    /// Counts the changes of `trust`.
    epoch: AtomicU64,
    /// The refusals of each entry of the deny list that is in force.
    refused: Mutex<BTreeMap<DeniedPeer, RefusalCount>>,
    algorithms: WebPkiSupportedAlgorithms,
    observer: Option<Box<RefusalObserver>>,
}

impl PeerVerifier {
    /// Believes whom `trust` names, until [`PeerVerifier::set_trust`].
    #[must_use]
    pub fn new(trust: Trust) -> Self {
        let algorithms =
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        Self {
            trust: Current::new(trust),
            epoch: AtomicU64::new(0),
            refused: Mutex::default(),
            algorithms,
            observer: None,
        }
    }

    /// Calls `observer` with every refusal, for metrics: rustls hands on only its text. It is called
    /// within the handshake, so it must not wait.
    #[must_use]
    pub fn on_refusal(mut self, observer: impl Fn(&VerifyError) + Send + Sync + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Believes whom `trust` names, from the next handshake on. Connections that exist are the
    /// caller's to re-check, with [`PeerVerifier::verify`].
    pub fn set_trust(&self, trust: Trust) {
        self.refusals().retain(|peer, _| trust.denied.contains(peer));
        self.trust.set(trust);
        // After it: who sees the new number sees the new trust.
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// The refusals by an entry of the deny list since it is in force; `None` before the first.
    #[must_use]
    pub fn refused(&self, peer: &DeniedPeer) -> Option<RefusalCount> {
        self.refusals().get(peer).cloned()
    }

    fn refusals(&self) -> MutexGuard<'_, BTreeMap<DeniedPeer, RefusalCount>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of changes of the trust. A handshake that began at another number may rest on trust that is
    /// gone, and is to be checked again where its connection is put to use.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The trust that is current now.
    #[must_use]
    pub fn trust(&self) -> Arc<Trust> {
        self.trust.get()
    }

    /// Decides about a certificate and what the peer sent along to connect it with an authority, at
    /// `now`, for a connection in the direction of `usage`.
    ///
    /// # Errors
    /// [`VerifyError`], the first reason that was met.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: CertUsage,
        now: UnixTime,
    ) -> Result<PeerIdentity, VerifyError> {
        let verdict = self.verify_peer(leaf, intermediates, usage, now);
        if let (Err(refusal), Some(observer)) = (&verdict, &self.observer) {
            observer(refusal);
        }
        verdict
    }

    fn verify_peer(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: CertUsage,
        now: UnixTime,
    ) -> Result<PeerIdentity, VerifyError> {
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(VerifyError::PathTooLong);
        }
        let trust = self.trust.get();
        let peer = read_identity(leaf)?;
        accept_role(&peer, &trust)?;
        let verdict = self.verify_allowed(&trust, &peer, (leaf, intermediates), usage, now);
        if let Err(VerifyError::Denied(entry)) = &verdict {
            let mut refused = self.refusals();
            let one =
                refused.entry(entry.peer.clone()).or_insert_with(|| RefusalCount::new(&peer.id));
            *one = RefusalCount { times: one.times + 1, last: peer.id.clone() };
        }
        verdict.map(|()| peer)
    }

    /// Checks that the path is good, and nothing of it denied.
    fn verify_allowed(
        &self,
        trust: &Trust,
        peer: &PeerIdentity,
        (leaf, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        usage: CertUsage,
        now: UnixTime,
    ) -> Result<(), VerifyError> {
        let domain = peer.id.trust_domain();
        let bundle = trust
            .bundles
            .get(domain)
            .ok_or_else(|| VerifyError::UnknownTrustDomain(domain.clone()))?;
        let by = PathContext { bundle, denied: &trust.denied, algorithms: self.algorithms };
        verify_path(leaf, intermediates, by, usage, now)?;
        check_leaf(leaf, usage)?;
        // Last, so that only who holds a certificate of the cluster learns of it.
        let shown = std::iter::once(leaf).chain(intermediates).map(|shown| &shown[..]);
        match trust.denied.find(&peer.id, shown) {
            Some(entry) => Err(VerifyError::Denied(entry)),
            None => Ok(()),
        }
    }
}

/// Reads the identity of the peer of a finished handshake. Verifies nothing: that was the handshake's.
///
/// # Errors
/// [`VerifyError`] where the chain is empty, or has no readable ID; neither survives a handshake.
pub fn peer_id(chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, VerifyError> {
    read_identity(chain.first().ok_or(VerifyError::NoCertificate)?)
}

impl VerifyError {
    /// The refusal as rustls hands it on: with the identity that the refused certificate claims, which nothing has
    /// proved.
    fn claimed_by(self, leaf: &CertificateDer<'_>) -> rustls::Error {
        ClaimedRefusal { claimed: read_identity(leaf).ok().map(|peer| peer.id), why: self }.into()
    }
}

/// The identity that a leaf claims: exactly one URI, and that a SPIFFE ID byte for byte.
fn read_identity(leaf: &CertificateDer<'_>) -> Result<PeerIdentity, VerifyError> {
    let parsed = EndEntityCert::try_from(leaf).map_err(|error| {
        if error == webpki::Error::UnsupportedCriticalExtension {
            VerifyError::CriticalExtension
        } else {
            VerifyError::Malformed
        }
    })?;
    let fields = CertFields::parse(leaf).map_err(|_| VerifyError::Malformed)?;
    let uri = match fields.uris.as_slice() {
        [] => return Err(VerifyError::NoId),
        [uri] => uri,
        several => return Err(VerifyError::SeveralIds(several.len())),
    };
    let bad = |reason| VerifyError::BadId {
        uri: String::from_utf8_lossy(uri).chars().take(200).collect(),
        reason,
    };
    // The ID that counts is the one webpki reads; it skips URIs that are no UTF-8, ours does not.
    let mut names = parsed.valid_uri_names();
    let id: SpiffeId = match (names.next(), names.next()) {
        (Some(name), None) if name.as_bytes() == *uri => name.parse().map_err(bad)?,
        (None, None) => return Err(bad(adit_core::spiffe::SpiffeError::Path)),
        _ => return Err(VerifyError::Malformed),
    };
    let node = match id.role() {
        Ok(Role::Node(name)) => Some(name),
        Ok(Role::Controller | Role::Workload(_)) | Err(_) => None,
    };
    Ok(PeerIdentity { id, node, not_before: fields.not_before, not_after: fields.not_after })
}

/// Nodes only, and whole IDs that the operator wrote out.
fn accept_role(peer: &PeerIdentity, trust: &Trust) -> Result<(), VerifyError> {
    if peer.node.is_some() || trust.nodes_by_id.contains(&peer.id) {
        return Ok(());
    }
    let id = peer.id.clone();
    Err(match id.role() {
        Ok(Role::Workload(_)) => VerifyError::Workload(id),
        Ok(Role::Controller) => VerifyError::Controller(id),
        Ok(Role::Node(_)) | Err(_) => VerifyError::NoRole(id),
    })
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trust = self.trust.get();
        let domains: Vec<_> = trust.bundles.iter().map(TrustBundle::domain).collect();
        f.debug_struct("PeerVerifier").field("domains", &domains).finish_non_exhaustive()
    }
}
