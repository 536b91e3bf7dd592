//! The cost of decisions at the size that is promised: 10,000 exports, 5,000 nodes, 100 links. `cargo bench -p adit-benches
//! --bench scale`.
//!
//! What is done for each stream must not grow with any of these; what is done for a change of one export or one peer must
//! not take a look at all of them. The rows say which is which.

#![expect(clippy::unwrap_used, reason = "what is made here is well-formed")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use adit_core::announce::PreparedAnnouncement;
use adit_core::name::{ClusterName, NodeName, ServiceName};
use adit_core::policy::{self, Grant, Permit, Source, Target, WorkloadPattern};
use adit_core::routing::{self, HubCache, LinkReach};
use adit_core::snapshot::{
    Backend, Class, ClusterView, Export, ExportPort, Hop, Import, ImportPort, Link, LocalNode,
    PeerExport, PeerPort, SiblingTable, Snapshot,
};
use adit_core::spiffe::Workload;
use divan::{Bencher, black_box};

const EXPORTS: usize = 10_000;
const NODES: usize = 5_000;
const LINKS: usize = 100;
/// Ready backends of each port, each on a node of its own.
const BACKENDS: usize = 10;

fn main() {
    divan::main();
}

fn cluster(nth: usize) -> ClusterName {
    format!("cluster-{nth}").parse().unwrap()
}

fn node(nth: usize) -> NodeName {
    format!("node-{nth}").parse().unwrap()
}

fn service(nth: usize) -> ServiceName {
    format!("team-{}/bot-{nth}", nth % 100).parse().unwrap()
}

fn address(net: u8, nth: usize) -> SocketAddr {
    let [.., a, b] = (nth as u32).to_be_bytes();
    SocketAddr::from(([10, net, a, b], 7843))
}

fn pattern() -> WorkloadPattern {
    WorkloadPattern { namespace: "callers".parse().unwrap(), service_account: "*".parse().unwrap() }
}

fn caller() -> Workload {
    Workload {
        namespace: "callers".parse().unwrap(),
        service_account: "support-bot".parse().unwrap(),
    }
}

/// An export of this cluster, to one of the links.
fn export(nth: usize) -> Export {
    let backend = |n: usize| Backend {
        address: address(244, nth * BACKENDS + n),
        node: node((nth + n) % NODES),
        explicit: true,
    };
    let port = ExportPort {
        name: "http".parse().unwrap(),
        number: 8080,
        app_protocol: None,
        backends: (0..BACKENDS).map(backend).collect(),
        has_foreign: false,
    };
    Export {
        service: service(nth),
        ports: vec![port],
        allow: vec![Grant { cluster: cluster(nth % LINKS), workloads: pattern() }],
        hop: Hop::Any,
        class: Class::Interactive,
        replay: false,
        hold: None,
        probe: None,
    }
}

/// The view of a linked cluster: its part of all exports, and as many nodes as one may have.
fn view(of: usize) -> ClusterView {
    let peer_export = |nth: usize| {
        let ready = (0..BACKENDS).map(|n| (node((nth + n) % NODES), 1)).collect();
        let port = PeerPort {
            name: "http".parse().unwrap(),
            number: 8080,
            app_protocol: None,
            ready,
            fault: None,
        };
        let export = PeerExport {
            ports: vec![port],
            grants: vec![pattern()],
            hop: Hop::Any,
            class: Class::Interactive,
            replay: false,
            hold: None,
        };
        (service(nth), Arc::new(export))
    };
    ClusterView {
        nodes: (0..NODES).map(|n| (node(n), vec![address(1, n)])).collect(),
        exports: (of..EXPORTS).step_by(LINKS).map(peer_export).collect(),
    }
}

fn import(nth: usize) -> Import {
    let port =
        ImportPort { name: "http".parse().unwrap(), number: 8080, listen: vec![address(200, nth)] };
    Import {
        service: service(nth),
        from: cluster(nth % LINKS),
        ports: vec![port],
        allow: vec![pattern()],
        displaced_by: None,
    }
}

/// Everything, made once.
static NOW: LazyLock<Snapshot> = LazyLock::new(|| {
    let link = |nth| {
        let cluster = cluster(nth);
        let trust_domain = format!("{cluster}.example").parse().unwrap();
        let link = Link { cluster: cluster.clone(), trust_domain, seeds: Vec::new() };
        (cluster, Arc::new(link))
    };
    Snapshot {
        local: LocalNode {
            cluster: "home".parse().unwrap(),
            trust_domain: "home.example".parse().unwrap(),
            node: node(0),
            advertise: vec![address(0, 0)],
        },
        siblings: (1..NODES).map(|n| (node(n), vec![address(0, n)])).collect::<SiblingTable>(),
        links: (0..LINKS).map(link).collect(),
        imports: (0..EXPORTS).map(import).collect(),
        exports: (0..EXPORTS).map(|n| (service(n), Arc::new(export(n)))).collect(),
        workloads: HashMap::from([("10.244.9.9".parse().unwrap(), caller())]),
        views: (0..LINKS).map(|n| (cluster(n), Arc::new(view(n)))).collect(),
        down: BTreeMap::new(),
        never_answered: BTreeSet::new(),
        forbidden: BTreeSet::new(),
    }
});

fn target(nth: usize) -> Target {
    Target { service: service(nth), port: "http".parse().unwrap() }
}

fn outbound(nth: usize) -> Permit {
    let now = &*NOW;
    let import = now.imports.get(&service(nth)).unwrap();
    policy::authorize_outbound(now, import, &target(nth), &caller()).unwrap()
}

mod each_stream {
    use super::*;

    #[divan::bench]
    fn outbound_from_address_to_nodes(bencher: Bencher<'_, '_>) {
        let (now, local, asked) = (&*NOW, address(200, 7777), target(7777));
        bencher.bench_local(|| {
            let (import, _) = now.imports.at(black_box(local)).unwrap();
            let permit = policy::authorize_outbound(now, import, &asked, &caller()).unwrap();
            routing::route(now, &import.from, &permit, 42).unwrap()
        });
    }

    #[divan::bench]
    fn inbound_from_header_to_backends(bencher: Bencher<'_, '_>) {
        let (now, asked) = (&*NOW, target(7777));
        let source = Source { cluster: cluster(77), workload: caller() };
        bencher.bench_local(|| {
            let permit = policy::authorize_inbound(now, &source, black_box(&asked)).unwrap();
            routing::backends(now, &permit, 42).unwrap()
        });
    }

    #[divan::bench]
    fn recheck_of_a_permit(bencher: Bencher<'_, '_>) {
        let (now, permit) = (&*NOW, outbound(7777));
        bencher.bench_local(|| black_box(&permit).recheck(now));
    }

    #[divan::bench]
    fn unknown_source_is_no_node(bencher: Bencher<'_, '_>) {
        let (now, ip) = (&*NOW, "10.244.1.1".parse().unwrap());
        bencher.bench_local(|| now.is_host_address(black_box(ip)));
    }
}

mod each_change_of_one_export {
    use super::*;

    /// The snapshot after one export of a peer has changed.
    fn changed() -> Snapshot {
        let mut now = NOW.clone();
        let mut view = ClusterView::clone(&now.views[&cluster(77)]);
        let mut export = PeerExport::clone(&view.exports[&service(7777)]);
        export.replay = true;
        view.exports.insert(service(7777), Arc::new(export));
        now.views.insert(cluster(77), Arc::new(view));
        now
    }

    #[divan::bench]
    fn copy_of_the_snapshot(bencher: Bencher<'_, '_>) {
        bencher.bench_local(|| black_box(&*NOW).clone());
    }

    #[divan::bench]
    fn permits_to_check_again(bencher: Bencher<'_, '_>) {
        let (before, now) = (&*NOW, changed());
        bencher.bench_local(|| policy::changed_bases(black_box(before), &now));
    }

    #[divan::bench]
    fn whether_peers_are_told(bencher: Bencher<'_, '_>) {
        let (before, now) = (&*NOW, changed());
        bencher.bench_local(|| adit_core::announce::may_differ(black_box(before), &now));
    }

    #[divan::bench]
    fn standing_connections_of_all_links(bencher: Bencher<'_, '_>) {
        let (now, mut cache) = (&*NOW, HubCache::default());
        bencher.bench_local(|| {
            let each = now.links.values().map(|link| {
                let view = now.views.get(&link.cluster).map(|view| &**view);
                let hubs = cache.hubs_of(now, &link.cluster, view);
                let reach = LinkReach { connected: true, hubs_silent: false, stale: false };
                routing::standing_targets(now, link, view, &hubs, reach).len()
            });
            each.sum::<usize>()
        });
    }
}

mod each_change_of_own_exports {
    use super::*;

    #[divan::bench(sample_count = 10)]
    fn announcements_to_all_links(bencher: Bencher<'_, '_>) {
        let now = &*NOW;
        bencher.bench_local(|| {
            let all = PreparedAnnouncement::new(black_box(now));
            now.links.keys().map(|to| all.for_cluster(to).view.exports.len()).sum::<usize>()
        });
    }

    #[divan::bench(sample_count = 10)]
    fn whether_this_node_is_any_hub(bencher: Bencher<'_, '_>) {
        bencher.bench_local(|| routing::is_any_hub(black_box(&NOW)));
    }
}
