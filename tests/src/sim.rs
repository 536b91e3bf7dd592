//! A town in one process: two clusters of whole nodes, and the workloads on both sides.
//!
//! `edge` imports `agents/bank-bot` from `bank`. What runs is what ships: configuration text, its composition,
//! transport and data path. Simulated are the network between nodes ([`MemoryNetwork`], or turmoil's), the TCP of
//! workloads ([`Pipes`]) and the clock.
//!
//! * [`TownPlan`]: what the operators of both clusters wrote; [`whole`]: one node;
//! * [`party`]: a workload, which knows every byte that it must see; [`agent`]: one that serves.

pub mod agent;
pub mod party;
pub mod whole;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_transport::UdpNetwork;

use self::party::{BackendListener, Party};
use self::whole::Whole;
use crate::identity::TestNode;
use crate::net::memory::MemoryNetwork;
use crate::net::pipe::Pipes;
use crate::sites::{Site, eventually};

/// The workload that may use the import.
pub const SUPPORT: &str = "10.244.1.10:40000";
/// A workload that is known and may not use it.
pub const INTERN: &str = "10.244.1.66:40000";
/// Of another namespace; who may use the import where [`TownPlan::allow`] says so.
pub const VANDAL: &str = "10.244.1.77:40000";
/// Of whom nobody knows.
pub const NOBODY: &str = "10.244.1.99:40000";

/// The configuration that the operators wrote: the parts that tests differ in, as YAML.
#[derive(Debug, Clone)]
pub struct TownPlan {
    /// The time that a datagram between nodes takes.
    pub delay: Duration,
    /// The number of nodes of `edge`, and of `bank`.
    pub nodes: (u8, u8),
    /// The export's backends.
    pub backends: String,
    /// The workloads that may use it.
    pub allow: String,
    /// Further keys of the export.
    pub export: String,
    /// `limits` of both.
    pub limits: String,
    /// True if `edge` can dial `bank`. Otherwise `bank` dials, and announces nothing that can be dialled.
    pub dials: bool,
}

impl Default for TownPlan {
    /// A node each, a service with one backend, and support-bot may use it.
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            nodes: (1, 1),
            backends: "[{address: 10.244.2.1:8080, node: b1}]".to_owned(),
            allow: "[{cluster: edge, namespace: agents, serviceAccount: support-bot}]".to_owned(),
            export: String::new(),
            limits: "{}".to_owned(),
            dials: true,
        }
    }
}

impl TownPlan {
    /// Two nodes of `bank`, with a backend each.
    #[must_use]
    pub fn two_backends() -> Self {
        let backends =
            "[{address: 10.244.2.1:8080, node: b1}, {address: 10.244.2.2:8080, node: b2}]";
        Self { nodes: (1, 2), backends: backends.to_owned(), ..Self::default() }
    }

    /// The file of `edge`'s `n`-th node.
    #[must_use]
    pub fn edge(&self, n: u8) -> String {
        let banks = if self.dials { self.nodes.1 } else { 0 };
        let seeds: Vec<_> = (1..=banks).map(|n| format!("\"10.0.2.{n}:7843\"")).collect();
        format!(
            r#"{}
links: [{{cluster: bank, trustDomain: bank.example, trustBundle: bank.pem, addresses: [{}]}}]
imports:
  - {{service: agents/bank-bot, from: bank, ports: [{{name: http, port: 8080, listen: "{}"}}]}}
workloads:
  - {{address: 10.244.1.10, namespace: agents, serviceAccount: support-bot}}
  - {{address: 10.244.1.66, namespace: agents, serviceAccount: intern-bot}}
  - {{address: 10.244.1.77, namespace: vandals, serviceAccount: support-bot}}
"#,
            self.head("edge", 1, n, self.nodes.0),
            seeds.join(", "),
            import(n)
        )
    }

    /// The file of `bank`'s `n`-th node.
    #[must_use]
    pub fn bank(&self, n: u8) -> String {
        format!(
            r#"{}
links: [{{cluster: edge, trustDomain: edge.example, trustBundle: edge.pem, addresses: [{}]}}]
exports:
  - service: agents/bank-bot
    ports: [{{name: http, port: 8080, backends: {}}}]
    allow: {}
    {}
"#,
            self.head("bank", 2, n, self.nodes.1),
            if self.dials { "" } else { "\"10.0.1.1:7843\"" },
            self.backends,
            self.allow,
            self.export
        )
    }

    fn head(&self, cluster: &str, nth: u8, n: u8, nodes: u8) -> String {
        let name = |n: u8| format!("{}{n}", &cluster[..1]);
        let at = |n: u8| format!("\"10.0.{nth}.{n}:7843\"");
        let sibling = |s: u8| format!("{{name: {}, addresses: [{}]}}", name(s), at(s));
        let siblings: Vec<_> = (1..=nodes).filter(|s| *s != n).map(sibling).collect();
        format!(
            "cluster: {cluster}\ntrustDomain: {cluster}.example\nnode: {{name: {}, listen: {}, advertise: [{}], identity: /none}}\nsiblings: [{}]\nlimits: {}",
            name(n),
            at(n),
            // A loopback address means another machine there than here, and is not dialled.
            if self.dials || nth == 1 { at(n) } else { "\"127.0.0.1:7843\"".to_owned() },
            siblings.join(", "),
            self.limits
        )
    }
}

/// Where workloads find the import at the `n`-th node of `edge`.
#[must_use]
pub fn import(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 96, 1, n], 80))
}

/// Where the backend at the `n`-th node of `bank` is.
#[must_use]
pub fn backend(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 244, 2, n], 8080))
}

/// Both clusters' certificates; they believe each other.
#[derive(Debug)]
pub struct Sites {
    /// The importing cluster.
    pub edge: Site,
    /// The exporting one.
    pub bank: Site,
}

impl Sites {
    /// For this plan.
    #[must_use]
    pub fn new(plan: &TownPlan) -> Self {
        let (edge, bank) = plan.nodes;
        Self { edge: Site::new("edge", 1, edge), bank: Site::new("bank", 2, bank) }
    }

    /// The identity of `edge`'s `n`-th node.
    #[must_use]
    pub fn of_edge(&self, n: u8) -> TestNode {
        self.edge.authority.node(self.edge.node(n).as_str(), &[&self.bank.authority])
    }

    /// The identity of `bank`'s `n`-th node.
    #[must_use]
    pub fn of_bank(&self, n: u8) -> TestNode {
        self.bank.authority.node(self.bank.node(n).as_str(), &[&self.edge.authority])
    }
}

/// Both clusters, on a network in memory and a paused clock.
#[derive(Debug)]
pub struct Town {
    /// The network between nodes.
    pub network: MemoryNetwork,
    /// The connections between workloads and nodes.
    pub pods: Pipes,
    /// The identities of the nodes.
    pub sites: Sites,
    /// The nodes of `edge`.
    pub edge: Vec<Whole>,
    /// The nodes of `bank`.
    pub bank: Vec<Whole>,
    off: Arc<Mutex<Off>>,
}

/// Hosts from which nothing comes, and those to which nothing goes either.
#[derive(Debug, Default)]
struct Off {
    mute: Vec<IpAddr>,
    cut: Vec<IpAddr>,
}

impl Town {
    /// Starts all nodes, and waits until every import is ready.
    ///
    /// # Panics
    /// Where that takes more than ten seconds.
    pub async fn start(plan: &TownPlan) -> Self {
        let town = Self::begin(plan);
        let backends = town.all_backends(plan);
        let known = |e: &Whole| e.snapshot.borrow().views.contains_key(&town.sites.bank.name);
        eventually("all are known", Duration::from_secs(10), || town.edge.iter().all(known)).await;
        // With both hubs: from here on a stream finds a warm link.
        let of = &town.sites.bank.name;
        let hubs = usize::from(plan.nodes.1.min(2));
        let warm = |e: &Whole| e.node.links.connected(of).len() >= hubs;
        let all_warm = || town.edge.iter().all(warm);
        eventually("all are connected", Duration::from_secs(10), all_warm).await;
        // All backends answer until each node has probed its own: what a test does with them comes after.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        drop(backends);
        town
    }

    /// All backends of the plan, listening.
    fn all_backends(&self, plan: &TownPlan) -> Vec<BackendListener> {
        let words = plan.backends.split(|c: char| !matches!(c, '0'..='9' | '.' | ':'));
        let addresses = words.filter_map(|word| word.trim_start_matches(':').parse().ok());
        addresses.map(|at| BackendListener::listen(&self.pods, at)).collect()
    }

    /// Starts all nodes, and waits for nothing.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn begin(plan: &TownPlan) -> Self {
        let (network, pods, sites) =
            (MemoryNetwork::new(plan.delay), Pipes::default(), Sites::new(plan));
        let off = Arc::<Mutex<Off>>::default();
        let now = Arc::clone(&off);
        network.set_filter(move |(_, from, to, _), _| {
            let Off { mute, cut } = &*now.lock().unwrap();
            let (from, to) = (from.ip(), to.ip());
            !mute.contains(&from) && !cut.contains(&from) && !cut.contains(&to)
        });
        let host = |site: &Site, n: u8| -> Arc<dyn UdpNetwork> { network.host(site.ip(n)) };
        let start = |net, node: TestNode, config: String, n: u8| {
            Whole::start(net, &pods, &node, &config, n, u64::from(n))
        };
        let (edges, banks) = plan.nodes;
        let bank: Vec<_> = (1..=banks)
            .map(|n| start(host(&sites.bank, n), sites.of_bank(n), plan.bank(n), n))
            .collect();
        let edge: Vec<_> = (1..=edges)
            .map(|n| start(host(&sites.edge, n), sites.of_edge(n), plan.edge(n), n))
            .collect();
        Self { network, pods, sites, edge, bank, off }
    }

    /// Nothing reaches these hosts or comes from them.
    ///
    /// # Panics
    /// Never in practice.
    pub fn cut(&self, hosts: &[IpAddr]) {
        self.off.lock().unwrap().cut = hosts.to_vec();
    }

    /// Nothing comes from these hosts, but they hear what is sent to them.
    ///
    /// # Panics
    /// Never in practice.
    pub fn mute(&self, hosts: &[IpAddr]) {
        self.off.lock().unwrap().mute = hosts.to_vec();
    }

    /// The backend at the `n`-th node of `bank` begins to listen.
    ///
    /// # Panics
    /// Where it listens already.
    #[must_use]
    pub fn backend(&self, n: u8) -> BackendListener {
        BackendListener::listen(&self.pods, backend(n))
    }

    /// Connects to the import at e1.
    ///
    /// # Panics
    /// Where nobody listens there.
    pub async fn connect(&self, from: &str) -> Party {
        Party::connect(&self.pods, from, import(1)).await
    }

    /// A connection from support-bot, and its other end at the backend: both ends of what the town carries.
    ///
    /// # Panics
    /// Where it does not get there within ten seconds.
    pub async fn through(&self, backend: &BackendListener) -> (Party, Party) {
        let client = self.connect(SUPPORT).await;
        let arrives = tokio::time::timeout(Duration::from_secs(10), backend.accept());
        (client, arrives.await.expect("a connection at the backend"))
    }
}
