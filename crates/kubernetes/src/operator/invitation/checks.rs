//! Decides whether another cluster may be linked with this one by invitation, before anything is written.
//!
//! An invitation makes a link and never replaces one: whoever holds a token must not be able to take the place of a cluster
//! that is linked already.

use adit_config::cluster::ClusterLink;
use adit_core::name::ClusterName;
use adit_core::spiffe::TrustDomain;
use adit_core::text::printable_ascii;
use adit_pki::time::{in_words, rfc3339};
use adit_pki::{BundleFingerprint, InvitationToken, UnixTime};

use super::fingerprint;
use crate::operator::bundle::parse_bundle;
use crate::operator::context::ConfigDocument;
use crate::operator::link::ClusterIdentity;

/// Most addresses that are taken from another cluster: four for each of as many nodes as are ever dialled at once.
const MAX_ADDRESSES: usize = 64;

/// The reason why another cluster is not linked with this one. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OtherClusterError {
    /// The token is too old.
    #[error(
        "the token ended at {}, {} ago by this machine's clock\n  hint: ask for a new one (adit invite); \
         if it was made just now, compare the clocks", rfc3339(*until), in_words(*ago)
    )]
    Late {
        /// Its end.
        until: UnixTime,
        /// The time since then.
        ago: std::time::Duration,
    },
    /// The token is of this very cluster.
    #[error(
        "this cluster, {0}, made the token itself\n  hint: adit join belongs on the other side: name its --context"
    )]
    OwnCluster(ClusterName),
    /// Both clusters have one name.
    #[error(
        "both clusters are called {0}, so neither could name the other\n  hint: a cluster keeps its name; if this one has \
         none yet, choose another with --name"
    )]
    SameName(ClusterName),
    /// Both clusters have one trust domain.
    #[error(
        "both clusters have trust domain {0}: either could speak for the other\n  hint: one side needs another trustDomain \
         in its ConfigMap before its CA is made"
    )]
    SameTrustDomain(TrustDomain),
    /// A different cluster of that name is linked.
    #[error(
        "a different cluster is linked as {0} already, and an invitation does not take its place\n  hint: if it has a new \
         CA, hand over its bundle (adit link export, adit link import); if it is not wanted any more: adit unlink --cluster {0}"
    )]
    NameLinked(ClusterName),
    /// A cluster of another name has the trust domain.
    #[error(
        "cluster {cluster} is linked already with trust domain {trust_domain}, and only one can have it\n  hint: if it is \
         not wanted any more: adit unlink --cluster {cluster}"
    )]
    TrustDomainLinked {
        /// The linked cluster.
        cluster: ClusterName,
        /// The trust domain.
        trust_domain: TrustDomain,
    },
    /// The other cluster describes itself by something that is no bundle.
    #[error("what the other cluster says of itself cannot be used: {0}")]
    BadDocument(String),
    /// The cluster that answers is not the one that the token names.
    #[error(
        "the token was made by {named}, and its nodes say that they are {found}\n  hint: ask for a new token (adit invite)"
    )]
    NotAsNamed {
        /// The token's.
        named: String,
        /// The nodes'.
        found: String,
    },
}

/// Decides whether a token can be used by this cluster now, before anybody is asked.
///
/// # Errors
/// [`OtherClusterError`], see there.
pub fn check_token(
    token: &InvitationToken,
    own: &ClusterIdentity,
    document: &ConfigDocument,
    own_fingerprint: Option<BundleFingerprint>,
    now: UnixTime,
) -> Result<(), OtherClusterError> {
    if own_fingerprint == Some(token.fingerprint) {
        return Err(OtherClusterError::OwnCluster(own.name.clone()));
    }
    if now >= token.until {
        let ago = std::time::Duration::from_secs(now.as_secs() - token.until.as_secs());
        return Err(OtherClusterError::Late { until: token.until, ago });
    }
    check_place(own, document, &token.cluster, &token.trust_domain, token.fingerprint)
}

/// Reads what another cluster says of itself, and decides whether it may be linked with this one.
///
/// # Errors
/// [`OtherClusterError`], see there.
pub fn check_other_cluster(
    text: &str,
    own: &ClusterIdentity,
    document: &ConfigDocument,
) -> Result<ClusterLink, OtherClusterError> {
    let bad = |what: &str| {
        OtherClusterError::BadDocument(printable_ascii(what.as_bytes(), 400).trim().to_owned())
    };
    let other = parse_bundle(text).map_err(|error| bad(&error.to_string()))?;
    if other.addresses.len() > MAX_ADDRESSES {
        return Err(bad(&format!("it has more than {MAX_ADDRESSES} addresses")));
    }
    let found = fingerprint(&other).map_err(|error| bad(&error.to_string()))?;
    check_place(own, document, &other.cluster, &other.trust_domain, found)?;
    Ok(other)
}

/// Decides whether there is a place for a cluster of this name, trust domain and bundle. One that is linked so already may
/// be linked again.
fn check_place(
    own: &ClusterIdentity,
    document: &ConfigDocument,
    name: &ClusterName,
    trust_domain: &TrustDomain,
    bundle: BundleFingerprint,
) -> Result<(), OtherClusterError> {
    if *name == own.name {
        return Err(OtherClusterError::SameName(name.clone()));
    }
    if *trust_domain == own.trust_domain {
        return Err(OtherClusterError::SameTrustDomain(trust_domain.clone()));
    }
    for link in document.fragments().flat_map(|(_, fragment)| fragment.links) {
        if link.cluster == *name {
            let is_same = fingerprint(&link).is_ok_and(|linked| linked == bundle);
            if !is_same {
                return Err(OtherClusterError::NameLinked(name.clone()));
            }
        } else if link.trust_domain == *trust_domain {
            let (cluster, trust_domain) = (link.cluster, link.trust_domain);
            return Err(OtherClusterError::TrustDomainLinked { cluster, trust_domain });
        }
    }
    Ok(())
}
