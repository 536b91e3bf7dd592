//! The services that can be used across clusters: imports and exports, as a snapshot has them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::grant::{Grant, WorkloadPattern};
use crate::name::{AppProtocol, ClusterName, NameError, NodeName, PortName, ServiceName};

/// A service of another cluster that can be used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The service, named as in the exporting cluster.
    pub service: ServiceName,
    /// The exporting cluster.
    pub from: ClusterName,
    /// Its ports.
    pub ports: Vec<ImportPort>,
    /// Which local workloads may use it.
    pub allow: Vec<WorkloadPattern>,
    /// The Service that takes the import's place in this cluster, in words: whoever asks for the name is not
    /// led here.
    pub displaced_by: Option<String>,
}

/// A port of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportPort {
    /// Its name in the exporting cluster.
    pub name: PortName,
    /// Its number there; informative.
    pub number: u16,
    /// The local addresses that stand for it. The local address of an accepted connection tells which import
    /// and port is meant, so no two ports of any import share one.
    pub listen: Vec<SocketAddr>,
}

/// All imports, found by service or by the local address of an accepted connection. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Imports(Arc<ImportTables>);

#[derive(Debug, PartialEq, Eq, Default)]
struct ImportTables {
    by_service: BTreeMap<ServiceName, Arc<Import>>,
    by_address: HashMap<SocketAddr, (Arc<Import>, usize)>,
}

impl Imports {
    /// The import of a service.
    #[must_use]
    pub fn get(&self, service: &ServiceName) -> Option<&Arc<Import>> {
        self.0.by_service.get(service)
    }

    /// The import and port that a local address stands for.
    #[must_use]
    pub fn at(&self, local: SocketAddr) -> Option<(&Arc<Import>, &ImportPort)> {
        let (import, port) = self.0.by_address.get(&local)?;
        Some((import, &import.ports[*port]))
    }

    /// All imports, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Import>> {
        self.0.by_service.values()
    }

    /// True if both are one and the same value: never true of two that differ.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// All local addresses that stand for a port.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.by_address.keys().copied()
    }
}

impl FromIterator<Import> for Imports {
    fn from_iter<I: IntoIterator<Item = Import>>(imports: I) -> Self {
        let mut all = ImportTables::default();
        for import in imports.into_iter().map(Arc::new) {
            for (n, port) in import.ports.iter().enumerate() {
                for address in &port.listen {
                    all.by_address.insert(*address, (import.clone(), n));
                }
            }
            all.by_service.insert(import.service.clone(), import);
        }
        Self(Arc::new(all))
    }
}

/// A service of this cluster that others may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The service.
    pub service: ServiceName,
    /// Its ports.
    pub ports: Vec<ExportPort>,
    /// The workloads that may use it.
    pub allow: Vec<Grant>,
    /// Says whether a stream may enter at a node that has no backend of its own.
    pub hop: Hop,
    /// The class of connections that its streams take.
    pub class: Class,
    /// True if a stream whose outcome is unknown may be sent again: the service is idempotent.
    pub replay: bool,
    /// The interval at which backends are probed by a TCP connect while they are ready; `None` by default. A
    /// backend that is down is dialled again in any case.
    pub probe: Option<Duration>,
    /// Bounds within which streams wait while no backend answers; `None` if they are refused at once.
    pub hold: Option<HoldLimits>,
}

/// Bounds within which streams wait for the first backend of an export. Only an export that a stream may
/// enter at any node has them: it may be another node's backend that comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldLimits {
    /// The longest wait of a stream, from its arrival; [`HoldLimits::MAX_TIMEOUT`] at most.
    pub timeout: Duration,
    /// The most streams of one cluster that wait on one node, [`HoldLimits::MAX_STREAMS`] at most.
    pub streams: u32,
}

impl HoldLimits {
    /// The longest wait that anybody may configure or announce.
    pub const MAX_TIMEOUT: Duration = Duration::from_secs(300);
    /// The most streams that anybody may configure.
    pub const MAX_STREAMS: u32 = 1000;
}

impl Default for HoldLimits {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(60), streams: 100 }
    }
}

impl Export {
    /// The port of that name.
    #[must_use]
    pub fn port(&self, name: &PortName) -> Option<&ExportPort> {
        self.ports.iter().find(|p| p.name == *name)
    }
}

/// A port of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportPort {
    /// Its name; empty for the one port of a Service that names none.
    pub name: PortName,
    /// The Service's port number.
    pub number: u16,
    /// The Service's `appProtocol`.
    pub app_protocol: Option<AppProtocol>,
    /// The addresses that can be dialled for it.
    pub backends: Vec<Backend>,
    /// True if its Service has ready endpoints that do not count, because they are no pods of the Service's
    /// own namespace and no administrator named the export.
    pub has_foreign: bool,
}

/// An address to dial for an export.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// The address on which it listens.
    pub address: SocketAddr,
    /// The node that it runs on.
    pub node: NodeName,
    /// True if the operator wrote this very address into the configuration. Only then may it be one of
    /// [`Snapshot::forbidden`](super::Snapshot::forbidden) or a loopback address.
    pub explicit: bool,
}

/// The nodes of the exporting cluster at which a stream may enter.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum Hop {
    /// At any connected node; the way from there to the backend's node is the cluster's own network.
    #[default]
    Any,
    /// Only at the node that runs the backend.
    SameNode,
}

/// The kind of traffic that an export carries. Each class has connections of its own.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Requests, answers, events: small windows, so that nothing waits behind a queue.
    #[default]
    Interactive,
    /// Large transfers: large windows, on connections of their own.
    Bulk,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 2] = [Self::Interactive, Self::Bulk];

    /// The word for it in configuration, status and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Class {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        let found = Self::ALL.into_iter().find(|class| class.name() == s);
        found.ok_or_else(|| NameError::new("class", s, "`interactive` or `bulk`"))
    }
}
