//! A node is killed while it carries a stream, and comes back.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout};

use super::calls::{COMPLETED, carried};
use super::setup::linked;
use super::{DemoActors, DemoResources, STEP_TIMEOUT, within_timeout};
use crate::agents::{Payment, fraud, host};
use crate::caller::{Conversation, task_of, words};
use crate::narrate::{Narrator, ShownDuration};
use crate::node::problems;

/// A node that vanished without a word is noticed by silence: some seconds, and this at most.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(20);

/// Kills the node that carries a stream; returns its name.
pub(super) async fn kill(
    world: &mut DemoResources,
    cast: &mut DemoActors,
    fraud: &Conversation,
    tell: &mut Narrator,
) -> anyhow::Result<String> {
    tell.step("The node that carries a stream is killed; the task goes on by way of the other");
    let payment = Payment { number: 4714, amount: 60 };
    tell.fact("support-bot", payment.question());
    let mut events = within_timeout("the stream", fraud.follow(payment)).await?;
    cast.pace.step();
    let first = timeout(STEP_TIMEOUT, events.next()).await.context("no event arrived")?;
    let first = first.context("the stream ended at once")??;
    let task = task_of(&first).context("the event belongs to no task")?.to_owned();
    tell.fact("fraud-bot", words(&first));

    let carrier = carrier(world).await?;
    let node = world.node(&carrier)?;
    let pid = node.pid().unwrap_or_default();
    let killed = node.kill().await?;
    tell.fact("kill -9", format_args!("{carrier} (pid {pid}), which carries the stream"));
    tell.fact("", "nobody says so: e1 has to notice the silence");
    let next = timeout(DETECTION_TIMEOUT, events.next()).await;
    let noticed = killed.elapsed();
    let next = next
        .with_context(|| format!("support-bot knows nothing after {}", ShownDuration(noticed)))?;
    if let Some(Ok(event)) = next {
        bail!("the stream went on with {:?} though its node is dead", words(&event));
    }
    let cut = carried(cast).await?;
    ensure!(cut.peer_node == carrier, "the stream that was cut went by way of {}", cut.peer_node);
    ensure!(cut.code != "finished", "e1 takes the stream that was cut for a finished one");
    tell.fact("e1's log", format_args!("code {}: {}", cut.code, cut.why()));
    tell.holds(format_args!(
        "noticed after {}: support-bot's stream was reset, not ended",
        ShownDuration(noticed)
    ));

    resume(cast, fraud, &task, killed, tell).await?;
    let stream = carried(cast).await?;
    ensure!(
        stream.peer_node != carrier,
        "the log says that it went by way of {carrier}, which is dead"
    );
    tell.holds(format_args!("the rest went by way of {}", stream.peer_node));
    let status = world.node("e1")?.status().await?;
    tell.fact("e1's status", problems(&status));
    Ok(carrier)
}

/// Which node of `bank` has a stream to `fraud-bot` open, by its own status.
async fn carrier(world: &mut DemoResources) -> anyhow::Result<String> {
    let service = format!("/{}", fraud::ABOUT.name);
    let deadline = Instant::now() + STEP_TIMEOUT;
    loop {
        for node in world.nodes.iter().filter(|node| node.place.cluster == "bank") {
            let status = node.status().await?;
            let mut exports = status.exports.iter().filter(|e| e.service.ends_with(&service));
            if exports.any(|e| e.using.iter().any(|u| u.streams > 0)) {
                return Ok(node.place.name.to_owned());
            }
        }
        ensure!(Instant::now() < deadline, "no node of bank says that it carries the stream");
    }
}

/// Follows the task again, to its end.
async fn resume(
    cast: &mut DemoActors,
    fraud: &Conversation,
    task: &str,
    killed: Instant,
    tell: &mut Narrator,
) -> anyhow::Result<()> {
    tell.fact("support-bot", format_args!("SubscribeToTask at http://{}", host(fraud::ABOUT.name)));
    let mut events = within_timeout("the next call", fraud.resume(task)).await?;
    let (mut since, mut last) = (None, String::new());
    while let Some(event) =
        timeout(STEP_TIMEOUT, events.next()).await.context("no event arrived")?
    {
        last = words(&event.context("the stream broke")?);
        since.get_or_insert_with(|| killed.elapsed());
        tell.fact("fraud-bot", &last);
        if last != COMPLETED {
            cast.pace.step();
        }
    }
    ensure!(last == COMPLETED, "the task ended with {last:?}");
    let since = since.unwrap_or_default();
    tell.holds(format_args!("answered at the first try, {} after the kill", ShownDuration(since)));
    Ok(())
}

pub(super) async fn restart(
    world: &mut DemoResources,
    killed: String,
    tell: &mut Narrator,
) -> anyhow::Result<()> {
    tell.step("The killed node is started again");
    let started = Instant::now();
    let node = world.node(&killed)?;
    node.start()?;
    let status = node.wait_until("ready", STEP_TIMEOUT, |status| status.node.ready).await?;
    tell.fact(
        &killed,
        format_args!("pid {}, ready after {}", status.node.pid, ShownDuration(started.elapsed())),
    );
    world.node("e1")?.wait_until("linked with both nodes again", DETECTION_TIMEOUT, linked).await?;
    tell.holds(format_args!("linked again {} after its start", ShownDuration(started.elapsed())));
    Ok(())
}
