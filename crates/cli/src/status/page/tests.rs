//! The page of a node that is well, of one that is not, and of one with hostile texts.

use adit_core::text::is_hostile;
use adit_daemon::status::{
    ActiveSource, Backend, ConnectionReport, DialSummary, Export, ExportPort, Grant, ImportPort,
    PeerNode, Reason, StatusProblem, StreamCounts, ViewSource,
};

use super::*;

const PLAIN: Style = Style { width: None, colour: false };

fn link_to_bank() -> Link {
    let connection = ConnectionReport {
        direction: "dialled".into(),
        lane: "interactive".into(),
        remote: "172.18.2.2:7843".into(),
        rtt_ms: 1.234,
        congestion_window: 12_000,
        mtu: 1452,
        streams: 2,
        ..ConnectionReport::default()
    };
    let peer = PeerNode {
        node: "b1".into(),
        hub: true,
        connections: vec![connection],
        ..PeerNode::default()
    };
    Link {
        cluster: "bank".into(),
        state: LinkHealth::Up,
        view: Some(ViewSource { hub: "b1".into(), epoch: 7, sequence: 42, age_seconds: 2 }),
        nodes: vec![peer],
        dials: DialSummary { attempts: 3, ..DialSummary::default() },
        ..Link::default()
    }
}

fn import_of_fraud_bot() -> Import {
    let streams = StreamCounts {
        open: 2,
        total: 1203,
        refused: 4,
        failed: 1,
        bytes_out: 2048,
        bytes_in: 5 << 20,
        last_failure: Some(Reason { code: "denied".into(), sentence: "no grant".into() }),
        ..StreamCounts::default()
    };
    let port = ImportPort {
        name: "http".into(),
        port: 8080,
        listen: vec!["127.0.0.1:15080".into()],
        ready: true,
        backends: [("b1".to_owned(), 2)].into(),
        streams,
        ..ImportPort::default()
    };
    Import {
        service: "agents/fraud-bot".into(),
        from: "bank".into(),
        ports: vec![port],
        ..Import::default()
    }
}

fn export_of_triage_bot() -> Export {
    let backend = Backend {
        address: "10.244.0.9:8080".into(),
        node: "e1".into(),
        state: BackendState::Up,
        ..Backend::default()
    };
    Export {
        service: "agents/triage-bot".into(),
        ports: vec![ExportPort { ready: true, backends: vec![backend], ..ExportPort::default() }],
        allow: vec![Grant {
            cluster: "bank".into(),
            namespace: "agents".into(),
            service_account: "*".into(),
        }],
        hop: "any".into(),
        using: vec![ActiveSource {
            source: "agents/fraud-bot@bank".into(),
            asserted: true,
            streams: 1,
        }],
        ..Export::default()
    }
}

/// Node e1 of `edge`, all well.
fn edge() -> StatusDocument {
    let mut status = StatusDocument::default();
    let node = &mut status.node;
    (node.cluster, node.node) = ("edge".into(), "e1".into());
    node.ready = true;
    node.uptime_seconds = 7260;
    node.boot_id = "1a2b3c4d5e6f70819203a4b5c6d7e8f9".into();
    node.certificate.seconds_left = 80_000;
    status.links.push(link_to_bank());
    status.imports.push(import_of_fraud_bot());
    status.exports.push(export_of_triage_bot());
    status.streams.open = 2;
    status.streams.by_code = [("denied".to_owned(), 4), ("finished".to_owned(), 1199)].into();
    status
}

fn problem(severity: StatusSeverity, about: &str, code: &str, sentence: &str) -> StatusProblem {
    let reason = Reason { code: code.into(), sentence: sentence.into() };
    StatusProblem { severity, about: about.into(), reason }
}

/// The cells of the line that begins with this text.
fn row(page: &str, start: &str) -> Vec<String> {
    let line = page.lines().find(|l| l.trim_start().starts_with(start));
    let line = line.unwrap_or_else(|| panic!("no line begins with {start:?}:\n{page}"));
    line.split("  ").map(str::trim).filter(|c| !c.is_empty()).map(str::to_owned).collect()
}

#[test]
fn streams_that_an_older_process_finishes_are_told_by_the_one_that_serves() {
    let mut status = edge();
    assert!(!render(&status, PLAIN).contains("replaced"));
    status.node.older = OlderProcesses { processes: 1, streams: 3 };
    let page = render(&status, PLAIN);
    assert!(page.contains("1 older process of this node: 3 streams to finish"), "{page}");
}

#[test]
fn a_healthy_node_is_told_on_one_page() {
    let page = render(&edge(), PLAIN);
    assert!(page.starts_with("edge/e1: all is well\n"), "{page}");
    assert_eq!(row(&page, "bank "), ["bank", "up", "b1, change 42", "2 s", "1", "3"]);
    let connection = row(&page, "bank/b1");
    assert_eq!(connection[..4], ["bank/b1 (hub)", "interactive", "dialled", "172.18.2.2:7843"]);
    assert_eq!(connection[4..8], ["1.2 ms", "0.00 %", "11 KiB", "1452"]);
    assert_eq!(
        row(&page, "agents/fraud-bot:http"),
        [
            "agents/fraud-bot:http",
            "bank",
            "127.0.0.1:15080",
            "yes",
            "2 on b1",
            "2",
            "1203",
            "4",
            "1",
            "2.0 KiB",
            "5.0 MiB",
            "no grant (denied)"
        ]
    );
    assert_eq!(row(&page, "10.244.0.9:8080")[3], "up");
    assert_eq!(row(&page, "agents/fraud-bot@bank")[3], "asserted by its cluster, not proven");
    assert!(page.contains("2 open; ended: 4 denied, 1199 finished"), "{page}");
    assert!(page.contains("ready, up 2 h 1 min") && page.contains("(22 h 13 min left)"), "{page}");
    assert!(page.lines().all(|l| l == l.trim_end()), "no blanks at the ends of lines");
}

#[test]
fn a_refusal_that_was_told_to_be_is_told_and_not_wrong() {
    let mut status = edge();
    status.problems = vec![problem(StatusSeverity::Notice, "import a/b", "denied", "no grant")];
    let page = render(&status, PLAIN);
    let head: Vec<_> = page.lines().take(2).collect();
    assert_eq!(head, ["edge/e1: all is well", "  · import a/b: no grant (denied)"]);
}

#[test]
fn what_is_wrong_stands_first() {
    let mut status = edge();
    status.problems = vec![
        problem(StatusSeverity::Error, "link bank", "link-down", "no answer from 172.18.2.2:7843"),
        problem(StatusSeverity::Warning, "certificate", "certificate-ending", "it ends soon"),
    ];
    status.links[0].state = LinkHealth::Down;
    status.links[0].dials = DialSummary {
        attempts: 9,
        failures: 5,
        last_error: Some("timed out".into()),
        ..DialSummary::default()
    };
    let page = render(&status, PLAIN);
    let head: Vec<_> = page.lines().take(3).collect();
    assert_eq!(
        head,
        [
            "edge/e1: 2 things are wrong",
            "  ✗ link bank: no answer from 172.18.2.2:7843 (link-down)",
            "  ! certificate: it ends soon (certificate-ending)",
        ]
    );
    assert!(row(&page, "bank ").contains(&"9 (5 failed since)".to_owned()), "{page}");
    assert!(page.contains("timed out"));
    status.problems.remove(0);
    assert!(render(&status, PLAIN).starts_with("edge/e1: works, with one thing to look at"));
}

#[test]
fn an_empty_node_has_no_empty_tables() {
    let page = render(&StatusDocument::default(), PLAIN);
    for heading in ["LINK", "IMPORT", "EXPORT", "BACKEND", "SOURCE"] {
        assert!(!page.contains(heading), "{page}");
    }
}

#[test]
fn lines_fit_the_terminal_and_colour_is_asked_for() {
    let page = render(&edge(), Style { width: Some(100), colour: false });
    let tables = page.lines().skip_while(|l| *l != "Links");
    for line in tables {
        assert!(line.chars().count() <= 100, "{line}");
    }
    assert!(!page.contains('\u{1b}'));
    assert!(render(&edge(), Style { width: None, colour: true }).contains("\u{1b}["));
}

#[test]
fn nothing_hostile_reaches_the_terminal() {
    let hostile = "a\u{1b}[31m\u{9b}\u{202e}b\r";
    let text = serde_json::to_string(&edge()).unwrap();
    // Every string value of the document that is free text.
    let mut status: StatusDocument =
        serde_json::from_str(&text.replace("fraud-bot", "evil")).unwrap();
    status.problems = vec![problem(StatusSeverity::Error, hostile, hostile, hostile)];
    status.node.cluster = hostile.into();
    status.node.certificate.id = hostile.into();
    status.node.configuration.path = hostile.into();
    status.links[0].cluster = hostile.into();
    status.links[0].reason = Some(Reason { code: hostile.into(), sentence: hostile.into() });
    status.links[0].nodes[0].node = hostile.into();
    status.links[0].nodes[0].connections[0].remote = hostile.into();
    status.imports[0].service = hostile.into();
    status.imports[0].ports[0].backends = [(hostile.to_owned(), 1)].into();
    status.exports[0].using[0].source = hostile.into();
    status.exports[0].ports[0].backends[0].last_dial =
        Some(Reason { code: hostile.into(), sentence: hostile.into() });
    status.streams.by_code = [(hostile.to_owned(), 1)].into();
    let page = render(&status, PLAIN);
    let lines = page.replace('\n', "");
    assert!(!lines.chars().any(is_hostile), "{page}");
    assert!(page.contains("\\u{1b}"));
}
