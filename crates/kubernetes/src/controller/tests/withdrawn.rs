//! What was served here and is exported no more: it stays in sight until somebody says that it is not wanted.

use super::*;

/// A Service without a selector that waits to be filled.
fn stub(server: &Server) {
    let stub = json!({"metadata": {"name": "fraud-bot", "namespace": "agents", "uid": "s"},
        "spec": {"ports": [{"name": "http", "port": 8080}], "ipFamilies": ["IPv4"]}});
    server.put(SERVICES, stub);
}

fn is_listed(stage: &Stage) -> bool {
    let import = stage.server.get(IMPORTS, "", "agents.fraud-bot");
    import.is_some_and(|import| import["spec"]["releasedAt"].is_null())
}

/// An import by itself that was ready, and that bank has withdrawn.
async fn withdrawn() -> (Stage, CancellationToken) {
    let mut stage = Stage::new(OPENED);
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
    let mut stage = Stage::new(OPENED);
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
    let mut stage = Stage::new(IMPORT);
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
