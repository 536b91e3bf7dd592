//! From the objects of scripted API servers, and what is answered behind them, to the list of agents.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::fake_api_server::{FakeApiServer, Fault};
use crate::operator::context::Context;
use crate::operator::doctor::tests::{cluster, named};

fn condition(kind: &str, is_true: bool, message: &str) -> Value {
    let status = if is_true { "True" } else { "False" };
    json!({"type": kind, "status": status, "reason": "Why", "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn export(server: &FakeApiServer, name: &str, ports: Value, conditions: Value) {
    let spec = json!({
        "service": {"namespace": "agents", "name": name}, "ports": ports,
        "allow": [{"cluster": "edge", "namespace": "agents", "serviceAccount": "support-bot"}],
    });
    let object = json!({"spec": spec, "status": {"conditions": conditions}});
    server.put("adit.dev/exports", named("", &format!("agents.{name}"), object));
}

/// The exporting cluster, which imports nothing.
fn bank() -> FakeApiServer {
    let server = cluster();
    let config = json!({"data": {"cluster.yaml": "cluster: bank\n"}});
    server.put("/configmaps", named("adit-system", "adit", config));
    server.delete("adit.dev/imports", "", "agents.fraud-bot");
    let ready = json!([condition("Valid", true, ""), condition("Ready", true, "")]);
    let http = json!([{"name": "grpc", "number": 9}, {"name": "http", "number": 8080}]);
    export(&server, "fraud-bot", http, ready);
    server
}

async fn site(context: &str, server: &FakeApiServer) -> ClusterSite {
    Box::pin(ClusterSite::read(Context::of_client(context, server.client()))).await.unwrap()
}

/// Has what is behind the Service proxy answer with this.
fn agents(server: &FakeApiServer, answer: impl Fn(&str, &str) -> Option<Fault> + Send + 'static) {
    server.fail(move |_, path| {
        let (service, path) = path.split_once("/services/")?.1.split_once("/proxy/")?;
        answer(service, path.trim_end_matches('?'))
    });
}

fn card() -> String {
    json!({
        "name": "Fraud\u{1b}[31m", "url": "http://localhost:8080/", "protocolVersion": "0.3.0",
        "capabilities": {"pushNotifications": true}, "skills": [{"id": "x", "name": "Look"}],
        "signatures": [{"protected": "e30", "signature": "x"}],
    })
    .to_string()
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_listed_once_with_its_card_and_with_what_does_not_work_elsewhere() {
    let (edge, bank) = (cluster(), bank());
    agents(&bank, |service, path| {
        assert_eq!(service, "fraud-bot:http", "the port that looks like an agent's");
        Some(match path {
            ".well-known/agent.json" => Fault::Passed(200, card()),
            _ => Fault::Passed(404, "no such page".to_owned()),
        })
    });
    let sites = [site("kind-edge", &edge).await, site("kind-bank", &bank).await];
    let all = Box::pin(catalogue(&sites)).await;
    let [entry] = &all[..] else { panic!("{all:#?}") };
    assert_eq!((&*entry.service, &*entry.cluster), ("agents/fraud-bot", "bank"));
    assert_eq!(entry.callers, ["edge: agents/support-bot"]);
    let imports = [AgentImport { cluster: "edge".to_owned(), problem: None }];
    assert_eq!(entry.imports, imports);
    assert_eq!((entry.answer(), entry.is_well()), (AgentAnswer::Card, false));
    let card = entry.card.as_ref().unwrap();
    assert_eq!((&*card.name, &card.skills[..]), ("Fraud\\u{1b}[31m", &["Look".to_owned()][..]));
    let seen: Vec<_> = entry.warnings.iter().map(|warning| &*warning.seen).collect();
    assert_eq!(seen.len(), 3, "{seen:#?}");
    assert!(seen[0].contains("localhost:8080/, which is not fraud-bot.agents"), "{seen:#?}");
    assert!(seen[1].contains("bank imports nothing from edge"), "{seen:#?}");
    let mend = entry.warnings[1].mend.as_deref().unwrap();
    assert!(mend.contains("--context kind-edge") && mend.contains("--context kind-bank"), "{mend}");
    assert!(seen[2].contains("break the signature"), "{seen:#?}");
    assert_eq!(bank.requests(|r| r.contains("proxy")).len(), 2, "once at each place");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_fetched_is_said_of_each_and_hides_no_other() {
    let bank = bank();
    let ports = || json!([{"name": "", "number": 80}]);
    let no_backend = json!([condition("Valid", true, ""), condition("Ready", false, "no pods")]);
    export(&bank, "away", ports(), no_backend);
    for name in ["database", "forever", "huge", "refused", "silent"] {
        export(&bank, name, ports(), json!([]));
    }
    agents(&bank, |service, _| {
        Some(match service {
            "database" => Fault::Passed(400, "not for you".to_owned()),
            "huge" => Fault::Passed(200, "[".repeat(1024 * 1024)),
            "refused" => Fault::Passed(500, "]".repeat(1024 * 1024)),
            "silent" => Fault::Silence,
            "fraud-bot:http" => Fault::Passed(200, card()),
            _ => Fault::Status(503),
        })
    });
    let sites = [site("kind-bank", &bank).await];
    let began = Instant::now();
    let all = Box::pin(catalogue(&sites)).await;
    assert!(began.elapsed() <= Duration::from_secs(10), "{:?}", began.elapsed());
    let found: Vec<_> = all
        .iter()
        .map(|entry| {
            let error = entry.card.as_ref().unwrap().error.as_deref().unwrap_or("-");
            (entry.service.trim_start_matches("agents/"), entry.answer(), error, &entry.problem)
        })
        .collect();
    let (no_card, silent) = (AgentAnswer::NoCard, AgentAnswer::Silent);
    for (one, (name, answer, word)) in found.iter().zip([
        ("away", silent, "does not reach the agent: the test says 503"),
        ("database", no_card, "has no card (HTTP status 400)"),
        ("forever", silent, "503"),
        ("fraud-bot", AgentAnswer::Card, "-"),
        ("huge", no_card, "more than 256 KiB"),
        ("refused", no_card, "500"),
        ("silent", silent, "within 10 s"),
    ]) {
        assert!((one.0, one.1) == (name, answer) && one.2.contains(word), "{name}: {one:?}");
    }
    assert_eq!(all[0].problem.as_deref(), Some("no pods (Why)"));
    assert!(all[1].is_well(), "it need not be an agent");
}

#[tokio::test(start_paused = true)]
async fn all_together_take_no_longer_than_a_person_waits() {
    let bank = bank();
    for n in 0..200 {
        export(&bank, &format!("a{n}"), json!([{"name": "", "number": 80}]), json!([]));
    }
    agents(&bank, |_, _| Some(Fault::Silence));
    let sites = [site("kind-bank", &bank).await];
    let began = Instant::now();
    let all = Box::pin(catalogue(&sites)).await;
    assert_eq!((all.len(), began.elapsed().as_secs()), (201, 60));
    let asked = bank.requests(|request| request.contains("/proxy/")).len();
    assert_eq!(asked, 6 * MAX_AT_ONCE, "eight at a time, for ten seconds each");
    let untold = |entry: &&AgentEntry| {
        entry.card.as_ref().is_some_and(|card| {
            card.error.as_ref().is_some_and(|error| error.contains("not asked"))
        })
    };
    assert_eq!(all.iter().filter(untold).count(), 201 - asked);
}

#[tokio::test]
async fn an_import_whose_cluster_was_not_asked_is_listed_without_a_card() {
    let edge = cluster();
    let all = Box::pin(catalogue(&[site("kind-edge", &edge).await])).await;
    assert_eq!((all.len(), all[0].answer()), (1, AgentAnswer::NotAsked));
    assert_eq!((&*all[0].cluster, &*all[0].callers[0]), ("bank", "edge: agents/support-bot"));
    assert!(all[0].is_well());
}
