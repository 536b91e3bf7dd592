//! The cost of it: the same question with and without Adit, and what the node counted.

use std::time::Duration;

use adit_core::text::human_bytes;
use anyhow::ensure;
use tokio::time::Instant;

use super::calls::carried;
use super::{DemoActors, DemoResources, setup, within_timeout};
use crate::agents::{Payment, fraud};
use crate::caller::Conversation;
use crate::narrate::{Narrator, ShownDuration};

/// Enough for a median that repeats itself, in a fraction of a second.
const CALLS: usize = 50;

pub(super) async fn measure(
    world: &mut DemoResources,
    cast: &mut DemoActors,
    far: &Conversation,
    tell: &mut Narrator,
) -> anyhow::Result<()> {
    tell.step("What it cost");
    let near = within_timeout("the card in bank", cast.direct.agent(fraud::ABOUT.name)).await?;
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    // In turns, so that whatever else the machine does falls on both alike.
    for _ in 0..CALLS {
        direct.push(time(&near).await?);
        through.push(time(far).await?);
        carried(cast).await?;
    }
    tell.fact(
        "question",
        format_args!(
            "{} directly, {} through two nodes (median of {CALLS}, a connection each)",
            ShownDuration(median(direct)),
            ShownDuration(median(through))
        ),
    );
    let status = world.node("e1")?.status().await?;
    let ports = || status.imports.iter().flat_map(|import| &import.ports);
    let (out, into) = ports().fold((0, 0), |(out, into), port| {
        (out + port.streams.bytes_out, into + port.streams.bytes_in)
    });
    let codes: Vec<String> =
        status.streams.by_code.iter().map(|(code, count)| format!("{count} {code}")).collect();
    tell.fact(
        "e1",
        format_args!(
            "{} out, {} in; streams: {}",
            human_bytes(out),
            human_bytes(into),
            codes.join(", ")
        ),
    );
    let peers = status.links.iter().flat_map(|link| &link.nodes);
    let paths: Vec<String> = peers.map(|p| format!("{} {}", p.node, setup::rtt(p))).collect();
    tell.fact("links", paths.join(", "));
    let finished = status.streams.by_code.get("finished").copied().unwrap_or_default();
    ensure!(finished >= CALLS as u64, "e1 counted {finished} finished streams");
    ensure!(status.streams.open == 0, "{} streams are still open", status.streams.open);
    tell.holds("no stream is left open");
    Ok(())
}

async fn time(conversation: &Conversation) -> anyhow::Result<Duration> {
    let asked = Instant::now();
    within_timeout("an answer", conversation.ask(Payment { number: 4715, amount: 10 })).await?;
    Ok(asked.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
