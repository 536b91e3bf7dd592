//! The metrics of links; their state at present is in their status.
//!
//! Labels have closed sets of values: the clusters of the configuration, lanes, directions and codes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use adit_core::code::Code;
use adit_core::name::ClusterName;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::endpoint::ConnectionStats;
use crate::peer::PeerInfo;

const CONNECTIONS: &str = "adit_connections";
const CONNECTIONS_CLOSED: &str = "adit_connections_closed_total";
const PEERS_REFUSED: &str = "adit_peers_refused_total";
const DIALS: &str = "adit_dials_total";
const HANDSHAKES_FAILED: &str = "adit_link_handshakes_failed_total";
const IN_VAIN: &str = "adit_peer_streams_in_vain_total";
const STATE_BYTES: &str = "adit_state_bytes_total";
const PACKETS_SENT: &str = "adit_link_packets_sent_total";
const PACKETS_LOST: &str = "adit_link_packets_lost_total";

/// Describes this module's metrics to the recorder: once, after it is installed.
pub fn describe() {
    describe_gauge!(
        CONNECTIONS,
        Unit::Count,
        "QUIC connections with nodes of a cluster, our own among them, by lane and who dialled"
    );
    describe_counter!(
        CONNECTIONS_CLOSED,
        Unit::Count,
        "QUIC connections that ended, by lane, who dialled and code"
    );
    describe_counter!(
        PEERS_REFUSED,
        Unit::Count,
        "Peers that were verified and yet not wanted, by code"
    );
    describe_counter!(
        DIALS,
        Unit::Count,
        "Dials of a cluster's nodes, by code; finished is a success"
    );
    describe_counter!(
        HANDSHAKES_FAILED,
        Unit::Count,
        "Handshakes that nodes of the other cluster began and that failed, by code: one-way, certificate-refused (theirs, here), refused-by-peer (this node's), protocol-error (too many pieces); those from addresses at which it is known to have nodes"
    );
    describe_counter!(
        IN_VAIN,
        Unit::Count,
        "Streams that a cluster's nodes opened in vain, by code: refused to them by right, against the protocol, or given up by them"
    );
    describe_counter!(
        STATE_BYTES,
        Unit::Bytes,
        "Bytes of state messages, sent and received, by the other side's cluster"
    );
    describe_counter!(
        PACKETS_SENT,
        Unit::Count,
        "QUIC packets sent to nodes of a cluster, our own among them, as far as their connections were looked at"
    );
    describe_counter!(
        PACKETS_LOST,
        Unit::Count,
        "QUIC packets sent to nodes of a cluster, our own among them, that were given up for lost; what was in them was sent again"
    );
}

/// Has what counts no link begin at 0, each code included.
pub fn begin() {
    for code in Code::ALL {
        counter!(PEERS_REFUSED, "code" => code.name()).increment(0);
    }
}

/// Has what counts a link of the configuration begin at 0, each code included. Of connections that end only the
/// codes that happen are there: each of them for each lane and direction would be 180 series a link.
pub fn begin_link(link: &str) {
    for code in Code::ALL {
        counter!(DIALS, "link" => link.to_owned(), "code" => code.name()).increment(0);
        counter!(IN_VAIN, "link" => link.to_owned(), "code" => code.name()).increment(0);
    }
    for code in [Code::OneWay, Code::CertificateRefused, Code::RefusedByPeer] {
        counter!(HANDSHAKES_FAILED, "link" => link.to_owned(), "code" => code.name()).increment(0);
    }
    for name in [PACKETS_SENT, PACKETS_LOST] {
        counter!(name, "link" => link.to_owned()).increment(0);
    }
    for direction in ["sent", "received"] {
        counter!(STATE_BYTES, "link" => link.to_owned(), "direction" => direction).increment(0);
    }
}

/// The packets of a connection, sent and lost, that are in the metrics already.
#[derive(Debug, Default)]
pub(crate) struct CountedPackets([AtomicU64; 2]);

impl CountedPackets {
    /// Notes the totals, and gives what is new.
    fn advance(&self, sent: u64, lost: u64) -> [u64; 2] {
        let [counted_sent, counted_lost] = &self.0;
        // Two that look at once count each packet once: whoever raises the number counts the difference.
        let advance =
            |counted: &AtomicU64, now: u64| now.saturating_sub(counted.fetch_max(now, Relaxed));
        [advance(counted_sent, sent), advance(counted_lost, lost)]
    }
}

/// The recorder of links' metrics.
#[derive(Debug, Default)]
pub(super) struct LinkMetrics;

impl LinkMetrics {
    pub(super) fn opened(&self, peer: &PeerInfo) {
        let [link, class, direction] = labels(peer);
        gauge!(CONNECTIONS, "link" => link, "lane" => class, "direction" => direction)
            .increment(1.0);
    }

    pub(super) fn closed(&self, peer: &PeerInfo, code: Code) {
        let [link, class, direction] = labels(peer);
        gauge!(CONNECTIONS, "link" => link.clone(), "lane" => class.clone(), "direction" => direction.clone())
            .decrement(1.0);
        counter!(CONNECTIONS_CLOSED, "link" => link, "lane" => class, "direction" => direction, "code" => code.name())
            .increment(1);
    }

    pub(super) fn refused(&self, code: Code) {
        counter!(PEERS_REFUSED, "code" => code.name()).increment(1);
    }

    pub(super) fn in_vain(&self, cluster: &ClusterName, code: Code) {
        // Numbers that only a peer knows are one.
        let code = if let Code::Unknown(_) = code { Code::Unknown(0) } else { code };
        counter!(IN_VAIN, "link" => cluster.to_string(), "code" => code.name()).increment(1);
    }

    pub(super) fn dialled(&self, cluster: &ClusterName, result: Result<(), Code>) {
        let code = result.err().unwrap_or(Code::Finished);
        counter!(DIALS, "link" => cluster.to_string(), "code" => code.name()).increment(1);
    }

    pub(super) fn handshake_failed(&self, cluster: &ClusterName, code: Code) {
        counter!(HANDSHAKES_FAILED, "link" => cluster.to_string(), "code" => code.name())
            .increment(1);
    }

    /// Counts what a connection has sent and lost since it was counted last.
    pub(super) fn count_packets(
        &self,
        cluster: &ClusterName,
        counted: &CountedPackets,
        stats: &ConnectionStats,
    ) {
        let [sent, lost] = counted.advance(stats.sent, stats.lost);
        if sent > 0 {
            counter!(PACKETS_SENT, "link" => cluster.to_string()).increment(sent);
        }
        if lost > 0 {
            counter!(PACKETS_LOST, "link" => cluster.to_string()).increment(lost);
        }
    }

    pub(super) fn state_sent(&self, cluster: &ClusterName, bytes: usize) {
        counter!(STATE_BYTES, "link" => cluster.to_string(), "direction" => "sent")
            .increment(bytes as u64);
    }

    pub(super) fn state_received(&self, cluster: &ClusterName, bytes: u64) {
        counter!(STATE_BYTES, "link" => cluster.to_string(), "direction" => "received")
            .increment(bytes);
    }
}

fn labels(peer: &PeerInfo) -> [String; 3] {
    let direction = if peer.dialled { "dialled" } else { "accepted" };
    [peer.cluster.to_string(), peer.class.name().to_owned(), direction.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_counted_once_however_often_they_are_looked_at() {
        let counted = CountedPackets::default();
        assert_eq!(counted.advance(10, 1), [10, 1]);
        assert_eq!(counted.advance(10, 1), [0, 0]);
        assert_eq!(counted.advance(25, 2), [15, 1]);
        assert_eq!(counted.advance(20, 2), [0, 0], "an older look came late");
    }
}
