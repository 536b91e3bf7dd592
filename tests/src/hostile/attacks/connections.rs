//! Handshakes, hellos, control messages, and frames of every kind.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use adit_core::code::Code;
use adit_core::wire::control::ControlMessage;
use bytes::BytesMut;
use quinn::SendStream;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::{AttackContext, ms};
use crate::hostile::client::{Manners, header};
use crate::hostile::forge::{self, AckFlood, Rewrite};

/// Runs `n` tasks, each for as long as the attack goes on.
async fn each<F>(means: &AttackContext, n: usize, one: impl Fn(AttackContext, usize) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    for nth in 0..n {
        running.spawn(one(means.clone(), nth));
    }
    running.join_all().await;
}

/// See [`super::ALL`].
pub async fn many_connections(means: AttackContext) {
    let next = Arc::new(AtomicUsize::new(0));
    each(&means, means.pace.of(1000), |means, nth| {
        let next = Arc::clone(&next);
        async move {
            // Not all at once: handshakes have a bound of their own.
            ms(nth as u64 * 5).await;
            while means.pace.goes_on() {
                let nth = next.fetch_add(1, Relaxed);
                let Ok(conn) = means.connect(nth, &Manners::default(), 0).await else {
                    ms(500).await;
                    continue;
                };
                let _closed = timeout_at(means.pace.until, conn.quinn.closed()).await;
            }
        }
    })
    .await;
}

/// See [`super::ALL`].
pub async fn duplicate_hellos(means: AttackContext) {
    each(&means, 16, |means, _| async move {
        let mut held = Vec::new();
        while means.pace.goes_on() {
            match means.connect(1, &Manners::default(), 0).await {
                Ok(conn) => {
                    means.counts.add("hellos", 1);
                    held.push(conn);
                }
                Err(_) => ms(100).await,
            }
        }
    })
    .await;
}

/// See [`super::ALL`].
pub async fn silent_connections(means: AttackContext) {
    each(&means, means.pace.of(500), |means, nth| async move {
        ms(nth as u64 * 5).await;
        while means.pace.goes_on() {
            let Ok(quinn) = means.enemy.shake(&means.enemy.node(nth), &Manners::default()).await
            else {
                means.counts.add("connections refused", 1);
                ms(500).await;
                continue;
            };
            means.counts.add("connections", 1);
            let _closed = timeout_at(means.pace.until, quinn.closed()).await;
        }
    })
    .await;
}

/// See [`super::ALL`].
pub async fn control_floods(means: AttackContext) {
    each(&means, 4, |means, nth| async move {
        let mut bytes = BytesMut::new();
        match nth {
            0 => ControlMessage::GoAway { code: Code::Draining, retry_after_ms: 1 << 50 }
                .encode(&mut bytes),
            1 => {
                let addresses: Vec<SocketAddr> =
                    (0..16).map(|n| ([127, 0, 0, n], 1).into()).collect();
                ControlMessage::DialMe { addresses, nonce: 1 }.encode(&mut bytes);
            }
            // A type that nobody knows and everybody skips, as long as a message may be.
            2 => bytes.extend([&[10, 0x4f, 0xa0][..], &[0; 4000]].concat()),
            _ => bytes.extend([10, 0]),
        }
        let block = bytes.repeat(60_000 / bytes.len());
        for slot in 0.. {
            if !means.pace.goes_on() {
                return;
            }
            let Ok(mut conn) = means.connect(nth, &Manners::default(), slot).await else {
                ms(200).await;
                continue;
            };
            while let Ok(Ok(())) =
                timeout_at(means.pace.until, conn.control.0.write_all(&block)).await
            {
                means.counts.add("messages", (block.len() / bytes.len()) as u64);
            }
        }
    })
    .await;
}

/// See [`super::ALL`].
pub async fn frame_noise(means: AttackContext) {
    each(&means, 4, |means, nth| async move {
        let frame = match nth {
            // A path challenge, which wants a response; a ping; a window; a stop for a stream not begun.
            0 => vec![0x1a, 1, 2, 3, 4, 5, 6, 7, 8],
            1 => vec![1],
            2 => vec![0x11, 4, 0x7f, 0xff],
            _ => vec![5, 0x40, 0x40, 0],
        };
        fill_with(&means, nth, || forge::noise(0, frame.clone())).await;
    })
    .await;
}

/// See [`super::ALL`].
pub async fn retired_ids(means: AttackContext) {
    each(&means, 4, |means, nth| async move {
        // The one that the victim gave first, whether it is still in use or not.
        fill_with(&means, nth, || forge::noise(0, vec![0x19, 0])).await;
    })
    .await;
}

/// See [`super::ALL`].
pub async fn wide_acknowledgements(means: AttackContext) {
    let wide = AckFlood { ranges: 600, is_repeated: false, has_ping: true };
    let many = AckFlood { ranges: 0, is_repeated: true, has_ping: true };
    acknowledge(means, [wide, many]).await;
}

/// See [`super::ALL`].
pub async fn needless_acknowledgements(means: AttackContext) {
    let flood = AckFlood { ranges: 64, is_repeated: false, has_ping: false };
    acknowledge(means, [flood, flood]).await;
}

/// See [`super::ALL`].
pub async fn answered_acknowledgements(means: AttackContext) {
    let flood = AckFlood { ranges: 64, is_repeated: false, has_ping: true };
    acknowledge(means, [flood, flood]).await;
}

/// Floods from four nodes, of two kinds.
async fn acknowledge(means: AttackContext, floods: [AckFlood; 2]) {
    each(&means, 4, |means, nth| async move {
        fill_with(&means, nth, || forge::wide_acknowledgements(floods[nth % 2])).await;
    })
    .await;
}

/// Sends what looks like transfers and is made anew of each packet, on one connection after the other.
async fn fill_with(means: &AttackContext, nth: usize, rewrite: impl Fn() -> Rewrite) {
    let mut manners = Manners::default().bulk();
    manners.send_window = 1 << 22;
    manners.is_boundless = true;
    for slot in 0.. {
        if !means.pace.goes_on() {
            return;
        }
        manners.rewrite = Some(rewrite());
        let Ok(conn) = means.connect(nth, &manners, slot % 8).await else {
            ms(200).await;
            continue;
        };
        // Nothing of the stream arrives, and so no window is ever full.
        if let Ok((mut send, _recv)) = conn.begin(&header("agents/x")).await {
            send_zeros(means, &mut send).await;
        }
    }
}

/// Sends bytes, and counts them, for as long as the attack goes on.
async fn send_zeros(means: &AttackContext, send: &mut SendStream) {
    let block = vec![0; 64 * 1024];
    while let Ok(Ok(())) = timeout_at(means.pace.until, send.write_all(&block)).await {
        means.counts.add("bytes", block.len() as u64);
    }
}
