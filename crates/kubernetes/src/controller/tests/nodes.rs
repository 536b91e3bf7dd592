//! Nodes' reports of themselves, in conditions and Events.

use super::*;
use crate::summary::RefusedConnections;

fn item(kind: &str, name: &str, code: &str, nodes: &[&str]) -> SummaryItem {
    SummaryItem {
        kind: kind.into(),
        name: name.into(),
        code: code.into(),
        error: true,
        count: nodes.len(),
        nodes: nodes.iter().map(|&node| node.into()).collect(),
        sentence: "b1 does not answer".into(),
        refused: None,
    }
}

fn refused(sources: &[&str]) -> SummaryItem {
    let sources = sources.iter().map(|&source| source.into()).collect();
    let refused = RefusedConnections { sources, ..RefusedConnections::default() };
    let item = item("import", "agents/fraud-bot", "denied", &["e1", "e2"]);
    SummaryItem { refused: Some(refused), ..item }
}

impl ControllerStage {
    fn message(&self, collection: &str, name: &str, kind: &str) -> Option<String> {
        let object = self.server.get(collection, "", name)?;
        let all = object["status"]["conditions"].as_array()?.clone();
        Some(all.into_iter().find(|c| c["type"] == kind)?["message"].as_str()?.to_owned())
    }

    fn events(&self, reason: &str) -> usize {
        self.server.all(EVENTS).iter().filter(|event| event["reason"] == reason).count()
    }

    fn has_event(&self, reason: &str) -> bool {
        self.server.all(EVENTS).iter().any(|event| event["reason"] == reason)
    }
}

#[tokio::test(start_paused = true)]
async fn one_node_of_two_that_is_cut_off_is_named_and_all_of_them_are_a_link_that_is_down() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    stage.say(vec![item("link", "bank", "link-down", &["e2"])]);
    let says = |kind| stage.message(LINKS, "bank", kind);
    let text = "1 of 2 nodes cannot reach bank: e2 (b1 does not answer)";
    eventually("named", || says("NodesDown").as_deref() == Some(text)).await;
    eventually("an Event", || stage.has_event("NodesCutOff")).await;
    let up = || stage.condition(LINKS, "bank", "Up").unwrap();
    assert_eq!(up(), ("True".into(), "LinkUp".into()));
    stage.say(vec![item("link", "bank", "link-down", &["e1", "e2"])]);
    eventually("down", || up() == ("False".into(), "LinkDown".into())).await;
    assert_eq!(says("NodesDown"), None);
    assert_eq!(says("Up").unwrap(), "no node of ours can reach bank: b1 does not answer");
    // Nodes may know different causes of one outage: the one that says more is shown.
    let differ =
        vec![item("link", "bank", "link-down", &["e1"]), item("link", "bank", "one-way", &["e2"])];
    stage.say(differ);
    eventually("said", || up() == ("False".into(), "OneWay".into())).await;
    assert_eq!(says("NodesDown"), None);
    stage.say(vec![]);
    eventually("up", || up() == ("True".into(), "LinkUp".into())).await;
}

#[tokio::test(start_paused = true)]
async fn why_a_link_is_down_is_said_as_soon_as_a_node_has_said_it() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    // That it is down is known before any node has been asked why.
    stage.peers.send_modify(|peers| {
        let mut fresh = LinkedClusters::clone(peers);
        fresh.clusters.values_mut().for_each(|heard| heard.live = false);
        *peers = Arc::new(fresh);
    });
    let says = || stage.message(LINKS, "bank", "Up").unwrap();
    eventually("down", || says() == "no node of ours hears bank").await;
    stage.say(vec![item("link", "bank", "link-down", &["e1", "e2"])]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(says(), "no node of ours can reach bank: b1 does not answer");
}

/// As after a restart of a whole cluster whose peer has got other addresses: the stored condition says Ready, and no
/// node has heard the peer since.
#[tokio::test(start_paused = true)]
async fn an_import_is_not_ready_where_no_node_has_reached_its_cluster_since_all_were_started() {
    let mut stage = ControllerStage::new(IMPORT);
    let first = stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    first.cancel();
    let silent = LinkedClusters { reporting: true, ..LinkedClusters::default() };
    stage.peers.send_replace(Arc::new(silent));
    stage.start("two");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(stage.import_says("True", "Ready"), "nobody has said anything");
    stage.say(vec![item("link", "bank", "link-down", &["e2"])]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(stage.import_says("True", "Ready"), "the other node may hear it");
    stage.say(vec![item("link", "bank", "link-down", &["e1", "e2"])]);
    eventually("told", || stage.import_says("False", "LinkDown")).await;
    eventually("not ready", || stage.ready() == Some(false)).await;
    stage.say(vec![]);
    stage.hear(Some(1));
    eventually("ready again", || stage.ready() == Some(true)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_silent_is_named_by_each_link() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    let say = |silent: usize| {
        let why = (0..silent).map(|_| ("e2".to_owned(), "did not report in time".to_owned()));
        let nodes = NodesSummary {
            answered: 1,
            silent,
            silent_nodes: why.collect(),
            ..NodesSummary::default()
        };
        stage.peers.send_modify(|peers| {
            *peers = Arc::new(LinkedClusters {
                nodes: Arc::new(nodes.clone()),
                ..LinkedClusters::clone(peers)
            });
        });
    };
    say(1);
    let down = || stage.condition(LINKS, "bank", "NodesDown");
    eventually("told", || down() == Some(("True".into(), "NodesSilent".into()))).await;
    let text = "1 of 2 nodes do not tell the controller how they are: e2 (did not report in time)";
    assert_eq!(stage.message(LINKS, "bank", "NodesDown").as_deref(), Some(text));
    eventually("an Event", || stage.has_event("NodesSilent")).await;
    say(0);
    eventually("over", || down().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn callers_that_are_refused_are_a_condition_that_is_not_rewritten_all_the_time() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    let refusing = || stage.condition(IMPORTS, "agents.fraud-bot", "Refusing");
    stage.say(vec![refused(&["agents/a"])]);
    eventually("told", || refusing() == Some(("True".into(), "Denied".into()))).await;
    eventually("an Event", || stage.has_event("CallersRefused")).await;
    let message = || stage.message(IMPORTS, "agents.fraud-bot", "Refusing").unwrap();
    assert_eq!(message(), "connections of agents/a are refused: b1 does not answer (denied)");
    // A tenant that changes its ServiceAccount every second writes nothing by it.
    let updates = || {
        let is_status = |w: &String| w.contains("/imports/agents.fraud-bot/status");
        stage.writes().iter().filter(|w| is_status(w)).count()
    };
    let before = updates();
    for n in 0..60 {
        stage.say(vec![refused(&[&format!("agents/s{n}")])]);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(updates() - before <= 2, "{} writes in a minute", updates() - before);
    assert!(message().contains("agents/s"), "{}", message());
    assert_eq!(stage.events("CallersRefused"), 1, "one cause");
    let mut other = refused(&["agents/a"]);
    other.code = "no-backend".into();
    stage.say(vec![refused(&["agents/a"]), other]);
    eventually("another cause", || stage.events("CallersRefused") == 2).await;
    stage.say(vec![]);
    eventually("over", || refusing().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn an_import_says_why_no_backend_of_the_other_side_answers() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    let ports = [("http", 8080)];
    for (fault, reason, words) in [
        (BackendFault::Refused, "BackendRefused", "connection refused"),
        (BackendFault::Timeout, "BackendTimeout", "no answer in time"),
        (BackendFault::Forbidden, "BackendForbidden", "its address is one that may not be dialled"),
    ] {
        stage.hear_faulty(&ports, Some(0), Some(fault));
        eventually("told", || stage.import_says("False", reason)).await;
        let message = stage.message(IMPORTS, "agents.fraud-bot", "Ready").unwrap();
        assert_eq!(message, format!("no backend of agents/fraud-bot in bank answers: {words}"));
    }
    stage.hear(Some(0));
    eventually("no fault", || stage.import_says("False", "NoBackend")).await;
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
}
