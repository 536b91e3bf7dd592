//! A cluster's certificate authority: makes itself, issues nodes' certificates.
//!
//! Its key signs for one trust domain, directly (path length 0), and never leaves this type but as PEM for
//! the file it is kept in. Leaves come out of one template whether the key was made here or came in a
//! signing request: of a request nothing but the public key is believed. It emits no name constraints:
//! rustls-webpki refuses URI constraints unconditionally (RUSTSEC-2026-0098).

use std::fmt;
use std::time::Duration;

use adit_core::name::NodeName;
use adit_core::spiffe::{SpiffeId, TrustDomain};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, UnixTime};
use zeroize::Zeroizing;

use crate::bundle::{self, Authority, AuthorityProblem, BundleError, TrustBundle};
use crate::fields::CertFields;
use crate::pem::{self, PemError};
use crate::time::in_words;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The validity of a node's certificate where something renews it.
pub const DEFAULT_CERT_LIFETIME: Duration = DAY;
/// The longest life of a node's certificate: a stolen key must not be good for ever.
pub const MAX_CERT_LIFETIME: Duration = Duration::from_secs(90 * DAY.as_secs());
/// The shortest life of a node's certificate: two clocks that differ by more cannot use it at all.
pub const MIN_CERT_LIFETIME: Duration = Duration::from_secs(60);
/// The validity of an authority unless another is asked for: five years.
pub const DEFAULT_CA_LIFETIME: Duration = Duration::from_secs(5 * 365 * DAY.as_secs());
/// The longest life of an authority: twenty years.
pub const MAX_CA_LIFETIME: Duration = Duration::from_secs(20 * 365 * DAY.as_secs());
/// The time before it is made from which a certificate is valid: clocks of real clusters differ by seconds to
/// minutes (istio/istio#32176).
pub const BACKDATE_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// The reason for which an authority could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its certificate's file is not one PEM certificate.
    #[error("the authority's certificate is unusable: {0}")]
    Certificate(PemError),
    /// More than one certificate where the authority's own belongs.
    #[error("there are {0} certificates, where the authority's own belongs alone")]
    SeveralCertificates(usize),
    /// Its certificate cannot be an authority's.
    #[error("the certificate {0}")]
    Problem(#[from] AuthorityProblem),
    /// Its key's file is not one PEM private key.
    #[error("the authority's key is unusable: {0}")]
    Key(PemError),
    /// Its key belongs to another certificate.
    #[error("the authority's key does not belong to its certificate")]
    Mismatch,
    /// A life outside its bounds.
    #[error(
        "{} is not a life that it may have: {} to {} are",
        in_words(*.asked), in_words(*.least), in_words(*.most)
    )]
    Lifetime {
        /// The length of time that was asked for.
        asked: Duration,
        /// The shortest that may be.
        least: Duration,
        /// The longest that may be.
        most: Duration,
    },
    /// The authority is not valid at this time, so certificates that it issued would be refused.
    #[error("the authority is not valid now, so nobody would accept what it issues")]
    NotCurrent,
    /// A signing request that cannot be read or does not prove its key.
    #[error("the signing request is unusable: {0}")]
    Request(String),
    /// The cryptographic library failed.
    #[error("making a key or a signature failed: {0}")]
    Crypto(String),
}

/// The kind of key to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyKind {
    /// ECDSA on NIST P-256: understood by every TLS implementation and Kubernetes tool.
    #[default]
    P256,
    /// Ed25519: signatures of constant size, which simulations need to repeat themselves exactly.
    Ed25519,
}

impl KeyKind {
    pub(crate) fn generate(self) -> Result<KeyPair, AuthorityError> {
        KeyPair::generate_for(match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
        })
        .map_err(crypto_error)
    }
}

/// A cluster's certificate authority, with its key.
pub struct ClusterAuthority {
    domain: TrustDomain,
    certificate: Authority,
    issuer: Issuer<'static, KeyPair>,
}

/// A node's certificate, fresh from its authority.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    /// The ID of the node.
    pub id: SpiffeId,
    /// The chain to present, leaf first; the authority itself is not part of it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Valid from this second on.
    pub not_before: UnixTime,
    /// Valid up to this second.
    pub not_after: UnixTime,
}

/// A node's certificate and the key that was made with it.
pub struct IssuedNode {
    /// The certificate.
    pub certificate: IssuedCertificate,
    key: KeyPair,
}

impl ClusterAuthority {
    /// Makes a new authority for `domain`, valid for `validity` from `now`.
    ///
    /// # Errors
    /// [`AuthorityError::Lifetime`] outside [`MIN_CERT_LIFETIME`] to [`MAX_CA_LIFETIME`]; [`AuthorityError::Crypto`].
    pub fn create(
        domain: TrustDomain,
        kind: KeyKind,
        validity: Duration,
        now: UnixTime,
    ) -> Result<Self, AuthorityError> {
        check_lifetime(validity, MAX_CA_LIFETIME)?;
        let key = kind.generate()?;
        let mut params = template(&format!("spiffe://{domain}"), now, after(now, validity))?;
        // People tell authorities apart by this; 64 characters are the most (RFC 5280, ub-common-name).
        let name: String = format!("Adit CA {domain}").chars().take(64).collect();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(crypto_error)?.der().clone();
        Self::new(certificate, key)
    }

    /// Reads an authority back from the two files that keep it.
    ///
    /// # Errors
    /// [`AuthorityError`], see there.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, AuthorityError> {
        let mut certificates =
            pem::certificates(certificate).map_err(AuthorityError::Certificate)?;
        let count = certificates.len();
        let Some(certificate) = certificates.pop().filter(|_| count == 1) else {
            return Err(AuthorityError::SeveralCertificates(count));
        };
        let key = pem::private_key(key).map_err(AuthorityError::Key)?;
        // rcgen copies the key's bytes and wipes its copy; this one is ours to wipe.
        let key = Zeroizing::new(key);
        let key = KeyPair::try_from(&*key).map_err(crypto_error)?;
        Self::new(certificate, key)
    }

    fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, AuthorityError> {
        let domain = bundle::own_domain(&certificate)?;
        let certificate = Authority::new(&domain, certificate)?;
        if !key.subject_public_key_info().ends_with(&certificate.spki) {
            return Err(AuthorityError::Mismatch);
        }
        let issuer =
            Issuer::from_ca_cert_der(certificate.certificate(), key).map_err(crypto_error)?;
        Ok(Self { certificate, domain, issuer })
    }

    /// The trust domain that it signs for.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &Authority {
        &self.certificate
    }

    /// The trust bundle with this authority alone.
    ///
    /// # Errors
    /// None in practice: what is needed of an authority was checked when this one came to be.
    pub fn bundle(&self) -> Result<TrustBundle, BundleError> {
        TrustBundle::new(self.domain.clone(), [self.certificate.certificate().clone()])
    }

    /// Its key, as PEM, for the file that keeps it.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        key_pem(self.issuer.key())
    }

    /// Makes a key of `kind` and a certificate for `node`, valid for `ttl` from `now` and never longer
    /// than the authority.
    ///
    /// # Errors
    /// [`AuthorityError::Lifetime`] outside [`MIN_CERT_LIFETIME`] to [`MAX_CERT_LIFETIME`]; [`AuthorityError::NotCurrent`];
    /// [`AuthorityError::Crypto`].
    pub fn issue(
        &self,
        node: &NodeName,
        kind: KeyKind,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<IssuedNode, AuthorityError> {
        self.issue_as(self.domain.node_id(node), kind, ttl, now)
    }

    /// Issues a certificate for the cluster's controller, which listens to its nodes.
    ///
    /// # Errors
    /// As [`ClusterAuthority::issue`].
    pub fn issue_controller(
        &self,
        kind: KeyKind,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<IssuedNode, AuthorityError> {
        self.issue_as(self.domain.controller_id(), kind, ttl, now)
    }

    /// Signs a request in PEM, as Kubernetes carries them; see [`ClusterAuthority::sign_request`].
    ///
    /// # Errors
    /// As there; [`AuthorityError::Request`] also if it is not one PEM request.
    pub fn sign_pem_request(
        &self,
        pem: &[u8],
        node: &NodeName,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<IssuedCertificate, AuthorityError> {
        let request = CertificateSigningRequestDer::from_pem_slice(pem)
            .map_err(|e| AuthorityError::Request(e.to_string()))?;
        self.sign_request(&request, node, ttl, now)
    }

    fn issue_as(
        &self,
        id: SpiffeId,
        kind: KeyKind,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<IssuedNode, AuthorityError> {
        let key = kind.generate()?;
        Ok(IssuedNode { certificate: self.sign(id, &key, ttl, now)?, key })
    }

    /// Signs the key of a PKCS #10 request as `node`'s. Whatever else the request asks for (names,
    /// usages, a CA) is ignored: who the node is was found out by the caller.
    ///
    /// # Errors
    /// As [`ClusterAuthority::issue`], and [`AuthorityError::Request`]; short RSA keys and P-521 are refused so.
    pub fn sign_request(
        &self,
        request: &CertificateSigningRequestDer<'_>,
        node: &NodeName,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<IssuedCertificate, AuthorityError> {
        let request = CertificateSigningRequestParams::from_der(request)
            .map_err(|e| AuthorityError::Request(e.to_string()))?;
        self.sign(self.domain.node_id(node), &request.public_key, ttl, now)
    }

    fn sign(
        &self,
        id: SpiffeId,
        key: &impl PublicKeyData,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<IssuedCertificate, AuthorityError> {
        check_lifetime(ttl, MAX_CERT_LIFETIME)?;
        if !self.certificate.is_current(now) {
            return Err(AuthorityError::NotCurrent);
        }
        let not_after = after(now, ttl).min(self.certificate.not_after);
        let mut params = template(id.as_str(), now, not_after)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(key, &self.issuer).map_err(crypto_error)?.der().clone();
        let fields = CertFields::parse(&leaf).map_err(|_| AuthorityProblem::Malformed)?;
        let (not_before, not_after) = (fields.not_before, fields.not_after);
        Ok(IssuedCertificate { id, not_before, not_after, chain: vec![leaf] })
    }
}

impl IssuedCertificate {
    /// The chain as PEM, leaf first.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.chain.iter().map(|c| pem::encode("CERTIFICATE", c)).collect()
    }
}

impl IssuedNode {
    /// The key, as PEM, for the file that keeps it.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        key_pem(&self.key)
    }

    /// The key as rustls takes it, for an [`crate::Identity`] without files.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }
}

/// The fields that authorities and leaves have in common: one URI, an empty subject (which makes that URI's
/// extension critical), a random serial number, a backdated beginning.
fn template(
    uri: &str,
    now: UnixTime,
    not_after: UnixTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(crypto_error)?)];
    params.serial_number = Some(serial()?);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let begin = Duration::from_secs(now.as_secs().saturating_sub(BACKDATE_INTERVAL.as_secs()));
    params.not_before = epoch + begin;
    params.not_after = epoch + Duration::from_secs(not_after.as_secs());
    Ok(params)
}

/// 16 random bytes, of which the first is 0x40 to 0x7f: positive, and always of one length.
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(crypto_error)?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn check_lifetime(asked: Duration, most: Duration) -> Result<(), AuthorityError> {
    let least = MIN_CERT_LIFETIME;
    if (least..=most).contains(&asked) {
        Ok(())
    } else {
        Err(AuthorityError::Lifetime { asked, least, most })
    }
}

fn after(now: UnixTime, length: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().saturating_add(length.as_secs())))
}

pub(crate) fn key_pem(key: &KeyPair) -> Zeroizing<String> {
    let der = Zeroizing::new(key.serialize_der());
    Zeroizing::new(pem::encode("PRIVATE KEY", &der))
}

pub(crate) fn crypto_error(error: impl fmt::Display) -> AuthorityError {
    AuthorityError::Crypto(error.to_string())
}

impl fmt::Debug for ClusterAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterAuthority").field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl fmt::Debug for IssuedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedNode").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}
