//! A whole cluster's configuration, as the operator writes it into a ConfigMap.
//!
//! Where a node's file ([`crate::config`]) writes out addresses, backends and workloads, this says only what
//! no API server knows: who we are linked with, what is exported to whom, what may be imported, and whose
//! annotations count. Each key of the ConfigMap that ends in `.yaml` is a fragment of one document; lists of
//! all fragments are joined, and a key that is no list stands in one of them. Two owners (a GitOps
//! repository and `adit link`, say) thus keep their own keys and never meet. Keys are named in camelCase.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use adit_core::deny_list::DenyEntry;
use adit_core::name::{AppProtocol, ClusterName, NameError, Namespace, PortName, ServiceName};
use adit_core::policy::{Grant, WorkloadPattern};
use adit_core::prefix::IpPrefix;
use adit_core::snapshot::{Class, HoldLimits, Hop, Seed};
use adit_core::spiffe::{SpiffeError, TrustDomain};

use crate::config::{LimitsConfig, LogConfig};

pub use self::alias::{AliasPorts, ExportAlias};
pub use self::node::NodeFacts;
pub use self::read::{Fragment, parse, parse_fragment};
pub use self::report::ClusterReport;

mod alias;
mod node;
mod read;
pub mod render;
mod report;

/// A ConfigMap's fragment with every key of the format, each commented.
pub const EXAMPLE: &str = include_str!("../cluster-example.yaml");

/// The configuration of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// `cluster`, required: this cluster's name, as its peers call it. An RFC 1123 label.
    pub cluster: ClusterName,
    /// `trustDomain`, default [`CLUSTER.adit.internal`](default_trust_domain): the SPIFFE trust domain of this cluster's own CA. It
    /// cannot be changed once the CA is made.
    pub trust_domain: TrustDomain,
    /// `links`, default none: the clusters that this one is linked with.
    pub links: Vec<ClusterLink>,
    /// `exports`, default none: Services of this cluster that others may use.
    pub exports: Vec<ExportRule>,
    /// `imports`, default none: Services of linked clusters that can be used here.
    pub imports: Vec<ImportRule>,
    /// `importCallers`, default none: who may use all imports of some namespaces.
    pub import_callers: Vec<NamespaceCallers>,
    /// `optIn`, default none: namespaces in which annotations count.
    pub opt_in: Vec<OptIn>,
    /// `denied`, default nobody: as in a node's file. The lists of all fragments are joined.
    pub denied: Vec<DenyEntry>,
    /// `network`: addresses and ports on the nodes.
    pub network: NetworkConfig,
    /// `limits`: as in a node's file, but that `unknownSourceHold` is 10 s by default.
    pub limits: LimitsConfig,
    /// `log`: as in a node's file.
    pub log: LogConfig,
}

/// The trust domain of a cluster whose configuration names none.
///
/// # Errors
/// None for any name there is: a label and our own suffix always make a trust domain.
pub fn default_trust_domain(cluster: &ClusterName) -> Result<TrustDomain, SpiffeError> {
    format!("{cluster}.adit.internal").parse()
}

impl ClusterConfig {
    /// The opt-ins that a namespace is among.
    pub fn opted_in(&self, namespace: &Namespace) -> impl Iterator<Item = &OptIn> {
        self.opt_in.iter().filter(|o| NamePattern::any_matches(&o.namespaces, namespace))
    }
}

/// The standing relation with another cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterLink {
    /// `cluster`, required: the other cluster's name.
    pub cluster: ClusterName,
    /// `trustDomain`, required: its SPIFFE trust domain.
    pub trust_domain: TrustDomain,
    /// `trustBundle`, required: its CA certificates themselves, PEM or SPIFFE JSON.
    pub trust_bundle: String,
    /// `addresses`, default none: where to begin; empty where only they can dial.
    pub addresses: Vec<Seed>,
    /// `import.namespaces`, default none: the namespaces that are open to it. There, what it exports to us is imported
    /// by itself into Services that cannot have pods of their own. Each is a name, or a pattern with `*`; namespaces
    /// of Kubernetes (`kube-*`) and our own are never matched by a pattern.
    pub import: Vec<NamePattern>,
    /// `import.createServices`, default `false`: whether such an import gets a Service where there is none.
    pub create_services: bool,
    /// `import.alsoAllow`, default none: workloads here that may use whatever is imported from it, beside those of each
    /// Service's own namespace; but for imports that say `allow` themselves. At most [`MAX_ALSO_ALLOW`]. The
    /// export has to grant them, too.
    ///
    /// [`MAX_ALSO_ALLOW`]: Self::MAX_ALSO_ALLOW
    pub also_allow: Vec<WorkloadPattern>,
}

impl ClusterLink {
    /// The most entries of `import.alsoAllow`: each import of the link repeats them.
    pub const MAX_ALSO_ALLOW: usize = 20;
}

/// Services that others may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRule {
    /// `service` (`NAMESPACE/NAME`) or `select` (`namespaces`, `labels`): which Services.
    pub services: ServiceSelection,
    /// `as`, default its own name: the name of `service` for other clusters, and its port numbers there.
    pub alias: Option<ExportAlias>,
    /// `makeAlias`, default `false`: whether this cluster, too, gets a Service of that name. It goes with the export.
    pub make_alias: bool,
    /// `allow`: who may use them, as in a node's file. Default nobody.
    pub allow: Vec<Grant>,
    /// `appProtocol`, default what the Service says: a value for all ports, or a map from port names.
    pub app_protocol: AppProtocols,
    /// `hop`, as in a node's file.
    pub hop: Hop,
    /// `class`, as in a node's file.
    pub class: Class,
    /// `replay`, as in a node's file.
    pub replay: bool,
    /// `probe.interval`, as in a node's file.
    pub probe: Option<std::time::Duration>,
    /// `whenEmpty`, as in a node's file; only of `service`.
    pub hold: Option<HoldLimits>,
}

impl ExportRule {
    /// The name for other clusters of the Service that the rule names; `None` if it selects Services.
    #[must_use]
    pub fn exported_name(&self) -> Option<&ServiceName> {
        match (&self.services, &self.alias) {
            (ServiceSelection::Named(_), Some(alias)) => Some(&alias.service),
            (ServiceSelection::Named(service), None) => Some(service),
            (ServiceSelection::Selected { .. }, _) => None,
        }
    }
}

/// The Services that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceSelection {
    /// The Service of this name.
    Named(ServiceName),
    /// All Services that have these labels, in namespaces that fit one of the patterns.
    Selected {
        /// `namespaces`, required, at least one.
        namespaces: Vec<NamePattern>,
        /// `labels`, required, at least one: all of them with exactly these values.
        labels: BTreeMap<String, String>,
    },
}

/// The protocols that ports speak, where the Service does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AppProtocols {
    /// The protocols that the Service says.
    #[default]
    Own,
    /// This protocol on all ports.
    All(AppProtocol),
    /// These protocols on these ports.
    Ports(BTreeMap<PortName, AppProtocol>),
}

/// A Service of a linked cluster that can be used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportRule {
    /// `service`, required: `NAMESPACE/NAME`, as in the exporting cluster. Imported once at most.
    pub service: ServiceName,
    /// `from`, required: the cluster of a link.
    pub from: ClusterName,
    /// `allow`: which local workloads may use it. Default: all of the import's own namespace.
    pub allow: Option<Vec<WorkloadPattern>>,
    /// `createService`, default `true`: whether it gets a Service where there is none.
    pub create_service: bool,
    /// `kagentAgent`, default none: the description of an Agent of kagent without pods that is made for it, where
    /// kagent is installed. Callers' models read it.
    pub agent: Option<String>,
}

impl ImportRule {
    /// The most characters of [`agent`](Self::agent).
    pub const MAX_DESCRIPTION: usize = 1024;
}

/// Workloads that may use all imports of some namespaces, beside those of the namespace itself; but for imports
/// that say `allow` themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceCallers {
    /// `namespaces`, required, at least one.
    pub namespaces: Vec<NamePattern>,
    /// `allow`, required; at most [`ClusterLink::MAX_ALSO_ALLOW`].
    pub allow: Vec<WorkloadPattern>,
}

/// Namespaces whose annotations (`adit.dev/…`) count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptIn {
    /// `namespaces`, required, at least one.
    pub namespaces: Vec<NamePattern>,
    /// `exportTo`, default none: the clusters to which their Services may be exported by annotation.
    pub export_to: Vec<ClusterName>,
    /// `importFrom`, default none: the clusters from which they may import by annotation.
    pub import_from: Vec<ClusterName>,
}

/// A namespace's name, or a pattern in which `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamePattern(String);

impl std::str::FromStr for NamePattern {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        // What is left of a pattern without its stars is part of a name.
        let plain = s.replace('*', "");
        let part = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let fits = if s.contains('*') {
            s.len() <= 63 && plain.bytes().all(part)
        } else {
            s.parse::<Namespace>().is_ok()
        };
        if fits {
            return Ok(Self(s.to_owned()));
        }
        Err(NameError {
            kind: "namespace or pattern",
            value: s.chars().take(300).collect(),
            rule: "1 to 63 of a-z, 0-9 and '-', and '*' for any of them",
        })
    }
}

impl std::fmt::Display for NamePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl NamePattern {
    /// True if `namespace` fits. A pattern with `*` never fits one of Kubernetes' own (`kube-*`) nor ours.
    #[must_use]
    pub fn matches(&self, namespace: &Namespace) -> bool {
        let name = namespace.as_str();
        if !self.0.contains('*') {
            return self.0 == name;
        }
        if name.starts_with("kube-") || name == "adit-system" {
            return false;
        }
        glob_matches(&self.0, name)
    }

    /// True if `namespace` fits one of `patterns`.
    #[must_use]
    pub fn any_matches(patterns: &[Self], namespace: &Namespace) -> bool {
        patterns.iter().any(|pattern| pattern.matches(namespace))
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// True if `name` is `pattern` with some text for each `*`.
fn glob_matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = left.find(piece) else { return false };
        left = &left[at + piece.len()..];
    }
    left.ends_with(last)
}

/// Addresses and ports on the nodes; the same on all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// `mode`, default `localRange`: what stands for an import on a node.
    pub mode: NetworkMode,
    /// `range`, default `198.18.0.0/15`: the node-local IPv4 range, /8 to /30.
    pub range: IpPrefix,
    /// `range6`, default `fd00:ad17::/64`: the node-local IPv6 range, /48 to /124.
    pub range6: IpPrefix,
    /// `port`, default 7843: the UDP port of QUIC on every node.
    pub port: u16,
    /// `listenerPort`, default 15080: the TCP port at which nodes take connections to an import's first
    /// port; its n-th port has the n-th after it. Below 30000 less 128, since NodePorts begin there.
    pub listener_port: u16,
    /// `metrics`, default `127.0.0.1:7844`: where each node serves `/livez`, `/readyz` and `/metrics`.
    pub metrics: SocketAddr,
}

impl NetworkConfig {
    /// Bounds of the length of [`range`](Self::range).
    pub const RANGE: RangeInclusive<u8> = 8..=30;
    /// Bounds of the length of [`range6`](Self::range6).
    pub const RANGE6: RangeInclusive<u8> = 48..=124;
    /// The number of ports that are ours from [`listener_port`](Self::listener_port) on: those of an import, and those
    /// that it had until its ports changed.
    pub const LISTENER_PORTS: u16 = 128;
    /// Bounds of [`listener_port`](Self::listener_port): none of them is a NodePort.
    pub const LISTENER_PORT: RangeInclusive<u16> = 1024..=30_000 - Self::LISTENER_PORTS;

    /// The keys in which `other` differs, as the ConfigMap names them.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let Self { mode, range, range6, port, listener_port, metrics } = self;
        let keys = [
            ("network.mode", *mode != other.mode),
            ("network.range", *range != other.range),
            ("network.range6", *range6 != other.range6),
            ("network.port", *port != other.port),
            ("network.listenerPort", *listener_port != other.listener_port),
            ("network.metrics", *metrics != other.metrics),
        ];
        keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }

    /// The keys that matter to more than one node, in one line for machines; [`from_line`](Self::from_line) reads it.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { mode, range, range6, port, listener_port, metrics: _ } = self;
        let mode = mode.name();
        let [v4, v6] = [range, range6].map(|range| format!("{} {}", range.first(), range.length()));
        format!("{mode} {v4} {v6} {port} {listener_port}")
    }

    /// Reads what [`line`](Self::line) gave; the rest is that of `self`.
    #[must_use]
    pub fn from_line(&self, line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let mut next = || words.next();
        let mode = next()?;
        Some(Self {
            mode: NetworkMode::ALL.into_iter().find(|known| known.name() == mode)?,
            range: IpPrefix::new(next()?.parse::<Ipv4Addr>().ok()?, next()?.parse().ok()?),
            range6: IpPrefix::new(next()?.parse::<Ipv6Addr>().ok()?, next()?.parse().ok()?),
            port: next()?.parse().ok()?,
            listener_port: next()?.parse().ok()?,
            metrics: self.metrics,
        })
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            mode: NetworkMode::default(),
            range: IpPrefix::new(Ipv4Addr::new(198, 18, 0, 0), 15),
            range6: IpPrefix::new(Ipv6Addr::new(0xfd00, 0xad17, 0, 0, 0, 0, 0, 0), 64),
            port: 7843,
            listener_port: 15_080,
            metrics: SocketAddr::from((Ipv4Addr::LOCALHOST, 7844)),
        }
    }
}

/// The kind of address that stands for an import on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkMode {
    /// `localRange`: an address of a range that is local to every node.
    #[default]
    LocalRange,
    /// `nodeAddress`: the addresses of the nodes themselves, with ports of our own for each import. For platforms
    /// on which a node-local range is not possible. A workload's source address may be lost on the way, and
    /// slices change with the nodes.
    NodeAddress,
}

impl NetworkMode {
    /// All modes.
    pub const ALL: [Self; 2] = [Self::LocalRange, Self::NodeAddress];

    /// The word for it in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LocalRange => "localRange",
            Self::NodeAddress => "nodeAddress",
        }
    }
}
