//! Certificates of nodes: who gets one, and what becomes of the authority that signs them.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_certificates_is_told_while_all_else_is_read() {
    let mut stage = ControllerStage::new("");
    let trust = json!({"metadata": {"name": "adit-trust", "namespace": "adit-system"},
        "data": {"ca.pem": bundle_of("edge")}});
    stage.server.put(CONFIGS, trust);
    stage.server.fail(|_, path| path.contains("/services").then_some(Fault::Status(500)));
    stage.start("one");
    eventually("told", || events(&stage.server, "CaMissing") == 1).await;
}

#[tokio::test(start_paused = true)]
async fn certificates_need_the_ca_and_nothing_else() {
    let mut stage = ControllerStage::new("");
    put_pod(&stage.server);
    let first = stage.start("one");
    eventually("CA", || stage.server.get("/secrets", "adit-system", "adit-ca").is_some()).await;
    first.cancel();
    stage.server.put(CONFIGS, config("importz: []\n"));
    stage.server.fail(|_, path| path.contains("/services").then_some(Fault::Status(500)));
    stage.server.put(REQUESTS, request("good", "e1", "adit-node-1"));
    stage.start("two");
    let answer = || stage.server.get(REQUESTS, "", "good").unwrap();
    eventually("certificate", || answer()["status"]["certificate"].is_string()).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_own_pods_get_certificates_and_nobody_else() {
    let mut stage = ControllerStage::new("");
    put_pod(&stage.server);
    stage.server.put(REQUESTS, request("good", "e1", "adit-node-1"));
    stage.server.put(REQUESTS, request("wrong-node", "e2", "adit-node-1"));
    stage.server.put(REQUESTS, request("no-pod", "e3", "adit-node-9"));
    let mut stranger = request("stranger", "e1", "adit-node-1");
    stranger["spec"]["username"] = "system:serviceaccount:agents:default".into();
    stage.server.put(REQUESTS, stranger);
    let mut usages = request("usages", "e1", "adit-node-1");
    usages["spec"]["usages"] = json!(["client auth"]);
    usages["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    stage.server.put(REQUESTS, usages);
    stage.start("one");
    let request = |name: &str| stage.server.get(REQUESTS, "", name).unwrap();
    eventually("certificate", || request("good")["status"]["certificate"].is_string()).await;
    assert_eq!(request("good")["status"]["conditions"][0]["type"], "Approved");
    for (bad, reason, why) in [
        ("wrong-node", "NotOurNode", "runs on node"),
        ("no-pod", "NotOurNode", "there is no pod"),
        ("stranger", "NotOurNode", "only system:serviceaccount:adit-system:adit-node"),
        ("usages", "BadRequest", "usages must be"),
    ] {
        let condition = || request(bad)["status"]["conditions"][0].clone();
        eventually(bad, || condition()["type"] == "Denied").await;
        assert!(condition()["message"].as_str().unwrap().contains(why), "{}", condition());
        assert_eq!(condition()["reason"], reason);
        assert!(request(bad)["status"]["certificate"].is_null());
    }
    let bundle = stage.server.get(CONFIGS, "adit-system", "adit-trust").unwrap();
    assert!(bundle["data"]["ca.pem"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE"));
    assert!(stage.server.get("/secrets", "adit-system", "adit-ca").is_some());
}

/// Answers a request by a CA that was created at `made`, valid for an hour.
async fn answered_by_a_ca_of(server: &FakeApiServer, made: UnixTime, request: Value) -> String {
    let domain = "edge.adit.internal".parse().unwrap();
    let hour = Duration::from_secs(3600);
    let ca = ClusterAuthority::create(domain, KeyKind::P256, hour, made).unwrap();
    let (client, mut tasks) = (server.client(), Tasks::default());
    let stores = stores::ControllerStores::watch(
        &client,
        &crate::store::ChangeSignal::default(),
        &mut tasks,
    );
    let request = serde_json::from_value(server.put(REQUESTS, request)).unwrap();
    match signer::answer(&client, &stores, &ca, &request, false).await {
        Ok(refusal) => refusal.unwrap_or_default(),
        Err(error) => format!("{error:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_cannot_sign_now_is_no_fault_of_the_request() {
    let server = FakeApiServer::default();
    put_pod(&server);
    let good = request("good", "e1", "adit-node-1");
    let yesterday =
        UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() - 86400));
    let said = answered_by_a_ca_of(&server, yesterday, good.clone()).await;
    assert_eq!(said, "Ca(NotCurrent)");
    let stored = server.get(REQUESTS, "", "good").unwrap();
    assert!(stored["status"].is_null(), "it stays open: {stored}");
    assert_eq!(answered_by_a_ca_of(&server, UnixTime::now(), good).await, "");
    let mut unreadable = request("unreadable", "e1", "adit-node-1");
    unreadable["spec"]["request"] = json!(ByteString(b"no PEM".to_vec()));
    let said = answered_by_a_ca_of(&server, UnixTime::now(), unreadable).await;
    assert!(!said.is_empty());
    let stored = server.get(REQUESTS, "", "unreadable").unwrap();
    assert_eq!(stored["status"]["conditions"][0]["reason"], "BadRequest");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_goes_back_beyond_the_ca_is_trouble_with_the_ca() {
    let (client, mut tasks) = (FakeApiServer::default().client(), Tasks::default());
    let stores = stores::ControllerStores::watch(
        &client,
        &crate::store::ChangeSignal::default(),
        &mut tasks,
    );
    let domain = "edge.adit.internal".parse().unwrap();
    let now = UnixTime::now();
    let current = ca::ClusterCa::load_or_create(None, &client, &stores, Some(&domain), now);
    let ca = current.await.unwrap();
    let yesterday = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() - 86400));
    let before = ca.as_ref();
    let then =
        ca::ClusterCa::load_or_create(before, &client, &stores, Some(&domain), yesterday).await;
    assert_eq!(then.unwrap_err().reason(), "UnusableCa");
}

#[tokio::test(start_paused = true)]
async fn a_heap_of_old_requests_keeps_no_node_from_its_certificate() {
    let mut stage = ControllerStage::new("");
    put_pod(&stage.server);
    for n in 0..200 {
        let mut old = request(&format!("old-{n:03}"), "e1", "adit-node-1");
        old["metadata"]["creationTimestamp"] = format!("2026-01-01T00:{:02}:00Z", n % 60).into();
        stage.server.put(REQUESTS, old);
    }
    let mut new = request("z-new", "e1", "adit-node-1");
    new["metadata"]["creationTimestamp"] = "2026-01-01T01:00:00Z".into();
    stage.server.put(REQUESTS, new);
    stage.start("one");
    let answer = |name: &str| stage.server.get(REQUESTS, "", name).unwrap()["status"].clone();
    eventually("certificate", || answer("z-new")["certificate"].is_string()).await;
    eventually("end of the heap", || {
        (0..200).all(|n| answer(&format!("old-{n:03}"))["conditions"][0]["reason"] == "Superseded")
    })
    .await;
    let answers = stage.server.requests(|r| r.starts_with("PUT") && r.contains("certificatesign"));
    let first = answers.iter().position(|r| r.contains("z-new")).unwrap();
    assert!(first < 8, "the one that is waited for is among the first: {first}");
    let all = stage.server.requests(|r| r.contains("/links") || r.contains("certificatesign"));
    let link = all.iter().position(|r| r.starts_with("POST") && r.contains("/links")).unwrap();
    let before = all[..link].iter().filter(|r| r.starts_with("PUT")).count();
    assert!(before <= 60, "other writes do not wait for all of them: {before}");
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_others_believe_is_put_back_and_never_made_anew() {
    let mut stage = ControllerStage::new("");
    let first = stage.start("one");
    let server = stage.server.clone();
    let secret = || server.get("/secrets", "adit-system", "adit-ca");
    let bundle = || server.get(CONFIGS, "adit-system", "adit-trust");
    eventually("CA", || bundle().is_some()).await;
    let (ca, trust) = (secret().unwrap(), bundle().unwrap());
    stage.server.delete("/secrets", "adit-system", "adit-ca");
    eventually("the same again", || secret().is_some_and(|s| s["data"] == ca["data"])).await;
    first.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.server.delete("/secrets", "adit-system", "adit-ca");
    stage.start("two");
    let told = || stage.server.all(EVENTS).iter().any(|e| e["reason"] == "CaMissing");
    eventually("complaint", told).await;
    assert_eq!((secret(), bundle()), (None, Some(trust)));
    stage.server.delete(CONFIGS, "adit-system", "adit-trust");
    eventually("a new one, as was asked for", || secret().is_some() && bundle().is_some()).await;
}
