//! The page of `adit top`: what is wrong, links, and who talks with whom, in so many columns and lines as there are.
//!
//! A pure function of what nodes said. 80 columns are enough; names that do not fit lose their middle.

use std::collections::BTreeMap;
use std::time::Duration;

use adit_core::text::{count_noun, escape, human_bytes, human_millis};
use adit_core::traffic::{ConversationParties, ConversationRate, TrafficRates, merge};
use adit_daemon::status::sample::{LinkSample, NodeSample, ReadyCount};
use adit_daemon::status::{LinkHealth, StatusSeverity};
use serde::Serialize;

use super::collect::NodeView;
use crate::status::tables::{CellStyle, Style};

/// The most problems, links and kinds of ends that are shown; `adit status` has all.
const MAX_PROBLEMS: usize = 4;
const MAX_LINKS: usize = 6;
const MAX_CODES: usize = 4;
/// The most conversations where lines are not counted.
const MAX_CONVERSATIONS: usize = 100;
/// The columns before the names of a conversation.
const NUMBERS: usize = 31;

/// All that is known of the nodes that are followed.
#[derive(Debug)]
pub(super) struct TopPage {
    pub(super) views: Vec<NodeView>,
    /// Why others are not followed.
    pub(super) failures: Vec<String>,
    pub(super) every: Duration,
}

/// Everything as one document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TopDocument<'a> {
    nodes: Vec<&'a NodeSample>,
    traffic: TrafficRates,
    errors: Vec<String>,
}

impl TopPage {
    pub(super) fn has_nodes(&self) -> bool {
        self.views.iter().any(|view| view.sample().is_some())
    }

    /// Returns what could not be asked, and why.
    pub(super) fn errors(&self) -> Vec<String> {
        self.failures
            .iter()
            .cloned()
            .chain(self.views.iter().filter_map(NodeView::trouble))
            .collect()
    }

    pub(super) fn document(&self) -> TopDocument<'_> {
        TopDocument {
            nodes: self.samples().collect(),
            traffic: self.traffic(),
            errors: self.errors(),
        }
    }

    fn samples(&self) -> impl Iterator<Item = &NodeSample> {
        self.views.iter().filter_map(NodeView::sample)
    }

    fn traffic(&self) -> TrafficRates {
        merge(self.views.iter().filter_map(NodeView::rates))
    }

    /// Returns the page, with as many conversations as fit into `height` lines.
    pub(super) fn lines(&self, style: Style, height: Option<usize>) -> Vec<String> {
        let traffic = self.traffic();
        let mut page = PageLines { lines: Vec::new(), style };
        self.headline(&mut page, &traffic);
        self.problems(&mut page, height.is_some());
        self.links(&mut page);
        let left = height.map(|height| height.saturating_sub(page.lines.len() + 3));
        conversations(&mut page, &traffic, left);
        page.lines
    }

    fn headline(&self, page: &mut PageLines, traffic: &TrafficRates) {
        let mut clusters: BTreeMap<&str, (u64, ReadyCount, ReadyCount)> = BTreeMap::new();
        for sample in self.samples() {
            let (nodes, imports, exports) = clusters.entry(&sample.cluster).or_default();
            *nodes += 1;
            (*imports, *exports) =
                (worst(*imports, sample.imports), worst(*exports, sample.exports));
        }
        for (cluster, (nodes, imports, exports)) in clusters {
            let ready = |count: ReadyCount| format!("{} of {}", count.ready, count.total);
            let line = format!(
                "{cluster}: {}, imports ready {}, exports ready {}",
                count_noun(nodes, "node"),
                ready(imports),
                ready(exports)
            );
            page.add(&line, CellStyle::Plain);
        }
        let sum =
            |of: fn(&ConversationRate) -> f64| traffic.conversations.iter().map(of).sum::<f64>();
        let line = format!(
            "{} open, {} new/s, {}/s out, {}/s in, every {}",
            count_noun(open(traffic), "stream"),
            rate(sum(|one| one.begun_per_second)),
            bytes(sum(|one| one.out_per_second)),
            bytes(sum(|one| one.in_per_second)),
            human_millis(u64::try_from(self.every.as_millis()).unwrap_or(u64::MAX))
        );
        page.add(&line, CellStyle::Plain);
        if !traffic.ended.is_empty() {
            page.add(&format!("ended: {}", codes(&traffic.ended)), CellStyle::Plain);
        }
    }

    fn problems(&self, page: &mut PageLines, is_live: bool) {
        // Elsewhere they are told on standard error.
        let errors = if is_live { self.errors() } else { Vec::new() };
        for error in errors.iter().take(MAX_PROBLEMS) {
            page.add(&format!("? {error}"), CellStyle::Doubtful);
        }
        let mut all: BTreeMap<(u8, String), Vec<&str>> = BTreeMap::new();
        let mut more = errors.len().saturating_sub(MAX_PROBLEMS) as u64;
        for sample in self.samples() {
            more += sample.more_problems;
            for problem in &sample.problems {
                let rank = match problem.severity {
                    StatusSeverity::Error => 0,
                    StatusSeverity::Warning => 1,
                    StatusSeverity::Notice => 2,
                };
                let reason = &problem.reason;
                let words = format!("{}: {} ({})", problem.about, reason.sentence, reason.code);
                let key = (rank, format!("{} {words}", sample.cluster));
                all.entry(key).or_default().push(&sample.node);
            }
        }
        more += all.len().saturating_sub(MAX_PROBLEMS) as u64;
        for ((rank, words), _nodes) in all.into_iter().take(MAX_PROBLEMS) {
            let (mark, meaning) = match rank {
                0 => ("✗", CellStyle::Bad),
                1 => ("!", CellStyle::Doubtful),
                _ => ("·", CellStyle::Plain),
            };
            page.add(&format!("{mark} {words}"), meaning);
        }
        if more > 0 {
            page.add(&format!("  and {more} more: adit status"), CellStyle::Plain);
        }
    }

    fn links(&self, page: &mut PageLines) {
        let mut all: BTreeMap<(&str, &str), Vec<&LinkSample>> = BTreeMap::new();
        let mut more = 0;
        for sample in self.samples() {
            more = more.max(sample.more_links);
            for link in &sample.links {
                all.entry((&sample.cluster, &link.cluster)).or_default().push(link);
            }
        }
        let mut rows: Vec<_> =
            all.into_iter().map(|(ends, links)| link_row(ends, &links)).collect();
        rows.sort_by_key(|(_, meaning)| *meaning == CellStyle::Good);
        more += rows.len().saturating_sub(MAX_LINKS) as u64;
        for (line, meaning) in rows.into_iter().take(MAX_LINKS) {
            page.add(&line, meaning);
        }
        if more > 0 {
            page.add(&format!("  and {} more", count_noun(more, "link")), CellStyle::Plain);
        }
    }
}

/// The lines of a page, none of them wider than it may be.
struct PageLines {
    lines: Vec<String>,
    style: Style,
}

impl PageLines {
    fn add(&mut self, line: &str, meaning: CellStyle) {
        let line = escape(line);
        let line = match self.style.width {
            Some(width) => clip(&line, usize::from(width)),
            None => line.into_owned(),
        };
        // What is well needs no colour here.
        let meaning = if meaning == CellStyle::Good { CellStyle::Plain } else { meaning };
        self.lines.push(self.style.paint(&line, meaning));
    }
}

/// The number of open streams: of those that are told once for both sides, and the others.
fn open(traffic: &TrafficRates) -> u64 {
    traffic.conversations.iter().map(|one| one.open).sum::<u64>() + traffic.more_open
}

/// The lesser of what two nodes of a cluster say is ready.
fn worst(one: ReadyCount, other: ReadyCount) -> ReadyCount {
    let not_ready =
        (one.total - one.ready.min(one.total)).max(other.total.saturating_sub(other.ready));
    let total = one.total.max(other.total);
    ReadyCount { total, ready: total.saturating_sub(not_ready) }
}

fn link_row((from, to): (&str, &str), links: &[&LinkSample]) -> (String, CellStyle) {
    let up = links.iter().filter(|link| link.state == LinkHealth::Up).count();
    let state = match up {
        0 => {
            let reason = links.iter().find_map(|link| link.reason.as_ref());
            let why = reason.map_or_else(String::new, |reason| format!(" ({})", reason.code));
            let is_down = links.iter().all(|link| link.state == LinkHealth::Down);
            format!("{}{why}", if is_down { "down" } else { "degraded" })
        }
        up if up == links.len() => "up".to_owned(),
        up => format!("up on {up} of {} nodes", links.len()),
    };
    let meaning = match up {
        0 => CellStyle::Bad,
        up if up == links.len() => CellStyle::Good,
        _ => CellStyle::Doubtful,
    };
    let connections: u64 = links.iter().map(|link| link.connections).sum();
    let most = |of: fn(&LinkSample) -> Option<f64>| {
        links.iter().filter_map(|link| of(link)).reduce(f64::max)
    };
    let rtt = most(|link| link.rtt_ms).map_or_else(String::new, |ms| format!(", {ms:.1} ms"));
    let loss = most(|link| link.loss_percent)
        .map_or_else(String::new, |loss| format!(", {loss:.1} % lost"));
    (
        format!("{from} — {to}: {state}, {}{rtt}{loss}", count_noun(connections, "connection")),
        meaning,
    )
}

/// The table of conversations, in at most `left` lines beside its heading and the line about the others.
fn conversations(page: &mut PageLines, traffic: &TrafficRates, left: Option<usize>) {
    if traffic.conversations.is_empty() && traffic.more == 0 {
        page.lines.push(String::new());
        return page.add("nobody talks with anybody", CellStyle::Plain);
    }
    page.lines.push(String::new());
    let heading = format!("{:>4} {:>6} {:>8} {:>8}  WHO → WHAT", "OPEN", "NEW/s", "OUT/s", "IN/s");
    page.add(&heading, CellStyle::Plain);
    let mut left = left.unwrap_or(usize::MAX);
    let mut shown = 0;
    let room = page.style.width.map(|width| usize::from(width).saturating_sub(NUMBERS));
    for one in traffic.conversations.iter().take(MAX_CONVERSATIONS) {
        let unusual: BTreeMap<_, _> =
            one.ended.iter().filter(|(code, _)| *code != "finished").collect();
        let needs = 1 + usize::from(!unusual.is_empty());
        if needs > left {
            break;
        }
        left -= needs;
        shown += 1;
        let names = names(&one.parties, room);
        let line = format!(
            "{:>4} {:>6} {:>8} {:>8}  {names}",
            one.open,
            rate(one.begun_per_second),
            bytes(one.out_per_second),
            bytes(one.in_per_second)
        );
        page.add(&line, CellStyle::Plain);
        if !unusual.is_empty() {
            let ended = unusual.into_iter().map(|(code, count)| (code.clone(), *count)).collect();
            page.add(&format!("{:NUMBERS$}ended: {}", "", codes(&ended)), CellStyle::Doubtful);
        }
    }
    let others = &traffic.conversations[shown..];
    let more = others.len() as u64 + traffic.more;
    if more > 0 {
        let open = others.iter().map(|one| one.open).sum::<u64>() + traffic.more_open;
        let line = format!("and {more} more, with {}", count_noun(open, "stream"));
        page.add(&line, CellStyle::Plain);
    }
}

/// The parties. The namespace of a service that is the caller's own is left out. If they do not fit, namespaces are cut first.
fn names(parties: &ConversationParties, room: Option<usize>) -> String {
    let ConversationParties { source, from, service, port, to } = parties;
    let split = |name: &str| match name.split_once('/') {
        Some((namespace, name)) => (escape(namespace).into_owned(), escape(name).into_owned()),
        None => (String::new(), escape(name).into_owned()),
    };
    let (mut of_source, account) = split(source.as_deref().unwrap_or("(many)"));
    let (mut of_service, name) = split(service);
    if of_service == of_source {
        of_service.clear();
    }
    let port = if port.is_empty() { String::new() } else { format!(":{port}") };
    let line = |of_source: &str, of_service: &str| {
        let within = |namespace: &str| match namespace {
            "" => String::new(),
            some => format!("{some}/"),
        };
        let (of_source, of_service) = (within(of_source), within(of_service));
        let (from, to, port) = (escape(from), escape(to), escape(&port));
        format!("{of_source}{account}@{from} → {of_service}{name}{port}@{to}")
    };
    let Some(room) = room else { return line(&of_source, &of_service) };
    for cuts_source in [true, false] {
        let over = line(&of_source, &of_service).chars().count().saturating_sub(room);
        let namespace = if cuts_source { &mut of_source } else { &mut of_service };
        if over > 0 && !namespace.is_empty() {
            *namespace = clip(namespace, namespace.chars().count().saturating_sub(over).max(2));
        }
    }
    clip_middle(&line(&of_source, &of_service), room)
}

/// Ends by code, the most first.
fn codes(ended: &BTreeMap<String, u64>) -> String {
    let mut all: Vec<_> = ended.iter().collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let more: u64 = all.iter().skip(MAX_CODES).map(|(_, count)| **count).sum();
    let some: Vec<_> = all.iter().take(MAX_CODES).map(|(code, n)| format!("{n} {code}")).collect();
    let more = if more > 0 { format!(", {more} others") } else { String::new() };
    some.join(", ") + &more
}

fn rate(per_second: f64) -> String {
    if per_second < 9.95 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

fn bytes(per_second: f64) -> String {
    // A rate is no more than what fits.
    human_bytes(per_second as u64)
}

/// As much of a line as fits.
fn clip(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A line that fits, without its middle.
fn clip_middle(line: &str, width: usize) -> String {
    let all: Vec<char> = line.chars().collect();
    if all.len() <= width {
        return line.to_owned();
    }
    let kept = width.saturating_sub(1);
    let (head, tail) = (kept / 2, kept - kept / 2);
    all[..head]
        .iter()
        .copied()
        .chain(['…'])
        .chain(all[all.len() - tail..].iter().copied())
        .collect()
}

#[cfg(test)]
mod tests;
