//! Rights of workloads, while they change: refusals that name the missing line, rights that end under way,
//! addresses that are never dialled.

use adit_core::code::Code;
use adit_core::fault::BackendFault;
use adit_core::policy::Target;
use adit_core::snapshot::Hop;
use adit_dataplane::flow::Direction;
use adit_tests::sim::party::{DirectionEnd, Party};
use adit_tests::sim::{INTERN, NOBODY, SUPPORT, Town, TownPlan, import};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::SECOND;
use crate::hostile::{Peer, header};

/// The code with which e1 refuses a connection from `from`, and why, where that is told.
async fn refused(town: &Town, from: &str) -> (Code, Option<String>) {
    let mut client = town.connect(from).await;
    drop(client.say(10).await);
    assert_eq!(client.end().await, DirectionEnd::Reset(0));
    let ended = town.edge[0].node.flows.ended();
    let codes: Vec<_> = ended.into_keys().map(|(_, code)| code).collect();
    assert_eq!(codes.len(), 1, "{codes:?}");
    (codes[0], town.edge[0].failure().map(|(_, reason)| reason))
}

/// `edge`'s file, whose import is for this account only.
fn own_allow(plan: &TownPlan, account: &str) -> String {
    let allow = format!("from: bank, allow: [{{namespace: agents, serviceAccount: {account}}}]");
    plan.edge(1).replace("from: bank", &allow)
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_what_is_missing_and_dials_nobody() {
    let plan = TownPlan::default();
    let other = "[{cluster: edge, namespace: agents, serviceAccount: audit-bot}]".to_owned();
    let nobody = TownPlan { allow: "[]".to_owned(), ..plan.clone() };
    let somebody = TownPlan { allow: other, ..plan.clone() };
    let none = TownPlan { backends: "[]".to_owned(), ..plan.clone() };
    let grpc = plan.bank(1).replace("name: http", "name: grpc");
    let own = own_allow(&plan, "audit-bot");
    let line = "allow: {cluster: edge, namespace: agents, serviceAccount: support-bot}";
    let own_line = "allow: {namespace: agents, serviceAccount: support-bot}";
    let intern = "serviceAccount: intern-bot}";
    for (what, from, edge, bank, code, text) in [
        ("a workload without a grant", INTERN, None, None, Code::Denied, intern),
        (
            "an address of nobody",
            NOBODY,
            None,
            None,
            Code::SourceUnknown,
            "no workload is known by",
        ),
        ("a grant for others", SUPPORT, None, Some(somebody.bank(1)), Code::Denied, line),
        (
            "no grant at all",
            SUPPORT,
            None,
            Some(nobody.bank(1)),
            Code::ExportUnknown,
            "does not export to us",
        ),
        ("another port", SUPPORT, None, Some(grpc), Code::PortUnknown, "no such port"),
        ("no backend", SUPPORT, None, Some(none.bank(1)), Code::NoBackend, "no ready backend"),
        ("an import for others", SUPPORT, Some(own), None, Code::Denied, own_line),
    ] {
        let town = Town::start(&plan).await;
        let backend = town.backend(1);
        edge.iter().for_each(|text| town.edge[0].configure(text));
        bank.iter().for_each(|text| town.bank[0].configure(text));
        sleep(SECOND).await;
        let (found, reason) = refused(&town, from).await;
        assert_eq!(found, code, "{what}");
        assert!(reason.unwrap_or_default().contains(text), "{what}: {:?}", town.edge[0].failure());
        let counted = town.edge[0].node.flows.groups().values().map(|g| g.refused).sum::<u64>();
        assert_eq!(counted, 1, "{what}: it counts for its import");
        assert!(timeout(SECOND, backend.accept()).await.is_err(), "{what}");
        assert_eq!(town.bank[0].node.flows.ended().len(), 0, "{what}: refused where it was asked");
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_was_lost_refuses_at_once() {
    let town = Town::start(&TownPlan::default()).await;
    town.cut(&[town.sites.bank.ip(1)]);
    sleep(60 * SECOND).await;
    let began = Instant::now();
    assert_eq!(refused(&town, SUPPORT).await.0, Code::LinkDown);
    assert!(began.elapsed() < SECOND / 10, "{:?}", began.elapsed());
    town.cut(&[]);
    sleep(40 * SECOND).await;
    let (mut client, mut server) = town.through(&town.backend(1)).await;
    client.say(1).await.unwrap();
    server.hear(1).await;
}

/// A thousand callers at once, while there is no backend and while there is no link: each is refused at once, for that
/// reason and for no other. The next one after that is carried.
#[tokio::test(start_paused = true)]
async fn a_thousand_at_once_are_refused_at_once_for_the_reason_that_there_is() {
    let plan = TownPlan::default();
    let none = TownPlan { backends: "[]".to_owned(), ..plan.clone() };
    for code in [Code::NoBackend, Code::LinkDown] {
        let town = Town::start(&plan).await;
        let backend = town.backend(1);
        if code == Code::NoBackend {
            town.bank[0].configure(&none.bank(1));
            sleep(SECOND).await;
        } else {
            town.cut(&[town.sites.bank.ip(1)]);
            sleep(60 * SECOND).await;
        }
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for n in 0..1000 {
            let (pods, from) = (town.pods.clone(), format!("10.244.1.10:{}", 40_000 + n));
            callers.spawn(async move {
                let mut client = Party::connect(&pods, &from, import(1)).await;
                client.end().await
            });
        }
        let ends = callers.join_all().await;
        assert!(began.elapsed() < SECOND, "{code}: {:?}", began.elapsed());
        assert!(ends.iter().all(|end| *end == DirectionEnd::Reset(0)), "{code}: {ends:?}");
        assert_eq!(town.edge[0].ended(Direction::Outbound, code), 1000, "{code}");
        let group = town.edge[0].node.flows.groups().into_values().next().unwrap();
        assert_eq!((group.refused, group.open), (1000, 0), "{code}");
        town.bank[0].configure(&plan.bank(1));
        town.cut(&[]);
        sleep(40 * SECOND).await;
        let (mut client, mut server) = town.through(&backend).await;
        client.say(1).await.unwrap();
        server.hear(1).await;
    }
}

/// Whoever speaks from an address that no pod can have is not held as a pod is that its cluster will show in a moment.
#[tokio::test(start_paused = true)]
async fn a_source_on_the_network_of_a_node_is_refused_at_once_and_an_unknown_pod_later() {
    let limits = "{unknownSourceHold: 10s}".to_owned();
    let town = Town::start(&TownPlan { limits, nodes: (2, 1), ..TownPlan::default() }).await;
    for (what, from, seconds, text) in [
        ("a pod that nobody knows", NOBODY, 10, "no workload is known by"),
        ("this node", "10.0.1.1:40000", 0, "10.0.1.1 is an address of a node"),
        ("its loopback", "127.0.0.1:40000", 0, "127.0.0.1 is an address of a node"),
        ("another node", "10.0.1.2:40000", 0, "10.0.1.2 is an address of a node"),
    ] {
        let began = Instant::now();
        let (code, reason) = refused(&town, from).await;
        assert_eq!(code, Code::SourceUnknown, "{what}");
        assert_eq!(began.elapsed().as_secs(), seconds, "{what}");
        assert!(reason.unwrap_or_default().contains(text), "{what}: {:?}", town.edge[0].failure());
    }
}

/// Both workloads have a stream under way; then `change` withdraws one's right, and nobody else's.
async fn withdrawn(change: impl FnOnce(&Town, &TownPlan), code: (Code, Code), text: &str) {
    let plan = TownPlan {
        allow: "[{cluster: edge, namespace: agents, serviceAccount: intern-bot}, {cluster: edge, namespace: agents, serviceAccount: support-bot}]".to_owned(),
        ..TownPlan::default()
    };
    let town = Town::start(&plan).await;
    let backend = town.backend(1);
    let (mut client, mut server) = town.through(&backend).await;
    let mut intern = town.connect(INTERN).await;
    let mut intern_server = backend.accept().await;
    intern.say(100).await.unwrap();
    intern_server.hear(100).await;
    // A change that is none of theirs.
    town.bank[0].configure(
        &TownPlan { export: "probe: {interval: 1m}".to_owned(), ..plan.clone() }.bank(1),
    );
    sleep(SECOND).await;
    assert!(town.bank[0].node.flows.ended().is_empty());
    change(&town, &plan);
    assert_eq!(
        (intern.end().await, intern_server.end().await),
        (DirectionEnd::Reset(0), DirectionEnd::Reset(100))
    );
    sleep(SECOND).await;
    assert_eq!(town.edge[0].ended(Direction::Outbound, code.0), 1, "{:?}", town.edge[0].failure());
    assert_eq!(town.bank[0].ended(Direction::Inbound, code.1), 1, "{:?}", town.bank[0].failure());
    let reasons = [town.edge[0].failure(), town.bank[0].failure()].map(|f| f.unwrap().1);
    assert!(reasons.iter().any(|reason| reason.contains(text)), "{reasons:?}");
    client.say(100).await.unwrap();
    server.hear(100).await;
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_withdrawn_ends_its_streams_with_the_missing_line_and_no_others() {
    let export = |town: &Town, _: &TownPlan| town.bank[0].configure(&TownPlan::default().bank(1));
    let line = "allow: {cluster: edge, namespace: agents, serviceAccount: intern-bot}";
    withdrawn(export, (Code::Revoked, Code::Revoked), line).await;
    let import = |town: &Town, plan: &TownPlan| {
        town.edge[0].configure(&own_allow(plan, "support-bot"));
    };
    let line = "allow: {namespace: agents, serviceAccount: intern-bot}";
    withdrawn(import, (Code::Revoked, Code::Revoked), line).await;
}

#[tokio::test(start_paused = true)]
async fn an_import_that_is_gone_ends_its_streams_and_its_listener() {
    let plan = TownPlan::default();
    let town = Town::start(&plan).await;
    let (mut client, _server) = town.through(&town.backend(1)).await;
    let text = plan.edge(1);
    let (before, after) = (text.find("imports:").unwrap(), text.find("workloads:").unwrap());
    town.edge[0].configure(&format!("{}{}", &text[..before], &text[after..]));
    assert_eq!(client.end().await, DirectionEnd::Reset(0));
    let (code, reason) = town.edge[0].failure().unwrap();
    assert_eq!(code, Code::Revoked);
    assert!(reason.contains("no longer imported"), "{reason}");
    assert!(town.pods.connect(SUPPORT.parse().unwrap(), import(1)).await.is_err());
}

/// Loopback, link-local addresses, the node's own: what an operator writes out is dialled, and the same from
/// elsewhere never is, whoever asks.
#[tokio::test(start_paused = true)]
async fn forbidden_addresses_are_dialled_only_where_the_operator_wrote_them_out() {
    for address in ["127.0.0.1:8080", "169.254.169.254:80", "10.0.2.1:8080"] {
        let backends = format!("[\"{address}\"]");
        let plan = TownPlan { backends, ..TownPlan::default() };
        let town = Town::start(&plan).await;
        let at =
            adit_tests::sim::party::BackendListener::listen(&town.pods, address.parse().unwrap());
        drop(town.through(&at).await);
        sleep(SECOND).await;
        town.bank[0].believe(&plan.bank(1), |config| {
            config.exports[0].ports[0].backends[0].explicit = false;
        });
        sleep(SECOND).await;
        let mut client = town.connect(SUPPORT).await;
        assert_eq!(client.end().await, DirectionEnd::Reset(0), "{address}");
        let (code, reason) = town.edge[0].failure().unwrap();
        assert_eq!(code, Code::BackendForbidden, "{address}: {reason}");
        // Who does not keep to what was announced is refused over there.
        let answer = Peer::start(&town).await.ask(&header(), false).await;
        assert_eq!(answer.code, Code::BackendForbidden, "{address}: {}", answer.reason);
        assert!(timeout(60 * SECOND, at.accept()).await.is_err(), "{address} was dialled");
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_of_another_node_is_not_probed_where_streams_stay_on_its_node() {
    let plan = TownPlan::default();
    let town = Town::start(&plan).await;
    let backend = town.backend(1);
    for (hop, is_probed) in [(Hop::SameNode, false), (Hop::Any, true)] {
        town.bank[0].believe(&plan.bank(1), |config| {
            let export = &mut config.exports[0];
            (export.hop, export.probe) = (hop, Some(SECOND));
            for backend in export.ports.iter_mut().flat_map(|port| &mut port.backends) {
                (backend.node, backend.explicit) = ("b9".parse().unwrap(), false);
            }
        });
        assert_eq!(timeout(10 * SECOND, backend.touched()).await.is_ok(), is_probed, "{hop:?}");
    }
}

/// A hub dials no backend that is another node's to dial, and goes by what that node's word is for as long as it is told.
#[tokio::test(start_paused = true)]
async fn what_another_node_found_of_its_own_backends_counts_while_it_is_told() {
    let plan = TownPlan { nodes: (1, 2), ..TownPlan::default() };
    let town = Town::start(&plan).await;
    town.bank[0].believe(&plan.bank(1), |config| {
        let export = &mut config.exports[0];
        export.hop = Hop::SameNode;
        for backend in export.ports.iter_mut().flat_map(|port| &mut port.backends) {
            (backend.node, backend.explicit) = ("b2".parse().unwrap(), false);
        }
    });
    sleep(SECOND).await;
    let edge = town.sites.edge.name.clone();
    let told = || {
        let view = adit_core::announce::view(&town.bank[0].snapshot.borrow(), &edge);
        let (service, export) = view.exports.first_key_value().unwrap();
        let port = &export.ports[0];
        let target = Target { service: service.clone(), port: port.name.clone() };
        (target, port.ready.len(), port.fault)
    };
    let (target, ready, _) = told();
    assert_eq!(ready, 1);
    let refused = Some(BackendFault::Refused);
    let tell = |valid| {
        let unserved = [(target.clone(), BackendFault::Refused)].into();
        town.bank[0].node.backends.set_remote_faults(unserved, valid);
    };
    tell(10 * SECOND);
    sleep(SECOND).await;
    assert_eq!((told().1, told().2), (0, refused));
    sleep(10 * SECOND).await;
    assert_eq!((told().1, told().2), (1, None), "nobody has said it again");
    tell(1000 * SECOND);
    sleep(SECOND).await;
    assert_eq!((told().1, told().2), (0, refused));
    town.bank[0].node.backends.set_remote_faults(Default::default(), SECOND);
    sleep(SECOND).await;
    assert_eq!((told().1, told().2), (1, None));
}
