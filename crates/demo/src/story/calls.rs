//! Calls from an agent of one cluster to an agent of another: reading its card, asking, following events, having
//! it ask a third; and what becomes of a caller that nobody granted anything.

use adit_core::text::human_bytes;
use anyhow::{Context as _, bail, ensure};
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout};

use super::{DemoActors, DemoResources, STEP_TIMEOUT, within_timeout};
use crate::agents::{Payment, fraud, host, triage};
use crate::caller::{Conversation, words};
use crate::log::{NodeLog, StreamRecord};
use crate::narrate::{Narrator, ShownDuration};
use crate::node::root_cause;

/// The text of the last event of a task that went well.
pub(super) const COMPLETED: &str = "task is completed";

/// The line about `support-bot`'s call that ended last, in the log of the node where it began. Each call
/// has one, and each is waited for, so none is taken for another's.
pub(super) async fn carried(cast: &mut DemoActors) -> anyhow::Result<StreamRecord> {
    cast.log
        .stream("the call", |s| s.direction == "outbound" && s.source.contains("/support-bot@"))
        .await
}

fn via(stream: &StreamRecord) -> String {
    format!(
        "{} out, {} in, by way of {}",
        human_bytes(stream.bytes_out),
        human_bytes(stream.bytes_in),
        stream.peer_node
    )
}

pub(super) async fn card(
    cast: &mut DemoActors,
    tell: &mut Narrator,
) -> anyhow::Result<Conversation> {
    tell.step("support-bot reads the card of fraud-bot");
    let name = fraud::ABOUT.name;
    tell.fact("support-bot", format_args!("GET http://{}/.well-known/agent-card.json", host(name)));
    let asked = Instant::now();
    let fraud = within_timeout("the card", cast.support.agent(name)).await?;
    let took = asked.elapsed();
    let stream = carried(cast).await?;
    let card = &fraud.card;
    let skills: Vec<&str> = card.skills.iter().map(|skill| skill.name.as_str()).collect();
    tell.fact(
        name,
        format_args!(
            "{:?}, skill {:?}, A2A {}",
            card.description,
            skills.join(", "),
            card.supported_interfaces.first().map_or("?", |i| i.protocol_version.as_str())
        ),
    );
    tell.holds(format_args!("after {}; {}", ShownDuration(took), via(&stream)));
    let far = within_timeout("the card's bytes", cast.support.card_bytes(name)).await?;
    carried(cast).await?;
    let near = within_timeout("the card's bytes in bank", cast.direct.card_bytes(name)).await?;
    ensure!(far == near, "the card read in edge differs from the one that is served in bank");
    tell.holds(format_args!("its {} bytes are those that fraud-bot serves in bank", near.len()));
    Ok(fraud)
}

pub(super) async fn message(
    world: &mut DemoResources,
    cast: &mut DemoActors,
    fraud: &Conversation,
    tell: &mut Narrator,
) -> anyhow::Result<()> {
    tell.step("support-bot asks, fraud-bot answers");
    let payment = Payment { number: 4711, amount: 90 };
    tell.fact("support-bot", payment.question());
    let asked = Instant::now();
    let answer = within_timeout("the answer", fraud.ask(payment)).await?;
    let took = asked.elapsed();
    tell.fact("fraud-bot", &answer);
    ensure!(answer == "payment 4711 is in order", "that is not what fraud-bot says");
    let stream = carried(cast).await?;
    tell.holds(format_args!("after {}; {}", ShownDuration(took), via(&stream)));

    // What the other side made of the caller, in its own words.
    let entered = world.node(&stream.peer_node)?.place.log.clone();
    let mut log = NodeLog::open(&entered);
    let inbound = log.stream("the caller", |s| s.direction == "inbound").await?;
    ensure!(
        inbound.source.ends_with("/support-bot@edge") && inbound.asserted,
        "{} takes the caller for {:?} (asserted: {})",
        stream.peer_node,
        inbound.source,
        inbound.asserted
    );
    tell.holds(format_args!(
        "{} takes the caller for {} (asserted: edge is proved, its workload is its word)",
        stream.peer_node, inbound.source
    ));
    Ok(())
}

pub(super) async fn events(
    cast: &mut DemoActors,
    fraud: &Conversation,
    tell: &mut Narrator,
) -> anyhow::Result<()> {
    tell.step("fraud-bot tells what it does while it does it (SSE)");
    let payment = Payment { number: 4712, amount: 120 };
    tell.fact("support-bot", payment.question());
    let mut events = within_timeout("the stream", fraud.follow(payment)).await?;
    let (mut count, mut last) = (0, String::new());
    loop {
        let released = Instant::now();
        if last != COMPLETED {
            cast.pace.step();
        }
        let Some(event) = timeout(STEP_TIMEOUT, events.next()).await.context("no event arrived")?
        else {
            break;
        };
        last = words(&event.context("the stream broke")?);
        count += 1;
        tell.fact("fraud-bot", format_args!("{last}  (+{})", ShownDuration(released.elapsed())));
    }
    ensure!(last == COMPLETED, "the stream ended with {last:?}");
    let stream = carried(cast).await?;
    tell.holds(format_args!(
        "{count} events, each sent only after support-bot had read the one before; {}",
        via(&stream)
    ));
    Ok(())
}

pub(super) async fn escalation(
    cast: &mut DemoActors,
    fraud: &Conversation,
    tell: &mut Narrator,
) -> anyhow::Result<()> {
    tell.step("fraud-bot asks triage-bot in its own cluster before it answers");
    let before = cast.triage.cases();
    let payment = Payment { number: 4713, amount: 25_000 };
    tell.fact("support-bot", payment.question());
    let asked = Instant::now();
    let answer = within_timeout("the answer", fraud.ask(payment)).await?;
    let took = asked.elapsed();
    tell.fact("fraud-bot", &answer);
    let cases = cast.triage.cases();
    ensure!(cases == before + 1, "triage-bot opened {} cases for it", cases - before);
    let case = format!("{}: case T-{cases}: hold payment 4713", triage::ABOUT.name);
    ensure!(answer.contains(&case), "the answer does not hold triage-bot's words ({case:?})");
    let stream = carried(cast).await?;
    tell.holds(format_args!("after {}; {}", ShownDuration(took), via(&stream)));
    Ok(())
}

pub(super) async fn refusal(cast: &mut DemoActors, tell: &mut Narrator) -> anyhow::Result<()> {
    tell.step("report-bot, which nobody granted anything, is refused");
    let refused = timeout(STEP_TIMEOUT, cast.report.card_bytes(fraud::ABOUT.name)).await;
    let Err(error) = refused.context("report-bot got neither an answer nor a refusal")? else {
        bail!("report-bot was answered, though no grant names it");
    };
    tell.fact("report-bot", format_args!("sees: {}", root_cause(&error)));
    let line = cast.log.stream("report-bot", |s| s.source.contains("/report-bot@")).await?;
    // Two sentences: what is so, and what would have to be written where.
    let (what, remedy) = line.why().split_once("; ").unwrap_or_else(|| (line.why(), ""));
    tell.fact("e1's log", format_args!("code {}: {what}", line.code));
    tell.fact("", remedy);
    ensure!(line.refused && line.code == "denied", "that is not a refusal for want of a grant");
    within_timeout("support-bot, after that", cast.support.card_bytes(fraud::ABOUT.name)).await?;
    carried(cast).await?;
    tell.holds(format_args!("refused by {}; support-bot is still answered", line.source));
    Ok(())
}
