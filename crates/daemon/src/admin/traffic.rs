//! `GET /v1/traffic`: who talks with whom now, in numbers that only grow. Whoever asks twice has rates.

use std::time::Duration;

use adit_core::name::ClusterName;
use adit_core::traffic::{ConversationCounts, ConversationParties, NodeTraffic};
use adit_dataplane::flow::{ConversationTotals, Direction, Flows};

/// The document of a node of this cluster, whose process has run for so long.
pub(crate) fn traffic(flows: &Flows, own: &ClusterName, uptime: Duration) -> NodeTraffic {
    let list = flows.conversations(NodeTraffic::MAX);
    let mut ended = std::collections::BTreeMap::new();
    for ((_, code), count) in flows.ended() {
        *ended.entry(code.name().to_owned()).or_default() += count;
    }
    NodeTraffic {
        uptime_ms: millis(uptime),
        open: flows.open() as u64,
        ended,
        conversations: list.told.into_iter().map(|one| counts(one, own)).collect(),
        more: list.untold.0,
        more_open: list.untold.1,
    }
}

fn counts(one: ConversationTotals, own: &ClusterName) -> ConversationCounts {
    let is_outbound = one.direction == Direction::Outbound;
    let (other, own) = (one.cluster.to_string(), own.to_string());
    let (from, to) = if is_outbound { (own, other) } else { (other, own) };
    // As the opener of the connection sees them.
    let (bytes_out, bytes_in) = match one.direction {
        Direction::Outbound => (one.bytes_sent, one.bytes_received),
        Direction::Inbound => (one.bytes_received, one.bytes_sent),
    };
    let source = one.source.map(|w| format!("{}/{}", w.namespace, w.service_account));
    ConversationCounts {
        parties: ConversationParties {
            source,
            from,
            service: one.target.service.to_string(),
            port: one.target.port.to_string(),
            to,
        },
        is_outbound,
        age_ms: millis(one.age),
        open: one.open,
        begun: one.begun,
        ended: one.ended.into_iter().map(|(code, n)| (code.name().to_owned(), n)).collect(),
        bytes_out,
        bytes_in,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
