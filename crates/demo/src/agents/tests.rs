//! The conversations of the story, agent to caller without a tunnel: what is wrong here is not Adit's.

use std::net::Ipv4Addr;

use futures_util::StreamExt as _;

use super::fraud::{FraudBot, StepGate};
use super::triage::TriageBot;
use super::*;
use crate::caller::{Caller, task_of, words};

struct Bank {
    _agents: AgentServers,
    triage: TriageBot,
    pace: StepGate,
    support: Caller,
}

async fn bank() -> Bank {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let pod = |last| IpAddr::from(Ipv4Addr::new(127, 0, 2, last));
    let (mut agents, triage, pace) =
        (AgentServers::default(), TriageBot::default(), StepGate::new());
    let triage_at = agents.serve(pod(20), &triage::ABOUT, triage.clone()).await.unwrap();
    let cluster = Caller::new(pod(10), &[("triage-bot", triage_at)]).unwrap();
    let fraud = FraudBot { cluster, pace: pace.clone() };
    let fraud_at = agents.serve(pod(10), &fraud::ABOUT, fraud).await.unwrap();
    let support = Caller::new(Ipv4Addr::new(127, 0, 1, 10).into(), &[("fraud-bot", fraud_at)]);
    Bank { _agents: agents, triage, pace, support: support.unwrap() }
}

#[test]
fn a_payment_is_two_numbers() {
    let payment = Payment { number: 4711, amount: 90 };
    assert_eq!(Payment::parse(&payment.question()), Some(payment));
    assert_eq!(Payment::parse("payment 4711"), None);
    assert_eq!(Payment::parse("99999999999999999999999 1"), None);
}

#[tokio::test]
async fn the_card_names_the_service_and_offers_streaming() {
    let bank = bank().await;
    let fraud = bank.support.agent("fraud-bot").await.unwrap();
    assert_eq!(fraud.card.name, "fraud-bot");
    assert_eq!(fraud.card.capabilities.streaming, Some(true));
    assert_eq!(fraud.card.supported_interfaces[0].url, "http://fraud-bot.trustusbank-bank-agents/");
    let bytes = bank.support.card_bytes("fraud-bot").await.unwrap();
    assert_eq!(serde_json::from_slice::<AgentCard>(&bytes).unwrap(), fraud.card);
}

#[tokio::test]
async fn a_small_payment_is_decided_and_a_large_one_is_escalated() {
    let bank = bank().await;
    let fraud = bank.support.agent("fraud-bot").await.unwrap();
    let small = fraud.ask(Payment { number: 4711, amount: 90 }).await.unwrap();
    assert_eq!((small.as_str(), bank.triage.cases()), ("payment 4711 is in order", 0));
    let large = fraud.ask(Payment { number: 4712, amount: 25_000 }).await.unwrap();
    assert!(large.contains("case T-1: hold payment 4712"), "{large}");
    assert_eq!(bank.triage.cases(), 1);
}

#[tokio::test]
async fn events_keep_step_and_a_cut_stream_is_resumed() {
    let bank = bank().await;
    let fraud = bank.support.agent("fraud-bot").await.unwrap();
    let mut events = fraud.follow(Payment { number: 4713, amount: 40 }).await.unwrap();
    bank.pace.step();
    let first = events.next().await.unwrap().unwrap();
    assert_eq!(words(&first), "account history read");
    let task = task_of(&first).unwrap().to_owned();
    let waiting = tokio::time::timeout(std::time::Duration::from_millis(50), events.next()).await;
    assert!(waiting.is_err(), "an event came unasked: {waiting:?}");
    drop(events);

    let mut events = fraud.resume(&task).await.unwrap();
    let snapshot = events.next().await.unwrap().unwrap();
    assert_eq!((words(&snapshot).as_str(), task_of(&snapshot)), ("task is working", Some(&*task)));
    let mut rest = Vec::new();
    loop {
        bank.pace.step();
        let Some(event) = events.next().await else { break };
        rest.push(words(&event.unwrap()));
    }
    assert_eq!(
        rest,
        ["payee and amount are as usual", "payment 4713 is in order", "task is completed"]
    );
}

/// On a `scratch` image the system has no certificates, and the SDK's own client cannot be built.
#[test]
fn no_certificates_of_the_system_are_needed() {
    let conversation = "agents::tests::a_small_payment_is_decided_and_a_large_one_is_escalated";
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", conversation])
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", "/nonexistent")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && told.contains("1 passed"), "{told}");
}
