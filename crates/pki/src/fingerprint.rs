//! The fingerprint of a trust bundle: short enough that two people compare it by voice.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

use crate::bundle::TrustBundle;

/// SHA-256 over a trust domain and its authorities, in whatever order and form they were handed over.
///
/// Its `Display` is the first ten bytes in five groups of hexadecimal digits: whoever wants another bundle with the same
/// ones has to try 2^80.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BundleFingerprint([u8; Self::LEN]);

impl BundleFingerprint {
    /// Its length, in bytes.
    pub const LEN: usize = 32;
    /// Bytes that are shown to people.
    const SHOWN: usize = 10;

    /// The fingerprint of a bundle.
    #[must_use]
    pub fn of(bundle: &TrustBundle) -> Self {
        let mut certificates: Vec<&[u8]> =
            bundle.authorities().iter().map(|one| one.certificate().as_ref()).collect();
        certificates.sort_unstable();
        let mut hash = Context::new(&SHA256);
        hash.update(b"adit trust bundle 1");
        for part in std::iter::once(bundle.domain().as_str().as_bytes()).chain(certificates) {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(hash.finish().as_ref());
        Self(bytes)
    }

    /// A fingerprint from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// All its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for BundleFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, pair) in self.0[..Self::SHOWN].chunks(2).enumerate() {
            let dash = if i == 0 { "" } else { "-" };
            write!(f, "{dash}{:02x}{:02x}", pair[0], pair[1])?;
        }
        Ok(())
    }
}

impl fmt::Debug for BundleFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BundleFingerprint({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{ClusterAuthority, KeyKind, UnixTime};

    #[test]
    fn it_depends_on_domain_and_certificates_and_not_on_their_order_or_text() {
        let day = Duration::from_secs(86400);
        let now = UnixTime::since_unix_epoch(day * 20_000);
        let make = |domain: &str| {
            ClusterAuthority::create(domain.parse().unwrap(), KeyKind::Ed25519, day, now).unwrap()
        };
        let (a, b, other) = (make("a.example"), make("a.example"), make("b.example"));
        let pem = |one: &ClusterAuthority| one.bundle().unwrap().to_pem();
        let parse = |text: String| {
            TrustBundle::parse("a.example".parse().unwrap(), text.as_bytes()).unwrap()
        };
        let both = BundleFingerprint::of(&parse(pem(&a) + &pem(&b)));
        assert_eq!(both, BundleFingerprint::of(&parse(format!("\n{}\n\n{}", pem(&b), pem(&a)))));
        let of = |one: &ClusterAuthority| BundleFingerprint::of(&one.bundle().unwrap());
        assert!(both != of(&a) && of(&a) != of(&b) && of(&a) != of(&other));
        let shown = both.to_string();
        assert!(shown.len() == 24 && shown.split('-').all(|group| group.len() == 4), "{shown}");
    }
}
