//! The facts from which [`super::diagnose`] decides, as plain values: whoever collects them asks API servers and nodes.
//!
//! All of it is text that somebody else wrote, so whoever shows it escapes it. A fact that could not be had is absent,
//! and absence is never taken for a fault. Documents of other versions are read: fields are added, never changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything that was seen of one import and one caller.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DoctorFacts {
    /// The Service, `NAMESPACE/NAME`.
    pub service: String,
    /// The exporting cluster, if anything says which.
    pub from: Option<String>,
    /// The importing cluster, as its API server shows it; absent without Kubernetes.
    pub here: Option<ImportSide>,
    /// The caller.
    pub caller: CallerFacts,
    /// The answer of the caller's node.
    pub node: CallerNode,
    /// The exporting cluster, as its API server shows it; absent unless its context was given.
    pub there: Option<ExportSide>,
    /// The agent's card, if it was asked for.
    pub card: Option<CardFacts>,
}

/// An installation of Adit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstallationFacts {
    /// The kubeconfig context by which it was asked.
    pub context: String,
    /// The cluster's name, if its configuration says one.
    pub cluster: Option<String>,
    /// The parts that are not there at all: the namespace, definitions of kinds, the DaemonSet.
    pub missing: Vec<String>,
    /// Errors of the ConfigMap, each with its place.
    pub configuration: Vec<String>,
    /// Why the controller does not do its work.
    pub controller: Option<String>,
    /// Nodes that have no certificate and do not get one, and why.
    pub certificates: Vec<String>,
    /// Pods of the DaemonSet, by the node that they run on: if they are ready.
    pub node_pods: BTreeMap<String, bool>,
    /// The reason that keeps pods of the DaemonSet from running, such as its nodeSelector.
    pub node_pods_away: Option<String>,
    /// The version that its nodes' image names, or its own word for it.
    pub version: Option<String>,
}

/// A condition of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConditionFacts {
    /// True if its status is `True`.
    pub is_true: bool,
    /// A word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// The importing cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImportSide {
    /// Adit there.
    pub installation: InstallationFacts,
    /// True if the Service's namespace is there.
    pub has_namespace: bool,
    /// The Service by whose name callers reach the import.
    pub service: Option<ServiceFacts>,
    /// Its EndpointSlices.
    pub slices: Vec<SliceFacts>,
    /// The object Import.
    pub import: Option<ImportObject>,
    /// Condition `Up` of the Link with the exporting cluster; absent if there is no such Link.
    pub link: Option<ConditionFacts>,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceFacts {
    /// Its type, `ClusterIP` for one that says none.
    pub kind: String,
    /// Its TCP ports.
    pub ports: Vec<PortFacts>,
    /// Its selector, as `kubectl -l` takes it; empty if it has none.
    pub selector: String,
    /// Pods that the selector finds, at most a few dozen.
    pub pods: Vec<PodFacts>,
    /// Workloads whose pods the selector would find, `KIND/NAME`, with the number of replicas they ask for.
    pub workloads: Vec<(String, u32)>,
    /// Others that lay claim to it: labels and objects of meshes and of other multi-cluster systems.
    pub meshes: Vec<String>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortFacts {
    /// Its name; may be empty.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// Where pods listen for it, as the Service says; empty if it does not say.
    pub target: String,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodFacts {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// The ServiceAccount that it runs as.
    pub service_account: String,
    /// The node that it runs on; empty while it waits for one.
    pub node: String,
    /// Its address.
    pub ip: Option<String>,
    /// True if it has the network of its node.
    pub host_network: bool,
    /// True if it is ready.
    pub ready: bool,
    /// Why it is not, as Kubernetes says.
    pub waiting: Option<String>,
    /// Ports that its containers declare.
    pub ports: Vec<PortFacts>,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceFacts {
    /// Its name.
    pub name: String,
    /// Its writer, by its label; empty if it names none.
    pub writer: String,
    /// True if Adit wrote it.
    pub is_ours: bool,
    /// Endpoints that are ready.
    pub ready: u32,
    /// Endpoints that are not.
    pub not_ready: u32,
    /// Addresses and ports of the first few endpoints, `IP:PORT`.
    pub addresses: Vec<String>,
}

/// The object Import.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImportObject {
    /// The exporting cluster.
    pub from: String,
    /// Local workloads that may use it, `NAMESPACE/ACCOUNT`; `*` is any.
    pub allow: Vec<String>,
    /// Its ports, with the port that nodes listen on as `target`.
    pub ports: Vec<PortFacts>,
    /// Condition `Ready`.
    pub ready: Option<ConditionFacts>,
}

/// The caller for whom is asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CallerFacts {
    /// The caller as it was asked for; empty if one was chosen.
    pub asked: String,
    /// Why there is none such, or none to choose.
    pub missing: Option<String>,
    /// Its namespace and ServiceAccount, `NAMESPACE/ACCOUNT`.
    pub account: Option<String>,
    /// The pod, if it is one.
    pub pod: Option<PodFacts>,
    /// The NetworkPolicy of its namespace that does not let it reach the import.
    pub kept_in_by: Option<String>,
    /// An Agent of kagent that names the import as a tool, and was made too early.
    pub early: Option<EarlyAgent>,
}

/// An Agent of kagent that was refused since the Agent that it names as a tool was not there. kagent does not look again when
/// that one appears, but when a label or the spec of the caller changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EarlyAgent {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// The reason that kagent gives.
    pub message: String,
    /// Its version as the API server has it, which becomes another with each change.
    pub version: String,
}

/// The answer of the caller's node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CallerNode {
    /// No node was asked.
    #[default]
    NotAsked,
    /// No daemon runs on that node.
    NoDaemon {
        /// The node.
        node: String,
    },
    /// The node could not be asked.
    Unreachable {
        /// The node's pod, or the admin socket.
        at: String,
        /// Why not.
        error: String,
    },
    /// The node answered.
    Answered(Box<DaemonFacts>),
}

/// The word of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonFacts {
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub node: String,
    /// The version of its daemon.
    pub version: String,
    /// Its clock when it was asked, in seconds since 1970.
    pub clock: u64,
    /// The clock of whoever asked, at the same time.
    pub asker_clock: u64,
    /// Why it is not ready, oldest reason first.
    pub waiting_for: Vec<String>,
    /// Why its newest configuration is not in force.
    pub configuration_error: Option<String>,
    /// Seconds until its certificate ends; negative once it has.
    pub certificate_seconds_left: i64,
    /// The import, if the node has it.
    pub import: Option<NodeImport>,
    /// The services that it imports, if it has not this one.
    pub imports: Vec<String>,
    /// The link with the exporting cluster, if the node has it.
    pub link: Option<NodeLink>,
    /// Callers of the import that were refused in the last minute, and not served since.
    pub refused: Vec<RefusedCaller>,
    /// The node's answer to the question itself.
    pub probe: Option<ProbeFacts>,
}

/// An import as a node has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeImport {
    /// The exporting cluster.
    pub from: String,
    /// Local workloads that may use it.
    pub allow: Vec<String>,
    /// Where it listens, `IP:PORT`.
    pub listen: Vec<String>,
    /// The first thing that is wrong with the port that is meant: a code and a sentence.
    pub reason: Option<(String, String)>,
}

/// A link as a node has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeLink {
    /// True if it can be used.
    pub is_up: bool,
    /// Why not: a code and a sentence.
    pub reason: Option<(String, String)>,
    /// The failure of the last dial of that cluster, while none has succeeded since.
    pub last_error: Option<String>,
    /// Why the last handshake failed that the other side began.
    pub failed_handshake: Option<String>,
    /// Nodes of that cluster with which there is a connection.
    pub connected: u32,
    /// The least MTU among its connections, in bytes of UDP payload; 0 without one.
    pub mtu: u16,
}

/// A caller that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RefusedCaller {
    /// The caller, `NAMESPACE/ACCOUNT`, if it is known.
    pub source: Option<String>,
    /// The code.
    pub code: String,
    /// A sentence.
    pub sentence: String,
    /// The number of connections.
    pub count: u64,
}

/// The step at which a probe ended, in the order in which a stream takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeStage {
    /// The import and its port are looked up.
    #[default]
    Resolve,
    /// The caller is looked up by its address.
    Identify,
    /// Grants are asked, this side's and what is known of the other's.
    Authorize,
    /// Nodes with a ready backend are picked.
    Pick,
    /// The stream is opened, and the other side does its part.
    Open,
    /// The answer is yes.
    Answered,
    /// A newer daemon says something else.
    #[serde(other)]
    Unknown,
}

/// The answer to a probe.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProbeFacts {
    /// The step at which it ended.
    pub stage: ProbeStage,
    /// A code of the closed list; `finished` if a connection would be carried.
    pub code: String,
    /// Why not.
    pub reason: String,
    /// The caller as the node knows it, `NAMESPACE/ACCOUNT`.
    pub source: Option<String>,
    /// The port that was meant, by name.
    pub port: Option<String>,
    /// The node that answered, or was asked last, `CLUSTER/NODE`.
    pub peer: Option<String>,
    /// The time that it took, in milliseconds.
    pub milliseconds: u64,
}

/// The exporting cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExportSide {
    /// Adit there.
    pub installation: InstallationFacts,
    /// The Service that it leads to, `NAMESPACE/NAME`, if it is exported under another name.
    pub backend: Option<String>,
    /// The Service.
    pub service: Option<ServiceFacts>,
    /// Its EndpointSlices.
    pub slices: Vec<SliceFacts>,
    /// The object Export.
    pub export: Option<ExportObject>,
    /// Condition `Up` of the Link with the importing cluster; absent if there is no such Link.
    pub link: Option<ConditionFacts>,
    /// NetworkPolicies that select the backends and do not name the nodes' addresses.
    pub ingress_policies: Vec<String>,
    /// The clock of one of its nodes, in seconds since 1970, and that of whoever asked.
    pub clock: Option<(u64, u64)>,
    /// Clusters from which it imports something.
    pub imports_from: Vec<String>,
}

/// The object Export.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExportObject {
    /// The workloads that may use it: the cluster, and `NAMESPACE/ACCOUNT` there.
    pub allow: Vec<(String, String)>,
    /// Its ports.
    pub ports: Vec<PortFacts>,
    /// Condition `Valid`.
    pub valid: Option<ConditionFacts>,
    /// Condition `Ready`.
    pub ready: Option<ConditionFacts>,
}

/// The card of an A2A agent, as its own cluster has it. Its texts are a stranger's, made safe to show and short.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CardFacts {
    /// Why there is none.
    pub error: Option<String>,
    /// True if something answered where the card should be, with a card or without.
    pub is_answered: bool,
    /// The time that the answer took, by way of the API server.
    pub milliseconds: u64,
    /// The agent's name.
    pub name: String,
    /// The description of the agent.
    pub description: String,
    /// The version of the agent.
    pub version: String,
    /// The names of its skills.
    pub skills: Vec<String>,
    /// The number of skills that are not named.
    pub more_skills: u64,
    /// The versions of the protocol that it says it speaks.
    pub protocol_versions: Vec<String>,
    /// True if the card carries a signature. Nobody has verified it.
    pub is_signed: bool,
    /// Every URL that it names as the agent's own.
    pub urls: Vec<String>,
    /// True if it promises push notifications.
    pub push_notifications: bool,
    /// The ports under which the agent is exported; empty if they are not known.
    pub ports: Vec<u16>,
    /// The application protocols of these ports.
    pub app_protocols: Vec<String>,
}
