//! Imports: which Services are filled, with which ports, and when not.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_import_gets_its_service_address_and_slice_and_then_nothing_more_is_written() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(2));
    eventually("slice", || stage.ready() == Some(true)).await;
    eventually("condition", || stage.import_says("True", "Ready")).await;
    let slice = stage.slice().unwrap();
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["198.18.0.1"]));
    let port = json!([{"name": "http", "port": 15080, "protocol": "TCP",
        "appProtocol": "kgateway.dev/a2a"}]);
    assert_eq!(slice["ports"], port);
    assert_eq!(slice["metadata"]["ownerReferences"][0]["name"], "adit-system");
    let stub = stage.server.get(SERVICES, "agents", "fraud-bot").unwrap();
    assert_eq!(stub["spec"]["ports"][0]["port"], 8080);
    assert!(stub["spec"]["selector"].is_null());
    let link = stage.server.get(LINKS, "", "bank").unwrap();
    assert_eq!(link["spec"]["addresses"], json!(["172.18.2.2:7843"]));
    eventually("link", || {
        stage.condition(LINKS, "bank", "Up") == Some(("True".into(), "LinkUp".into()))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = stage.writes();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(stage.writes(), before, "nothing has changed");
}

#[tokio::test(start_paused = true)]
async fn ready_tells_the_truth_after_a_while_and_stays_while_nobody_reports() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    stage.hear(Some(0));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.ready(), Some(true), "two seconds are no news");
    eventually("not ready", || stage.import_says("False", "NoBackend")).await;
    let slice = stage.slice().unwrap();
    let said = &slice["endpoints"][0]["conditions"];
    // What kube-proxy goes on using where nothing is ready, so that our listener refuses.
    assert_eq!(*said, json!({"ready": false, "serving": true, "terminating": true}));
    stage.hear(None);
    eventually("withdrawn", || stage.import_says("False", "Withdrawn")).await;
    stage.hear(Some(1));
    eventually("ready again", || stage.ready() == Some(true)).await;
    stage.peers.send_replace(Arc::new(LinkedClusters::default()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.ready(), Some(true), "nobody looks");
    let silent = LinkedClusters { reporting: true, ..LinkedClusters::default() };
    stage.peers.send_replace(Arc::new(silent));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.ready(), Some(true), "nobody looks there");
    let up = stage.condition(LINKS, "bank", "Up").unwrap();
    assert_eq!(up, ("True".into(), "LinkUp".into()));
    assert!(stage.import_says("True", "Ready"));
}

#[tokio::test(start_paused = true)]
async fn what_is_ours_comes_back_and_what_was_asked_for_goes_with_the_request() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    stage.server.delete(SLICES, "agents", "fraud-bot-adit-ipv4");
    stage.server.delete(SERVICES, "agents", "fraud-bot");
    eventually("both again", || {
        stage.ready() == Some(true) && stage.server.get(SERVICES, "agents", "fraud-bot").is_some()
    })
    .await;
    stage.server.put(CONFIGS, config(""));
    eventually("release", || {
        let import = stage.server.get(IMPORTS, "", "agents.fraud-bot").unwrap();
        let ready = &import["status"]["conditions"][0];
        import["spec"]["releasedAt"].is_string() && ready["reason"] == "Released"
    })
    .await;
    eventually("all gone", || stage.server.all(SERVICES).is_empty() && stage.slice().is_none())
        .await;
    stage.server.put(CONFIGS, config(IMPORT));
    eventually("its old address", || {
        stage.slice().is_some_and(|s| s["endpoints"][0]["addresses"][0] == "198.18.0.1")
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_service_of_somebody_else_is_filled_and_never_edited_or_deleted() {
    let mut stage = ControllerStage::new(IMPORT);
    let theirs = json!({"metadata": {"name": "fraud-bot", "namespace": "agents", "uid": "theirs"},
        "spec": {"ports": [{"port": 80}], "selector": {"kagent": "fraud-bot"}, "ipFamilies": ["IPv4"]}});
    stage.server.put(SERVICES, theirs);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    assert_eq!(stage.slice().unwrap()["ports"][0]["name"], "", "as the stub calls its port");
    // Somebody scales the stub up.
    stage.server.put(SLICES, own_slice(false));
    eventually("withdrawn", || stage.slice().is_none()).await;
    eventually("told", || stage.import_says("False", "ServiceHasOwnEndpoints")).await;
    eventually("an Event", || {
        stage.server.all(EVENTS).iter().any(|e| e["reason"] == "ServiceHasOwnEndpoints")
    })
    .await;
    stage.server.delete(SLICES, "agents", "fraud-bot-x");
    eventually("filled again", || stage.ready() == Some(true)).await;
    stage.server.put(CONFIGS, config(""));
    eventually("slice gone", || stage.slice().is_none()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let edits = stage.writes().into_iter().filter(|w| w.contains("/services/fraud-bot"));
    assert_eq!(edits.collect::<Vec<_>>(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn kagents_stub_is_filled_by_itself_until_its_agent_gets_pods() {
    let mut stage = ControllerStage::new(OPENED);
    kagents_stub(&stage.server, 0);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    kagents_stub(&stage.server, 1);
    eventually("withdrawn before a pod is there", || stage.slice().is_none()).await;
    eventually("told", || stage.import_says("False", "HasSelector")).await;
    eventually("an Event", || events(&stage.server, "HasSelector") == 1).await;
    kagents_stub(&stage.server, 0);
    eventually("filled again", || stage.ready() == Some(true)).await;
}

/// A mesh, another operator or somebody by hand fills what was imported by itself: nothing is led to bank then, and the
/// import stays and says so, until they are gone, or the Import is: that is how somebody says that it was meant.
#[tokio::test(start_paused = true)]
async fn an_import_that_others_endpoints_take_the_place_of_stays_and_says_so() {
    for ready in [true, false] {
        let mut stage = ControllerStage::new(OPENED);
        kagents_stub(&stage.server, 0);
        let first = stage.start("one");
        stage.hear(Some(1));
        eventually("ready", || stage.ready() == Some(true)).await;
        let address = |s: &ControllerStage| {
            let import = s.server.get(IMPORTS, "", "agents.fraud-bot")?;
            import["spec"]["releasedAt"].is_null().then(|| import["spec"]["addresses"].clone())
        };
        let before = address(&stage).unwrap();
        stage.server.put(SLICES, own_slice(ready));
        eventually("not led there", || stage.slice().is_none()).await;
        eventually("told", || stage.import_says("False", "ServiceHasOwnEndpoints")).await;
        eventually("an Event", || events(&stage.server, "ServiceHasOwnEndpoints") == 1).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(stage.import_says("False", "ServiceHasOwnEndpoints"));
        let import = stage.server.get(IMPORTS, "", "agents.fraud-bot").unwrap();
        let by = import["spec"]["displacedBy"].as_str().unwrap();
        assert_eq!(by, "EndpointSlice fraud-bot-x (which nobody says to manage)", "for nodes");
        let told = import["status"]["conditions"][0]["message"].as_str().unwrap();
        assert!(
            told.contains(by) && told.contains("kubectl delete import.adit.dev agents.fraud-bot")
        );
        let of_imports =
            |s: &ControllerStage| s.writes().iter().filter(|w| w.contains("/imports/")).count();
        let written = of_imports(&stage);
        first.cancel();
        stage.start("two");
        eventually("another leads", || stage.observers[1].borrow().is_some()).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(of_imports(&stage), written, "another controller finds nothing to say anew");
        stage.server.delete(SLICES, "agents", "fraud-bot-x");
        eventually("filled again", || stage.ready() == Some(true)).await;
        assert_eq!(address(&stage), Some(before), "clients know its address");
        let import = stage.server.get(IMPORTS, "", "agents.fraud-bot").unwrap();
        assert!(import["spec"]["displacedBy"].is_null());
        stage.server.put(SLICES, own_slice(ready));
        eventually("told again", || stage.import_says("False", "ServiceHasOwnEndpoints")).await;
        stage.server.delete(IMPORTS, "", "agents.fraud-bot");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(stage.server.all(IMPORTS), Vec::<Value>::new(), "somebody said so");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_with_a_selector_is_not_filled_unasked() {
    let mut stage = ControllerStage::new(OPENED);
    let theirs = json!({"metadata": {"name": "fraud-bot", "namespace": "agents", "uid": "theirs"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}, "ipFamilies": ["IPv4"]}});
    stage.server.put(SERVICES, theirs);
    stage.start("one");
    stage.hear(Some(1));
    eventually("an Event", || events(&stage.server, "HasSelector") == 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((stage.slice(), stage.server.all(IMPORTS)), (None, vec![]));
    stage.server.put(CONFIGS, config(&format!("{OPENED}{IMPORT}")));
    eventually("somebody named it", || stage.ready() == Some(true)).await;
}

#[tokio::test(start_paused = true)]
async fn who_changes_ports_all_the_time_keeps_no_slice_beside_own_endpoints() {
    let mut stage = ControllerStage::new(IMPORT);
    kagents_stub(&stage.server, 0);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    // No record of ours is ever what the next round wants.
    stage.server.fail(|method, path| {
        (method == "PUT" && path.contains("/imports")).then_some(Fault::Status(500))
    });
    stage.hear_ports(&[("http", 8081)], Some(1));
    stage.server.put(SLICES, own_slice(false));
    eventually("withdrawn", || stage.slice().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_taken_over_is_left_alone() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    let mut stub = stage.server.get(SERVICES, "agents", "fraud-bot").unwrap();
    stub["metadata"]["labels"] = json!({});
    stub["spec"]["ports"] = json!([{"port": 80}]);
    stage.server.put(SERVICES, stub);
    let named = || stage.slice().is_some_and(|s| s["ports"][0]["name"] == "");
    eventually("filled as its owner has it", named).await;
    stage.server.put(CONFIGS, config(""));
    eventually("slice gone", || stage.slice().is_none()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let edits = stage.writes().into_iter().filter(|w| w.contains("/services/fraud-bot"));
    assert_eq!(edits.collect::<Vec<_>>(), Vec::<String>::new());
    assert!(stage.server.get(SERVICES, "agents", "fraud-bot").is_some());
}

#[tokio::test(start_paused = true)]
async fn what_no_service_can_have_is_told_and_not_tried() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear_ports(&[("http", 8080), ("admin", 8080)], Some(1));
    eventually("told", || stage.import_says("False", "BadExport")).await;
    assert_eq!(stage.server.get(SERVICES, "agents", "fraud-bot"), None);
    stage.hear_ports(&[("http", 8080), ("admin", 8081)], Some(1));
    eventually("mended", || stage.ready() == Some(true)).await;
}

#[tokio::test(start_paused = true)]
async fn a_port_keeps_its_listener_when_others_come_before_it() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    stage.hear_ports(&[("admin", 9000), ("http", 8080)], Some(1));
    let ports = || stage.slice().unwrap()["ports"].as_array().unwrap().clone();
    eventually("both", || ports().len() == 2).await;
    let port = |name: &str| ports().iter().find(|p| p["name"] == name).unwrap()["port"].clone();
    assert_eq!((port("http"), port("admin")), (json!(15080), json!(15081)));
}

/// A Service without a selector, with these ports.
fn stub_with(server: &FakeApiServer, ports: &[&str]) {
    let port = |(n, name): (usize, &&str)| json!({"name": name, "port": 80 + n});
    let ports: Vec<Value> = ports.iter().enumerate().map(port).collect();
    server.put(
        SERVICES,
        json!({"metadata": {"name": "fraud-bot", "namespace": "agents", "uid": "theirs"},
            "spec": {"ports": ports, "ipFamilies": ["IPv4"]}}),
    );
}

#[tokio::test(start_paused = true)]
async fn an_import_has_the_ports_of_its_service_and_no_more() {
    let mut stage = ControllerStage::new(OPENED);
    stub_with(&stage.server, &["p7"]);
    stage.start("one");
    let names: Vec<String> = (0..64).map(|n| format!("p{n}")).collect();
    let ports: Vec<(&str, u16)> = names.iter().zip(9000..).map(|(name, n)| (&**name, n)).collect();
    stage.hear_ports(&ports, Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    let on_record = || {
        let import = stage.server.get(IMPORTS, "", "agents.fraud-bot").unwrap();
        let ports = import["spec"]["ports"].as_array().unwrap().clone();
        ports.iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(on_record(), ["p7"]);
    // A tenant's Service of a hundred ports gets some, and gives them back.
    let many: Vec<String> = (0..100).map(|n| format!("p{n}")).collect();
    stub_with(&stage.server, &many.iter().map(|n| &**n).collect::<Vec<_>>());
    let in_slice = || stage.slice().unwrap()["ports"].as_array().unwrap().len();
    eventually("sixteen", || in_slice() == 16).await;
    assert_eq!(on_record().len(), 16);
    eventually("an Event", || events(&stage.server, "TooManyPorts") == 1).await;
    stub_with(&stage.server, &["p7"]);
    eventually("one again", || in_slice() == 1 && on_record() == ["p7"]).await;
    stage.server.delete(SERVICES, "agents", "fraud-bot");
    eventually("none", || on_record().is_empty() && stage.slice().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_port_is_on_record_before_and_until_after_a_slice_names_it() {
    let mut stage = ControllerStage::new(OPENED);
    stub_with(&stage.server, &["http"]);
    stage.start("one");
    stage.hear_ports(&[("http", 80), ("admin", 81)], Some(1));
    eventually("ready", || stage.ready() == Some(true)).await;
    let on_record = || {
        let import = stage.server.get(IMPORTS, "", "agents.fraud-bot").unwrap();
        import["spec"]["ports"].as_array().unwrap().len()
    };
    let in_slice = || stage.slice().unwrap()["ports"].as_array().unwrap().len();
    // While the records cannot be written, no slice names what nodes do not listen for.
    let imports = |method: &http::Method, path: &str| method == "PUT" && path.contains("/imports");
    stage.server.fail(move |method, path| imports(method, path).then_some(Fault::Status(500)));
    stub_with(&stage.server, &["http", "admin"]);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((on_record(), in_slice()), (1, 1));
    stage.server.heal();
    eventually("two", || (on_record(), in_slice()) == (2, 2)).await;
    // While the slice cannot be written, nodes listen for what it names.
    stage.server.fail(|method, path| {
        (method == "PUT" && path.contains("endpointslices")).then_some(Fault::Status(500))
    });
    stub_with(&stage.server, &["http"]);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((on_record(), in_slice()), (2, 2));
    stage.server.heal();
    eventually("one", || (on_record(), in_slice()) == (1, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn where_nodes_stand_for_an_import_each_serves_its_own_pods() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    let server = stage.server.clone();
    let policy = || {
        let stub = server.get(SERVICES, "agents", "fraud-bot")?;
        stub["spec"]["internalTrafficPolicy"].as_str().map(str::to_owned)
    };
    eventually("any node", || policy().as_deref() == Some("Cluster")).await;
    eventually("ready", || stage.ready() == Some(true)).await;
    let pods = |uids: [&str; 2]| {
        let endpoint = |(n, uid): (usize, &&str)| {
            json!({"addresses": [format!("172.18.1.{n}")],
            "nodeName": format!("n{n}"), "targetRef": {"kind": "Pod", "uid": uid}})
        };
        let endpoints: Vec<Value> = uids.iter().enumerate().map(endpoint).collect();
        server.put(
            SLICES,
            json!({"metadata": {"name": "adit-node-1", "namespace": "adit-system",
            "labels": {"kubernetes.io/service-name": "adit-node"}},
            "addressType": "IPv4", "ports": [], "endpoints": endpoints}),
        );
    };
    pods(["a", "b"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.server.put(CONFIGS, config(&format!("{IMPORT}network: {{mode: nodeAddress}}\n")));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.ready(), Some(true), "as long as no node has begun anew");
    pods(["a", "c"]);
    eventually("no slice", || stage.slice().is_none()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(stage.slice().is_none(), "one node has still the old network");
    pods(["d", "c"]);
    eventually("its own", || policy().as_deref() == Some("Local")).await;
    eventually("nodes", || {
        stage.slice().is_some_and(|s| s["endpoints"].as_array().unwrap().len() == 2)
    })
    .await;
}
