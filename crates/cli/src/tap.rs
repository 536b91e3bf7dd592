//! `adit tap`: streams as they begin and end, with their reasons, from the daemon of this machine or all nodes of a cluster.

use std::process::ExitCode;
use std::time::Duration;

use adit_core::text::{escape, human_bytes, human_millis};
use adit_daemon::admin::client;
use adit_daemon::admin::tap::{TapEvent, TapRequest};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cluster_args::{UNREACHABLE, block_on, parse_duration};
use crate::doctor::{ImportTarget, parse_target};
use crate::watch::{WatchArgs, WatchedNode, input_ended, interrupted, print_line};

/// Lines that may wait to be printed, of all nodes together.
const MAX_WAITING: usize = 64;
/// A command in a pod ends after this, whoever reads it.
const FEED_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Follow streams as they begin and end, with the reasons for which they do
///
/// A stream begins once it is allowed; one that is refused has only an end. A node tells at most four at a time; whoever reads too
/// slowly loses events, and is told how many.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 ended by Ctrl-C or --for, 1 a node is not followed any more, 2 nothing could be followed, or the command is wrong. With --context it needs kubectl, and the right to `create pods/exec` in adit-system."
)]
pub(crate) struct Args {
    /// The import or export, NAMESPACE/NAME or NAMESPACE/NAME:PORTNAME; `import` or `export` before it for one side alone; without it
    /// all streams
    #[arg(value_name = "SERVICE", num_args = 0..=2)]
    subject: Vec<String>,
    #[command(flatten)]
    watch: WatchArgs,
    /// End after this
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    lasts: Option<Duration>,
    /// Print a JSON document in each line
    #[arg(long)]
    json: bool,
    /// Print lines for a command elsewhere, until standard input ends
    #[arg(long, hide = true, conflicts_with_all = ["context", "json"])]
    feed: bool,
}

/// An event, and the node that told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeEvent {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(flatten)]
    event: TapEvent,
}

/// Follows, and prints what comes.
///
/// # Errors
/// If the system gives no signals.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let request = match parse_subject(&args.subject) {
        Ok(request) => request,
        Err(error) => {
            eprintln!("adit: {error}");
            return Ok(ExitCode::from(UNREACHABLE));
        }
    };
    if args.feed {
        return block_on(feed(args, &request));
    }
    block_on(follow_all(args, &request))
}

fn parse_subject(words: &[String]) -> anyhow::Result<TapRequest> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let (direction, service) = match &words[..] {
        [] => return Ok(TapRequest::default()),
        ["import"] => return Ok(of_direction("outbound")),
        ["export"] => return Ok(of_direction("inbound")),
        ["import", service] => (Some("outbound"), service),
        ["export", service] => (Some("inbound"), service),
        [service] => (None, service),
        [first, ..] => anyhow::bail!("{first:?} is neither import nor export"),
    };
    let ImportTarget { service, port } = parse_target(service)?;
    Ok(TapRequest {
        direction: direction.map(str::to_owned),
        service: Some(service.to_string()),
        port,
    })
}

fn of_direction(direction: &str) -> TapRequest {
    TapRequest { direction: Some(direction.to_owned()), ..TapRequest::default() }
}

/// Returns the words that say the same to a command in a pod.
fn words(request: &TapRequest) -> Vec<String> {
    let kind = request
        .direction
        .as_ref()
        .map(|direction| if direction == "outbound" { "import" } else { "export" }.to_owned());
    let service = request.service.as_ref().map(|service| match &request.port {
        Some(port) => format!("{service}:{port}"),
        None => service.clone(),
    });
    kind.into_iter().chain(service).collect()
}

async fn follow_all(args: &Args, request: &TapRequest) -> anyhow::Result<ExitCode> {
    let found = match Box::pin(args.watch.find()).await {
        Ok(found) => found,
        Err(error) => {
            eprintln!("adit: {error}");
            return Ok(ExitCode::from(UNREACHABLE));
        }
    };
    for error in &found.errors {
        eprintln!("adit: {}", escape(error));
    }
    let mut has_failed = !found.errors.is_empty();
    let (events, mut received) = mpsc::channel(MAX_WAITING);
    let mut tasks = JoinSet::new();
    for node in found.nodes {
        tasks.spawn(follow(node, request.clone(), events.clone()));
    }
    drop(events);
    let mut is_followed = false;
    let mut interrupted = std::pin::pin!(interrupted());
    let mut lasts = std::pin::pin!(async {
        match args.lasts {
            Some(lasts) => sleep(lasts).await,
            None => std::future::pending().await,
        }
    });
    loop {
        tokio::select! {
            biased;
            ended = &mut interrupted => { ended?; break }
            () = &mut lasts => break,
            news = received.recv() => match news {
                // Every node has said why it is not followed any more.
                None => return Ok(ExitCode::from(if is_followed { 1 } else { UNREACHABLE })),
                Some(Err(error)) => {
                    has_failed = true;
                    eprintln!("adit: {}", escape(&error));
                }
                Some(Ok(TapNews::Follows(name))) => {
                    is_followed = true;
                    eprintln!("following the streams of {}", escape(&name));
                }
                Some(Ok(TapNews::Event(event))) => {
                    let line = if args.json { serde_json::to_string(&*event)? } else { line(&event) };
                    if !print_line(&line) {
                        break;
                    }
                }
            },
        }
    }
    Ok(match (is_followed, has_failed) {
        (true, false) => ExitCode::SUCCESS,
        (true, true) => ExitCode::FAILURE,
        (false, _) => ExitCode::from(UNREACHABLE),
    })
}

/// The thing that is new of a node.
enum TapNews {
    /// The node is followed from now on.
    Follows(String),
    /// A stream begins or ends there.
    Event(Box<NodeEvent>),
}

/// Follows one node until it ends, or nobody wants to hear of it.
async fn follow(
    node: WatchedNode,
    request: TapRequest,
    news: mpsc::Sender<Result<TapNews, String>>,
) {
    let name = node.name();
    let ended = match node {
        WatchedNode::Local(address) => {
            let lines = client::tap(&address, &request).await;
            let mut lines = match lines {
                Ok(lines) => lines,
                Err(error) => return drop(news.send(Err(error.to_string())).await),
            };
            if news.send(Ok(TapNews::Follows(name.clone()))).await.is_err() {
                return;
            }
            loop {
                let event = match lines.next().await {
                    Ok(Some(line)) => serde_json::from_str(&line).map_err(|e| e.to_string()),
                    Ok(None) => break "the daemon has ended".to_owned(),
                    Err(error) => Err(error.to_string()),
                };
                match event {
                    Ok(event) => {
                        let event = Box::new(NodeEvent { node: None, event });
                        if news.send(Ok(TapNews::Event(event))).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => break error,
                }
            }
        }
        WatchedNode::Pod(context, pod) => {
            let words: Vec<String> = words(&request);
            let words = ["tap", "--feed"].into_iter().chain(words.iter().map(String::as_str));
            let mut lines = match pod.follow(&context, &words.collect::<Vec<_>>()) {
                Ok(lines) => lines,
                Err(error) => return drop(news.send(Err(format!("{name}: {error}"))).await),
            };
            loop {
                let item = match lines.next::<NodeEvent>().await {
                    Ok(event) if event.event.event == FOLLOWS => TapNews::Follows(name.clone()),
                    Ok(event) => {
                        let node = Some(pod.node.clone());
                        TapNews::Event(Box::new(NodeEvent { node, ..event }))
                    }
                    Err(error) => break error,
                };
                if news.send(Ok(item)).await.is_err() {
                    return;
                }
            }
        }
    };
    news.send(Err(format!("{name}: {ended}"))).await.ok();
}

/// The first line of a feed: its node is followed.
const FOLLOWS: &str = "follows";

/// Prints lines for a command elsewhere.
async fn feed(args: &Args, request: &TapRequest) -> anyhow::Result<ExitCode> {
    let mut lines = client::tap(&args.watch.local()?, request).await?;
    let begins = TapEvent { event: FOLLOWS.to_owned(), ..TapEvent::default() };
    if !print_line(&serde_json::to_string(&begins)?) {
        return Ok(ExitCode::SUCCESS);
    }
    let mut ended = std::pin::pin!(input_ended());
    let mut lifetime = std::pin::pin!(sleep(FEED_LIFETIME));
    loop {
        tokio::select! {
            biased;
            () = &mut ended => return Ok(ExitCode::SUCCESS),
            () = &mut lifetime => anyhow::bail!("this has been followed for a day: begin anew"),
            line = lines.next() => match line? {
                Some(line) if print_line(&line) => {}
                Some(_) => return Ok(ExitCode::SUCCESS),
                None => anyhow::bail!("the daemon has ended"),
            },
        }
    }
}

/// A line for people.
fn line(NodeEvent { node, event }: &NodeEvent) -> String {
    let time = event.at.split_once('T').map_or(&*event.at, |(_, time)| time);
    let at = node.as_ref().map_or_else(String::new, |node| format!("{node} "));
    if let Some(lost) = event.lost {
        return escape(&format!(
            "{time} {at}… {lost} events were lost here: read faster, or follow less"
        ))
        .into_owned();
    }
    let unknown = "(unknown)".to_owned();
    let source = event.source.as_ref().unwrap_or(&unknown);
    let target = event.target.as_ref().unwrap_or(&unknown);
    let way = if event.direction == "inbound" { "from" } else { "to" };
    let peer = event.peer.as_ref().map_or_else(String::new, |peer| format!(" {way} {peer}"));
    let what = match &event.end {
        None => "begins".to_owned(),
        Some(end) => {
            let reason =
                if end.reason.is_empty() { String::new() } else { format!(": {}", end.reason) };
            let ended = if end.refused { "refused" } else { "ended" };
            let carried = format!(
                " ({}, {} out, {} in)",
                human_millis(end.duration_ms),
                human_bytes(end.bytes_out),
                human_bytes(end.bytes_in)
            );
            format!("{ended}, {}{}{reason}", end.code, if end.refused { "" } else { &carried })
        }
    };
    let probe = if event.probe { " (asks only)" } else { "" };
    let flow: String = event.flow.chars().take(8).collect();
    escape(&format!("{time} {at}{flow} {source} → {target}{peer} {what}{probe}")).into_owned()
}

#[cfg(test)]
mod tests {
    use adit_daemon::admin::tap::TapEnd;

    use super::*;

    #[test]
    fn a_subject_is_a_service_and_may_name_a_side_and_a_port() {
        let of = |text: &str| {
            let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
            parse_subject(&words).ok()
        };
        for text in ["", "import", "export a/b", "import a/b:http", "a/b", "a/b:http"] {
            let request = of(text).unwrap();
            assert_eq!(words(&request).join(" "), text, "it is said on in the same words");
        }
        let request = of("export a/b:http").unwrap();
        assert_eq!(request.direction.as_deref(), Some("inbound"));
        assert_eq!(
            (request.service.as_deref(), request.port.as_deref()),
            (Some("a/b"), Some("http"))
        );
        for wrong in ["b", "link bank", "export a/b c"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_line_says_who_asks_for_what_and_why_it_ended() {
        let begin = TapEvent {
            at: "2026-01-01T04:35:10Z".to_owned(),
            event: "begin".to_owned(),
            flow: "0123456789abcdef".to_owned(),
            direction: "outbound".to_owned(),
            source: Some("agents/support-bot@edge".to_owned()),
            target: Some("agents/fraud-bot:http".to_owned()),
            ..TapEvent::default()
        };
        let end = |refused, reason: &str| {
            let code = if refused { "denied" } else { "finished" }.to_owned();
            let reason = reason.to_owned();
            let end = TapEnd {
                code,
                reason,
                refused,
                bytes_out: 5,
                bytes_in: 2048,
                duration_ms: 1250,
                retries: 0,
            };
            TapEvent { end: Some(end), peer: Some("bank/b1".to_owned()), ..begin.clone() }
        };
        let said = |node: Option<&str>, event: TapEvent| {
            line(&NodeEvent { node: node.map(str::to_owned), event })
        };
        let who = "01234567 agents/support-bot@edge → agents/fraud-bot:http";
        assert_eq!(said(None, begin.clone()), format!("04:35:10Z {who} begins"));
        assert_eq!(
            said(Some("e1"), end(false, "")),
            format!("04:35:10Z e1 {who} to bank/b1 ended, finished (1.2 s, 5 B out, 2.0 KiB in)")
        );
        assert_eq!(
            said(None, end(true, "no grant\u{1b}")),
            format!("04:35:10Z {who} to bank/b1 refused, denied: no grant\\u{{1b}}")
        );
        let lost = TapEvent { lost: Some(7), ..TapEvent::default() };
        assert!(said(None, lost).contains("7 events were lost here"));
    }
}
