//! Writes: by whom, in which order, and what is told while they fail.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_written_holds_up_no_other() {
    let both = format!("{IMPORT}  - service: agents/other\n    from: bank\n");
    let mut stage = ControllerStage::new(&both);
    stage.server.fail(|method, path| {
        (method == "POST" && path.contains("endpointslices")).then_some(Fault::Status(429))
    });
    stage.start("one");
    stage.hear(Some(1));
    eventually("the other's condition", || {
        let says = stage.condition(IMPORTS, "agents.other", "Ready");
        says == Some(("False".into(), "NotExported".into()))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let tries = stage.server.requests(|r| r.starts_with("POST") && r.contains("endpointslices"));
    assert!((3..20).contains(&tries.len()), "with pauses: {}", tries.len());
    assert!(stage.import_says("False", "SliceNotWritten"), "nobody is served yet");
    stage.server.heal();
    eventually("slice", || stage.ready() == Some(true)).await;
    eventually("condition", || stage.import_says("True", "Ready")).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_does_not_wait_until_all_is_told() {
    let others = (0..400).map(|n| format!("  - service: agents/other-{n}\n    from: bank\n"));
    let mut stage = ControllerStage::new(&format!("{IMPORT}{}", others.collect::<String>()));
    let is_told = |path: &str| path.contains("/imports/") && path.contains("/status");
    stage
        .server
        .fail(move |_, path| is_told(path).then_some(Fault::Late(Duration::from_millis(100))));
    let told = |stage: &ControllerStage| stage.server.requests(is_told).len();
    stage.hear(None);
    stage.start("one");
    eventually("telling", || told(&stage) > 0).await;
    let before = told(&stage);
    stage.hear(Some(1));
    eventually("slice", || stage.ready() == Some(true)).await;
    let meanwhile = told(&stage) - before;
    assert!(meanwhile < 100, "{meanwhile} were told first, of 400");
    eventually("all is told", || told(&stage) >= 400).await;
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_read_again() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    // The watch says nothing for a while, so that what is stored here is old.
    let mut slice = stage.slice().unwrap();
    slice["endpoints"][0]["addresses"] = json!(["198.18.0.99"]);
    slice["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    stage.server.put(SLICES, slice);
    eventually("as it should be", || {
        stage.slice().unwrap()["endpoints"][0]["addresses"][0] == "198.18.0.1"
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn of_two_controllers_one_writes_and_the_other_takes_over() {
    let mut stage = ControllerStage::new(IMPORT);
    let first = stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    stage.start("two");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(stage.observers[0].borrow().is_some());
    assert!(stage.observers[1].borrow().is_none(), "the other waits");
    first.cancel();
    let began = tokio::time::Instant::now();
    eventually("hand-over", || stage.observers[1].borrow().is_some()).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(stage.observers[0].borrow().is_none());
}

#[tokio::test(start_paused = true)]
async fn who_lost_the_lease_writes_no_more() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    // The API server no longer answers about the lease; all else works.
    stage.server.fail(|_, path| path.contains("/leases").then_some(Fault::Silence));
    tokio::time::sleep(leader::LEASE_LIFETIME).await;
    let before = stage.writes();
    stage.server.delete(SLICES, "agents", "fraud-bot-adit-ipv4");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(stage.writes(), before);
    assert!(stage.observers[0].borrow().is_none());
    stage.server.heal();
    eventually("again", || stage.ready() == Some(true)).await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_configuration_is_told_and_the_last_good_one_stays() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    stage.server.put(CONFIGS, config("importz: []\n"));
    let bad = || stage.condition(LINKS, "bank", "Configured");
    eventually("told", || bad() == Some(("False".into(), "BadConfiguration".into()))).await;
    let events = stage.server.all(EVENTS);
    let event = events.iter().find(|e| e["reason"] == "BadConfiguration").unwrap();
    assert_eq!(event["regarding"]["name"], "adit");
    let note = event["note"].as_str().unwrap();
    assert!(note.starts_with("cluster.yaml:") && note.contains("importz"), "{note}");
    assert_eq!(stage.ready(), Some(true));
    stage.server.put(CONFIGS, config(IMPORT));
    eventually("good", || bad() == Some(("True".into(), "Configured".into()))).await;
}

#[tokio::test(start_paused = true)]
async fn what_lasts_is_told_again_and_what_cannot_be_told_is_later() {
    let mut stage = ControllerStage::new("importz: []\n");
    put_pod(&stage.server);
    let first = stage.start("one");
    eventually("told", || events(&stage.server, "BadConfiguration") == 1).await;
    tokio::time::sleep(Duration::from_secs(29 * 60)).await;
    assert_eq!(events(&stage.server, "BadConfiguration"), 1);
    tokio::time::sleep(Duration::from_secs(3 * 60)).await;
    assert_eq!(events(&stage.server, "BadConfiguration"), 2, "Kubernetes forgets in an hour");
    stage.server.put(CONFIGS, config(""));
    eventually("CA", || stage.server.get("/secrets", "adit-system", "adit-ca").is_some()).await;
    first.cancel();
    // What is wrong for a moment is told as well, once Events can be written again.
    stage.server.fail(|_, path| path.contains("/events").then_some(Fault::Status(429)));
    stage.server.put(REQUESTS, request("wrong-node", "e2", "adit-node-1"));
    stage.server.put(CONFIGS, config("exportz: []\n"));
    stage.start("two");
    tokio::time::sleep(Duration::from_secs(5 * 60)).await;
    assert_eq!(events(&stage.server, "Denied"), 0);
    stage.server.heal();
    tokio::time::sleep(Duration::from_secs(5 * 60)).await;
    assert_eq!(events(&stage.server, "Denied"), 1);
    assert_eq!(events(&stage.server, "BadConfiguration"), 3);
}

#[tokio::test(start_paused = true)]
async fn what_ends_and_comes_back_is_told_at_once_and_not_without_end() {
    let mut stage = ControllerStage::new("importz: []\n");
    put_pod(&stage.server);
    stage.start("one");
    let told = || events(&stage.server, "BadConfiguration");
    let five = Duration::from_secs(5);
    eventually("told", || told() == 1).await;
    let come_back = async || {
        stage.server.put(CONFIGS, config(""));
        tokio::time::sleep(five).await;
        stage.server.put(CONFIGS, config("importz: []\n"));
        tokio::time::sleep(five).await;
    };
    for n in 2..=3 {
        come_back().await;
        assert_eq!(told(), n);
    }
    for _ in 0..60 {
        come_back().await;
    }
    assert!((10..=13).contains(&told()), "one a minute: {}", told());
}

#[tokio::test(start_paused = true)]
async fn the_log_that_the_configuration_wants_is_told_and_stays_as_it_was_while_that_is_wrong() {
    let mut stage = ControllerStage::new("log: {level: debug}\n");
    put_pod(&stage.server);
    stage.start("one");
    let state = stage.states[0].clone();
    let level = || Some(state.borrow().log.as_ref()?.level.as_str().to_owned());
    eventually("told", || level().as_deref() == Some("debug")).await;
    stage.server.put(CONFIGS, config("log: {level: warn}\n"));
    eventually("changed", || level().as_deref() == Some("warn")).await;
    stage.server.put(CONFIGS, config("log: {level: loud}\n"));
    eventually("told", || events(&stage.server, "BadConfiguration") == 1).await;
    assert_eq!(level().as_deref(), Some("warn"), "the last good one");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_says_nothing_is_not_taken_for_one_that_answers() {
    let mut stage = ControllerStage::new("");
    put_pod(&stage.server);
    stage.start("one");
    let state = stage.states[0].clone();
    let silence = || state.borrow().answered_at.map(|at| at.elapsed());
    eventually("an answer", || silence().is_some()).await;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(silence().unwrap() < Duration::from_secs(4), "{:?}", silence());
    }
    stage.server.fail(|_, _| Some(Fault::Silence));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(silence().unwrap() >= Duration::from_secs(29), "{:?}", silence());
    stage.server.heal();
    eventually("an answer", || silence() < Some(Duration::from_secs(1))).await;
}

#[tokio::test(start_paused = true)]
async fn the_lease_tells_what_is_wrong_with_its_holder() {
    let mut stage = ControllerStage::new("importz: []\n");
    stage.server.fail(|_, path| path.contains("/services").then_some(Fault::Status(500)));
    stage.start("one");
    let server = stage.server.clone();
    let told = || {
        let lease = server.get(LEASES, "adit-system", "adit-controller")?;
        lease["metadata"]["annotations"]["adit.dev/trouble"].as_str().map(str::to_owned)
    };
    let says = |what: &str| told().is_some_and(|trouble| trouble.contains(what));
    eventually("reading", || says("waiting for the API server's Services")).await;
    server.heal();
    eventually("waiting", || says("importz")).await;
    server.put(CONFIGS, config(""));
    eventually("well", || told().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_otherwise_than_it_is_written_is_written_with_pauses() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    // Not for ever: without pauses no time would pass.
    let mut left = 500;
    stage.server.fail(move |method, path| {
        let keeps = method == "PUT" && path.contains("endpointslices") && left > 0;
        left -= i32::from(keeps);
        keeps.then_some(Fault::Unchanged)
    });
    let mut slice = stage.slice().unwrap();
    slice["endpoints"][0]["addresses"] = json!(["198.18.0.99"]);
    stage.server.put(SLICES, slice);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let tries = stage.server.requests(|r| r.starts_with("PUT") && r.contains("endpointslices"));
    assert!((5..20).contains(&tries.len()), "{}", tries.len());
    let lease = stage.server.get(LEASES, "adit-system", "adit-controller").unwrap();
    let trouble = lease["metadata"]["annotations"]["adit.dev/trouble"].as_str().unwrap().to_owned();
    let release = &lease["metadata"]["annotations"]["adit.dev/release"];
    assert_eq!(release, env!("CARGO_PKG_VERSION"));
    assert!(trouble.contains("apply the definitions of this version"), "{trouble}");
}

#[tokio::test(start_paused = true)]
async fn with_a_watch_the_whole_controller_ends() {
    let stage = ControllerStage::new(IMPORT);
    stage.server.fail(|_, path| path.contains("/services").then_some(Fault::Panic));
    let (client, peers) = (stage.server.client(), stage.peers.subscribe());
    let (observer, state) = (watch::Sender::new(None), watch::Sender::default());
    let running = run(
        client,
        settings("one"),
        observer,
        peers,
        watch::Sender::default().subscribe(),
        state,
        CancellationToken::new(),
    );
    let ended = tokio::time::timeout(Duration::from_secs(600), running).await;
    assert_eq!(
        ended.unwrap().unwrap_err().to_string(),
        "watching the cluster ended by a panic, which is a bug"
    );
}
