//! Pages of what nodes said, in the columns and lines that there are.

use adit_core::traffic::{ConversationCounts, NodeTraffic};
use adit_daemon::status::{Reason, StatusProblem};

use super::*;

const PLAIN: Style = Style { width: None, colour: false };

fn counts(account: &str, n: u64) -> ConversationCounts {
    ConversationCounts {
        parties: ConversationParties {
            source: Some(format!("trustusbank-bank-agents/{account}")),
            from: "edge".to_owned(),
            service: "trustusbank-bank-agents/fraud-bot".to_owned(),
            port: "http".to_owned(),
            to: "bank".to_owned(),
        },
        is_outbound: true,
        age_ms: 60_000,
        open: n,
        begun: 10 * n,
        ended: [("finished".to_owned(), 9 * n), ("denied".to_owned(), n / 2)].into(),
        bytes_out: 2048 * n,
        bytes_in: 20 * 1024 * n,
    }
}

fn node(name: &str, uptime_ms: u64, conversations: Vec<ConversationCounts>) -> Box<NodeSample> {
    let link = LinkSample {
        cluster: "bank".to_owned(),
        state: LinkHealth::Up,
        connections: 2,
        rtt_ms: Some(20.04),
        loss_percent: Some(0.1),
        ..LinkSample::default()
    };
    Box::new(NodeSample {
        cluster: "edge".to_owned(),
        node: name.to_owned(),
        links: vec![link],
        imports: ReadyCount { total: 4, ready: 3 },
        traffic: NodeTraffic { uptime_ms, conversations, ..NodeTraffic::default() },
        ..NodeSample::default()
    })
}

fn page(views: Vec<NodeView>) -> TopPage {
    TopPage { views, failures: Vec::new(), every: Duration::from_secs(1) }
}

/// A node that was seen twice, two seconds apart.
fn view(before: &[(&str, u64)], after: &[(&str, u64)]) -> NodeView {
    let all = |of: &[(&str, u64)]| of.iter().map(|(name, n)| counts(name, *n)).collect();
    let mut view = NodeView::new("kind-edge/e1".to_owned());
    view.take(Ok(node("e1", 60_000, all(before))));
    view.take(Ok(node("e1", 62_000, all(after))));
    view
}

#[test]
fn a_page_says_who_talks_with_whom_and_how_much() {
    let page = page(vec![view(&[("a", 1), ("b", 2)], &[("a", 3), ("b", 2)])]);
    assert_eq!(
        page.lines(PLAIN, None),
        [
            "edge: 1 node, imports ready 3 of 4, exports ready 0 of 0",
            "5 streams open, 10 new/s, 2.0 KiB/s out, 20 KiB/s in, every 1.0 s",
            "edge — bank: up, 2 connections, 20.0 ms, 0.1 % lost",
            "",
            "OPEN  NEW/s    OUT/s     IN/s  WHO → WHAT",
            "   3   10.0  2.0 KiB   20 KiB  trustusbank-bank-agents/a@edge → fraud-bot:http@bank",
            "                               ended: 1 denied",
            "   2    0.0      0 B      0 B  trustusbank-bank-agents/b@edge → fraud-bot:http@bank",
        ]
        .map(|line| line.replace("  10.0", "    10"))
    );
}

#[test]
fn eighty_columns_and_few_lines_are_enough() {
    let names: Vec<String> = (0..50).map(|n| format!("bot-with-a-name-{n}")).collect();
    let some: Vec<_> = names.iter().map(|name| (&**name, 1)).collect();
    let mut long = view(&some, &some);
    long.take(Ok({
        let mut sample = node("e1", 63_000, some.iter().map(|(n, k)| counts(n, *k)).collect());
        let reason = Reason { code: "no-backend".to_owned(), sentence: "word ".repeat(100) };
        let problem =
            StatusProblem { about: "import a/b\u{1b}".to_owned(), reason, ..Default::default() };
        sample.problems = vec![problem; 9];
        (sample.traffic.more, sample.traffic.more_open) = (7, 70);
        sample
    }));
    let page = page(vec![long]);
    for height in [5, 12, 24, 100] {
        let lines = page.lines(Style { width: Some(80), colour: false }, Some(height));
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert!(lines.len() <= height.max(9), "{height}: {lines:#?}");
        assert!(!lines.concat().contains('\u{1b}'), "{lines:#?}");
    }
    let lines = page.lines(Style { width: Some(80), colour: false }, Some(24));
    assert_eq!(lines.len(), 24);
    let told = lines.iter().filter(|line| line.contains("/bot-with-a-name-")).count() as u64;
    let more = format!("and {} more, with {} streams", 57 - told, 50 - told + 70);
    assert_eq!(lines.last(), Some(&more), "{lines:#?}");
    let row = " tru…/bot-with-a-name-1@edge → fraud-bot:http@bank";
    assert!(lines.iter().any(|line| line.ends_with(row)), "namespaces are cut first: {lines:#?}");
}

#[test]
fn a_node_that_cannot_be_asked_hides_no_other_and_two_sides_tell_a_stream_once() {
    let mut there = NodeView::new("kind-bank/b1".to_owned());
    there.take(Ok({
        let inbound = ConversationCounts { is_outbound: false, ..counts("a", 3) };
        let sample = *node("b1", 1000, vec![inbound]);
        Box::new(NodeSample { cluster: "bank".to_owned(), links: Vec::new(), ..sample })
    }));
    let mut away = NodeView::new("kind-bank/b2".to_owned());
    away.take(Err("its process has ended".to_owned()));
    let silent = NodeView::new("kind-bank/b3".to_owned());
    let mut page = page(vec![view(&[("a", 1)], &[("a", 3)]), there, away, silent]);
    page.failures.push("context kind-shop: no such context".to_owned());
    assert!(!page.views.iter().all(NodeView::is_settled));
    let lines = page.lines(PLAIN, Some(24)).join("\n");
    assert!(lines.contains("3 streams open") && lines.contains("bank: 1 node"), "{lines}");
    for word in ["kind-shop: no such", "b2: its process has ended", "b3: it has not answered yet"] {
        assert!(lines.contains(word), "{lines}");
    }
    assert_eq!(page.errors().len(), 3);
    let document = serde_json::to_value(page.document()).unwrap();
    assert_eq!(document["nodes"].as_array().unwrap().len(), 2);
    let one = &document["traffic"]["conversations"][0];
    assert_eq!((&one["open"], &one["begunPerSecond"]), (&3.into(), &10.0.into()));
    assert_eq!(one["source"], "trustusbank-bank-agents/a");
}

#[test]
fn links_are_worst_first_and_nobody_s_traffic_is_said() {
    let mut sample = node("e1", 1000, Vec::new());
    let reason = Some(Reason { code: "link-down".to_owned(), sentence: String::new() });
    sample.links.push(LinkSample {
        cluster: "shop".to_owned(),
        state: LinkHealth::Down,
        reason,
        ..LinkSample::default()
    });
    let mut view = NodeView::new("e1".to_owned());
    view.take(Ok(sample));
    let lines = page(vec![view]).lines(PLAIN, None);
    assert_eq!(lines[2], "edge — shop: down (link-down), 0 connections");
    assert_eq!(lines.last().map(String::as_str), Some("nobody talks with anybody"));
}
