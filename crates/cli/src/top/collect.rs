//! Asks one node again and again, and keeps the last two things that it said.

use std::time::Duration;

use adit_core::traffic::{TrafficRates, rates};
use adit_daemon::admin::client;
use adit_daemon::status::sample::NodeSample;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::watch::WatchedNode;

/// A command in a pod that has ended is begun again after this.
const RESTART_DELAY: Duration = Duration::from_secs(2);

/// The number of a node, and what it said or why it does not.
pub(super) type NodeNews = (usize, Result<Box<NodeSample>, String>);

/// A node as it was seen last.
#[derive(Debug)]
pub(super) struct NodeView {
    /// The name under which it was found.
    name: String,
    before: Option<Box<NodeSample>>,
    last: Option<Box<NodeSample>>,
    trouble: Option<String>,
}

impl NodeView {
    pub(super) fn new(name: String) -> Self {
        Self { name, before: None, last: None, trouble: None }
    }

    /// Takes what is new of it.
    pub(super) fn take(&mut self, news: Result<Box<NodeSample>, String>) {
        match news {
            Ok(sample) => {
                self.before = self.last.take();
                (self.last, self.trouble) = (Some(sample), None);
            }
            Err(trouble) => {
                (self.before, self.last, self.trouble) = (None, None, Some(trouble));
            }
        }
    }

    /// Returns whether there are rates of it, or will be none.
    pub(super) fn is_settled(&self) -> bool {
        self.before.is_some() || self.trouble.is_some()
    }

    /// Returns the last sample.
    pub(super) fn sample(&self) -> Option<&NodeSample> {
        self.last.as_deref()
    }

    /// Returns its traffic between the last two looks; after the first look nothing but what is open.
    pub(super) fn rates(&self) -> Option<TrafficRates> {
        let last = self.last.as_ref()?;
        let before = self.before.as_ref().unwrap_or(last);
        Some(rates(&before.traffic, &last.traffic))
    }

    /// Returns why it cannot be asked.
    pub(super) fn trouble(&self) -> Option<String> {
        match (&self.trouble, &self.last) {
            (Some(trouble), _) => Some(format!("{}: {trouble}", self.name)),
            (None, None) => Some(format!("{}: it has not answered yet", self.name)),
            (None, Some(_)) => None,
        }
    }
}

/// Asks a node until nobody wants to hear of it.
pub(super) async fn collect(
    nth: usize,
    node: WatchedNode,
    every: Duration,
    news: mpsc::Sender<NodeNews>,
) {
    match node {
        WatchedNode::Local(address) => {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let sample = client::sample(&address).await;
                let sample = sample.map(Box::new).map_err(|error| error.to_string());
                if news.send((nth, sample)).await.is_err() {
                    return;
                }
            }
        }
        WatchedNode::Pod(context, pod) => {
            let interval = format!("{}ms", every.as_millis());
            let words = ["top", "--feed", "--interval", &interval];
            loop {
                let trouble = match pod.follow(&context, &words) {
                    Err(error) => error,
                    Ok(mut lines) => loop {
                        match lines.next::<NodeSample>().await {
                            Err(error) => break error,
                            Ok(sample) => {
                                if news.send((nth, Ok(Box::new(sample)))).await.is_err() {
                                    return;
                                }
                            }
                        }
                    },
                };
                if news.send((nth, Err(trouble))).await.is_err() {
                    return;
                }
                sleep(RESTART_DELAY).await;
            }
        }
    }
}
