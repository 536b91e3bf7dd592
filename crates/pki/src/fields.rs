//! The few fields of a certificate that `webpki` keeps to itself.
//!
//! `webpki` alone decides whether a path is good, and it alone reads the identity that is believed.
//! What is read here can only refuse a certificate (more URIs than one, a leaf that may sign others, a
//! key that is too short) or tell when it ends. Where both read the same field they are compared. See
//! [`crate::verify`] for the decision, [`crate::inspect`] for what people are shown.

use adit_core::deny_list::{CertSerial, KeyHash};
use aws_lc_rs::digest;
use rustls_pki_types::UnixTime;

use crate::der::{self, DerReader};
use crate::time;

/// A certificate's bytes are not a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MalformedCert;

/// The fields that [`CertFields::parse`] found; borrowed from the certificate.
pub(crate) struct CertFields<'a> {
    /// The serial number's INTEGER.
    serial: &'a [u8],
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    /// The SubjectPublicKeyInfo's contents: the same bytes mean the same key.
    pub(crate) spki: &'a [u8],
    pub(crate) key: PublicKey<'a>,
    /// Basic constraints: true if this certificate's key may sign certificates.
    pub(crate) ca: bool,
    /// The number of intermediates that may follow it, where it says so.
    pub(crate) path_len: Option<u8>,
    /// Key usage, where it is said.
    pub(crate) usage: Option<KeyUsage>,
    /// True if there is an extended key usage; webpki reads what it says.
    pub(crate) has_extended_usage: bool,
    /// Every URI among the subject's alternative names, valid UTF-8 or not.
    pub(crate) uris: Vec<&'a [u8]>,
}

/// The bits of the key usage extension that matter here (RFC 5280 §4.2.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyUsage {
    pub(crate) digital_signature: bool,
    pub(crate) sign_certificates: bool,
    pub(crate) sign_crls: bool,
}

/// A public key of a kind that can be used here, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublicKey<'a> {
    /// NIST P-256, as an uncompressed point.
    P256(&'a [u8]),
    /// NIST P-384, as an uncompressed point.
    P384(&'a [u8]),
    /// Ed25519.
    Ed25519(&'a [u8]),
    /// RSA; both numbers big-endian without leading zeros.
    Rsa { modulus: &'a [u8], exponent: &'a [u8] },
    /// Anything else.
    Other,
}

/// The reason for which a public key is not good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyProblem {
    /// An RSA key of this many bits.
    Weak(usize),
    /// Neither P-256, P-384, Ed25519 nor RSA.
    Unsupported,
}

/// The shortest RSA key, in bits: what aws-lc-rs' verification algorithms accept.
const MIN_RSA_BITS: usize = 2048;

const ID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const ID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const ID_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const ID_ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
const ID_EXTENDED_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const ID_BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

impl<'a> CertFields<'a> {
    /// Reads a version 3 certificate.
    ///
    /// # Errors
    /// [`MalformedCert`] where the bytes are not one, or one of the extensions read here is repeated.
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, MalformedCert> {
        Self::read(der).ok_or(MalformedCert)
    }

    fn read(der: &'a [u8]) -> Option<Self> {
        const VERSION: u8 = 0xa0;
        const EXTENSIONS: u8 = 0xa3;
        let mut outer = DerReader::new(der);
        let mut certificate = DerReader::new(outer.expect(der::SEQUENCE)?);
        let mut tbs = DerReader::new(certificate.expect(der::SEQUENCE)?);
        tbs.expect(VERSION)?;
        let serial = tbs.expect(der::INTEGER)?;
        tbs.expect(der::SEQUENCE)?;
        tbs.expect(der::SEQUENCE)?;
        let mut validity = DerReader::new(tbs.expect(der::SEQUENCE)?);
        tbs.expect(der::SEQUENCE)?;
        let spki = tbs.expect(der::SEQUENCE)?;
        let mut fields = Self {
            serial,
            not_before: read_time(&mut validity)?,
            not_after: read_time(&mut validity)?,
            spki,
            key: PublicKey::read(spki)?,
            ca: false,
            path_len: None,
            usage: None,
            has_extended_usage: false,
            uris: Vec::new(),
        };
        if let Some(extensions) = tbs.optional(EXTENSIONS) {
            let mut extensions = DerReader::new(DerReader::new(extensions).expect(der::SEQUENCE)?);
            let mut seen = Vec::new();
            while !extensions.is_empty() {
                let mut extension = DerReader::new(extensions.expect(der::SEQUENCE)?);
                let id = extension.expect(der::OID)?;
                extension.optional(der::BOOLEAN);
                let value = extension.expect(der::OCTET_STRING)?;
                if seen.contains(&id) || !extension.is_empty() {
                    return None;
                }
                seen.push(id);
                fields.extension(id, value)?;
            }
        }
        (outer.is_empty() && tbs.is_empty() && validity.is_empty()).then_some(fields)
    }

    /// The serial number, as the deny list knows it.
    pub(crate) fn serial(&self) -> CertSerial {
        CertSerial::from_bytes(self.serial)
    }

    /// The hash of the key, as the deny list and other tools know it: of the whole SubjectPublicKeyInfo.
    pub(crate) fn key_hash(&self) -> KeyHash {
        let mut hash = digest::Context::new(&digest::SHA256);
        // The reader takes the shortest form of a length only, so that this is what was read.
        match u16::try_from(self.spki.len()).map(u16::to_be_bytes) {
            Ok([0, low @ ..0x80]) => hash.update(&[der::SEQUENCE, low]),
            Ok([0, low]) => hash.update(&[der::SEQUENCE, 0x81, low]),
            Ok([high, low]) => hash.update(&[der::SEQUENCE, 0x82, high, low]),
            Err(_) => {}
        }
        hash.update(self.spki);
        let mut value = [0; 32];
        value.copy_from_slice(hash.finish().as_ref());
        KeyHash(value)
    }

    fn extension(&mut self, id: &[u8], value: &'a [u8]) -> Option<()> {
        let mut value = DerReader::new(value);
        match id {
            ID_KEY_USAGE => self.usage = Some(KeyUsage::read(value.expect(der::BIT_STRING)?)?),
            ID_ALTERNATIVE_NAMES => {
                // GeneralName's uniformResourceIdentifier, [6] IMPLICIT IA5String.
                const URI: u8 = 0x86;
                let mut names = DerReader::new(value.expect(der::SEQUENCE)?);
                while !names.is_empty() {
                    if let (URI, uri) = names.value()? {
                        self.uris.push(uri);
                    }
                }
            }
            ID_BASIC_CONSTRAINTS => {
                let mut constraints = DerReader::new(value.expect(der::SEQUENCE)?);
                self.ca = constraints.optional(der::BOOLEAN) == Some(&[0xff]);
                if let Some(len) = constraints.optional(der::INTEGER) {
                    self.path_len = Some(match der::magnitude(len)? {
                        [] => 0,
                        [one] => *one,
                        _ => u8::MAX,
                    });
                }
            }
            ID_EXTENDED_USAGE => {
                self.has_extended_usage = true;
                value.expect(der::SEQUENCE)?;
            }
            _ => return Some(()),
        }
        value.is_empty().then_some(())
    }
}

impl KeyUsage {
    fn read(bits: &[u8]) -> Option<Self> {
        let [_unused, first, ..] = bits else { return None };
        Some(Self {
            digital_signature: first & 0x80 != 0,
            sign_certificates: first & 0x04 != 0,
            sign_crls: first & 0x02 != 0,
        })
    }
}

impl<'a> PublicKey<'a> {
    fn read(spki: &'a [u8]) -> Option<Self> {
        let mut spki = DerReader::new(spki);
        let mut algorithm = DerReader::new(spki.expect(der::SEQUENCE)?);
        let id = algorithm.expect(der::OID)?;
        let bits = spki.expect(der::BIT_STRING)?;
        Some(match id {
            ID_EC => match algorithm.expect(der::OID) {
                Some(ID_P256) => Self::P256(der::whole_bytes(bits)?),
                Some(ID_P384) => Self::P384(der::whole_bytes(bits)?),
                _ => Self::Other,
            },
            ID_ED25519 => Self::Ed25519(der::whole_bytes(bits)?),
            ID_RSA => {
                let mut numbers =
                    DerReader::new(DerReader::new(der::whole_bytes(bits)?).expect(der::SEQUENCE)?);
                Self::Rsa {
                    modulus: der::magnitude(numbers.expect(der::INTEGER)?)?,
                    exponent: der::magnitude(numbers.expect(der::INTEGER)?)?,
                }
            }
            _ => Self::Other,
        })
    }

    /// Checks that the key is of a kind and length that a connection may rest on.
    pub(crate) fn check(&self) -> Result<(), KeyProblem> {
        match self {
            Self::P256(_) | Self::P384(_) | Self::Ed25519(_) => Ok(()),
            Self::Rsa { .. } => match self.bits() {
                bits if bits < MIN_RSA_BITS => Err(KeyProblem::Weak(bits)),
                _ => Ok(()),
            },
            Self::Other => Err(KeyProblem::Unsupported),
        }
    }

    /// The key's length in bits; 0 where its kind is not known.
    pub(crate) fn bits(&self) -> usize {
        match self {
            Self::P256(_) | Self::Ed25519(_) => 256,
            Self::P384(_) => 384,
            Self::Rsa { modulus: [first, rest @ ..], .. } => {
                rest.len() * 8 + (8 - first.leading_zeros() as usize)
            }
            Self::Rsa { .. } | Self::Other => 0,
        }
    }

    /// The key's kind in words: `P-256`, `RSA-2048`.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::P256(_) => "P-256".to_owned(),
            Self::P384(_) => "P-384".to_owned(),
            Self::Ed25519(_) => "Ed25519".to_owned(),
            Self::Rsa { .. } => format!("RSA-{}", self.bits()),
            Self::Other => "unsupported".to_owned(),
        }
    }
}

fn read_time(reader: &mut DerReader<'_>) -> Option<UnixTime> {
    match reader.value()? {
        (der::UTC_TIME, text) => time::utc_time(text),
        (der::GENERALIZED_TIME, text) => time::generalized_time(text),
        _ => None,
    }
}
