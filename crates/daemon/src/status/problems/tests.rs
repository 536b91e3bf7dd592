//! Each kind of problem, and their order.

use super::super::{
    ConnectionReport, Export, ExportPort, Grant, Import, ImportPort, LastMisuse, PeerNode,
};
use super::*;

fn healthy() -> StatusDocument {
    let mut status = StatusDocument::default();
    status.node.ready = true;
    status.node.certificate.life_left = 0.8;
    status.node.certificate.seconds_left = 60_000;
    status
}

#[test]
fn a_healthy_node_has_none() {
    assert_eq!(find_problems(&healthy()), []);
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_wrong() {
    let mut status = healthy();
    status.node.certificate.starts_in_seconds = 3600;
    status.node.certificate.not_before = "2026-01-01T00:00:00Z".into();
    let [problem] = &find_problems(&status)[..] else { panic!("{:?}", find_problems(&status)) };
    assert_eq!(
        (problem.severity, problem.reason.code.as_str()),
        (StatusSeverity::Error, "certificate-not-yet-valid")
    );
    assert!(problem.reason.sentence.contains("2026-01-01T00:00:00Z"), "{problem:?}");
}

#[test]
fn one_is_not_many() {
    let mut status = healthy();
    (status.node.draining, status.streams.open) = (true, 1);
    let said = find_problems(&status).remove(0).reason.sentence;
    assert_eq!(said, "the node is going away; 1 stream is left");
    status.streams.open = 2;
    let said = find_problems(&status).remove(0).reason.sentence;
    assert_eq!(said, "the node is going away; 2 streams are left");
}

#[test]
fn causes_stand_before_what_follows_and_errors_before_warnings() {
    let mut status = healthy();
    let reason = Some(Reason { code: "link-down".into(), sentence: "no answer".into() });
    status.node.certificate.life_left = 0.1;
    status.links.push(Link {
        cluster: "bank".into(),
        state: LinkHealth::Down,
        reason: reason.clone(),
        ..Link::default()
    });
    let port = ImportPort { name: "http".into(), reason, ..ImportPort::default() };
    status.imports.push(Import { service: "a/b".into(), ports: vec![port], ..Import::default() });
    let grant = Grant { cluster: "gone".into(), ..Grant::default() };
    status.exports.push(Export { service: "a/c".into(), allow: vec![grant], ..Export::default() });
    let found: Vec<_> = find_problems(&status).into_iter().map(|p| (p.severity, p.about)).collect();
    let (error, warning) = (StatusSeverity::Error, StatusSeverity::Warning);
    assert_eq!(
        found,
        [
            (error, "link bank".to_owned()),
            (error, "import a/b:http".to_owned()),
            (warning, "certificate".to_owned()),
            (warning, "export a/c".to_owned()),
        ]
    );
}

#[test]
fn a_port_that_does_not_work_names_whom_it_keeps_out() {
    let mut status = healthy();
    let reason = Some(Reason::new(Code::BackendRefused, "10.0.0.9:80 refuses"));
    let port = ExportPort { name: "http".into(), reason, ..ExportPort::default() };
    status.exports.push(Export { service: "a/b".into(), ports: vec![port], ..Export::default() });
    let refused = |source: &str, count| RefusedFlows {
        direction: "inbound".into(),
        service: "a/b".into(),
        port: "http".into(),
        cluster: "bank".into(),
        source: Some(source.into()),
        count,
        first_seconds_ago: 90,
        last_seconds_ago: 2,
        reason: Reason::new(Code::BackendRefused, "no backend answers"),
    };
    status.refused = vec![refused("x/one", 700), refused("x/two", 300)];
    let [problem] = &find_problems(&status)[..] else { panic!("{:?}", find_problems(&status)) };
    let sentence = &problem.reason.sentence;
    assert_eq!(
        sentence,
        "10.0.0.9:80 refuses; 1000 connections of x/one@bank, x/two@bank refused since 1 min 30 s ago, the last 2 s ago"
    );
}

#[test]
fn a_cluster_whose_streams_stall_is_named() {
    let mut status = healthy();
    let stalled = StalledStreams { streams: 10, bytes: 20 << 20, max_bytes: 32 << 20 };
    let link = Link { cluster: "bank".into(), stalled: Some(stalled), ..Link::default() };
    status.links.push(link);
    let [problem] = &find_problems(&status)[..] else { panic!("{:?}", find_problems(&status)) };
    assert_eq!((problem.severity, &*problem.about), (StatusSeverity::Warning, "link bank"));
    let sentence = &problem.reason.sentence;
    assert!(sentence.starts_with("10 streams of bank stalled"), "{sentence}");
    assert!(sentence.contains("20480 KiB of 32768"), "{sentence}");
}

#[test]
fn a_node_that_opens_streams_in_vain_is_named() {
    let mut status = healthy();
    let last = LastMisuse { node: "b3".into(), code: "denied".into(), seconds_ago: 4 };
    let last = Some(last);
    let in_vain = MisuseReport { streams: 3001, asked: 1, closed: 2, refused_connections: 7, last };
    let state = LinkHealth::Up;
    status.links.push(Link { cluster: "bank".into(), state, in_vain, ..Link::default() });
    let [problem] = &find_problems(&status)[..] else { panic!("one problem is found") };
    assert_eq!((problem.severity, problem.about.as_str()), (StatusSeverity::Warning, "link bank"));
    for part in ["b3", "denied", "3001 streams", "2 connections closed", "7 refused"] {
        assert!(problem.reason.sentence.contains(part), "{part}: {problem:?}");
    }
}

#[test]
fn a_node_that_only_meets_our_limit_is_not_called_an_offender() {
    let mut status = healthy();
    let last = Some(LastMisuse { node: "b3".into(), code: "over-limit".into(), seconds_ago: 4 });
    let in_vain = MisuseReport { streams: 12, last, ..MisuseReport::default() };
    let link = Link { cluster: "bank".into(), state: LinkHealth::Up, in_vain, ..Link::default() };
    status.links.push(link);
    let sentence = |status: &StatusDocument| find_problems(status).remove(0).reason.sentence;
    assert!(sentence(&status).contains("raise limits.streamsPerPeer"), "{}", sentence(&status));
    status.links[0].in_vain.closed = 1;
    assert!(sentence(&status).ends_with("`denied.nodes` keeps it out"), "{}", sentence(&status));
}

#[test]
fn a_cluster_of_many_connections_that_says_nothing_of_itself_is_named() {
    let mut status = healthy();
    let node = |n: usize| {
        let connections = vec![ConnectionReport::default()];
        PeerNode { node: format!("m{n}"), connections, ..PeerNode::default() }
    };
    let nodes = (0..256).map(node).collect();
    let link = Link { cluster: "bank".into(), state: LinkHealth::Up, nodes, ..Link::default() };
    status.links.push(link);
    let [problem] = &find_problems(&status)[..] else { panic!("{:?}", find_problems(&status)) };
    assert_eq!((problem.severity, &*problem.about), (StatusSeverity::Warning, "link bank"));
    assert!(problem.reason.sentence.starts_with("256 connections with 256 nodes of bank"));
    status.links[0].nodes.pop();
    assert_eq!(find_problems(&status), []);
}

#[test]
fn a_peer_that_leads_to_our_own_addresses_is_named() {
    let mut status = healthy();
    status.links.push(Link {
        cluster: "bank".into(),
        state: LinkHealth::Up,
        misplaced: Some("b1 at 172.18.1.3:7843".into()),
        ..Link::default()
    });
    let [problem] = &find_problems(&status)[..] else { panic!("{:?}", find_problems(&status)) };
    assert_eq!((problem.severity, &*problem.about), (StatusSeverity::Notice, "link bank"));
    assert_eq!(
        problem.reason.sentence,
        "bank announces its node b1 at 172.18.1.3:7843, which is an address of this cluster: nobody is dialled there"
    );
}

#[test]
fn what_is_left_out_of_a_view_is_told_with_the_peer_and_the_bound() {
    let mut status = healthy();
    let sentence = "export a/b (it has more than 100 ports)".to_owned();
    status.links.push(Link {
        cluster: "bank".into(),
        state: LinkHealth::Up,
        unheard: Some(OmittedItems { count: 1, sentence: sentence.clone() }),
        untold: Some(OmittedItems { count: 2, sentence }),
        ..Link::default()
    });
    let found = find_problems(&status);
    assert!(found.iter().all(|p| p.severity == StatusSeverity::Warning && p.about == "link bank"));
    let codes: Vec<_> = found.iter().map(|p| p.reason.code.as_str()).collect();
    assert_eq!(codes, ["view-cut", "announcement-cut"]);
    assert_eq!(
        found[0].reason.sentence,
        "some of what bank says of itself is left out (1): export a/b (it has more than 100 ports)"
    );
}

#[test]
fn a_bad_file_an_old_certificate_and_a_drain_are_told() {
    let mut status = healthy();
    status.node.configuration.error = Some("line 3: no".into());
    status.node.certificate.seconds_left = -5;
    status.node.draining = true;
    status.node.ready = false;
    let reason = Some(Reason { code: "draining".into(), sentence: "going away".into() });
    let state = LinkHealth::Degraded;
    status.links.push(Link { cluster: "bank".into(), state, reason, ..Link::default() });
    let codes: Vec<_> = find_problems(&status).into_iter().map(|p| p.reason.code).collect();
    assert_eq!(codes, ["certificate-ended", "configuration-rejected", "draining"]);
}

#[test]
fn a_link_that_is_down_is_one_problem_however_many_imports_wait_for_it() {
    let mut status = healthy();
    let reason = Some(Reason { code: "link-down".into(), sentence: "no answer".into() });
    let (cluster, state) = ("bank".to_owned(), LinkHealth::Down);
    status.links.push(Link { cluster, state, reason: reason.clone(), ..Link::default() });
    for n in 0..20 {
        let ports = vec![ImportPort { reason: reason.clone(), ..ImportPort::default() }];
        let (service, from) = (format!("a/b{n}"), "bank".to_owned());
        status.imports.push(Import { service, from, ports, ..Import::default() });
    }
    let found = find_problems(&status);
    let said: Vec<_> = found.iter().map(|p| (&*p.about, &*p.reason.sentence)).collect();
    assert_eq!(said, [("link bank", "no answer; 20 imports wait for it")]);
    // What is wrong with one of them besides is a cause of its own.
    let other = Some(Reason { code: "local-error".into(), sentence: "taken".into() });
    status.imports[3].ports[0].reason = other;
    let about: Vec<_> = find_problems(&status).into_iter().map(|p| p.about).collect();
    assert_eq!(about, ["link bank", "import a/b3"]);
}

#[test]
fn a_port_that_is_ready_and_refuses_is_told_and_one_that_is_not_is_told_once() {
    let mut status = healthy();
    let refused = RefusedFlows {
        direction: "outbound".into(),
        service: "a/b".into(),
        count: 3,
        reason: Reason { code: "denied".into(), sentence: "no grant for agents/x".into() },
        ..RefusedFlows::default()
    };
    status.refused = vec![refused];
    let ports = vec![ImportPort { ready: true, ..ImportPort::default() }];
    status.imports.push(Import { service: "a/b".into(), ports, ..Import::default() });
    let codes = |status: &StatusDocument| {
        find_problems(status).into_iter().map(|p| (p.severity, p.reason.code)).collect::<Vec<_>>()
    };
    assert_eq!(codes(&status), [(StatusSeverity::Warning, "denied".to_owned())]);
    let port = &mut status.imports[0].ports[0];
    (port.ready, port.reason) = (false, Some(Code::NoBackend.into()));
    assert_eq!(codes(&status), [(StatusSeverity::Error, "no-backend".to_owned())]);
}
