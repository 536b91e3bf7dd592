//! Each thing that can be wrong with an import or an export, and which of two is told first.

use std::sync::Arc;

use adit_core::fault::BackendFault;
use adit_core::snapshot::{
    Backend, ClusterView, Export, ExportPort, Import, ImportPort, LocalNode, PeerExport, PeerPort,
    SiblingTable,
};

use super::super::Reason;
use super::*;

const FRAUD: &str = "trustusbank-bank-agents/fraud-bot";
const TRIAGE: &str = "trustusbank-bank-agents/triage-bot";

fn workloads(account: &str) -> WorkloadPattern {
    WorkloadPattern {
        namespace: "trustusbank-bank-agents".parse().unwrap(),
        service_account: account.parse().unwrap(),
    }
}

fn peer_export() -> PeerExport {
    let port = PeerPort {
        name: "http".parse().unwrap(),
        number: 8080,
        app_protocol: None,
        ready: [("b1".parse().unwrap(), 2)].into(),
        fault: None,
    };
    PeerExport {
        ports: vec![port],
        grants: vec![workloads("support-bot")],
        hop: snapshot::Hop::Any,
        class: snapshot::Class::Interactive,
        replay: false,
        hold: None,
    }
}

/// The view of bank: one node, and this export.
fn view(export: PeerExport) -> ClusterView {
    ClusterView {
        nodes: [("b1".parse().unwrap(), vec![])].into(),
        exports: [(FRAUD.parse().unwrap(), Arc::new(export))].into(),
    }
}

/// Node e1 of `edge`, which imports fraud-bot from `bank` and exports triage-bot to it; all is well.
fn edge() -> Snapshot {
    let import = Import {
        service: FRAUD.parse().unwrap(),
        from: "bank".parse().unwrap(),
        ports: vec![ImportPort {
            name: "http".parse().unwrap(),
            number: 8080,
            listen: vec!["127.0.0.1:15080".parse().unwrap()],
        }],
        allow: vec![workloads("*")],
        displaced_by: None,
    };
    let backend = |address: &str| Backend {
        address: address.parse().unwrap(),
        node: "e1".parse().unwrap(),
        explicit: true,
    };
    let export = Export {
        service: TRIAGE.parse().unwrap(),
        ports: vec![ExportPort {
            name: "http".parse().unwrap(),
            number: 8080,
            app_protocol: None,
            backends: vec![backend("10.244.0.9:8080"), backend("10.244.0.10:8080")],
            has_foreign: false,
        }],
        allow: vec![adit_core::policy::Grant {
            cluster: "bank".parse().unwrap(),
            workloads: workloads("fraud-bot"),
        }],
        hop: snapshot::Hop::Any,
        class: snapshot::Class::Interactive,
        replay: false,
        hold: None,
        probe: None,
    };
    let view = view(peer_export());
    Snapshot {
        local: LocalNode {
            cluster: "edge".parse().unwrap(),
            trust_domain: "edge.trustusbank.example".parse().unwrap(),
            node: "e1".parse().unwrap(),
            advertise: Vec::new(),
        },
        siblings: SiblingTable::default(),
        links: BTreeMap::new(),
        imports: [import].into_iter().collect(),
        exports: [(TRIAGE.parse().unwrap(), Arc::new(export))].into(),
        workloads: Default::default(),
        views: [("bank".parse().unwrap(), Arc::new(view))].into(),
        down: BTreeMap::new(),
        never_answered: BTreeSet::new(),
        forbidden: BTreeSet::new(),
    }
}

fn link(state: LinkHealth) -> Link {
    let reason = (state != LinkHealth::Up)
        .then(|| Reason::new(Code::LinkDown, "no answer from 172.18.2.2:7843"));
    Link { cluster: "bank".into(), state, reason, ..Link::default() }
}

fn build(snapshot: &Snapshot, state: LinkHealth, not_listening: &[(&str, &str)]) -> StatusDocument {
    let not_listening =
        not_listening.iter().map(|(a, why)| (a.parse().unwrap(), (*why).to_owned())).collect();
    let mut node = NodeStatus { ready: true, ..NodeStatus::default() };
    node.certificate.life_left = 1.0;
    build_status(StatusInputs {
        node,
        snapshot,
        links: vec![link(state)],
        siblings: Vec::new(),
        denied: Vec::new(),
        not_listening: &not_listening,
        traffic: Traffic::default(),
    })
}

fn import_code(status: &StatusDocument) -> &str {
    status.imports[0].ports[0].reason.as_ref().map_or("ready", |r| &r.code)
}

fn export_code(status: &StatusDocument) -> &str {
    status.exports[0].ports[0].reason.as_ref().map_or("ready", |r| &r.code)
}

fn change_view(snapshot: &mut Snapshot, change: impl FnOnce(&mut PeerExport)) {
    let mut export = peer_export();
    change(&mut export);
    let view = view(export);
    snapshot.views.insert("bank".parse().unwrap(), Arc::new(view));
}

fn change_export(snapshot: &mut Snapshot, change: impl FnOnce(&mut Export)) {
    change(Arc::make_mut(snapshot.exports.values_mut().next().unwrap()));
}

#[test]
fn all_well_is_told_as_such() {
    let status = build(&edge(), LinkHealth::Up, &[]);
    assert_eq!((import_code(&status), export_code(&status)), ("ready", "ready"));
    assert_eq!(status.imports[0].ports[0].backends, [("b1".to_owned(), 2)].into());
    assert_eq!(status.problems, []);
}

#[test]
fn the_first_thing_wrong_with_an_import_is_told() {
    // Each change breaks one more thing, from the last that a stream would meet to the first.
    let mut now = edge();
    change_view(&mut now, |e| e.ports[0].ready.clear());
    assert_eq!(import_code(&build(&now, LinkHealth::Up, &[])), "no-backend");
    change_view(&mut now, |e| e.ports[0].ready = [("b2".parse().unwrap(), 1)].into());
    let status = build(&now, LinkHealth::Up, &[]);
    assert_eq!(import_code(&status), "no-backend", "b2 is not announced");
    assert!(status.imports[0].ports[0].backends.is_empty());
    change_view(&mut now, |e| {
        e.ports[0].ready.clear();
        e.grants = vec![WorkloadPattern { namespace: "other".parse().unwrap(), ..workloads("*") }];
    });
    let status = build(&now, LinkHealth::Up, &[]);
    assert_eq!(import_code(&status), "denied");
    let sentence = &status.imports[0].ports[0].reason.as_ref().unwrap().sentence;
    assert!(
        sentence.contains("trustusbank-bank-agents/*") && sentence.contains("other/*"),
        "{sentence}"
    );
    change_view(&mut now, |e| {
        e.grants.clear();
        e.ports[0].name = "grpc".parse().unwrap();
    });
    let status = build(&now, LinkHealth::Up, &[]);
    assert_eq!(import_code(&status), "port-unknown");
    assert!(
        status.problems[0].reason.sentence.contains("it has \"grpc\""),
        "{:?}",
        status.problems
    );
    now.views.insert("bank".parse().unwrap(), Arc::new(ClusterView::default()));
    assert_eq!(import_code(&build(&now, LinkHealth::Up, &[])), "export-unknown");
    now.views.clear();
    let status = build(&now, LinkHealth::Up, &[]);
    assert_eq!(import_code(&status), "link-down");
    assert!(status.problems[0].reason.sentence.contains("nothing is known"));
    let status = build(&now, LinkHealth::Down, &[]);
    assert_eq!(import_code(&status), "link-down");
    let about: Vec<_> = status.problems.iter().map(|p| p.about.as_str()).collect();
    assert_eq!(about, ["link bank"], "the import waits for it");
    let status = build(&now, LinkHealth::Down, &[("127.0.0.1:15080", "address in use")]);
    assert_eq!(import_code(&status), "local-error");
}

#[test]
fn an_import_that_is_displaced_is_not_ready_however_well_the_other_side_is() {
    let mut now = edge();
    let mut import = (**now.imports.iter().next().unwrap()).clone();
    import.displaced_by = Some("EndpointSlice by-hand".into());
    now.imports = [import].into_iter().collect();
    let status = build(&now, LinkHealth::Up, &[]);
    assert_eq!(import_code(&status), "import-unknown");
    assert!(status.problems[0].reason.sentence.contains("EndpointSlice by-hand"), "{status:?}");
}

#[test]
fn a_view_that_outlives_its_link_makes_no_import_ready() {
    assert_eq!(import_code(&build(&edge(), LinkHealth::Down, &[])), "link-down");
    assert_eq!(import_code(&build(&edge(), LinkHealth::Degraded, &[])), "ready");
}

#[test]
fn the_first_thing_wrong_with_an_export_is_told() {
    let mut now = edge();
    now.down.insert("10.244.0.9:8080".parse().unwrap(), BackendFault::Refused);
    let status = build(&now, LinkHealth::Up, &[]);
    assert_eq!(export_code(&status), "ready");
    assert_eq!(status.problems.len(), 1, "one of two is a warning: {:?}", status.problems);
    now.down.insert("10.244.0.10:8080".parse().unwrap(), BackendFault::Refused);
    assert_eq!(export_code(&build(&now, LinkHealth::Up, &[])), "no-backend");
    for code in [Code::BackendRefused, Code::BackendTimeout] {
        let mut traffic = Traffic::default();
        traffic.dials.insert("10.244.0.10:8080".parse().unwrap(), Reason::from(code));
        let facts = StatusInputs {
            node: NodeStatus { ready: true, ..NodeStatus::default() },
            snapshot: &now,
            links: vec![link(LinkHealth::Up)],
            siblings: Vec::new(),
            denied: Vec::new(),
            not_listening: &BTreeMap::new(),
            traffic,
        };
        assert_eq!(export_code(&build_status(facts)), code.name());
    }

    now.down.clear();
    change_export(&mut now, |e| {
        e.hop = snapshot::Hop::SameNode;
        e.ports[0].backends.iter_mut().for_each(|b| b.node = "e2".parse().unwrap());
    });
    assert_eq!(export_code(&build(&now, LinkHealth::Up, &[])), "hop-refused");
    now.siblings.insert("e2".parse().unwrap(), Vec::new());
    assert_eq!(export_code(&build(&now, LinkHealth::Up, &[])), "ready");

    now.forbidden
        .extend(["10.244.0.9", "10.244.0.10"].map(|a| a.parse::<std::net::IpAddr>().unwrap()));
    change_export(&mut now, |e| e.ports[0].backends.iter_mut().for_each(|b| b.explicit = false));
    assert_eq!(export_code(&build(&now, LinkHealth::Up, &[])), "backend-forbidden");
    change_export(&mut now, |e| e.ports[0].backends.clear());
    assert_eq!(export_code(&build(&now, LinkHealth::Up, &[])), "no-backend");
    change_export(&mut now, |e| e.allow.clear());
    assert_eq!(export_code(&build(&now, LinkHealth::Up, &[])), "denied");
}

#[test]
fn the_document_survives_a_round_trip_and_a_reader_of_another_version() {
    let mut status = build(&edge(), LinkHealth::Degraded, &[]);
    status.exports[0].using.push(ActiveSource {
        source: "a/b@bank".into(),
        asserted: true,
        streams: 2,
    });
    let mut json = serde_json::to_value(&status).unwrap();
    assert_eq!(serde_json::from_value::<StatusDocument>(json.clone()).unwrap(), status);
    json["links"][0]["state"] = "resting".into();
    json["links"][0]["mood"] = "new".into();
    json["imports"][0].as_object_mut().unwrap().remove("allow");
    let read: StatusDocument = serde_json::from_value(json).unwrap();
    assert_eq!(read.links[0].state, LinkHealth::Unknown);
}

#[test]
fn what_comes_from_a_denied_cluster_is_not_ready_and_says_so() {
    let snapshot = edge();
    let denied =
        |entry: &str| vec![DenyEntryStatus { entry: entry.into(), ..DenyEntryStatus::default() }];
    let status = |denied| {
        build_status(StatusInputs {
            node: NodeStatus { ready: true, ..NodeStatus::default() },
            snapshot: &snapshot,
            links: vec![link(LinkHealth::Up)],
            siblings: Vec::new(),
            denied,
            not_listening: &BTreeMap::new(),
            traffic: Traffic::default(),
        })
    };
    assert_eq!(import_code(&status(denied("denied.clusters: bank"))), "denied-identity");
    assert_eq!(import_code(&status(denied("denied.clusters: shop"))), "ready");
}

#[test]
fn a_sentence_is_no_longer_for_what_a_peer_says_at_length() {
    let patterns: Vec<WorkloadPattern> =
        (0..400).map(|n| workloads(&format!("{n}-{}", "x".repeat(50)))).collect();
    let said = list(&patterns);
    assert!(said.ends_with(" and 395 more") && said.len() < 2048, "{said}");
    let reason = Reason::new(Code::Denied, "a word ".repeat(100_000));
    assert!(reason.sentence.len() <= 2048);
}
