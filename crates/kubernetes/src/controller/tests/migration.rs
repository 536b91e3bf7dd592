//! Endpoints that somebody takes out of service, as `adit migrate` does, beside an import.

use super::*;
use crate::operator::context::Context;
use crate::operator::migrate::{
    Migration, MigrationError, MigrationRequest, MigrationSides, MigrationStep,
};

/// A slice of somebody else's, in service or on its way out.
fn by_hand(leaving: bool, manager: Option<&str>) -> Value {
    let mut slice = own_slice(!leaving);
    slice["endpoints"][0]["conditions"] =
        json!({"ready": !leaving, "serving": true, "terminating": leaving});
    if let Some(manager) = manager {
        slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] = manager.into();
    }
    slice
}

#[tokio::test(start_paused = true)]
async fn endpoints_on_their_way_out_serve_until_ours_are_ready_and_again_while_they_are_not() {
    let mut stage = ControllerStage::new(IMPORT);
    kagents_stub(&stage.server, 0);
    stage.server.put(SLICES, by_hand(false, None));
    stage.start("one");
    stage.hear(Some(0));
    eventually("told", || stage.import_says("False", "ServiceHasOwnEndpoints")).await;
    assert!(stage.slice().is_none());
    stage.server.put(SLICES, by_hand(true, None));
    eventually("told why bank does not serve", || stage.import_says("False", "NoBackend")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(stage.slice().is_none(), "a slice that only refuses would get a part of the callers");
    let message = |stage: &ControllerStage| {
        let import = stage.server.get(IMPORTS, "", "agents.fraud-bot").unwrap();
        let conditions = import["status"]["conditions"].as_array().unwrap().clone();
        let ready = conditions.into_iter().find(|one| one["type"] == "Ready").unwrap();
        ready["message"].as_str().unwrap().to_owned()
    };
    let beside = "EndpointSlice fraud-bot-x (which nobody says to manage) is on its way out and serves only while bank \
                  does not";
    assert!(message(&stage).ends_with(beside), "{}", message(&stage));
    stage.hear(Some(1));
    eventually("ready beside them", || stage.ready() == Some(true)).await;
    eventually("told", || stage.import_says("True", "Ready")).await;
    assert!(message(&stage).ends_with(beside), "{}", message(&stage));
    stage.hear(Some(0));
    eventually("theirs again", || stage.slice().is_none()).await;
    stage.hear(Some(1));
    eventually("ours again", || stage.ready() == Some(true)).await;
    stage.server.delete(SLICES, "agents", "fraud-bot-x");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(message(&stage), "bank serves agents/fraud-bot");
    stage.hear(Some(0));
    eventually("refused by us, now that nobody else is there", || stage.ready() == Some(false))
        .await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_the_service_itself_that_end_make_no_room() {
    let mut stage = ControllerStage::new(IMPORT);
    kagents_stub(&stage.server, 0);
    stage.server.put(SLICES, by_hand(true, Some("endpointslice-controller.k8s.io")));
    stage.start("one");
    stage.hear(Some(1));
    eventually("told", || stage.import_says("False", "ServiceHasOwnEndpoints")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(stage.slice().is_none());
}

/// Two clusters with a lateral hack: edge has a controller, bank is an API server alone whose export is well.
struct HackStage {
    edge: ControllerStage,
    bank: FakeApiServer,
}

const SERVICE: &str = "agents/fraud-bot";

impl HackStage {
    fn new(backends: u32) -> Self {
        let mut edge = ControllerStage::new("");
        kagents_stub(&edge.server, 0);
        let mut slice = by_hand(false, None);
        slice["endpoints"][0] = json!({"addresses": ["172.18.2.2"]});
        slice["ports"] = json!([{"name": "http", "port": 30090}]);
        edge.server.put(SLICES, slice);
        edge.start("one");
        edge.hear(Some(backends));
        let bank = FakeApiServer::default();
        let bundle = bundle_of("edge").replace('\n', "\n      ");
        let text = format!(
            "cluster: bank\nlinks:\n  - cluster: edge\n    trustDomain: edge.adit.internal\n    \
             trustBundle: |\n      {bundle}\n"
        );
        let name = json!({"name": "adit", "namespace": "adit-system"});
        bank.put(CONFIGS, json!({"metadata": name, "data": {"cluster.yaml": text}}));
        bank.put(
            "/nodes",
            json!({"metadata": {"name": "b1"}, "status": {"addresses": [{"type": "InternalIP", "address": "172.18.2.2"}]}}),
        );
        bank.put(
            SERVICES,
            json!({"metadata": {"name": "fraud-bot", "namespace": "agents"}, "spec": {"type": "NodePort",
                "externalTrafficPolicy": "Cluster", "ports": [{"name": "http", "port": 8080, "nodePort": 30090}]}}),
        );
        let good = |kind: &str| {
            json!({"type": kind, "status": "True", "reason": kind, "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let grant =
            json!({"cluster": "edge", "namespace": "agents", "serviceAccount": "support-bot"});
        bank.put(
            EXPORTS,
            json!({"metadata": {"name": "agents.fraud-bot"},
                "spec": {"service": {"namespace": "agents", "name": "fraud-bot"}, "allow": [grant]},
                "status": {"conditions": [good("Valid"), good("Linked"), good("Ready")]}}),
        );
        Self { edge, bank }
    }

    fn sides(&self) -> MigrationSides {
        MigrationSides {
            exporting: Context::of_client("bank", self.bank.client()),
            importing: Context::of_client("edge", self.edge.server.client()),
        }
    }

    async fn prepare(&self) -> Result<Migration, MigrationError> {
        let support = WorkloadPattern {
            namespace: "agents".parse().unwrap(),
            service_account: "support-bot".parse().unwrap(),
        };
        Migration::prepare(self.sides(), request(vec![support])).await
    }

    fn old(&self) -> Option<Value> {
        self.edge.server.get(SLICES, "agents", "fraud-bot-x")
    }

    /// The writes of slices of edge, in its order.
    fn slice_writes(&self) -> Vec<String> {
        let all =
            self.edge.server.requests(|r| !r.starts_with("GET") && r.contains("/endpointslices"));
        all.iter().map(|r| r.replace("/apis/discovery.k8s.io/v1/namespaces/agents/", "")).collect()
    }
}

fn request(allow: Vec<WorkloadPattern>) -> MigrationRequest {
    MigrationRequest {
        service: SERVICE.parse().unwrap(),
        allow,
        keep_node_port: false,
        timeout: Duration::from_secs(60),
        settle: Duration::from_secs(5),
    }
}

async fn perform_all(migration: &Migration, steps: &[MigrationStep]) {
    for step in steps {
        migration.perform(*step).await.unwrap_or_else(|error| panic!("{step:?}: {error}"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_old_endpoints_serve_until_ours_do_and_the_node_port_goes_last() {
    let stage = HackStage::new(1);
    let migration = stage.prepare().await.unwrap();
    assert_eq!(migration.notes, Vec::<String>::new());
    let before = stage.old().unwrap();
    let steps = migration.steps();
    let until = |last: MigrationStep| steps.iter().position(|step| *step == last).unwrap();
    let (retired, removed) = (until(MigrationStep::Retire), until(MigrationStep::Remove));
    perform_all(&migration, &steps[..=retired]).await;
    let leaves = json!({"ready": false, "serving": true, "terminating": true});
    assert_eq!(stage.old().unwrap()["endpoints"][0]["conditions"], leaves);
    let config = stage.bank.get(CONFIGS, "adit-system", "adit").unwrap();
    assert!(
        config["data"]["export-agents.fraud-bot.yaml"].as_str().unwrap().contains("support-bot")
    );
    perform_all(&migration, &steps[retired + 1..=removed]).await;
    assert_eq!((stage.old(), stage.edge.ready()), (None, Some(true)));
    let wanted = [
        "PUT endpointslices/fraud-bot-x",
        "POST endpointslices",
        "DELETE endpointslices/fraud-bot-x",
    ];
    let writes = stage.slice_writes();
    let plain: Vec<&str> = writes.iter().filter_map(|w| w.split('?').next()).collect();
    assert_eq!(plain, wanted);
    let service = || stage.bank.get(SERVICES, "agents", "fraud-bot").unwrap();
    assert_eq!(service()["spec"]["type"], "NodePort", "it goes last");
    perform_all(&migration, &steps[removed + 1..]).await;
    assert_eq!(service()["spec"]["type"], "ClusterIP");
    assert!(service()["spec"]["ports"][0]["nodePort"].is_null());

    // Run again, it finds all done.
    let again = stage.prepare().await.unwrap();
    perform_all(&again, &again.steps()).await;
    assert_eq!(stage.slice_writes(), writes);

    let back = Migration::prepare_back(stage.sides(), request(Vec::new())).await.unwrap();
    perform_all(&back, &back.steps_back()).await;
    assert_eq!(service()["spec"]["ports"][0]["nodePort"], 30090);
    assert_eq!(service()["spec"]["externalTrafficPolicy"], "Cluster");
    let now = stage.old().unwrap();
    assert_eq!((&now["endpoints"], &now["ports"]), (&before["endpoints"], &before["ports"]));
    assert!(stage.edge.slice().is_none());
    let error = Migration::prepare_back(stage.sides(), request(Vec::new())).await.unwrap_err();
    assert!(error.to_string().contains("has kept anything"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_get_ready_leaves_the_hack_as_it_was() {
    let stage = HackStage::new(0);
    let before = stage.old().unwrap();
    let migration = stage.prepare().await.unwrap();
    let steps = migration.steps();
    perform_all(&migration, &steps[..4]).await;
    let error = migration.perform(MigrationStep::TakeOver).await.unwrap_err().to_string();
    assert!(error.contains("(NoBackend)") && error.contains("are in service again"), "{error}");
    assert_eq!(stage.old().unwrap()["endpoints"], before["endpoints"]);
    assert!(stage.edge.slice().is_none());

    // Another migration goes on from there, though the first was interrupted while they were on their way out.
    perform_all(&migration, &[MigrationStep::Retire]).await;
    stage.edge.hear(Some(1));
    let second = stage.prepare().await.unwrap();
    perform_all(&second, &second.steps()).await;
    let back = Migration::prepare_back(stage.sides(), request(Vec::new())).await.unwrap();
    perform_all(&back, &back.steps_back()).await;
    assert_eq!(stage.old().unwrap()["endpoints"], before["endpoints"], "as it was in service");
}

#[tokio::test(start_paused = true)]
async fn whoever_writes_the_slice_back_stops_the_migration_and_nothing_is_lost() {
    let stage = HackStage::new(0);
    let migration = stage.prepare().await.unwrap();
    let steps = migration.steps();
    perform_all(&migration, &steps[..4]).await;
    let mut slice = stage.old().unwrap();
    slice["endpoints"][0]["conditions"] = json!({"ready": true});
    slice["metadata"]["managedFields"] =
        json!([{"manager": "submariner", "time": "2026-01-01T00:00:00Z"}]);
    stage.edge.server.put(SLICES, slice);
    let error = migration.perform(MigrationStep::TakeOver).await.unwrap_err().to_string();
    assert!(
        error.contains("submariner has put EndpointSlice fraud-bot-x back into service"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_migrated_is_refused_before_anything_is_written() {
    let refusal = |stage: HackStage, allow: bool| async move {
        let (edge, bank) =
            (stage.edge.writes().len(), stage.bank.requests(|r| !r.starts_with("GET")).len());
        let done = if allow {
            stage.prepare().await
        } else {
            Migration::prepare(stage.sides(), request(Vec::new())).await
        };
        let writes = stage.bank.requests(|r| !r.starts_with("GET")).len();
        assert_eq!(writes, bank);
        assert!(stage.edge.writes().len() <= edge + 10, "the controller's alone");
        assert!(stage.edge.server.get(CONFIGS, "agents", "adit-migration-fraud-bot").is_none());
        done.map(drop).unwrap_err().to_string()
    };
    let stage = HackStage::new(1);
    stage.edge.server.put(SLICES, by_hand(false, Some("endpointslice-controller.k8s.io")));
    assert!(refusal(stage, true).await.contains("has pods of its own"));
    let stage = HackStage::new(1);
    stage.edge.server.put(SLICES, by_hand(false, Some("endpointslicemirroring-controller.k8s.io")));
    assert!(refusal(stage, true).await.contains("mirrors an Endpoints object"));
    let stage = HackStage::new(1);
    stage.edge.server.delete(SLICES, "agents", "fraud-bot-x");
    assert!(refusal(stage, true).await.contains("nothing to migrate from"));
    let stage = HackStage::new(1);
    stage.bank.delete(EXPORTS, "", "agents.fraud-bot");
    assert!(refusal(stage, false).await.contains("--allow"));
    let stage = HackStage::new(1);
    stage.bank.delete(SERVICES, "agents", "fraud-bot");
    assert!(refusal(stage, true).await.contains("--from-context is the cluster whose pods answer"));
}

#[tokio::test(start_paused = true)]
async fn the_plan_names_callers_that_will_be_refused_and_endpoints_that_lead_elsewhere() {
    let stage = HackStage::new(1);
    let pod = |name: &str, account: &str| json!({"metadata": {"name": name, "namespace": "agents"}, "spec": {"serviceAccountName": account, "containers": []}});
    for (name, account) in [("a", "support-bot"), ("b", "auditor")] {
        stage.edge.server.put("/pods", pod(name, account));
    }
    let mut slice = stage.old().unwrap();
    slice["endpoints"] = json!([{"addresses": ["172.18.2.2"]}, {"addresses": ["192.0.2.7"]}]);
    stage.edge.server.put(SLICES, slice);
    let migration = stage.prepare().await.unwrap();
    let notes = migration.notes.join("\n");
    assert!(notes.contains("192.0.2.7:30090 is no node port"), "{notes}");
    assert!(
        notes.contains("ServiceAccount auditor may call") && !notes.contains("support-bot"),
        "{notes}"
    );
    assert!(migration.steps().contains(&MigrationStep::ClosePort));
}
