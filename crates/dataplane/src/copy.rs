//! Bytes from TCP to stream and from stream to TCP, each way on its own.
//!
//! The contract: FIN becomes FIN and RST becomes RST. A direction that reached its end finishes, and the
//! other goes on for as long as it likes; any other end of either direction is an error that resets all
//! four. There are no queues: what the far side does not take is not read on the near side, but for one piece, which is
//! charged to the peer while it waits. No timer ends a flow: an agent may think for ten minutes, and half an hour after its caller said all.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use adit_core::code::Code;
use adit_transport::budget::StallCharge;
use adit_transport::{QuicConnection, RecvStream, SendStream};
use bytes::Bytes;
use futures_util::poll;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::flow::Flow;
use crate::tcp::{ReadBuffer, Tcp};

/// Chunks that one turn takes from a stream.
const MAX_BATCH: usize = 32;

/// Bytes that the opening of a flow leaves for the copy to deliver.
#[derive(Debug, Default)]
pub(crate) struct PendingCopy {
    /// Read from TCP, and not yet written to the stream.
    pub(crate) to_stream: VecDeque<Bytes>,
    /// True if TCP has already come to its end.
    pub(crate) finished: bool,
    /// Read from the stream, and not yet written to TCP.
    pub(crate) to_tcp: Bytes,
}

/// Copies both ways until both have finished, which settles the connection.
///
/// # Errors
/// Why it ended otherwise; `reset` is the code of a TCP connection that broke. The caller resets the
/// stream; the connection is reset when it is dropped.
pub(crate) async fn copy<T: Tcp>(
    tcp: &T,
    send: &mut SendStream,
    recv: &mut RecvStream,
    pending: PendingCopy,
    reset: Code,
    flow: &Flow,
) -> Result<(), Code> {
    let PendingCopy { to_stream, finished, to_tcp } = pending;
    let end = {
        let unwatched = PeerUnwatched::default();
        let unsent = UnsentChunks { chunks: to_stream, finished };
        let forward = tcp_to_stream(tcp, send, unsent, &unwatched, flow, reset);
        let backward = stream_to_tcp(tcp, recv, to_tcp, &unwatched, flow, reset);
        tokio::select! {
            biased;
            both = futures_util::future::try_join(forward, backward) => both.map(|_| tcp.close_gracefully()),
            // Also where neither direction would notice: one waits for the peer, the other has finished.
            () = tcp.broken() => Err(reset),
        }
    };
    if end == Err(reset) {
        wait_for_delivery(send).await;
    }
    end
}

/// Lets what TCP brought before it broke arrive: a server may answer,
/// and close without having read all of the request (413 and the like), which the kernel makes a reset.
/// A reset of the stream would overtake the answer, and QUIC has no way to order one behind it
/// (RESET_STREAM_AT is a draft). Three round trips, and what a lost packet's probe is late
/// (RFC 9002 §6.2.1, with the default max_ack_delay).
pub(crate) async fn wait_for_delivery(send: &mut SendStream) {
    const PROBE_DELAY: Duration = Duration::from_millis(30);
    let Some(last) = send.last_sent() else { return };
    let until = last + send.connection().stats().rtt * 3 + PROBE_DELAY;
    // Ends with the peer's interest, or with the connection.
    timeout_at(until, send.stopped()).await.ok();
}

/// Set while the direction from the peer would not notice that the peer has given up: it has ended, or its
/// reader does not keep up. Otherwise a reset says so there, at once.
#[derive(Debug, Default)]
struct PeerUnwatched {
    is_unwatched: AtomicBool,
    changed: Notify,
}

impl PeerUnwatched {
    fn set(&self, is_deaf: bool) {
        self.is_unwatched.store(is_deaf, Relaxed);
        self.changed.notify_waiters();
    }

    async fn wait(&self) {
        // Both directions are one task's, so nothing happens between look and wait.
        while !self.is_unwatched.load(Relaxed) {
            self.changed.notified().await;
        }
    }
}

/// Bytes that TCP has brought and the stream has not yet taken.
struct UnsentChunks {
    chunks: VecDeque<Bytes>,
    /// True if no more will follow.
    finished: bool,
}

async fn tcp_to_stream<T: Tcp>(
    tcp: &T,
    send: &mut SendStream,
    unsent: UnsentChunks,
    unwatched: &PeerUnwatched,
    flow: &Flow,
    reset: Code,
) -> Result<(), Code> {
    let UnsentChunks { chunks: mut unsent, mut finished } = unsent;
    let mut buffer = ReadBuffer::new();
    let peer = send.connection().clone();
    loop {
        let held = unsent.iter().map(Bytes::len).sum::<usize>() + buffer.spare();
        flush(send, &mut unsent, &peer, held).await?;
        if finished {
            break;
        }
        let given_up = async {
            unwatched.wait().await;
            send.stopped().await
        };
        tokio::select! {
            biased;
            read = tcp.read(&mut buffer) => match read {
                Ok(Some(bytes)) => {
                    flow.count_sent(bytes.len());
                    unsent.push_back(bytes);
                }
                Ok(None) => finished = true,
                Err(_) => return Err(reset),
            },
            end = given_up => return Err(end.err().map_or(Code::Internal, |e| e.code())),
        }
    }
    drop(buffer);
    // The opening may have said so already; whatever else is wrong, waiting tells.
    send.finish().ok();
    flow.count_ended_way();
    send.stopped().await.map_err(|e| e.code())
}

/// Sends all of `unsent`. Until it went, `held` bytes are kept for the peer.
async fn flush(
    send: &mut SendStream,
    unsent: &mut VecDeque<Bytes>,
    peer: &QuicConnection,
    held: usize,
) -> Result<(), Code> {
    let mut sending = pin!(send_all(send, unsent));
    if let Poll::Ready(sent) = poll!(&mut sending) {
        return sent;
    }
    // In a box, as what seldom waits: every flow has room for the rest, however long it idles.
    let charge = Box::pin(charge_unsent(peer, || held as u64));
    tokio::select! {
        biased;
        sent = sending => sent,
        () = charge => Err(Code::OverBudget),
    }
}

async fn send_all(send: &mut SendStream, unsent: &mut VecDeque<Bytes>) -> Result<(), Code> {
    while let Some(next) = unsent.front_mut() {
        send.send_some(std::slice::from_mut(next)).await.map_err(|e| e.code())?;
        if next.is_empty() {
            unsent.pop_front();
        }
    }
    Ok(())
}

/// Charges to the peer what is kept to be sent to it once it has been so for a while, and returns when the
/// budget wants that back. `bytes` says how much it is, and may say more later.
pub(crate) async fn charge_unsent(peer: &QuicConnection, bytes: impl Fn() -> u64) {
    sleep(STALL_TIMEOUT).await;
    loop {
        let before = bytes();
        let held = usize::try_from(before).unwrap_or(usize::MAX);
        let Some(charge) = peer.charge_unsent(held).filter(|_| before > 0) else {
            sleep(UNSENT_CHECK_INTERVAL).await;
            continue;
        };
        while bytes() == before {
            if timeout(UNSENT_CHECK_INTERVAL, charge.evicted()).await.is_ok() {
                return;
            }
        }
    }
}

async fn stream_to_tcp<T: Tcp>(
    tcp: &T,
    recv: &mut RecvStream,
    first: Bytes,
    unwatched: &PeerUnwatched,
    flow: &Flow,
    reset: Code,
) -> Result<(), Code> {
    flow.count_received(first.len());
    tcp.write(&mut [first]).await.map_err(|_| reset)?;
    let mut chunks: [Bytes; MAX_BATCH] = Default::default();
    let mut stall = StreamStall::default();
    loop {
        let filled = {
            let mut read = pin!(recv.read_chunks(&mut chunks));
            match poll!(&mut read) {
                Poll::Ready(filled) => filled,
                Poll::Pending => {
                    stall.drained();
                    read.await
                }
            }
        };
        let Some(filled) = filled.map_err(|e| e.code())? else {
            break;
        };
        let batch = &mut chunks[..filled];
        flow.count_received(batch.iter().map(Bytes::len).sum());
        let mut write = pin!(tcp.write(batch));
        if let Poll::Ready(written) = poll!(&mut write) {
            written.map_err(|_| reset)?;
            continue;
        }
        // A peer that went away politely had its streams acknowledged: what is here is whole.
        let gone = async {
            let code = recv.connection().closed().await.code;
            if matches!(code, Code::Draining | Code::ConnectionUnused) {
                return std::future::pending().await;
            }
            code
        };
        let evicted = Box::pin(stall.evicted(recv, unwatched));
        tokio::select! {
            biased;
            written = write => written.map_err(|_| reset)?,
            // That the peer gave up on the stream shows in the other direction, or when this one is read
            // again; a connection that is gone would show nowhere.
            code = gone => return Err(code),
            () = evicted => return Err(Code::OverBudget),
        }
        unwatched.set(false);
        stall.resumed();
    }
    unwatched.set(true);
    flow.count_ended_way();
    tcp.finish().await.map_err(|_| reset)
}

/// The reader of a stream that does not keep up has so long before the stream counts as stalled. What it holds
/// meanwhile is within its connection's window.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_millis(20);

/// The interval between two checks whether more is kept to be sent than before.
const UNSENT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A stream that stalled keeps what its peer was granted for it for so long, even if all it held was taken: it
/// cannot be taken back at once, and a stream that stalls again and again must not be granted more each time.
const STALL_CHARGE_LIFETIME: Duration = Duration::from_secs(10);

/// The charge of a stream while its reader does not keep up.
#[derive(Debug, Default)]
struct StreamStall(Option<(StallCharge, Instant)>);

impl StreamStall {
    /// Waits until the stream is to be reset for its memory.
    async fn evicted(&mut self, recv: &RecvStream, unwatched: &PeerUnwatched) {
        sleep(STALL_TIMEOUT).await;
        unwatched.set(true);
        match &mut self.0 {
            // Its window may have grown since.
            Some((stall, _)) if stall.covers(recv.window()) => stall.reader_stalled(),
            _ => self.0 = recv.stall().map(|stall| (stall, Instant::now())),
        }
        match &self.0 {
            Some((stall, _)) => stall.evicted().await,
            None => std::future::pending().await,
        }
    }

    fn resumed(&mut self) {
        if let Some((stall, _)) = &mut self.0 {
            stall.reader_resumed();
        }
    }

    /// All that had arrived was taken.
    fn drained(&mut self) {
        if self.0.as_ref().is_some_and(|(_, since)| since.elapsed() >= STALL_CHARGE_LIFETIME) {
            self.0 = None;
        }
    }
}
