//! A whole cluster's configuration, as the operator writes it into a ConfigMap.
//!
//! Where a node's file ([`crate::config`]) writes out addresses, backends and workloads, this says only what
//! no API server knows: who we are linked with, what is exported to whom, what may be imported, and whose
//! annotations count. Each key of the ConfigMap that ends in `.yaml` is a fragment of one document; lists of
//! all fragments are joined, and a key that is no list stands in one of them. Two owners (a GitOps
//! repository and `adit link`, say) thus keep their own keys and never meet. Keys are named in camelCase.

use std::collections::BTreeMap;

use adit_core::deny_list::DenyEntry;
use adit_core::name::{AppProtocol, ClusterName, NameError, Namespace, PortName, ServiceName};
use adit_core::policy::{Grant, WorkloadPattern};
use adit_core::snapshot::{Class, HoldLimits, Hop, Seed};
use adit_core::spiffe::{SpiffeError, TrustDomain};

use crate::config::{LimitsConfig, LogConfig};

pub use self::alias::{AliasPorts, ExportAlias};
pub use self::network::{NetworkConfig, NetworkMode};
pub use self::node::NodeFacts;
pub use self::read::{Fragment, parse, parse_fragment};
pub use self::report::ClusterReport;

mod alias;
mod network;
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
