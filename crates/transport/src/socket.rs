//! The demultiplexer under quinn: every packet reaches the endpoint that has its connection.
//!
//! A listening address has one [`Leg`] per worker, each with a socket of its own (`SO_REUSEPORT`). The
//! system spreads clients over the sockets by a hash of their address and port, so a client whose port
//! changes (a NAT that forgot it) may reach another leg than the one that knows it. Its packets say
//! where they belong ([`crate::cid`]); the leg that receives one for another core puts it in that leg's
//! inbox. All else, first flights of new clients above all, stays with the leg that received it.
//!
//! A packet for the own core costs two short hashes, and the second one of a batch not even that:
//! nothing is locked, nothing allocated. Inboxes are bounded and drop what does not fit, as a network
//! would.
//!
//! **The seam for hand-overs.** A packet of another generation belongs to another process. There is none
//! yet to give it to: it goes by its core like any other, where it is answered with a stateless reset,
//! since that process is gone. A hand-over forwards it in [`Leg::elsewhere`] instead.

mod inbox;
mod thrifty;

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use self::inbox::Inbox;
pub(crate) use self::thrifty::{Scratch, Thrifty};
use crate::cid::{self, CidKey, Route};

/// What the legs of a node have passed among each other.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// Datagrams that reached their connection over another leg's socket.
    pub(crate) handed: AtomicU64,
    /// Datagrams that did not, because the inbox was full.
    pub(crate) dropped: AtomicU64,
}

/// One worker's part of a listening address.
pub(crate) struct Leg {
    socket: Arc<dyn AsyncUdpSocket>,
    route: Route,
    key: CidKey,
    /// Every leg's, in the order of their cores.
    inboxes: Arc<[Inbox]>,
    passed: Arc<Passed>,
}

impl Leg {
    /// Joins the sockets of one listening address, one for each core in order.
    pub(crate) fn join(
        sockets: Vec<Arc<dyn AsyncUdpSocket>>,
        generation: u8,
        key: &CidKey,
        passed: &Arc<Passed>,
    ) -> Vec<Arc<Self>> {
        let inboxes: Arc<[Inbox]> = sockets.iter().map(|_| Inbox::default()).collect();
        let leg = |(core, socket)| {
            Arc::new(Self {
                socket,
                route: Route { generation, core },
                key: key.clone(),
                inboxes: Arc::clone(&inboxes),
                passed: Arc::clone(passed),
            })
        };
        (0..=u8::MAX).zip(sockets).map(leg).collect()
    }

    /// The leg that a datagram belongs to, if it is another one. `last` is the ID of the datagram
    /// before it in the batch, which usually is the same.
    fn elsewhere<'a>(
        &self,
        datagram: &'a [u8],
        last: &mut Option<(&'a [u8; cid::LEN], Option<usize>)>,
    ) -> Option<usize> {
        let id = cid::destination(datagram)?;
        if let Some((seen, verdict)) = last
            && *seen == id
        {
            return *verdict;
        }
        let verdict = self.key.open(id).and_then(|route| {
            let known = usize::from(route.core) < self.inboxes.len();
            (route.core != self.route.core && known).then_some(route.core.into())
        });
        *last = Some((id, verdict));
        verdict
    }

    /// Takes out of a received buffer what belongs to other legs, and closes the gaps.
    ///
    /// The buffer holds datagrams of one sender, `stride` bytes each but for the last (GRO); they need
    /// not all belong to one connection.
    fn sort(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        if self.inboxes.len() == 1 {
            return;
        }
        let received = &buffer[..meta.len];
        // quinn takes a stride of nothing for one datagram, too.
        let stride = if meta.stride == 0 { meta.len.max(1) } else { meta.stride };
        let mut last = None;
        if received.chunks(stride).all(|datagram| self.elsewhere(datagram, &mut last).is_none()) {
            return;
        }
        self.part(buffer, meta, stride);
    }

    /// The rare half of [`Leg::sort`].
    #[cold]
    fn part(&self, buffer: &mut [u8], meta: &mut RecvMeta, stride: usize) {
        let mut kept = 0;
        for start in (0..meta.len).step_by(stride) {
            let end = (start + stride).min(meta.len);
            if let Some(core) = self.elsewhere(&buffer[start..end], &mut None) {
                let counter = if self.inboxes[core].put(&buffer[start..end], meta) {
                    &self.passed.handed
                } else {
                    &self.passed.dropped
                };
                counter.fetch_add(1, Ordering::Relaxed);
            } else {
                buffer.copy_within(start..end, kept);
                kept += end - start;
            }
        }
        meta.len = kept;
    }
}

impl AsyncUdpSocket for Leg {
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let inbox = &self.inboxes[usize::from(self.route.core)];
        let handed = inbox.take(bufs, meta);
        if handed == bufs.len() {
            return Poll::Ready(Ok(handed));
        }
        match self.socket.poll_recv(cx, &mut bufs[handed..], &mut meta[handed..]) {
            Poll::Ready(Ok(received)) => {
                let received = handed..handed + received;
                for (buffer, meta) in
                    bufs[received.clone()].iter_mut().zip(&mut meta[received.clone()])
                {
                    self.sort(buffer, meta);
                }
                Poll::Ready(Ok(received.end))
            }
            Poll::Pending | Poll::Ready(Err(_)) if handed > 0 => Poll::Ready(Ok(handed)),
            Poll::Pending if inbox.wait(cx) => Poll::Pending,
            // Something arrived after it was looked into: look again.
            Poll::Pending => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            failed @ Poll::Ready(Err(_)) => failed,
        }
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

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl fmt::Debug for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leg").field("route", &self.route).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
