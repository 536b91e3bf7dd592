//! Bytes that nobody takes: received by the victim and not read, or sent by it and not read or
//! acknowledged.

use std::sync::Arc;
use std::time::Duration;

use quinn::SendStream;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::{AttackContext, connect, ms};
use crate::hostile::client::{EnemyConnection, Manners, answer, header};
use crate::hostile::forge;
use crate::hostile::load::AgentOrder;
use crate::hostile::stage::{GRANTED, HOLE};

/// A service that nobody exports.
const NOTHING: &str = "agents/no-such-bot";

/// Writes without end, or until the victim refuses; counts what it has taken.
async fn fill(means: &AttackContext, send: &mut SendStream) {
    let block = vec![0; 64 * 1024];
    while let Ok(Ok(n)) = timeout_at(means.pace.until, send.write(&block)).await {
        means.counts.add("bytes", n as u64);
    }
}

/// On `n` connections `streams` streams each, filled; one that ends is begun anew.
async fn full(means: AttackContext, manners: Manners, n: usize, streams: usize, first: Vec<u8>) {
    let all = connect(&means, n, 1, &manners).await;
    let mut filling = JoinSet::new();
    for conn in all.into_iter().map(Arc::new) {
        for _ in 0..streams {
            let (means, conn, first) = (means.clone(), Arc::clone(&conn), first.clone());
            filling.spawn(async move {
                while means.pace.goes_on() && conn.quinn.close_reason().is_none() {
                    let Ok((mut send, _recv)) = conn.begin(&first).await else { return };
                    means.counts.add("streams", 1);
                    fill(&means, &mut send).await;
                    ms(50).await;
                }
            });
        }
    }
    filling.join_all().await;
}

fn big(mut manners: Manners) -> Manners {
    manners.send_window = 1 << 34;
    manners
}

/// See [`super::ALL`].
pub async fn unread_refused_bulk(means: AttackContext) {
    let streams = means.pace.of(200);
    full(means, big(Manners::default().bulk().deaf()), 1, streams, header(NOTHING)).await;
}

/// See [`super::ALL`].
pub async fn unread_refused(means: AttackContext) {
    let n = means.pace.of(4);
    full(means, big(Manners::default().deaf()), n, 500, header(NOTHING)).await;
}

/// See [`super::ALL`].
pub async fn unread_dialling(means: AttackContext) {
    let streams = means.pace.of(200);
    full(means, big(Manners::default().bulk()), 1, streams, header(HOLE)).await;
}

/// The first bytes of a granted stream whose agent obeys that order.
pub(super) fn ask(order: AgentOrder) -> Vec<u8> {
    [header(GRANTED), order.bytes()].concat()
}

/// See [`super::ALL`].
pub async fn unread_granted(means: AttackContext) {
    let n = means.pace.of(4);
    full(means, big(Manners::default()), n, 500, ask(AgentOrder::Ignore)).await;
}

/// Granted streams whose packets beyond the order are rewritten.
async fn rewritten(
    means: AttackContext,
    mut manners: Manners,
    streams: usize,
    make: fn(u64) -> forge::Rewrite,
) {
    // Headers are of one length, since all names are.
    let first = ask(AgentOrder::Ignore);
    manners.rewrite = Some(make(first.len() as u64));
    let Some(conn) = connect(&means, 1, 1, &big(manners)).await.pop().map(Arc::new) else { return };
    let mut filling = JoinSet::new();
    for _ in 0..streams {
        let (means, conn) = (means.clone(), Arc::clone(&conn));
        filling.spawn(async move {
            while means.pace.goes_on() && conn.quinn.close_reason().is_none() {
                let Ok((mut send, mut recv)) = conn.begin(&ask(AgentOrder::Ignore)).await else {
                    return;
                };
                means.counts.add("streams", 1);
                // By the answer the order has arrived, in packets of its own.
                if answer(&mut recv).await.is_ok_and(|answer| !answer.code.is_refusal()) {
                    fill(&means, &mut send).await;
                }
                ms(50).await;
            }
        });
    }
    filling.join_all().await;
}

/// See [`super::ALL`].
pub async fn gap(means: AttackContext) {
    let streams = means.pace.of(200);
    rewritten(means, Manners::default().bulk(), streams, |at| forge::gap(at..at + 1)).await;
}

/// See [`super::ALL`].
pub async fn crumbs(means: AttackContext) {
    let streams = means.pace.of(900);
    // Seven to nine bytes apart: some 800 of them.
    let make = |at| forge::crumbs(at..at + 6_000);
    rewritten(means, Manners::default().bulk(), streams, make).await;
}

/// See [`super::ALL`].
pub async fn batched_crumbs(means: AttackContext) {
    let streams = means.pace.of(900);
    let first = ask(AgentOrder::Ignore);
    let mut manners = big(Manners::default().bulk());
    manners.rewrite = Some(forge::batched_crumbs(first.len() as u64, streams as u64));
    let Some(conn) = connect(&means, 1, 1, &manners).await.pop() else { return };
    let mut held = Vec::new();
    while held.len() < streams && means.pace.goes_on() {
        let Ok((send, mut recv)) = conn.begin(&first).await else { return };
        if answer(&mut recv).await.is_ok_and(|answer| !answer.code.is_refusal()) {
            held.push((send, recv));
            means.counts.add("streams", 1);
        }
    }
    carry(&means, &conn).await;
}

/// See [`super::ALL`].
pub async fn repeated_crumbs(means: AttackContext) {
    let mut running = JoinSet::new();
    for nth in 0..means.pace.of(4) {
        let means = means.clone();
        running.spawn(async move {
            let first = ask(AgentOrder::Ignore);
            let mut manners = big(Manners::default());
            // The first stream after the one for control.
            manners.rewrite = Some(forge::repeated_crumbs(first.len() as u64, 4));
            while means.pace.goes_on() {
                let Ok(conn) = means.connect(nth, &manners, 0).await else {
                    ms(200).await;
                    continue;
                };
                let Ok((_held, mut recv)) = conn.begin(&first).await else { continue };
                if answer(&mut recv).await.is_ok_and(|answer| !answer.code.is_refusal()) {
                    means.counts.add("streams", 1);
                    carry(&means, &conn).await;
                }
            }
        });
    }
    running.join_all().await;
}

/// Fills streams with what becomes something else on its way: none of their own bytes is sent, so each has one window.
async fn carry(means: &AttackContext, conn: &EnemyConnection) {
    let (first, block) = (ask(AgentOrder::Ignore), vec![0; 64 * 1024]);
    while means.pace.goes_on() && conn.quinn.close_reason().is_none() {
        let Ok((mut send, _recv)) = conn.begin(&first).await else { return };
        let mut stuck = false;
        while !stuck {
            let writing =
                tokio::time::timeout(Duration::from_millis(200), send.write(&block)).await;
            stuck = !matches!(writing, Ok(Ok(n)) if { means.counts.add("bytes", n as u64); true });
        }
        send.reset(0_u32.into()).ok();
    }
}

/// Connections with some granted streams of endless answers each, of which `read` becomes something.
async fn flooded<F>(
    means: AttackContext,
    manners: Manners,
    n: usize,
    read: fn(AttackContext, Arc<EnemyConnection>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let all = connect(&means, n, 1, &manners).await;
    let mut running = JoinSet::new();
    for conn in all.into_iter().map(Arc::new) {
        for _ in 0..4 {
            running.spawn(read(means.clone(), Arc::clone(&conn)));
        }
    }
    running.join_all().await;
}

/// See [`super::ALL`].
pub async fn unread_answers(means: AttackContext) {
    let n = means.pace.of(64);
    // Far less than what would be a download: the answers stay in the victim.
    let mut manners = Manners::default().bulk();
    (manners.stream_window, manners.window) = (1 << 18, 1 << 18);
    flooded(means, manners, n, |means, conn| async move {
        let Ok(_held) = conn.begin(&ask(AgentOrder::Flood)).await else { return };
        means.counts.add("streams", 1);
        means.pace.end().await;
    })
    .await;
}

/// See [`super::ALL`].
pub async fn unacknowledged_answers(means: AttackContext) {
    let n = means.pace.of(64);
    let mut manners = Manners::default().bulk().greedy();
    manners.rewrite = Some(forge::no_acknowledgements());
    flooded(means, manners, n, |means, conn| async move {
        let Ok((_send, mut recv)) = conn.begin(&ask(AgentOrder::Flood)).await else { return };
        means.counts.add("streams", 1);
        while let Ok(Ok(Some(chunk))) =
            timeout_at(means.pace.until, recv.read_chunk(1 << 16, false)).await
        {
            means.counts.add("bytes", chunk.bytes.len() as u64);
        }
        means.pace.end().await;
    })
    .await;
}

/// See [`super::ALL`].
pub async fn slow_reader(means: AttackContext) {
    let all = connect(&means, 2, 1, &Manners::default()).await;
    let mut running = JoinSet::new();
    for conn in all.into_iter().map(Arc::new) {
        for _ in 0..means.pace.of(500) {
            let (means, conn) = (means.clone(), Arc::clone(&conn));
            running.spawn(async move {
                let Ok((_send, mut recv)) = conn.begin(&ask(AgentOrder::Flood)).await else {
                    return;
                };
                means.counts.add("streams", 1);
                while means.pace.goes_on() {
                    if !matches!(recv.read_chunk(1000, true).await, Ok(Some(_))) {
                        return;
                    }
                    ms(1000).await;
                }
            });
        }
    }
    running.join_all().await;
}
