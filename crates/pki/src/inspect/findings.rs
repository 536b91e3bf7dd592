//! Findings against a certificate: one closed list, with what each of them means for its use here.

use std::time::Duration;

use adit_core::spiffe::{Role, SpiffeId, TrustDomain};
use rustls_pki_types::UnixTime;

use super::CertInfo;
use crate::authority::MAX_CERT_LIFETIME;
use crate::fields::{CertFields, KeyProblem};
use crate::time::in_words;

/// Something that speaks against a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertFinding {
    /// Past its validity.
    #[error("expired {} ago", in_words(*.0))]
    Expired(Duration),
    /// Before its validity.
    #[error("not valid yet, for another {} (compare the clocks)", in_words(*.0))]
    NotYetValid(Duration),
    /// A leaf without a SPIFFE ID.
    #[error("no SPIFFE ID: a node needs exactly one URI among its names")]
    NoId,
    /// Several URIs.
    #[error("{0} URIs among its names, where exactly one belongs")]
    SeveralIds(usize),
    /// A URI that is no SPIFFE ID.
    #[error(
        "its URI is no SPIFFE ID (grammar is exact: lower-case trust domain, no % and no /-end)"
    )]
    BadId,
    /// An authority whose ID is a workload's.
    #[error("an authority (CA:true) with the ID of a workload or node: a leaf must be CA:false")]
    AuthorityAsLeaf,
    /// An authority that may not sign.
    #[error("an authority whose key usage does not allow to sign certificates")]
    AuthorityCannotSign,
    /// A leaf's key usage is not what a handshake needs, or more.
    #[error("its key usage must have digitalSignature and neither keyCertSign nor cRLSign")]
    KeyUsage,
    /// A leaf lacks an extended key usage.
    #[error("its extended key usage lacks {0}: nodes dial and are dialled, so they need both")]
    Usage(&'static str),
    /// An RSA key too short.
    #[error("an RSA key of {0} bits; 2048 are the least")]
    WeakKey(usize),
    /// A key of another kind.
    #[error("a key that is neither P-256, P-384, Ed25519 nor RSA")]
    UnsupportedKey,
    /// Name constraints.
    #[error("name constraints, with which no SPIFFE ID can be verified")]
    NameConstraints,
    /// Little of its life is left.
    #[error("only {} left: renew it", in_words(*.0))]
    EndsSoon(Duration),
    /// The ID is no node's.
    #[error("{0} is not a node's identity (/adit/node/NAME): peers refuse it")]
    NotANode(SpiffeId),
    /// Names that nobody looks at.
    #[error("names that Adit ignores: {0}")]
    OtherNames(String),
    /// A leaf that lives longer than ours would.
    #[error("valid for {}, longer than the {} that adit pki gives at most", in_words(*.0), in_words(MAX_CERT_LIFETIME))]
    LongLived(Duration),
    /// An authority that does not say whose it is.
    #[error("no SPIFFE ID that says which trust domain it is for: whoever takes it must know")]
    NoTrustDomain,
    /// Another trust domain than the first certificate's.
    #[error("of trust domain {0}, unlike the first: a bundle belongs to one trust domain")]
    Mixed(TrustDomain),
}

impl CertFinding {
    /// True if Adit would refuse the certificate for it. The rest are warnings.
    #[must_use]
    pub fn is_unusable(&self) -> bool {
        match self {
            Self::Expired(_)
            | Self::NotYetValid(_)
            | Self::NoId
            | Self::SeveralIds(_)
            | Self::BadId
            | Self::AuthorityAsLeaf
            | Self::AuthorityCannotSign
            | Self::KeyUsage
            | Self::Usage(_)
            | Self::WeakKey(_)
            | Self::UnsupportedKey
            | Self::NameConstraints
            | Self::Mixed(_) => true,
            Self::EndsSoon(_)
            | Self::NotANode(_)
            | Self::OtherNames(_)
            | Self::LongLived(_)
            | Self::NoTrustDomain => false,
        }
    }
}

pub(super) fn judge(
    info: &CertInfo,
    fields: &CertFields<'_>,
    constrained: bool,
    now: UnixTime,
) -> Vec<CertFinding> {
    let mut found = Vec::new();
    found.extend(validity(info, now));
    found.extend(match fields.key.check() {
        Ok(()) => None,
        Err(KeyProblem::Weak(bits)) => Some(CertFinding::WeakKey(bits)),
        Err(KeyProblem::Unsupported) => Some(CertFinding::UnsupportedKey),
    });
    if constrained {
        found.push(CertFinding::NameConstraints);
    }
    match (fields.uris.len(), &info.id) {
        (0, _) if info.authority => found.push(CertFinding::NoTrustDomain),
        (0, _) => found.push(CertFinding::NoId),
        (1, None) => found.push(CertFinding::BadId),
        (1, Some(_)) => {}
        (several, _) => found.push(CertFinding::SeveralIds(several)),
    }
    if info.authority {
        if info.id.as_ref().is_some_and(|id| !id.path().is_empty()) {
            found.push(CertFinding::AuthorityAsLeaf);
        }
        if fields.usage.is_some_and(|usage| !usage.sign_certificates) {
            found.push(CertFinding::AuthorityCannotSign);
        }
    } else {
        leaf(info, fields, &mut found);
    }
    let others: Vec<_> =
        info.names.iter().filter(|n| !n.starts_with("URI:")).map(String::as_str).collect();
    if !others.is_empty() {
        found.push(CertFinding::OtherNames(others.join(", ")));
    }
    found.sort_by_key(|finding| !finding.is_unusable());
    found
}

fn leaf(info: &CertInfo, fields: &CertFields<'_>, found: &mut Vec<CertFinding>) {
    if !fields.usage.is_some_and(|u| u.digital_signature && !u.sign_certificates && !u.sign_crls) {
        found.push(CertFinding::KeyUsage);
    }
    for needed in ["serverAuth", "clientAuth"] {
        if !info.usages.iter().any(|usage| usage == needed) {
            found.push(CertFinding::Usage(needed));
        }
    }
    if let Some(id) = &info.id
        && !matches!(id.role(), Ok(Role::Node(_)))
    {
        found.push(CertFinding::NotANode(id.clone()));
    }
    let life = between(info.not_before, info.not_after);
    // What we issue is a backdating longer than asked for.
    if life > MAX_CERT_LIFETIME + crate::authority::BACKDATE_INTERVAL {
        found.push(CertFinding::LongLived(life));
    }
}

/// Finds a certificate that has expired, is not valid yet, or has a third of its life left at most. A node renews its own
/// at half of its life, so that less than a third means that renewal has failed for a while.
fn validity(info: &CertInfo, now: UnixTime) -> Option<CertFinding> {
    if now < info.not_before {
        return Some(CertFinding::NotYetValid(between(now, info.not_before)));
    }
    if now > info.not_after {
        return Some(CertFinding::Expired(between(info.not_after, now)));
    }
    let left = between(now, info.not_after);
    (left <= between(info.not_before, info.not_after) / 3).then_some(CertFinding::EndsSoon(left))
}

/// Adds findings that only show beside the other certificates of one file: certificates of another trust domain.
pub(super) fn compare(all: &mut [CertInfo]) {
    let domain = |info: &CertInfo| info.id.as_ref().map(|id| id.trust_domain().clone());
    let Some(first) = all.iter().find_map(domain) else { return };
    for info in all {
        if let Some(other) = domain(info).filter(|other| *other != first) {
            info.findings.insert(0, CertFinding::Mixed(other));
        }
    }
}

fn between(from: UnixTime, to: UnixTime) -> Duration {
    Duration::from_secs(to.as_secs().saturating_sub(from.as_secs()))
}
