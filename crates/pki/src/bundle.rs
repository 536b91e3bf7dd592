//! Trust bundles: the authorities that vouch for one trust domain.
//!
//! A [`TrustBundle`] belongs to exactly one trust domain and is never merged with another
//! (SPIFFE Trust Domain and Bundle §4). Whoever holds one holds authorities that may sign: leaf
//! certificates, keys and authorities of other trust domains were refused when it was read. It never
//! reads files; SPIFFE's JSON form is in `bundle/jwks.rs`, the set of all clusters' bundles in
//! [`crate::trust`].

mod jwks;

use adit_core::spiffe::{SpiffeError, SpiffeId, TrustDomain};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};

use crate::fields::{CertFields, KeyProblem};
use crate::pem::{self, PemError};

/// The most authorities in one bundle: a rotation needs two, generous federations a handful, and each
/// one may cost a signature check per handshake.
pub const MAX_AUTHORITIES: usize = 16;

/// The largest bundle, in bytes as it was written: as many authorities with keys of RSA-4096 have a quarter of it.
/// Neither its size nor its count of certificates is an invitation to work.
pub const MAX_BUNDLE: usize = 256 * 1024;

/// The reason for which bytes are not a trust bundle of the trust domain that they were given for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Neither PEM nor JSON.
    #[error("neither PEM certificates nor a SPIFFE bundle in JSON")]
    Format,
    /// Not the PEM that it should be.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// Not the JSON that it should be.
    #[error("not a SPIFFE bundle: {0}")]
    Json(String),
    /// A private key inside the JSON.
    #[error(
        "there is a private key in it (member {0:?} of a key); hand over certificates only, \
         and replace the key if anybody else has seen it"
    )]
    PrivateKey(&'static str),
    /// No authority in it.
    #[error("there is no authority in it, so nobody could be believed")]
    Empty,
    /// Larger than [`MAX_BUNDLE`].
    #[error("it has {0} bytes, more than {MAX_BUNDLE}")]
    TooLarge(usize),
    /// More authorities than [`MAX_AUTHORITIES`].
    #[error("there are {0} certificates in it, more than {MAX_AUTHORITIES}")]
    TooMany(usize),
    /// A certificate of the bundle is unusable.
    #[error("certificate {position} of it {reason}")]
    Authority {
        /// Which one, counted from 1.
        position: usize,
        /// The reason.
        reason: AuthorityProblem,
    },
}

/// The reason for which a certificate cannot be an authority of a trust domain. Reads on from "the certificate …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityProblem {
    /// Not a certificate.
    #[error("is not an X.509 certificate of version 3")]
    Malformed,
    /// A leaf.
    #[error("is no authority (it is a leaf: CA:false); a bundle holds the certificates that sign")]
    Leaf,
    /// Its key usage does not let it sign certificates.
    #[error("may not sign certificates (key usage without keyCertSign)")]
    CannotSign,
    /// Its key is too short.
    #[error("has an RSA key of {0} bits; 2048 are the least")]
    WeakKey(usize),
    /// Its key is of a kind that is not used here.
    #[error("has a key that is neither P-256, P-384, Ed25519 nor RSA")]
    UnsupportedKey,
    /// Its own SPIFFE ID belongs to another trust domain.
    #[error("belongs to trust domain {found}, not to {expected}")]
    TrustDomain {
        /// The trust domain in the certificate.
        found: TrustDomain,
        /// The trust domain of the bundle.
        expected: TrustDomain,
    },
    /// Its own SPIFFE ID has a path, so it names a workload.
    #[error("has the SPIFFE ID {0}, which names a workload; an authority's ID has no path")]
    Path(SpiffeId),
    /// Its URI is no SPIFFE ID.
    #[error("has a URI that is no SPIFFE ID: {0}")]
    Id(#[from] SpiffeError),
    /// The certificate does not say which trust domain it is for.
    #[error("has no SPIFFE ID that says which trust domain it is for")]
    NoTrustDomain,
    /// The certificate has several URIs.
    #[error("has {0} URIs among its names, where one SPIFFE ID belongs")]
    SeveralIds(usize),
}

/// An authority of a bundle.
#[derive(Debug, Clone)]
pub struct Authority {
    certificate: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    pub(crate) spki: Box<[u8]>,
    /// The number of intermediates that may stand between it and a leaf; webpki does not check this of anchors.
    pub(crate) path_len: Option<u8>,
    /// Valid from this second on.
    pub not_before: UnixTime,
    /// Valid up to this second.
    pub not_after: UnixTime,
}

impl Authority {
    /// Reads one authority of `domain`.
    ///
    /// # Errors
    /// [`AuthorityProblem`], see there.
    pub fn new(
        domain: &TrustDomain,
        certificate: CertificateDer<'static>,
    ) -> Result<Self, AuthorityProblem> {
        let anchor = webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|_| AuthorityProblem::Malformed)?
            .to_owned();
        let fields = CertFields::parse(&certificate).map_err(|_| AuthorityProblem::Malformed)?;
        if !fields.ca {
            return Err(AuthorityProblem::Leaf);
        }
        if fields.usage.is_some_and(|usage| !usage.sign_certificates) {
            return Err(AuthorityProblem::CannotSign);
        }
        fields.key.check().map_err(|bad| match bad {
            KeyProblem::Weak(bits) => AuthorityProblem::WeakKey(bits),
            KeyProblem::Unsupported => AuthorityProblem::UnsupportedKey,
        })?;
        // An authority need not have a SPIFFE ID (X509-SVID §4.1), but what it says counts.
        match fields.uris.as_slice() {
            [] => {}
            [uri] => {
                let uri = std::str::from_utf8(uri).map_err(|_| SpiffeError::Scheme)?;
                let id: SpiffeId = uri.parse()?;
                if id.trust_domain() != domain {
                    let (found, expected) = (id.trust_domain().clone(), domain.clone());
                    return Err(AuthorityProblem::TrustDomain { found, expected });
                }
                if !id.path().is_empty() {
                    return Err(AuthorityProblem::Path(id));
                }
            }
            several => return Err(AuthorityProblem::SeveralIds(several.len())),
        }
        let (spki, path_len) = (fields.spki.into(), fields.path_len);
        let (not_before, not_after) = (fields.not_before, fields.not_after);
        Ok(Self { anchor, spki, path_len, not_before, not_after, certificate })
    }

    /// The certificate itself.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// True if `now` is within its validity.
    #[must_use]
    pub fn is_current(&self, now: UnixTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// The authorities of one trust domain; at least one.
#[derive(Debug, Clone)]
pub struct TrustBundle {
    domain: TrustDomain,
    authorities: Vec<Authority>,
    /// The anchors of `authorities`, in the same order, as webpki wants them.
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    /// Counts the bundle's changes, where its issuer counts them (`spiffe_sequence`).
    pub sequence: Option<u64>,
}

impl TrustBundle {
    /// Makes a bundle of `domain` from certificates. Repeated ones count once.
    ///
    /// # Errors
    /// [`BundleError::Empty`], [`BundleError::TooMany`], [`BundleError::Authority`].
    pub fn new(
        domain: TrustDomain,
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        let mut authorities: Vec<Authority> = Vec::new();
        let mut certificates = certificates.into_iter().enumerate();
        while let Some((i, certificate)) = certificates.next() {
            if authorities.iter().any(|known| known.certificate == certificate) {
                continue;
            }
            if authorities.len() == MAX_AUTHORITIES {
                // Read no further: those that follow are only counted.
                return Err(BundleError::TooMany(i + 1 + certificates.count()));
            }
            authorities.push(
                Authority::new(&domain, certificate)
                    .map_err(|reason| BundleError::Authority { position: i + 1, reason })?,
            );
        }
        if authorities.is_empty() {
            return Err(BundleError::Empty);
        }
        let anchors = authorities.iter().map(|a| a.anchor.clone()).collect();
        Ok(Self { domain, authorities, anchors, sequence: None })
    }

    /// Reads a bundle of `domain`, PEM or SPIFFE JSON by what its first character says.
    ///
    /// # Errors
    /// [`BundleError`], see there.
    pub fn parse(domain: TrustDomain, bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > MAX_BUNDLE {
            return Err(BundleError::TooLarge(bytes.len()));
        }
        match bytes.trim_ascii_start() {
            [b'{', ..] => Self::from_spiffe(domain, bytes),
            text if text.is_ascii() || std::str::from_utf8(text).is_ok() => {
                Self::from_pem(domain, bytes)
            }
            _ => Err(BundleError::Format),
        }
    }

    /// Reads concatenated PEM certificates, all of `domain`.
    ///
    /// # Errors
    /// [`BundleError`], see there.
    pub fn from_pem(domain: TrustDomain, text: &[u8]) -> Result<Self, BundleError> {
        Self::new(domain, pem::certificates(text)?)
    }

    /// Reads PEM certificates of the trust domain that the first one's own SPIFFE ID names: for an
    /// authority's own file, which nobody else wrote.
    ///
    /// # Errors
    /// [`BundleError`], see there; [`AuthorityProblem::NoTrustDomain`] where it has no SPIFFE ID.
    pub fn from_own_pem(text: &[u8]) -> Result<Self, BundleError> {
        let certificates = pem::certificates(text)?;
        let first = certificates.first().ok_or(BundleError::Empty)?;
        let domain =
            own_domain(first).map_err(|reason| BundleError::Authority { position: 1, reason })?;
        Self::new(domain, certificates)
    }

    /// Reads a SPIFFE bundle: a JWK set, of which the `x509-svid` keys are taken.
    ///
    /// # Errors
    /// [`BundleError`], see there.
    pub fn from_spiffe(domain: TrustDomain, text: &[u8]) -> Result<Self, BundleError> {
        let (certificates, sequence) = jwks::read(text)?;
        Ok(Self { sequence, ..Self::new(domain, certificates)? })
    }

    /// The trust domain that these authorities vouch for.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// True if one of its authorities is valid at `now`; if none is, it verifies nobody.
    #[must_use]
    pub fn is_current(&self, now: UnixTime) -> bool {
        self.authorities.iter().any(|authority| authority.is_current(now))
    }

    /// True if both are of one trust domain and have the same certificates in the same order.
    #[must_use]
    pub fn is_same<'a>(&'a self, other: &'a Self) -> bool {
        let certificates = |b: &'a Self| b.authorities.iter().map(Authority::certificate);
        self.domain == other.domain && certificates(self).eq(certificates(other))
    }

    /// The authorities; at least one.
    #[must_use]
    pub fn authorities(&self) -> &[Authority] {
        &self.authorities
    }

    /// The bundle as PEM certificates.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.authorities.iter().map(|a| pem::encode("CERTIFICATE", &a.certificate)).collect()
    }

    /// The bundle as a SPIFFE bundle in JSON, with a line feed at its end.
    #[must_use]
    pub fn to_spiffe(&self) -> String {
        jwks::write(self)
    }
}

/// The trust domain that an authority's certificate names as its own.
pub(crate) fn own_domain(
    certificate: &CertificateDer<'_>,
) -> Result<TrustDomain, AuthorityProblem> {
    let fields = CertFields::parse(certificate).map_err(|_| AuthorityProblem::Malformed)?;
    let uri = fields.uris.first().ok_or(AuthorityProblem::NoTrustDomain)?;
    let uri = std::str::from_utf8(uri).map_err(|_| SpiffeError::Scheme)?;
    Ok(uri.parse::<SpiffeId>()?.trust_domain().clone())
}

/// The certificates of a SPIFFE bundle, whoever they belong to: for looking, not for trusting.
pub(crate) fn certificates_of_json(
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    let (certificates, _) = jwks::read(text)?;
    if certificates.is_empty() { Err(BundleError::Empty) } else { Ok(certificates) }
}
