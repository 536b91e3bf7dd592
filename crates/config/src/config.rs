//! The operator's file as values: every field read, checked and filled in with its default.
//!
//! The documentation of each field is the reference of the format (`example.yaml` beside this crate's
//! sources shows it as YAML). A key is its field's name in camelCase. How it is read:
//! `sections.rs`; limits have a file of their own, [`limits`].

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use adit_core::deny_list::DenyEntry;
use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::{Export, Import, Seed};
use adit_core::spiffe::{TrustDomain, Workload};

use crate::metrics_readers::MetricsReaders;

pub use self::limits::{LimitsConfig, MtuConfig};

pub mod limits;

/// The configuration of a node. Relative paths in the file begin at the folder that the file is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `cluster`, required: this cluster's name, as its peers call it. An RFC 1123 label.
    pub cluster: ClusterName,
    /// `trustDomain`, required: the SPIFFE trust domain of this cluster's own CA, without scheme. No
    /// other linked cluster has the same.
    pub trust_domain: TrustDomain,
    /// `node`, required: this node.
    pub node: NodeConfig,
    /// `siblings`, default none: the other nodes of this cluster by name, and where each can be dialled
    /// (IP addresses with a UDP port; may be empty where only they dial).
    pub siblings: BTreeMap<NodeName, Vec<SocketAddr>>,
    /// `links`, default none: the clusters that this one is linked with. Two of its nodes hold standing
    /// connections to each.
    pub links: Vec<LinkConfig>,
    /// `imports`, default none: services of linked clusters that can be used here. In an entry:
    ///
    /// * `service`, required: `NAMESPACE/NAME`, as in the exporting cluster. Imported once at most, and
    ///   not exported as well.
    /// * `from`, required: the cluster of a link.
    /// * `ports`, required: of each its `name` (as exported; may be left out where there is one port),
    ///   `port` (the Service's number, informative) and `listen`: one or more local TCP addresses that
    ///   stand for it. Neither wildcards nor port 0, since a connection's local address says which
    ///   import is meant.
    /// * `allow`, default all workloads of the import's own namespace: which local workloads may use it,
    ///   as `{namespace, serviceAccount}`; `"*"` is any.
    pub imports: Vec<Import>,
    /// `exports`, default none: services of this cluster that others may use. In an entry:
    ///
    /// * `service`, required: `NAMESPACE/NAME`.
    /// * `ports`, required: of each its `name` (may be left out where there is one port), `port` (the
    ///   Service's number), `appProtocol` (optional, such as `kgateway.dev/a2a`) and `backends`: TCP
    ///   addresses to dial, each as `IP:PORT` or as `{address, node}` where another node of this
    ///   cluster runs it (default: this one).
    /// * `allow`, default nobody: who may use it, as `{cluster, namespace, serviceAccount}`; `"*"` is any
    ///   namespace or ServiceAccount, a cluster is always named.
    /// * `hop`, default `any`: whether a stream may enter the cluster at a node other than the
    ///   backend's; `sameNode` forbids it.
    /// * `class`, default `interactive`: the class of its streams; `bulk` gets large windows on
    ///   connections of its own.
    /// * `replay`, default `false`: whether a stream of unknown outcome may be sent again. Only for
    ///   idempotent services: a payment would be posted twice.
    /// * `whenEmpty`, default `refuse`: whether streams that come while no backend answers are refused at once, or
    ///   wait for the first (`hold`, or `{hold: 60s, streams: 100}`): 1s to 5m each, and 1 to 1000 of one cluster on a
    ///   node at a time. Wants `hop: any`;
    /// * `probe.interval`, default no probe, 100ms to 1h: how often backends are probed by a TCP connect
    ///   while they are well. A shorter one finds a dead backend sooner and costs it connections.
    pub exports: Vec<Export>,
    /// `workloads`, default none: who opens connections here, by source address. In an entry `address`,
    /// `namespace` and `serviceAccount`, all required. A source that is not among them is refused.
    pub workloads: HashMap<IpAddr, Workload>,
    /// `denied`, default nobody: the peers that are refused, whatever a certificate proves. New connections are refused,
    /// those that are there are closed when the entry is read. An entry is plain text, or a map with the
    /// text under a key and a `reason` (one line, for the log and the status; peers are not told):
    ///
    /// * `clusters`: names (`cluster`). Such a link counts as none. Not this cluster's own.
    /// * `nodes`: `CLUSTER/NODE` (`node`), also of this cluster: its siblings refuse it.
    /// * `serials`: serial numbers of certificates (`serial`), in hexadecimal; with `cluster`, of that cluster only.
    ///   Whoever rests on such a certificate is refused: a node's own, an intermediate's or a CA's.
    /// * `keys`: the SHA-256 of a SubjectPublicKeyInfo (`key`), in hexadecimal; whoever rests on such a key.
    pub denied: Vec<DenyEntry>,
    /// `limits`: what the node spends on its peers, and how long it waits for them.
    pub limits: LimitsConfig,
    /// `admin`: where the admin server listens. It answers `adit status` and takes changes, so it is
    /// for this machine only.
    pub admin: AdminConfig,
    /// `metrics.listen`, default none: the TCP address of the read-only server for Prometheus and the
    /// kubelet (`/livez`, `/readyz`, `/metrics`). It shows names of peers and services to whoever
    /// reaches it.
    pub metrics: Option<SocketAddr>,
    /// No key of a file: on Kubernetes, who may read the metrics from outside the machine (`network.metricsFrom`).
    /// `None` is whoever reaches the server.
    pub metrics_access: Option<MetricsAccess>,
    /// `log`: what is logged, and how.
    pub log: LogConfig,
}

/// Access to the metrics of a node from outside its machine, and addresses beside [`Config::metrics`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsAccess {
    /// TCP addresses of the node at which the server listens as well.
    pub listen: Vec<SocketAddr>,
    /// Those who may read them from outside the machine.
    pub readers: MetricsReaders,
    /// The machine's own addresses: whoever speaks from there is not outside.
    pub own: Vec<IpAddr>,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// `name`, required: unique in the cluster, and the last part of the node's SPIFFE ID.
    pub name: NodeName,
    /// `listen`, required: one or more UDP addresses for QUIC. Port 0 takes a free port at each start,
    /// which suits a node that is never dialled.
    pub listen: Vec<SocketAddr>,
    /// `advertise`, default the addresses of `listen` that are neither wildcards nor port 0: where
    /// siblings and peers are told to dial this node; at most 16. Empty where the node has to see what
    /// it was bound to, or cannot be dialled.
    pub advertise: Vec<SocketAddr>,
    /// `identity`, required: the folder with `node.pem`, `node.key.pem`, `ca.pem` (the bundle of this
    /// node's own cluster) and `node.secret`, which the node makes at its first start.
    pub identity: PathBuf,
    /// `endpoints`, default the number of cores and 4 at most, 1 to 64: QUIC endpoints, each driven by
    /// its own core. Each costs 3 MB of receive buffers at an MTU of 1452, and 13 MB at 6500.
    pub endpoints: NonZeroUsize,
}

/// The standing relation with another cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// `cluster`, required: the other cluster's name. No two links share it.
    pub cluster: ClusterName,
    /// `trustDomain`, required: its SPIFFE trust domain. No two links share it.
    pub trust_domain: TrustDomain,
    /// `trustBundle`, required: the file with its CA certificates, PEM or SPIFFE JSON. Read again
    /// when it changes.
    pub trust_bundle: PathBuf,
    /// The copy of the last good bundle, for a start while `trust_bundle` is bad; `None` in a node's own
    /// file.
    pub last_bundle: Option<PathBuf>,
    /// `addresses`, default none: where to begin, any of its nodes. `IP:PORT` or `NAME:PORT`; a name is
    /// resolved again at each failure. Empty where only they dial us.
    pub addresses: Vec<Seed>,
}

/// The address of the admin server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminConfig {
    /// `admin.socket`, the default, `/run/adit/admin.sock`: a Unix socket; at most 107 bytes.
    Socket(PathBuf),
    /// `admin.listen`: a TCP address, loopback only. Every process of this machine can use it.
    Listen(SocketAddr),
}

impl AdminConfig {
    /// The path of the admin socket unless the file says otherwise.
    pub const DEFAULT_SOCKET: &str = "/run/adit/admin.sock";
    /// The longest path of a Unix socket, in bytes (`sun_path` without its final NUL).
    pub const MAX_SOCKET_PATH: usize = 107;
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self::Socket(Self::DEFAULT_SOCKET.into())
    }
}

/// The level and format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogConfig {
    /// `level`, default `info`. Finished and refused streams are logged at `info`.
    pub level: LogLevel,
    /// `format`, default `auto`.
    pub format: LogFormat,
}

/// The least important kind of line that is still logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum LogLevel {
    /// Failures that need somebody to act.
    Error,
    /// Also what may need somebody to act later.
    Warn,
    /// Also each link, finished stream and refused stream.
    #[default]
    Info,
    /// Also what a developer of Adit asks for. Several lines for each stream.
    Debug,
    /// Also more of that, in builds that contain it.
    Trace,
}

impl LogLevel {
    /// The word for it in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The form of a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LogFormat {
    /// `text` on a terminal, `json` elsewhere.
    #[default]
    Auto,
    /// Lines for people.
    Text,
    /// A JSON object a line.
    Json,
}

impl Config {
    /// The files in the identity folder that are read again when they change.
    pub const IDENTITY_FILES: [&str; 3] = ["node.pem", "node.key.pem", "ca.pem"];

    /// The files that this configuration refers to: identity and trust bundles.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let identity = Self::IDENTITY_FILES.iter().map(|name| self.node.identity.join(name));
        identity.chain(self.links.iter().map(|link| link.trust_bundle.clone()))
    }

    /// The link with a cluster.
    #[must_use]
    pub fn link(&self, cluster: &ClusterName) -> Option<&LinkConfig> {
        self.links.iter().find(|link| link.cluster == *cluster)
    }

    /// The folder at which relative paths in `file` begin.
    #[must_use]
    pub fn base(file: &Path) -> &Path {
        file.parent().unwrap_or_else(|| Path::new(""))
    }
}
