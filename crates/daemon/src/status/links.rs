//! The part of the status document about other clusters and the connections with their nodes.

use serde::{Deserialize, Serialize};

use super::Reason;

/// The standing relation with another cluster.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Link {
    /// The other cluster.
    pub cluster: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// The health of the link.
    pub state: LinkHealth,
    /// Why it is not up.
    pub reason: Option<Reason>,
    /// Addresses and names from the configuration where dialling begins.
    pub seeds: Vec<String>,
    /// Where what is known of that cluster comes from.
    pub view: Option<ViewSource>,
    /// Streams that its nodes opened in vain.
    pub in_vain: MisuseReport,
    /// Bytes that it may have this node hold: windows of its connections, and streams that stall.
    pub held_bytes: u64,
    /// Its streams that stall, where they hold much of what they may.
    pub stalled: Option<StalledStreams>,
    /// Items of that cluster's view that this node leaves out, because they break a bound.
    pub unheard: Option<OmittedItems>,
    /// Items of our view that are not sent to that cluster, because they do not fit.
    pub untold: Option<OmittedItems>,
    /// A hub of that cluster which it announces at an address of ours, with that address: it is not dialled there.
    pub misplaced: Option<String>,
    /// True if this node is one of its cluster's hubs for the link.
    pub hub: bool,
    /// Its nodes.
    pub nodes: Vec<PeerNode>,
    /// The results of dialling that cluster.
    pub dials: DialSummary,
    /// Why the last handshake failed that one of its nodes began; absent if none failed for a while.
    pub failed_handshake: Option<Reason>,
}

/// The stalled streams of a cluster, of which some bytes wait for readers that do not keep up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StalledStreams {
    /// Their number.
    pub streams: u64,
    /// The bytes that they may hold at present.
    pub bytes: u64,
    /// The most that they may hold.
    pub max_bytes: u64,
}

/// The health of a link: whether it can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkHealth {
    /// Connected, with a view that is fresh.
    Up,
    /// In use, but something is missing: one hub of two, an old view.
    Degraded,
    /// Nothing can be sent.
    Down,
    /// A newer daemon says something else.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Where a node has what it knows of another cluster from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ViewSource {
    /// The node that tells: a hub of that cluster, or a sibling that passes on what its hub said.
    pub hub: String,
    /// Its epoch: a new one begins with its process. Text in JSON, because it may be beyond 2^53, where many
    /// readers lose digits.
    #[serde(with = "as_text")]
    pub epoch: u64,
    /// The last change taken in that epoch.
    pub sequence: u64,
    /// The age of the view, in seconds.
    pub age_seconds: u64,
}

/// Streams that the nodes of a cluster opened in vain: refused to them by right, against the protocol, or given
/// up by them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MisuseReport {
    /// The number of streams.
    pub streams: u64,
    /// Requests to one of its nodes to stay away for a while.
    pub asked: u64,
    /// Connections that were closed since a node went on.
    pub closed: u64,
    /// Connections that were refused, because there are enough or they come too often.
    pub refused_connections: u64,
    /// Which node was asked last, and why; absent if that is long ago.
    pub last: Option<LastMisuse>,
}

/// The node that was asked last to stay away.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LastMisuse {
    /// Its name.
    pub node: String,
    /// The code of its last stream.
    pub code: String,
    /// Seconds since then.
    pub seconds_ago: u64,
}

/// Exports and nodes that are left out of a view.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OmittedItems {
    /// The number of items, at least.
    pub count: u64,
    /// The first few, each with the bound that it breaks.
    pub sentence: String,
}

/// A node of another cluster.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerNode {
    /// Its name, proved by its certificate.
    pub node: String,
    /// Where it says it can be dialled.
    pub addresses: Vec<String>,
    /// True if the node is one of its cluster's hubs for this link.
    pub hub: bool,
    /// The boot IDs of two processes that have its name and connect by turns; empty if there are none.
    pub alternating: Vec<String>,
    /// The boot IDs of the living processes that have its name, the one that came last first; empty if there is one.
    pub coexisting: Vec<String>,
    /// The connections with it.
    pub connections: Vec<ConnectionReport>,
}

/// A QUIC connection with a node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionReport {
    /// `dialled` or `accepted`.
    pub direction: String,
    /// `interactive` or `bulk`.
    pub lane: String,
    /// The peer's address now.
    pub remote: String,
    /// The peer's boot ID.
    pub boot_id: String,
    /// Smoothed round-trip time.
    pub rtt_ms: f64,
    /// Packets lost of those sent, since it began, in percent.
    pub loss_percent: f64,
    /// The congestion window, in bytes.
    pub congestion_window: u64,
    /// The path's MTU as probed, in bytes of UDP payload.
    pub mtu: u16,
    /// Seconds since the handshake.
    pub age_seconds: u64,
    /// Streams open on it.
    pub streams: u64,
    /// UDP payload received, in bytes.
    pub bytes_in: u64,
    /// UDP payload sent, in bytes.
    pub bytes_out: u64,
    /// True if the connection is kept although no stream needs it.
    pub standing: bool,
    /// Why it takes no new streams, where it does not.
    pub closing: Option<Reason>,
}

/// The results of dialling a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DialSummary {
    /// Attempts since the process started.
    pub attempts: u64,
    /// Attempts since the last success.
    pub failures: u64,
    /// The text of the last failure.
    pub last_error: Option<String>,
    /// When the next standing connection is dialled, where one is wanting.
    pub next_in_ms: Option<u64>,
}

/// Numbers that are text in JSON. A number is read as well, as daemons wrote it once.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(n: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(n)
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Text(String),
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        match Written::deserialize(d)? {
            Written::Number(n) => Ok(n),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_reader_of_json_loses_digits_of_an_epoch() {
        let view = ViewSource { epoch: (1 << 53) + 1, ..ViewSource::default() };
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(json["epoch"], "9007199254740993");
        assert_eq!(serde_json::from_value::<ViewSource>(json.clone()).unwrap(), view);
        let mut old = json;
        old["epoch"] = serde_json::json!(7);
        assert_eq!(serde_json::from_value::<ViewSource>(old).unwrap().epoch, 7);
    }
}
