//! How links are doing, as plain values to show.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::choose::connections::Passed;
use adit_core::choose::{hubs, links};
use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::{Link, Seed, Snapshot};
use adit_core::spiffe::TrustDomain;
use adit_core::wire::state::Omissions;

use super::conn::Conn;
use super::dials::DialRecord;
use super::doubled::OwnDouble;
use super::faults::code_of;
use super::losses::Loss;
use super::misuse::MisuseStatus;
use super::shared::Shared;
use super::views::LinkView;
use crate::budget::Charges;
use crate::endpoint::Stats;
use crate::peer::{BootId, PeerInfo};

/// All links, and the connections within our own cluster.
#[derive(Debug, Clone)]
pub struct Status {
    /// One for each linked cluster, in order of name.
    pub links: Vec<LinkStatus>,
    /// Connections with siblings.
    pub siblings: Vec<ConnectionStatus>,
    /// Siblings whose name two processes have that take turns, with their boot IDs.
    pub alternating_siblings: Alternating,
    /// Another living process that has this one's name, as siblings say.
    pub own_double: Option<OwnDouble>,
}

/// Nodes whose name two processes have that take turns, with their boot IDs.
pub type Alternating = BTreeMap<NodeName, [BootId; 2]>;

/// Whether a link can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// What is known of the cluster is fresh, and nothing is missing.
    Up,
    /// In use, but something is missing; the reason says what.
    Degraded,
    /// Nothing can be sent.
    Down,
}

/// One link.
#[derive(Debug, Clone)]
pub struct LinkStatus {
    /// The other cluster.
    pub cluster: ClusterName,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Where dialling begins.
    pub seeds: Vec<Seed>,
    /// Whether it can be used.
    pub state: LinkState,
    /// Why it is not up.
    pub reason: Option<(Code, String)>,
    /// Whether this node is one of its cluster's hubs for it.
    pub hub: bool,
    /// How dialling goes.
    pub dials: DialRecord,
    /// How the last handshake failed that its nodes began, where that is not long ago: see [`super::faults`].
    pub fault: Option<(Code, String)>,
    /// What the cluster last said of itself.
    pub view: Option<LinkView>,
    /// What of ours it is not told, because it does not fit.
    pub untold: Arc<Omissions>,
    /// The cluster's hubs for us, as far as known.
    pub peer_hubs: Vec<NodeName>,
    /// One of those that it announces at an address of ours, and which: nobody dials it there.
    pub misplaced: Option<(NodeName, SocketAddr)>,
    /// Its nodes whose name two processes have that take turns.
    pub alternating: Alternating,
    /// Connections with its nodes, oldest first.
    pub connections: Vec<ConnectionStatus>,
    /// What its nodes opened in vain.
    pub misuse: MisuseStatus,
    /// What it may have this node hold at present, in bytes.
    pub buffers: Charges,
}

/// One connection.
#[derive(Debug, Clone)]
pub struct ConnectionStatus {
    /// Who is there, and which connection it is.
    pub peer: PeerInfo,
    /// Our worker that drives it.
    pub worker: usize,
    /// Where the peer is now.
    pub remote: SocketAddr,
    /// How long it has existed.
    pub age: Duration,
    /// Data streams that it carries, both ways.
    pub streams: usize,
    /// Whether it is kept for its own sake.
    pub standing: bool,
    /// Why it takes no new streams, if it does not.
    pub passed: Option<Passed>,
    /// How the path is doing.
    pub stats: Stats,
}

impl Shared {
    pub(super) fn status(&self) -> Status {
        let now = self.now();
        let mut by_cluster: BTreeMap<ClusterName, Vec<ConnectionStatus>> = BTreeMap::new();
        for (conn, passed) in self.register.all() {
            by_cluster
                .entry(conn.peer.cluster.clone())
                .or_default()
                .push(connection(&conn, passed));
        }
        let siblings = by_cluster.remove(&now.this.cluster).unwrap_or_default();
        let links = now.links.values().map(|link| {
            let connections = by_cluster.remove(&link.cluster).unwrap_or_default();
            self.link_status(&now, link, connections)
        });
        Status {
            links: links.collect(),
            alternating_siblings: self.register.boots.all(&now.this.cluster),
            siblings,
            own_double: self.own_double(),
        }
    }

    fn link_status(
        &self,
        now: &Snapshot,
        link: &Link,
        connections: Vec<ConnectionStatus>,
    ) -> LinkStatus {
        let view = self.known.views.get(&link.cluster);
        let nodes = view.iter().flat_map(|v| v.view.nodes.keys());
        let peer_hubs: Vec<NodeName> =
            hubs(nodes, &now.this.cluster).into_iter().cloned().collect();
        let announced = |node: &NodeName| view.as_ref().and_then(|v| v.view.nodes.get(node));
        // Two nodes with sixteen addresses at most: each look is one at everything that is ours.
        let misplaced = peer_hubs.iter().find_map(|node| {
            let is_ours = |address: &&SocketAddr| now.is_inside(address.ip());
            Some((node.clone(), *announced(node)?.iter().find(is_ours)?))
        });
        let mut status = LinkStatus {
            cluster: link.cluster.clone(),
            trust_domain: link.trust_domain.clone(),
            seeds: link.seeds.clone(),
            state: LinkState::Up,
            reason: None,
            hub: links::is_hub(now, &link.cluster),
            dials: self.work.dials.record(&link.cluster),
            fault: self.work.faults.last(&link.cluster).map(|(code, fault)| {
                (code_of(code, &fault.why), fault.sentence(code, &link.cluster))
            }),
            view,
            untold: self.known.feeds.omitted(&link.cluster),
            peer_hubs,
            misplaced,
            alternating: self.register.boots.all(&link.cluster),
            connections,
            misuse: self.work.misuse.status(&link.cluster),
            buffers: self.work.budget.charges_of(&link.cluster),
        };
        if let Some((state, code, reason)) = self.complaint(&status) {
            (status.state, status.reason) = (state, Some((code, reason)));
        }
        status
    }

    /// What is wrong with a link.
    fn complaint(&self, link: &LinkStatus) -> Option<(LinkState, Code, String)> {
        // Whoever goes away lets its links go: that is no fault of theirs.
        if self.work.stages.draining.is_cancelled() {
            let text = "this node is going away".to_owned();
            return Some((LinkState::Degraded, Code::Draining, text));
        }
        if let Some(failure) = self.unreachable(&link.cluster).or_else(|| self.cut_off(link)) {
            return Some((LinkState::Down, failure.code, failure.text));
        }
        let usable = |c: &&ConnectionStatus| c.passed.is_none();
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
        let loss = self.register.losses.of(&(link.cluster.clone(), missing.clone()));
        let leaves = loss.as_ref().is_some_and(Loss::is_leaving);
        let why = link.dials.why(loss.map(|loss| (loss.at, loss.to_string())));
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

fn connection(conn: &Conn, passed: Option<Passed>) -> ConnectionStatus {
    let doing = conn.doing();
    ConnectionStatus {
        peer: PeerInfo::clone(&conn.peer),
        worker: conn.quic.worker().index(),
        remote: conn.quic.remote(),
        age: conn.since.elapsed(),
        streams: doing.streams,
        standing: doing.standing,
        passed,
        stats: conn.quic.stats(),
    }
}
