//! Attacks on stream credit, which each side grants the other: not granted, granted in crumbs, not heard.

use std::sync::Arc;

use adit_core::wire::StreamKind;
use adit_core::wire::credit::StreamCredit;
use bytes::BytesMut;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::windows::ask;
use super::{AttackContext, connect, ms};
use crate::hostile::client::{EnemyConnection, Manners};
use crate::hostile::load::AgentOrder;

/// The bytes that a backend's answer has to bring until whoever reads it reads in the largest pieces.
const UNTIL_LARGE: u64 = 43 << 10;

/// See [`super::ALL`].
pub async fn halted_answers(means: AttackContext) {
    let manners = Manners { granted: UNTIL_LARGE, ..Manners::default() };
    let all = connect(&means, 8, 1, &manners).await;
    let mut running = JoinSet::new();
    for conn in all.into_iter().map(Arc::new) {
        for _ in 0..means.pace.of(500) {
            let (means, conn) = (means.clone(), Arc::clone(&conn));
            running.spawn(async move {
                let Ok((_send, mut recv)) = conn.begin(&ask(AgentOrder::Flood)).await else {
                    return;
                };
                means.counts.add("streams", 1);
                // All is taken, and nothing granted.
                while let Ok(Ok(Some(_))) =
                    timeout_at(means.pace.until, recv.read_chunk(1 << 16, true)).await
                {
                }
            });
        }
    }
    running.join_all().await;
}

/// Says grants as fast as possible, as long as the attack goes on: `next` makes each.
async fn grant(
    means: &AttackContext,
    conn: &EnemyConnection,
    mut next: impl FnMut() -> StreamCredit,
) {
    let kind = [StreamKind::Credits.byte()];
    let Ok((mut send, _recv)) = conn.begin(&kind).await else { return };
    while means.pace.goes_on() {
        let mut bytes = BytesMut::new();
        for _ in 0..1000 {
            next().encode(&mut bytes);
        }
        let sent = timeout_at(means.pace.until, send.write_all(&bytes)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
        means.counts.add("grants", 1000);
    }
}

/// See [`super::ALL`].
pub async fn grant_floods(means: AttackContext) {
    let manners = Manners { granted: 1 << 18, ..Manners::default() };
    let all = connect(&means, means.pace.of(16), 1, &manners).await;
    let mut running = JoinSet::new();
    for (nth, conn) in all.into_iter().enumerate() {
        let means = means.clone();
        running.spawn(async move {
            let mut said = 0_u64;
            grant(&means, &conn, || {
                said += 1;
                // Streams that are not open, and numbers that only grow.
                let stream = if nth % 2 == 0 { 1 } else { said % 64 };
                StreamCredit { stream, limit: said }
            })
            .await;
        });
    }
    running.join_all().await;
}

/// See [`super::ALL`].
pub async fn grants_of_a_byte(means: AttackContext) {
    let manners = Manners { granted: 1 << 10, ..Manners::default() };
    let all = connect(&means, 4, 1, &manners).await;
    let mut running = JoinSet::new();
    for conn in all {
        let means = means.clone();
        running.spawn(async move {
            let (mut open, mut readers) = (Vec::new(), JoinSet::new());
            for _ in 0..means.pace.of(200) {
                let Ok((send, mut recv)) = conn.begin(&ask(AgentOrder::Flood)).await else { break };
                let stream = quinn::VarInt::from(send.id()).into_inner();
                readers.spawn(async move {
                    while let Ok(Some(_)) = recv.read_chunk(1 << 16, true).await {}
                });
                open.push((stream, send));
            }
            ms(200).await;
            let (mut nth, mut limit) = (0, 1 << 10);
            grant(&means, &conn, || {
                nth = (nth + 1) % open.len().max(1);
                limit += u64::from(nth == 0);
                StreamCredit { stream: open.get(nth).map_or(0, |(stream, ..)| *stream), limit }
            })
            .await;
        });
    }
    running.join_all().await;
}

/// See [`super::ALL`].
pub async fn unheard_grants(means: AttackContext) {
    // Room for all but what the victim grants: its own stream has no window.
    let manners = Manners { granted: 1 << 18, stream_window: 96, ..Manners::default() };
    let all = connect(&means, means.pace.of(4), 1, &manners).await;
    let mut running = JoinSet::new();
    for conn in all.into_iter().map(Arc::new) {
        for _ in 0..8 {
            let (means, conn) = (means.clone(), Arc::clone(&conn));
            running.spawn(async move {
                let block = vec![0; 96 << 10];
                while means.pace.goes_on() {
                    let Ok((mut send, _recv)) = conn.begin(&ask(AgentOrder::Answer(1))).await
                    else {
                        return;
                    };
                    means.counts.add("streams", 1);
                    // More than a quarter of a window, so that each has something to be granted.
                    let said = timeout_at(means.pace.until, send.write_all(&block)).await;
                    if !matches!(said, Ok(Ok(()))) {
                        return;
                    }
                    send.finish().ok();
                    let _acknowledged = timeout_at(means.pace.until, send.stopped()).await;
                }
            });
        }
    }
    running.join_all().await;
}
