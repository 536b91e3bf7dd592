//! Streams over links: what a caller opens, what a peer opened, and what became of it.

use std::pin::Pin;
use std::sync::Arc;

use adit_core::code::Code;
use adit_core::wire::report::is_askers_fault;

use super::connections::StreamGuard;
use crate::peer::PeerInfo;
use crate::stream::{RecvStream, SendStream};

/// A data stream. Its kind byte has been sent, or read; the stream header comes next.
#[derive(Debug)]
pub struct PeerStream {
    /// Towards the peer.
    pub send: SendStream,
    /// From the peer.
    pub recv: RecvStream,
    /// The peer.
    pub peer: Arc<PeerInfo>,
    /// The worker on which its connection lives, and on which it is served best.
    pub worker: usize,
}

impl PeerStream {
    /// While either half lives the connection counts as used.
    pub(super) fn new(mut send: SendStream, mut recv: RecvStream, using: StreamGuard) -> Self {
        let conn = using.connection();
        let (peer, worker) = (Arc::clone(&conn.peer), conn.quic.worker().index());
        let using = Arc::new(using);
        send.hold(Arc::clone(&using) as _);
        recv.hold(using);
        Self { send, recv, peer, worker }
    }
}

/// Serves the data streams that peers open.
pub trait ServeStream: Send + Sync + 'static {
    /// Serves one stream, from its header to its end. Runs on the stream's worker, in a task of its own;
    /// what it leaves unfinished is reset.
    fn serve(&self, stream: PeerStream) -> Pin<Box<dyn Future<Output = ServeOutcome> + Send>>;
}

/// The outcome of a peer's stream, as far as the peer answers for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServeOutcome {
    /// The stream was carried, or failed through no fault of the peer's.
    Used,
    /// The peer's node opened it in vain: it asked for what it may not have, broke the protocol, or gave up.
    /// A node that does much of that is asked to stay away, and then closed.
    InVain(Code),
}

impl ServeOutcome {
    /// The outcome of a refusal by this side: in vain if the peer asked for what it may not have or broke the
    /// protocol. That a backend is gone, or this node goes away, is not the peer's doing.
    #[must_use]
    pub fn refused(code: Code) -> Self {
        let is_in_vain = is_askers_fault(true, code) || code == Code::OverLimit;
        if is_in_vain { Self::InVain(code) } else { Self::Used }
    }
}

/// The reason why no stream was opened. Nothing was sent, so another node may be tried if the code says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct OpenStreamError {
    /// The reason, as one of the list.
    pub code: Code,
    /// For people: what was tried, and what it came to.
    pub reason: String,
}
