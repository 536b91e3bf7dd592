//! Whom a node believes: every cluster's bundle, and what else was written out by the operator.
//!
//! A value, replaced as a whole when a bundle changes (see [`crate::Current`]). It decides nothing:
//! [`crate::verify`] does.

use std::collections::{BTreeMap, BTreeSet};

use adit_core::spiffe::{SpiffeId, TrustDomain};
use rustls_pki_types::UnixTime;

use crate::bundle::TrustBundle;
use crate::deny::DenyList;
use crate::time::rfc3339;

/// The reason for which bundles cannot be used together.
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
    /// None of a bundle's authorities is valid now.
    #[error("no authority of {0} is valid at {at}, so that none of its nodes could be believed", at = rfc3339(*.1))]
    NotCurrent(TrustDomain, UnixTime),
}

impl TrustError {
    /// The trust domain whose bundle is not believed.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        match self {
            Self::Twice(domain) | Self::Shared(domain, _) | Self::NotCurrent(domain, _) => domain,
        }
    }
}

/// A trust bundle for each trust domain.
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

    /// The bundles to believe after all were read again: each by itself, so that a bad one keeps no other from
    /// being taken. `read` has them in order of precedence, our own first; none for one that cannot be read.
    ///
    /// A bundle that cannot be taken keeps what `self`, the last state, has of its trust domain, if anything.
    /// Where two have a key in common, the one that had it last keeps it, else the earlier of `read`: nobody
    /// takes another's place by handing out the other's certificate as his own.
    #[must_use]
    pub fn renewed(
        &self,
        read: Vec<(TrustDomain, Option<TrustBundle>)>,
        now: UnixTime,
    ) -> (Self, Vec<TrustError>) {
        let mut errors = Vec::new();
        let mut wanted: Vec<TrustBundle> = Vec::new();
        for (domain, new) in read {
            let last = self.get(&domain);
            let ended = new.as_ref().is_some_and(|new| !new.is_current(now));
            if ended {
                errors.push(TrustError::NotCurrent(domain, now));
            }
            let stays = last.filter(|last| !ended || last.is_current(now)).cloned();
            wanted.extend(if ended { stays.or(new) } else { new.or(stays) });
        }
        // Stable: within one rank, the order of `read`.
        let mut ranked: Vec<_> = wanted.iter().enumerate().collect();
        ranked.sort_by_key(|(nth, bundle)| match () {
            () if *nth == 0 => 0,
            () if self.get(bundle.domain()).is_some_and(|last| last.is_same(bundle)) => 1,
            () if !self.has_of_another(bundle, &wanted) => 2,
            () => 3,
        });
        let mut all = Self::default();
        for (_, bundle) in ranked {
            if let Err(error) = all.insert(bundle.clone()) {
                errors.push(error);
                // Where that is in the way as well, nobody is believed.
                self.get(bundle.domain()).cloned().and_then(|last| all.insert(last).ok());
            }
        }
        (all, errors)
    }

    /// True if `bundle` has a key that was last another's, among the trust domains of `wanted`.
    fn has_of_another(&self, bundle: &TrustBundle, wanted: &[TrustBundle]) -> bool {
        let others = wanted.iter().filter(|other| other.domain() != bundle.domain());
        let mut keys =
            others.filter_map(|other| self.get(other.domain())).flat_map(|last| last.authorities());
        keys.any(|other| bundle.authorities().iter().any(|own| own.spki == other.spki))
    }

    /// True if both have the same bundles.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.values().zip(other.0.values()).all(|(a, b)| a.is_same(b))
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

/// The bundles and IDs by which a node accepts peers, and the peers that it refuses all the same.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Every cluster's bundle.
    pub bundles: TrustBundles,
    /// Whole IDs that are accepted as nodes although their path does not say so: our own cluster's
    /// controller, which listens to its nodes, and identities brought
    /// from elsewhere, such as the one ID that SPIRE gives to all pods of a DaemonSet. All that share
    /// such an ID are one to us: none of them can be refused alone.
    pub nodes_by_id: BTreeSet<SpiffeId>,
    /// The peers that are refused all the same.
    pub denied: DenyList,
}

impl From<TrustBundles> for Trust {
    fn from(bundles: TrustBundles) -> Self {
        Self { bundles, ..Self::default() }
    }
}
