//! Dials nodes and clusters: decides which addresses, gives them to the dialler, and puts the connection that
//! it gives to use.
//!
//! When to dial is decided by whoever opens a stream, and by the reconciler.

use std::net::SocketAddr;
use std::sync::Arc;

use adit_core::admission::PeerRefusal;
use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeKey, NodeName};
use adit_core::routing::interleave_families;
use adit_core::routing::{dialable_addresses, is_dialable};
use adit_core::snapshot::Class;
use adit_core::spiffe::TrustDomain;

use super::connections::PeerConnection;
use super::dialer::{
    AddressFailure, DialFailure, DialKey, DialLeader, DialRole, DialTarget, MAX_ADDRESSES,
    PendingDial,
};
use super::inner::LinksInner;
use super::{handshake, session};
use crate::endpoint::QuicConnection;

impl LinksInner {
    /// The addresses at which a node can be dialled; none if it is not for us to dial.
    pub(super) fn addresses_of(&self, key: &NodeKey) -> Vec<SocketAddr> {
        let NodeKey { cluster, node } = key;
        let snapshot = self.snapshot();
        if *cluster == snapshot.local.cluster {
            return snapshot.siblings.get(node).cloned().unwrap_or_default();
        }
        let Some(link) = snapshot.links.get(cluster).filter(|link| !link.seeds.is_empty()) else {
            return Vec::new();
        };
        let view = self.knowledge.views.get(cluster);
        let announced = view.as_ref().and_then(|v| v.view.nodes.get(node));
        let mut addresses =
            announced.map(|a| dialable_addresses(a, &link.seeds)).unwrap_or_default();
        addresses.retain(|address| !snapshot.is_own_address(address.ip()));
        addresses
    }

    /// The first of these nodes that can be dialled, has not asked for a pause, and was not found dead moments
    /// ago.
    pub(super) fn first_dialable<'a>(
        &self,
        cluster: &ClusterName,
        nodes: &[&'a NodeName],
    ) -> Option<&'a NodeName> {
        if nodes.is_empty() {
            return None;
        }
        let snapshot = self.snapshot();
        let link = snapshot.links.get(cluster).filter(|link| !link.seeds.is_empty());
        let view = self.knowledge.views.get(cluster);
        let has_address = |node: &NodeName| {
            if *cluster == snapshot.local.cluster {
                return snapshot.siblings.get(node).is_some_and(|a| !a.is_empty());
            }
            let announced = view.as_ref().and_then(|v| v.view.nodes.get(node));
            link.zip(announced).is_some_and(|(link, a)| is_dialable(a, &link.seeds))
        };
        let history = &self.dialer.history;
        let may_be = |node: &&&NodeName| {
            let key = NodeKey::new(cluster, node);
            has_address(node)
                && history.backing_off_until(&key).is_none()
                && history.recent_failure(&key).is_none()
        };
        nodes.iter().find(may_be).copied()
    }

    /// True if dialling a node is worth a try: it can be dialled, has not asked for a pause, and was not found
    /// dead moments ago.
    pub(super) fn may_dial(&self, key: &NodeKey) -> bool {
        self.first_dialable(&key.cluster, &[&key.node]).is_some()
    }

    /// Starts the dial of a node, or joins the one that is under way. A failure is remembered.
    pub(super) fn start_or_join_dial(self: &Arc<Self>, key: &DialKey) -> PendingDial {
        match self.dialer.in_flight.start_or_join(key) {
            DialRole::Follower(pending) => pending,
            DialRole::Leader(leader, pending) => {
                let worker = self.endpoints.workers()[key.worker].handle().clone();
                self.runtime.tasks.spawn_on(Arc::clone(self).run_dial(leader), &worker);
                pending
            }
        }
    }

    /// The slot for a further connection; `None` if the worker has enough with the node.
    pub(super) fn free_slot(&self, DialKey { node, class, worker }: &DialKey) -> Option<u64> {
        let limit = self.context.settings.parallel_connections;
        let worker = (*worker, self.endpoints.workers().len());
        self.connections.free_slot(node, *class, worker, limit)
    }

    async fn run_dial(self: Arc<Self>, leader: DialLeader) {
        let DialKey { node: key, class, worker } = &leader.key;
        let Some(slot) = self.free_slot(&leader.key) else {
            // That there are enough connections is no fault of the node's: not remembered.
            let limit = self.context.settings.parallel_connections;
            let text = format!("there are {limit} connections with node {} already", key.node);
            return leader.complete(Err(DialFailure::new(Code::OverLimit, text)));
        };
        let target = DialTarget {
            cluster: &key.cluster,
            node: Some(&key.node),
            trust_domain: self.trust_domain(&key.cluster),
            class: *class,
            worker: *worker,
            slot,
        };
        let addresses = interleave_families(&self.addresses_of(key));
        let establish = |quic| self.establish(&target, quic);
        let result = self.dialer.attempt(&target, addresses, Vec::new(), establish).await;
        match &result {
            Ok(_) => self.dialer.history.forget_failure(key),
            Err(failure) => {
                let is_announced = self.is_announced(key);
                self.dialer.history.record_failure(key, is_announced, failure.clone());
            }
        }
        leader.complete(result.map(drop));
    }

    /// Dials a cluster from worker 0, by its seeds and then by whatever else is known of it: any of its
    /// nodes will do. When this fails the cluster cannot be reached.
    pub(super) async fn dial_seeds(
        self: &Arc<Self>,
        cluster: &ClusterName,
    ) -> Result<Arc<PeerConnection>, DialFailure> {
        let mut failures = Vec::new();
        let addresses = self.addresses_of_cluster(cluster, &mut failures).await;
        let target = DialTarget {
            cluster,
            node: None,
            trust_domain: self.trust_domain(cluster),
            class: Class::Interactive,
            worker: 0,
            slot: 0,
        };
        let establish = |quic| self.establish(&target, quic);
        let result = self.dialer.attempt(&target, addresses, failures, establish).await;
        self.dialer.history.set_unreachable(cluster, result.is_err());
        result
    }

    /// The addresses of a cluster's seeds, and then those that it announces.
    async fn addresses_of_cluster(
        &self,
        cluster: &ClusterName,
        failures: &mut Vec<AddressFailure>,
    ) -> Vec<SocketAddr> {
        let snapshot = self.snapshot();
        let seeds = snapshot.links.get(cluster).map(|link| link.seeds.clone()).unwrap_or_default();
        let view = self.knowledge.views.get(cluster);
        let announced = view.iter().flat_map(|v| v.view.nodes.values());
        let mut known = announced.flat_map(|a| dialable_addresses(a, &seeds)).collect::<Vec<_>>();
        let mut addresses = self.dialer.resolve(&seeds, failures).await;
        // Many nodes lose a peer at once; they need not all come back by the same address.
        for group in [&mut addresses, &mut known] {
            if let Some(start) = (self.context.random)().checked_rem(group.len() as u64) {
                group.rotate_left(usize::try_from(start).unwrap_or_default());
            }
        }
        let mut addresses = interleave_families(&addresses);
        known.retain(|address| !addresses.contains(address));
        // Only so many are tried, and each check costs.
        let some = interleave_families(&known).into_iter().take(4 * MAX_ADDRESSES);
        addresses.extend(
            some.filter(|address| !snapshot.is_own_address(address.ip())).take(MAX_ADDRESSES),
        );
        // A node that asked for a pause is given it, but the others may serve.
        let backing_off = self.dialer.history.backing_off(cluster);
        let of = |node: &NodeName| view.as_ref().and_then(|v| v.view.nodes.get(node));
        let is_backing_off = |address: &SocketAddr| {
            let mut all = backing_off.iter();
            all.any(|(n, at, _)| at == address || of(n).is_some_and(|a| a.contains(address)))
        };
        addresses.retain(|address| !is_backing_off(address));
        addresses
    }

    /// Puts a connection that was dialled to use, if its peer is the one that is wanted.
    async fn establish(
        self: &Arc<Self>,
        target: &DialTarget<'_>,
        quic: QuicConnection,
    ) -> Result<Arc<PeerConnection>, DialFailure> {
        let refused = |PeerRefusal { code, reason }: PeerRefusal| {
            // In TLS 1.3 the dialler is done before the other side has looked at its certificate.
            let closed = quic.is_closed();
            if let Some(failure) = closed.as_ref().and_then(DialFailure::of_certificate) {
                return failure;
            }
            quic.close(code, &reason);
            DialFailure::new(code, reason)
        };
        let permit = self.acquire_permit(&quic).map_err(refused)?;
        let start = |handshake: handshake::HelloExchange| {
            let node = &handshake.peer.node;
            if target.node.is_some_and(|wanted| wanted != node) {
                let reason = format!("node {node} answered");
                return Err(PeerRefusal { code: Code::IdentityMismatch, reason });
            }
            session::start(self, quic.clone(), handshake, permit)
        };
        let snapshot = self.snapshot();
        let exchanged = handshake::initiate(&quic, &self.context, &snapshot, target.slot).await;
        exchanged.and_then(start).map_err(refused)
    }

    /// The trust domain that the certificate of a node of `cluster` must have; `None` if the link is gone.
    fn trust_domain(&self, cluster: &ClusterName) -> Option<TrustDomain> {
        let snapshot = self.snapshot();
        if *cluster == snapshot.local.cluster {
            return Some(snapshot.local.trust_domain.clone());
        }
        snapshot.links.get(cluster).map(|link| link.trust_domain.clone())
    }
}
