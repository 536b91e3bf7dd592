//! Links in the status document, made from what the transport says of them.

use std::collections::BTreeMap;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::NodeName;
use adit_core::routing::connections::Unusable;
use adit_core::wire::state::Omissions;
use adit_transport::budget::BufferCharges;
use adit_transport::links::{
    AlternatingNodes, CoexistingNodes, ConnectionStatus, LinkState, LinkStatus, LinksStatus,
    MisuseStatus,
};
use tokio::time::Instant;

use crate::status::{
    self, ConnectionReport, DialSummary, LastMisuse, Link, MisuseReport, OmittedItems, PeerNode,
    Reason, ViewSource,
};

/// The status of a link.
pub(super) fn link(from: &LinkStatus) -> Link {
    let known = from.view.iter().flat_map(|received| &received.view.nodes);
    let mut nodes: BTreeMap<&NodeName, PeerNode> = known
        .map(|(node, a)| (node, PeerNode { addresses: strings(a), ..PeerNode::default() }))
        .collect();
    add_connections(&mut nodes, &from.connections);
    add_alternating(&mut nodes, &from.alternating);
    add_coexisting(&mut nodes, &from.coexisting);
    for hub in &from.peer_hubs {
        nodes.entry(hub).or_default().hub = true;
    }
    Link {
        cluster: from.cluster.to_string(),
        trust_domain: from.trust_domain.to_string(),
        state: match from.state {
            LinkState::Up => status::LinkHealth::Up,
            LinkState::Degraded => status::LinkHealth::Degraded,
            LinkState::Down => status::LinkHealth::Down,
        },
        reason: from.reason.as_ref().map(|(code, sentence)| Reason::new(*code, sentence)),
        seeds: strings(&from.seeds),
        view: from.view.as_ref().map(|received| ViewSource {
            hub: format!("{}/{}", received.source.cluster, received.source.node),
            epoch: received.position.0,
            sequence: received.position.1,
            age_seconds: received.age().as_secs(),
        }),
        in_vain: misuse_report(&from.misuse),
        held_bytes: (from.buffers.windows + from.buffers.stalled) as u64,
        stalled: stalled(from),
        unheard: from.view.as_ref().and_then(|received| omitted_items(&received.omitted)),
        untold: omitted_items(&from.omitted),
        misplaced: from
            .misplaced_hub
            .as_ref()
            .map(|(node, address)| format!("{node} at {address}")),
        hub: from.hub,
        nodes: into_nodes(nodes),
        failed_handshake: from.fault.as_ref().map(|(code, sentence)| Reason::new(*code, sentence)),
        dials: DialSummary {
            attempts: from.dials.attempts,
            failures: from.dials.failures,
            last_error: from.dials.last_error.clone(),
            next_in_ms: from.dials.next_at.map(|at| {
                let left = at.saturating_duration_since(Instant::now()).as_millis();
                u64::try_from(left).unwrap_or(u64::MAX)
            }),
        },
    }
}

/// From this part of what a cluster's stalled streams may hold they are told of.
const STALLED_PART: usize = 2;

fn stalled(from: &LinkStatus) -> Option<status::StalledStreams> {
    let BufferCharges { stalled, streams, .. } = from.buffers;
    let is_much = stalled >= from.stalled_limit / STALLED_PART && streams > 0;
    is_much.then_some(status::StalledStreams {
        streams: streams as u64,
        bytes: stalled as u64,
        max_bytes: from.stalled_limit as u64,
    })
}

/// For how long a node that was asked to stay away is named.
const NAMED_LIFETIME: Duration = Duration::from_secs(60);

fn misuse_report(misuse: &MisuseStatus) -> MisuseReport {
    let recent = misuse.last.as_ref().filter(|(_, at, _)| at.elapsed() < NAMED_LIFETIME);
    let last = recent.map(|(node, at, code)| LastMisuse {
        node: node.to_string(),
        code: code.to_string(),
        seconds_ago: at.elapsed().as_secs(),
    });
    MisuseReport {
        streams: misuse.streams,
        asked: misuse.asked,
        closed: misuse.closed,
        refused_connections: misuse.refused,
        last,
    }
}

fn omitted_items(omitted: &Omissions) -> Option<OmittedItems> {
    let sentence = || omitted.to_string();
    (!omitted.is_empty()).then(|| OmittedItems { count: omitted.count(), sentence: sentence() })
}

/// The nodes of our own cluster with which there are connections.
pub(super) fn siblings(status: &LinksStatus) -> Vec<PeerNode> {
    let mut nodes = BTreeMap::new();
    add_connections(&mut nodes, &status.siblings);
    add_alternating(&mut nodes, &status.alternating_siblings);
    add_coexisting(&mut nodes, &status.coexisting_siblings);
    into_nodes(nodes)
}

fn add_alternating<'a>(nodes: &mut BTreeMap<&'a NodeName, PeerNode>, all: &'a AlternatingNodes) {
    for (node, boots) in all {
        nodes.entry(node).or_default().alternating = strings(boots);
    }
}

fn add_coexisting<'a>(nodes: &mut BTreeMap<&'a NodeName, PeerNode>, all: &'a CoexistingNodes) {
    for (node, boots) in all {
        nodes.entry(node).or_default().coexisting = strings(boots);
    }
}

fn add_connections<'a>(nodes: &mut BTreeMap<&'a NodeName, PeerNode>, all: &'a [ConnectionStatus]) {
    for one in all {
        nodes.entry(&one.peer.node).or_default().connections.push(connection(one));
    }
}

fn into_nodes(nodes: BTreeMap<&NodeName, PeerNode>) -> Vec<PeerNode> {
    nodes.into_iter().map(|(name, node)| PeerNode { node: name.to_string(), ..node }).collect()
}

fn connection(from: &ConnectionStatus) -> ConnectionReport {
    let stats = &from.stats;
    #[expect(clippy::cast_precision_loss, reason = "a share is wanted, not a count")]
    let loss = if stats.sent == 0 { 0.0 } else { stats.lost as f64 * 100.0 / stats.sent as f64 };
    ConnectionReport {
        direction: if from.peer.dialled { "dialled" } else { "accepted" }.into(),
        lane: from.peer.class.name().into(),
        remote: from.remote.to_string(),
        boot_id: from.peer.boot.to_string(),
        rtt_ms: stats.rtt.as_secs_f64() * 1000.0,
        loss_percent: loss,
        congestion_window: stats.window,
        mtu: stats.mtu,
        age_seconds: from.age.as_secs(),
        streams: from.streams as u64,
        bytes_in: stats.bytes.1,
        bytes_out: stats.bytes.0,
        standing: from.standing,
        closing: from.unusable.map(|passed| {
            Reason::from(match passed {
                Unusable::Draining => Code::Draining,
                Unusable::Silent => Code::ConnectionLost,
                Unusable::OlderBoot => Code::PeerRestarted,
                Unusable::Replaced => Code::Replaced,
            })
        }),
    }
}

fn strings<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use adit_core::name::NodeKey;
    use std::sync::Arc;

    use adit_core::snapshot::{Class, ClusterView};
    use adit_core::wire::state::{Omission, RecordKey};
    use adit_transport::PeerInfo;
    use adit_transport::endpoint::ConnectionStats;
    use adit_transport::links::{DialRecord, ReceivedView};
    use adit_transport::peer::BootId;

    fn connected(node: &str, passed: Option<Unusable>) -> ConnectionStatus {
        let remote = "172.18.2.2:7843".parse().unwrap();
        ConnectionStatus {
            peer: PeerInfo {
                cluster: "bank".parse().unwrap(),
                node: node.parse().unwrap(),
                id: format!("spiffe://bank.example/adit/node/{node}").parse().unwrap(),
                boot: BootId([7; 16]),
                class: Class::Bulk,
                dialled: true,
                slot: 0,
                capabilities: 0,
                stream_window: 0,
                remote,
            },
            worker: 0,
            remote,
            age: Duration::from_secs(5),
            streams: 3,
            standing: true,
            unusable: passed,
            stats: ConnectionStats {
                rtt: Duration::from_micros(1500),
                window: 12_000,
                mtu: 1452,
                sent: 200,
                lost: 1,
                datagrams: (0, 0),
                bytes: (10, 20),
            },
        }
    }

    fn degraded_link() -> LinkStatus {
        let node = |n: &str| -> NodeName { n.parse().unwrap() };
        let view = ClusterView {
            nodes: [(node("b1"), vec!["172.18.2.2:7843".parse().unwrap()]), (node("b2"), vec![])]
                .into(),
            ..ClusterView::default()
        };
        let mut omitted = Omissions::default();
        let bad = RecordKey::Export("a/b".parse().unwrap());
        omitted.add(Some(bad), Omission::Exports);
        let received = ReceivedView {
            view: Arc::new(view),
            omitted: Arc::new(omitted),
            position: (7, 42),
            source: NodeKey::new(&"bank".parse().unwrap(), &node("b1")),
            age: Duration::from_secs(2),
            received: Instant::now(),
            lost: false,
        };
        let next = Some(Instant::now() + Duration::from_millis(250));
        LinkStatus {
            cluster: "bank".parse().unwrap(),
            trust_domain: "bank.example".parse().unwrap(),
            seeds: vec![],
            state: LinkState::Degraded,
            reason: Some((Code::LinkDown, "hub b2 is not connected".into())),
            hub: true,
            fault: None,
            alternating: AlternatingNodes::new(),
            coexisting: CoexistingNodes::new(),
            dials: DialRecord { attempts: 4, next_at: next, ..DialRecord::default() },
            view: Some(received),
            omitted: Arc::default(),
            peer_hubs: vec![node("b1"), node("b2")],
            misplaced_hub: Some((node("b1"), "172.18.1.3:7843".parse().unwrap())),
            misuse: MisuseStatus {
                streams: 3001,
                asked: 1,
                closed: 0,
                refused: 9,
                last: Some((node("b3"), Instant::now(), Code::Denied)),
            },
            buffers: BufferCharges { windows: 100, stalled: 20, streams: 1 },
            stalled_limit: 30,
            connections: vec![connected("b1", None), connected("b3", Some(Unusable::OlderBoot))],
        }
    }

    #[tokio::test(start_paused = true)]
    async fn known_and_connected_nodes_are_one_list() {
        let link = link(&degraded_link());
        let names: Vec<_> =
            link.nodes.iter().map(|n| (n.node.as_str(), n.hub, n.connections.len())).collect();
        assert_eq!(names, [("b1", true, 1), ("b2", true, 0), ("b3", false, 1)]);
        let (first, third) = (&link.nodes[0].connections[0], &link.nodes[2].connections[0]);
        assert_eq!((first.lane.as_str(), first.direction.as_str()), ("bulk", "dialled"));
        assert_eq!((first.rtt_ms, first.loss_percent), (1.5, 0.5));
        assert_eq!((first.bytes_out, first.bytes_in), (10, 20));
        assert_eq!(third.closing.as_ref().unwrap().code, "peer-restarted");
        let view = link.view.unwrap();
        assert_eq!((view.hub.as_str(), view.age_seconds), ("bank/b1", 2));
        assert_eq!(link.dials.next_in_ms, Some(250));
        assert_eq!(link.misplaced.as_deref(), Some("b1 at 172.18.1.3:7843"));
        let last = link.in_vain.last.unwrap();
        assert_eq!((last.node.as_str(), last.code.as_str()), ("b3", "denied"));
        assert_eq!((link.in_vain.streams, link.held_bytes), (3001, 120));
        let stalled = link.stalled.map(|s| (s.streams, s.bytes, s.max_bytes));
        assert_eq!(stalled, Some((1, 20, 30)), "more than half of what they may");
        let (unheard, untold) = (link.unheard.unwrap(), link.untold);
        let text = "export a/b (a view has 10000 exports at most)";
        assert_eq!((unheard.count, unheard.sentence.as_str(), untold), (1, text, None));
    }
}
