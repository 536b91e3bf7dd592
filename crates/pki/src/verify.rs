//! Is this certificate a peer's? The one decision on which every connection rests.
//!
//! [`PeerVerifier`] serves both directions of a handshake. A certificate is verified by `webpki` against
//! the bundle *of the trust domain inside its own SPIFFE ID*, and never against any other; it has exactly
//! one URI among its names, byte for byte a SPIFFE ID, and that ID is a node's. Server names are ignored:
//! peers are known by identity, not by address. Last of all the deny list is asked, about the identity and
//! about each certificate and key of the path. What a peer may do is policy.
//!
//! * [`VerifyError`]: every way to be refused. * [`crate::trust`]: whom a node believes.

mod error;

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_core::deny_list::DeniedPeer;
use adit_core::name::NodeName;
use adit_core::spiffe::{Role, SpiffeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::bundle::TrustBundle;
use crate::current::Current;
use crate::deny::DenyList;
use crate::fields::{CertFields, KeyProblem, KeyUsage as KeyUsageBits};
use crate::trust::Trust;

use self::error::ClaimedRefusal;
pub use self::error::{CertUsage, VerifyError};

/// The most intermediates that a peer may present: none for our own authorities, two or three for
/// nested ones that operators bring along.
pub const MAX_INTERMEDIATES: usize = 3;

/// The signature schemes of TLS 1.3 handshakes (RFC 8446 §4.2.3) that keys accepted here can make.
const SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

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
    /// Whom it refused last.
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

    /// Whom it believes now.
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

/// The bundle, deny list and algorithms that a path is verified against.
#[derive(Clone, Copy)]
struct PathContext<'a> {
    bundle: &'a TrustBundle,
    denied: &'a DenyList,
    algorithms: WebPkiSupportedAlgorithms,
}

/// A path from the leaf to an authority of the bundle that is not denied, all of it valid now.
fn verify_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    PathContext { bundle, denied, algorithms }: PathContext<'_>,
    usage: CertUsage,
    now: UnixTime,
) -> Result<(), VerifyError> {
    let (not_current, refused) = (Cell::new(None), OnceCell::new());
    // webpki takes anchors as they are: their validity and path length are checked here.
    let check_anchor = |path: &webpki::VerifiedPath<'_>| {
        let position = bundle.anchors.iter().position(|a| std::ptr::eq(a, path.anchor()));
        let authority = position
            .and_then(|i| bundle.authorities().get(i))
            .ok_or(webpki::Error::UnknownIssuer)?;
        if !authority.is_current(now) {
            not_current.set(Some((authority.not_before, authority.not_after)));
            return Err(webpki::Error::UnknownIssuer);
        }
        if let Some(entry) = denied.find_certificate(bundle.domain(), authority.certificate()) {
            refused.get_or_init(|| entry);
            return Err(webpki::Error::UnknownIssuer);
        }
        let length = path.intermediate_certificates().count();
        match authority.path_len {
            Some(most) if length > usize::from(most) => {
                Err(webpki::Error::PathLenConstraintViolated)
            }
            _ => Ok(()),
        }
    };
    // The leaf must have the extension, see `check_leaf`; intermediates may leave it out.
    let needed = match usage {
        CertUsage::ClientAuth => KeyUsage::client_auth(),
        CertUsage::ServerAuth => KeyUsage::server_auth(),
    };
    EndEntityCert::try_from(leaf)
        .and_then(|leaf| {
            let check: &dyn Fn(&webpki::VerifiedPath<'_>) -> Result<(), webpki::Error> =
                &check_anchor;
            leaf.verify_for_usage(
                algorithms.all,
                &bundle.anchors,
                intermediates,
                now,
                needed,
                None,
                Some(check),
            )
            .map(drop)
        })
        .map_err(|error| match (not_current.get(), error) {
            (_, webpki::Error::UnknownIssuer) if refused.get().is_some() => {
                refused.into_inner().map_or(VerifyError::Malformed, VerifyError::Denied)
            }
            (Some((not_before, not_after)), webpki::Error::UnknownIssuer) => {
                let domain = bundle.domain().clone();
                VerifyError::AuthorityNotCurrent { domain, not_before, not_after }
            }
            (_, error) => VerifyError::from_webpki(error, usage, bundle.domain()),
        })
}

/// Checks what SPIFFE asks of a leaf (X509-SVID §4.3, §5.2) and webpki does not. It runs on certificates that
/// an authority signed, and can only refuse.
fn check_leaf(leaf: &CertificateDer<'_>, usage: CertUsage) -> Result<(), VerifyError> {
    let fields = CertFields::parse(leaf).map_err(|_| VerifyError::Malformed)?;
    if fields.ca {
        return Err(VerifyError::AuthorityAsLeaf);
    }
    if !fields.has_extended_usage {
        return Err(VerifyError::Usage(usage));
    }
    let signs_handshakes =
        |u: KeyUsageBits| u.digital_signature && !u.sign_certificates && !u.sign_crls;
    if !fields.usage.is_some_and(signs_handshakes) {
        return Err(VerifyError::KeyUsage);
    }
    fields.key.check().map_err(|bad| match bad {
        KeyProblem::Weak(bits) => VerifyError::WeakKey(bits),
        KeyProblem::Unsupported => VerifyError::Algorithm,
    })
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Who we believe is nobody's business before they have shown who they are.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verdict = self.verify(end_entity, intermediates, CertUsage::ClientAuth, now);
        verdict.map_err(|why| why.claimed_by(end_entity))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.verify(end_entity, intermediates, CertUsage::ServerAuth, now);
        verdict.map_err(|why| why.claimed_by(end_entity))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

fn tls13_only() -> rustls::Error {
    rustls::PeerIncompatible::Tls13RequiredForQuic.into()
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trust = self.trust.get();
        let domains: Vec<_> = trust.bundles.iter().map(TrustBundle::domain).collect();
        f.debug_struct("PeerVerifier").field("domains", &domains).finish_non_exhaustive()
    }
}
