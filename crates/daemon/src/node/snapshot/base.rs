//! The steps in which a snapshot is made: configuration, Kubernetes, backends that do not answer, deny list, views of peers.
//! What follows from a snapshot is decided in `adit-core`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use adit_config::Config;
use adit_core::deny_list::{DeniedPeer, is_cluster_denied};
use adit_core::fault::{BackendFault, BackendStates};
use adit_core::name::{ClusterName, NodeName};
use adit_core::policy::Target;
use adit_core::routing;
use adit_core::routing::dialable_addresses;
use adit_core::snapshot::{
    Backend, ClusterView, Export, ExportPort, Link, LocalNode, Seed, Snapshot,
};
use adit_kubernetes::node::state::NodeState;
use adit_transport::links::ReceivedView;

/// The last view of each linked cluster, and the hub that sent it.
pub type PeerViews = Arc<BTreeMap<ClusterName, ReceivedView>>;

/// A snapshot in the making: from the configuration alone at first, then with what is merged in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SnapshotBuilder {
    pub(super) snapshot: Arc<Snapshot>,
    /// The nodes that are denied by name, by cluster: they are left out of every view that names them.
    denied: Arc<BTreeMap<ClusterName, BTreeSet<NodeName>>>,
}

impl SnapshotBuilder {
    /// Makes the part of this configuration, on a node that can be dialled at `bound`. If the file does not say what
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
        let own_addresses = bound.iter().chain(&node.advertise).map(SocketAddr::ip);
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
            forbidden: own_addresses
                .map(|ip| ip.to_canonical())
                .filter(|ip| !ip.is_unspecified())
                .collect(),
        };
        Self { snapshot: Arc::new(snapshot), denied: Arc::new(denied) }.without_denied_siblings()
    }

    /// Leaves out siblings that are denied: no stream is sent to them, and no peer learns of them.
    fn without_denied_siblings(mut self) -> Self {
        if let Some(denied) = self.denied.get(&self.snapshot.local.cluster) {
            Arc::make_mut(&mut self.snapshot).siblings.retain(|node, _| !denied.contains(node));
        }
        self
    }

    /// Adds what Kubernetes knows. The last known addresses of linked clusters' nodes are seeds like those
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

    /// Takes the parts that are equal from `before`. A tenant's change is one of all that
    /// this node knows, and whoever keeps something for each export or import sees at a glance what is not touched.
    pub(super) fn reuse_equal_parts(mut self, before: &Self) -> Self {
        let (merged, before) = (Arc::make_mut(&mut self.snapshot), &before.snapshot);
        if merged.imports == before.imports {
            merged.imports = before.imports.clone();
        }
        if merged.siblings == before.siblings {
            merged.siblings = before.siblings.clone();
        }
        let mut exports = before.exports.clone();
        for (service, export) in before.exports.changes(&merged.exports) {
            match export {
                Some(export) => drop(exports.insert(service.clone(), export.clone())),
                None => drop(exports.remove(service)),
            }
        }
        merged.exports = exports;
        self
    }

    /// Makes the snapshot, with the views of peers and the results of dials. A view of a cluster without a link, and
    /// word of an address that is nobody's backend, are left out: they are remains of a configuration that was.
    #[must_use]
    pub fn snapshot(&self, views: &PeerViews, down: &BackendStates) -> Snapshot {
        self.with_backend_states(down).with_views(views)
    }

    /// Adds the results of dials: a look at every backend.
    pub(super) fn with_backend_states(&self, found: &BackendStates) -> Self {
        let mut snapshot = Snapshot::clone(&self.snapshot);
        let (mut down, mut unproved) = (BTreeMap::new(), BTreeSet::new());
        let (mut reported, mut probed) = (BTreeMap::new(), BTreeSet::new());
        let is_hub = routing::is_any_hub(&snapshot);
        for export in snapshot.exports.values() {
            for (port, backend) in backends(export) {
                let address = backend.address;
                let probes = snapshot.should_probe(export, backend, is_hub);
                if probes && !found.unserved.is_empty() {
                    probed.insert(address);
                }
                if let Some(fault) = found.down.get(&address) {
                    down.insert(address, *fault);
                } else if !probes {
                    reported
                        .extend(reported_fault(found, export, port).map(|fault| (address, fault)));
                } else if found.answered.as_ref().is_some_and(|all| !all.contains(&address)) {
                    unproved.insert(address);
                }
            }
        }
        // What this node found itself counts for more than what it was told.
        reported.retain(|address, _| !probed.contains(address));
        down.extend(reported);
        (snapshot.down, snapshot.never_answered) = (down, unproved);
        Self { snapshot: Arc::new(snapshot), denied: self.denied.clone() }
    }

    /// Adds the views of peers. They say it as often as they like, so it costs one look at each link.
    pub(super) fn with_views(&self, views: &PeerViews) -> Snapshot {
        let mut snapshot = Snapshot::clone(&self.snapshot);
        let linked = views.iter().filter(|(cluster, _)| snapshot.links.contains_key(cluster));
        let view = |cluster, view: &Arc<ClusterView>| match self.denied.get(cluster) {
            Some(denied) => without_denied(view, denied),
            None => view.clone(),
        };
        snapshot.views = linked
            .map(|(cluster, received)| (cluster.clone(), view(cluster, &received.view)))
            .collect();
        snapshot
    }
}

fn backends(export: &Export) -> impl Iterator<Item = (&ExportPort, &Backend)> {
    export.ports.iter().flat_map(|port| port.backends.iter().map(move |backend| (port, backend)))
}

/// The reason why no backend of a port answers its own node, if that node has reported one.
fn reported_fault(
    found: &BackendStates,
    export: &Export,
    port: &ExportPort,
) -> Option<BackendFault> {
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
