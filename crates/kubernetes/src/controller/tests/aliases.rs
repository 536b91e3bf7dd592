//! Exports under another name, and the Services that are made for them.

use super::*;

const NAME: &str = "kagent.kagent-bank";

/// A rule for kagent/kagent-controller, and more of it.
fn rule(more: &str) -> String {
    format!(
        "exports:\n  - service: kagent/kagent-controller\n    allow: [{{cluster: bank, namespace: \"*\", \
         serviceAccount: \"*\"}}]\n{more}"
    )
}

const AS: &str = "    as: kagent/kagent-bank:8083\n";
const MAKE: &str = "    as: kagent/kagent-bank:8083\n    makeAlias: true\n";

fn kagent_controller(selector: Value) -> Value {
    json!({"metadata": {"name": "kagent-controller", "namespace": "kagent"}, "spec": {
        "selector": selector, "ports": [{"name": "controller", "port": 80, "targetPort": "api"}]}})
}

fn stage(more: &str) -> ControllerStage {
    let stage = ControllerStage::new(&rule(more));
    stage.server.put("/namespaces", json!({"metadata": {"name": "kagent"}}));
    stage.server.put(SERVICES, kagent_controller(json!({"app": "kagent"})));
    stage
}

impl ControllerStage {
    fn alias_service(&self) -> Option<Value> {
        self.server.get(SERVICES, "kagent", "kagent-bank")
    }

    fn alias_says(&self, kind: &str) -> Option<String> {
        self.condition(EXPORTS, NAME, kind).map(|(status, reason)| format!("{status} {reason}"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_is_exported_under_another_name_and_number() {
    let mut stage = stage(AS);
    stage.start("one");
    eventually("valid", || stage.alias_says("Valid").as_deref() == Some("True Exported")).await;
    let spec = &stage.server.get(EXPORTS, "", NAME).unwrap()["spec"];
    assert_eq!(spec["service"], json!({"namespace": "kagent", "name": "kagent-bank"}));
    let backend = json!({"namespace": "kagent", "name": "kagent-controller"});
    assert_eq!(spec["backendService"], backend);
    assert_eq!(spec["ports"], json!([{"name": "controller", "number": 8083}]));
    assert_eq!((stage.alias_service(), stage.alias_says("Alias")), (None, None));
    stage.server.put(CONFIGS, config(""));
    eventually("withdrawn", || stage.server.get(EXPORTS, "", NAME).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn the_service_of_an_alias_is_made_kept_and_taken_away_with_the_export() {
    let mut stage = stage(MAKE);
    stage.start("one");
    eventually("made", || stage.alias_says("Alias").as_deref() == Some("True AliasMade")).await;
    let made = stage.alias_service().unwrap();
    assert_eq!(made["spec"]["selector"], json!({"app": "kagent"}));
    let port =
        json!([{"name": "controller", "port": 8083, "protocol": "TCP", "targetPort": "api"}]);
    assert_eq!(made["spec"]["ports"], port);
    assert_eq!(made["metadata"]["annotations"]["adit.dev/alias-of"], "kagent/kagent-controller");
    // It follows the Service, and nothing is written while nothing changes.
    stage.server.put(SERVICES, kagent_controller(json!({"app": "other"})));
    eventually("the selector", || {
        stage.alias_service().unwrap()["spec"]["selector"] == json!({"app": "other"})
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = stage.writes();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(stage.writes(), before);
    // While the Service is away the clients of its alias keep the address that they know.
    stage.server.delete(SERVICES, "kagent", "kagent-controller");
    eventually("no Service", || stage.alias_says("Valid").as_deref() == Some("False NoService"))
        .await;
    assert!(stage.alias_service().is_some());
    stage.server.put(SERVICES, kagent_controller(json!({"app": "kagent"})));
    stage.server.put(CONFIGS, config(&rule(AS)));
    eventually("taken away", || stage.alias_service().is_none()).await;
    eventually("no condition", || stage.alias_says("Alias").is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn an_alias_takes_no_service_that_is_there_and_selects_nothing_by_itself() {
    let mut stage = stage(MAKE);
    let theirs = json!({"metadata": {"name": "kagent-bank", "namespace": "kagent"}, "spec": {"ports": [{"port": 1}]}});
    stage.server.put(SERVICES, theirs.clone());
    stage.start("one");
    let not_made = || stage.alias_says("Alias").as_deref() == Some("False AliasNotMade");
    eventually("refused", not_made).await;
    assert_eq!(stage.alias_service().unwrap()["spec"], theirs["spec"]);
    assert_eq!(stage.alias_says("Valid").as_deref(), Some("True Exported"));
    stage.server.delete(SERVICES, "kagent", "kagent-bank");
    eventually("made", || stage.alias_says("Alias").as_deref() == Some("True AliasMade")).await;
    stage.server.put(CONFIGS, config(""));
    eventually("taken away", || stage.alias_service().is_none()).await;
    stage.server.put(SERVICES, kagent_controller(json!({})));
    stage.server.put(CONFIGS, config(&rule(MAKE)));
    eventually("no selector", not_made).await;
    let elsewhere = MAKE.replace("kagent/kagent-bank", "agents/kagent-bank");
    stage.server.put(CONFIGS, config(&rule(&elsewhere)));
    let says = || stage.condition(EXPORTS, "agents.kagent-bank", "Alias").map(|(_, reason)| reason);
    eventually("elsewhere", || says().as_deref() == Some("AliasNotMade")).await;
    assert!(stage.server.get(SERVICES, "agents", "kagent-bank").is_none());
}
