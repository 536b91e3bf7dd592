//! `adit top`: who talks with whom now, with rates, links and what is wrong first; live in a terminal.
//!
//! [`mod@collect`] asks nodes again and again, [`page`] says what they told, [`screen`] keeps the terminal. Nothing is installed for it: a
//! node of a cluster is asked by the same command in its pod (`--feed`).

mod collect;
mod page;
mod screen;

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::time::Duration;

use adit_core::text::escape;
use adit_daemon::admin::client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use self::collect::{NodeView, collect};
use self::page::TopPage;
use self::screen::Screen;
use crate::cluster_args::{UNREACHABLE, block_on, parse_duration};
use crate::output::print;
use crate::status::tables::Style;
use crate::watch::{WatchArgs, WatchedNodes, input_ended, interrupted, print_line};

/// Nodes are asked no more often than this.
const MIN_INTERVAL: Duration = Duration::from_millis(200);
/// The longest wait for the first two answers of a node beyond the interval, if one page is wanted.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// A feed ends after this, whoever reads it: he begins another.
const FEED_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Show live who talks with whom, with rates, links and what is wrong first
///
/// In a terminal the page is renewed until Ctrl-C; in a pipe, with --once or --json it is shown once, after one interval. Rates are
/// the nodes' own counts: out is from whoever asks to the service.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 shown, 1 it could not be shown, 2 a node or a cluster cannot be asked (the others are shown). With --context it needs kubectl, and the right to `create pods/exec` in adit-system."
)]
pub(crate) struct Args {
    #[command(flatten)]
    watch: WatchArgs,
    /// The time between two looks
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1s")]
    interval: Duration,
    /// Show one page and end
    #[arg(long)]
    once: bool,
    /// Print one document of everything as JSON
    #[arg(long)]
    json: bool,
    /// Print a document about this node in each line, for a command elsewhere, until standard input ends
    #[arg(long, hide = true, conflicts_with_all = ["context", "once", "json"])]
    feed: bool,
}

/// Collects and shows.
///
/// # Errors
/// If it cannot be shown.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let every = args.interval.max(MIN_INTERVAL);
    if args.feed {
        return block_on(feed(args, every));
    }
    let is_live = stdout().is_terminal() && !args.once && !args.json;
    block_on(async {
        let found = match Box::pin(args.watch.find()).await {
            Ok(found) => found,
            Err(error) => {
                eprintln!("adit: {error}");
                return Ok(ExitCode::from(UNREACHABLE));
            }
        };
        let page = if is_live {
            live(found, every).await?
        } else {
            let page = once(found, every).await;
            show_once(&page, args.json)?;
            page
        };
        for error in page.errors() {
            eprintln!("adit: {}", escape(&error));
        }
        Ok(if page.errors().is_empty() { ExitCode::SUCCESS } else { ExitCode::from(UNREACHABLE) })
    })
}

fn show_once(page: &TopPage, is_json: bool) -> anyhow::Result<()> {
    if is_json {
        return print(&(serde_json::to_string_pretty(&page.document())? + "\n"));
    }
    if page.has_nodes() {
        print(&(page.lines(Style::for_output(&stdout()), None).join("\n") + "\n"))?;
    }
    Ok(())
}

/// Starts to ask all nodes, each in a task of its own.
fn begin(
    found: WatchedNodes,
    every: Duration,
) -> (TopPage, JoinSet<()>, mpsc::Receiver<collect::NodeNews>) {
    let (news, received) = mpsc::channel(found.nodes.len().max(1));
    let mut tasks = JoinSet::new();
    let mut views = Vec::new();
    for (nth, node) in found.nodes.into_iter().enumerate() {
        views.push(NodeView::new(node.name()));
        tasks.spawn(collect(nth, node, every, news.clone()));
    }
    (TopPage { views, failures: found.errors, every }, tasks, received)
}

/// The page once every node has answered twice, or cannot be asked.
async fn once(found: WatchedNodes, every: Duration) -> TopPage {
    let (mut page, _tasks, mut news) = begin(found, every);
    let until = Instant::now() + every + ANSWER_TIMEOUT;
    while !page.views.iter().all(NodeView::is_settled) {
        tokio::select! {
            Some((nth, news)) = news.recv() => page.views[nth].take(news),
            () = sleep_until(until) => break,
        }
    }
    page
}

/// The page again and again, until somebody has enough of it.
async fn live(found: WatchedNodes, every: Duration) -> anyhow::Result<TopPage> {
    let (mut page, _tasks, mut news) = begin(found, every);
    let mut screen = Screen::open()?;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ended = std::pin::pin!(interrupted());
    loop {
        tokio::select! {
            biased;
            ended = &mut ended => break ended?,
            Some((nth, news)) = news.recv() => page.views[nth].take(news),
            _ = ticks.tick() => screen.draw(|style, height| page.lines(style, Some(height)))?,
        }
    }
    drop(screen);
    Ok(page)
}

/// Says how this node is, line by line.
async fn feed(args: &Args, every: Duration) -> anyhow::Result<ExitCode> {
    let address = args.watch.local()?;
    let until = Instant::now() + FEED_LIFETIME;
    let mut ended = std::pin::pin!(input_ended());
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = &mut ended => return Ok(ExitCode::SUCCESS),
            () = sleep_until(until) => return Ok(ExitCode::SUCCESS),
            _ = ticks.tick() => {}
        }
        let sample = client::sample(&address).await?;
        if !print_line(&serde_json::to_string(&sample)?) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}
