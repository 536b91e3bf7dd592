//! What this cluster says of itself to one other cluster.
//!
//! A function of the snapshot alone, so that all hubs of a cluster say the same and a change of policy is
//! told as soon as it is believed. Told are the members and, of the exports, those that have a grant for
//! that very cluster, with those grants only; never a backend's address. How it is told is
//! [`crate::wire::state`]'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::choose;
use crate::name::{ClusterName, NodeName};
use crate::snapshot::{Export, ExportPort, PeerExport, PeerPort, Snapshot, View};
use crate::wire::state::Message;

/// Our cluster as `to` may see it.
#[must_use]
pub fn view(now: &Snapshot, to: &ClusterName) -> View {
    let mut nodes = now.siblings.clone();
    nodes.insert(now.this.node.clone(), now.this.advertise.clone());
    let exports = now
        .exports
        .iter()
        .filter_map(|(service, e)| Some((service.clone(), Arc::new(export(now, e, to)?))))
        .collect();
    View { nodes, exports }
}

/// Whether [`view`] may give something else for `now` than for `before`, to anybody. Most snapshots differ
/// in what others told us, which nobody is told.
#[must_use]
pub fn may_differ(before: &Snapshot, now: &Snapshot) -> bool {
    before.this != now.this
        || before.siblings != now.siblings
        || before.links.keys().ne(now.links.keys())
        || before.exports != now.exports
        || before.down != now.down
        || before.forbidden != now.forbidden
}

/// Whether an export fits into the one message that would tell `to` of it, whichever backends are well.
#[must_use]
pub fn fits(export: &Export, to: &ClusterName) -> bool {
    let ports = export.ports.iter().map(|port| (port, choose::per_node(&port.backends)));
    told(export, ports, to)
        .is_none_or(|told| Message::Export(export.service.clone(), told.into()).fits())
}

/// An export as `to` may see it; none where no grant names that cluster.
fn export(now: &Snapshot, export: &Export, to: &ClusterName) -> Option<PeerExport> {
    told(export, export.ports.iter().map(|port| (port, choose::ready(now, port))), to)
}

fn told<'a>(
    export: &Export,
    ports: impl Iterator<Item = (&'a ExportPort, BTreeMap<NodeName, u32>)>,
    to: &ClusterName,
) -> Option<PeerExport> {
    let ours = export.allow.iter().filter(|g| g.cluster == *to);
    let grants: Vec<_> = ours.map(|g| g.workloads.clone()).collect();
    if grants.is_empty() {
        return None;
    }
    let ports = ports.map(|(port, ready)| PeerPort {
        name: port.name.clone(),
        number: port.number,
        app_protocol: port.app_protocol.clone(),
        ready,
    });
    Some(PeerExport {
        ports: ports.collect(),
        grants,
        hop: export.hop,
        class: export.class,
        replay: export.replay,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Grant, WorkloadPattern};
    use crate::snapshot::{Backend, Class, Hop, tests::edge};

    fn pattern(account: &str) -> WorkloadPattern {
        let namespace = "agents".parse().unwrap();
        WorkloadPattern { namespace, service_account: account.parse().unwrap() }
    }

    fn grant(cluster: &str, account: &str) -> Grant {
        Grant { cluster: cluster.parse().unwrap(), workloads: pattern(account) }
    }

    /// `edge`'s node e1, with sibling e2 and one export.
    fn exporting() -> Snapshot {
        let backend = |address: &str, node: &str| Backend {
            address: address.parse().unwrap(),
            node: node.parse().unwrap(),
            written_out: false,
        };
        let port = ExportPort {
            name: "http".parse().unwrap(),
            number: 8080,
            app_protocol: Some("kgateway.dev/a2a".parse().unwrap()),
            backends: vec![
                backend("10.0.0.1:80", "e1"),
                backend("10.0.0.2:80", "e2"),
                backend("10.0.0.3:80", "e2"),
            ],
        };
        let export = Export {
            service: "agents/triage-bot".parse().unwrap(),
            ports: vec![port],
            allow: vec![grant("bank", "fraud-bot"), grant("lab", "*"), grant("bank", "audit-bot")],
            hop: Hop::SameNode,
            class: Class::Bulk,
            replay: true,
            probe: None,
        };
        let mut now = edge();
        now.siblings = [("e2".parse().unwrap(), vec!["172.18.1.3:7843".parse().unwrap()])].into();
        now.exports = [(export.service.clone(), Arc::new(export))].into();
        now
    }

    #[test]
    fn each_cluster_is_told_its_own_grants_only() {
        let grants = |to: &str| {
            let view = view(&exporting(), &to.parse().unwrap());
            view.exports.values().map(|e| e.grants.clone()).collect::<Vec<_>>()
        };
        assert_eq!(grants("bank"), [vec![pattern("fraud-bot"), pattern("audit-bot")]]);
        assert_eq!(grants("lab"), [vec![pattern("*")]]);
        assert_eq!(grants("other"), Vec::<Vec<_>>::new(), "an export without a grant is not told");
    }

    #[test]
    fn members_and_ready_counts_are_told_and_no_backend_that_is_down() {
        let mut now = exporting();
        let told = view(&now, &"bank".parse().unwrap());
        let nodes: Vec<&str> = told.nodes.keys().map(|n| n.as_str()).collect();
        assert_eq!(nodes, ["e1", "e2"]);
        assert_eq!(told.nodes[&"e1".parse().unwrap()], now.this.advertise);
        let ready = |view: &View| view.exports.values().next().unwrap().ports[0].ready.clone();
        let counts = |pairs: &[(&str, u32)]| -> BTreeMap<_, _> {
            pairs.iter().map(|(n, c)| (n.parse().unwrap(), *c)).collect()
        };
        assert_eq!(ready(&told), counts(&[("e1", 1), ("e2", 2)]));
        let export = told.exports.values().next().unwrap();
        assert_eq!((export.hop, export.class, export.replay), (Hop::SameNode, Class::Bulk, true));

        let mut heard = now.clone();
        heard.views.clear();
        heard.workloads.clear();
        assert!(!may_differ(&now, &heard), "what others say is not told");

        let before = now.clone();
        now.down = ["10.0.0.1:80".parse().unwrap(), "10.0.0.3:80".parse().unwrap()].into();
        assert_eq!(ready(&view(&now, &"bank".parse().unwrap())), counts(&[("e2", 1)]));
        assert!(may_differ(&before, &now));
    }
}
