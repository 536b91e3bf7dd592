//! Clusters and nodes that exist only in a test.
//!
//! Keys are Ed25519, whose signatures have one length, so that a simulated handshake has the same
//! packets every time. The calendar is tokio's clock, counted from [`EPOCH`].

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use adit_core::name::NodeName;
use adit_core::spiffe::{SpiffeId, TrustDomain};
use adit_pki::{
    ClusterAuthority, Current, Identity, KeyKind, PeerVerifier, Trust, TrustBundles, UnixTime,
};
use adit_transport::{NodeSecret, Tls};
use rustls::time_provider::TimeProvider;
use tokio::time::Instant;

/// When every test begins, in seconds since 1970: 2026-11-21.
pub const EPOCH: u64 = 1_795_219_200;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The calendar of tests.
#[derive(Debug, Default)]
pub struct TestCalendar(OnceLock<Instant>);

impl TimeProvider for TestCalendar {
    fn current_time(&self) -> Option<UnixTime> {
        let begun = self.0.get_or_init(Instant::now);
        let passed = begun.elapsed();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(EPOCH) + passed))
    }
}

/// So long before every test began.
fn before(ago: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(EPOCH) - ago)
}

/// A cluster with an authority of its own, made a month before the test.
#[derive(Debug)]
pub struct TestCluster(ClusterAuthority);

impl TestCluster {
    /// A cluster of this trust domain.
    ///
    /// # Panics
    /// Where the name is no trust domain.
    #[must_use]
    pub fn new(trust_domain: &str) -> Self {
        let domain = trust_domain.parse().expect("a trust domain");
        let made = ClusterAuthority::create(domain, KeyKind::Ed25519, 365 * DAY, before(30 * DAY));
        Self(made.expect("an authority"))
    }

    /// Its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        self.0.domain()
    }

    /// The identity of one of its nodes or its controller ([`NodeName::controller`]), as if issued `ago` before the test began, for a day.
    ///
    /// # Panics
    /// Where the name is no node's.
    #[must_use]
    pub fn issue(&self, node: &str, ago: Duration) -> Identity {
        let at = before(ago);
        let name: NodeName = node.parse().expect("a node's name");
        let issued = if name.is_controller() {
            self.0.issue_controller(KeyKind::Ed25519, DAY, at)
        } else {
            self.0.issue(&name, KeyKind::Ed25519, DAY, at)
        };
        let issued = issued.expect("a certificate");
        let bundle = self.0.bundle().expect("a bundle");
        let (chain, key) = (issued.certificate.to_pem(), issued.key_pem());
        // Only a cluster's own nodes and its controller itself believe that it is one.
        let ids =
            BTreeSet::from_iter(name.is_controller().then(|| self.0.domain().controller_id()));
        Identity::from_pem(chain.as_bytes(), key.as_bytes(), &bundle, &ids, at)
            .expect("an identity")
    }

    /// Its certificate, as others are handed it.
    ///
    /// # Panics
    /// Never in practice.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.bundle().expect("a bundle").to_pem()
    }

    /// A node of this cluster that believes it and `others`.
    #[must_use]
    pub fn node(&self, name: &str, others: &[&Self]) -> TestNode {
        let node = TestNode {
            identity: Arc::new(Current::new(self.issue(name, Duration::ZERO))),
            verifier: Arc::new(PeerVerifier::new(Trust::default())),
            secret: NodeSecret::from_bytes([7; 32]),
            controller: self.0.domain().controller_id(),
        };
        node.believe(others.iter().copied().chain([self]));
        node
    }
}

/// A node that can prove itself. Clones share what they present and whom they believe.
#[derive(Debug, Clone)]
pub struct TestNode {
    /// The identity that it presents.
    pub identity: Arc<Current<Identity>>,
    /// Whom it believes.
    pub verifier: Arc<PeerVerifier>,
    /// The secret that outlives its restarts.
    pub secret: NodeSecret,
    /// Its own cluster's controller, whom it believes.
    pub controller: SpiffeId,
}

impl TestNode {
    /// Believes exactly these clusters from now on.
    ///
    /// # Panics
    /// Where two of them have one trust domain.
    pub fn believe<'a>(&self, clusters: impl IntoIterator<Item = &'a TestCluster>) {
        let bundles = clusters.into_iter().map(|c| c.0.bundle().expect("a bundle"));
        let bundles = TrustBundles::new(bundles).expect("bundles of different clusters");
        let nodes_by_id = [self.controller.clone()].into();
        self.verifier.set_trust(Trust { nodes_by_id, ..bundles.into() });
    }

    /// Its TLS. Each call has a calendar that begins at [`EPOCH`] when it is first asked.
    ///
    /// # Panics
    /// Never in practice.
    #[must_use]
    pub fn tls(&self) -> Tls {
        let calendar: Arc<dyn TimeProvider> = Arc::new(TestCalendar::default());
        Tls::new(&self.identity, &self.verifier, &calendar).expect("TLS")
    }
}
