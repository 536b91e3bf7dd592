//! The opening of an outbound stream: header and first bytes in one flight, then the answer.
//!
//! Nothing waits for the peer: the first byte of an answer costs one round trip. Until the peer has said
//! whether it reached a backend, what was sent is kept, so that after an explicit refusal another node
//! can be sent the same. At most [`LIMIT`] bytes go before the answer, which is what a first flight holds
//! anyway; the rest waits in the kernel.

use std::collections::VecDeque;

use adit_core::code::Code;
use adit_core::wire::header::{Answer, Header};
use adit_transport::{RecvError, RecvStream, SendStream, Stream};
use bytes::{Bytes, BytesMut};

use crate::copy::Left;
use crate::flow::{Counter, Failure};
use crate::tcp::{Room, Tcp};

/// The most bytes of the workload that are sent, and kept, before the answer.
const LIMIT: usize = 64 * 1024;

/// What has been sent and may have to be sent again.
#[derive(Debug)]
pub(crate) struct FirstFlight {
    header: Bytes,
    /// What the workload has said so far.
    said: Vec<Bytes>,
    len: usize,
    /// Whether it has said that this is all.
    finished: bool,
}

/// What became of one attempt.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The backend was reached; the rest is copying.
    Reached(Left),
    /// The peer says that it delivered nothing.
    Refused(Failure),
    /// No answer will come, and what was sent may or may not have been delivered.
    Lost(Code),
    /// The workload has gone.
    SourceReset,
}

impl FirstFlight {
    pub(crate) fn new(header: &Header) -> Self {
        let mut bytes = BytesMut::new();
        header.encode(&mut bytes);
        Self { header: bytes.freeze(), said: Vec::new(), len: 0, finished: false }
    }

    /// Whether no byte of the workload has left this node.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sends all that has been said so far and what is said meanwhile, until the peer answers.
    pub(crate) async fn send<T: Tcp>(
        &mut self,
        tcp: &T,
        stream: &mut Stream,
        count: &Counter,
    ) -> Outcome {
        let mut unsent: VecDeque<Bytes> = [self.header.clone()].into();
        unsent.extend(self.said.iter().cloned());
        let answered = tokio::select! {
            biased;
            answered = answer(&mut stream.recv) => answered,
            () = self.speak(tcp, &mut stream.send, &mut unsent, count) => return Outcome::SourceReset,
        };
        match answered {
            Ok((Answer { code: Code::Finished, .. }, to_tcp)) => {
                Outcome::Reached(Left { to_stream: unsent, finished: self.finished, to_tcp })
            }
            Ok((Answer { code, reason }, _)) => Outcome::Refused(Failure::new(code, reason)),
            Err(RecvError::Reset(code)) if code.is_refusal() => Outcome::Refused(code.into()),
            // Whatever its code, the end of a connection may have overtaken an answer.
            Err(error) => Outcome::Lost(error.code()),
        }
    }

    /// Sends what is `unsent` and what the workload says, up to [`LIMIT`]. Returns only when the workload
    /// has gone. Dropping it loses nothing: what was read and not yet sent is in `unsent`.
    async fn speak<T: Tcp>(
        &mut self,
        tcp: &T,
        send: &mut SendStream,
        unsent: &mut VecDeque<Bytes>,
        count: &Counter,
    ) {
        let mut room = Room::new();
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
            if self.finished || self.len >= LIMIT {
                return tcp.broken().await;
            }
            match tcp.read(&mut room).await {
                Ok(Some(bytes)) => {
                    self.len += bytes.len();
                    count.add(bytes.len());
                    self.said.push(bytes.clone());
                    unsent.push_back(bytes);
                }
                Ok(None) => self.finished = true,
                Err(_) => return,
            }
        }
    }
}

/// Reads the answer, and what came right behind it.
async fn answer(recv: &mut RecvStream) -> Result<(Answer, Bytes), RecvError> {
    let nonsense = RecvError::Reset(Code::ProtocolError);
    let mut got = BytesMut::new();
    loop {
        let mut chunk = [Bytes::new()];
        // An end before the answer is none: the peer has not said what became of it.
        recv.read_chunks(&mut chunk).await?.ok_or(nonsense)?;
        got.extend_from_slice(&chunk[0]);
        match Answer::decode(&got) {
            Ok(Some((answer, taken))) => return Ok((answer, got.split_off(taken).freeze())),
            Ok(None) => {}
            Err(_) => return Err(nonsense),
        }
    }
}
