use std::sync::Arc;

use super::*;
use crate::api::{Export, ExportPort, Grant, Workloads};
use crate::controller::conditions::ConditionVerdict;
use crate::controller::export::offer::ResolvedExport;

/// An export with so many ports, and grants for bank to accounts of so long a name.
fn export(service: &str, ports: u16, (grants, length): (usize, usize)) -> ResolvedExport {
    let service: ServiceName = service.parse().unwrap();
    let workloads = |n: usize| Workloads {
        namespace: "agents".into(),
        service_account: format!("{n:0length$}"),
    };
    let spec = ExportSpec {
        service: ServiceRef::from(&service),
        ports: (1..=ports)
            .map(|n| ExportPort { name: format!("p{n}"), number: n, app_protocol: None })
            .collect(),
        allow: (0..grants)
            .map(|n| Grant { cluster: "bank".into(), workloads: workloads(n) })
            .collect(),
        backend_service: None,
        hop: None,
        class: None,
        replay: false,
        any_endpoint: false,
        probe_ms: None,
        hold: None,
    };
    let verdict = ConditionVerdict::good("Exported", "");
    ResolvedExport { spec, verdict, backend: service, make_alias: false }
}

/// Exports that are alike.
fn many(
    namespace: &str,
    count: usize,
    (ports, grants): (u16, (usize, usize)),
) -> Vec<ResolvedExport> {
    let name = |n: usize| format!("{namespace}/bot-{n:05}");
    (0..count).map(|n| export(&name(n), ports, grants)).collect()
}

/// Decides about these exports, and keeps in `state` what has a place, as the controller does.
fn decided(all: &[Vec<ResolvedExport>], state: &mut ClusterState) -> ExportDecisions {
    let mut exports = ExportDecisions::default();
    for one in all.iter().flatten() {
        exports.all.insert(one.spec.service.parse().unwrap(), one.clone());
    }
    enforce_quotas(&mut exports, state);
    let stored = |one: &ResolvedExport| {
        let name = one.spec.service.object_name();
        (name.clone(), Arc::new(Export::new(&name, one.spec.clone())))
    };
    state.exports = exports.all.values().map(stored).collect();
    exports
}

fn of(exports: &ExportDecisions, namespace: &str) -> usize {
    exports.all.keys().filter(|service| service.namespace.as_str() == namespace).count()
}

#[test]
fn what_the_exports_of_a_namespace_take_together_is_bounded() {
    let honest = || many("honest", 2_000, (4, (5, 20)));
    for (hostile, most, says) in [
        (
            many("hostile", 200, (1, (500, 3))),
            NAMESPACE_GRANTS / 500,
            "20000 grants at most, and with it they would have 20500",
        ),
        (
            many("hostile", 200, (100, (1, 3))),
            NAMESPACE_PORTS / 100,
            "8000 ports at most, and with it they would have 8100",
        ),
        (
            many("hostile", 200, (1, (400, 250))),
            27,
            "4096 KiB of names of ports and grants at most, and with it they would have",
        ),
    ] {
        let mut state = ClusterState::default();
        let exports = decided(&[honest(), hostile], &mut state);
        assert_eq!((of(&exports, "honest"), of(&exports, "hostile")), (2_000, most), "{says}");
        assert_eq!(exports.left_out.len(), 200 - most);
        let why = &exports.left_out[&"hostile/bot-00199".parse().unwrap()];
        assert!(why.contains(says), "{why}");
    }
}

#[test]
fn who_has_a_place_keeps_it_and_who_grows_asks_anew() {
    let mut state = ClusterState::default();
    let mut exports = many("a", 38, (1, (500, 3)));
    let late = export("a/zz", 1, (500, 3));
    decided(&[exports.clone(), vec![late.clone()]], &mut state);
    // Older by name, and there is room for one of both.
    let early = export("a/aa", 1, (500, 3));
    exports.extend([late, early, export("a/ab", 1, (500, 3))]);
    let now = decided(std::slice::from_ref(&exports), &mut state);
    assert_eq!(now.left_out.keys().map(ToString::to_string).collect::<Vec<_>>(), ["a/ab"]);
    // One that has another port finds no room for it only if there is none.
    exports.retain(|one| one.backend.name() != "ab");
    exports[0].spec.ports.push(ExportPort { name: "q".into(), number: 9, app_protocol: None });
    assert_eq!(decided(std::slice::from_ref(&exports), &mut state).left_out.len(), 0);
    exports[0] = export("a/bot-00000", 1, (501, 3));
    let now = decided(&[exports], &mut state);
    let left_out: Vec<_> = now.left_out.keys().map(|service| service.name()).collect();
    assert_eq!((left_out, now.all.len()), (vec!["bot-00000"], 39));
}

#[test]
fn large_exports_of_others_withdraw_nothing_and_leave_each_namespace_a_share() {
    let mut state = ClusterState::default();
    let honest = many("honest", 1_000, (1, (1, 20)));
    let large = |namespace: &str| many(namespace, 28, (1, (400, 250)));
    assert_eq!(decided(std::slice::from_ref(&honest), &mut state).left_out.len(), 0);
    let hostile: Vec<_> = ["a", "b", "c", "d"].map(large).into();
    let mut all = [hostile, vec![honest]].concat();
    let now = decided(&all, &mut state);
    assert_eq!(of(&now, "honest"), 1_000, "what was exported is");
    let told = |now: &ExportDecisions| -> usize {
        now.all.values().filter_map(|one| ExportCost::of(&one.spec).announced.remove("bank")).sum()
    };
    assert!(told(&now) <= CLUSTER_BYTES - RESERVED_BYTES, "{}", told(&now));
    let why = now.left_out.values().next().unwrap();
    assert!(why.contains("bank is told 12288 KiB of exports at most"), "{why}");
    // One that comes late gets its share; and what is exported stays so though shares are smaller then.
    let before: Vec<_> = now.all.into_keys().collect();
    all.push(many("late", 150, (1, (2, 20))));
    all.extend((0..20).map(|n| many(&format!("other-{n}"), 5, (1, (2, 20)))));
    let now = decided(&all, &mut state);
    assert_eq!((of(&now, "late"), of(&now, "other-7")), (150, 5));
    assert!(before.iter().all(|service| now.all.contains_key(service)));
    assert!(told(&now) <= CLUSTER_BYTES);
}

#[test]
fn what_the_administrator_named_is_never_left_out() {
    let mut state = ClusterState::default();
    let mut named = many("a", 100, (1, (500, 3)));
    named.iter_mut().for_each(|one| one.spec.any_endpoint = true);
    let exports = decided(&[named, many("b", 100, (1, (500, 3)))], &mut state);
    assert_eq!((of(&exports, "a"), of(&exports, "b")), (100, 40));
}

#[test]
fn an_export_costs_what_its_announcement_is_counted_for() {
    let mut spec = export("a/b", 2, (3, 20)).spec;
    spec.ports[0].app_protocol = Some("kgateway.dev/a2a".into());
    spec.allow[0].workloads.service_account = "*".into();
    let cost = ExportCost::of(&spec);
    let port = |port: &ExportPort| adit_core::snapshot::PeerPort {
        name: port.name.parse().unwrap(),
        number: port.number,
        app_protocol: port.app_protocol.as_deref().map(|p| p.parse().unwrap()),
        ready: Default::default(),
        fault: None,
    };
    let told = adit_core::snapshot::PeerExport {
        ports: spec.ports.iter().map(port).collect(),
        grants: spec.allow.iter().map(|g| (&g.workloads).try_into().unwrap()).collect(),
        hop: adit_core::snapshot::Hop::Any,
        class: adit_core::snapshot::Class::Bulk,
        replay: false,
        hold: None,
    };
    let counted = memory_size::export(&spec.service.parse().unwrap(), &told);
    assert_eq!(cost.announced, [("bank".to_owned(), counted)].into());
    assert_eq!((cost.grants, cost.ports), (3, 2));
}
