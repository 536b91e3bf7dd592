//! The part of the status document about what is imported and exported.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Reason;

/// A service of another cluster that can be used here.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Import {
    /// `NAMESPACE/NAME`, as in the exporting cluster.
    pub service: String,
    /// The exporting cluster.
    pub from: String,
    /// Local workloads that may use it, as `NAMESPACE/ACCOUNT` patterns.
    pub allow: Vec<String>,
    /// Its ports.
    pub ports: Vec<ImportPort>,
}

/// A port of an import.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImportPort {
    /// Its name in the exporting cluster; may be empty.
    pub name: String,
    /// Its number there.
    pub port: u16,
    /// Local addresses that stand for it.
    pub listen: Vec<String>,
    /// True if a connection made now would be carried.
    pub ready: bool,
    /// The first thing that is wrong, where it would not.
    pub reason: Option<Reason>,
    /// Ready backends, per node of the exporting cluster.
    pub backends: BTreeMap<String, u32>,
    /// Streams of this port since the process started.
    pub streams: StreamCounts,
}

/// A service of this cluster that others may use.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Export {
    /// `NAMESPACE/NAME`.
    pub service: String,
    /// Its ports.
    pub ports: Vec<ExportPort>,
    /// The sources that may use it.
    pub allow: Vec<Grant>,
    /// Where a stream may enter: `any` or `sameNode`.
    pub hop: String,
    /// Which lane its streams take: `interactive` or `bulk`.
    pub class: String,
    /// True if a stream whose outcome is unknown may be sent again.
    pub replay: bool,
    /// For how many seconds a stream waits while no backend answers; absent if it is refused at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_seconds: Option<u64>,
    /// Sources that use it now, most streams first, at most [`Export::MAX_USING`].
    pub using: Vec<ActiveSource>,
}

impl Export {
    /// The most sources that a document names.
    pub const MAX_USING: usize = 20;
}

/// A port of an export.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExportPort {
    /// Its name; may be empty.
    pub name: String,
    /// The Service's port number.
    pub port: u16,
    /// The Service's `appProtocol`.
    pub app_protocol: Option<String>,
    /// True if a stream that comes now would find a backend.
    pub ready: bool,
    /// The first thing that is wrong, where it would not.
    pub reason: Option<Reason>,
    /// The addresses that can be dialled for it.
    pub backends: Vec<Backend>,
    /// Streams of this port since the process started.
    pub streams: StreamCounts,
}

/// An address to dial for an export.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Backend {
    /// Where it listens.
    pub address: String,
    /// The node that it runs on.
    pub node: String,
    /// The state of the backend.
    pub state: BackendState,
    /// The result of the last dial; absent until one was made.
    pub last_dial: Option<Reason>,
}

/// The state of a backend, by this node's own dials and probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// Taken to answer: the last dial succeeded, or none was made yet.
    Up,
    /// The last dial failed; it is dialled again from time to time.
    Down,
    /// Its address may not be dialled.
    Forbidden,
    /// A newer daemon says something else.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A grant to use an export; `*` is any.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Grant {
    /// The source's cluster.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
    /// Its ServiceAccount.
    pub service_account: String,
}

/// A source that has streams open now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ActiveSource {
    /// `NAMESPACE/ACCOUNT@CLUSTER`.
    pub source: String,
    /// True if the peer only asserts the source: its cluster is proved, the workload within it is not.
    pub asserted: bool,
    /// Streams that it has open.
    pub streams: u64,
}

/// Streams of a port since the process started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamCounts {
    /// Open now.
    pub open: u64,
    /// All that there were, open, ended and refused ones.
    pub total: u64,
    /// Those that were refused: nothing of them was delivered.
    pub refused: u64,
    /// Of those, the ones since a stream was last taken.
    pub refused_in_a_row: u64,
    /// Those that broke later.
    pub failed: u64,
    /// Those that entered at another node than the backend's.
    pub hops: u64,
    /// Bytes from the opener of the connection to the service, of ended streams.
    pub bytes_out: u64,
    /// Bytes from the service to the opener, of ended streams.
    pub bytes_in: u64,
    /// Why the last one that was refused or broke did not finish.
    pub last_failure: Option<Reason>,
}
