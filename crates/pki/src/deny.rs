//! The deny list as verification asks it: by identity, by serial number, by key.
//!
//! [`adit_core::deny_list`] has what an operator writes, with clusters by their names; here they are trust domains,
//! which certificates know. Looking a certificate up costs nothing while no entry is about certificates, and a
//! hash of its key where one is about keys. Who asks, and when, is [`crate::verify`]'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use adit_core::deny_list::{CertSerial, DeniedPeer, DenyEntry, KeyHash};
use adit_core::name::ClusterName;
use adit_core::spiffe::{SpiffeId, TrustDomain};

use crate::fields::CertFields;

/// An entry, shared by all that refer to it.
type SharedDenyEntry = Arc<DenyEntry>;

/// The peers that are refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DenyList {
    domains: BTreeMap<TrustDomain, SharedDenyEntry>,
    ids: BTreeMap<SpiffeId, SharedDenyEntry>,
    serials: BTreeMap<CertSerial, Vec<(Option<TrustDomain>, SharedDenyEntry)>>,
    keys: BTreeMap<KeyHash, SharedDenyEntry>,
}

impl DenyList {
    /// Takes what the operator wrote; `domain_of` knows the trust domains of clusters. An entry about a cluster
    /// that has none denies nobody: there is no bundle for its nodes either.
    #[must_use]
    pub fn new<'a>(
        entries: impl IntoIterator<Item = &'a DenyEntry>,
        domain_of: impl Fn(&ClusterName) -> Option<TrustDomain>,
    ) -> Self {
        let mut list = Self::default();
        for entry in entries {
            list.add(Arc::new(entry.clone()), &domain_of);
        }
        list
    }

    fn add(
        &mut self,
        entry: SharedDenyEntry,
        domain_of: impl Fn(&ClusterName) -> Option<TrustDomain>,
    ) {
        match &entry.peer {
            DeniedPeer::Cluster(cluster) => {
                self.domains.extend(domain_of(cluster).map(|domain| (domain, entry.clone())));
            }
            DeniedPeer::Node(cluster, node) => {
                let id = |domain: TrustDomain| match node.is_controller() {
                    true => domain.controller_id(),
                    false => domain.node_id(node),
                };
                self.ids.extend(domain_of(cluster).map(|domain| (id(domain), entry.clone())));
            }
            DeniedPeer::Serial(serial, cluster) => {
                let domain = cluster.as_ref().map(domain_of);
                if let None | Some(Some(_)) = domain {
                    let all = self.serials.entry(serial.clone()).or_default();
                    all.push((domain.flatten(), entry.clone()));
                }
            }
            DeniedPeer::Key(key) => {
                self.keys.insert(*key, entry.clone());
            }
        }
    }

    /// The entry that denies this identity, or one of the certificates (DER) that its holder shows.
    #[must_use]
    pub fn find<'a>(
        &self,
        id: &SpiffeId,
        shown: impl IntoIterator<Item = &'a [u8]>,
    ) -> Option<Arc<DenyEntry>> {
        let domain = id.trust_domain();
        let by_name = self.domains.get(domain).or_else(|| self.ids.get(id));
        by_name
            .cloned()
            .or_else(|| shown.into_iter().find_map(|der| self.find_certificate(domain, der)))
    }

    /// The entry that denies a certificate (DER) of a cluster, by its serial number or its key.
    #[must_use]
    pub fn find_certificate(&self, domain: &TrustDomain, der: &[u8]) -> Option<Arc<DenyEntry>> {
        if self.serials.is_empty() && self.keys.is_empty() {
            return None;
        }
        // What cannot be read is refused by whoever verifies it.
        let fields = CertFields::parse(der).ok()?;
        let serial = || {
            let of = |(of, _): &&(Option<TrustDomain>, SharedDenyEntry)| {
                of.as_ref().is_none_or(|of| of == domain)
            };
            self.serials.get(&fields.serial())?.iter().find(of).map(|(_, entry)| entry)
        };
        let key = || {
            let hash = (!self.keys.is_empty()).then(|| fields.key_hash())?;
            self.keys.get(&hash)
        };
        serial().or_else(key).cloned()
    }

    /// True if there is an entry for this peer.
    #[must_use]
    pub fn contains(&self, peer: &DeniedPeer) -> bool {
        let serials = self.serials.values().flatten().map(|(_, entry)| entry);
        let all = self.domains.values().chain(self.ids.values()).chain(self.keys.values());
        all.chain(serials).any(|entry| entry.peer == *peer)
    }

    /// True if there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
