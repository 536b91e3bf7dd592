//! The status document: what `GET /v1/status` answers and `adit status` shows.
//!
//! Owned here, read by the command line, by tests and by people. Field names are part of the interface:
//! they are added to, never changed; a reader skips what it does not know and takes a default for what is
//! missing, so that a newer command reads an older daemon and the other way round.
//!
//! * [`links`], [`services`], [`refusals`]: the parts. [`problems`]: what is wrong, worst first. [`report`]: what of
//!   it the controller is told.
//! * [`testimony`]: what of it `adit doctor` decides by.
//! * [`build`]: from what the process knows to the document, as a pure function.

use std::collections::BTreeMap;

use adit_core::code::Code;
use adit_core::text::shorten;
use serde::{Deserialize, Serialize};

pub mod build;
pub mod duplicates;
pub mod links;
pub mod problems;
pub mod refusals;
pub mod report;
pub mod sample;
pub mod services;
pub mod testimony;

pub use links::{
    ConnectionReport, DialSummary, LastMisuse, Link, LinkHealth, MisuseReport, OmittedItems,
    PeerNode, StalledStreams, ViewSource,
};
pub use problems::{StatusProblem, StatusSeverity};
pub use refusals::{RefusedFlows, with_port};
pub use services::{
    ActiveSource, Backend, BackendState, Export, ExportPort, Grant, Import, ImportPort,
    StreamCounts,
};

/// The status document of a node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDocument {
    /// The node itself.
    pub node: NodeStatus,
    /// Problems, worst first; empty if all is well.
    pub problems: Vec<StatusProblem>,
    /// The other clusters.
    pub links: Vec<Link>,
    /// The other nodes of this cluster.
    pub siblings: Vec<PeerNode>,
    /// The deny list.
    pub denied: Vec<DenyEntryStatus>,
    /// Services of other clusters that can be used here.
    pub imports: Vec<Import>,
    /// Services of this cluster that others may use.
    pub exports: Vec<Export>,
    /// Connections that were refused in the last minute and whose source was not served since, at most
    /// [`RefusedFlows::MAX`] kinds of them.
    pub refused: Vec<RefusedFlows>,
    /// Connections that were refused besides, of kinds that have no entry.
    pub refused_others: u64,
    /// Ended streams since the process started, by code.
    pub streams: StreamSummary,
}

/// The node itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Its cluster.
    pub cluster: String,
    /// Its cluster's trust domain.
    pub trust_domain: String,
    /// Its name.
    pub node: String,
    /// Random per process: two boots of one node differ in it.
    pub boot_id: String,
    /// The version of the daemon.
    pub version: String,
    /// Its process ID.
    pub pid: u32,
    /// When the process started, RFC 3339 in UTC.
    pub started: String,
    /// For how long it has run.
    pub uptime_seconds: u64,
    /// True if the node may be sent work.
    pub ready: bool,
    /// Why it may not yet, oldest reason first.
    pub waiting_for: Vec<String>,
    /// True if the node is going away.
    pub draining: bool,
    /// Streams that older processes of this node still carry.
    pub older: OlderProcesses,
    /// Another living process that has its name, as its siblings see it.
    pub double: Option<String>,
    /// The fault of the folder of its state; absent if it can be written.
    pub folder_error: Option<String>,
    /// The certificate that it shows.
    pub certificate: CertificateStatus,
    /// The configuration that it runs on.
    pub configuration: ConfigurationStatus,
    /// The level of its log.
    pub log_level: String,
    /// UDP addresses on which it answers peers.
    pub listen: Vec<String>,
    /// Seconds since the controller of its cluster last asked for a report; absent until it has.
    pub controller_asked_seconds_ago: Option<u64>,
}

/// Processes that were taken over from and still finish streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OlderProcesses {
    /// The number of processes.
    pub processes: u64,
    /// Streams that they carry together.
    pub streams: u64,
}

/// The certificate that a node shows to its peers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CertificateStatus {
    /// Its SPIFFE ID.
    pub id: String,
    /// When it begins to be valid, RFC 3339 in UTC.
    pub not_before: String,
    /// When it ends, RFC 3339 in UTC.
    pub not_after: String,
    /// Seconds until the certificate is valid; 0 once it is.
    pub starts_in_seconds: u64,
    /// Seconds until the certificate ends; negative once it has.
    pub seconds_left: i64,
    /// The part of its lifetime that is left, 0 to 1.
    pub life_left: f64,
    /// Why the newest file was not taken; the certificate above is an older one then.
    pub error: Option<String>,
}

/// The configuration that a node runs on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigurationStatus {
    /// Its file.
    pub path: String,
    /// A digest of what was read.
    pub digest: String,
    /// When it was applied, RFC 3339 in UTC.
    pub loaded_at: String,
    /// Why the newest file was not taken; the configuration in use is the last good one then.
    pub error: Option<String>,
    /// Keys that the newest file changes and a reload cannot, e.g. `node.listen`: they wait for a restart.
    pub needs_restart: Vec<String>,
}

/// An entry of the deny list, and how often it has refused a peer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DenyEntryStatus {
    /// The entry, e.g. `denied.nodes: bank/b1`.
    pub entry: String,
    /// The operator's reason, if there is one.
    pub reason: Option<String>,
    /// Peers refused since the entry is in force: handshakes, and connections that were open.
    pub refused: u64,
    /// Whom it refused last.
    pub last: Option<String>,
    /// True if the entry names this node itself, which others refuse and it does not.
    pub this_node: bool,
}

/// Ended streams since the process started, by code.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamSummary {
    /// Open now.
    pub open: u64,
    /// Ended or refused, by code.
    pub by_code: BTreeMap<String, u64>,
}

/// Why something is as it is: a code of the closed list and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reason {
    /// A name of the closed list of codes.
    pub code: String,
    /// A sentence for people.
    pub sentence: String,
}

impl Reason {
    /// The longest sentence, in bytes: much of it may be a peer's.
    const MAX_SENTENCE_LEN: usize = 2048;

    /// A code with a sentence of its own, of which the first two KiB are kept.
    #[must_use]
    pub fn new(code: Code, sentence: impl Into<String>) -> Self {
        let mut sentence = sentence.into();
        if sentence.len() > Self::MAX_SENTENCE_LEN {
            sentence = shorten(&sentence, Self::MAX_SENTENCE_LEN).into_owned();
        }
        Self { code: code.to_string(), sentence }
    }
}

impl From<Code> for Reason {
    fn from(code: Code) -> Self {
        Self::new(code, code.text())
    }
}
