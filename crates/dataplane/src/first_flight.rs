//! The opening of an outbound stream: header and first bytes in one flight, then the answer.
//!
//! Nothing waits for the peer: the first byte of an answer costs one round trip. Until the peer has said
//! whether it reached a backend, what was sent is kept, so that after an explicit refusal another node
//! can be sent the same. At most [`MAX_REPLAY_BYTES`] bytes go before the answer, which is what a first flight holds
//! anyway; the rest waits in the kernel.

use std::collections::VecDeque;

use adit_core::code::Code;
use adit_core::wire::header::{StreamAnswer, StreamHeader};
use adit_transport::{PeerStream, RecvError, RecvStream, SendStream};
use bytes::{Bytes, BytesMut};

use crate::copy::{PendingCopy, charge_unsent};
use crate::flow::{ByteCounter, FlowFailure};
use crate::tcp::{ReadBuffer, Tcp};

/// The most bytes of the workload that are sent, and kept, before the answer.
const MAX_REPLAY_BYTES: usize = 64 * 1024;

/// The bytes that have been sent and may have to be sent again.
#[derive(Debug)]
pub(crate) struct FirstFlight {
    header: Bytes,
    /// The bytes of the workload so far.
    sent: Vec<Bytes>,
    len: usize,
    /// True if the workload has closed its direction.
    finished: bool,
}

/// The result of one attempt.
#[derive(Debug)]
pub(crate) enum AttemptOutcome {
    /// The backend was reached; the rest is copying.
    Reached(PendingCopy),
    /// The peer says that it delivered nothing.
    Refused(FlowFailure),
    /// No answer will come, and what was sent may or may not have been delivered.
    Lost(Code),
    /// The workload has gone.
    SourceReset,
}

impl FirstFlight {
    pub(crate) fn new(header: &StreamHeader) -> Self {
        let mut bytes = BytesMut::new();
        header.encode(&mut bytes);
        Self { header: bytes.freeze(), sent: Vec::new(), len: 0, finished: false }
    }

    /// True if no byte of the workload has left this node.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sends all that has been said so far and what is said meanwhile, until the peer answers.
    pub(crate) async fn send<T: Tcp>(
        &mut self,
        tcp: &T,
        stream: &mut PeerStream,
        count: &ByteCounter,
    ) -> AttemptOutcome {
        let mut unsent: VecDeque<Bytes> = [self.header.clone()].into();
        unsent.extend(self.sent.iter().cloned());
        let peer = stream.recv.connection().clone();
        let answered = tokio::select! {
            biased;
            answered = answer(&mut stream.recv) => answered,
            // A peer that does not answer has thousands of streams keep what they said.
            () = charge_unsent(&peer, || count.bytes()) => return AttemptOutcome::Lost(Code::OverBudget),
            () = self.send_unsent(tcp, &mut stream.send, &mut unsent, count) => return AttemptOutcome::SourceReset,
        };
        match answered {
            Ok((StreamAnswer { code: Code::Finished, .. }, to_tcp)) => {
                AttemptOutcome::Reached(PendingCopy {
                    to_stream: unsent,
                    finished: self.finished,
                    to_tcp,
                })
            }
            Ok((StreamAnswer { code, reason }, _)) => {
                AttemptOutcome::Refused(FlowFailure::new(code, reason))
            }
            Err(RecvError::Reset(code)) if code.is_refusal() => {
                AttemptOutcome::Refused(code.into())
            }
            // Whatever its code, the end of a connection may have overtaken an answer.
            Err(error) => AttemptOutcome::Lost(error.code()),
        }
    }

    /// Sends what is `unsent` and what the workload says, up to [`MAX_REPLAY_BYTES`]. Returns only when the workload
    /// has gone. Dropping it loses nothing: what was read and not yet sent is in `unsent`.
    async fn send_unsent<T: Tcp>(
        &mut self,
        tcp: &T,
        send: &mut SendStream,
        unsent: &mut VecDeque<Bytes>,
        count: &ByteCounter,
    ) {
        let mut buffer = ReadBuffer::new();
        loop {
            while let Some(next) = unsent.front_mut() {
                tokio::select! {
                    biased;
                    sent = send.send_some(std::slice::from_mut(next)) => if sent.is_err() {
                        // The peer wants no more; its answer says why.
                        return tcp.broken().await;
                    },
                    () = tcp.broken() => return,
                }
                if next.is_empty() {
                    unsent.pop_front();
                }
            }
            if self.finished {
                // Fails only where the peer wants no more, which its answer explains.
                send.finish().ok();
            }
            if self.finished || self.len >= MAX_REPLAY_BYTES {
                return tcp.broken().await;
            }
            match tcp.read(&mut buffer).await {
                Ok(Some(bytes)) => {
                    self.len += bytes.len();
                    count.add(bytes.len());
                    self.sent.push(bytes.clone());
                    unsent.push_back(bytes);
                }
                Ok(None) => self.finished = true,
                Err(_) => return,
            }
        }
    }
}

/// Reads the answer, and what came right behind it.
async fn answer(recv: &mut RecvStream) -> Result<(StreamAnswer, Bytes), RecvError> {
    let nonsense = RecvError::Reset(Code::ProtocolError);
    let mut got = BytesMut::new();
    loop {
        let mut chunk = [Bytes::new()];
        // An end before the answer is none: the peer has not said what became of it.
        recv.read_chunks(&mut chunk).await?.ok_or(nonsense)?;
        got.extend_from_slice(&chunk[0]);
        match StreamAnswer::decode(&got) {
            Ok(Some((answer, taken))) => return Ok((answer, got.split_off(taken).freeze())),
            Ok(None) => {}
            Err(_) => return Err(nonsense),
        }
    }
}
