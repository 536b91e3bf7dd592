use std::time::Duration;

use bytes::BytesMut;

use super::*;
use crate::code::Code;
use crate::policy::Grant;
use crate::snapshot::{Backend, Class, HoldLimits, Hop, ReadyCounts, tests::edge};
use crate::wire::state::export::{MAX_GRANTS, MAX_PORTS};
use crate::wire::state::replica::MarkedView;
use crate::wire::state::{ReceivedMessage, StateMessage, ViewLog, ViewReplica};

fn announcement(snapshot: &Snapshot, to: &ClusterName) -> Announcement {
    PreparedAnnouncement::new(snapshot).for_cluster(to)
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
        has_foreign: false,
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
        hold: None,
        probe: None,
    };
    let mut snapshot = edge();
    snapshot.siblings = [("e2".parse().unwrap(), vec!["172.18.1.3:7843".parse().unwrap()])].into();
    snapshot.exports = [(export.service.clone(), Arc::new(export))].into();
    snapshot
}

#[test]
fn each_cluster_receives_its_own_grants_only() {
    let grants = |to: &str| {
        let view = view(&exporting(), &to.parse().unwrap());
        view.exports.values().map(|e| e.grants.clone()).collect::<Vec<_>>()
    };
    assert_eq!(grants("bank"), [vec![pattern("fraud-bot"), pattern("audit-bot")]]);
    assert_eq!(grants("lab"), [vec![pattern("*")]]);
    assert_eq!(grants("other"), Vec::<Vec<_>>::new(), "an export without a grant is not told");
}

#[test]
fn members_and_ready_counts_are_announced_and_no_backend_that_is_down() {
    let mut snapshot = exporting();
    let told = view(&snapshot, &"bank".parse().unwrap());
    let nodes: Vec<&str> = told.nodes.keys().map(|n| n.as_str()).collect();
    assert_eq!(nodes, ["e1", "e2"]);
    assert_eq!(told.nodes[&"e1".parse().unwrap()], snapshot.local.advertise);
    let ready = |view: &ClusterView| view.exports.values().next().unwrap().ports[0].ready.clone();
    let counts = |pairs: &[(&str, u32)]| -> ReadyCounts {
        pairs.iter().map(|(n, c)| (n.parse().unwrap(), *c)).collect()
    };
    assert_eq!(ready(&told), counts(&[("e1", 1), ("e2", 2)]));
    let export = told.exports.values().next().unwrap();
    assert_eq!((export.hop, export.class, export.replay), (Hop::SameNode, Class::Bulk, true));

    let mut heard = snapshot.clone();
    heard.views.clear();
    heard.workloads.clear();
    assert!(!may_differ(&snapshot, &heard), "what others say is not told");

    let before = snapshot.clone();
    let down = |address: &str, fault| (address.parse().unwrap(), fault);
    snapshot.down =
        [down("10.0.0.1:80", BackendFault::Refused), down("10.0.0.3:80", BackendFault::Timeout)]
            .into();
    let fault =
        |view: &ClusterView| view.exports.values().next().unwrap().ports[0].fault.map(|f| f.code());
    let told = view(&snapshot, &"bank".parse().unwrap());
    assert_eq!((ready(&told), fault(&told)), (counts(&[("e2", 1)]), None));
    assert!(may_differ(&before, &snapshot));

    // A backend that has never answered is not announced, and neither is a reason.
    snapshot.never_answered.insert("10.0.0.2:80".parse().unwrap());
    assert!(may_differ(&before, &snapshot));
    snapshot.down.clear();
    let told = view(&snapshot, &"bank".parse().unwrap());
    assert_eq!((ready(&told), fault(&told)), (counts(&[("e1", 1), ("e2", 1)]), None));
    snapshot
        .never_answered
        .extend(["10.0.0.1:80", "10.0.0.3:80"].map(|a| a.parse::<SocketAddr>().unwrap()));
    let told = view(&snapshot, &"bank".parse().unwrap());
    assert_eq!((ready(&told), fault(&told)), (counts(&[]), None));
    snapshot = Snapshot { never_answered: Default::default(), ..before };
    snapshot.down =
        [down("10.0.0.1:80", BackendFault::Refused), down("10.0.0.3:80", BackendFault::Timeout)]
            .into();

    // Where none is left, why: over the codec, and whatever any of them is forbidden for.
    snapshot.down.extend([down("10.0.0.2:80", BackendFault::Refused)]);
    snapshot.forbidden.insert("10.0.0.3".parse().unwrap());
    let told = read(&view(&snapshot, &"bank".parse().unwrap())).view;
    assert_eq!((ready(&told), fault(&told)), (counts(&[]), Some(Code::BackendRefused)));
    snapshot
        .forbidden
        .extend(["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
    let told = read(&view(&snapshot, &"bank".parse().unwrap())).view;
    assert_eq!(fault(&told), Some(Code::BackendForbidden));
}

/// `exporting` with these exports alone, each with so many ports and grants.
fn with(exports: &[(&str, usize, usize)]) -> Snapshot {
    let mut snapshot = exporting();
    let (_, template) = snapshot.exports.pop_first().unwrap();
    snapshot.exports = exports
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
    snapshot
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
fn an_export_that_a_reader_would_refuse_is_left_out_and_the_rest_is_announced() {
    let snapshot = with(&[
        ("a/fits", MAX_PORTS, MAX_GRANTS),
        ("b/ports", MAX_PORTS + 1, 1),
        ("c/grants", 1, MAX_GRANTS + 1),
        ("d/fits", 1, 1),
    ]);
    let told = announcement(&snapshot, &"bank".parse().unwrap());
    let names: Vec<_> = told.view.exports.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["a/fits", "d/fits"]);
    assert_eq!(
        told.omitted.to_string(),
        "export b/ports (it has more than 100 ports), export c/grants (it has more than 500 grants)"
    );
    let read = read(&told.view);
    assert_eq!((&*read.view, read.omitted.count()), (&told.view, 0));
    let fits: Vec<bool> =
        snapshot.exports.values().map(|e| export_fits(e, &"bank".parse().unwrap())).collect();
    assert_eq!(fits, [true, false, false, true]);
    assert_eq!(announcement(&snapshot, &"lab".parse().unwrap()).omitted.count(), 0, "no grant");
}

#[test]
fn a_namespace_that_exports_too_much_takes_no_other_s_place() {
    let names: Vec<String> = (0..MAX_EXPORTS)
        .map(|n| format!("a/{n:05}"))
        .chain((0..5).map(|n| format!("z/{n}")))
        .collect();
    let exports: Vec<_> = names.iter().map(|name| (&**name, 1, 1)).collect();
    let snapshot = with(&exports);
    let told = announcement(&snapshot, &"bank".parse().unwrap());
    assert_eq!((told.view.exports.len(), told.omitted.count()), (MAX_EXPORTS, 5));
    assert_eq!(told.view.exports.keys().filter(|s| s.namespace.as_str() == "z").count(), 5);
    let text = told.omitted.to_string();
    assert!(text.starts_with("export a/09995 (a view has 10000 exports at most)"), "{text}");
    assert_eq!(announcement(&snapshot, &"bank".parse().unwrap()), told, "again the same");
    let read = read(&told.view);
    assert_eq!((&*read.view, read.omitted.count()), (&told.view, 0));
}

#[test]
fn large_exports_of_one_namespace_take_no_byte_of_another_s_share() {
    let honest = |namespace: &str, count: usize| {
        (0..count).map(|n| format!("{namespace}/{n:05}")).collect::<Vec<_>>()
    };
    let (small, large) = ([honest("a", 150), honest("z", 3_000)].concat(), honest("m", 120));
    let mut exports: Vec<_> = small.iter().map(|name| (&**name, 1, 1)).collect();
    exports.extend(large.iter().map(|name| (&**name, 1, 1)));
    let mut snapshot = with(&exports);
    // Each as large as one message may be.
    let account = |n| format!("{n:03}{}", ".abcdefghi".repeat(25));
    let many: Vec<Grant> = (0..405).map(|n| grant("bank", &account(n))).collect();
    for name in &large {
        let export = snapshot.exports.get_mut(&name.parse().unwrap()).unwrap();
        Arc::make_mut(export).allow = many.clone();
    }
    let told = announcement(&snapshot, &"bank".parse().unwrap());
    let left_out = |names: &[String]| {
        let is_told = |name: &&String| told.view.exports.contains_key(&name.parse().unwrap());
        names.iter().filter(|name| !is_told(name)).count()
    };
    assert_eq!(left_out(&small), 0, "{}", told.omitted);
    assert!((5..110).contains(&left_out(&large)), "{} of them", left_out(&large));
    assert_eq!(told.omitted.count(), left_out(&large) as u64);
    let read = read(&told.view);
    assert_eq!((&*read.view, read.omitted.count()), (&told.view, 0));
}

#[test]
fn a_view_that_is_too_large_is_cut_to_what_a_reader_takes() {
    let names: Vec<String> = (0..200).map(|n| format!("n{n:03}/bot")).collect();
    let exports: Vec<_> = names.iter().map(|name| (&**name, MAX_PORTS, MAX_GRANTS)).collect();
    let mut snapshot = with(&exports);
    let many = |node: usize| (format!("n{node}").parse().unwrap(), vec![]);
    snapshot.siblings.extend((0..MAX_NODES + 3).map(many));
    let told = announcement(&snapshot, &"bank".parse().unwrap());
    let ClusterView { nodes, exports } = &told.view;
    assert_eq!(nodes.len(), MAX_NODES);
    let size = nodes.iter().map(|(n, a)| memory_size::node(n, a)).sum::<usize>()
        + exports.iter().map(|(s, e)| memory_size::export(s, e)).sum::<usize>();
    assert!((MAX_BYTES - (1 << 20)..=MAX_BYTES).contains(&size), "{size}");
    assert!(told.omitted.count() > 5 && told.omitted.lacks_room());
    let read = read(&told.view);
    assert_eq!((&*read.view, read.omitted.count()), (&told.view, 0));
}

#[test]
fn for_how_long_streams_wait_is_announced_within_a_bound() {
    let told = |hold: Option<HoldLimits>| {
        let mut snapshot = exporting();
        snapshot.exports.values_mut().for_each(|export| Arc::make_mut(export).hold = hold);
        let heard = read(&view(&snapshot, &"bank".parse().unwrap()));
        heard.view.exports.values().next().unwrap().hold
    };
    let limits = HoldLimits { timeout: Duration::from_secs(7), streams: 3 };
    assert_eq!((told(None), told(Some(limits))), (None, Some(limits.timeout)));
    // What a peer says keeps callers waiting here.
    let long = HoldLimits { timeout: Duration::from_secs(1 << 40), streams: 1 };
    assert_eq!(told(Some(long)), Some(HoldLimits::MAX_TIMEOUT));
}

#[test]
fn endpoints_that_do_not_count_are_the_reason_only_where_there_is_no_other() {
    let mut snapshot = exporting();
    let fault = |snapshot: &Snapshot| {
        let told = view(snapshot, &"bank".parse().unwrap());
        told.exports.values().next().unwrap().ports[0].fault.map(BackendFault::code)
    };
    snapshot.exports.values_mut().for_each(|e| Arc::make_mut(e).ports[0].has_foreign = true);
    assert_eq!(fault(&snapshot), None, "some are ready");
    snapshot.exports.values_mut().for_each(|e| Arc::make_mut(e).ports[0].backends.clear());
    assert_eq!(fault(&snapshot), Some(Code::BackendForeign));
}
