//! The condition about an export's backends.

use adit_core::policy::Target;
use adit_core::wire::report::{ExportFault, NodeReport};

use super::*;
use crate::summary::NodeAnswer;

const NAME: &str = "agents.triage-bot";

/// A cluster that exports agents/triage-bot.
fn exporting() -> ControllerStage {
    let rule = "exports:\n  - service: agents/triage-bot\n    allow:\n      - cluster: bank\n        \
                namespace: agents\n        serviceAccount: support-bot\n";
    let stage = ControllerStage::new(rule);
    stage.server.put(
        SERVICES,
        json!({"metadata": {"name": "triage-bot", "namespace": "agents"},
            "spec": {"selector": {"kagent": "triage-bot"}, "ports": [{"name": "http", "port": 8080}]}}),
    );
    stage
}

fn fault(is_whole: bool, fault: Option<BackendFault>, total: u32, here: u32) -> ExportFault {
    let service = "agents/triage-bot".parse().unwrap();
    let target = Target { service, port: "http".parse().unwrap() };
    ExportFault { target, is_whole_export: is_whole, fault, total, here, backend: None }
}

impl ControllerStage {
    /// Has each node report this of its exports.
    fn report(&self, nodes: &[Option<ExportFault>], is_cut: bool) {
        let answer = |(n, said): (usize, &Option<ExportFault>)| {
            let exports = said.iter().cloned().collect();
            let report = NodeReport { exports, is_truncated: is_cut, ..NodeReport::default() };
            let node = format!("e{}", n + 1).parse().unwrap();
            (node, NodeAnswer { at: Timestamp::now(), report: Ok(report) })
        };
        let answers = nodes.iter().enumerate().map(answer).collect();
        self.sum_up(NodesSummary::from_answers(&answers, Timestamp::now()));
    }

    fn export_says(&self) -> Option<(String, String)> {
        self.condition(EXPORTS, NAME, "Ready")
    }

    fn export_message(&self) -> String {
        let object = self.server.get(EXPORTS, "", NAME).unwrap();
        let all = object["status"]["conditions"].as_array().unwrap().clone();
        let one = all.into_iter().find(|c| c["type"] == "Ready").unwrap();
        one["message"].as_str().unwrap().to_owned()
    }

    fn events_of(&self, reason: &str) -> usize {
        self.server.all(EVENTS).iter().filter(|event| event["reason"] == reason).count()
    }
}

fn says(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.into(), reason.into()))
}

#[tokio::test(start_paused = true)]
async fn an_export_whose_backends_are_gone_or_refuse_says_so_and_is_ready_again_with_one_that_answers()
 {
    let mut stage = exporting();
    stage.start("one");
    stage.hear(None);
    stage.report(&[None, None], false);
    eventually("ready", || stage.export_says() == says("True", "Ready")).await;
    let refused = Some(BackendFault::Refused);
    for (said, reason, message) in [
        (
            ExportFault {
                backend: Some("10.244.1.5:80".parse().unwrap()),
                ..fault(true, refused, 2, 1)
            },
            "BackendRefused",
            "no backend of agents/triage-bot answers at port http: connection refused (10.244.1.5:80) \
             (2 backends; 2 of 2 nodes: e1, e2)",
        ),
        (
            fault(true, None, 0, 0),
            "NoBackend",
            "agents/triage-bot has no backend at port http: no endpoint of it is ready; its Service \
             selects pods by kagent=triage-bot (2 of 2 nodes: e1, e2)",
        ),
        (
            fault(true, Some(BackendFault::Forbidden), 1, 0),
            "BackendForbidden",
            "no backend of agents/triage-bot answers at port http: its address is one that may not be dialled \
             (1 backend; 2 of 2 nodes: e1, e2)",
        ),
    ] {
        let began = tokio::time::Instant::now();
        stage.report(&[Some(said.clone()), Some(said.clone())], false);
        eventually(reason, || stage.export_says() == says("False", reason)).await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(stage.export_message(), message);
        eventually("an Event", || stage.events_of(reason) == 1).await;
        stage.report(&[None, Some(said)], false);
        eventually("one node finds one", || stage.export_says().unwrap().0 == "True").await;
    }
    // Of two nodes one has a backend that answers.
    stage.report(&[Some(fault(false, refused, 2, 1)), None], false);
    eventually("named", || stage.export_says() == says("True", "NodesDiffer")).await;
    stage.report(&[None, None], false);
    eventually("ready", || stage.export_says() == says("True", "Ready")).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_s_news_is_no_news_of_an_export() {
    let mut stage = exporting();
    stage.start("one");
    stage.hear(None);
    let gone = fault(true, None, 0, 0);
    stage.report(&[Some(gone.clone()), Some(gone)], false);
    eventually("told", || stage.export_says() == says("False", "NoBackend")).await;
    // Nodes have more to say than they can, and then nobody answers.
    stage.report(&[None, None], true);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(stage.export_says(), says("False", "NoBackend"));
    stage.report(&[], false);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(stage.export_says(), says("False", "NoBackend"));
    stage.report(&[None, None], false);
    eventually("ready", || stage.export_says() == says("True", "Ready")).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_comes_and_goes_is_one_event_a_minute() {
    let mut stage = exporting();
    stage.start("one");
    stage.hear(None);
    for n in 0..60 {
        let total = 1 + n % 7;
        let gone = fault(true, Some(BackendFault::Refused), total, total);
        stage.report(&[Some(gone.clone()), Some(gone)], false);
        tokio::time::sleep(Duration::from_secs(5)).await;
        stage.report(&[None, None], false);
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let events = stage.events_of("BackendRefused");
    assert!((1..=13).contains(&events), "{events} Events in ten minutes");
}
