//! A cluster's authority and what it issues, as `adit pki` would write it, for tests of the process.

use std::path::Path;
use std::time::Duration;

use adit_core::name::NodeName;
use adit_kubernetes::node::certificate::NodeCertificate;
use adit_pki::files::{self, IfExists};
use adit_pki::{ClusterAuthority, KeyKind, UnixTime};

/// A certificate of [`TestCa::issue`] lasts this long.
pub(super) const HOUR_LIFETIME: Duration = Duration::from_secs(3600);

/// The time of these tests.
pub(super) fn now() -> UnixTime {
    UnixTime::now()
}

/// A cluster's authority.
pub(super) struct TestCa(ClusterAuthority);

impl TestCa {
    /// A CA that was made some days ago.
    pub(super) fn new(cluster: &str) -> Self {
        let domain = format!("{cluster}.example").parse().unwrap();
        let begun = Duration::from_secs(now().as_secs()) - 100 * HOUR_LIFETIME;
        let begun = UnixTime::since_unix_epoch(begun);
        Self(ClusterAuthority::create(domain, KeyKind::P256, 1000 * HOUR_LIFETIME, begun).unwrap())
    }

    /// A certificate as a controller issues it.
    pub(super) fn certify(&self, node: &str, life: Duration, now: UnixTime) -> NodeCertificate {
        let issued = self.0.issue(&node.parse().unwrap(), KeyKind::P256, life, now).unwrap();
        NodeCertificate { chain: issued.certificate.to_pem().into(), key: issued.key_pem() }
    }

    pub(super) fn bundle(&self, file: &Path) {
        files::write(file, self.0.bundle().unwrap().to_pem().as_bytes(), IfExists::Replace)
            .unwrap();
    }

    /// Writes a node's files as `adit pki issue` does.
    pub(super) fn issue(&self, node: &str, folder: &Path) {
        let node: NodeName = node.parse().unwrap();
        let issued = self.0.issue(&node, KeyKind::P256, HOUR_LIFETIME, now()).unwrap();
        files::make_folder(folder).unwrap();
        let write = |name, bytes: &[u8]| {
            files::write_key(&folder.join(name), bytes, IfExists::Replace).unwrap()
        };
        write(files::NODE_CHAIN, issued.certificate.to_pem().as_bytes());
        write(files::NODE_KEY, issued.key_pem().as_bytes());
        self.bundle(&folder.join(files::BUNDLE));
    }
}
