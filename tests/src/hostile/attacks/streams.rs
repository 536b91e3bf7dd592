//! Streams that are refused, reset, unfinished, or empty.

use std::sync::Arc;
use std::time::Duration;

use adit_core::wire::StreamKind;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{AttackContext, connect, ms};
use crate::hostile::client::{EnemyConnection, Manners, answer, header};
use crate::hostile::stage::GRANTED;

/// A service that nobody exports.
const NOTHING: &str = "agents/no-such-bot";
/// Streams of one connection that are begun before others end.
const AT_ONCE: usize = 200;

/// See [`super::ALL`].
pub async fn unwritable_refusals(means: AttackContext) {
    let all = connect(&means, means.pace.of(19), 1, &Manners::default().deaf()).await;
    let mut opening = JoinSet::new();
    for conn in all {
        let means = means.clone();
        opening.spawn(async move {
            let mut held = Vec::new();
            while held.len() < 1000 && means.pace.goes_on() {
                match conn.begin(&header(NOTHING)).await {
                    Ok(stream) => held.push(stream),
                    Err(_) => ms(100).await,
                }
                means.counts.add("streams", 1);
            }
            means.pace.end().await;
            drop(held);
            conn
        });
    }
    opening.join_all().await;
}

/// Does `one` on each of `n` connections, `AT_ONCE` at a time, without end.
async fn storm<F>(
    means: AttackContext,
    n: usize,
    one: impl Fn(AttackContext, Arc<EnemyConnection>) -> F + Send + Copy + 'static,
) where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let mut storms = JoinSet::new();
    for nth in 0..n {
        let means = means.clone();
        storms.spawn(async move {
            let manners = Manners::default();
            // A victim that closes the connection meets the next one.
            for slot in 0.. {
                if !means.pace.goes_on() {
                    return;
                }
                let Ok(conn) = means.connect(nth, &manners, slot).await.map(Arc::new) else {
                    ms(200).await;
                    continue;
                };
                let mut running = JoinSet::new();
                while means.pace.goes_on() && conn.quinn.close_reason().is_none() {
                    while running.len() < AT_ONCE {
                        running.spawn(one(means.clone(), Arc::clone(&conn)));
                    }
                    running.join_next().await;
                }
            }
        });
    }
    storms.join_all().await;
}

/// See [`super::ALL`].
pub async fn refused_fast(means: AttackContext) {
    storm(means, 4, |means, conn| async move {
        let (_send, mut recv) = conn.begin(&header(NOTHING)).await?;
        if answer(&mut recv).await?.code.is_refusal() {
            means.counts.add("refused", 1);
        }
        Ok(())
    })
    .await;
}

async fn reset_after(means: AttackContext, first: fn() -> Vec<u8>) {
    // What is reset at once is never sent, and the stream not opened: a task's turn lets it out.
    storm(means, 4, move |means, conn| async move {
        let (mut send, mut recv) = conn.quinn.open_bi().await.map_err(|e| e.to_string())?;
        let first = first();
        if !first.is_empty() {
            send.write_all(&first).await.map_err(|e| e.to_string())?;
            ms(1).await;
        }
        send.reset(0x30_u32.into()).map_err(|e| e.to_string())?;
        recv.stop(0x30_u32.into()).map_err(|e| e.to_string())?;
        means.counts.add("resets", 1);
        Ok(())
    })
    .await;
}

/// See [`super::ALL`].
pub async fn resets_before_kind(means: AttackContext) {
    reset_after(means, Vec::new).await;
}

/// See [`super::ALL`].
pub async fn resets_after_kind(means: AttackContext) {
    reset_after(means, || vec![StreamKind::Data.byte()]).await;
}

/// See [`super::ALL`].
pub async fn resets_after_header(means: AttackContext) {
    reset_after(means, || header(GRANTED)).await;
}

/// See [`super::ALL`].
pub async fn empty_streams(means: AttackContext) {
    storm(means, 2, |means, conn| async move {
        let data = StreamKind::Data.byte();
        for first in
            [&[][..], &[data], &[data, 0], &[data, 1, 0], &[StreamKind::State.byte()], &[9]]
        {
            let (mut send, mut recv) = conn.begin(first).await?;
            send.finish().map_err(|e| e.to_string())?;
            // However it ends is well, if it ends.
            let end = timeout(Duration::from_secs(5), recv.read_to_end(1000)).await;
            means.counts.add(if end.is_ok() { "streams" } else { "streams that never ended" }, 1);
        }
        Ok(())
    })
    .await;
}

/// See [`super::ALL`].
pub async fn slow_headers(means: AttackContext) {
    let all = connect(&means, means.pace.of(8), 1, &Manners::default()).await;
    let mut dripping = JoinSet::new();
    for conn in all.into_iter().map(Arc::new) {
        for _ in 0..500 {
            let (means, conn) = (means.clone(), Arc::clone(&conn));
            dripping.spawn(async move {
                while means.pace.goes_on() {
                    let Ok((mut send, _recv)) = conn.begin(&[]).await else { return };
                    means.counts.add("streams", 1);
                    for byte in header(GRANTED) {
                        if !means.pace.goes_on() || send.write_all(&[byte]).await.is_err() {
                            break;
                        }
                        ms(1000).await;
                    }
                }
            });
        }
    }
    dripping.join_all().await;
}

/// See [`super::ALL`].
pub async fn idle_granted(means: AttackContext) {
    let all = connect(&means, means.pace.of(9), 1, &Manners::default()).await;
    let mut opening = JoinSet::new();
    for conn in all {
        let means = means.clone();
        opening.spawn(async move {
            let mut held = Vec::new();
            while held.len() < 1000 && means.pace.goes_on() {
                let Ok((send, mut recv)) = conn.begin(&header(GRANTED)).await else { break };
                match answer(&mut recv).await {
                    Ok(answer) if answer.code.is_refusal() => {
                        means.counts.add("refused", 1);
                        ms(100).await;
                    }
                    _ => held.push((send, recv)),
                }
                means.counts.add("streams", 1);
            }
            means.pace.end().await;
            drop(held);
        });
    }
    opening.join_all().await;
}
