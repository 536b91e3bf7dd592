//! Where the demo plays: addresses, certificates, and the files that each cluster's operator would have.
//!
//! Everything lies in one temporary folder, which is removed at a clean end and kept after a failure.
//! The two clusters share nothing but what they hand to each other: their trust bundles. Authorities'
//! keys exist in memory only, and only while their nodes' certificates are made.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_core::spiffe::TrustDomain;
use adit_pki::authority::DEFAULT_CA_LIFETIME;
use adit_pki::files::{self as pki, IfExists};
use adit_pki::{ClusterAuthority, KeyKind, TrustBundle, UnixTime};
use anyhow::Context as _;
use tempfile::TempDir;

use crate::ports::{self, Reservation};

mod files;

/// `edge`'s addresses are 127.0.1.x and `bank`'s 127.0.2.x, as if they were two networks.
const fn edge(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 1, last))
}
const fn bank(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 2, last))
}

/// The caller with a grant.
pub(crate) const SUPPORT_BOT: IpAddr = edge(10);
/// The caller without one.
pub(crate) const REPORT_BOT: IpAddr = edge(66);
/// Whoever runs `curl` without further ado; it has a grant, too.
pub(crate) const VISITOR: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The agents of `bank`.
pub(crate) const FRAUD_BOT: IpAddr = bank(10);
pub(crate) const TRIAGE_BOT: IpAddr = bank(20);

/// The address of `edge`'s imports, one of its node's.
const IMPORTS: IpAddr = edge(1);

/// The nodes, in this order everywhere.
pub(crate) const NODES: [(&str, &str, IpAddr); 3] =
    [("b1", "bank", bank(1)), ("b2", "bank", bank(2)), ("e1", "edge", edge(1))];

/// The clusters.
pub(crate) const CLUSTERS: [&str; 2] = ["bank", "edge"];

/// The trust domain of a cluster.
pub(crate) fn trust_domain(cluster: &str) -> String {
    format!("{cluster}.trustusbank.example")
}

/// The validity of nodes' certificates: nothing renews them, and a demo may be left standing.
const NODE_CERT_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The folder that holds all files.
#[derive(Debug)]
pub(crate) struct DemoFolder {
    folder: TempDir,
    kept: bool,
}

/// The files and ports of a node.
#[derive(Debug)]
pub(crate) struct NodeSetup {
    pub(crate) name: &'static str,
    pub(crate) cluster: &'static str,
    pub(crate) config: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) udp: SocketAddr,
    pub(crate) metrics: SocketAddr,
    /// Its ports, until it is started.
    pub(crate) held: Vec<Reservation>,
}

/// An agent of `bank`, its pod's address there and its import's in `edge`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AgentService {
    pub(crate) name: &'static str,
    pub(crate) backend: SocketAddr,
    /// The node that the pod runs on.
    pub(crate) node: &'static str,
    pub(crate) import: SocketAddr,
}

impl DemoFolder {
    /// Makes the folder.
    ///
    /// # Errors
    ///
    /// If it cannot be made, or its path is so long that no Unix socket fits in.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let make = |parent: &Path| {
            tempfile::Builder::new()
                .prefix("adit-demo-")
                .tempdir_in(parent)
                .with_context(|| format!("cannot make a folder in {}", parent.display()))
        };
        let parent = std::env::temp_dir();
        // A socket's path has 107 bytes (`sun_path`); ours adds some thirty to the parent's.
        let folder =
            if parent.as_os_str().len() > 70 { make(Path::new("/tmp"))? } else { make(&parent)? };
        Ok(Self { folder, kept: false })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves the folder to whoever looks for the reason of a failure.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
        self.folder.disable_cleanup(true);
    }

    /// Makes the authorities, the nodes' certificates and the bundles that the clusters exchange.
    /// Returns each cluster's bundle.
    pub(crate) fn certificates(&self, now: UnixTime) -> anyhow::Result<Vec<TrustBundle>> {
        let authorities = CLUSTERS
            .map(|cluster| {
                let domain: TrustDomain = trust_domain(cluster).parse()?;
                Ok(ClusterAuthority::create(domain, KeyKind::default(), DEFAULT_CA_LIFETIME, now)?)
            })
            .into_iter()
            .collect::<anyhow::Result<Vec<_>>>()?;
        let bundles: Vec<TrustBundle> =
            authorities.iter().map(ClusterAuthority::bundle).collect::<Result<_, _>>()?;
        for (cluster, authority) in CLUSTERS.into_iter().zip(&authorities) {
            for (other, bundle) in CLUSTERS.into_iter().zip(&bundles).filter(|(o, _)| *o != cluster)
            {
                let folder = self.folder().join(cluster).join("bundles");
                pki::make_folder(&folder)?;
                let path = folder.join(format!("{other}.pem"));
                pki::write(&path, bundle.to_pem().as_bytes(), IfExists::Keep)?;
            }
            for (node, ..) in NODES.into_iter().filter(|(_, c, _)| *c == cluster) {
                let issued =
                    authority.issue(&node.parse()?, KeyKind::default(), NODE_CERT_LIFETIME, now)?;
                let (chain, key) = (issued.certificate.to_pem(), issued.key_pem());
                let identity = self.folder().join(cluster).join(node);
                pki::make_folder(&identity)?;
                let write =
                    |name, bytes: &[u8]| pki::write(&identity.join(name), bytes, IfExists::Keep);
                write(pki::NODE_CHAIN, chain.as_bytes())?;
                write(pki::BUNDLE, authority.bundle()?.to_pem().as_bytes())?;
                pki::write_key(&identity.join(pki::NODE_KEY), key.as_bytes(), IfExists::Keep)?;
            }
        }
        Ok(bundles)
    }

    /// Holds ports for the nodes and writes their configuration. Of `agents` each has its name, its
    /// pod's address and the node of `bank` that the pod runs on.
    pub(crate) fn configure(
        &self,
        agents: [(&'static str, SocketAddr, &'static str); 2],
    ) -> anyhow::Result<(Vec<NodeSetup>, Vec<AgentService>)> {
        let mut places = Vec::new();
        for (name, cluster, ip) in NODES {
            let none = |what| move || format!("no {what} port of {ip} can be held for {name}");
            let udp = ports::udp(ip).with_context(none("UDP"))?;
            let metrics = ports::tcp(ip).with_context(none("TCP"))?;
            let folder = self.folder().join(cluster);
            places.push(NodeSetup {
                name,
                cluster,
                config: folder.join(format!("{name}.yaml")),
                log: folder.join(format!("{name}.log")),
                socket: folder.join(name).join("admin.sock"),
                udp: udp.address,
                metrics: metrics.address,
                held: vec![udp, metrics],
            });
        }
        let mut services = Vec::new();
        for (name, backend, node) in agents {
            let import = ports::tcp(IMPORTS).context("no TCP port can be held for an import")?;
            services.push(AgentService { name, backend, node, import: import.address });
            if let Some(importer) = places.iter_mut().find(|p| p.cluster == "edge") {
                importer.held.push(import);
            }
        }
        for place in &places {
            let text = files::config(place, &places, &services);
            pki::write(&place.config, text.as_bytes(), IfExists::Keep)?;
        }
        Ok((places, services))
    }
}

impl Drop for DemoFolder {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.kept {
            self.keep();
        }
    }
}

/// The time by the system's clock.
pub(crate) fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime::since_unix_epoch(since.unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each operator's folder is all that its nodes need: `adit check` finds nothing to say.
    #[test]
    fn what_is_written_is_sound() {
        let stage = DemoFolder::new().unwrap();
        stage.certificates(now()).unwrap();
        let pod = |ip| SocketAddr::new(ip, 8080);
        let agents = [("fraud-bot", pod(FRAUD_BOT), "b1"), ("triage-bot", pod(TRIAGE_BOT), "b2")];
        let (places, services) = stage.configure(agents).unwrap();
        assert_eq!(places.iter().map(|p| p.held.len()).collect::<Vec<_>>(), [2, 2, 4]);
        for place in &places {
            let report = adit_config::check(&place.config);
            assert!(report.problems.is_empty(), "{report}");
            let (config, _) = adit_config::load(&place.config).unwrap();
            assert_eq!(config.node.advertise, [place.udp]);
            assert_eq!(
                config.admin,
                adit_config::config::AdminConfig::Socket(place.socket.clone())
            );
            assert_eq!(config.imports.len() + config.exports.len(), 2);
        }
        assert_ne!(services[0].import, services[1].import);
        let folder = stage.folder().to_owned();
        drop(stage);
        assert!(!folder.exists());
    }
}
