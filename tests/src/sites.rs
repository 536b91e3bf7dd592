//! Whole nodes with links, for tests: several clusters on one network, each node with its snapshot.
//!
//! A node here is what the daemon composes, without the data path: streams that peers open are echoed.
//! Addresses follow from the names: node `n` of the `c`-th cluster is 10.0.c.n.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_core::name::{ClusterName, NodeName, ServiceName};
use adit_core::policy::{Grant, WorkloadPattern};
use adit_core::snapshot::{
    Backend, Class, Export, ExportPort, Hop, Imports, Link, LocalNode, Seed, SiblingTable, Snapshot,
};
use adit_transport::links::{
    LinkContext, LinkSettings, Links, PeerStream, ReceivedView, ServeOutcome, ServeStream,
};
use adit_transport::peer::{BootId, PeerInfo};
use adit_transport::{Endpoints, Tuning, UdpNetwork, Worker};
use tokio::sync::watch;

use crate::identity::TestCluster;

/// The port at which every node listens.
pub const PORT: u16 = 7843;

/// A cluster of a test.
#[derive(Debug)]
pub struct Site {
    /// Its name, and in `NAME.example` its trust domain.
    pub name: ClusterName,
    /// Its authority.
    pub authority: TestCluster,
    nth: u8,
    nodes: u8,
}

/// The service of a node for streams that peers open: echoes them, and remembers from whom they came.
#[derive(Debug, Default)]
pub struct Echo(Mutex<Vec<Arc<PeerInfo>>>);

/// A node that runs.
#[derive(Debug)]
pub struct RunningNode {
    /// Its links.
    pub links: Links,
    /// The snapshot that it believes; publish another to change it.
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    /// Whom it served.
    pub echo: Arc<Echo>,
    /// Its endpoints.
    pub endpoints: Endpoints,
}

impl Site {
    /// The `nth` cluster of a test, with so many nodes: `e1`, `e2`, … for `edge`.
    ///
    /// # Panics
    /// Where the name is no cluster's.
    #[must_use]
    pub fn new(name: &str, nth: u8, nodes: u8) -> Self {
        let authority = TestCluster::new(&format!("{name}.example"));
        Self { name: name.parse().expect("a cluster's name"), authority, nth, nodes }
    }

    /// The name of its `n`-th node, from 1 on.
    ///
    /// # Panics
    /// Never in practice.
    #[must_use]
    pub fn node(&self, n: u8) -> NodeName {
        format!("{}{n}", &self.name.as_str()[..1]).parse().expect("a node's name")
    }

    /// Where its `n`-th node is.
    #[must_use]
    pub fn ip(&self, n: u8) -> IpAddr {
        IpAddr::from([10, 0, self.nth, n])
    }

    /// Where its `n`-th node listens.
    #[must_use]
    pub fn address(&self, n: u8) -> SocketAddr {
        SocketAddr::new(self.ip(n), PORT)
    }

    /// All its nodes, by name and address.
    pub fn members(&self) -> impl Iterator<Item = (NodeName, Vec<SocketAddr>)> {
        (1..=self.nodes).map(|n| (self.node(n), vec![self.address(n)]))
    }

    /// A link with this cluster, beginning at these of its nodes.
    #[must_use]
    pub fn link(&self, seeds: &[u8]) -> Link {
        Link {
            cluster: self.name.clone(),
            trust_domain: self.authority.trust_domain().clone(),
            seeds: seeds.iter().map(|n| Seed::Address(self.address(*n))).collect(),
        }
    }

    /// The snapshot that its `n`-th node believes: its siblings, these links, and one export of each of its nodes'
    /// backends that all of them may use.
    ///
    /// # Panics
    /// Never in practice.
    #[must_use]
    pub fn snapshot(&self, n: u8, links: &[Link]) -> Snapshot {
        let mut siblings: SiblingTable = self.members().collect();
        siblings.remove(&self.node(n));
        let anybody = WorkloadPattern {
            namespace: "*".parse().expect("a pattern"),
            service_account: "*".parse().expect("a pattern"),
        };
        let grant = |l: &Link| Grant { cluster: l.cluster.clone(), workloads: anybody.clone() };
        let backend = |n: u8| Backend {
            address: SocketAddr::from(([10, 244, self.nth, n], 8080)),
            node: self.node(n),
            explicit: false,
        };
        let port = ExportPort {
            name: "http".parse().expect("a port's name"),
            number: 8080,
            app_protocol: None,
            backends: (1..=self.nodes).map(backend).collect(),
            has_foreign: false,
        };
        let export = Export {
            service: self.service(),
            ports: vec![port],
            allow: links.iter().map(grant).collect(),
            hop: Hop::Any,
            class: Class::Interactive,
            replay: false,
            hold: None,
            probe: None,
        };
        Snapshot {
            local: LocalNode {
                cluster: self.name.clone(),
                trust_domain: self.authority.trust_domain().clone(),
                node: self.node(n),
                advertise: vec![self.address(n)],
            },
            siblings,
            links: links.iter().map(|l| (l.cluster.clone(), Arc::new(l.clone()))).collect(),
            imports: Imports::default(),
            exports: [(export.service.clone(), Arc::new(export))].into(),
            workloads: HashMap::new(),
            views: BTreeMap::new(),
            down: BTreeMap::new(),
            never_answered: BTreeSet::new(),
            forbidden: BTreeSet::new(),
        }
    }

    /// The service that it exports.
    ///
    /// # Panics
    /// Never in practice.
    #[must_use]
    pub fn service(&self) -> ServiceName {
        format!("agents/{}-bot", self.name).parse().expect("a service's name")
    }
}

/// Starts a node that believes `snapshot`, on the runtime of the caller. `boot` is its boot ID's last
/// byte.
///
/// # Panics
/// Where its address cannot be had.
#[must_use]
pub fn start(
    net: Arc<dyn UdpNetwork>,
    node: &crate::identity::TestNode,
    snapshot: Snapshot,
    boot: u8,
    settings: LinkSettings,
    tuning: Tuning,
) -> RunningNode {
    start_on(vec![Worker::current()], net, node, snapshot, boot, settings, tuning)
}

/// Starts a node with these workers.
///
/// # Panics
/// Where its address cannot be had.
#[must_use]
pub fn start_on(
    workers: Vec<Worker>,
    net: Arc<dyn UdpNetwork>,
    node: &crate::identity::TestNode,
    snapshot: Snapshot,
    boot: u8,
    settings: LinkSettings,
    tuning: Tuning,
) -> RunningNode {
    let listen: Vec<SocketAddr> = snapshot.local.advertise.clone();
    let endpoints = Endpoints::bind(net, workers, &listen, &node.secret, node.tls(), tuning)
        .expect("endpoints");
    let (snapshot, believed) = watch::channel(Arc::new(snapshot));
    let echo = Arc::new(Echo::default());
    let from = match listen.first().map(SocketAddr::ip) {
        Some(IpAddr::V4(ip)) => u64::from(ip.to_bits()),
        Some(IpAddr::V6(_)) | None => 0,
    };
    let local = local(boot, from, settings);
    let links = Links::start(local, endpoints.clone(), believed, Arc::clone(&echo) as _);
    RunningNode { links, snapshot, echo, endpoints }
}

/// The facts that are a process's own, repeatable: its draws begin from `boot` and `seed`.
#[must_use]
pub fn local(boot: u8, seed: u64, settings: LinkSettings) -> LinkContext {
    let mut id = [0; 16];
    id[15] = boot;
    let state = AtomicU64::new(u64::from(boot) << 32 ^ seed);
    let random = move || {
        // SplitMix64, which is enough for jitter and draws.
        let mut z = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let begun = tokio::time::Instant::now();
    let clock = move || {
        let passed = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        crate::identity::EPOCH * 1000 + passed
    };
    LinkContext { boot: BootId(id), random: Arc::new(random), clock: Arc::new(clock), settings }
}

impl Echo {
    /// Whom it served so far, oldest first.
    #[must_use]
    pub fn served(&self) -> Vec<Arc<PeerInfo>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServeStream for Echo {
    fn serve(&self, stream: PeerStream) -> Pin<Box<dyn Future<Output = ServeOutcome> + Send>> {
        let served = Arc::clone(&stream.peer);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(served);
        let PeerStream { mut send, mut recv, .. } = stream;
        Box::pin(async move {
            while let Ok(Some(mut chunk)) = recv.read_chunk(usize::MAX).await {
                if send.send(&mut chunk).await.is_err() {
                    return ServeOutcome::Used;
                }
            }
            // An echo that cannot finish has lost its connection, which its peer sees, too.
            if send.finish().is_ok() {
                send.stopped().await.ok();
            }
            ServeOutcome::Used
        })
    }
}

impl RunningNode {
    /// The view that it has of `site`, if any.
    #[must_use]
    pub fn view(&self, site: &Site) -> Option<ReceivedView> {
        self.links.views().borrow().get(&site.name).cloned()
    }

    /// Changes what it believes.
    pub fn believe(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot.send_modify(|now| change(Arc::make_mut(now)));
    }

    /// Sends `body` to `node` of `site` and back, and says whether it came back whole.
    ///
    /// # Errors
    /// Why no stream was opened, or how it ended, in words.
    pub async fn echo(
        &self,
        site: &Site,
        node: &NodeName,
        body: &[u8],
    ) -> Result<PeerStream, String> {
        let opened = self.links.open(0, &site.name, node, Class::Interactive).await;
        let mut stream = opened.map_err(|error| format!("{}: {error}", error.code))?;
        let sent = stream.send.send_all(body).await;
        sent.map_err(|error| error.to_string())?;
        let mut got = Vec::new();
        while got.len() < body.len() {
            match stream.recv.read_chunk(usize::MAX).await.map_err(|e| e.to_string())? {
                Some(chunk) => got.extend_from_slice(&chunk),
                None => return Err(format!("{} of {} bytes came back", got.len(), body.len())),
            }
        }
        if got == body { Ok(stream) } else { Err("other bytes came back".to_owned()) }
    }
}

/// Waits until `done`, and panics with `what` where that takes longer than `within` of tokio's time.
///
/// # Panics
/// Then.
pub async fn eventually(what: &str, within: Duration, mut done: impl FnMut() -> bool) {
    let until = tokio::time::Instant::now() + within;
    while !done() {
        assert!(tokio::time::Instant::now() < until, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
