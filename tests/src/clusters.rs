//! Two clusters of two nodes each, in network namespaces, with the real binary.
//!
//! `edge` imports agents/fraud-bot from `bank`, where its only pod is behind b1. Pods reach a node-local
//! address as they would behind kube-proxy; nodes reach each other over a bridge.

use crate::daemon::{Daemon, issue, make_authority};
use crate::lab::{LabHost, bridge};

/// Where pods of `edge` find the import.
pub const IMPORT: &str = "198.18.0.7:15080";
/// Where the service's pod listens.
pub const BACKEND: &str = "10.244.2.9:8080";

/// Where each node serves metrics, on its own host.
pub const METRICS: &str = "127.0.0.1:9902";

/// Both clusters and their pods.
#[derive(Debug)]
pub struct Clusters {
    /// Certificates, configurations, logs and admin sockets.
    pub root: tempfile::TempDir,
    /// The nodes' hosts.
    pub edge1: LabHost,
    /// b1's host.
    pub bank1: LabHost,
    /// b2's host.
    pub bank2: LabHost,
    /// A pod that may use the import.
    pub support: LabHost,
    /// A pod that is known and may not.
    pub stranger: LabHost,
    /// The service's pod; what listens there is the test's.
    pub fraud: LabHost,
    /// The nodes.
    pub e1: Daemon,
    /// The node that runs the service's pod.
    pub b1: Daemon,
    /// The other node of `bank`.
    pub b2: Daemon,
    /// The other node of `edge`.
    pub e2: Daemon,
}

fn edge(node: &str, sibling: &str, address: &str, other: &str) -> String {
    format!(
        r#"
cluster: edge
trustDomain: edge.test
node: {{name: {node}, listen: "0.0.0.0:7843", advertise: ["{address}:7843"], identity: ROOT/{node}}}
siblings: [{{name: {sibling}, addresses: ["{other}:7843"]}}]
links:
  - {{cluster: bank, trustDomain: bank.test, trustBundle: ROOT/bank.pem, addresses: ["172.18.2.2:7843", "172.18.2.3:7843"]}}
imports:
  - {{service: agents/fraud-bot, from: bank, ports: [{{name: http, port: 8080, listen: "{IMPORT}"}}]}}
workloads:
  - {{address: 10.244.1.10, namespace: agents, serviceAccount: support-bot}}
  - {{address: 10.244.1.66, namespace: agents, serviceAccount: intern-bot}}
admin: {{socket: ROOT/{node}.sock}}
metrics: {{listen: "{METRICS}"}}
log: {{format: json}}
"#
    )
}

fn bank(node: &str, sibling: &str, address: &str, other: &str) -> String {
    format!(
        r#"
cluster: bank
trustDomain: bank.test
node: {{name: {node}, listen: "0.0.0.0:7843", advertise: ["{address}:7843"], identity: ROOT/{node}}}
siblings: [{{name: {sibling}, addresses: ["{other}:7843"]}}]
links:
  - {{cluster: edge, trustDomain: edge.test, trustBundle: ROOT/edge.pem, addresses: ["172.18.1.2:7843"]}}
exports:
  - service: agents/fraud-bot
    ports: [{{name: http, port: 8080, backends: [{{address: "{BACKEND}", node: b1}}]}}]
    allow: [{{cluster: edge, namespace: agents, serviceAccount: support-bot}}]
admin: {{socket: ROOT/{node}.sock}}
metrics: {{listen: "{METRICS}"}}
log: {{format: json}}
"#
    )
}

impl Clusters {
    /// Starts everything, and waits until the import is ready. `serve` makes the backend answer, on the host that it is
    /// given, before there is a node that might find it silent.
    ///
    /// # Panics
    /// Where it does not become ready.
    #[must_use]
    pub fn start<T>(serve: impl FnOnce(&LabHost) -> T) -> (Self, T) {
        let root = tempfile::tempdir().unwrap();
        bridge("lan");
        let host = |name: &str, address: &str| {
            let host = LabHost::new(name);
            host.plug("lan", &format!("{address}/16"));
            host
        };
        let [edge1, edge2] = [host("edge1", "172.18.1.2"), host("edge2", "172.18.1.3")];
        let [bank1, bank2] = [host("bank1", "172.18.2.2"), host("bank2", "172.18.2.3")];
        for node in [&edge1, &edge2] {
            node.ip(&["route", "add", "local", "198.18.0.0/15", "dev", "lo"]);
        }
        let support = edge1.pod("support", "10.244.1.10");
        let stranger = edge1.pod("stranger", "10.244.1.66");
        let fraud = bank1.pod("fraud", "10.244.2.9");
        // Any node of a cluster reaches its pods.
        bank1.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
        bank2.ip(&["route", "add", "10.244.2.9/32", "via", "172.18.2.2"]);
        let served = serve(&fraud);
        make_authority(root.path(), "edge");
        make_authority(root.path(), "bank");
        let start = |host: &LabHost, cluster: &str, node: &str, config: String| {
            issue(root.path(), cluster, node);
            Daemon::start(Some(host), root.path(), node, &config)
        };
        let b1 = start(&bank1, "bank", "b1", bank("b1", "b2", "172.18.2.2", "172.18.2.3"));
        let b2 = start(&bank2, "bank", "b2", bank("b2", "b1", "172.18.2.3", "172.18.2.2"));
        let e1 = start(&edge1, "edge", "e1", edge("e1", "e2", "172.18.1.2", "172.18.1.3"));
        let e2 = start(&edge2, "edge", "e2", edge("e2", "e1", "172.18.1.3", "172.18.1.2"));
        e1.wait_for("the import is ready", |s| s["imports"][0]["ports"][0]["ready"] == true);
        (Self { root, edge1, bank1, bank2, support, stranger, fraud, e1, b1, b2, e2 }, served)
    }
}
