//! The status of links, as plain values to show.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeKey, NodeName};
use adit_core::routing::connections::Unusable;
use adit_core::routing::{hubs, is_hub_for};
use adit_core::snapshot::{Link, Seed, Snapshot};
use adit_core::spiffe::TrustDomain;
use adit_core::wire::state::Omissions;

use super::certificate_refusal::refusal_code;
use super::connections::Disconnect;
use super::connections::PeerConnection;
use super::dialer::DialRecord;
use super::duplicate_record::OwnDuplicate;
use super::inner::LinksInner;
use super::misuse::MisuseStatus;
use super::state::views::ReceivedView;
use crate::budget::BufferCharges;
use crate::endpoint::ConnectionStats;
use crate::peer::{BootId, PeerInfo};

/// All links, and the connections within our own cluster.
#[derive(Debug, Clone)]
pub struct LinksStatus {
    /// The linked clusters, in order of name.
    pub links: Vec<LinkStatus>,
    /// Connections with siblings.
    pub siblings: Vec<ConnectionStatus>,
    /// Siblings whose name two processes use by turns, with their boot IDs.
    pub alternating_siblings: AlternatingNodes,
    /// Siblings whose name several processes have beside each other.
    pub coexisting_siblings: CoexistingNodes,
    /// Another living process that has this one's name, as siblings report.
    pub own_duplicate: Option<OwnDuplicate>,
}

/// Nodes whose name two processes use by turns, with their boot IDs.
pub type AlternatingNodes = BTreeMap<NodeName, [BootId; 2]>;

/// Nodes whose name several living processes have, with their boot IDs, the one that came last first.
pub type CoexistingNodes = BTreeMap<NodeName, Vec<BootId>>;

/// The state of a link: whether it can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// The view of the cluster is fresh, and nothing is missing.
    Up,
    /// In use, but something is missing; the reason says what.
    Degraded,
    /// Nothing can be sent.
    Down,
}

/// The status of one link.
#[derive(Debug, Clone)]
pub struct LinkStatus {
    /// The other cluster.
    pub cluster: ClusterName,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Addresses at which dialling begins.
    pub seeds: Vec<Seed>,
    /// Its state.
    pub state: LinkState,
    /// The reason why it is not up.
    pub reason: Option<(Code, String)>,
    /// True if this node is one of its cluster's hubs for it.
    pub hub: bool,
    /// The record of dialling it.
    pub dials: DialRecord,
    /// The way the last handshake that its nodes began failed, if that is not long ago: see
    /// [`super::handshake_faults`].
    pub fault: Option<(Code, String)>,
    /// The cluster's latest view.
    pub view: Option<ReceivedView>,
    /// The records of ours that are not sent to it, because they do not fit.
    pub omitted: Arc<Omissions>,
    /// The cluster's hubs for us, as far as known.
    pub peer_hubs: Vec<NodeName>,
    /// A hub that it announces at an address of ours, and the address: nobody dials it there.
    pub misplaced_hub: Option<(NodeName, SocketAddr)>,
    /// Its nodes whose name two processes use by turns.
    pub alternating: AlternatingNodes,
    /// Its nodes whose name several processes have beside each other.
    pub coexisting: CoexistingNodes,
    /// Connections with its nodes, oldest first.
    pub connections: Vec<ConnectionStatus>,
    /// The streams that its nodes opened in vain.
    pub misuse: MisuseStatus,
    /// The bytes that it may have this node hold at present.
    pub buffers: BufferCharges,
    /// The most that its stalled streams may have this node hold, in bytes.
    pub stalled_limit: usize,
}

/// The status of one connection.
#[derive(Debug, Clone)]
pub struct ConnectionStatus {
    /// The peer, and which connection it is.
    pub peer: PeerInfo,
    /// Our worker that drives it.
    pub worker: usize,
    /// The peer's present address.
    pub remote: SocketAddr,
    /// Time since it was made.
    pub age: Duration,
    /// Data streams that it carries, both ways.
    pub streams: usize,
    /// True if it is kept for its own sake.
    pub standing: bool,
    /// The reason why it takes no new streams; `None` if it does.
    pub unusable: Option<Unusable>,
    /// The state of the path.
    pub stats: ConnectionStats,
}

impl LinksInner {
    pub(super) fn status(&self) -> LinksStatus {
        let snapshot = self.snapshot();
        let mut by_cluster: BTreeMap<ClusterName, Vec<ConnectionStatus>> = BTreeMap::new();
        for (conn, unusable) in self.connections.all() {
            self.peers.metrics.count_packets(&conn.peer.cluster, &conn.counted, &conn.quic.stats());
            by_cluster
                .entry(conn.peer.cluster.clone())
                .or_default()
                .push(connection_status(&conn, unusable));
        }
        let siblings = by_cluster.remove(&snapshot.local.cluster).unwrap_or_default();
        let mut coexisting: BTreeMap<ClusterName, CoexistingNodes> = BTreeMap::new();
        for (key, boots) in self.coexisting_processes() {
            coexisting.entry(key.cluster).or_default().insert(key.node, boots);
        }
        let coexisting_siblings = coexisting.remove(&snapshot.local.cluster).unwrap_or_default();
        let links = snapshot.links.values().map(|link| {
            let connections = by_cluster.remove(&link.cluster).unwrap_or_default();
            let coexisting = coexisting.remove(&link.cluster).unwrap_or_default();
            self.link_status(&snapshot, link, connections, coexisting)
        });
        LinksStatus {
            links: links.collect(),
            alternating_siblings: self.connections.boots.all(&snapshot.local.cluster),
            coexisting_siblings,
            siblings,
            own_duplicate: self.own_duplicate(),
        }
    }

    fn link_status(
        &self,
        snapshot: &Snapshot,
        link: &Link,
        connections: Vec<ConnectionStatus>,
        coexisting: CoexistingNodes,
    ) -> LinkStatus {
        let view = self.knowledge.views.get(&link.cluster);
        let nodes = view.iter().flat_map(|v| v.view.nodes.keys());
        let peer_hubs: Vec<NodeName> =
            hubs(nodes, &snapshot.local.cluster).into_iter().cloned().collect();
        let announced = |node: &NodeName| view.as_ref().and_then(|v| v.view.nodes.get(node));
        // Two nodes with sixteen addresses at most: each check searches everything that is ours.
        let misplaced = peer_hubs.iter().find_map(|node| {
            let is_ours = |address: &&SocketAddr| snapshot.is_own_address(address.ip());
            Some((node.clone(), *announced(node)?.iter().find(is_ours)?))
        });
        let mut status = LinkStatus {
            cluster: link.cluster.clone(),
            trust_domain: link.trust_domain.clone(),
            seeds: link.seeds.clone(),
            state: LinkState::Up,
            reason: None,
            hub: is_hub_for(snapshot, &link.cluster),
            dials: self.dialer.history.record_of(&link.cluster),
            fault: self.peers.handshake_faults.last(&link.cluster).map(|(code, fault)| {
                (refusal_code(code, &fault.why), fault.sentence(code, &link.cluster))
            }),
            view,
            omitted: self.knowledge.publishers.omissions_for(&link.cluster),
            peer_hubs,
            misplaced_hub: misplaced,
            alternating: self.connections.boots.all(&link.cluster),
            coexisting,
            connections,
            misuse: self.peers.misuse.status(&link.cluster),
            buffers: self.peers.budget.charges_of(&link.cluster),
            stalled_limit: self.context.settings.buffers.peer,
        };
        if let Some((state, code, reason)) = self.health_problem(&status) {
            (status.state, status.reason) = (state, Some((code, reason)));
        }
        status
    }

    /// The problem of a link, if it has one.
    fn health_problem(&self, link: &LinkStatus) -> Option<(LinkState, Code, String)> {
        // Whoever goes away lets its links go: that is no fault of theirs.
        if self.runtime.shutdown.draining.is_cancelled() {
            let text = "this node is going away".to_owned();
            return Some((LinkState::Degraded, Code::Draining, text));
        }
        if let Some(failure) =
            self.why_unreachable(&link.cluster).or_else(|| self.why_cut_off(link))
        {
            return Some((LinkState::Down, failure.code, failure.text));
        }
        let usable = |c: &&ConnectionStatus| c.unusable.is_none();
        let connected =
            |n: &NodeName| link.connections.iter().filter(usable).any(|c| c.peer.node == *n);
        let Some(view) = &link.view else {
            let text = format!("nothing is known of {} yet", link.cluster);
            return Some((LinkState::Down, Code::LinkDown, text));
        };
        if view.is_stale() {
            let age = view.age().as_secs();
            let text = format!("what is known of {} is {age} s old", link.cluster);
            return Some((LinkState::Degraded, Code::LinkDown, text));
        }
        let missing = link.peer_hubs.iter().find(|n| !connected(n))?;
        if !link.hub {
            return None;
        }
        let loss = self.connections.disconnects.get(&NodeKey::new(&link.cluster, missing));
        let leaves = loss.as_ref().is_some_and(Disconnect::is_leaving);
        let why = link.dials.explanation(loss.map(|loss| (loss.at, loss.to_string())));
        let why = why.unwrap_or_else(|| "it was not dialled yet".to_owned());
        let mut text = format!("hub {missing} of {} is not connected: {why}", link.cluster);
        let code = match (link.fault.as_ref(), link.dials.last_code) {
            (Some((code, sentence)), _) => {
                text = format!("{text}; {sentence}");
                *code
            }
            (None, Some(code @ (Code::CertificateRefused | Code::RefusedByPeer)))
                if link.dials.failures > 0 =>
            {
                code
            }
            (None, _) if leaves => Code::Draining,
            (None, _) => Code::LinkDown,
        };
        Some((LinkState::Degraded, code, text))
    }
}

fn connection_status(conn: &PeerConnection, unusable: Option<Unusable>) -> ConnectionStatus {
    let usage = conn.usage_counts();
    ConnectionStatus {
        peer: PeerInfo::clone(&conn.peer),
        worker: conn.quic.worker().index(),
        remote: conn.quic.remote(),
        age: conn.connected_at.elapsed(),
        streams: usage.streams,
        standing: usage.standing,
        unusable,
        stats: conn.quic.stats(),
    }
}
