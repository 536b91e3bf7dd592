//! Streams that peers open in vain: counted, and bounded by asking their nodes to stay away.
//!
//! A stream is opened in vain if the peer gets nothing for it and could have known ([`super::ServeOutcome`]),
//! or gave it up itself. An honest node does that now and then: its view is older than a change of policy,
//! its callers hang up. One that does it thousands of times costs a task, a refusal and a log line each time.
//! So each connection and each cluster has a limit; a peer that exceeds it is asked to go away for a while
//! ([`STAY_AWAY_DELAY`]), which an honest node obeys and loses no stream by; a node that goes on is closed.
//! Its new connections are refused for as long.

use std::collections::BTreeMap;
use std::time::Duration;

use adit_core::admission::PeerRefusal;
use adit_core::admission::rate_limit::{RateLimit, TokenBucket};
use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeKey, NodeName};
use adit_runtime::Mutex;
use tokio::time::Instant;

use super::pieces::PieceOffences;
use crate::peer::PeerInfo;
use crate::tls::PieceDebt;

/// The streams that one connection may open in vain. A cluster whose policy just changed has some hundred
/// milliseconds to receive the change, at thousands of streams a second.
const ALLOWED_OF_CONNECTION: RateLimit = RateLimit { burst: 2000, per_second: 500 };
/// The streams that all nodes of one cluster together may open in vain.
const ALLOWED_OF_CLUSTER: RateLimit = RateLimit { burst: 8000, per_second: 2000 };
/// Within this a connection is never asked to stay away, even if its cluster has spent its allowance: it is not
/// the one that spends it.
pub const TOLERATED_RATE: RateLimit = RateLimit { burst: 200, per_second: 50 };
/// Streams in vain on a connection whose peer was asked to stay away, after which it is closed: more than are
/// under way when the peer receives that.
const MAX_STREAMS_AFTER_REQUEST: u32 = 1000;
/// Lines about refused connections of one cluster.
const ALLOWED_LINES: RateLimit = RateLimit { burst: 50, per_second: 1 };
/// Subscriptions to state by the nodes of a linked cluster: two hubs make one each, or every node while those are
/// silent.
const ALLOWED_SUBSCRIPTIONS: RateLimit = RateLimit { burst: 1024, per_second: 32 };
/// Processes of a cluster's nodes whose successors are met: a rolling update has one node after the other, and no
/// machine starts one in less than a second.
const ALLOWED_SUCCESSORS: RateLimit = RateLimit { burst: 16, per_second: 2 };
/// Time for which a node is to stay away, from when it is asked.
pub(super) const STAY_AWAY_DELAY: Duration = Duration::from_secs(5);
/// Nodes of one cluster that are remembered as asked to stay away. More than a cluster has that fits its allowance.
const MAX_REMEMBERED: usize = 64;

/// The streams that peers opened in vain, by cluster.
#[derive(Debug, Default)]
pub(super) struct MisuseTable(Mutex<BTreeMap<ClusterName, ClusterMisuse>>);

#[derive(Debug, Default)]
struct ClusterMisuse {
    began: Option<Instant>,
    pace: TokenBucket,
    /// Limits the log lines about its refused connections.
    lines: TokenBucket,
    subscriptions: TokenBucket,
    successors: TokenBucket,
    pieces: PieceDebt,
    piece_offences: PieceOffences,
    /// New connections of all its nodes are refused until then.
    barred_until: Option<Instant>,
    /// Nodes that are to stay away, and until when.
    away: BTreeMap<NodeName, Instant>,
    status: MisuseStatus,
}

/// The streams that one connection opened in vain.
#[derive(Debug, Default)]
pub(super) struct ConnectionMisuse {
    pace: TokenBucket,
    /// Streams in vain within [`TOLERATED_RATE`].
    never_asked_pace: TokenBucket,
    /// Streams in vain since the peer was asked to stay away; `None` while it was not.
    since_asked: Option<u32>,
}

/// The streams that the nodes of a cluster opened in vain, since the link began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MisuseStatus {
    /// Streams.
    pub streams: u64,
    /// Number of times that one of its nodes was asked to stay away.
    pub asked: u64,
    /// Number of its connections that were closed because it went on.
    pub closed: u64,
    /// Number of its connections that were refused, because it has enough of them or makes them too often.
    pub refused: u64,
    /// The node that was asked or refused last, when, and the code.
    pub last: Option<(NodeName, Instant, Code)>,
}

/// The consequence of one more stream in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MisuseConsequence {
    Nothing,
    StayAway,
    Close,
}

impl MisuseTable {
    /// Records a stream in vain.
    pub(super) fn record(
        &self,
        peer: &PeerInfo,
        of_conn: &mut ConnectionMisuse,
        code: Code,
    ) -> MisuseConsequence {
        let now = Instant::now();
        let mut table = self.0.lock();
        let cluster = table.entry(peer.cluster.clone()).or_default();
        let since = now - *cluster.began.get_or_insert(now);
        cluster.status.streams += 1;
        let of_cluster = cluster.pace.try_take(since, ALLOWED_OF_CLUSTER);
        let is_little = of_conn.never_asked_pace.try_take(since, TOLERATED_RATE);
        let fits = of_conn.pace.try_take(since, ALLOWED_OF_CONNECTION) && (of_cluster || is_little);
        if code == Code::OverLimit {
            cluster.status.last = Some((peer.node.clone(), now, code));
        }
        let consequence = match &mut of_conn.since_asked {
            None if fits => return MisuseConsequence::Nothing,
            None => {
                of_conn.since_asked = Some(0);
                cluster.status.asked += 1;
                MisuseConsequence::StayAway
            }
            Some(streams) => {
                *streams += 1;
                if *streams < MAX_STREAMS_AFTER_REQUEST {
                    return MisuseConsequence::Nothing;
                }
                cluster.status.closed += 1;
                *streams = 0;
                MisuseConsequence::Close
            }
        };
        cluster.away.retain(|_, until| *until > now);
        if cluster.away.len() < MAX_REMEMBERED || cluster.away.contains_key(&peer.node) {
            cluster.away.insert(peer.node.clone(), now + STAY_AWAY_DELAY);
        }
        cluster.status.last = Some((peer.node.clone(), now, code));
        consequence
    }

    /// Adds pieces that cannot be put together. True if the cluster has sent more than is allowed.
    pub(super) fn add_pieces(
        &self,
        cluster: &ClusterName,
        pieces: u64,
        allowed: RateLimit,
    ) -> bool {
        self.0.lock().entry(cluster.clone()).or_default().pieces.add(pieces, allowed)
    }

    /// Records that a connection is ended for such pieces; its cluster's new ones may be refused for a while. True if
    /// that is to be logged.
    pub(super) fn record_pieces(&self, node: &NodeKey) -> bool {
        let is_logged = self.record_closed(node);
        if let Some(cluster) = self.0.lock().get_mut(&node.cluster) {
            cluster.barred_until = Some(Instant::now() + cluster.piece_offences.add());
        }
        is_logged
    }

    /// Records that a node sends more of something than it may, which is taken in later.
    pub(super) fn record_excess(&self, node: &NodeKey) {
        let mut table = self.0.lock();
        let cluster = table.entry(node.cluster.clone()).or_default();
        cluster.status.last = Some((node.node.clone(), Instant::now(), Code::OverLimit));
    }

    /// Records that a connection is ended because its peer breaks the protocol. True if that is to be logged.
    pub(super) fn record_closed(&self, node: &NodeKey) -> bool {
        let now = Instant::now();
        let mut table = self.0.lock();
        let cluster = table.entry(node.cluster.clone()).or_default();
        let since = now - *cluster.began.get_or_insert(now);
        cluster.status.closed += 1;
        cluster.status.last = Some((node.node.clone(), now, Code::ProtocolError));
        cluster.lines.try_take(since, ALLOWED_LINES)
    }

    /// Refuses a node that dials although it was asked to stay away, or whose cluster's nodes are not let in for a
    /// while.
    ///
    /// # Errors
    /// [`Code::OverLimit`].
    pub(super) fn admit(&self, cluster: &ClusterName, node: &NodeName) -> Result<(), PeerRefusal> {
        let table = self.0.lock();
        let barred = table.get(cluster).and_then(|c| c.barred_until);
        if barred.is_some_and(|until| until > Instant::now()) {
            let reason = format!(
                "nodes of {cluster} sent too many pieces of streams that cannot be put together, or frames beside \
                 them; none may dial for a while"
            );
            return Err(PeerRefusal { code: Code::OverLimit, reason });
        }
        let until = table.get(cluster).and_then(|c| c.away.get(node)).copied();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        match left.filter(|left| !left.is_zero()) {
            None => Ok(()),
            Some(left) => Err(PeerRefusal {
                code: Code::OverLimit,
                reason: format!(
                    "node {node} of {cluster} opened too many streams in vain and was asked to stay away; \
                     it may dial again in {} s",
                    left.as_secs() + 1
                ),
            }),
        }
    }

    /// Records that a connection with a node was refused; true if that is to be logged.
    pub(super) fn record_refused(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
        code: Code,
    ) -> bool {
        let now = Instant::now();
        let mut table = self.0.lock();
        let cluster = table.entry(cluster.clone()).or_default();
        let since = now - *cluster.began.get_or_insert(now);
        if code == Code::OverLimit {
            cluster.status.refused += 1;
            cluster.status.last = Some((node.clone(), now, code));
        }
        cluster.lines.try_take(since, ALLOWED_LINES)
    }

    /// True if a cluster's nodes may subscribe to state once more: each subscription costs a whole view.
    pub(super) fn may_subscribe(&self, cluster: &ClusterName) -> bool {
        let now = Instant::now();
        let mut table = self.0.lock();
        let cluster = table.entry(cluster.clone()).or_default();
        let since = now - *cluster.began.get_or_insert(now);
        cluster.subscriptions.try_take(since, ALLOWED_SUBSCRIPTIONS)
    }

    /// True if the successor of one more process of a cluster's nodes may be dialled.
    pub(super) fn may_meet_successor(&self, cluster: &ClusterName) -> bool {
        let now = Instant::now();
        let mut table = self.0.lock();
        let cluster = table.entry(cluster.clone()).or_default();
        let since = now - *cluster.began.get_or_insert(now);
        cluster.successors.try_take(since, ALLOWED_SUCCESSORS)
    }

    /// The status of a cluster's streams in vain.
    pub(super) fn status(&self, cluster: &ClusterName) -> MisuseStatus {
        self.0.lock().get(cluster).map(|c| c.status.clone()).unwrap_or_default()
    }

    /// Forgets all but the clusters that `keep` wants.
    pub(super) fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.0.lock().retain(|cluster, _| keep(cluster));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::peer::BootId;

    fn peer(cluster: &str, node: &str) -> PeerInfo {
        PeerInfo {
            cluster: cluster.parse().unwrap(),
            node: node.parse().unwrap(),
            id: format!("spiffe://{cluster}.example/adit/node/{node}").parse().unwrap(),
            boot: BootId([0; 16]),
            class: adit_core::snapshot::Class::Interactive,
            dialled: false,
            slot: 0,
            capabilities: 0,
            stream_window: 0,
            remote: "192.0.2.1:7843".parse().unwrap(),
        }
    }

    /// The consequences of so many streams in vain on one connection.
    fn flood(table: &MisuseTable, peer: &PeerInfo, streams: u32) -> Vec<MisuseConsequence> {
        let mut of_conn = ConnectionMisuse::default();
        let each = (0..streams).map(|_| table.record(peer, &mut of_conn, Code::Denied));
        each.filter(|c| *c != MisuseConsequence::Nothing).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_asked_to_stay_away_and_closed_if_it_goes_on() {
        let (table, bank) = (MisuseTable::default(), peer("bank", "b1"));
        let burst = ALLOWED_OF_CONNECTION.burst;
        assert_eq!(flood(&table, &bank, burst), [], "a burst passes");
        assert_eq!(flood(&table, &bank, burst + 1), [MisuseConsequence::StayAway]);
        assert_eq!(
            flood(&table, &bank, burst + 1 + MAX_STREAMS_AFTER_REQUEST),
            [MisuseConsequence::StayAway, MisuseConsequence::Close]
        );
        let refused = table.admit(&bank.cluster, &bank.node).unwrap_err();
        assert_eq!(refused.code, Code::OverLimit);
        assert!(refused.reason.contains("node b1 of bank"), "{}", refused.reason);
        assert_eq!(table.admit(&bank.cluster, &"b2".parse().unwrap()), Ok(()));
        advance(STAY_AWAY_DELAY).await;
        assert_eq!(table.admit(&bank.cluster, &bank.node), Ok(()));
        let status = table.status(&bank.cluster);
        assert_eq!((status.asked, status.closed), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn many_connections_of_one_cluster_share_an_allowance_and_another_has_its_own() {
        let table = MisuseTable::default();
        let nodes: Vec<_> = (0..20).map(|n| peer("bank", &format!("b{n}"))).collect();
        let asked: usize =
            nodes.iter().map(|n| flood(&table, n, ALLOWED_OF_CONNECTION.burst).len()).sum();
        assert!(asked >= 15, "{asked} of 20 were asked");
        assert_eq!(flood(&table, &peer("shop", "s1"), ALLOWED_OF_CONNECTION.burst), []);
    }

    #[tokio::test(start_paused = true)]
    async fn invented_names_take_no_memory() {
        let table = MisuseTable::default();
        for n in 0..1000 {
            flood(&table, &peer("bank", &format!("b{n}")), 100);
        }
        let bank = &table.0.lock()[&"bank".parse().unwrap()];
        assert!(bank.away.len() <= MAX_REMEMBERED, "{} names", bank.away.len());
        assert_eq!(bank.status.streams, 100_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_subscribes_as_often_as_its_nodes_need_and_another_has_its_own_pace() {
        let table = MisuseTable::default();
        let (bank, shop) = (peer("bank", "b1").cluster, peer("shop", "s1").cluster);
        let subscribed = |of| (0..5000).filter(|_| table.may_subscribe(of)).count();
        assert_eq!(subscribed(&bank), ALLOWED_SUBSCRIPTIONS.burst as usize);
        assert_eq!(subscribed(&shop), ALLOWED_SUBSCRIPTIONS.burst as usize);
        advance(Duration::from_secs(1)).await;
        assert_eq!(subscribed(&bank), ALLOWED_SUBSCRIPTIONS.per_second as usize);
    }
}
