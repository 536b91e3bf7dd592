//! Merges what is believed, from wherever it comes, into the one value that the data path reads.
//!
//! The configuration, what Kubernetes adds to it, what peers say of themselves and which backends answer
//! become a [`Snapshot`]: as a pure function ([`BaseSnapshot::from_config`], [`BaseSnapshot::with_kubernetes`], [`BaseSnapshot::snapshot`]) and as the
//! task that publishes a new one when any of them changes ([`run`]). It decides nothing; `adit-core` does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_config::Config;
use adit_core::admission::rate_limit::cooldown;
use adit_core::deny_list::{DeniedPeer, is_cluster_denied};
use adit_core::fault::{BackendFault, BackendStates};
use adit_core::name::{ClusterName, NodeName};
use adit_core::policy::Target;
use adit_core::routing;
use adit_core::routing::links::dialable_addresses;
use adit_core::snapshot::{
    Backend, ClusterView, Export, ExportPort, Link, LocalNode, Seed, Snapshot,
};
use adit_kubernetes::node::state::NodeState;
use adit_transport::links::LinkView;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// What linked clusters last said of themselves, and who told it.
pub type PeerViews = Arc<BTreeMap<ClusterName, LinkView>>;
/// Backends that do not answer at present.
pub type Down = BackendStates;

/// The part of a snapshot that follows from the configuration. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BaseSnapshot {
    snapshot: Arc<Snapshot>,
    /// The nodes that are denied by name, by cluster: whoever tells of one, it is not there.
    denied: Arc<BTreeMap<ClusterName, BTreeSet<NodeName>>>,
}

impl BaseSnapshot {
    /// Of this configuration, on a node that can be dialled at `bound`. Where the file does not say what
    /// to advertise, `bound` is advertised as far as others can use it.
    #[must_use]
    pub fn from_config(config: &Config, bound: &[SocketAddr]) -> Self {
        let node = &config.node;
        let advertise = if node.advertise.is_empty() { bound } else { &node.advertise };
        let usable = |a: &&SocketAddr| !a.ip().is_unspecified() && a.port() != 0;
        let link = |l: &adit_config::config::LinkConfig| Link {
            cluster: l.cluster.clone(),
            trust_domain: l.trust_domain.clone(),
            seeds: l.addresses.clone(),
        };
        let ours = bound.iter().chain(&node.advertise).map(SocketAddr::ip);
        // A link with a cluster that is denied is none.
        let linked =
            |l: &&adit_config::config::LinkConfig| !is_cluster_denied(&config.denied, &l.cluster);
        let links = config.links.iter().filter(linked);
        let mut denied: BTreeMap<ClusterName, BTreeSet<NodeName>> = BTreeMap::new();
        for entry in &config.denied {
            if let DeniedPeer::Node(cluster, node) = &entry.peer {
                denied.entry(cluster.clone()).or_default().insert(node.clone());
            }
        }
        let snapshot = Snapshot {
            local: LocalNode {
                cluster: config.cluster.clone(),
                trust_domain: config.trust_domain.clone(),
                node: node.name.clone(),
                advertise: advertise
                    .iter()
                    .filter(usable)
                    .take(ClusterView::MAX_ADDRESSES)
                    .copied()
                    .collect(),
            },
            siblings: config.siblings.clone().into(),
            links: links.map(|l| (l.cluster.clone(), Arc::new(link(l)))).collect(),
            imports: config.imports.iter().cloned().collect(),
            exports: config
                .exports
                .iter()
                .map(|e| (e.service.clone(), Arc::new(e.clone())))
                .collect(),
            workloads: config.workloads.clone(),
            views: BTreeMap::new(),
            down: BTreeMap::new(),
            never_answered: BTreeSet::new(),
            forbidden: ours.map(|ip| ip.to_canonical()).filter(|ip| !ip.is_unspecified()).collect(),
        };
        Self { snapshot: Arc::new(snapshot), denied: Arc::new(denied) }.without_denied_siblings()
    }

    /// Nobody is sent to a sibling that is denied, and no peer is told of it.
    fn without_denied_siblings(mut self) -> Self {
        if let Some(denied) = self.denied.get(&self.snapshot.local.cluster) {
            Arc::make_mut(&mut self.snapshot).siblings.retain(|node, _| !denied.contains(node));
        }
        self
    }

    /// With what Kubernetes adds. Where nodes of linked clusters were last heard to be is a seed like those
    /// of the configuration, and comes after them.
    #[must_use]
    pub fn with_kubernetes(&self, cluster: &NodeState) -> Self {
        let mut all = Snapshot::clone(&self.snapshot);
        all.siblings.extend(cluster.siblings.clone());
        all.imports =
            all.imports.iter().map(|i| (**i).clone()).chain(cluster.imports.clone()).collect();
        let export = |e: &Export| (e.service.clone(), Arc::new(e.clone()));
        all.exports.extend(cluster.exports.iter().map(export));
        all.workloads.extend(cluster.workloads.clone());
        all.forbidden.extend(&cluster.forbidden);
        for (peer, addresses) in &cluster.seeds {
            let Some(link) = all.links.get_mut(peer) else { continue };
            let known: BTreeSet<Seed> = link.seeds.iter().cloned().collect();
            // What a peer said of itself may not lead into this machine or this network.
            let learned = dialable_addresses(addresses, &link.seeds).into_iter().map(Seed::Address);
            let new: Vec<Seed> = learned.filter(|s| !known.contains(s)).collect();
            Arc::make_mut(link).seeds.extend(new);
        }
        let denied = self.denied.clone();
        Self { snapshot: Arc::new(all), denied }.without_denied_siblings()
    }

    /// The same in the parts that `before` has already, where they are equal. A tenant's change is one of all that
    /// this node knows, and whoever keeps something for each export or import sees at a glance what is not touched.
    fn reuse_equal_parts(mut self, before: &Self) -> Self {
        let (now, before) = (Arc::make_mut(&mut self.snapshot), &before.snapshot);
        if now.imports == before.imports {
            now.imports = before.imports.clone();
        }
        if now.siblings == before.siblings {
            now.siblings = before.siblings.clone();
        }
        let mut exports = before.exports.clone();
        for (service, export) in before.exports.changes(&now.exports) {
            match export {
                Some(export) => drop(exports.insert(service.clone(), export.clone())),
                None => drop(exports.remove(service)),
            }
        }
        now.exports = exports;
        self
    }

    /// With what peers and dials say. A view of a cluster without a link, and word of an address that is
    /// nobody's backend, are left out: they are remains of a configuration that was.
    #[must_use]
    pub fn snapshot(&self, views: &PeerViews, down: &Down) -> Snapshot {
        self.with_backend_states(down).with_views(views)
    }

    /// With what dials say: a look at every backend.
    fn with_backend_states(&self, found: &Down) -> Self {
        let mut now = Snapshot::clone(&self.snapshot);
        let (mut down, mut unproved) = (BTreeMap::new(), BTreeSet::new());
        let (mut told, mut probed) = (BTreeMap::new(), BTreeSet::new());
        let is_hub = routing::is_any_hub(&now);
        for export in now.exports.values() {
            for (port, backend) in backends(export) {
                let address = backend.address;
                let probes = now.should_probe(export, backend, is_hub);
                if probes && !found.unserved.is_empty() {
                    probed.insert(address);
                }
                if let Some(fault) = found.down.get(&address) {
                    down.insert(address, *fault);
                } else if !probes {
                    told.extend(reported_fault(found, export, port).map(|fault| (address, fault)));
                } else if found.answered.as_ref().is_some_and(|all| !all.contains(&address)) {
                    unproved.insert(address);
                }
            }
        }
        // What this node found itself counts for more than what it was told.
        told.retain(|address, _| !probed.contains(address));
        down.extend(told);
        (now.down, now.never_answered) = (down, unproved);
        Self { snapshot: Arc::new(now), denied: self.denied.clone() }
    }

    /// With what peers say. They say it as often as they like, so it costs one look at each link.
    fn with_views(&self, views: &PeerViews) -> Snapshot {
        let mut now = Snapshot::clone(&self.snapshot);
        let linked = views.iter().filter(|(cluster, _)| now.links.contains_key(cluster));
        let view = |cluster, view: &Arc<ClusterView>| match self.denied.get(cluster) {
            Some(denied) => without_denied(view, denied),
            None => view.clone(),
        };
        now.views =
            linked.map(|(cluster, heard)| (cluster.clone(), view(cluster, &heard.view))).collect();
        now
    }
}

fn backends(export: &Export) -> impl Iterator<Item = (&ExportPort, &Backend)> {
    export.ports.iter().flat_map(|port| port.backends.iter().map(move |backend| (port, backend)))
}

/// Why no backend of a port answers the node that it runs on, where this one was told so.
fn reported_fault(found: &Down, export: &Export, port: &ExportPort) -> Option<BackendFault> {
    if found.unserved.is_empty() {
        return None;
    }
    let target = Target { service: export.service.clone(), port: port.name.clone() };
    found.unserved.get(&target).copied()
}

/// A view without the nodes that are denied; copied only where it has one of them.
fn without_denied(view: &Arc<ClusterView>, denied: &BTreeSet<NodeName>) -> Arc<ClusterView> {
    if !denied.iter().any(|node| view.nodes.contains_key(node)) {
        return view.clone();
    }
    let mut view = ClusterView::clone(view);
    view.nodes.retain(|node, _| !denied.contains(node));
    for export in view.exports.values_mut() {
        let served = |node: &NodeName| denied.contains(node);
        if export.ports.iter().any(|port| port.ready.iter().any(|(node, _)| served(node))) {
            for port in &mut Arc::make_mut(export).ports {
                let others = port.ready.iter().filter(|(node, _)| !denied.contains(*node));
                port.ready = others.map(|(node, count)| (node.clone(), *count)).collect();
            }
        }
    }
    Arc::new(view)
}

/// Where a snapshot's parts come from.
#[derive(Debug)]
pub struct SnapshotSources {
    base: watch::Receiver<BaseSnapshot>,
    cluster: Option<watch::Receiver<Arc<NodeState>>>,
    views: watch::Receiver<PeerViews>,
    backend_states: watch::Receiver<Down>,
    /// The first two together, as they were last.
    merged: BaseSnapshot,
    /// The same with the last, where neither has changed since.
    with_states: Option<BaseSnapshot>,
}

impl SnapshotSources {
    /// The configuration's part, what Kubernetes adds (where the node runs there), what peers say of
    /// themselves, and which backends do not answer.
    #[must_use]
    pub fn new(
        mut base: watch::Receiver<BaseSnapshot>,
        mut cluster: Option<watch::Receiver<Arc<NodeState>>>,
        views: watch::Receiver<PeerViews>,
        down: watch::Receiver<Down>,
    ) -> Self {
        let merged = merge(&mut base, cluster.as_mut());
        Self { base, cluster, views, backend_states: down, merged, with_states: None }
    }

    /// A snapshot of what the sources hold now.
    #[must_use]
    pub fn snapshot(&mut self) -> Snapshot {
        // A source that has ended has nothing new.
        let is_new = self.base.has_changed().unwrap_or(false)
            || self.cluster.as_ref().is_some_and(|c| c.has_changed().unwrap_or(false));
        if is_new {
            let merged = merge(&mut self.base, self.cluster.as_mut());
            self.merged = merged.reuse_equal_parts(&self.merged);
        }
        if is_new || self.backend_states.has_changed().unwrap_or(false) {
            self.with_states = None;
        }
        let views = self.views.borrow_and_update().clone();
        let Self { merged, backend_states: down, .. } = self;
        let settled = || merged.with_backend_states(&down.borrow_and_update());
        self.with_states.get_or_insert_with(settled).with_views(&views)
    }

    /// Waits for a change; false where a source has ended, and the process with it.
    async fn changed(&mut self) -> bool {
        let Self { base, cluster, views, backend_states: down, .. } = self;
        let told = async {
            match cluster {
                Some(cluster) => cluster.changed().await.map(|()| cluster.mark_changed()),
                None => std::future::pending().await,
            }
        };
        // Hearing of these is not yet having merged them.
        tokio::select! {
            changed = base.changed() => changed.map(|()| base.mark_changed()).is_ok(),
            changed = told => changed.is_ok(),
            changed = views.changed() => changed.is_ok(),
            changed = down.changed() => changed.map(|()| down.mark_changed()).is_ok(),
        }
    }
}

fn merge(
    base: &mut watch::Receiver<BaseSnapshot>,
    cluster: Option<&mut watch::Receiver<Arc<NodeState>>>,
) -> BaseSnapshot {
    let base = base.borrow_and_update().clone();
    match cluster {
        Some(cluster) => base.with_kubernetes(&cluster.borrow_and_update()),
        None => base,
    }
}

/// The least time between two snapshots: each wakes whoever acts on one, and any of many peers can have
/// one made.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(10);

/// Publishes a new snapshot whenever a source changes and what is believed with it.
pub async fn run(mut sources: SnapshotSources, out: watch::Sender<Arc<Snapshot>>) {
    while sources.changed().await {
        let began = Instant::now();
        publish_if_changed(&out, sources.snapshot());
        sleep(cooldown(began.elapsed(), SNAPSHOT_INTERVAL)).await;
    }
}

/// Publishes a value, unless it is what was published last.
pub(crate) fn publish_if_changed<T: PartialEq>(out: &watch::Sender<Arc<T>>, now: T) {
    out.send_if_modified(|last| {
        let differs = **last != now;
        if differs {
            *last = Arc::new(now);
        }
        differs
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use adit_core::name::NodeKey;
    use adit_core::spiffe::Workload;

    const EDGE: &str = r#"
cluster: edge
trustDomain: edge.trustusbank.example
node: {name: e1, listen: "0.0.0.0:7843", identity: /nowhere}
links:
  - {cluster: bank, trustDomain: bank.trustusbank.example, trustBundle: bank.pem, addresses: ["172.18.2.2:7843"]}
imports:
  - {service: trustusbank-bank-agents/fraud-bot, from: bank, ports: [{name: http, port: 8080, listen: "127.0.0.1:15080"}]}
exports:
  - service: trustusbank-bank-agents/triage-bot
    ports: [{name: http, port: 8080, backends: ["10.244.0.9:8080"]}]
    allow: [{cluster: bank, namespace: trustusbank-bank-agents, serviceAccount: fraud-bot}]
workloads:
  - {address: 127.0.1.10, namespace: trustusbank-bank-agents, serviceAccount: support-bot}
"#;

    fn config(text: &str) -> Config {
        adit_config::parse(text.as_bytes(), std::path::Path::new("edge.yaml")).unwrap().0
    }

    fn base(config: &Config) -> BaseSnapshot {
        BaseSnapshot::from_config(
            config,
            &["0.0.0.0:7843".parse().unwrap(), "127.0.0.1:7843".parse().unwrap()],
        )
    }

    fn views(clusters: &[&str]) -> PeerViews {
        let heard = |c: &&str| LinkView {
            view: Arc::default(),
            omitted: Arc::default(),
            position: (1, 1),
            source: NodeKey::new(&c.parse().unwrap(), &"b1".parse().unwrap()),
            age: Duration::ZERO,
            received: Instant::now(),
            lost: false,
        };
        Arc::new(clusters.iter().map(|c| (c.parse().unwrap(), heard(c))).collect())
    }

    fn down(addresses: &[&str]) -> Down {
        let down = addresses.iter().map(|a| (a.parse().unwrap(), BackendFault::Refused));
        Down { down: down.collect(), ..Down::default() }
    }

    #[test]
    fn everything_in_the_file_is_believed() {
        let config = config(EDGE);
        let now = base(&config).snapshot(&PeerViews::default(), &Down::default());
        assert_eq!(
            now.local.advertise,
            ["127.0.0.1:7843".parse().unwrap()],
            "a wildcard is no address"
        );
        assert_eq!(now.links.len() + now.exports.len() + now.workloads.len(), 3);
        let (import, port) = now.imports.at("127.0.0.1:15080".parse().unwrap()).unwrap();
        assert_eq!((import.from.as_str(), port.number), ("bank", 8080));
        assert_eq!(now.links.values().next().unwrap().seeds, config.links[0].addresses);
        assert!(now.forbidden.contains(&"127.0.0.1".parse().unwrap()));
        assert!(!now.forbidden.contains(&"0.0.0.0".parse().unwrap()));
    }

    #[test]
    fn who_is_denied_is_not_there_whoever_tells_of_it() {
        let denied = "denied: {nodes: [edge/e2, bank/b2], clusters: [shop]}\n";
        let shop = "links:\n  - {cluster: shop, trustDomain: shop.example, trustBundle: s.pem}\n";
        let config = config(&(EDGE.replace("links:\n", shop) + denied));
        let siblings = ["e2", "e3"].map(|n| (n.parse().unwrap(), vec![])).into();
        let cluster = NodeState { siblings, ..NodeState::default() };
        let mut views = BTreeMap::clone(&views(&["bank", "shop"]));
        let export = adit_core::snapshot::PeerExport {
            ports: vec![adit_core::snapshot::PeerPort {
                name: "http".parse().unwrap(),
                number: 80,
                app_protocol: None,
                ready: ["b1", "b2"].map(|n| (n.parse().unwrap(), 1)).into(),
                fault: None,
            }],
            grants: vec![],
            hop: adit_core::snapshot::Hop::Any,
            class: adit_core::snapshot::Class::Interactive,
            replay: false,
        };
        let view = ClusterView {
            nodes: ["b1", "b2"].map(|n| (n.parse().unwrap(), vec![])).into(),
            exports: [("a/b".parse().unwrap(), Arc::new(export))].into(),
        };
        views.values_mut().for_each(|heard| heard.view = Arc::new(view.clone()));
        let now =
            base(&config).with_kubernetes(&cluster).snapshot(&Arc::new(views), &Down::default());
        let names = |all: Vec<String>| all.join(" ");
        assert_eq!(names(now.siblings.keys().map(ToString::to_string).collect()), "e3");
        assert_eq!(names(now.links.keys().map(ToString::to_string).collect()), "bank");
        assert_eq!(names(now.views.keys().map(ToString::to_string).collect()), "bank");
        let [bank] = &now.views.values().collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!(names(bank.nodes.keys().map(ToString::to_string).collect()), "b1");
        let ready = &bank.exports.values().next().unwrap().ports[0].ready;
        assert_eq!(names(ready.iter().map(|(node, _)| node.to_string()).collect()), "b1");
    }

    #[test]
    fn what_the_operator_advertises_wins() {
        let text = EDGE.replace("identity:", "advertise: [\"172.18.1.2:9\"], identity:");
        let now = base(&config(&text)).snapshot(&PeerViews::default(), &Down::default());
        assert_eq!(now.local.advertise, ["172.18.1.2:9".parse().unwrap()]);
        assert!(now.forbidden.contains(&"172.18.1.2".parse().unwrap()));
    }

    #[test]
    fn kubernetes_adds_to_the_file() {
        let pod: Workload =
            Workload { namespace: "a".parse().unwrap(), service_account: "b".parse().unwrap() };
        let seed = "172.18.2.2:7843".parse().unwrap();
        let cluster = NodeState {
            siblings: [("e2".parse().unwrap(), vec![])].into(),
            workloads: [("10.244.0.5".parse().unwrap(), pod)].into(),
            seeds: [
                (
                    "bank".parse().unwrap(),
                    ["172.18.2.3:7843", "127.0.0.1:7"].map(|a| a.parse().unwrap()).into(),
                ),
                ("gone".parse().unwrap(), vec![seed]),
            ]
            .into(),
            forbidden: ["172.18.1.1".parse().unwrap()].into(),
            ..NodeState::default()
        };
        let base = base(&config(EDGE)).with_kubernetes(&cluster);
        let now = base.snapshot(&PeerViews::default(), &Down::default());
        let seeds: Vec<String> =
            now.links.values().flat_map(|l| &l.seeds).map(ToString::to_string).collect();
        assert_eq!(seeds, ["172.18.2.2:7843", "172.18.2.3:7843"]);
        assert_eq!((now.siblings.len(), now.workloads.len()), (1, 2));
        assert_eq!((now.imports.iter().count(), now.exports.len()), (1, 1));
        assert!(now.forbidden.contains(&"172.18.1.1".parse().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_one_export_leaves_all_others_where_they_were() {
        let service = |n: usize| format!("a/bot-{n:03}").parse().unwrap();
        let base = base(&config(EDGE));
        let one = base.snapshot.exports.values().next().unwrap();
        let export = |n| Export { service: service(n), ..Export::clone(one) };
        let mut state = NodeState {
            exports: (0..200).map(export).collect(),
            siblings: [("e2".parse().unwrap(), vec![])].into(),
            ..NodeState::default()
        };
        let (_base, base) = watch::channel(base);
        let (cluster, told) = watch::channel(Arc::new(state.clone()));
        let (_views, views) = watch::channel(PeerViews::default());
        let (_down, down) = watch::channel(Down::default());
        let mut sources = SnapshotSources::new(base, Some(told), views, down);
        let before = sources.snapshot();

        state.exports[7].replay = !state.exports[7].replay;
        state.exports.remove(9);
        cluster.send_replace(Arc::new(state));
        let after = sources.snapshot();
        assert!(after.imports.is_same(&before.imports) && after.siblings.is_same(&before.siblings));
        assert_eq!(after.exports.len(), before.exports.len() - 1);
        let moved = |(service, export): &(&_, &Arc<Export>)| {
            !before.exports.get(*service).is_some_and(|old| Arc::ptr_eq(old, export))
        };
        let moved: Vec<_> =
            after.exports.iter().filter(moved).map(|(service, _)| service).collect();
        assert_eq!(moved, [&service(7)]);
    }

    #[tokio::test]
    async fn a_change_in_kubernetes_is_published() {
        let (_base, base) = watch::channel(base(&config(EDGE)));
        let (cluster, state) = watch::channel(Arc::new(NodeState::default()));
        let (_views, views) = watch::channel(PeerViews::default());
        let (_down, down) = watch::channel(Down::default());
        let mut sources = SnapshotSources::new(base, Some(state), views, down);
        let (out, mut published) = watch::channel(Arc::new(sources.snapshot()));
        let script = async move {
            let node = ("e2".parse().unwrap(), vec![]);
            let state = NodeState { siblings: [node].into(), ..NodeState::default() };
            cluster.send_replace(Arc::new(state));
            published.changed().await.unwrap();
            assert_eq!(published.borrow_and_update().siblings.len(), 1);
        };
        tokio::select! { () = run(sources, out) => panic!("it ended"), () = script => {} }
    }

    #[test]
    fn remains_of_an_old_configuration_are_left_out() {
        let base = base(&config(EDGE));
        let now =
            base.snapshot(&views(&["bank", "shop"]), &down(&["10.244.0.9:8080", "10.9.9.9:1"]));
        assert_eq!(now.views.keys().map(ClusterName::as_str).collect::<Vec<_>>(), ["bank"]);
        assert_eq!(now.down, down(&["10.244.0.9:8080"]).down);
        assert_eq!(now.never_answered, [].into(), "nobody has dialled yet");
        // Of those that this node dials, what has neither answered nor refused is not proved.
        let now = base.snapshot(
            &PeerViews::default(),
            &Down { answered: Some([].into()), ..Down::default() },
        );
        assert_eq!(now.never_answered, ["10.244.0.9:8080".parse().unwrap()].into());
    }

    #[tokio::test]
    async fn a_change_of_any_source_is_published_and_nothing_else_is() {
        let (base_in, base_out) = watch::channel(base(&config(EDGE)));
        let (views_in, views_out) = watch::channel(PeerViews::default());
        let (down_in, down_out) = watch::channel(Down::default());
        let mut sources = SnapshotSources::new(base_out, None, views_out, down_out);
        let (out, mut published) = watch::channel(Arc::new(sources.snapshot()));
        let task = run(sources, out);
        let script = async move {
            views_in.send_replace(views(&["bank"]));
            published.changed().await.unwrap();
            assert_eq!(published.borrow_and_update().views.len(), 1);

            // The word of another cluster's dials and views changes nothing here, and is not published:
            // the next thing that is seen is the change after it.
            views_in.send_replace(views(&["bank", "shop"]));
            sleep(2 * SNAPSHOT_INTERVAL).await;
            assert!(!published.has_changed().unwrap());
            down_in.send_replace(down(&["10.244.0.9:8080"]));
            published.changed().await.unwrap();
            assert_eq!(published.borrow_and_update().down.len(), 1);

            base_in
                .send_replace(base(&config(&EDGE.replace("fraud-bot, from", "audit-bot, from"))));
            published.changed().await.unwrap();
            let now = published.borrow_and_update().clone();
            assert_eq!(now.imports.iter().next().unwrap().service.name(), "audit-bot");
            assert_eq!((now.views.len(), now.down.len()), (1, 1), "the rest stays");
        };
        tokio::join!(task, script);
    }
}
