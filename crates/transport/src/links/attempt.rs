//! Dials nodes and clusters: names are resolved, addresses raced, hellos exchanged.
//!
//! Owns one attempt. When to make another is [`super::reconcile`]'s and [`super::open`]'s to decide, from
//! what [`super::dial_history`] keeps.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::PeerRefusal;
use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeName};
use adit_core::routing;
use adit_core::routing::links::{dialable_addresses, is_dialable};
use adit_core::snapshot::{Class, Seed};
use adit_core::spiffe::TrustDomain;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::PeerConnection;
use super::dial_history::{
    DialFailure, DialKey, DialLeader, DialRole, NodeKey, PendingDial, REFUSED_HERE_PREFIX,
    REFUSED_THERE_PREFIX,
};
use super::handshake_faults::refusal_code;
use super::shared::LinksInner;
use super::{handshake, session};
use crate::endpoint::{CloseReason, DialError, DialRequest, QuicConnection};

/// While one address does not answer, the next is tried beside it (RFC 8305 §5).
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The time that the resolver has for a name, from when it is asked.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// More addresses than this are not tried in one attempt.
const MAX_ADDRESSES: usize = 32;

/// The target of an attempt.
struct DialTarget<'a> {
    cluster: &'a ClusterName,
    /// Any node of the cluster, if none.
    node: Option<&'a NodeName>,
    class: Class,
    worker: usize,
    slot: u64,
}

/// The address that failed, and how.
type AddressFailure = (String, DialFailure);

impl LinksInner {
    /// The addresses at which a node can be dialled; none if it is not for us to dial.
    pub(super) fn addresses_of(&self, (cluster, node): &NodeKey) -> Vec<SocketAddr> {
        let now = self.snapshot();
        if *cluster == now.local.cluster {
            return now.siblings.get(node).cloned().unwrap_or_default();
        }
        let Some(link) = now.links.get(cluster).filter(|link| !link.seeds.is_empty()) else {
            return Vec::new();
        };
        let view = self.knowledge.views.get(cluster);
        let announced = view.as_ref().and_then(|v| v.view.nodes.get(node));
        let mut addresses =
            announced.map(|a| dialable_addresses(a, &link.seeds)).unwrap_or_default();
        addresses.retain(|address| !now.is_own_address(address.ip()));
        addresses
    }

    /// The first of these nodes that can be dialled, has not asked for a pause, and was not found dead
    /// moments ago.
    pub(super) fn first_dialable<'a>(
        &self,
        cluster: &ClusterName,
        nodes: &[&'a NodeName],
    ) -> Option<&'a NodeName> {
        if nodes.is_empty() {
            return None;
        }
        let now = self.snapshot();
        let link = now.links.get(cluster).filter(|link| !link.seeds.is_empty());
        let view = self.knowledge.views.get(cluster);
        let has_address = |node: &NodeName| {
            if *cluster == now.local.cluster {
                return now.siblings.get(node).is_some_and(|a| !a.is_empty());
            }
            let announced = view.as_ref().and_then(|v| v.view.nodes.get(node));
            link.zip(announced).is_some_and(|(link, a)| is_dialable(a, &link.seeds))
        };
        let may_be = |node: &&&NodeName| {
            let key = (cluster.clone(), NodeName::clone(node));
            has_address(node)
                && self.runtime.dial_history.backing_off_until(&key).is_none()
                && self.runtime.dial_history.recent_failure(&key).is_none()
        };
        nodes.iter().find(may_be).copied()
    }

    /// Joins or begins the dial to a node. A failure is remembered.
    pub(super) fn start_or_join_dial(self: &Arc<Self>, flight: &DialKey) -> PendingDial {
        match self.runtime.dial_history.start_or_join(flight) {
            DialRole::Follower(underway) => underway,
            DialRole::Leader(pilot, underway) => {
                let worker = self.endpoints.workers()[flight.worker].handle().clone();
                self.runtime.tasks.spawn_on(Arc::clone(self).run_dial(pilot), &worker);
                underway
            }
        }
    }

    async fn run_dial(self: Arc<Self>, pilot: DialLeader) {
        let DialKey { node, class: lane, worker } = &pilot.key;
        let workers = self.endpoints.workers().len();
        let limit = self.context.settings.parallel_connections;
        let Some(slot) = self.connections.free_slot(node, *lane, (*worker, workers), limit) else {
            // That there are enough connections is no fault of the node's: not remembered.
            let text = format!("there are {limit} connections with node {} already", node.1);
            return pilot.complete(Err(DialFailure::new(Code::OverLimit, text)));
        };
        let (lane, worker) = (*lane, *worker);
        let wanted =
            DialTarget { cluster: &node.0, node: Some(&node.1), class: lane, worker, slot };
        let addresses = routing::interleave_families(&self.addresses_of(node));
        let result = self.attempt(wanted, addresses, Vec::new()).await.map(drop);
        match &result {
            Ok(()) => self.runtime.dial_history.forget_failure(node),
            Err(failure) => {
                let is_announced = self.is_announced(node);
                self.runtime.dial_history.record_failure(node, is_announced, failure.clone());
            }
        }
        pilot.complete(result);
    }

    /// Dials a cluster from worker 0, by its seeds and then by whatever else is known of it: any of its
    /// nodes will do. When this fails the cluster cannot be reached.
    pub(super) async fn dial_seeds(
        self: &Arc<Self>,
        cluster: &ClusterName,
    ) -> Result<Arc<PeerConnection>, DialFailure> {
        let now = self.snapshot();
        let seeds = now.links.get(cluster).map(|link| link.seeds.clone()).unwrap_or_default();
        let view = self.knowledge.views.get(cluster);
        let announced = view.iter().flat_map(|v| v.view.nodes.values());
        let mut known = announced.flat_map(|a| dialable_addresses(a, &seeds)).collect::<Vec<_>>();
        let mut failures = Vec::new();
        let mut addresses = self.resolve(&seeds, &mut failures).await;
        // Many nodes lose a peer at once; they need not all come back by the same address.
        for group in [&mut addresses, &mut known] {
            if let Some(start) = (self.context.random)().checked_rem(group.len() as u64) {
                group.rotate_left(usize::try_from(start).unwrap_or_default());
            }
        }
        let mut addresses = routing::interleave_families(&addresses);
        known.retain(|address| !addresses.contains(address));
        // Only so many are tried, and each check costs.
        let some = routing::interleave_families(&known).into_iter().take(4 * MAX_ADDRESSES);
        addresses
            .extend(some.filter(|address| !now.is_own_address(address.ip())).take(MAX_ADDRESSES));
        // A node that asked for a pause is given it, but the others may serve.
        let resting = self.runtime.dial_history.backing_off(cluster);
        let of = |node: &NodeName| view.as_ref().and_then(|v| v.view.nodes.get(node));
        let rests = |address: &SocketAddr| {
            let mut all = resting.iter();
            all.any(|(n, at, _)| at == address || of(n).is_some_and(|a| a.contains(address)))
        };
        addresses.retain(|address| !rests(address));
        let wanted =
            DialTarget { cluster, node: None, class: Class::Interactive, worker: 0, slot: 0 };
        let result = self.attempt(wanted, addresses, failures).await;
        self.runtime.dial_history.set_unreachable(cluster, result.is_err());
        result
    }

    /// The addresses of all seeds. A name is asked for anew each time; while there is no answer the last
    /// one counts.
    async fn resolve(&self, seeds: &[Seed], failures: &mut Vec<AddressFailure>) -> Vec<SocketAddr> {
        let each = seeds.iter().map(async |seed| match seed {
            Seed::Address(address) => Ok(vec![*address]),
            Seed::Name { host, port } => {
                let asked = timeout(RESOLVE_TIMEOUT, self.endpoints.resolve(host, *port)).await;
                let answer = match asked {
                    Ok(Ok(addresses)) if addresses.is_empty() => Err("no addresses".to_owned()),
                    Ok(answer) => answer.map_err(|error| error.to_string()),
                    Err(_) => {
                        Err(format!("the resolver did not answer within {RESOLVE_TIMEOUT:?}"))
                    }
                };
                let text = answer.as_ref().err().cloned().unwrap_or_default();
                let known =
                    self.runtime.dial_history.record_resolved((host.clone(), *port), answer.ok());
                let failure = DialFailure::new(Code::LinkDown, text);
                known.ok_or_else(|| (seed.to_string(), failure))
            }
        });
        let mut addresses = Vec::new();
        for answer in join_all(each).await {
            match answer {
                Ok(some) => addresses.extend(some),
                Err(failed) => failures.push(failed),
            }
        }
        addresses
    }

    /// Makes one attempt, and records its result.
    async fn attempt(
        self: &Arc<Self>,
        wanted: DialTarget<'_>,
        mut addresses: Vec<SocketAddr>,
        mut failures: Vec<AddressFailure>,
    ) -> Result<Arc<PeerConnection>, DialFailure> {
        addresses.truncate(MAX_ADDRESSES);
        // All addresses and the hello together have as long as one handshake.
        let within = self.endpoints.tuning().handshakes.timeout;
        let raced = timeout(within, self.race(&wanted, &addresses, &mut failures)).await;
        let result = match raced {
            Ok(Some(conn)) => Ok(conn),
            Ok(None) => Err(attempt_failure(&wanted, &addresses, failures, None)),
            Err(_) => Err(attempt_failure(&wanted, &addresses, failures, Some(within))),
        };
        let cluster = wanted.cluster;
        self.runtime.dial_history.record_attempt(cluster, result.as_ref().map(drop));
        self.runtime.metrics.dialled(cluster, result.as_ref().map(drop).map_err(|f| f.code));
        match &result {
            Ok(conn) => {
                tracing::debug!(peer = %conn.peer.id, remote = %conn.peer.remote, "dialled")
            }
            Err(failure) => tracing::debug!(%cluster, error = %failure, "dial failed"),
        }
        result
    }

    /// Dials one address after the other, each beside those that have not answered yet. The first that
    /// answers as the right peer wins; nobody else ever receives a hello. `None` if all failed.
    async fn race(
        self: &Arc<Self>,
        wanted: &DialTarget<'_>,
        addresses: &[SocketAddr],
        failures: &mut Vec<AddressFailure>,
    ) -> Option<Arc<PeerConnection>> {
        let domain = &self.trust_domain(wanted.cluster)?;
        let dial = |address: SocketAddr| async move {
            let dial = DialRequest { address, trust_domain: domain, class: wanted.class };
            (address, self.endpoints.dial(wanted.worker, dial).await)
        };
        let mut queue = addresses.iter().copied();
        let mut under_way = FuturesUnordered::new();
        let mut next = Instant::now();
        loop {
            let more = queue.len() > 0;
            if !more && under_way.is_empty() {
                return None;
            }
            tokio::select! {
                biased;
                Some(answer) = under_way.next() => {
                    let (address, dialled): (SocketAddr, _) = answer;
                    let ready = match dialled {
                        Ok(quic) => self.exchange_hellos(wanted, quic).await,
                        Err(error) => Err(DialFailure::from(error)),
                    };
                    match ready {
                        Ok(conn) => return Some(conn),
                        Err(failure) => failures.push((address.to_string(), failure)),
                    }
                    next = Instant::now();
                }
                () = sleep_until(next), if more => {
                    under_way.extend(queue.next().map(dial));
                    next = Instant::now() + CONNECTION_ATTEMPT_DELAY;
                }
            }
        }
    }

    async fn exchange_hellos(
        self: &Arc<Self>,
        wanted: &DialTarget<'_>,
        quic: QuicConnection,
    ) -> Result<Arc<PeerConnection>, DialFailure> {
        let refused = |PeerRefusal { code, reason }: PeerRefusal| {
            // In TLS 1.3 the dialler is done before the other side has looked at its certificate.
            let closed = quic.is_closed();
            if let Some((code, why)) = closed.as_ref().and_then(CloseReason::refused_certificate) {
                return refused_certificate(code, why);
            }
            quic.close(code, &reason);
            DialFailure::new(code, reason)
        };
        let seat = self.acquire_permit(&quic).map_err(refused)?;
        let begin = |greeted: handshake::Handshake| {
            let node = &greeted.peer.node;
            if wanted.node.is_some_and(|wanted| wanted != node) {
                let reason = format!("node {node} answered");
                return Err(PeerRefusal { code: Code::IdentityMismatch, reason });
            }
            session::start(self, quic.clone(), greeted, seat)
        };
        let greeted =
            handshake::initiate(&quic, &self.context, &self.snapshot(), wanted.slot).await;
        greeted.and_then(begin).map_err(refused)
    }

    /// The trust domain that the certificate of a node of `cluster` must have; `None` if the link is gone.
    fn trust_domain(&self, cluster: &ClusterName) -> Option<TrustDomain> {
        let now = self.snapshot();
        if *cluster == now.local.cluster {
            return Some(now.local.trust_domain.clone());
        }
        now.links.get(cluster).map(|link| link.trust_domain.clone())
    }
}

impl From<DialError> for DialFailure {
    fn from(error: DialError) -> Self {
        match &error {
            DialError::Closed(closed) => {
                if let Some((code, why)) = closed.refused_certificate() {
                    return refused_certificate(code, why);
                }
            }
            DialError::TimedOut(_) => {
                return Self { is_silent: true, ..Self::new(error.code(), error.to_string()) };
            }
            DialError::Socket(_)
            | DialError::Address(_)
            | DialError::WrongCluster { .. }
            | DialError::Identity(_) => {}
        }
        Self::new(error.code(), error.to_string())
    }
}

/// The failure of a dial in which one side, as `code` says, refused the other's certificate.
fn refused_certificate(code: Code, why: &str) -> DialFailure {
    let who = if code == Code::RefusedByPeer { REFUSED_THERE_PREFIX } else { REFUSED_HERE_PREFIX };
    DialFailure::new(refusal_code(code, why), format!("{who}{why}"))
}

/// The result of a failed attempt: the code of the first failure, and what each address said.
fn attempt_failure(
    wanted: &DialTarget<'_>,
    addresses: &[SocketAddr],
    failures: Vec<AddressFailure>,
    silent_for: Option<Duration>,
) -> DialFailure {
    // The hello may be what was waited for.
    let is_silent = !addresses.is_empty() && failures.iter().all(|(_, f)| f.is_silent);
    let mut texts: Vec<String> = failures.iter().map(|(a, f)| format!("{a}: {}", f.text)).collect();
    if let Some(silent_for) = silent_for {
        let answered = |a: &SocketAddr| failures.iter().any(|(other, _)| *other == a.to_string());
        let silent = addresses.iter().filter(|a| !answered(a));
        texts.extend(silent.map(|a| format!("{a}: no answer within {silent_for:?}")));
    }
    if texts.is_empty() {
        texts.push(match wanted.node {
            Some(node) => format!("there is no address at which node {node} can be dialled"),
            None => format!("no seed of {} has an address", wanted.cluster),
        });
    }
    let code = failures.first().map_or(Code::LinkDown, |(_, f)| f.code);
    DialFailure { is_silent, ..DialFailure::new(code, texts.join("; ")) }
}
