use adit_core::code::Code;
use adit_core::policy::Target;
use adit_core::spiffe::Workload;
use adit_core::wire::report::NodeTrouble;

use super::*;

fn now() -> Timestamp {
    Timestamp::from_second(1_796_000_000).unwrap()
}

fn target(name: &str) -> Target {
    Target { service: format!("agents/{name}").parse().unwrap(), port: "http".parse().unwrap() }
}

fn down(cluster: &str) -> NodeTrouble {
    NodeTrouble {
        subject: TroubleSubject::Link(cluster.parse().unwrap()),
        code: Code::LinkDown,
        is_error: true,
        sentence: format!("no node of {cluster} answers"),
    }
}

fn denied(name: &str, source: &str, count: u64) -> RefusalSeries {
    RefusalSeries {
        is_inbound: false,
        cluster: "bank".parse().unwrap(),
        target: target(name),
        code: Code::Denied,
        source: Some(Workload {
            namespace: "agents".parse().unwrap(),
            service_account: source.parse().unwrap(),
        }),
        count,
        first_ms: 120_000,
        last_ms: 3000,
        sentence: "no grant".into(),
    }
}

fn answers(reports: Vec<NodeReport>) -> BTreeMap<NodeName, NodeAnswer> {
    let answer = |report| NodeAnswer { at: now(), report: Ok(report) };
    let name = |n| format!("e{}", n + 1).parse().unwrap();
    reports.into_iter().enumerate().map(|(n, report)| (name(n), answer(report))).collect()
}

#[test]
fn one_thing_is_one_item_with_the_nodes_that_say_it() {
    let cut_off = NodeReport { troubles: vec![down("bank")], ..NodeReport::default() };
    let busy = NodeReport {
        refusals: vec![denied("x", "a", 1380), denied("x", "b", 4)],
        ..NodeReport::default()
    };
    let both = NodeReport { refusals: vec![denied("x", "a", 1)], ..cut_off.clone() };
    let mut all = answers(vec![busy, both, cut_off]);
    let silent = NodeAnswer { at: now(), report: Err("no answer".into()) };
    all.insert("e9".parse().unwrap(), silent);
    let summary = NodesSummary::from_answers(&all, now());
    assert_eq!((summary.answered, summary.silent), (3, 1));
    assert_eq!(summary.silent_nodes["e9"], "no answer");
    let [link, import] = &summary.items[..] else { panic!("{summary:?}") };
    assert_eq!(link.describe_nodes(summary.answered), "2 of 3 nodes: e2, e3");
    assert_eq!((&*link.kind, &*link.name, &*link.code), ("link", "bank", "link-down"));
    let refused = import.refused.as_ref().unwrap();
    assert_eq!(
        (refused.count, refused.describe_sources().as_str()),
        (1385, " of agents/a, agents/b")
    );
    assert_eq!(refused.since, rfc3339_seconds(now() - SignedDuration::from_secs(120)));
    assert_eq!(refused.last, rfc3339_seconds(now() - SignedDuration::from_secs(3)));
}

#[test]
fn what_waits_on_a_node_is_told_beside_what_is_wrong_there() {
    let own = |is_error, sentence: &str| NodeTrouble {
        subject: TroubleSubject::Node,
        code: Code::LocalError,
        is_error,
        sentence: sentence.into(),
    };
    let (bad, waits) = (own(true, "bad certificate"), own(false, "network.metrics changed"));
    let reports = [vec![bad, waits.clone()], vec![waits]];
    let reports = reports.map(|troubles| NodeReport { troubles, ..NodeReport::default() });
    let summary = NodesSummary::from_answers(&answers(reports.to_vec()), now());
    let said: Vec<_> = summary.items.iter().map(|i| (&*i.sentence, i.error, i.count)).collect();
    assert_eq!(said, [("bad certificate", true, 1), ("network.metrics changed", false, 2)]);
    assert_eq!(summary.stable_part(&summary).items, summary.items, "each keeps its own words");
}

#[test]
fn what_lasts_does_not_differ_while_the_same_is_wrong() {
    let at = |count, words: &str, sources: &[&str]| {
        let mut down = down("bank");
        words.clone_into(&mut down.sentence);
        let refusals = sources.iter().map(|source| denied("x", source, count)).collect();
        let troubles = vec![down];
        let report = NodeReport { troubles, refusals, others: count, ..NodeReport::default() };
        NodesSummary::from_answers(&answers(vec![report]), now() + SignedDuration::from_secs(5))
    };
    let before = at(3, "since 3 s", &["a"]).stable_part(&NodesSummary::default());
    assert_eq!(at(9, "since 9 s", &["a"]).stable_part(&before), before);
    assert_ne!(at(9, "since 9 s", &["a", "b"]).stable_part(&before), before);
    assert_ne!(at(9, "since 9 s", &[]).stable_part(&before), before);
}

#[test]
fn a_summary_has_a_bound_whatever_five_thousand_nodes_say() {
    let full = |n: usize| NodeReport {
        troubles: (0..64)
            .map(|k| NodeTrouble {
                subject: TroubleSubject::Import(target(&format!("t{k}"))),
                code: Code::Unknown(n as u64),
                is_error: true,
                sentence: "s".repeat(400),
            })
            .collect(),
        refusals: (0..32).map(|k| denied(&format!("r{k}"), &format!("s{n}-{k}"), 1)).collect(),
        others: 1,
        ..NodeReport::default()
    };
    let summary = NodesSummary::from_answers(&answers((0..200).map(full).collect()), now());
    let text = serde_json::to_string(&summary).unwrap();
    assert!(text.len() < 48 * 1024, "{} bytes", text.len());
    assert_eq!((summary.items.len(), summary.other_refusals), (MAX_ITEMS, 200));
    assert_eq!(summary.more, 64 * 200 + 32 - MAX_ITEMS);
}

#[test]
fn releases_are_counted_and_the_number_of_them_is_bounded() {
    let of = |version: String| NodeReport { version, ..NodeReport::default() };
    let reports = ["0.1.0", "0.2.0", "0.1.0", ""].map(|version| of(version.to_owned()));
    let summary = NodesSummary::from_answers(&answers(reports.to_vec()), now());
    let counted: Vec<_> = summary.releases.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    assert_eq!(counted, [("", 1), ("0.1.0", 2), ("0.2.0", 1)]);
    let text = serde_json::to_string(&summary).unwrap();
    assert_eq!(serde_json::from_str::<NodesSummary>(&text).unwrap().releases, summary.releases);
    assert_ne!(summary.stable_part(&summary).releases.len(), 0);
    let many = (0..100).map(|n| of(format!("0.{n}.0"))).collect();
    let summary = NodesSummary::from_answers(&answers(many), now());
    assert_eq!(summary.releases.len(), MAX_RELEASES + 1);
    assert_eq!(summary.releases[OTHER_RELEASES], 100 - MAX_RELEASES);
}

#[test]
fn the_count_of_refused_connections_never_falls_while_they_are_refused() {
    let mut totals = RefusalTotals::default();
    let mut told = |counts: &[u64]| {
        let report = |count: &u64| NodeReport {
            refusals: vec![denied("x", "a", *count)],
            ..NodeReport::default()
        };
        let reports = counts.iter().map(report).collect();
        let mut summary = NodesSummary::from_answers(&answers(reports), now());
        totals.apply(&mut summary);
        summary.items.first().and_then(|item| item.refused.as_ref()).map(|refused| refused.count)
    };
    assert_eq!(told(&[100, 7]), Some(107));
    assert_eq!(told(&[110]), Some(110), "one of two nodes has had no more for a while");
    assert_eq!(told(&[5]), Some(110), "it began anew");
    assert_eq!(told(&[6, 2]), Some(113));
    assert_eq!(told(&[]), None);
    assert_eq!(told(&[4]), Some(4), "what has ended is over");
}
