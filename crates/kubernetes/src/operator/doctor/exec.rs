//! A question to the daemon of one node, by `kubectl exec` in its pod: its admin server is a socket there, and nowhere
//! else.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use adit_core::doctor::facts::{CallerNode, DaemonFacts};
use tokio::time::timeout;

use crate::operator::context::Context;

/// The longest wait for a node's answer, which waits for another cluster in turn.
const EXEC_TIMEOUT: Duration = Duration::from_secs(60);
/// The most of an error that is shown, in bytes.
const MAX_ERROR_BYTES: usize = 400;

/// Asks the daemon in `pod` about an import, and to try it as `from` if that is given.
pub(super) async fn ask(
    context: &Context,
    pod: &str,
    service: &str,
    port: Option<&str>,
    from: Option<&str>,
) -> CallerNode {
    let target = port.map_or_else(|| service.to_owned(), |port| format!("{service}:{port}"));
    let from = from.into_iter().flat_map(|from| ["--from", from]);
    let words: Vec<_> = [&*target].into_iter().chain(from).collect();
    ask_words(context, pod, &words).await
}

/// Asks the daemon in `pod` about the link with a cluster.
pub(super) async fn ask_link(context: &Context, pod: &str, cluster: &str) -> CallerNode {
    ask_words(context, pod, &["link", cluster]).await
}

async fn ask_words(context: &Context, pod: &str, words: &[&str]) -> CallerNode {
    let began = now();
    match run(context, pod, words).await {
        Ok(mut facts) => {
            // The node read its clock somewhere in between.
            facts.asker_clock = began.midpoint(now());
            CallerNode::Answered(Box::new(facts))
        }
        Err(error) => CallerNode::Unreachable { at: format!("pod {pod}"), error },
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn run(context: &Context, pod: &str, words: &[&str]) -> Result<DaemonFacts, String> {
    let mut command = context.command_in_node(pod, &[]);
    command.args(["doctor", "--facts"]).args(words).stdin(Stdio::null());
    let output = timeout(EXEC_TIMEOUT, command.output()).await;
    let output = output.map_err(|_| format!("no answer within {} s", EXEC_TIMEOUT.as_secs()))?;
    let output = output.map_err(|error| format!("kubectl cannot be run: {error}"))?;
    if output.status.success() {
        return serde_json::from_slice(&output.stdout).map_err(|error| error.to_string());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("unrecognized subcommand") || stderr.contains("unexpected argument") {
        return Err("its version is too old to be asked".to_owned());
    }
    let first: String = stderr.trim().chars().take(MAX_ERROR_BYTES).collect();
    Err(first.replace('\n', "; "))
}
