//! Why a peer was refused: one closed list for log, metric and status.

use std::fmt;
use std::sync::Arc;

use adit_core::deny_list::DenyEntry;
use adit_core::spiffe::{SpiffeError, SpiffeId, TrustDomain};
use rustls_pki_types::UnixTime;

use crate::time::rfc3339;

/// The reason for which a certificate was not accepted as a peer's.
///
/// The texts are for the operator of the side that refuses; they hold only what the peer's own
/// certificate says, so that they may be shown to the peer as well.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No certificate at all.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// A certificate that cannot be read.
    #[error("a certificate is malformed")]
    Malformed,
    /// A critical extension that is not understood.
    #[error("a certificate has a critical extension that is not understood")]
    CriticalExtension,
    /// More intermediates than are followed, or than an authority allows.
    #[error("the path has more intermediate certificates than allowed")]
    PathTooLong,
    /// Finding a path cost too much.
    #[error("the path is too complex")]
    PathTooComplex,
    /// No URI among the leaf's names.
    #[error("the certificate has no SPIFFE ID (no URI among its alternative names)")]
    NoId,
    /// Several URIs among the leaf's names.
    #[error("the certificate has {0} URIs among its names, where exactly one belongs")]
    SeveralIds(usize),
    /// The one URI is not a SPIFFE ID.
    #[error("the certificate's URI {uri:?} is no SPIFFE ID: {reason}")]
    BadId {
        /// The URI, cut to 200 characters.
        uri: String,
        /// The reason.
        reason: SpiffeError,
    },
    /// A workload's identity: it may be spoken for, and never speaks here itself.
    #[error("{0} is a workload's identity; only nodes are peers")]
    Workload(SpiffeId),
    /// A controller's identity.
    #[error("{0} is a controller's identity; only nodes are peers")]
    Controller(SpiffeId),
    /// An identity whose path has no meaning here.
    #[error("{0} is not a node's identity (/adit/node/NAME), and nobody allowed it by name")]
    NoRole(SpiffeId),
    /// No bundle for the trust domain in the ID.
    #[error("there is no trust bundle for the trust domain {0}")]
    UnknownTrustDomain(TrustDomain),
    /// No authority of the trust domain has the issuer's name.
    #[error("the certificate was not issued by an authority of its trust domain {0}")]
    UnknownAuthority(TrustDomain),
    /// An authority has the issuer's name, and did not sign this.
    #[error("an authority of {0} has the issuer's name, and another key signed the certificate")]
    WrongSignature(TrustDomain),
    /// The path ends at an authority that is itself out of its validity.
    #[error("the authority of {domain} that issued it is valid only from {} to {}", rfc3339(*not_before), rfc3339(*not_after))]
    AuthorityNotCurrent {
        /// The trust domain.
        domain: TrustDomain,
        /// The authority is valid from here.
        not_before: UnixTime,
        /// The authority is valid up to here.
        not_after: UnixTime,
    },
    /// Past its validity.
    #[error("a certificate expired at {} (it is {} here)", rfc3339(*not_after), rfc3339(*now))]
    Expired {
        /// The end of its validity.
        not_after: UnixTime,
        /// The verifier's clock.
        now: UnixTime,
    },
    /// Before its validity.
    #[error(
        "a certificate is not valid before {} (it is {} here; compare the clocks)",
        rfc3339(*not_before), rfc3339(*now)
    )]
    NotYetValid {
        /// The beginning of its validity.
        not_before: UnixTime,
        /// The verifier's clock.
        now: UnixTime,
    },
    /// An authority where a leaf belongs.
    #[error("an authority's certificate was presented as a node's (CA:true)")]
    AuthorityAsLeaf,
    /// A leaf where an authority belongs.
    #[error("a leaf certificate was presented as an authority's (CA:false)")]
    LeafAsAuthority,
    /// The extended key usage lacks what this direction needs.
    #[error("the certificate does not allow {0}, which this direction needs")]
    Usage(CertUsage),
    /// The key usage lets a leaf sign certificates, or does not let it sign handshakes.
    #[error(
        "the certificate's key usage must have digitalSignature and neither keyCertSign nor cRLSign"
    )]
    KeyUsage,
    /// An RSA key that is too short.
    #[error("the certificate has an RSA key of {0} bits; 2048 are the least")]
    WeakKey(usize),
    /// A key or signature of a kind that is not used here.
    #[error("a certificate has a key or signature of an unsupported kind")]
    Algorithm,
    /// An authority's name constraints, which are not supported for URIs.
    #[error("an authority has name constraints, which cannot be checked for SPIFFE IDs")]
    NameConstraints,
    /// On the deny list: the identity, or a certificate or key of the path. The operator's reason is not
    /// part of the text.
    #[error("it is denied by configuration ({})", _0.peer)]
    Denied(Arc<DenyEntry>),
}

/// The use that a certificate must allow, seen from whoever checks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertUsage {
    /// The peer dialled us.
    ClientAuth,
    /// We dialled the peer.
    ServerAuth,
}

impl fmt::Display for CertUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientAuth => "clientAuth",
            Self::ServerAuth => "serverAuth",
        })
    }
}

impl VerifyError {
    /// The [`label`](Self::label) of [`Denied`](Self::Denied), with which the text of such a refusal begins on the wire.
    pub const DENIED: &str = "denied";
    /// The words before the claimed identity, at the end of the text of a refusal on the wire.
    pub const CLAIMS: &str = "claimed by ";

    /// A word for metrics and structured logs; one of a closed list.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::Malformed => "malformed",
            Self::CriticalExtension => "critical-extension",
            Self::PathTooLong => "path-too-long",
            Self::PathTooComplex => "path-too-complex",
            Self::NoId => "no-id",
            Self::SeveralIds(_) => "several-ids",
            Self::BadId { .. } => "bad-id",
            Self::Workload(_) => "workload",
            Self::Controller(_) => "controller",
            Self::NoRole(_) => "no-role",
            Self::UnknownTrustDomain(_) => "unknown-trust-domain",
            Self::UnknownAuthority(_) => "unknown-authority",
            Self::WrongSignature(_) => "wrong-signature",
            Self::AuthorityNotCurrent { .. } => "authority-not-current",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::AuthorityAsLeaf => "authority-as-leaf",
            Self::LeafAsAuthority => "leaf-as-authority",
            Self::Usage(_) => "usage",
            Self::KeyUsage => "key-usage",
            Self::WeakKey(_) => "weak-key",
            Self::Algorithm => "algorithm",
            Self::NameConstraints => "name-constraints",
            Self::Denied(_) => Self::DENIED,
        }
    }

    /// The refusal inside an error of rustls, where it is one.
    #[must_use]
    pub fn from_rustls(error: &rustls::Error) -> Option<&Self> {
        let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error
        else {
            return None;
        };
        other.0.downcast_ref().map(|claimed: &ClaimedRefusal| &claimed.why)
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "webpki's list is open; the rest of it says that something cannot be read, or is \
                  about what is not asked of it here (revocation lists, server names)"
    )]
    pub(super) fn from_webpki(
        error: webpki::Error,
        usage: CertUsage,
        domain: &TrustDomain,
    ) -> Self {
        use webpki::Error as E;
        match error {
            E::CertExpired { time, not_after } => Self::Expired { not_after, now: time },
            E::CertNotValidYet { time, not_before } => Self::NotYetValid { not_before, now: time },
            E::CaUsedAsEndEntity => Self::AuthorityAsLeaf,
            E::EndEntityUsedAsCa => Self::LeafAsAuthority,
            E::EmptyEkuExtension | E::RequiredEkuNotFoundContext(_) => Self::Usage(usage),
            E::UnknownIssuer => Self::UnknownAuthority(domain.clone()),
            E::InvalidSignatureForPublicKey => Self::WrongSignature(domain.clone()),
            E::PathLenConstraintViolated | E::MaximumPathDepthExceeded => Self::PathTooLong,
            E::MaximumPathBuildCallsExceeded
            | E::MaximumSignatureChecksExceeded
            | E::MaximumNameConstraintComparisonsExceeded => Self::PathTooComplex,
            E::NameConstraintViolation | E::MalformedNameConstraint => Self::NameConstraints,
            E::UnsupportedCriticalExtension => Self::CriticalExtension,
            E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Self::Algorithm,
            _ => Self::Malformed,
        }
    }
}

/// rustls shows what it does not know itself by its `Debug`; an operator should read words there.
impl fmt::Debug for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.label())
    }
}

/// A refusal, and whom the refused certificate claims to be.
#[derive(thiserror::Error)]
#[error("{why}")]
pub(super) struct ClaimedRefusal {
    pub(super) claimed: Option<SpiffeId>,
    pub(super) why: VerifyError,
}

/// Writes the refusal as [`VerifyError`] does, since rustls shows it the same way.
impl fmt::Debug for ClaimedRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.why)?;
        match &self.claimed {
            Some(id) => write!(f, " {}{id}", VerifyError::CLAIMS),
            None => Ok(()),
        }
    }
}

impl From<ClaimedRefusal> for rustls::Error {
    fn from(refusal: ClaimedRefusal) -> Self {
        rustls::CertificateError::Other(rustls::OtherError(Arc::new(refusal))).into()
    }
}
