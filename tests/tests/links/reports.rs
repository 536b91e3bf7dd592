//! The controller asks nodes how they are, and nobody else is told.

use std::sync::{Arc, Mutex};

use adit_core::code::Code;
use adit_core::name::NodeName;
use adit_core::wire::control::{ControlMessage, Hello};
use adit_core::wire::report::{
    MAX_QUESTION_LEN, MAX_REPORT_LEN, NodeReport, NodeTrouble, TroubleSubject,
};
use adit_tests::sites::{RunningNode, Site};
use adit_transport::links::LinkSettings;
use adit_transport::{RecvError, Tuning};
use tokio::time::sleep;

use crate::hostile::{Stranger, control, open};
use crate::{LinkWorld, SECOND, two};

/// A report that names the node it is of.
fn report(of: &str) -> NodeReport {
    let about = TroubleSubject::Link("bank".parse().unwrap());
    let sentence = format!("said by {of}");
    let trouble = NodeTrouble { subject: about, code: Code::LinkDown, is_error: true, sentence };
    NodeReport { troubles: vec![trouble], ..NodeReport::default() }
}

/// A node of edge that answers so.
fn reporter(world: &LinkWorld, edge: &Site, n: u8, bank: &Site, said: Vec<u8>) -> RunningNode {
    let node = world.run(edge, n, &[(bank, &[1])]);
    node.links.answer_reports(Arc::new(move |_: &[u8]| said.clone()));
    node
}

/// Two nodes of edge that report.
fn reporters(world: &LinkWorld, edge: &Site, bank: &Site) -> [RunningNode; 2] {
    [1, 2].map(|n| {
        let said = report(edge.node(n).as_str()).encode().to_vec();
        reporter(world, edge, n, bank, said)
    })
}

/// The controller of edge.
fn controller(world: &LinkWorld, edge: &Site, bank: &Site) -> RunningNode {
    let name = NodeName::controller();
    let identity = edge.authority.node(name.as_str(), &[]);
    let mut snapshot = edge.snapshot(9, &[bank.link(&[])]);
    snapshot.local.node = name;
    let host = world.network.host(edge.ip(9));
    let (settings, tuning) = (LinkSettings::default(), Tuning::default());
    adit_tests::sites::start(host, &identity, snapshot, 9, settings, tuning)
}

#[tokio::test(start_paused = true)]
async fn the_controller_hears_from_each_node_about_itself() {
    let world = LinkWorld::new();
    let (edge, bank) = two(2, 1);
    let _bank = world.run(&bank, 1, &[(&edge, &[1])]);
    let _nodes = reporters(&world, &edge, &bank);
    let controller = controller(&world, &edge, &bank);
    sleep(SECOND).await;
    for n in [1, 2, 1] {
        let node = edge.node(n);
        let heard = controller.links.ask_report(&node, &[]).await;
        assert_eq!(heard, Ok(report(node.as_str())));
    }
    // One that is away is an error of its own, and keeps nobody from hearing the other.
    world.cut(&[edge.ip(2)]);
    let away = controller.links.ask_report(&edge.node(2), &[]).await.unwrap_err();
    assert!(away.to_string().contains("node e2"), "{away}");
    assert!(controller.links.ask_report(&edge.node(1), &[]).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn neither_siblings_nor_linked_clusters_are_told() {
    let world = LinkWorld::new();
    let (edge, bank) = two(2, 1);
    let b1 = world.run(&bank, 1, &[(&edge, &[1])]);
    let nodes = reporters(&world, &edge, &bank);
    sleep(2 * SECOND).await;
    let sibling = nodes[1].links.ask_report(&edge.node(1), &[]).await.unwrap_err();
    assert_eq!(sibling.code, Code::Denied, "{sibling}");
    let bank = Arc::new(bank);
    drop(b1);
    let stranger = Stranger::new(&world, &bank, 1, &edge);
    let quic = stranger.dial(&edge).await;
    let hello = Hello { boot: [9; 16], ..stranger.hello() };
    let _control = open(&quic, &control(&ControlMessage::Hello(hello))).await;
    let (_send, mut recv) = open(&quic, b"\x03").await;
    assert_eq!(recv.read_chunk(99).await, Err(RecvError::Reset(Code::Denied)));
}

#[tokio::test(start_paused = true)]
async fn a_report_that_is_too_long_or_none_is_refused() {
    let world = LinkWorld::new();
    let (edge, bank) = two(2, 1);
    let _long = reporter(&world, &edge, 1, &bank, vec![0; MAX_REPORT_LEN + 1]);
    let _junk = reporter(&world, &edge, 2, &bank, b"\x03junk".to_vec());
    let controller = controller(&world, &edge, &bank);
    sleep(SECOND).await;
    for n in [1, 2] {
        let refused = controller.links.ask_report(&edge.node(n), &[]).await.unwrap_err();
        assert_eq!(refused.code, Code::ProtocolError, "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_is_told_what_its_controller_says_with_the_question_as_far_as_it_may_be_long() {
    let world = LinkWorld::new();
    let (edge, bank) = two(1, 1);
    let node = world.run(&edge, 1, &[(&bank, &[1])]);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = heard.clone();
    node.links.answer_reports(Arc::new(move |question: &[u8]| {
        hear.lock().unwrap().push(question.len());
        Vec::new()
    }));
    let controller = controller(&world, &edge, &bank);
    sleep(SECOND).await;
    for length in [0, 99, MAX_QUESTION_LEN, MAX_QUESTION_LEN + 1] {
        let question = vec![7; length];
        let report = controller.links.ask_report(&edge.node(1), &question).await;
        assert_eq!(report, Ok(NodeReport::default()));
    }
    assert_eq!(*heard.lock().unwrap(), [0, 99, MAX_QUESTION_LEN, 0]);
}
