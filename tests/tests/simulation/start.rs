//! A node that has just started: connections that waited for it wait for its first view, too.

use adit_core::code::Code;
use adit_dataplane::flow::Direction;
use adit_tests::sim::agent::{Delivered, RequestOutcome, ask, serve};
use adit_tests::sim::{SUPPORT, Town, TownPlan, backend, import};
use adit_tests::sites::eventually;
use tokio::time::{Instant, sleep};

use crate::hostile::{Peer, header};
use crate::{MS, SECOND};

/// Both ends as they begin, with the imports' addresses bound and nothing else done.
async fn beginning(plan: &TownPlan, is_cut: bool) -> Town {
    let town = Town::begin(plan);
    if is_cut {
        town.cut(&[town.sites.bank.ip(1)]);
    }
    serve(&town.pods, backend(1), &Delivered::default());
    sleep(MS).await;
    assert!(town.edge[0].snapshot.borrow().views.is_empty(), "nothing has been heard yet");
    town
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_comes_before_the_first_view_is_carried_after_it() {
    let town = beginning(&TownPlan::default(), false).await;
    assert_eq!(ask(&town.pods, SUPPORT, import(1), 1, 5_000).await, RequestOutcome::Answered);
}

#[tokio::test(start_paused = true)]
async fn where_no_view_comes_it_is_refused_five_seconds_after_the_start_and_later_ones_at_once() {
    let began = Instant::now();
    let town = beginning(&TownPlan::default(), true).await;
    assert_eq!(ask(&town.pods, SUPPORT, import(1), 1, 5_000).await, RequestOutcome::Reset);
    let waited = began.elapsed();
    assert!(waited >= 5 * SECOND && waited < 6 * SECOND, "{waited:?}");
    let again = Instant::now();
    assert_eq!(ask(&town.pods, SUPPORT, import(1), 2, 5_000).await, RequestOutcome::Reset);
    assert!(again.elapsed() < 100 * MS, "{:?}", again.elapsed());
    assert_eq!(town.edge[0].ended(Direction::Outbound, Code::LinkDown), 2);
}

/// Nobody is led to what is new before it has answered: not even for the moment until it is found out.
#[tokio::test(start_paused = true)]
async fn a_backend_that_never_existed_is_never_told_to_be_ready() {
    let plan = TownPlan::default();
    let none = TownPlan { backends: "[]".to_owned(), ..plan.clone() };
    let town = Town::start(&none).await;
    let mut snapshot = town.edge[0].snapshot.clone();
    let bank = town.sites.bank.name.clone();
    let is_ready = move |now: &adit_core::snapshot::Snapshot| {
        now.views
            .get(&bank)
            .is_some_and(|view| view.exports.values().any(|e| view.has_ready_backend(e)))
    };
    town.bank[0].configure(&plan.bank(1));
    let waits = snapshot.wait_for(|now| is_ready(now));
    let is_told = tokio::time::timeout(60 * SECOND, waits).await.is_ok();
    assert!(!is_told, "it was told to be ready");
    serve(&town.pods, backend(1), &Delivered::default());
    let began = Instant::now();
    snapshot.wait_for(|now| is_ready(now)).await.unwrap();
    assert!(began.elapsed() < 6 * SECOND, "{:?}", began.elapsed());
    assert_eq!(ask(&town.pods, SUPPORT, import(1), 1, 5_000).await, RequestOutcome::Answered);
}

#[tokio::test(start_paused = true)]
async fn an_export_that_nothing_answers_for_is_not_ready_before_anybody_has_asked() {
    let town = Town::begin(&TownPlan::default());
    let ready = || {
        let now = town.edge[0].snapshot.borrow().clone();
        let view = now.views.get(&town.sites.bank.name)?;
        Some(view.exports.values().any(|export| view.has_ready_backend(export)))
    };
    eventually("bank has found out, and told", 5 * SECOND, || ready() == Some(false)).await;
    // Callers are refused where they ask, with what bank's probes found.
    assert_eq!(ask(&town.pods, SUPPORT, import(1), 1, 5_000).await, RequestOutcome::Reset);
    let (code, reason) = town.edge[0].failure().unwrap();
    assert_eq!(code, Code::BackendRefused);
    assert!(reason.ends_with("in bank answers: connection refused"), "{reason}");
    assert!(town.bank[0].node.flows.ended().is_empty(), "no stream was needed for it");
    // A peer that asks all the same hears how it is.
    let answer = Peer::start(&town).await.ask(&header(), false).await;
    assert_eq!(answer.code, Code::BackendRefused, "{answer:?}");
    serve(&town.pods, backend(1), &Delivered::default());
    eventually("it is back", 10 * SECOND, || ready() == Some(true)).await;
    assert_eq!(ask(&town.pods, SUPPORT, import(1), 1, 5_000).await, RequestOutcome::Answered);
}
