//! Certificates that no authority of ours would make, signed by whom the test likes.
//!
//! [`Forge::leaf`] is a good node certificate; tests spoil one thing of it.

use std::time::Duration;

use adit_core::spiffe::TrustDomain;
use adit_pki::{TrustBundle, TrustBundles, UnixTime};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The time at which all tests happen: 2026-11-21T12:00:00Z.
pub(crate) const NOW: u64 = 1_795_262_400;
pub(crate) const HOUR: u64 = 3600;

pub(crate) fn at(secs: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(secs))
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// An authority that signs anything.
pub(crate) struct Forge {
    pub(crate) certificate: CertificateDer<'static>,
    params: CertificateParams,
    key: KeyPair,
}

/// A chain, leaf first, and the leaf's key.
pub(crate) struct ForgedCert {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

fn params(from: u64, to: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    params.not_before = epoch + Duration::from_secs(from);
    params.not_after = epoch + Duration::from_secs(to);
    params.serial_number = Some(SerialNumber::from_slice(&[0x41; 16]));
    params
}

/// An authority's certificate as ours make it, for a trust domain, before it is spoiled.
pub(crate) fn ca_params(domain: &str) -> CertificateParams {
    let mut ca = params(NOW - HOUR, NOW + 1000 * HOUR);
    ca.distinguished_name.push(DnType::CommonName, format!("Adit CA {domain}"));
    ca.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca
}

/// A node's certificate as ours make it, before it is spoiled.
pub(crate) fn leaf_params(id: &str) -> CertificateParams {
    let mut leaf = params(NOW - HOUR, NOW + 24 * HOUR);
    leaf.subject_alt_names = vec![uri(id)];
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf
}

impl Forge {
    /// An authority for `domain` as ours are.
    pub(crate) fn new(domain: &str) -> Self {
        Self::with(ca_params(domain))
    }

    /// A self-signed authority with these parameters.
    pub(crate) fn with(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, params, key }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// An authority below this one.
    pub(crate) fn intermediate(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer()).unwrap().der().clone();
        Self { certificate, params, key }
    }

    /// Signs a key of somebody's.
    pub(crate) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> CertificateDer<'static> {
        params.signed_by(key, &self.issuer()).unwrap().der().clone()
    }

    /// A certificate with these parameters and a key of its own.
    pub(crate) fn issue(&self, params: &CertificateParams) -> ForgedCert {
        let key = KeyPair::generate().unwrap();
        let chain = vec![self.sign(params, &key)];
        ForgedCert { chain, key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) }
    }

    /// A good certificate for `id`.
    pub(crate) fn leaf(&self, id: &str) -> ForgedCert {
        self.issue(&leaf_params(id))
    }

    /// A bundle of `name` with this authority.
    pub(crate) fn bundle(&self, name: &str) -> TrustBundle {
        TrustBundle::new(domain(name), [self.certificate.clone()]).unwrap()
    }
}

/// The bundles of two clusters.
pub(crate) fn bundles(all: impl IntoIterator<Item = TrustBundle>) -> TrustBundles {
    TrustBundles::new(all).unwrap()
}
