//! Whom a node believes: every cluster's bundle, and what else was written out by the operator.
//!
//! A value, replaced as a whole when a bundle changes (see [`crate::Current`]). It decides nothing:
//! [`crate::verify`] does.

use std::collections::{BTreeMap, BTreeSet};

use adit_core::spiffe::{SpiffeId, TrustDomain};

use crate::bundle::TrustBundle;

/// Why bundles cannot be used together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Two bundles for one trust domain.
    #[error(
        "two clusters have the trust domain {0}: each needs its own, or each could act as the other"
    )]
    Twice(TrustDomain),
    /// Two trust domains with one authority.
    #[error(
        "trust domains {0} and {1} have an authority in common: whoever holds its key could act as \
         either (was one bundle given for both clusters?)"
    )]
    Shared(TrustDomain, TrustDomain),
}

/// One trust bundle per trust domain.
#[derive(Debug, Clone, Default)]
pub struct TrustBundles(BTreeMap<TrustDomain, TrustBundle>);

impl TrustBundles {
    /// Collects bundles, this cluster's own and every peer cluster's.
    ///
    /// # Errors
    /// [`TrustError`] where two of them are of one trust domain or share a key.
    pub fn new(bundles: impl IntoIterator<Item = TrustBundle>) -> Result<Self, TrustError> {
        let mut all = Self::default();
        bundles.into_iter().try_for_each(|bundle| all.insert(bundle))?;
        Ok(all)
    }

    /// Adds one more.
    ///
    /// # Errors
    /// [`TrustError`] where its trust domain or one of its keys is there already.
    pub fn insert(&mut self, bundle: TrustBundle) -> Result<(), TrustError> {
        let domain = bundle.domain();
        if self.0.contains_key(domain) {
            return Err(TrustError::Twice(domain.clone()));
        }
        let has = |other: &TrustBundle, spki: &[u8]| {
            other.authorities().iter().any(|authority| *authority.spki == *spki)
        };
        for authority in bundle.authorities() {
            if let Some(other) = self.0.values().find(|other| has(other, &authority.spki)) {
                return Err(TrustError::Shared(other.domain().clone(), domain.clone()));
            }
        }
        self.0.insert(domain.clone(), bundle);
        Ok(())
    }

    /// The bundle of a trust domain.
    #[must_use]
    pub fn get(&self, domain: &TrustDomain) -> Option<&TrustBundle> {
        self.0.get(domain)
    }

    /// All of them, in the order of their trust domains.
    pub fn iter(&self) -> impl Iterator<Item = &TrustBundle> {
        self.0.values()
    }
}

/// Whom a node believes.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Every cluster's bundle.
    pub bundles: TrustBundles,
    /// Whole IDs that are accepted as nodes although their path does not say so: our own cluster's
    /// controller, which listens to its nodes, and identities brought
    /// from elsewhere, such as the one ID that SPIRE gives to all pods of a DaemonSet. All that share
    /// such an ID are one to us: none of them can be refused alone.
    pub nodes_by_id: BTreeSet<SpiffeId>,
}

impl From<TrustBundles> for Trust {
    fn from(bundles: TrustBundles) -> Self {
        Self { bundles, nodes_by_id: BTreeSet::new() }
    }
}
