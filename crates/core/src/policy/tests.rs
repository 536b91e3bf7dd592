use super::*;
use crate::fault::BackendFault;
use crate::snapshot::tests::edge;
use crate::snapshot::{Backend, Class, ExportPort, Hop};

fn workload(namespace: &str, account: &str) -> Workload {
    Workload { namespace: namespace.parse().unwrap(), service_account: account.parse().unwrap() }
}

fn target(text: &str, port: &str) -> Target {
    Target { service: text.parse().unwrap(), port: port.parse().unwrap() }
}

fn fraud() -> Target {
    target("trustusbank-bank-agents/fraud-bot", "http")
}

fn outbound(snapshot: &Snapshot, who: &Workload, what: &Target) -> Result<Permit, Denial> {
    let import = snapshot.imports.iter().next().unwrap();
    authorize_outbound(snapshot, import, what, who)
}

/// `bank` with triage-bot exported to fraud-bot's namesake on edge.
fn bank() -> Snapshot {
    let mut bank = edge();
    bank.local.cluster = "bank".parse().unwrap();
    let export = Export {
        service: "trustusbank-bank-agents/triage-bot".parse().unwrap(),
        ports: vec![ExportPort {
            name: "http".parse().unwrap(),
            number: 8080,
            app_protocol: None,
            has_foreign: false,
            backends: vec![Backend {
                address: "10.244.0.9:8080".parse().unwrap(),
                node: "b1".parse().unwrap(),
                explicit: true,
            }],
        }],
        allow: vec![grant("edge", "trustusbank-bank-agents", "support-bot")],
        hop: Hop::Any,
        class: Class::Interactive,
        replay: false,
        hold: None,
        probe: None,
    };
    bank.exports = [(export.service.clone(), Arc::new(export))].into();
    bank
}

fn grant(cluster: &str, namespace: &str, account: &str) -> Grant {
    Grant {
        cluster: cluster.parse().unwrap(),
        workloads: WorkloadPattern {
            namespace: namespace.parse().unwrap(),
            service_account: account.parse().unwrap(),
        },
    }
}

#[test]
fn outbound_wants_the_import_and_the_grant() {
    let edge = edge();
    let support = workload("trustusbank-bank-agents", "support-bot");
    assert_eq!(outbound(&edge, &support, &fraud()).unwrap().target(), &fraud());

    let stranger = workload("elsewhere", "support-bot");
    let denial = outbound(&edge, &stranger, &fraud()).unwrap_err();
    assert_eq!(denial.code, Code::Denied);
    assert!(denial.reason.contains("allow: {namespace: elsewhere, serviceAccount: support-bot}"));

    let ungranted = workload("trustusbank-bank-agents", "intern-bot");
    let denial = outbound(&edge, &ungranted, &fraud()).unwrap_err();
    assert_eq!(denial.code, Code::Denied);
    assert!(denial.reason.contains(
        "allow: {cluster: edge, namespace: trustusbank-bank-agents, serviceAccount: intern-bot}"
    ));
}

#[test]
fn outbound_distinguishes_a_missing_export_from_a_missing_view() {
    let mut edge = edge();
    let support = workload("trustusbank-bank-agents", "support-bot");
    let code = |snapshot: &Snapshot, t: &Target| outbound(snapshot, &support, t).unwrap_err().code;
    assert_eq!(code(&edge, &target("trustusbank-bank-agents/x", "http")), Code::ExportUnknown);
    let grpc = target("trustusbank-bank-agents/fraud-bot", "grpc");
    assert_eq!(code(&edge, &grpc), Code::PortUnknown);
    edge.views.clear();
    assert_eq!(code(&edge, &fraud()), Code::LinkDown);
}

#[test]
fn inbound_denies_by_default() {
    let bank = bank();
    let triage = target("trustusbank-bank-agents/triage-bot", "http");
    let ask = |cluster: &str, w: Workload, t: &Target| {
        let source = Source { cluster: cluster.parse().unwrap(), workload: w };
        authorize_inbound(&bank, &source, t).map_err(|d| d.code)
    };
    let support = workload("trustusbank-bank-agents", "support-bot");
    assert!(ask("edge", support.clone(), &triage).is_ok());
    // A cluster without any grant is not told that the service exists.
    assert_eq!(ask("shop", support.clone(), &triage), Err(Code::ExportUnknown));
    assert_eq!(ask("edge", workload("other", "support-bot"), &triage), Err(Code::Denied));
    let ports = target("trustusbank-bank-agents/triage-bot", "metrics");
    assert_eq!(ask("edge", support.clone(), &ports), Err(Code::PortUnknown));
    assert_eq!(ask("edge", support, &fraud()), Err(Code::ExportUnknown));
}

#[test]
fn wildcards_never_cross_clusters() {
    let g = grant("edge", "*", "*");
    assert!(g.workloads.matches(&workload("any", "thing")));
    assert_eq!(g.cluster.as_str(), "edge");
    assert!("*".parse::<ClusterName>().is_err(), "a cluster is always named");
}

#[test]
fn one_clusters_grants_do_not_serve_another() {
    let mut bank = bank();
    let export = Arc::make_mut(bank.exports.values_mut().next().unwrap());
    export.allow.push(grant("shop", "shop-agents", "cart-bot"));
    let triage = target("trustusbank-bank-agents/triage-bot", "http");
    let ask = |cluster: &str, w: Workload| {
        let source = Source { cluster: cluster.parse().unwrap(), workload: w };
        authorize_inbound(&bank, &source, &triage).map(drop).map_err(|d| d.code)
    };
    assert_eq!(ask("shop", workload("shop-agents", "cart-bot")), Ok(()));
    let support = workload("trustusbank-bank-agents", "support-bot");
    assert_eq!(ask("shop", support), Err(Code::Denied));
    assert_eq!(ask("edge", workload("shop-agents", "cart-bot")), Err(Code::Denied));
}

#[test]
fn a_permit_is_asked_again() {
    let (mut edge, mut bank) = (edge(), bank());
    let support = workload("trustusbank-bank-agents", "support-bot");
    let out = outbound(&edge, &support, &fraud()).unwrap();
    let source = Source { cluster: "edge".parse().unwrap(), workload: support };
    let triage = target("trustusbank-bank-agents/triage-bot", "http");
    let inward = authorize_inbound(&bank, &source, &triage).unwrap();
    assert_eq!((out.recheck(&edge), inward.recheck(&bank)), (Ok(()), Ok(())));

    edge.views.clear();
    assert_eq!(out.recheck(&edge), Ok(()), "an unheard peer is no reason to end a stream");
    edge.imports = crate::snapshot::Imports::default();
    assert_eq!(out.recheck(&edge).unwrap_err().code, Code::ImportUnknown);
    bank.exports.clear();
    assert_eq!(inward.recheck(&bank).unwrap_err().code, Code::ExportUnknown);
}

#[test]
fn only_the_permits_that_rest_on_what_changed_are_asked_again() {
    let before = edge();
    assert!(changed_bases(&before, &before.clone()).is_empty());
    let (bank, view) = before.views.first_key_value().unwrap();
    let (service, export) = view.exports.first_key_value().unwrap();
    let other: ServiceName = "agents/other".parse().unwrap();
    let basis =
        |cluster: &ClusterName, s: &ServiceName| PermitBasis::Import(cluster.clone(), s.clone());

    // Another cluster is heard, and this one says more: no permit of the first export is touched.
    let shop: ClusterName = "shop".parse().unwrap();
    let mut snapshot = before.clone();
    let more = Arc::make_mut(snapshot.views.get_mut(bank).unwrap());
    more.exports.insert(other.clone(), export.clone());
    more.nodes.clear();
    snapshot.views.insert(shop.clone(), view.clone());
    snapshot.down.insert("10.0.0.1:80".parse().unwrap(), BackendFault::Refused);
    assert_eq!(
        changed_bases(&before, &snapshot),
        [basis(bank, &other), basis(&shop, service)].into()
    );

    // A grant less, a view less, an import less.
    let mut snapshot = before.clone();
    let less = Arc::make_mut(snapshot.views.get_mut(bank).unwrap());
    Arc::make_mut(less.exports.get_mut(service).unwrap()).grants.clear();
    assert_eq!(changed_bases(&before, &snapshot), [basis(bank, service)].into());
    let changes: [fn(&mut Snapshot); 2] =
        [|snapshot| snapshot.views.clear(), |snapshot| snapshot.imports = Default::default()];
    for change in changes {
        let mut snapshot = before.clone();
        change(&mut snapshot);
        assert_eq!(changed_bases(&before, &snapshot), [basis(bank, service)].into());
        assert_eq!(changed_bases(&snapshot, &before), [basis(bank, service)].into());
    }
}
