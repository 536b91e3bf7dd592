//! Afterwards: everything stays up for the reader to try, until a signal comes.

use std::future::Future;
use std::time::Duration;

use tokio::time::interval;

use super::{DemoActors, DemoResources};
use crate::DemoOptions;
use crate::agents::Payment;
use crate::folder::REPORT_BOT;
use crate::narrate::Narrator;

/// The pause between two looks at the nodes: so soon a reader learns that one has ended.
const END_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Says what can be tried, and stays until `stop` ends.
pub(crate) async fn hold(
    world: &mut DemoResources,
    cast: &DemoActors,
    tell: &mut Narrator,
    options: &DemoOptions,
    stop: impl Future<Output = ()>,
) {
    invite(world, cast, tell, options);
    let mut look = interval(END_POLL_INTERVAL);
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            _ = look.tick() => {
                for node in &mut world.nodes {
                    if let Some(status) = node.try_wait() {
                        let name = node.place.name;
                        tell.plain(format_args!("{name} has ended ({status}); the others stay up"));
                    }
                }
            }
        }
    }
}

fn invite(world: &DemoResources, cast: &DemoActors, tell: &mut Narrator, options: &DemoOptions) {
    tell.plain("\nIt stays up until Ctrl-C. To try:");
    let Some(fraud) = cast.services.first() else { return };
    let url = format!("http://{}", fraud.import);
    let card = a2a_server::WELL_KNOWN_AGENT_CARD_PATH;
    let question = Payment { number: 4716, amount: 25_000 }.question();
    let message = format!(
        r#"{{"message":{{"messageId":"1","role":"ROLE_USER","parts":[{{"text":"{question}"}}]}}}}"#
    );
    tell.plain(format_args!("  # the card of fraud-bot, carried from bank\n  curl {url}{card}"));
    tell.plain(format_args!(
        "  # the same as report-bot: refused\n  curl --interface {REPORT_BOT} {url}{card}"
    ));
    tell.plain(format_args!(
        "  # a question to fraud-bot, answered with events\n  curl -N -H 'A2A-Version: 1.0' -H 'Content-Type: application/json' \\\n    -d '{message}' {url}/message:stream"
    ));
    tell.plain("  # how each node is doing");
    for node in &world.nodes {
        let socket = node.place.socket.display();
        tell.plain(format_args!("  {} status --admin {socket}", options.program));
    }
}
