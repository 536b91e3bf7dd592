//! From a peer's stream to a local backend's TCP connection: the path of one request, top down.
//!
//! accept (read the header) · take the asserted source · attribute · authorize · pick · dial · copy · record; where an
//! export has streams wait for its first backend, pick and dial come again until one answers. [`serve`] is one stream's life and
//! [`reach`] the path to a backend; each step is a function below it, in order. The peer is authenticated and not
//! trusted: it names a service, never an address, and speaks for workloads of its own cluster only.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::fault::BackendFault;
use adit_core::name::ServiceName;
use adit_core::policy::{self, Permit, Source};
use adit_core::routing;
use adit_core::snapshot::{Backend, Snapshot};
use adit_core::wire::header::{StreamAnswer, StreamHeader, StreamProbe};
use adit_transport::links::ServeOutcome;
use adit_transport::{PeerInfo, PeerStream, RecvStream, SendError, SendStream, ServeStream};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep, timeout};

use crate::backends::dial_failure;
use crate::copy::{PendingCopy, STALL_TIMEOUT, copy};
use crate::data_path::DataPath;
use crate::flow::{Direction, Flow, FlowFailure};
use crate::tcp::{Tcp, TcpNetwork};

/// The most backends that are dialled for one stream.
const MAX_ATTEMPTS: usize = 4;
/// A stream that its opener gives up so soon after it was taken, and that nothing came back on, was opened in
/// vain.
const EARLY_END_DELAY: Duration = Duration::from_secs(1);

/// Why a stream whose backend has not answered yet is refused.
const NO_MEMORY: &str = "no backend had answered, and there was no more memory for what the stream had sent \
    (limits.peerBuffer, limits.processBuffer)";

/// Serves what peers open.
#[derive(Debug)]
pub struct Inbound<N: TcpNetwork>(pub Arc<DataPath<N>>);

impl<N: TcpNetwork> ServeStream for Inbound<N> {
    fn serve(&self, stream: PeerStream) -> Pin<Box<dyn Future<Output = ServeOutcome> + Send>> {
        Box::pin(serve(self.0.clone(), stream))
    }
}

/// A stream that was not refused.
enum Reached<S> {
    /// A backend's connection, what came behind the header, and the right to carry it.
    Backend(S, Bytes, Permit),
    /// The stream only asked, and the answer is yes.
    Probed,
}

/// Why a stream came to nothing before it was carried.
enum Unreached {
    /// The stream is refused; the opener is told.
    Refused(FlowFailure),
    /// The opener gave it up, or its connection is gone: nobody is left to be told.
    Abandoned(Code),
}

impl<F: Into<FlowFailure>> From<F> for Unreached {
    fn from(failure: F) -> Self {
        Self::Refused(failure.into())
    }
}

/// Serves one data stream of a peer, to its record.
#[expect(clippy::manual_async_fn, reason = "an async function would keep its stream twice")]
pub(crate) fn serve<N: TcpNetwork>(
    data_path: Arc<DataPath<N>>,
    mut stream: PeerStream,
) -> impl Future<Output = ServeOutcome> + Send {
    async move {
        let mut flow = data_path.context.flows.begin(Direction::Inbound, [0; 16]);
        let (tcp, first_bytes, permit) = match reach(&data_path, &mut stream, &mut flow).await {
            Ok(Reached::Backend(tcp, first_bytes, permit)) => (tcp, first_bytes, permit),
            Ok(Reached::Probed) => return answer_probe(&data_path, &mut stream, flow).await,
            Err(unreached) => return turn_away(&data_path, &mut stream, flow, unreached).await,
        };
        let reached = Instant::now();
        flow.answered();
        let end = forward(&data_path, &tcp, &mut stream, first_bytes, &permit, &flow).await;
        // Given up so soon that nothing came of it: the backend was dialled in vain.
        let in_vain = end.as_ref().err().filter(|_| {
            gave_up(&mut stream) && flow.sent.bytes() == 0 && reached.elapsed() < EARLY_END_DELAY
        });
        let served = in_vain.map_or(ServeOutcome::Used, |f| lost_or_futile(&stream, f.code));
        if let Err(failure) = &end {
            stream.send.reset(failure.code);
            stream.recv.stop(failure.code);
        }
        flow.end(end);
        served
    }
}

/// Says yes to a stream that only asked.
async fn answer_probe<N: TcpNetwork>(
    data_path: &DataPath<N>,
    stream: &mut PeerStream,
    flow: Flow,
) -> ServeOutcome {
    flow.end(Ok(()));
    // Nothing that came behind the question is taken.
    stream.recv.stop(Code::Finished);
    answer_last(data_path, stream, &StreamAnswer::accepted(), Code::Finished).await;
    ServeOutcome::Used
}

/// Ends a stream that came to nothing before it was carried, and records it.
async fn turn_away<N: TcpNetwork>(
    data_path: &DataPath<N>,
    stream: &mut PeerStream,
    flow: Flow,
    why: Unreached,
) -> ServeOutcome {
    match why {
        Unreached::Refused(failure) => {
            // What is refused takes nobody's place while the opener is told.
            flow.end(Err(failure.clone()));
            refuse(data_path, stream, &failure).await;
            ServeOutcome::refused(failure.code)
        }
        Unreached::Abandoned(code) => {
            flow.end(Err(code.into()));
            stream.send.reset(code);
            stream.recv.stop(code);
            lost_or_futile(stream, code)
        }
    }
}

/// All that can still be refused: nothing of the source's has been delivered.
async fn reach<N: TcpNetwork>(
    data_path: &DataPath<N>,
    stream: &mut PeerStream,
    flow: &mut Flow,
) -> Result<Reached<N::Stream>, Unreached> {
    let (header, first_bytes) = accept(data_path, stream, flow).await?;
    if header.probe.is_some() {
        admit_probe(data_path, stream, flow)?;
    }
    let source = asserted_source(&stream.peer, &header, flow);
    let snapshot = data_path.current_snapshot();
    attribute(&snapshot, &header, &source, flow);
    let permit = policy::authorize_inbound(&snapshot, &source, &header.target)?;
    flow.attribute_to_source(&permit);
    if header.probe == Some(StreamProbe::Ask) {
        pick(data_path, &snapshot, &permit)?;
        return Ok(Reached::Probed);
    }
    let tcp = tokio::select! {
        biased;
        withdrawn = data_path.withdrawn(&permit) => return Err(before_delivery(withdrawn).into()),
        tcp = async {
            match header.probe {
                // Whoever only asks waits for no backend that is not there yet.
                Some(_) => pick_and_dial(data_path, &snapshot, &permit, flow).await,
                None => connect(data_path, &permit, flow).await,
            }
        } => tcp?,
        // The opener has given up; nobody waits for this dial.
        Err(gone) = stream.send.stopped() => return Err(Unreached::Abandoned(gone.code())),
        // What arrives meanwhile is not taken, and must not stop the connection's other streams.
        () = wait_until_evicted(&stream.recv) => return Err(FlowFailure::new(Code::OverLimit, NO_MEMORY).into()),
    };
    if header.probe.is_some() {
        // The backend sees a connection that ends without a byte, as the ones of health checks do.
        tcp.close_gracefully();
        return Ok(Reached::Probed);
    }
    Ok(Reached::Backend(tcp, first_bytes, permit))
}

/// Counts a stream that only asks apart, and refuses it where its cluster asks too often: it is cheap for whoever
/// asks, and a backend is dialled for it.
fn admit_probe<N: TcpNetwork>(
    data_path: &DataPath<N>,
    stream: &PeerStream,
    flow: &mut Flow,
) -> Result<(), FlowFailure> {
    flow.mark_probe();
    let links = &data_path.current_snapshot().links;
    data_path.context.probes.admit(&stream.peer.cluster, |cluster| links.contains_key(cluster))
}

/// The refusal of a stream that would have been reset for this, had it been under way.
fn before_delivery(withdrawn: FlowFailure) -> FlowFailure {
    let code = if withdrawn.code == Code::Drained { Code::Draining } else { Code::Denied };
    FlowFailure { code, ..withdrawn }
}

/// Charges what arrives and is not taken, and returns when the budget wants it back.
async fn wait_until_evicted(recv: &RecvStream) {
    sleep(STALL_TIMEOUT).await;
    match recv.stall() {
        Some(stall) => stall.evicted().await,
        None => std::future::pending().await,
    }
}

/// Reads the header, within its deadline and bound, and what came right behind it.
async fn accept<N: TcpNetwork>(
    data_path: &DataPath<N>,
    stream: &mut PeerStream,
    flow: &mut Flow,
) -> Result<(StreamHeader, Bytes), Unreached> {
    flow.peer = Some((stream.peer.cluster.clone(), stream.peer.node.clone()));
    let snapshot = data_path.current_snapshot();
    let (own, clusters) = (&snapshot.local.cluster, snapshot.links.len());
    let limit = data_path.limits.streams_per_peer;
    if let Err(refused) = flow.admit_peer(&stream.peer.cluster, own, limit, clusters) {
        attribute_refused(&snapshot, stream, flow);
        return Err(refused.into());
    }
    drop(snapshot);
    let (header, first_bytes) = timeout(data_path.limits.header_deadline, header(&mut stream.recv))
        .await
        .unwrap_or_else(|_| Err(Code::HeaderTimeout.into()))?;
    flow.id = header.flow.unwrap_or_default();
    Ok((header, first_bytes))
}

/// Attributes a stream that is refused before it is read, so that it is told who meets a limit, and for what: by the
/// header, if that has come already. Nobody waits for it.
fn attribute_refused(now: &Snapshot, stream: &mut PeerStream, flow: &mut Flow) {
    let Some(Ok((header, _))) = header(&mut stream.recv).now_or_never() else { return };
    if header.probe.is_some() {
        flow.mark_probe();
    }
    flow.id = header.flow.unwrap_or_default();
    let source = asserted_source(&stream.peer, &header, flow);
    attribute(now, &header, &source, flow);
}

async fn header(recv: &mut RecvStream) -> Result<(StreamHeader, Bytes), Unreached> {
    let mut received = BytesMut::new();
    loop {
        let mut chunk = [Bytes::new()];
        let end = || FlowFailure::new(Code::HeaderInvalid, "the stream ended in its header");
        let read = recv.read_chunks(&mut chunk).await;
        read.map_err(|e| Unreached::Abandoned(e.code()))?.ok_or_else(end)?;
        received.extend_from_slice(&chunk[0]);
        match StreamHeader::decode(&received) {
            Ok(Some((header, taken))) => return Ok((header, received.split_off(taken).freeze())),
            Ok(None) => {}
            Err(error) => {
                return Err(FlowFailure::new(Code::HeaderInvalid, error.to_string()).into());
            }
        }
    }
}

/// The source, as far as the peer may speak for it: a workload of the peer's own cluster. A header has no
/// room for another cluster's.
fn asserted_source(peer: &PeerInfo, header: &StreamHeader, flow: &mut Flow) -> Source {
    let source = Source { cluster: peer.cluster.clone(), workload: header.source.clone() };
    flow.source = Some(source.clone());
    source
}

/// Notes the target; only one that is exported to the peer's cluster is counted by name.
fn attribute(snapshot: &Snapshot, header: &StreamHeader, source: &Source, flow: &mut Flow) {
    flow.target = Some(header.target.clone());
    let export = snapshot.exports.get(&header.target.service);
    let is_granted = |grant: &policy::Grant| grant.cluster == source.cluster;
    let with_port = export.filter(|e| e.port(&header.target.port).is_some());
    if with_port.is_some_and(|e| e.allow.iter().any(is_granted)) {
        flow.attribute_to_target(&header.target, &source.cluster);
    }
}

/// Picks a backend and dials it. If none answers, and the export says so, the stream waits until one does.
async fn connect<N: TcpNetwork>(
    data_path: &DataPath<N>,
    permit: &Permit,
    flow: &mut Flow,
) -> Result<N::Stream, FlowFailure> {
    let snapshot = data_path.current_snapshot();
    let failure = match pick_and_dial(data_path, &snapshot, permit, flow).await {
        Ok(tcp) => return Ok(tcp),
        Err(failure) => failure,
    };
    let service = &permit.target().service;
    let limits = snapshot.exports.get(service).and_then(|export| export.hold);
    let Some(limits) = limits.filter(|_| waits_for_backend(failure.code)) else {
        return Err(failure);
    };
    let cluster = &permit.source().cluster;
    let Some(_place) = data_path.holds.begin(service, cluster, limits) else {
        let reason = format!(
            "{} streams of {cluster} wait for a backend of {service} on this node already (whenEmpty)",
            limits.streams
        );
        return Err(FlowFailure::new(Code::OverLimit, reason));
    };
    timeout(limits.timeout, first_backend(data_path, permit, flow)).await.unwrap_or_else(|_| {
        let reason = format!(
            "no backend of {service} answered within {} s, for which a stream waits (whenEmpty): {}",
            limits.timeout.as_secs(),
            failure.reason
        );
        Err(FlowFailure::new(failure.code, reason))
    })
}

/// True if a backend may yet come, or answer.
fn waits_for_backend(code: Code) -> bool {
    matches!(
        code,
        Code::NoBackend | Code::BackendRefused | Code::BackendTimeout | Code::BackendUnreachable
    )
}

/// Waits until a backend answers. One that was dialled in vain counts again once a probe has reached it.
async fn first_backend<N: TcpNetwork>(
    data_path: &DataPath<N>,
    permit: &Permit,
    flow: &mut Flow,
) -> Result<N::Stream, FlowFailure> {
    let mut snapshots = data_path.snapshot.clone();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        match pick_and_dial(data_path, &snapshot, permit, flow).await {
            Err(failure) if waits_for_backend(failure.code) => {}
            end => return end,
        }
        if snapshots.changed().await.is_err() {
            return Err(Code::Draining.into());
        }
    }
}

async fn pick_and_dial<N: TcpNetwork>(
    data_path: &DataPath<N>,
    snapshot: &Snapshot,
    permit: &Permit,
    flow: &mut Flow,
) -> Result<N::Stream, FlowFailure> {
    let backends = pick(data_path, snapshot, permit)?;
    dial(data_path, snapshot, &permit.target().service, &backends, flow).await
}

/// Picks the backends to try: this node's own first. Where none answers, the reason is how the last dial failed.
fn pick<N: TcpNetwork>(
    data_path: &DataPath<N>,
    snapshot: &Snapshot,
    permit: &Permit,
) -> Result<Vec<Backend>, FlowFailure> {
    let target = permit.target();
    routing::backends(snapshot, permit, data_path.context.random.draw())
        .map_err(|code| FlowFailure::new(code, format!("{}: {}", target.service, code.text())))
}

/// Dials until a backend answers. The source's first bytes wait meanwhile, so none has been delivered. The failure
/// is told to the peer: it names the service, and no address.
async fn dial<N: TcpNetwork>(
    data_path: &DataPath<N>,
    snapshot: &Snapshot,
    service: &ServiceName,
    backends: &[Backend],
    flow: &mut Flow,
) -> Result<N::Stream, FlowFailure> {
    let mut last = FlowFailure::from(Code::NoBackend);
    for backend in backends.iter().take(MAX_ATTEMPTS) {
        let began = Instant::now();
        let dialled =
            timeout(data_path.limits.dial_timeout, data_path.net.dial(backend.address)).await;
        let dialled = dialled.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        flow.workload = Some(backend.address);
        match dialled {
            Ok(tcp) => {
                flow.dialled(began.elapsed());
                data_path.context.backends.record_dial(backend.address, Ok(()));
                flow.hop = backend.node != snapshot.local.node;
                return Ok(tcp);
            }
            Err(error) => {
                let (failure, at_fault) = dial_failure(backend.address, &error);
                if at_fault {
                    data_path.context.backends.record_dial(backend.address, Err(failure.clone()));
                }
                flow.retries += 1;
                last = match BackendFault::from_code(failure.code) {
                    Some(fault) => {
                        let (from, why) = (&snapshot.local.cluster, fault.description());
                        let reason = format!("no backend of {service} in {from} answers: {why}");
                        FlowFailure::new(failure.code, reason)
                    }
                    None => failure,
                };
            }
        }
    }
    Err(last)
}

/// Tells the opener that its stream is refused, and why. What it sent is thrown away first. One that leaves
/// no room for the answer, or whose cluster has many such streams, gets a reset with the code alone.
async fn refuse<N: TcpNetwork>(
    data_path: &DataPath<N>,
    stream: &mut PeerStream,
    failure: &FlowFailure,
) {
    stream.recv.stop(failure.code);
    let answer = StreamAnswer::refused(failure.code, &failure.reason);
    answer_last(data_path, stream, &answer, failure.code).await;
}

/// Sends an answer that nothing follows, if there is room for it; else a reset with the code alone.
async fn answer_last<N: TcpNetwork>(
    data_path: &DataPath<N>,
    stream: &mut PeerStream,
    answer: &StreamAnswer,
    code: Code,
) {
    let is_delivered = match data_path.context.flows.begin_refusal(&stream.peer.cluster) {
        Some(_pending) => {
            let is_delivered =
                timeout(data_path.limits.header_deadline, answer_with(&mut stream.send, answer))
                    .await;
            matches!(is_delivered, Ok(Ok(())))
        }
        None => false,
    };
    if !is_delivered || stream.send.finish().is_err() {
        stream.send.reset(code);
    }
}

async fn answer_with(send: &mut SendStream, answer: &StreamAnswer) -> Result<(), SendError> {
    let mut bytes = BytesMut::new();
    answer.encode(&mut bytes);
    send.send(&mut bytes.freeze()).await
}

/// Says that the backend was reached, and copies until both ways are done.
async fn forward<N: TcpNetwork>(
    data_path: &DataPath<N>,
    tcp: &N::Stream,
    stream: &mut PeerStream,
    first: Bytes,
    permit: &Permit,
    flow: &Flow,
) -> Result<(), FlowFailure> {
    let copied = pin!(async {
        let answer = StreamAnswer::accepted();
        tokio::select! {
            biased;
            // Whoever has gone needs no answer; how it went shows when its bytes are read.
            _gone = answer_with(&mut stream.send, &answer) => {}
            () = wait_until_evicted(&stream.recv) => return Err(Code::OverBudget),
        }
        let left = PendingCopy { to_tcp: first, ..PendingCopy::default() };
        let (send, recv) = (&mut stream.send, &mut stream.recv);
        copy(tcp, send, recv, left, Code::BackendReset, flow).await
    });
    data_path.while_permitted(permit, copied).await
}

/// True if the opener reset the stream, or wants no more of it.
fn gave_up(stream: &mut PeerStream) -> bool {
    stream.recv.was_reset() || matches!(stream.send.poll_end(), Some(Err(SendError::Stopped(_))))
}

/// A stream that ended with its connection was not given up.
fn lost_or_futile(stream: &PeerStream, code: Code) -> ServeOutcome {
    let is_lost = stream.recv.connection().is_closed().is_some();
    if is_lost { ServeOutcome::Used } else { ServeOutcome::InVain(code) }
}
