//! Links: from the first report to what is taken back.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_fresh_link_is_no_complaint_before_it_could_be_heard() {
    let mut stage = ControllerStage::new("");
    stage.start("one");
    let silent = LinkedClusters { reporting: true, ..LinkedClusters::default() };
    stage.peers.send_replace(Arc::new(silent.clone()));
    let down = Some(("False".into(), "LinkDown".into()));
    eventually("said", || stage.condition(LINKS, "bank", "Up") == down).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    stage.hear(None);
    let up = || stage.condition(LINKS, "bank", "Up").is_some_and(|(status, _)| status == "True");
    eventually("up", up).await;
    assert_eq!(events(&stage.server, "LinkDown"), 0);
    // One that is lost is told of at once.
    let mut lost = (**stage.peers.borrow()).clone();
    lost.clusters.values_mut().for_each(|heard| heard.live = false);
    stage.peers.send_replace(Arc::new(lost));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(events(&stage.server, "LinkDown"), 1);
    // And one that never comes up, after a while.
    let mut other = ControllerStage::new("");
    other.start("one");
    other.peers.send_replace(Arc::new(silent));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(events(&other.server, "LinkDown"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_cluster_does_not_say_for_a_moment_ends_nothing() {
    let more = "    import: {namespaces: [agents], createServices: true}\n";
    let mut stage = ControllerStage::new(more);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    let service =
        || stage.server.get(SERVICES, "agents", "fraud-bot").map(|s| s["metadata"]["uid"].clone());
    let first = service();
    stage.hear(None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.ready(), Some(true));
    eventually("end", || stage.ready() == Some(false)).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(service(), first, "its address is known to clients");
    stage.hear(Some(1));
    eventually("ready again", || stage.ready() == Some(true)).await;
    assert_eq!(service(), first);
    stage.hear(None);
    eventually("end", || stage.ready() == Some(false)).await;
    stage.server.delete(IMPORTS, "", "agents.fraud-bot");
    eventually("nobody misses it", || service().is_none()).await;
    stage.hear(Some(1));
    eventually("anew", || stage.ready() == Some(true)).await;
    stage.server.put(CONFIGS, config(""));
    eventually("end with the request", || service().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn the_services_that_a_link_had_made_are_taken_back_but_for_those_that_were_taken_over() {
    let opened = "    import: {namespaces: [agents], createServices: true}\n";
    let closed = opened.replace("true", "false");
    for is_taken_over in [false, true] {
        let mut stage = ControllerStage::new(opened);
        stage.start("one");
        stage.hear(Some(1));
        eventually("ready", || stage.ready() == Some(true)).await;
        let service = || stage.server.get(SERVICES, "agents", "fraud-bot");
        let mut made = service().unwrap();
        assert_eq!(made["metadata"]["annotations"][crate::api::MADE_FOR], "bank");
        if is_taken_over {
            made["metadata"]["labels"] = json!({});
            made = stage.server.put(SERVICES, made);
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        stage.server.put(CONFIGS, config(&closed));
        if is_taken_over {
            tokio::time::sleep(Duration::from_secs(120)).await;
            assert_eq!(
                service().map(|s| s["metadata"]["uid"].clone()),
                Some(made["metadata"]["uid"].clone())
            );
        } else {
            eventually("taken back", || service().is_none()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_link_gets_no_more_of_stands_on_it() {
    let more = "    import: {namespaces: [agents], createServices: true}\nnetwork: {range: 198.18.0.0/29}\n";
    let mut stage = ControllerStage::new(more);
    // Six addresses, of which five have been used up by names that came and went.
    for n in 1..=5 {
        let spec = json!({"service": {"namespace": "agents", "name": format!("old-{n}")}, "from": "bank",
            "addresses": [format!("198.18.0.{n}")], "releasedAt": Timestamp::now().to_string()});
        stage
            .server
            .put(IMPORTS, json!({"metadata": {"name": format!("agents.old-{n}")}, "spec": spec}));
    }
    stage.start("one");
    stage.hear(Some(1));
    let says = || stage.condition(LINKS, "bank", "TooManyImports");
    let full = Some(("True".to_owned(), "ShareOfRangeUsed".to_owned()));
    eventually("said", || says() == full).await;
    eventually("an Event", || events(&stage.server, "ShareOfRangeUsed") == 1).await;
    assert_eq!(stage.server.all(IMPORTS).len(), 5);
    stage.server.put(CONFIGS, config(&format!("{more}{IMPORT}")));
    eventually("what is named finds room", || stage.ready() == Some(true)).await;
    eventually("nothing is wrong", || says().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_from_a_cluster_that_is_denied_is_not_ready_and_says_so() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    stage.server.put(CONFIGS, config(&format!("{IMPORT}denied: {{clusters: [bank]}}\n")));
    // Nodes have no link with it any more, and say nothing of it.
    let silent = LinkedClusters { reporting: true, ..LinkedClusters::default() };
    stage.peers.send_replace(Arc::new(silent));
    let denied = Some(("False".to_owned(), "DeniedIdentity".to_owned()));
    eventually("the link", || stage.condition(LINKS, "bank", "Up") == denied).await;
    eventually("the import", || stage.import_says("False", "DeniedIdentity")).await;
    eventually("its slice", || stage.ready() == Some(false)).await;
    stage.server.put(CONFIGS, config(IMPORT));
    stage.hear(Some(1));
    eventually("ready again", || stage.ready() == Some(true)).await;
    assert!(stage.import_says("True", "Ready"));
}
