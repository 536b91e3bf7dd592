//! Report streams: the controller of our own cluster asks each node for its report, and sends it what the
//! others reported.
//!
//! Because it asks each node, and not hubs about it, every answer is proved by the certificate of the node
//! that it is about. `adit_core` reads what a report says; the caller sets what this node says
//! ([`super::Links::answer_reports`]).

use std::sync::Arc;
use std::time::Duration;

use adit_core::code::Code;
use adit_core::name::{NodeKey, NodeName};
use adit_core::snapshot::Class;
use adit_core::wire::StreamKind;
use adit_core::wire::control::ANSWERS_REPORTS;
use adit_core::wire::report::{MAX_QUESTION_LEN, MAX_REPORT_LEN, NodeReport};
use bytes::Bytes;
use tokio::time::timeout;

use super::connections::StreamGuard;
use super::inner::LinksInner;
use super::stream::OpenStreamError;
use crate::peer::PeerInfo;
use crate::stream::{RecvStream, SendStream};

/// From when a report is asked for on a connection to when it is there, and from when it is sent to when it was
/// taken.
const REPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// Report streams that a controller may have open on one connection, beside its subscriptions.
const MAX_OPEN_REPORTS: usize = 4;

/// Checks whether a peer answers reports: an earlier version takes the question for an offence.
pub(super) fn check_answers_reports(peer: &PeerInfo) -> Result<(), OpenStreamError> {
    if peer.capabilities & ANSWERS_REPORTS != 0 {
        return Ok(());
    }
    let reason = format!("node {} is of a version that does not report", peer.node);
    Err(OpenStreamError { code: Code::VersionMismatch, reason })
}

/// Answers a stream whose kind was read.
pub(super) async fn serve(
    shared: Arc<LinksInner>,
    using: StreamGuard,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let conn = using.connection();
    let snapshot = shared.snapshot();
    if conn.peer.cluster != snapshot.local.cluster || !conn.peer.node.is_controller() {
        recv.stop(Code::Denied);
        send.reset(Code::Denied);
        shared.in_vain(conn, Code::Denied);
        return;
    }
    if conn.usage_counts().publishing > snapshot.links.len() + MAX_OPEN_REPORTS {
        recv.stop(Code::OverLimit);
        return send.reset(Code::OverLimit);
    }
    // What cannot be read is as good as nothing.
    let question = timeout(REPORT_TIMEOUT, read_all(&mut recv, MAX_QUESTION_LEN)).await;
    let question = question.ok().and_then(Result::ok).unwrap_or_default();
    recv.stop(Code::Finished);
    let bytes = shared.runtime.report.get().map(|report| report(&question)).unwrap_or_default();
    match timeout(REPORT_TIMEOUT, send.send_all(&bytes)).await {
        Ok(sent) => {
            if let Err(error) = sent.and_then(|()| send.finish()) {
                send.reset(error.code());
            }
        }
        Err(_) => send.reset(Code::HeaderTimeout),
    }
}

impl LinksInner {
    /// See [`super::Links::ask_report`].
    pub(super) async fn ask_report(
        self: &Arc<Self>,
        node: &NodeName,
        question: &[u8],
    ) -> Result<NodeReport, OpenStreamError> {
        let key = NodeKey::new(&self.snapshot().local.cluster, node);
        let mut stream = self.open(0, key, Class::Interactive, StreamKind::Report).await?;
        // An earlier version does not read on, and answers all the same.
        let asked = timeout(REPORT_TIMEOUT, stream.send.send_all(question)).await;
        if matches!(asked, Ok(Ok(()))) {
            stream.send.finish().ok();
        }
        let read = timeout(REPORT_TIMEOUT, read_all(&mut stream.recv, MAX_REPORT_LEN)).await;
        let failed =
            |code, why: String| OpenStreamError { code, reason: format!("node {node} {why}") };
        let late = |_| failed(Code::HeaderTimeout, "did not report in time".to_owned());
        let bytes = read.map_err(late)?.map_err(|(code, why)| failed(code, why))?;
        NodeReport::decode(&bytes).map_err(|error| {
            stream.recv.stop(Code::ProtocolError);
            failed(Code::ProtocolError, format!("sent a report that cannot be read: {error}"))
        })
    }
}

/// Reads all of a stream, which may be that long.
async fn read_all(recv: &mut RecvStream, limit: usize) -> Result<Vec<u8>, (Code, String)> {
    let mut all = Vec::new();
    while let Some(piece) =
        recv.read_chunk(limit).await.map_err(|e| (e.code(), format!("did not report: {e}")))?
    {
        let piece: Bytes = piece;
        if all.len() + piece.len() > limit {
            recv.stop(Code::ProtocolError);
            return Err((Code::ProtocolError, format!("sent more than {limit} bytes")));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all)
}
