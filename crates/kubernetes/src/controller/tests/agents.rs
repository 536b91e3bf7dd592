//! Agents of kagent that stand for imports, and Services that come and go with Agents.

use super::*;

const AGENTS: &str = "kagent.dev/agents";
const ASKED: &str =
    "imports:\n  - {service: agents/fraud-bot, from: bank, kagentAgent: Finds fraud.}\n";

impl ControllerStage {
    fn agent(&self) -> Option<Value> {
        self.server.get(AGENTS, "agents", "fraud-bot")
    }

    fn stub(&self) -> Option<Value> {
        self.server.get(SERVICES, "agents", "fraud-bot")
    }

    /// Does as kagent's controller for the Agent: makes its Service, or takes one over.
    fn reconcile_agent(&self) {
        let uid = self.agent().unwrap()["metadata"]["uid"].clone();
        let owner = json!([{"apiVersion": "kagent.dev/v1alpha2", "kind": "Agent", "name": "fraud-bot", "uid": uid,
            "controller": true}]);
        self.server.put(SERVICES, json!({
            "metadata": {"name": "fraud-bot", "namespace": "agents", "uid": "s", "ownerReferences": owner},
            "spec": {"selector": {"app": "kagent", "kagent": "fraud-bot"}, "ipFamilies": ["IPv4"], "clusterIP": "10.96.0.9",
                "ports": [{"name": "http", "port": 8080}]},
        }));
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_made_where_it_is_asked_for_and_goes_with_the_import() {
    let mut stage = ControllerStage::new(ASKED);
    stage.start("one");
    // Before the other cluster exports anything: callers are refused by kagent until it is there.
    stage.hear(None);
    eventually("the Agent", || stage.agent().is_some()).await;
    let made = stage.agent().unwrap();
    assert_eq!(made["spec"]["description"], "Finds fraud.");
    assert_eq!(made["spec"]["byo"]["deployment"]["replicas"], 0);
    stage.hear(Some(1));
    eventually("what is missing", || stage.import_says("False", "NoService")).await;
    assert_eq!(stage.stub(), None, "a Service of ours would be in kagent's way");
    stage.reconcile_agent();
    eventually("served", || stage.ready() == Some(true)).await;
    stage.server.put(CONFIGS, config(&ASKED.replace("Finds", "Looks for")));
    eventually("another description", || {
        stage.agent().unwrap()["spec"]["description"] == "Looks for fraud."
    })
    .await;
    // The plain import stays, and its Service comes back when kagent has deleted the Agent's.
    stage.server.put(CONFIGS, config(IMPORT));
    eventually("no Agent", || stage.agent().is_none()).await;
    stage.server.delete(SERVICES, "agents", "fraud-bot");
    eventually("a Service of ours", || {
        stage.stub().is_some_and(|stub| stub["spec"]["selector"].is_null())
    })
    .await;
    eventually("served again", || stage.ready() == Some(true)).await;
}

#[tokio::test(start_paused = true)]
async fn without_the_kind_a_plain_service_serves_until_kagent_is_installed() {
    let mut stage = ControllerStage::new(ASKED);
    let is_installed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let installed = Arc::clone(&is_installed);
    stage.server.fail(move |_, path| {
        let is_known = installed.load(std::sync::atomic::Ordering::Relaxed);
        (path.contains("/agents") && path.contains("kagent.dev") && !is_known)
            .then_some(Fault::Status(404))
    });
    stage.start("one");
    stage.hear(Some(1));
    eventually("a plain Service", || stage.stub().is_some() && stage.ready() == Some(true)).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(stage.agent(), None);
    is_installed.store(true, std::sync::atomic::Ordering::Relaxed);
    eventually("the Agent, and no Service in its way", || {
        stage.agent().is_some() && stage.stub().is_none()
    })
    .await;
    stage.reconcile_agent();
    eventually("served", || stage.ready() == Some(true)).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_of_somebody_else_stays_and_gets_room_for_its_service() {
    let mut stage = ControllerStage::new(IMPORT);
    stage.start("one");
    stage.hear(Some(1));
    eventually("served", || stage.ready() == Some(true)).await;
    let theirs = json!({"metadata": {"name": "fraud-bot", "namespace": "agents", "uid": "a"},
        "spec": {"type": "BYO", "description": "theirs", "byo": {"deployment": {"replicas": 0}}}});
    stage.server.put(AGENTS, theirs.clone());
    eventually("room for kagent's", || stage.stub().is_none()).await;
    stage.reconcile_agent();
    eventually("served in it", || stage.ready() == Some(true)).await;
    stage.server.put(CONFIGS, config(ASKED));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.agent().unwrap()["spec"], theirs["spec"]);
    // With their Agent goes its Service; ours takes the place, since the import is still wanted.
    stage.server.put(CONFIGS, config(IMPORT));
    stage.server.delete(AGENTS, "agents", "fraud-bot");
    stage.server.delete(SERVICES, "agents", "fraud-bot");
    eventually("a Service of ours", || {
        stage.stub().is_some_and(|s| s["spec"]["selector"].is_null())
    })
    .await;
    eventually("served again", || stage.ready() == Some(true)).await;
}
