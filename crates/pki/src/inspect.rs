//! Shows people the contents of a certificate: `adit pki show`.
//!
//! The only user of `x509-parser` outside rcgen. Nothing here takes part in accepting a peer; what it
//! finds unusable is what [`crate::verify`] and [`crate::bundle`] would refuse.

mod findings;

use adit_core::spiffe::SpiffeId;
use adit_core::text::printable;
use aws_lc_rs::digest;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::bundle::{self, BundleError};
use crate::fields::CertFields;
use crate::pem::{self, PemError};

pub use self::findings::CertFinding;

/// The reason for which there is nothing to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// PEM with something else than certificates, or damaged.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// JSON, and no SPIFFE bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Something else.
    #[error("neither PEM certificates, one DER certificate nor a SPIFFE bundle in JSON")]
    Format,
    /// The certificate of this number cannot be read.
    #[error("certificate {0} of it is not an X.509 certificate of version 3")]
    Malformed(usize),
}

/// The contents of a certificate, with all that speaks against it. Texts hold no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertInfo {
    /// Its subject, as RFC 4514 writes it; empty where the alternative names say it all.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// Its serial number, in hexadecimal, as `denied.serials` takes it.
    pub serial: String,
    /// The SHA-256 of its key (of the whole SubjectPublicKeyInfo), in hexadecimal, as `denied.keys` takes it.
    pub key_sha256: String,
    /// The SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
    /// May it sign other certificates?
    pub authority: bool,
    /// Its SPIFFE ID, where it has exactly one good one.
    pub id: Option<SpiffeId>,
    /// Its alternative names, URIs included, with their kind in front: `URI:…`, `DNS:…`.
    pub names: Vec<String>,
    /// The kind of its key: `P-256`, `Ed25519`, `RSA-2048`.
    pub key: String,
    /// The purposes that its extended key usage allows: `serverAuth`, `clientAuth` or an object identifier.
    pub usages: Vec<String>,
    /// Valid from this second on.
    pub not_before: UnixTime,
    /// Valid up to this second.
    pub not_after: UnixTime,
    /// All that speaks against it, the worst first.
    pub findings: Vec<CertFinding>,
}

impl CertInfo {
    /// True if there is a finding for which Adit would refuse it now.
    #[must_use]
    pub fn is_unusable(&self) -> bool {
        self.findings.iter().any(CertFinding::is_unusable)
    }
}

/// Reads PEM, DER or a SPIFFE bundle, and judges each certificate at `now`.
///
/// # Errors
/// [`InspectError`]; also where the bytes hold a private key, whose file is not for showing.
pub fn inspect(bytes: &[u8], now: UnixTime) -> Result<Vec<CertInfo>, InspectError> {
    let certificates = match bytes.trim_ascii_start() {
        [b'{', ..] => bundle::certificates_of_json(bytes)?,
        // A DER certificate is a SEQUENCE; its length takes more than one byte.
        [0x30, 0x81 | 0x82, ..] => vec![CertificateDer::from(bytes.to_vec())],
        text if std::str::from_utf8(text).is_ok() => pem::certificates(bytes)?,
        _ => return Err(InspectError::Format),
    };
    let mut all = Vec::new();
    for (i, certificate) in certificates.iter().enumerate() {
        let info = inspect_one(certificate, now).ok_or(InspectError::Malformed(i + 1))?;
        all.push(info);
    }
    findings::compare(&mut all);
    Ok(all)
}

fn inspect_one(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<CertInfo> {
    let fields = CertFields::parse(certificate).ok()?;
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()?.map_or_else(Vec::new, |names| {
        names.value.general_names.iter().map(general_name).collect()
    });
    let uris: Vec<Option<SpiffeId>> = fields
        .uris
        .iter()
        .map(|uri| std::str::from_utf8(uri).ok().and_then(|uri| uri.parse().ok()))
        .collect();
    let mut info = CertInfo {
        subject: printable(&parsed.subject().to_string(), 200),
        issuer: printable(&parsed.issuer().to_string(), 200),
        serial: parsed.raw_serial_as_string(),
        key_sha256: fields.key_hash().to_string(),
        fingerprint: hex(digest::digest(&digest::SHA256, certificate).as_ref()),
        authority: fields.ca,
        id: if let [Some(id)] = uris.as_slice() { Some(id.clone()) } else { None },
        names,
        key: fields.key.kind(),
        usages: usages(&parsed)?,
        not_before: fields.not_before,
        not_after: fields.not_after,
        findings: Vec::new(),
    };
    let constrained = parsed.name_constraints().ok()?.is_some();
    info.findings = findings::judge(&info, &fields, constrained, now);
    Some(info)
}

fn general_name(name: &GeneralName<'_>) -> String {
    let text = match name {
        GeneralName::URI(uri) => format!("URI:{uri}"),
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        GeneralName::RFC822Name(name) => format!("email:{name}"),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => format!("IP:{}", std::net::Ipv4Addr::from(v4)),
            Err(_) => match <[u8; 16]>::try_from(*bytes) {
                Ok(v6) => format!("IP:{}", std::net::Ipv6Addr::from(v6)),
                Err(_) => format!("IP:{}", hex(bytes)),
            },
        },
        GeneralName::DirectoryName(name) => format!("directory:{name}"),
        GeneralName::OtherName(id, _) => format!("other:{id}"),
        GeneralName::RegisteredID(id) => format!("registered:{id}"),
        GeneralName::X400Address(_) | GeneralName::EDIPartyName(_) | GeneralName::Invalid(..) => {
            "other:unreadable".to_owned()
        }
    };
    printable(&text, 300)
}

fn usages(parsed: &X509Certificate<'_>) -> Option<Vec<String>> {
    let Some(usage) = parsed.extended_key_usage().ok()? else { return Some(Vec::new()) };
    let usage = usage.value;
    let known = [
        (usage.server_auth, "serverAuth"),
        (usage.client_auth, "clientAuth"),
        (usage.any, "any"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
    ];
    let known = known.into_iter().filter(|(is, _)| *is).map(|(_, name)| name.to_owned());
    Some(known.chain(usage.other.iter().map(ToString::to_string)).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
