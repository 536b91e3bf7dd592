//! From a peer's stream to a local backend's TCP connection: the path of one request, top down.
//!
//! accept · vouch · resolve · authorize · pick · dial · copy · record. [`serve`] is one stream's life and
//! [`carry`] the path; each step is a function below it, in order. The peer is authenticated and not
//! trusted: it names a service, never an address, and speaks for workloads of its own cluster only.

use std::pin::Pin;
use std::sync::Arc;

use adit_core::choose;
use adit_core::code::Code;
use adit_core::policy::{self, Permit, Source};
use adit_core::snapshot::{Backend, Snapshot};
use adit_core::wire::header::{Answer, Header};
use adit_transport::{PeerInfo, RecvStream, Serve, Stream};
use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use crate::backends::dial_failure;
use crate::copy::{Left, copy};
use crate::flow::{Direction, Failure, Flow};
use crate::node::Node;
use crate::tcp::Net;

/// How many backends are dialled for one stream.
const ATTEMPTS: usize = 4;

/// Serves what peers open.
#[derive(Debug)]
pub struct Inbound<N: Net>(pub Arc<Node<N>>);

impl<N: Net> Serve for Inbound<N> {
    fn serve(&self, stream: Stream) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(serve(self.0.clone(), stream))
    }
}

/// Serves one data stream of a peer, to its record.
async fn serve<N: Net>(node: Arc<Node<N>>, mut stream: Stream) {
    let mut flow = node.records.flows.begin(Direction::Inbound, [0; 16]);
    let end = carry(&node, &mut stream, &mut flow).await;
    flow.end(end);
}

async fn carry<N: Net>(
    node: &Node<N>,
    stream: &mut Stream,
    flow: &mut Flow,
) -> Result<(), Failure> {
    match reach(node, stream, flow).await {
        Ok((tcp, first, permit)) => run(node, &tcp, stream, first, &permit, flow).await,
        Err(failure) => {
            answer(stream, &Answer::refused(failure.code, &failure.reason)).await;
            Err(failure)
        }
    }
}

/// All that can still be refused: nothing of the source's has been delivered.
async fn reach<N: Net>(
    node: &Node<N>,
    stream: &mut Stream,
    flow: &mut Flow,
) -> Result<(N::Stream, Bytes, Permit), Failure> {
    let (header, first) = accept(node, stream, flow).await?;
    let source = vouch(&stream.peer, &header, flow);
    let now = node.now();
    resolve(&now, &header, &source, flow);
    let permit = policy::authorize_inbound(&now, &source, &header.target)?;
    flow.used_by(&permit);
    let backends = pick(node, &now, &permit)?;
    let tcp = tokio::select! {
        biased;
        tcp = dial(node, &now, &backends, flow) => tcp?,
        // The opener has given up; nobody waits for this dial.
        Err(gone) = stream.send.stopped() => return Err(gone.code().into()),
    };
    Ok((tcp, first, permit))
}

/// Reads the header, within its deadline and bound, and what came right behind it.
async fn accept<N: Net>(
    node: &Node<N>,
    stream: &mut Stream,
    flow: &mut Flow,
) -> Result<(Header, Bytes), Failure> {
    flow.peer = Some((stream.peer.cluster.clone(), stream.peer.node.clone()));
    flow.admit()?;
    flow.admit_of(&stream.peer.cluster, node.limits.streams_per_peer)?;
    let (header, first) = timeout(node.limits.header_deadline, header(&mut stream.recv))
        .await
        .unwrap_or_else(|_| Err(Code::HeaderTimeout.into()))?;
    flow.id = header.flow.unwrap_or_default();
    Ok((header, first))
}

async fn header(recv: &mut RecvStream) -> Result<(Header, Bytes), Failure> {
    let mut got = BytesMut::new();
    loop {
        let mut chunk = [Bytes::new()];
        let end = || Failure::new(Code::HeaderInvalid, "the stream ended in its header");
        recv.read_chunks(&mut chunk).await.map_err(|e| Failure::from(e.code()))?.ok_or_else(end)?;
        got.extend_from_slice(&chunk[0]);
        match Header::decode(&got) {
            Ok(Some((header, taken))) => return Ok((header, got.split_off(taken).freeze())),
            Ok(None) => {}
            Err(error) => return Err(Failure::new(Code::HeaderInvalid, error.to_string())),
        }
    }
}

/// The source, as far as the peer may speak for it: a workload of the peer's own cluster. A header has no
/// room for another cluster's.
fn vouch(peer: &PeerInfo, header: &Header, flow: &mut Flow) -> Source {
    let source = Source { cluster: peer.cluster.clone(), workload: header.source.clone() };
    flow.source = Some(source.clone());
    source
}

/// Notes the target; only one that is exported to the peer's cluster is counted by name.
fn resolve(now: &Snapshot, header: &Header, source: &Source, flow: &mut Flow) {
    flow.target = Some(header.target.clone());
    let export = now.exports.get(&header.target.service);
    let shown = |grant: &policy::Grant| grant.cluster == source.cluster;
    let here = export.filter(|e| e.port(&header.target.port).is_some());
    if here.is_some_and(|e| e.allow.iter().any(shown)) {
        flow.counts_for(&header.target, &source.cluster);
    }
}

/// Picks the backends to try: this node's own first.
fn pick<N: Net>(node: &Node<N>, now: &Snapshot, permit: &Permit) -> Result<Vec<Backend>, Failure> {
    let service = &permit.target().service;
    choose::backends(now, permit, node.records.random.draw())
        .map_err(|code| Failure::new(code, format!("{service}: {}", code.text())))
}

/// Dials until a backend answers. The source's first bytes wait meanwhile, so none has been delivered.
async fn dial<N: Net>(
    node: &Node<N>,
    now: &Snapshot,
    backends: &[Backend],
    flow: &mut Flow,
) -> Result<N::Stream, Failure> {
    let mut last = Failure::from(Code::NoBackend);
    for backend in backends.iter().take(ATTEMPTS) {
        let dialled = timeout(node.limits.dial_timeout, node.net.dial(backend.address)).await;
        let dialled = dialled.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        flow.workload = Some(backend.address);
        match dialled {
            Ok(tcp) => {
                node.records.backends.report(backend.address, Ok(()));
                flow.hop = backend.node != now.this.node;
                return Ok(tcp);
            }
            Err(error) => {
                let (failure, at_fault) = dial_failure(backend.address, &error);
                if at_fault {
                    node.records.backends.report(backend.address, Err(failure.clone()));
                }
                flow.retries += 1;
                last = failure;
            }
        }
    }
    Err(last)
}

/// Writes the answer; a refusal is all there is to say, so it finishes the stream and wants no more.
async fn answer(stream: &mut Stream, answer: &Answer) {
    let mut bytes = BytesMut::new();
    answer.encode(&mut bytes);
    let mut bytes = bytes.freeze();
    // Whoever has gone needs no answer.
    let sent = stream.send.send(&mut bytes).await;
    if sent.is_ok() && answer.code != Code::Finished {
        stream.send.finish().ok();
        stream.recv.stop(answer.code);
    }
}

/// Says that the backend was reached, and copies until both ways are done.
async fn run<N: Net>(
    node: &Node<N>,
    tcp: &N::Stream,
    stream: &mut Stream,
    first: Bytes,
    permit: &Permit,
    flow: &Flow,
) -> Result<(), Failure> {
    answer(stream, &Answer::reached()).await;
    let window = node.limits.window(stream.recv.connection().class());
    let budget = node.records.budget.of(&stream.peer.cluster, window);
    let count = (&flow.sent, &flow.received, &budget);
    let left = Left { to_tcp: first, ..Left::default() };
    let (send, recv) = (&mut stream.send, &mut stream.recv);
    let end = tokio::select! {
        biased;
        withdrawn = node.withdrawn(permit) => Err(withdrawn),
        end = copy(tcp, send, recv, left, Code::BackendReset, count) => end.map_err(Failure::broken),
    };
    if let Err(failure) = &end {
        stream.send.reset(failure.code);
        stream.recv.stop(failure.code);
    }
    end
}
