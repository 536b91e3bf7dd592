//! Imports that were served here and are no longer exported: they stay listed until somebody says
//! that they are not wanted.

use super::*;

/// A Service without a selector that waits to be filled.
fn stub(server: &FakeApiServer) {
    let stub = json!({"metadata": {"name": "fraud-bot", "namespace": "agents", "uid": "s"},
        "spec": {"ports": [{"name": "http", "port": 8080}], "ipFamilies": ["IPv4"]}});
    server.put(SERVICES, stub);
}

fn is_listed(stage: &ControllerStage) -> bool {
    let import = stage.server.get(IMPORTS, "", "agents.fraud-bot");
    import.is_some_and(|import| import["spec"]["releasedAt"].is_null())
}

/// An import by itself that was ready, and that bank has withdrawn.
async fn withdrawn() -> (ControllerStage, CancellationToken) {
    let mut stage = ControllerStage::new(OPENED);
    stub(&stage.server);
    let stop = stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.import_says("True", "Ready")).await;
    stage.hear(None);
    let began = tokio::time::Instant::now();
    eventually("told", || stage.import_says("False", "Withdrawn")).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    (stage, stop)
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_export_stays_listed_with_its_reason_and_an_event() {
    let (mut stage, first) = withdrawn().await;
    eventually("an Event", || events(&stage.server, "Withdrawn") == 1).await;
    assert_eq!(stage.ready(), Some(false), "its callers are refused and do not hang");
    first.cancel();
    stage.start("two");
    eventually("another leads", || stage.observers[1].borrow().is_some()).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(is_listed(&stage) && stage.import_says("False", "Withdrawn"));
    assert_eq!(stage.ready(), Some(false));
    stage.hear(Some(1));
    eventually("ready again", || stage.import_says("True", "Ready")).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_deletes_the_import_the_service_or_the_wish_misses_it_no_more() {
    let (stage, _stop) = withdrawn().await;
    stage.server.delete(IMPORTS, "", "agents.fraud-bot");
    eventually("no slice", || stage.slice().is_none()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(stage.server.get(IMPORTS, "", "agents.fraud-bot").is_none(), "it comes not back");

    let (stage, _stop) = withdrawn().await;
    stage.server.delete(SERVICES, "agents", "fraud-bot");
    eventually("released", || !is_listed(&stage)).await;

    let (stage, _stop) = withdrawn().await;
    stage.server.put(CONFIGS, config(""));
    eventually("released", || !is_listed(&stage)).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_never_served_is_not_missed() {
    let mut stage = ControllerStage::new(OPENED);
    stub(&stage.server);
    stage.start("one");
    stage.hear(Some(0));
    eventually("told", || stage.import_says("False", "NoBackend")).await;
    stage.hear(None);
    eventually("released", || !is_listed(&stage)).await;
    assert_eq!(events(&stage.server, "Withdrawn"), 0);
}

#[tokio::test(start_paused = true)]
async fn backends_of_a_node_that_is_not_announced_serve_nobody() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.import_says("True", "Ready")).await;
    let mut peers = (**stage.peers.borrow()).clone();
    let bank = peers.clusters.values_mut().next().unwrap();
    let mut view = (*bank.view).clone();
    view.nodes = [("b2".parse().unwrap(), vec![])].into();
    bank.view = Arc::new(view);
    stage.peers.send_replace(Arc::new(peers));
    eventually("told", || stage.import_says("False", "NoBackend")).await;
}

/// Has nodes report bank with other grants.
fn granted_to(stage: &ControllerStage, account: &str) {
    stage.hear(Some(1));
    let mut peers = (**stage.peers.borrow()).clone();
    let bank = peers.clusters.values_mut().next().unwrap();
    let mut view = (*bank.view).clone();
    let export = view.exports.values_mut().next().unwrap();
    let grant = WorkloadPattern { service_account: account.parse().unwrap(), ..anybody() };
    Arc::make_mut(export).grants = vec![grant];
    bank.view = Arc::new(view);
    stage.peers.send_replace(Arc::new(peers));
}

#[tokio::test(start_paused = true)]
async fn grants_that_never_meet_are_told_with_the_line_that_mends_them() {
    let rule = "imports:\n  - service: agents/fraud-bot\n    from: bank\n    \
                allow: [{namespace: agents, serviceAccount: support-bot}]\n";
    let mut stage = ControllerStage::new(rule);
    stage.start("one");
    granted_to(&stage, "audit-bot");
    eventually("told", || stage.import_says("False", "NobodyAllowed")).await;
    eventually("an Event", || events(&stage.server, "NobodyAllowed") == 1).await;
    let import = stage.server.get(IMPORTS, "", "agents.fraud-bot").unwrap();
    let message = import["status"]["conditions"].to_string();
    for part in
        ["for agents/support-bot", "grants it to */audit-bot", "adit import agents/fraud-bot"]
    {
        assert!(message.contains(part), "{message}");
    }
    granted_to(&stage, "support-bot");
    eventually("well", || stage.import_says("True", "Ready")).await;
}

#[tokio::test(start_paused = true)]
async fn an_export_that_nothing_imports_is_named_with_the_line_that_imports_it() {
    let mut stage = ControllerStage::new("");
    stage.start("one");
    stage.hear(Some(1));
    let said = || stage.condition(LINKS, "bank", "NotImported");
    eventually("told", || said() == Some(("True".into(), "NotImported".into()))).await;
    let link = stage.server.get(LINKS, "", "bank").unwrap()["status"].to_string();
    assert!(link.contains("`adit import agents/fraud-bot --from bank`"), "{link}");
    // Whoever exports other names all the time has not each of them written.
    let before = stage.writes().len();
    for round in 0..20 {
        stage.hear((round % 2 == 0).then_some(1));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(stage.writes().len() - before <= 2, "{:?}", &stage.writes()[before..]);
    stage.server.put(CONFIGS, config(IMPORT));
    stage.hear(Some(1));
    eventually("not any more", || said().is_none()).await;
}
