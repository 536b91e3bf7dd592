//! Asks our own nodes how they are, each by itself and all in rounds.
//!
//! So that a node answers for itself only, with its own certificate, and nobody passes on what another said. Up to
//! [`MAX_CONNECTED`] nodes are asked every [`ROUND_INTERVAL`], over connections that stay; in a larger cluster,
//! where that many connections would cost too much memory, each is asked less often over a connection of its
//! own: [`MAX_RATE`] of them a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::NodeName;
use adit_core::snapshot::Snapshot;
use adit_kubernetes::summary::{NodeAnswer, NodesSummary};
use adit_transport::Links;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// From the beginning of one round to that of the next.
const ROUND_INTERVAL: Duration = Duration::from_secs(3);
/// So many nodes are connected for the sake of their reports; each connection costs some 60 KiB.
const MAX_CONNECTED: usize = 1000;
/// In larger clusters: how many nodes are asked a second, which costs a handshake each.
const MAX_RATE: usize = 50;
/// How long a connection stays that was not asked on: longer than a round of a cluster whose connections stay.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many nodes are asked at a time.
const AT_ONCE: usize = 32;
/// What one answer may take, with the connection that it needs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often what is wrong may be told in other words, while it is the same.
const REWORD_INTERVAL: Duration = Duration::from_secs(10);

/// Asks for as long as it is polled, and publishes the sum of each round.
pub(super) async fn ask(
    links: Links,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    summary: &watch::Sender<Arc<NodesSummary>>,
) {
    loop {
        let began = Instant::now();
        let nodes: Vec<NodeName> = snapshot.borrow().siblings.keys().cloned().collect();
        let answers = round(&links, &nodes).await;
        let now = std::time::SystemTime::now().try_into().unwrap_or_default();
        summary.send_replace(Arc::new(NodesSummary::of(&answers, now)));
        sleep_until(began + interval(nodes.len())).await;
    }
}

/// How often so many nodes are asked.
fn interval(nodes: usize) -> Duration {
    if nodes <= MAX_CONNECTED {
        return ROUND_INTERVAL;
    }
    let seconds = u64::try_from(nodes / MAX_RATE).unwrap_or(u64::MAX);
    Duration::from_secs(seconds).max(ROUND_INTERVAL)
}

/// Asks each node once. Those of a version that does not answer are left out.
async fn round(links: &Links, nodes: &[NodeName]) -> BTreeMap<NodeName, NodeAnswer> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking = JoinSet::new();
    for node in nodes.iter().cloned() {
        let (links, places) = (links.clone(), Arc::clone(&places));
        asking.spawn(async move {
            // Nobody closes it.
            let _place = places.acquire().await;
            let report = match timeout(ANSWER_TIMEOUT, links.ask_report(&node)).await {
                Ok(Ok(report)) => Ok(report),
                Ok(Err(error)) if error.code == Code::VersionMismatch => return None,
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("node {node} does not answer")),
            };
            let at = std::time::SystemTime::now().try_into().unwrap_or_default();
            Some((node, NodeAnswer { at, report }))
        });
    }
    let mut answers = BTreeMap::new();
    while let Some(answered) = asking.join_next().await {
        answers.extend(answered.ok().flatten());
    }
    answers
}

/// What lasts of the summaries: it differs only where something else is wrong, or after a while where the words
/// are others.
#[derive(Debug, Default)]
pub(super) struct LastingSummary {
    told: Arc<NodesSummary>,
    /// Since when its words stand.
    worded: Option<Instant>,
    /// The summary before this one: a link that was bad for a single round is not told.
    last: Arc<NodesSummary>,
}

impl LastingSummary {
    /// Of the newest summary.
    pub(super) fn of(&mut self, newest: &Arc<NodesSummary>) -> Arc<NodesSummary> {
        if Arc::ptr_eq(newest, &self.last) {
            return Arc::clone(&self.told);
        }
        let now = Instant::now();
        let is_old = self.worded.is_none_or(|at| at + REWORD_INTERVAL <= now);
        let none = NodesSummary::default();
        let mut lasting = newest.lasting(if is_old { &none } else { &self.told });
        let last = &self.last;
        lasting
            .items
            .retain(|item| item.kind != "link" || last.about("link", &item.name).next().is_some());
        self.last = Arc::clone(newest);
        if is_old {
            self.worded = Some(now);
        }
        if lasting != *self.told {
            self.told = Arc::new(lasting);
        }
        Arc::clone(&self.told)
    }
}

#[cfg(test)]
mod tests {
    use adit_kubernetes::summary::SummaryItem;

    use super::*;

    #[test]
    fn a_larger_cluster_is_asked_less_often() {
        let seconds = |nodes| interval(nodes).as_secs();
        assert_eq!((seconds(2), seconds(1000), seconds(5000)), (3, 3, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_is_told_in_the_second_round_and_reworded_rarely() {
        let summary = |words: &str| {
            let (kind, name) = ("link".to_owned(), "bank".to_owned());
            let sentence = words.to_owned();
            let item = SummaryItem { kind, name, sentence, error: true, ..SummaryItem::default() };
            Arc::new(NodesSummary { items: vec![item], ..NodesSummary::default() })
        };
        let mut lasting = LastingSummary::default();
        let mut told = |words: &str| {
            let told = lasting.of(&summary(words));
            told.items.first().map(|item| item.sentence.clone())
        };
        assert_eq!(told("since 1 s"), None);
        assert_eq!(told("since 4 s").as_deref(), Some("since 4 s"));
        assert_eq!(told("since 7 s").as_deref(), Some("since 4 s"));
        tokio::time::advance(REWORD_INTERVAL).await;
        assert_eq!(told("since 10 s").as_deref(), Some("since 10 s"));
        assert!(lasting.of(&Arc::default()).items.is_empty());
    }
}
