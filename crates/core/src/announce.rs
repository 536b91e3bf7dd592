//! The announcement of this cluster to one other cluster.
//!
//! A function of the snapshot alone, so that all hubs of a cluster announce the same, and a change of policy
//! is announced as soon as it is in force. The announcement has the members and, of the exports, those that
//! have a grant for that very cluster, with those grants only; never a backend's address. What a reader would
//! refuse is left out, and named: one export that does not fit is no reason to withhold the others.
//! [`crate::wire::state`] is how it is sent.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::fault::BackendFault;
use crate::name::{ClusterName, Namespace, NodeName, ServiceName};
use crate::policy::WorkloadPattern;
use crate::routing;
use crate::shared_map::SharedMap;
use crate::snapshot::{ClusterView, Export, ExportPort, PeerExport, PeerPort, Snapshot};
use crate::wire::WireError;
use crate::wire::state::export::{dedup_grants, export_error};
use crate::wire::state::{
    MAX_BYTES, MAX_EXPORTS, MAX_NODES, Omission, Omissions, RecordKey, memory_size,
};

/// The announcement to one other cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Announcement {
    /// The view that is sent, which any reader accepts as a whole.
    pub view: ClusterView,
    /// The records that are left out although the cluster has a right to them, and why.
    pub omitted: Omissions,
}

/// Our cluster as `to` may see it.
#[must_use]
pub fn view(now: &Snapshot, to: &ClusterName) -> ClusterView {
    PreparedAnnouncement::new(now).for_cluster(to).view
}

/// All that may be announced, prepared once for all linked clusters: each of them then costs what is
/// announced to it, not a look at every export.
#[derive(Debug)]
pub struct PreparedAnnouncement<'a> {
    nodes: SharedMap<NodeName, Vec<SocketAddr>>,
    /// Nodes that are left out.
    omitted: Omissions,
    /// Bytes that exports may take.
    export_bytes_left: usize,
    /// Exports that anybody was granted, in order.
    exports: Vec<(&'a Export, Vec<PeerPort>)>,
    /// By cluster: its exports by their index above, each with its grants.
    grants_by_cluster: HashMap<&'a ClusterName, Vec<(usize, Vec<&'a WorkloadPattern>)>>,
}

impl<'a> PreparedAnnouncement<'a> {
    /// Prepares the announcements of this snapshot.
    #[must_use]
    pub fn new(now: &'a Snapshot) -> Self {
        let mut omitted = Omissions::default();
        let nodes = announced_nodes(now, &mut omitted);
        let taken: usize = nodes.iter().map(|(name, a)| memory_size::node(name, a)).sum();
        let mut exports: Vec<(&Export, Vec<PeerPort>)> = Vec::new();
        let mut granted: HashMap<_, Vec<(usize, Vec<_>)>> = HashMap::new();
        for export in now.exports.values().filter(|export| !export.allow.is_empty()) {
            for grant in &export.allow {
                let of = granted.entry(&grant.cluster).or_default();
                match of.last_mut().filter(|(place, _)| *place == exports.len()) {
                    Some((_, grants)) => grants.push(&grant.workloads),
                    None => of.push((exports.len(), vec![&grant.workloads])),
                }
            }
            let ports = export.ports.iter().map(|port| {
                let ready = routing::ready_counts(now, port);
                let fault = if ready.is_empty() { routing::backend_fault(now, port) } else { None };
                announced_port(port, ready, fault)
            });
            exports.push((export, ports.collect()));
        }
        let room = MAX_BYTES.saturating_sub(taken);
        Self { nodes, omitted, export_bytes_left: room, exports, grants_by_cluster: granted }
    }

    /// The announcement to `to`, and what of it does not fit. If not all exports fit, each namespace has its
    /// first announced before any has its second: no tenant takes the place of another.
    #[must_use]
    pub fn for_cluster(&self, to: &ClusterName) -> Announcement {
        let mut omitted = self.omitted.clone();
        let mut exports = Vec::new();
        for (place, grants) in self.grants_by_cluster.get(to).into_iter().flatten() {
            let (export, ports) = &self.exports[*place];
            let (service, told) =
                (&export.service, announced_export(export, ports.clone(), grants));
            match export_error(&told, service) {
                None => exports.push((service.clone(), memory_size::export(service, &told), told)),
                Some(why) => omitted.add(Some(RecordKey::Export(service.clone())), why.into()),
            }
        }
        let size: usize = exports.iter().map(|(_, size, _)| size).sum();
        if exports.len() > MAX_EXPORTS || size > self.export_bytes_left {
            exports = fit_exports(exports, self.export_bytes_left, &mut omitted);
        }
        let exports = exports.into_iter().map(|(service, _, export)| (service, Arc::new(export)));
        let view = ClusterView { nodes: self.nodes.clone(), exports: exports.collect() };
        Announcement { view, omitted }
    }
}

/// The nodes that are announced: all, up to the most that a view may have.
fn announced_nodes(
    now: &Snapshot,
    omitted: &mut Omissions,
) -> SharedMap<NodeName, Vec<SocketAddr>> {
    let mut nodes = SharedMap::clone(&now.siblings);
    nodes.insert(now.local.node.clone(), now.local.advertise.clone());
    let long = |a: &Vec<_>| a.len() > ClusterView::MAX_ADDRESSES;
    if nodes.values().any(long) {
        nodes.values_mut().for_each(|a| a.truncate(ClusterView::MAX_ADDRESSES));
    }
    let surplus: Vec<NodeName> = nodes.keys().skip(MAX_NODES).cloned().collect();
    for name in surplus {
        nodes.remove(&name);
        omitted.add(Some(RecordKey::Node(name)), Omission::Nodes);
    }
    nodes
}

/// An export that would be announced, and its size.
type SizedExport = (ServiceName, usize, PeerExport);

/// As many exports as there is room for, namespaces in turns.
fn fit_exports(
    all: Vec<SizedExport>,
    mut left: usize,
    omitted: &mut Omissions,
) -> Vec<SizedExport> {
    let mut counts: BTreeMap<Namespace, usize> = BTreeMap::new();
    let turn = |one: SizedExport| {
        let count = counts.entry(one.0.namespace.clone()).or_default();
        *count += 1;
        (*count, one)
    };
    let mut turns: Vec<(usize, SizedExport)> = all.into_iter().map(turn).collect();
    // Stable: within one turn by name, as before.
    turns.sort_by_key(|(turn, _)| *turn);
    let mut some = Vec::new();
    for (_, one) in turns {
        let why = match left.checked_sub(one.1) {
            _ if some.len() == MAX_EXPORTS => Omission::Exports,
            None => Omission::Bytes,
            Some(rest) => {
                left = rest;
                some.push(one);
                continue;
            }
        };
        omitted.add(Some(RecordKey::Export(one.0)), why);
    }
    some
}

/// True if [`view`] may give something else for `now` than for `before`, to any cluster. Most snapshots
/// differ in what other clusters announced, and that is announced to nobody.
#[must_use]
pub fn may_differ(before: &Snapshot, now: &Snapshot) -> bool {
    before.local != now.local
        || before.siblings != now.siblings
        || before.links.keys().ne(now.links.keys())
        || before.exports != now.exports
        || before.down != now.down
        || before.never_answered != now.never_answered
        || before.forbidden != now.forbidden
}

/// True if an export fits into the one message that would announce it to `to`, whichever backends are ready.
#[must_use]
pub fn export_fits(export: &Export, to: &ClusterName) -> bool {
    why_export_does_not_fit(export, to).is_none()
}

/// The reason why an export does not fit, in words that end a sentence about it. `None` if it fits.
#[must_use]
pub fn why_export_does_not_fit(export: &Export, to: &ClusterName) -> Option<WireError> {
    let grants: Vec<_> =
        export.allow.iter().filter(|g| g.cluster == *to).map(|g| &g.workloads).collect();
    if grants.is_empty() {
        return None;
    }
    let port =
        |port: &ExportPort| announced_port(port, routing::count_per_node(&port.backends), None);
    let told = announced_export(export, export.ports.iter().map(port).collect(), &grants);
    export_error(&told, &export.service)
}

/// A port as any cluster may see it, with these ready backends, or why there is none.
fn announced_port(
    port: &ExportPort,
    ready: BTreeMap<NodeName, u32>,
    fault: Option<BackendFault>,
) -> PeerPort {
    PeerPort {
        name: port.name.clone(),
        number: port.number,
        app_protocol: port.app_protocol.clone(),
        ready: ready.into_iter().collect(),
        fault,
    }
}

/// An export as a cluster with these grants may see it.
fn announced_export(
    export: &Export,
    ports: Vec<PeerPort>,
    grants: &[&WorkloadPattern],
) -> PeerExport {
    let mut grants: Vec<_> = grants.iter().map(|grant| (*grant).clone()).collect();
    dedup_grants(&mut grants);
    PeerExport { ports, grants, hop: export.hop, class: export.class, replay: export.replay }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::code::Code;
    use crate::policy::Grant;
    use crate::snapshot::{Backend, Class, Hop, ReadyCounts, tests::edge};
    use crate::wire::state::export::{MAX_GRANTS, MAX_PORTS};
    use crate::wire::state::replica::MarkedView;
    use crate::wire::state::{ReceivedMessage, StateMessage, ViewLog, ViewReplica};

    fn announcement(now: &Snapshot, to: &ClusterName) -> Announcement {
        PreparedAnnouncement::new(now).for_cluster(to)
    }

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
            explicit: false,
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
        assert_eq!(told.nodes[&"e1".parse().unwrap()], now.local.advertise);
        let ready =
            |view: &ClusterView| view.exports.values().next().unwrap().ports[0].ready.clone();
        let counts = |pairs: &[(&str, u32)]| -> ReadyCounts {
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
        let down = |address: &str, fault| (address.parse().unwrap(), fault);
        now.down = [
            down("10.0.0.1:80", BackendFault::Refused),
            down("10.0.0.3:80", BackendFault::Timeout),
        ]
        .into();
        let fault = |view: &ClusterView| {
            view.exports.values().next().unwrap().ports[0].fault.map(|f| f.code())
        };
        let told = view(&now, &"bank".parse().unwrap());
        assert_eq!((ready(&told), fault(&told)), (counts(&[("e2", 1)]), None));
        assert!(may_differ(&before, &now));

        // A backend that has never answered is not announced, and neither is a reason.
        now.never_answered.insert("10.0.0.2:80".parse().unwrap());
        assert!(may_differ(&before, &now));
        now.down.clear();
        let told = view(&now, &"bank".parse().unwrap());
        assert_eq!((ready(&told), fault(&told)), (counts(&[("e1", 1), ("e2", 1)]), None));
        now.never_answered
            .extend(["10.0.0.1:80", "10.0.0.3:80"].map(|a| a.parse::<SocketAddr>().unwrap()));
        let told = view(&now, &"bank".parse().unwrap());
        assert_eq!((ready(&told), fault(&told)), (counts(&[]), None));
        now = Snapshot { never_answered: Default::default(), ..before };
        now.down = [
            down("10.0.0.1:80", BackendFault::Refused),
            down("10.0.0.3:80", BackendFault::Timeout),
        ]
        .into();

        // Where none is left, why: over the codec, and whatever any of them is forbidden for.
        now.down.extend([down("10.0.0.2:80", BackendFault::Refused)]);
        now.forbidden.insert("10.0.0.3".parse().unwrap());
        let told = read(&view(&now, &"bank".parse().unwrap())).view;
        assert_eq!((ready(&told), fault(&told)), (counts(&[]), Some(Code::BackendRefused)));
        now.forbidden
            .extend(["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
        let told = read(&view(&now, &"bank".parse().unwrap())).view;
        assert_eq!(fault(&told), Some(Code::BackendForbidden));
    }

    /// `exporting` with these exports alone, each with so many ports and grants.
    fn with(exports: &[(&str, usize, usize)]) -> Snapshot {
        let mut now = exporting();
        let (_, template) = now.exports.pop_first().unwrap();
        now.exports = exports
            .iter()
            .map(|(service, ports, grants)| {
                let port = |n| {
                    let name = format!("p{n}").parse().unwrap();
                    ExportPort { name, ..template.ports[0].clone() }
                };
                let export = Export {
                    service: service.parse().unwrap(),
                    ports: (0..*ports).map(port).collect(),
                    allow: (0..*grants).map(|n| grant("bank", &format!("bot-{n}"))).collect(),
                    ..Export::clone(&template)
                };
                (export.service.clone(), Arc::new(export))
            })
            .collect();
        now
    }

    /// Tells a replica, over the codec, and returns what it makes of it.
    fn read(view: &ClusterView) -> MarkedView {
        let (mut publisher, mut replica) = (ViewLog::new(1), ViewReplica::default());
        publisher.update(view);
        let mut bytes = BytesMut::new();
        let mark = StateMessage::Mark { sequence: 1, age_ms: 0, lost: false };
        publisher.updates_since(None).chain([mark]).for_each(|m| m.encode(&mut bytes));
        let (mut rest, mut last) = (&bytes[..], None);
        while let Some((heard, taken)) = ReceivedMessage::decode(rest).unwrap() {
            rest = &rest[taken..];
            last = replica.receive(heard.unwrap()).unwrap().or(last);
        }
        last.unwrap()
    }

    #[test]
    fn what_a_reader_would_refuse_is_not_told_and_the_rest_is() {
        let now = with(&[
            ("a/fits", MAX_PORTS, MAX_GRANTS),
            ("b/ports", MAX_PORTS + 1, 1),
            ("c/grants", 1, MAX_GRANTS + 1),
            ("d/fits", 1, 1),
        ]);
        let told = announcement(&now, &"bank".parse().unwrap());
        let names: Vec<_> = told.view.exports.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["a/fits", "d/fits"]);
        assert_eq!(
            told.omitted.to_string(),
            "export b/ports (it has more than 100 ports), export c/grants (it has more than 500 grants)"
        );
        let read = read(&told.view);
        assert_eq!((&*read.view, read.omitted.count()), (&told.view, 0));
        let fits: Vec<bool> =
            now.exports.values().map(|e| export_fits(e, &"bank".parse().unwrap())).collect();
        assert_eq!(fits, [true, false, false, true]);
        assert_eq!(announcement(&now, &"lab".parse().unwrap()).omitted.count(), 0, "no grant");
    }

    #[test]
    fn a_namespace_that_exports_too_much_takes_no_other_s_place() {
        let names: Vec<String> = (0..MAX_EXPORTS)
            .map(|n| format!("a/{n:05}"))
            .chain((0..5).map(|n| format!("z/{n}")))
            .collect();
        let exports: Vec<_> = names.iter().map(|name| (&**name, 1, 1)).collect();
        let now = with(&exports);
        let told = announcement(&now, &"bank".parse().unwrap());
        assert_eq!((told.view.exports.len(), told.omitted.count()), (MAX_EXPORTS, 5));
        assert_eq!(told.view.exports.keys().filter(|s| s.namespace.as_str() == "z").count(), 5);
        let text = told.omitted.to_string();
        assert!(text.starts_with("export a/09995 (a view has 10000 exports at most)"), "{text}");
        assert_eq!(announcement(&now, &"bank".parse().unwrap()), told, "again the same");
        let read = read(&told.view);
        assert_eq!((&*read.view, read.omitted.count()), (&told.view, 0));
    }

    #[test]
    fn a_view_that_is_too_large_is_cut_to_what_a_reader_takes() {
        let names: Vec<String> = (0..200).map(|n| format!("n{n:03}/bot")).collect();
        let exports: Vec<_> = names.iter().map(|name| (&**name, MAX_PORTS, MAX_GRANTS)).collect();
        let mut now = with(&exports);
        let many = |node: usize| (format!("n{node}").parse().unwrap(), vec![]);
        now.siblings.extend((0..MAX_NODES + 3).map(many));
        let told = announcement(&now, &"bank".parse().unwrap());
        let ClusterView { nodes, exports } = &told.view;
        assert_eq!(nodes.len(), MAX_NODES);
        let size = nodes.iter().map(|(n, a)| memory_size::node(n, a)).sum::<usize>()
            + exports.iter().map(|(s, e)| memory_size::export(s, e)).sum::<usize>();
        assert!((MAX_BYTES - (1 << 20)..=MAX_BYTES).contains(&size), "{size}");
        assert!(told.omitted.count() > 5 && told.omitted.lacks_room());
        let read = read(&told.view);
        assert_eq!((&*read.view, read.omitted.count()), (&told.view, 0));
    }
}
