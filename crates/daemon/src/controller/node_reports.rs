//! Asks our own nodes how they are, each by itself and all in rounds.
//!
//! So that a node answers for itself only, with its own certificate, and nobody passes on what another said. Up to
//! [`MAX_CONNECTED`] nodes are asked every [`ROUND_INTERVAL`] or a little less often, over connections that stay; in a
//! larger cluster, where that many connections would cost too much memory, each is asked less often over a
//! connection of its own: [`MAX_HANDSHAKES_PER_SECOND`] of them a second. A node that does not answer delays no other: the sum of a
//! round is made of what is known by then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::NodeName;
use adit_core::snapshot::Snapshot;
use adit_core::wire::report::ReportQuestion;
use adit_kubernetes::summary::{NodeAnswer, NodesSummary, RefusalTotals, SummaryItem};
use adit_transport::Links;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// From the beginning of one round to that of the next, in a cluster of up to [`MAX_ASKED_PER_SECOND`] nodes.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);
/// The most nodes that are asked a second over connections that stay.
const MAX_ASKED_PER_SECOND: usize = 350;
/// So many nodes are connected for the sake of their reports; each connection costs some 60 KiB.
const MAX_CONNECTED: usize = 1000;
/// In larger clusters: how many nodes are asked a second, which costs a handshake each.
const MAX_HANDSHAKES_PER_SECOND: usize = 50;
/// A connection stays for this long after the last question on it: longer than a round of a cluster whose connections
/// stay.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// The most nodes that are asked at a time.
const MAX_CONCURRENT: usize = 32;
/// An answer may take this long, with the connection that it needs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// From a node's last answer to when it counts as silent: one that was busy for a moment, or is replaced, does not.
const SILENT_TIMEOUT: Duration = Duration::from_secs(4);
/// From when nodes first say that they cannot use a link to when that is told: what is bad in one round and well in the
/// next is not.
const LINK_FAULT_DELAY: Duration = Duration::from_secs(1);
/// For how many rounds a node goes by what it was told with a question, where none comes.
const VALID_ROUNDS: u32 = 3;
/// The least time between two wordings of one fault that lasts.
const REWORD_INTERVAL: Duration = Duration::from_secs(10);

/// Asks for as long as it is polled, and publishes the sum of each round.
pub(super) async fn poll_nodes(
    links: Links,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    summary: &watch::Sender<Arc<NodesSummary>>,
) {
    let mut known = KnownAnswers::default();
    let (mut asking, mut asked) = (JoinSet::new(), BTreeSet::new());
    let slots = Arc::new(Semaphore::new(MAX_CONCURRENT));
    let (mut unserved, mut totals) = (Vec::new(), RefusalTotals::default());
    loop {
        let began = Instant::now();
        let nodes: BTreeSet<NodeName> = snapshot.borrow().siblings.keys().cloned().collect();
        known.retain(&nodes);
        let round = interval(nodes.len());
        let next = began + round;
        let valid_ms = (VALID_ROUNDS * round + ANSWER_TIMEOUT).as_millis();
        let valid_ms = u64::try_from(valid_ms).unwrap_or(u64::MAX);
        let question = ReportQuestion { unserved: std::mem::take(&mut unserved), valid_ms };
        let question: Arc<[u8]> = Arc::from(&question.encode()[..]);
        for node in nodes.into_iter().filter(|node| !asked.contains(node)).collect::<Vec<_>>() {
            asked.insert(node.clone());
            asking.spawn(ask_node(links.clone(), Arc::clone(&slots), node, question.clone()));
        }
        // Each node that does not dial what is silent at home hears of it with its next question.
        let mut publish = |known: &KnownAnswers| {
            let now = std::time::SystemTime::now().try_into().unwrap_or_default();
            let mut newest = NodesSummary::from_answers(&known.answers, now);
            totals.apply(&mut newest);
            let unserved = newest.exports.unserved_at_home(newest.answered);
            summary.send_replace(Arc::new(newest));
            unserved
        };
        let mut published = false;
        // Until the next round, however soon all have answered.
        while let Ok(answered) = timeout_at(next, asking.join_next()).await {
            match answered {
                Some(Ok((node, answer))) => {
                    asked.remove(&node);
                    known.record(node, answer, Instant::now());
                }
                // It was one that panicked: whose answer that was is not known, so all are asked anew.
                Some(Err(_)) => asked.clear(),
                None => {
                    unserved = publish(&known);
                    published = true;
                    sleep_until(next).await;
                    break;
                }
            }
        }
        if !published {
            unserved = publish(&known);
        }
    }
}

/// The time from one round to the next for so many nodes.
fn interval(nodes: usize) -> Duration {
    if nodes <= MAX_CONNECTED {
        let times = u32::try_from(nodes.div_ceil(MAX_ASKED_PER_SECOND)).unwrap_or(u32::MAX);
        return ROUND_INTERVAL.saturating_mul(times.max(1));
    }
    Duration::from_secs(u64::try_from(nodes / MAX_HANDSHAKES_PER_SECOND).unwrap_or(u64::MAX))
}

/// Asks one node; nothing comes of one whose version does not answer.
async fn ask_node(
    links: Links,
    slots: Arc<Semaphore>,
    node: NodeName,
    question: Arc<[u8]>,
) -> (NodeName, Option<NodeAnswer>) {
    // Nobody closes it.
    let _place = slots.acquire().await;
    let report = match timeout(ANSWER_TIMEOUT, links.ask_report(&node, &question)).await {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(error)) if error.code == Code::VersionMismatch => return (node, None),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("node {node} does not answer")),
    };
    let at = std::time::SystemTime::now().try_into().unwrap_or_default();
    (node, Some(NodeAnswer { at, report }))
}

/// The last answer of each node, and when each last gave one.
#[derive(Debug, Default)]
struct KnownAnswers {
    answers: BTreeMap<NodeName, NodeAnswer>,
    answered: BTreeMap<NodeName, Instant>,
}

impl KnownAnswers {
    /// Forgets those that are not among our nodes any more.
    fn retain(&mut self, nodes: &BTreeSet<NodeName>) {
        self.answers.retain(|node, _| nodes.contains(node));
        self.answered.retain(|node, _| nodes.contains(node));
    }

    /// Records a node's answer, or its absence. The answer before counts until the node is silent.
    fn record(&mut self, node: NodeName, answer: Option<NodeAnswer>, now: Instant) {
        let Some(answer) = answer else {
            self.answers.remove(&node);
            return;
        };
        if answer.report.is_ok() {
            self.answered.insert(node.clone(), now);
        } else if self.answered.get(&node).is_some_and(|last| *last + SILENT_TIMEOUT > now) {
            return;
        }
        self.answers.insert(node, answer);
    }
}

/// The summary without flickering: it differs only if another fault lasts, or after a while if the words
/// are others.
#[derive(Debug, Default)]
pub(super) struct DebouncedSummary {
    published: Arc<NodesSummary>,
    /// Since when its words stand.
    reworded_at: Option<Instant>,
    /// The summary before this one.
    last: Arc<NodesSummary>,
    /// Since when nodes have said without a pause that they cannot use a link, by its name.
    faulty_since: BTreeMap<String, Instant>,
}

impl DebouncedSummary {
    /// Of the newest summary.
    pub(super) fn update(&mut self, newest: &Arc<NodesSummary>) -> Arc<NodesSummary> {
        if Arc::ptr_eq(newest, &self.last) {
            return Arc::clone(&self.published);
        }
        let now = Instant::now();
        let is_old = self.reworded_at.is_none_or(|at| at + REWORD_INTERVAL <= now);
        let none = NodesSummary::default();
        let mut lasting = newest.stable_part(if is_old { &none } else { &self.published });
        let is_link = |item: &SummaryItem| item.kind == "link";
        let links = newest.items.iter().filter(|item| is_link(item));
        let since = |name: &String| self.faulty_since.get(name).copied().unwrap_or(now);
        self.faulty_since = links.map(|link| (link.name.clone(), since(&link.name))).collect();
        let is_due = |name: &String| {
            self.faulty_since.get(name).is_some_and(|at| *at + LINK_FAULT_DELAY <= now)
        };
        lasting.items.retain(|item| !is_link(item) || is_due(&item.name));
        self.last = Arc::clone(newest);
        if is_old {
            self.reworded_at = Some(now);
        }
        if lasting != *self.published {
            self.published = Arc::new(lasting);
        }
        Arc::clone(&self.published)
    }
}

#[cfg(test)]
mod tests {
    use adit_core::wire::report::NodeReport;

    use super::*;

    #[test]
    fn a_larger_cluster_is_asked_less_often() {
        let seconds = |nodes| interval(nodes).as_secs();
        assert_eq!([0, 2, 351, 1000, 5000].map(seconds), [1, 1, 2, 3, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_silent_a_while_after_its_last_answer_and_its_words_count_until_then() {
        let mut known = KnownAnswers::default();
        let node: NodeName = "e1".parse().unwrap();
        let mut take = |report: Result<NodeReport, String>| {
            let answer = NodeAnswer { at: Default::default(), report };
            known.record(node.clone(), Some(answer), Instant::now());
            known.answers[&node].report.is_ok()
        };
        let silence = || Err("it does not answer".to_owned());
        assert!(!take(silence()), "one that never answered is silent at once");
        assert!(take(Ok(NodeReport::default())));
        tokio::time::advance(SILENT_TIMEOUT - Duration::from_millis(1)).await;
        assert!(take(silence()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!take(silence()));
        known.retain(&BTreeSet::new());
        assert!(known.answers.is_empty() && known.answered.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_is_told_after_a_while_and_reworded_rarely() {
        let summary = |words: &str| {
            let (kind, name) = ("link".to_owned(), "bank".to_owned());
            let sentence = words.to_owned();
            let item = SummaryItem { kind, name, sentence, error: true, ..SummaryItem::default() };
            Arc::new(NodesSummary { items: vec![item], ..NodesSummary::default() })
        };
        let mut lasting = DebouncedSummary::default();
        let mut told = |words: &str| {
            let told = lasting.update(&summary(words));
            told.items.first().map(|item| item.sentence.clone())
        };
        assert_eq!(told("since 1 s"), None);
        tokio::time::advance(LINK_FAULT_DELAY - Duration::from_millis(1)).await;
        assert_eq!(told("since 3 s"), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(told("since 4 s").as_deref(), Some("since 4 s"));
        assert_eq!(told("since 7 s").as_deref(), Some("since 4 s"));
        tokio::time::advance(REWORD_INTERVAL).await;
        assert_eq!(told("since 10 s").as_deref(), Some("since 10 s"));
        assert!(lasting.update(&Arc::default()).items.is_empty());
        assert!(lasting.update(&summary("again")).items.is_empty(), "its time begins anew");
    }
}
