//! Traffic as it is watched: who talks with whom, and the rates between two looks at a node.
//!
//! A node counts, and its numbers only grow ([`NodeTraffic`]); whoever watches asks twice and takes the difference ([`rates`]),
//! adds up the nodes of a cluster, and sees a conversation once that two clusters tell of ([`merge`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The counts of one node at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeTraffic {
    /// Milliseconds since the process started.
    pub uptime_ms: u64,
    /// Streams that are open, of whomever.
    pub open: u64,
    /// Streams that ended since the process started, by code.
    pub ended: BTreeMap<String, u64>,
    /// Conversations that are under way, or were within the last minute, at most [`NodeTraffic::MAX`].
    pub conversations: Vec<ConversationCounts>,
    /// The number of conversations that are not told.
    pub more: u64,
    /// The open streams of these.
    pub more_open: u64,
}

impl NodeTraffic {
    /// The most conversations of a document.
    pub const MAX: usize = 256;
}

/// The parties of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConversationParties {
    /// The workload that asks, `NAMESPACE/ACCOUNT`; absent for many that are counted together.
    pub source: Option<String>,
    /// Its cluster.
    pub from: String,
    /// The service that is asked for, `NAMESPACE/NAME`.
    pub service: String,
    /// Its port, by name; may be empty.
    pub port: String,
    /// Its cluster.
    pub to: String,
}

/// The streams of one source to one port of a service, as one node counts them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConversationCounts {
    /// The parties.
    #[serde(flatten)]
    pub parties: ConversationParties,
    /// True if the source is a workload of the node's own cluster.
    pub is_outbound: bool,
    /// Milliseconds for which it is counted.
    pub age_ms: u64,
    /// Streams that are open.
    pub open: u64,
    /// Streams that have begun.
    pub begun: u64,
    /// Streams that have ended, by code.
    pub ended: BTreeMap<String, u64>,
    /// Bytes from the source to the service.
    pub bytes_out: u64,
    /// Bytes from the service to the source.
    pub bytes_in: u64,
}

/// A conversation between two looks.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConversationRate {
    /// The parties.
    #[serde(flatten)]
    pub parties: ConversationParties,
    /// True if the source's cluster told it.
    pub is_outbound: bool,
    /// Streams that are open.
    pub open: u64,
    /// New streams a second.
    pub begun_per_second: f64,
    /// Bytes a second from the source to the service.
    pub out_per_second: f64,
    /// Bytes a second from the service to the source.
    pub in_per_second: f64,
    /// Streams that ended between the two looks, by code.
    pub ended: BTreeMap<String, u64>,
}

/// The traffic of a node, a cluster or two between two looks.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficRates {
    /// Streams that are open; one that two of those that were asked carry is counted by each.
    pub open: u64,
    /// Streams that ended between the two looks, by code.
    pub ended: BTreeMap<String, u64>,
    /// The conversations: those with the most open streams first, then the most new ones.
    pub conversations: Vec<ConversationRate>,
    /// The number of conversations that are not told.
    pub more: u64,
    /// The open streams of these.
    pub more_open: u64,
}

/// The difference of two looks at one node.
#[must_use]
pub fn rates(before: &NodeTraffic, after: &NodeTraffic) -> TrafficRates {
    let empty = NodeTraffic::default();
    // Another process begins to count anew.
    let before = if after.uptime_ms < before.uptime_ms { &empty } else { before };
    let elapsed_ms = after.uptime_ms - before.uptime_ms;
    let known = |one: &ConversationCounts| {
        before
            .conversations
            .iter()
            .find(|old| old.parties == one.parties && old.is_outbound == one.is_outbound)
            .filter(|old| old.begun <= one.begun && old.age_ms <= one.age_ms)
    };
    let conversations = after.conversations.iter().map(|one| {
        let zero = ConversationCounts::default();
        let old = match known(one) {
            Some(old) => old,
            None if one.age_ms <= elapsed_ms => &zero,
            // It was not among those that were told: nothing can be said of this while.
            None => one,
        };
        let per_second = |new: u64, old: u64| match elapsed_ms {
            0 => 0.0,
            ms => new.saturating_sub(old) as f64 * 1000.0 / ms as f64,
        };
        ConversationRate {
            parties: one.parties.clone(),
            is_outbound: one.is_outbound,
            open: one.open,
            begun_per_second: per_second(one.begun, old.begun),
            out_per_second: per_second(one.bytes_out, old.bytes_out),
            in_per_second: per_second(one.bytes_in, old.bytes_in),
            ended: grown(&old.ended, &one.ended),
        }
    });
    TrafficRates {
        open: after.open,
        ended: grown(&before.ended, &after.ended),
        conversations: conversations.collect(),
        more: after.more,
        more_open: after.more_open,
    }
}

/// The counts that grew, and by how much.
fn grown(old: &BTreeMap<String, u64>, new: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let by = |(code, count): (&String, &u64)| {
        let by = count.saturating_sub(old.get(code).copied().unwrap_or_default());
        (by > 0).then(|| (code.clone(), by))
    };
    new.iter().filter_map(by).collect()
}

/// Adds nodes up. A conversation that both clusters tell of is told once, as its source's cluster does.
#[must_use]
pub fn merge(all: impl IntoIterator<Item = TrafficRates>) -> TrafficRates {
    let mut sum = TrafficRates::default();
    let mut sides: BTreeMap<(ConversationParties, bool), ConversationRate> = BTreeMap::new();
    for one in all {
        sum.open += one.open;
        sum.more += one.more;
        sum.more_open += one.more_open;
        add_counts(&mut sum.ended, &one.ended);
        for rate in one.conversations {
            // Inbound ones come first, and are replaced.
            let key = (rate.parties.clone(), rate.is_outbound);
            let into = sides.entry(key).or_insert_with(|| ConversationRate {
                parties: rate.parties.clone(),
                is_outbound: rate.is_outbound,
                ..ConversationRate::default()
            });
            into.open += rate.open;
            into.begun_per_second += rate.begun_per_second;
            into.out_per_second += rate.out_per_second;
            into.in_per_second += rate.in_per_second;
            add_counts(&mut into.ended, &rate.ended);
        }
    }
    let mut once: BTreeMap<ConversationParties, ConversationRate> = BTreeMap::new();
    for ((parties, _), rate) in sides {
        once.insert(parties, rate);
    }
    sum.conversations = once.into_values().collect();
    // Stable: those that are alike stay in the order of their names.
    sum.conversations.sort_by(|a, b| {
        let by_rate = b.begun_per_second.total_cmp(&a.begun_per_second);
        let bytes = |one: &ConversationRate| one.out_per_second + one.in_per_second;
        b.open.cmp(&a.open).then(by_rate).then(bytes(b).total_cmp(&bytes(a)))
    });
    sum
}

fn add_counts(sum: &mut BTreeMap<String, u64>, counts: &BTreeMap<String, u64>) {
    for (code, count) in counts {
        *sum.entry(code.clone()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(source: &str, is_outbound: bool, begun: u64, age_ms: u64) -> ConversationCounts {
        ConversationCounts {
            parties: ConversationParties {
                source: Some(source.to_owned()),
                from: "edge".to_owned(),
                service: "agents/fraud-bot".to_owned(),
                port: "http".to_owned(),
                to: "bank".to_owned(),
            },
            is_outbound,
            age_ms,
            open: 1,
            begun,
            ended: [("finished".to_owned(), begun - 1)].into(),
            bytes_out: begun * 100,
            bytes_in: begun * 1000,
        }
    }

    fn node(uptime_ms: u64, conversations: Vec<ConversationCounts>) -> NodeTraffic {
        let open = conversations.iter().map(|one| one.open).sum();
        NodeTraffic { uptime_ms, open, conversations, ..NodeTraffic::default() }
    }

    #[test]
    fn rates_are_differences_by_the_node_s_own_clock() {
        let before = node(10_000, vec![counts("a/s", true, 5, 9000)]);
        let after = node(
            12_000,
            vec![
                counts("a/s", true, 11, 11_000),
                counts("a/new", true, 4, 500),
                counts("a/untold", true, 1000, 60_000),
            ],
        );
        let found = rates(&before, &after);
        let begun: Vec<_> = found.conversations.iter().map(|one| one.begun_per_second).collect();
        assert_eq!(begun, [3.0, 2.0, 0.0]);
        let first = &found.conversations[0];
        assert_eq!((first.out_per_second, first.in_per_second, first.open), (300.0, 3000.0, 1));
        assert_eq!(first.ended, [("finished".to_owned(), 6)].into());
        assert_eq!(found.conversations[2].ended, BTreeMap::new());
        assert_eq!(rates(&after, &after).conversations[0].begun_per_second, 0.0);
    }

    #[test]
    fn another_process_and_a_conversation_that_was_forgotten_begin_anew() {
        let before = node(90_000, vec![counts("a/s", true, 500, 80_000)]);
        let restarted = rates(&before, &node(2000, vec![counts("a/s", true, 4, 1500)]));
        assert_eq!(restarted.conversations[0].begun_per_second, 2.0);
        let again = rates(&before, &node(92_000, vec![counts("a/s", true, 4, 1500)]));
        assert_eq!(again.conversations[0].begun_per_second, 2.0);
    }

    #[test]
    fn nodes_are_added_up_and_what_both_clusters_tell_is_told_once() {
        let of = |is_outbound, begun| {
            let after = node(1000, vec![counts("a/s", is_outbound, begun, 1000)]);
            rates(&NodeTraffic::default(), &after)
        };
        let only = ConversationRate { open: 9, ..ConversationRate::default() };
        let there = TrafficRates {
            conversations: vec![of(false, 9).conversations.remove(0), only],
            more: 2,
            more_open: 7,
            ..TrafficRates::default()
        };
        let sum = merge([of(true, 2), there, of(true, 3)]);
        let told: Vec<_> =
            sum.conversations.iter().map(|one| (one.open, one.begun_per_second)).collect();
        assert_eq!(told, [(9, 0.0), (2, 5.0)]);
        assert_eq!((sum.open, sum.more, sum.more_open), (2, 2, 7));
        assert_eq!(sum.conversations[1].ended, [("finished".to_owned(), 3)].into());
    }
}
