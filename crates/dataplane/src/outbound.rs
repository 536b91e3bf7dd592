//! From a local workload's TCP connection to a stream to a peer: the path of one request, top down.
//!
//! admit · identify · wait for the first view · resolve · authorize · pick · open · copy · record. [`serve`] is one connection's
//! life and [`forward`] the path; each step is a function below it, in order. What a step needs to decide
//! is in `adit_core`; what the peer does with the stream is in [`crate::inbound`].

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::NodeName;
use adit_core::policy::{self, Permit, Target};
use adit_core::routing::{self, Route};
use adit_core::snapshot::{Hop, Import, ImportPort, Snapshot};
use adit_core::spiffe::Workload;
use adit_core::wire::header::{StreamHeader, StreamProbe};
use adit_transport::{Links, PeerStream};
use tokio::time::{Instant, timeout};

use crate::copy::{PendingCopy, copy, wait_for_delivery};
use crate::data_path::DataPath;
use crate::first_flight::{AttemptOutcome, FirstFlight};
use crate::flow::{Direction, Flow, FlowFailure};
use crate::tcp::{Tcp, TcpNetwork};

/// The most nodes that are tried for one stream.
const MAX_ATTEMPTS: usize = 4;
/// Connections wait for the first view of the exporting cluster until this long after the start of the node.
const FIRST_VIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest wait for the answer to a header: longer than a node's own attempts at backends take, unless its
/// operator lets it wait for longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The way out for streams: through the peers that `links` reaches, from `worker`.
#[derive(Debug)]
pub(crate) struct Egress {
    pub(crate) links: Links,
    pub(crate) worker: usize,
}

/// Serves one accepted connection, to its record.
pub(crate) async fn serve<N: TcpNetwork>(
    data_path: Arc<DataPath<N>>,
    egress: Arc<Egress>,
    tcp: N::Stream,
) {
    let context = &data_path.context;
    let mut flow = context.flows.begin(Direction::Outbound, context.random.flow_id());
    let end = forward(&data_path, &egress, &tcp, &mut flow).await;
    flow.end(end);
}

async fn forward<N: TcpNetwork>(
    data_path: &DataPath<N>,
    egress: &Egress,
    tcp: &N::Stream,
    flow: &mut Flow,
) -> Result<(), FlowFailure> {
    admit(data_path, tcp, flow)?;
    let (permit, route) = {
        let workload = identify(data_path, tcp.remote()).await?;
        let snapshot = first_view(data_path, tcp.local()).await;
        let (import, target) = resolve(&snapshot, tcp.local())?;
        let permit = authorize(&snapshot, import, &target, &workload, flow)?;
        let route = pick(data_path, &snapshot, import, &permit)?;
        (permit, route)
    };
    let (mut stream, pending) = tokio::select! {
        biased;
        withdrawn = data_path.withdrawn(&permit) => return Err(withdrawn),
        opened = open(egress, tcp, &route, (&permit, None), flow) => opened?,
    };
    flow.answered();
    let end = {
        let (send, recv) = (&mut stream.send, &mut stream.recv);
        let copying = pin!(copy(tcp, send, recv, pending, Code::SourceReset, flow));
        data_path.while_permitted(&permit, copying).await
    };
    if let Err(failure) = &end {
        reset(&mut stream, failure.code);
    }
    end
}

/// Notes where the connection comes from and what it was made to, so that its end counts there however
/// early it comes, and refuses it if there are too many.
fn admit<N: TcpNetwork>(
    data_path: &DataPath<N>,
    tcp: &impl Tcp,
    flow: &mut Flow,
) -> Result<(), FlowFailure> {
    flow.workload = Some(tcp.remote());
    if let Ok((import, target)) = resolve(&data_path.current_snapshot(), tcp.local()) {
        flow.attribute_to_target(&target, &import.from);
    }
    flow.admit_workload(tcp.remote().ip())
}

/// Finds the workload by its address. One that is not known yet is held: its cluster may show it a
/// moment after it began to speak. The address of a machine is none that a pod will ever have.
pub(crate) async fn identify<N: TcpNetwork>(
    data_path: &DataPath<N>,
    from: SocketAddr,
) -> Result<Workload, FlowFailure> {
    let known = |snapshot: &Snapshot| snapshot.workloads.get(&from.ip()).cloned();
    let unknown = || {
        let reason = format!("no workload is known by the address {}", from.ip());
        FlowFailure::new(Code::SourceUnknown, reason)
    };
    if let Some(workload) = known(&data_path.current_snapshot()) {
        return Ok(workload);
    }
    if data_path.current_snapshot().is_host_address(from.ip()) {
        return Err(on_host_network(from.ip()));
    }
    let hold = data_path.limits.unknown_source_hold;
    let _held = data_path.context.held.try_hold(from.ip()).ok_or_else(unknown)?;
    let mut snapshots = data_path.snapshot.clone();
    let arrives = timeout(hold, snapshots.wait_for(|snapshot| known(snapshot).is_some()));
    tokio::select! {
        biased;
        () = data_path.context.drained.cancelled() => Err(Code::Drained.into()),
        arrived = arrives => match arrived {
            Ok(Ok(snapshot)) => known(&snapshot).ok_or_else(unknown),
            _ => Err(unknown()),
        }
    }
}

/// Why nobody on the network of a machine is served.
fn on_host_network(ip: IpAddr) -> FlowFailure {
    let reason = format!(
        "{ip} is an address of a node: what runs on its host network (hostNetwork: true, a probe of the kubelet, a process \
         of the machine), or has that address by the way that it came, has no identity and cannot be allowed anything; \
         call from a pod with its own network (without Kubernetes: name the address in `workloads`)"
    );
    FlowFailure::new(Code::SourceUnknown, reason)
}

/// Waits until the exporting cluster has sent its view, on a node that has just started: connections may
/// have waited for it, and a moment later they would be carried.
pub(crate) async fn first_view<N: TcpNetwork>(
    data_path: &DataPath<N>,
    local: SocketAddr,
) -> Arc<Snapshot> {
    let snapshot = data_path.current_snapshot();
    let waits = |snapshot: &Snapshot| {
        let from = snapshot.imports.at(local).map(|(import, _)| &import.from);
        from.is_some_and(|from| {
            snapshot.links.contains_key(from) && !snapshot.views.contains_key(from)
        })
    };
    let remaining = FIRST_VIEW_TIMEOUT.saturating_sub(data_path.started.elapsed());
    if remaining.is_zero() || !waits(&snapshot) {
        return snapshot;
    }
    let mut snapshots = data_path.snapshot.clone();
    tokio::select! {
        biased;
        () = data_path.context.drained.cancelled() => {}
        _arrived = timeout(remaining, snapshots.wait_for(|snapshot| !waits(snapshot))) => {}
    }
    data_path.current_snapshot()
}

/// Finds the import and port that the connection was made to, by its local address.
fn resolve(snapshot: &Snapshot, local: SocketAddr) -> Result<(&Import, Target), FlowFailure> {
    let found: Option<(&Arc<Import>, &ImportPort)> = snapshot.imports.at(local);
    let (import, port) = found.ok_or_else(|| {
        FlowFailure::new(Code::ImportUnknown, format!("nothing is imported at {local}"))
    })?;
    let target = Target { service: import.service.clone(), port: port.name.clone() };
    Ok((import, target))
}

/// Asks policy, ours and what of the exporting side's has travelled here, and refuses whose streams come to
/// nothing too often.
pub(crate) fn authorize(
    snapshot: &Snapshot,
    import: &Import,
    target: &Target,
    workload: &Workload,
    flow: &mut Flow,
) -> Result<Permit, FlowFailure> {
    let cluster = snapshot.local.cluster.clone();
    flow.source = Some(policy::Source { cluster, workload: workload.clone() });
    let permit = policy::authorize_outbound(snapshot, import, target, workload)?;
    flow.admit_source(&import.from, workload)?;
    flow.join_conversation();
    Ok(permit)
}

/// Picks the nodes to try: those with a ready backend, by weight.
pub(crate) fn pick<N: TcpNetwork>(
    data_path: &DataPath<N>,
    snapshot: &Snapshot,
    import: &Import,
    permit: &Permit,
) -> Result<Route, FlowFailure> {
    let draw = data_path.context.random.draw();
    routing::route(snapshot, &import.from, permit, draw).map_err(|code| {
        let (service, from) = (&import.service, &import.from);
        let view = snapshot.views.get(from);
        let port = view.and_then(|v| v.exports.get(service)?.port(&permit.target().port));
        let known = port.filter(|port| port.fault.is_some());
        let plain = || format!("{from} offers no ready backend of {service}");
        FlowFailure::new(
            code,
            known.map_or_else(plain, |port| port.unready_sentence(service, from)),
        )
    })
}

/// Opens a stream to the first node that takes it, with the connection's first bytes in the same flight.
///
/// Another node is tried only while that cannot deliver anything twice: after an explicit refusal, or
/// while no byte of the workload has left. After that a lost connection is an unknown outcome, unless the
/// export says that its service may be asked twice. With a `probe` the stream asks, and carries nothing.
pub(crate) async fn open<T: Tcp>(
    egress: &Egress,
    tcp: &T,
    route: &Route,
    (permit, probe): (&Permit, Option<StreamProbe>),
    flow: &mut Flow,
) -> Result<(PeerStream, PendingCopy), FlowFailure> {
    let mut first = FirstFlight::new(&header(permit, probe, flow));
    let mut tried: Vec<NodeName> = Vec::new();
    let mut last = FlowFailure::from(Code::LinkDown);
    let began = Instant::now();
    while let Some((next, hop)) = next_node(egress, route, &tried) {
        tried.push(next.clone());
        (flow.peer, flow.hop) = (Some((route.cluster.clone(), next.clone())), hop);
        let mut stream =
            match egress.links.open(egress.worker, &route.cluster, &next, route.class).await {
                Ok(stream) => stream,
                Err(refused) => {
                    last = FlowFailure::new(refused.code, refused.reason);
                    continue;
                }
            };
        let limit = ANSWER_TIMEOUT + route.hold.unwrap_or_default();
        let outcome = timeout(limit, first.send(tcp, &mut stream, &flow.sent)).await;
        let failure = match outcome.unwrap_or(AttemptOutcome::Lost(Code::BackendTimeout)) {
            AttemptOutcome::Reached(pending) => return Ok((stream, pending)),
            // Whoever has waited for as long as the export says waits at no other node.
            AttemptOutcome::Refused(failure)
                if route.hold.is_some_and(|hold| began.elapsed() >= hold) =>
            {
                return Err(failure);
            }
            AttemptOutcome::Refused(failure) if failure.code.is_retryable() => failure,
            AttemptOutcome::Refused(failure) => return Err(failure),
            AttemptOutcome::Lost(_) if first.is_empty() || route.replay => {
                Code::ConnectionLost.into()
            }
            AttemptOutcome::Lost(code) => {
                reset(&mut stream, Code::UnknownOutcome);
                let reason = format!("the connection to {}/{next} ended: {code}", route.cluster);
                return Err(FlowFailure::new(Code::UnknownOutcome, reason));
            }
            AttemptOutcome::SourceReset => {
                wait_for_delivery(&mut stream.send).await;
                reset(&mut stream, Code::SourceReset);
                return Err(Code::SourceReset.into());
            }
        };
        reset(&mut stream, failure.code);
        flow.retries += 1;
        last = failure;
    }
    Err(last)
}

fn header(permit: &Permit, probe: Option<StreamProbe>, flow: &Flow) -> StreamHeader {
    StreamHeader {
        target: permit.target().clone(),
        source: permit.source().workload.clone(),
        probe,
        flow: Some(flow.id),
        trace: None,
    }
}

/// The next node to try, and whether it is not the backend's own: first one that has a backend, then one
/// that is connected and may pass the stream on, and last one with which no connection can be had, which
/// says why.
fn next_node(egress: &Egress, route: &Route, tried: &[NodeName]) -> Option<(NodeName, bool)> {
    if tried.len() >= MAX_ATTEMPTS {
        return None;
    }
    let with_backend: Vec<&NodeName> = route.nodes.iter().filter(|n| !tried.contains(n)).collect();
    if let Some(reachable) = egress.links.first_reachable(&route.cluster, &with_backend) {
        return Some((reachable.clone(), false));
    }
    let other = match route.hop {
        Hop::Any => egress.links.other_connected(&route.cluster, tried),
        Hop::SameNode => None,
    };
    let unreachable =
        || with_backend.first().map(|unreachable| (NodeName::clone(unreachable), false));
    other.map(|other| (other, true)).or_else(unreachable)
}

/// Ends both ways of a stream with a reason.
fn reset(stream: &mut PeerStream, code: Code) {
    stream.send.reset(code);
    stream.recv.stop(code);
}
