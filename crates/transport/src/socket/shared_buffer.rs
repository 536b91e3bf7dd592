//! A socket that needs little memory of quinn's.
//!
//! quinn gives every endpoint a receive buffer for 32 messages of 64 datagrams each, 3 MB, and an
//! allocator that reuses memory has all of it resident at once (measured: 2.8 MB a connection). A node
//! has an endpoint for every dial, so here quinn is asked for a sixteenth of that; what the system
//! delivers goes through one buffer that all dials of a worker share, and is copied out of it.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use adit_runtime::Mutex;

use quinn::udp::{BATCH_SIZE, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// Messages that are received at once. A message is one datagram, or many of one size (GRO).
const MAX_MESSAGES: usize = 2;
/// No message is longer: the limit of UDP.
const MAX_MESSAGE_LEN: usize = 1 << 16;
/// Datagrams that the system puts into one message at most (`UDP_GRO_CNT_MAX`).
const MAX_DATAGRAMS_PER_MESSAGE: usize = 64;
/// Datagrams of the greatest size that one of quinn's buffers holds: as few as still let all of
/// [`MAX_MESSAGES`] be spread over its buffers.
const DATAGRAMS_PER_BUFFER: usize = MAX_DATAGRAMS_PER_MESSAGE * MAX_MESSAGES / BATCH_SIZE;

/// The buffer that a worker's dials share.
pub(crate) struct RecvBuffer(Mutex<Box<[u8]>>);

impl Default for RecvBuffer {
    fn default() -> Self {
        Self(Mutex::new(vec![0; MAX_MESSAGES * MAX_MESSAGE_LEN].into()))
    }
}

/// A socket that receives through a [`RecvBuffer`].
pub(crate) struct SharedBufferSocket {
    pub(crate) socket: Arc<dyn AsyncUdpSocket>,
    pub(crate) recv_buffer: Arc<RecvBuffer>,
}

impl AsyncUdpSocket for SharedBufferSocket {
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // Endpoints of one worker run on one thread, so nobody waits for this lock.
        let mut scratch = self.recv_buffer.0.lock();
        let mut received = [RecvMeta::default(); MAX_MESSAGES];
        let count = {
            let mut each = scratch.chunks_mut(MAX_MESSAGE_LEN).map(IoSliceMut::new);
            let mut messages: [IoSliceMut<'_>; MAX_MESSAGES] =
                std::array::from_fn(|_| each.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
            ready!(self.socket.poll_recv(cx, &mut messages, &mut received))?
        };
        let size = bufs.first().map_or(0, |buf| buf.len());
        let mut slots = bufs.iter_mut().zip(metas);
        let mut filled = 0;
        for (message, meta) in scratch.chunks(MAX_MESSAGE_LEN).zip(&received[..count]) {
            let stride = if meta.stride == 0 { meta.len.max(1) } else { meta.stride };
            // Datagrams that do not fit are longer than anybody may send: they belong to no connection.
            let whole = (size / stride * stride).max(1);
            for part in message[..meta.len].chunks(whole).filter(|_| stride <= size) {
                let Some((buf, slot)) = slots.next() else { break };
                buf[..part.len()].copy_from_slice(part);
                *slot = RecvMeta { len: part.len(), stride, ..*meta };
                filled += 1;
            }
        }
        Poll::Ready(Ok(filled))
    }

    fn max_receive_segments(&self) -> usize {
        DATAGRAMS_PER_BUFFER.min(self.socket.max_receive_segments())
    }

    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl std::fmt::Debug for SharedBufferSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SharedBufferSocket").field(&self.socket).finish()
    }
}
