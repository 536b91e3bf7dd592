//! Where attacks happen: a victim, an honest cluster and a hostile one, each on a host of its own.
//!
//! `bank` is the victim. `edge` is honest: its workloads use an export of bank's, and bank's use one of
//! edge's. `mallory` is linked with bank, is granted two exports that nobody else uses, and announces an
//! import that one workload of bank's may use. `street` is not linked at all.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::client::Enemy;
use super::footprint::Cage;
use super::load::{HonestLoad, agent};
use crate::daemon::{Daemon, issue, make_authority};
use crate::lab::{LabHost, bridge};

/// Where the victim listens.
pub const VICTIM: &str = "172.18.2.2:7843";
/// Where the victim tells its metrics.
pub const METRICS: &str = "127.0.0.1:9902";
/// The export that mallory is granted.
pub const GRANTED: &str = "agents/ledger-bot";
/// An export that mallory is granted and whose backend never answers a dial.
pub const HOLE: &str = "agents/hole-bot";
/// The service that mallory announces and bank imports.
pub const LURE: &str = "agents/lure-bot";
/// Where bank's workloads find [`LURE`].
pub const LURE_AT: &str = "198.18.0.9:15080";
/// Where edge's workloads find bank's export.
const FROM_EDGE: &str = "198.18.0.7:15080";
/// Where bank's workloads find edge's export.
const FROM_BANK: &str = "198.18.0.8:15080";
/// Short requests a second, each way.
const RATE: f64 = 50.0;

/// Everything that is there before an attack.
pub struct AttackStage {
    /// Certificates, configurations, logs and admin sockets.
    pub root: tempfile::TempDir,
    /// The victim's host.
    pub bank: LabHost,
    /// The hostile cluster's host, with seventeen addresses.
    pub mallory: LabHost,
    /// A stranger's host, which the victim has a route for 10.66.0.0/16 to.
    pub street: LabHost,
    /// A workload of bank's, which may use the honest import.
    pub teller: LabHost,
    /// The victim.
    pub victim: Daemon,
    support: LabHost,
    edge: LabHost,
    // Ends after the victim, and the group after it.
    neighbour: Daemon,
    /// The control group that bounds the victim's memory.
    pub cage: Option<Cage>,
}

const BANK: &str = r#"
cluster: bank
trustDomain: bank.test
node: {name: b1, listen: "0.0.0.0:7843", advertise: ["172.18.2.2:7843"], identity: ROOT/b1}
links:
  - {cluster: edge, trustDomain: edge.test, trustBundle: ROOT/edge.pem, addresses: ["172.18.1.2:7843"]}
  - {cluster: mallory, trustDomain: mallory.test, trustBundle: ROOT/mallory.pem, addresses: ["172.18.3.2:7843"]}
imports:
  - {service: agents/clerk-bot, from: edge, ports: [{name: http, port: 8080, listen: "198.18.0.8:15080"}]}
  - {service: agents/lure-bot, from: mallory, ports: [{name: http, port: 8080, listen: "198.18.0.9:15080"}]}
exports:
  - service: agents/fraud-bot
    ports: [{name: http, port: 8080, backends: [{address: "10.244.2.9:8080", node: b1}]}]
    allow: [{cluster: edge, namespace: agents, serviceAccount: support-bot}]
  - service: agents/ledger-bot
    ports: [{name: http, port: 8080, backends: [{address: "10.244.2.9:8081", node: b1}]}]
    allow: [{cluster: mallory, namespace: agents, serviceAccount: mole-bot}]
  - service: agents/hole-bot
    ports: [{name: http, port: 8080, backends: [{address: "10.244.2.200:8080", node: b1}]}]
    allow: [{cluster: mallory, namespace: agents, serviceAccount: mole-bot}]
workloads:
  - {address: 10.244.2.20, namespace: agents, serviceAccount: teller-bot}
admin: {socket: ROOT/b1.sock}
metrics: {listen: "127.0.0.1:9902"}
log: {format: json}
"#;

const EDGE: &str = r#"
cluster: edge
trustDomain: edge.test
node: {name: e1, listen: "0.0.0.0:7843", advertise: ["172.18.1.2:7843"], identity: ROOT/e1}
links:
  - {cluster: bank, trustDomain: bank.test, trustBundle: ROOT/bank.pem, addresses: ["172.18.2.2:7843"]}
imports:
  - {service: agents/fraud-bot, from: bank, ports: [{name: http, port: 8080, listen: "198.18.0.7:15080"}]}
exports:
  - service: agents/clerk-bot
    ports: [{name: http, port: 8080, backends: [{address: "10.244.1.9:8080", node: e1}]}]
    allow: [{cluster: bank, namespace: agents, serviceAccount: teller-bot}]
workloads:
  - {address: 10.244.1.10, namespace: agents, serviceAccount: support-bot}
admin: {socket: ROOT/e1.sock}
log: {format: json}
"#;

impl AttackStage {
    /// Starts everything, with at most so many MiB for the victim, and waits until both imports are ready.
    ///
    /// # Panics
    /// Where they do not become ready.
    #[must_use]
    pub fn start(memory: Option<u64>) -> Self {
        let root = tempfile::tempdir().unwrap();
        bridge("lan");
        let host = |name: &str, address: &str| {
            let host = LabHost::new(name);
            host.plug("lan", &format!("{address}/16"));
            host
        };
        let [bank, edge] = [host("bank", "172.18.2.2"), host("edge", "172.18.1.2")];
        let [mallory, street] = [host("mallory", "172.18.3.2"), host("street", "172.18.4.2")];
        for nth in 3..20 {
            mallory.ip(&["addr", "add", &format!("172.18.3.{nth}/16"), "dev", "eth0"]);
        }
        bank.ip(&["route", "add", "10.66.0.0/16", "via", "172.18.4.2"]);
        for node in [&bank, &edge] {
            node.ip(&["route", "add", "local", "198.18.0.0/15", "dev", "lo"]);
        }
        let [support, clerk] =
            [edge.pod("support", "10.244.1.10"), edge.pod("clerk", "10.244.1.9")];
        let [teller, fraud] = [bank.pod("teller", "10.244.2.20"), bank.pod("fraud", "10.244.2.9")];
        // A pod that takes packets and never answers.
        bank.ip(&["route", "add", "10.244.2.200/32", "dev", "v-fraud"]);
        bank.ip(&[
            "neigh",
            "add",
            "10.244.2.200",
            "lladdr",
            "02:00:00:00:00:01",
            "dev",
            "v-fraud",
            "nud",
            "permanent",
        ]);
        agent(&fraud, "10.244.2.9:8080");
        agent(&fraud, "10.244.2.9:8081");
        agent(&clerk, "10.244.1.9:8080");
        for cluster in ["bank", "edge", "mallory"] {
            make_authority(root.path(), cluster);
        }
        issue(root.path(), "bank", "b1");
        issue(root.path(), "edge", "e1");
        let cage = memory.and_then(cage);
        let victim = start(&bank, root.path(), "b1", BANK, cage.as_ref());
        let neighbour = start(&edge, root.path(), "e1", EDGE, None);
        let stage =
            Self { root, bank, mallory, street, teller, victim, support, edge, neighbour, cage };
        stage.wait_until_ready();
        stage
    }

    fn wait_until_ready(&self) {
        for node in [&self.victim, &self.neighbour] {
            node.wait_for("the import is ready", |s| s["imports"][0]["ports"][0]["ready"] == true);
        }
    }

    /// Starts the victim anew, whatever became of it.
    pub fn renew(&mut self) {
        self.victim.kill();
        self.victim = start(&self.bank, self.root.path(), "b1", BANK, self.cage.as_ref());
        self.wait_until_ready();
    }

    /// Honest traffic of the neighbour's workloads through the victim, and of the victim's own.
    #[must_use]
    pub fn loads(&self) -> [HonestLoad; 2] {
        let mut theirs = HonestLoad::begin(&self.support, FROM_EDGE, RATE);
        let target = VICTIM.parse().unwrap();
        let friend = Arc::new(Enemy::load(self.root.path(), "edge", "bank", target));
        theirs.and_handshakes(&self.edge, friend, Duration::from_millis(500));
        [theirs, HonestLoad::begin(&self.teller, FROM_BANK, RATE)]
    }
}

fn start(host: &LabHost, root: &Path, name: &str, config: &str, cage: Option<&Cage>) -> Daemon {
    let daemon = Daemon::start(Some(host), root, name, config);
    if let Some(cage) = cage {
        cage.hold(daemon.pid());
    }
    daemon
}

fn cage(mebibytes: u64) -> Option<Cage> {
    match Cage::new(mebibytes) {
        Ok(cage) => Some(cage),
        Err(why) => {
            crate::prerequisite::skip("memory limit of the victim", &why);
            None
        }
    }
}
