//! A cluster of one honest node, made the way operators make one.

use std::sync::Arc;
use std::time::Duration;

use adit_pki::tls;
use adit_pki::{
    ClusterAuthority, Current, Identity, KeyKind, PeerVerifier, TrustBundle, TrustBundles, UnixTime,
};
use rustls::{ClientConfig, ServerConfig};

use crate::forge::{HOUR, NOW, at, domain};
use crate::wire::clock;

/// An authority and one node that it issued.
pub(crate) struct PkiCluster {
    pub(crate) authority: ClusterAuthority,
    pub(crate) identity: Arc<Current<Identity>>,
}

impl PkiCluster {
    pub(crate) fn new(name: &str, node: &str) -> Self {
        Self::with(name, node, KeyKind::P256)
    }

    pub(crate) fn with(name: &str, node: &str, kind: KeyKind) -> Self {
        let validity = Duration::from_secs(1000 * HOUR);
        let authority = ClusterAuthority::create(domain(name), kind, validity, at(NOW)).unwrap();
        let first = issue(&authority, node, kind, at(NOW));
        Self { authority, identity: Arc::new(Current::new(first)) }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        self.authority.bundle().unwrap()
    }

    pub(crate) fn renew(&self, node: &str, now: UnixTime) -> Identity {
        issue(&self.authority, node, KeyKind::P256, now)
    }

    pub(crate) fn client(&self, verifier: &Arc<PeerVerifier>) -> Arc<ClientConfig> {
        tls::client_config(&self.identity, verifier, &clock()).unwrap()
    }

    pub(crate) fn server(&self, verifier: &Arc<PeerVerifier>) -> Arc<ServerConfig> {
        tls::server_config(&self.identity, verifier, &clock()).unwrap()
    }
}

fn issue(authority: &ClusterAuthority, node: &str, kind: KeyKind, now: UnixTime) -> Identity {
    let ttl = Duration::from_secs(24 * HOUR);
    let issued = authority.issue(&node.parse().unwrap(), kind, ttl, now).unwrap();
    let key = issued.key();
    let bundle = authority.bundle().unwrap();
    Identity::new(issued.certificate.chain, key, &bundle, &[].into(), now).unwrap()
}

/// A verifier that believes these clusters.
pub(crate) fn verifier(bundles: impl IntoIterator<Item = TrustBundle>) -> Arc<PeerVerifier> {
    Arc::new(PeerVerifier::new(TrustBundles::new(bundles).unwrap().into()))
}
