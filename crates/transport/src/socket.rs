//! The demultiplexer under quinn: every packet reaches the endpoint that has its connection.
//!
//! A listening address has one [`WorkerSocket`] per worker, each with a socket of its own (`SO_REUSEPORT`).
//! The system spreads clients over the sockets by a hash of their address and port, so a client whose port
//! changes (a NAT that forgot it) may reach another worker's socket than the one that knows it. Its packets
//! say where they belong ([`crate::cid`]); the worker's socket that receives one for another core puts it in
//! that core's inbox. All else, first flights of new clients above all, stays with the socket that received
//! it.
//!
//! A packet for the own core costs two short hashes, and the second one of a batch not even that:
//! nothing is locked, nothing allocated. Inboxes are bounded and drop what does not fit, as a network
//! would.
//!
//! **Hand-overs.** A packet of another generation belongs to another process of this node. While that process
//! lives, its packets are forwarded to it ([`predecessors`]); once it is gone they go by their core like any
//! other, where they are answered with a stateless reset. A process that has handed over reads none of these
//! sockets any more: its inboxes are filled from what its successors forward, and it goes on sending by
//! itself.

mod frame;
mod inbox;
mod predecessors;
mod shared_buffer;

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use adit_host::relay::RelayOutcome;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

pub(crate) use self::frame::{MAX_FRAME_LEN as LONGEST_FRAME, read as read_frame};
use self::inbox::SocketInbox;
pub(crate) use self::predecessors::Predecessors;
pub(crate) use self::shared_buffer::{RecvBuffer, SharedBufferSocket};
use crate::cid::{self, CidKey, CidRoute};

/// Counts of datagrams that the workers' sockets of a node passed among each other, and to and from other
/// processes of it.
#[derive(Debug, Default)]
pub(crate) struct ForwardCounters {
    /// Datagrams that reached their connection over another worker's socket.
    pub(crate) rerouted: AtomicU64,
    /// Datagrams that did not, because the inbox was full.
    pub(crate) rerouted_dropped: AtomicU64,
    /// Datagrams that were forwarded to an older process.
    pub(crate) forwarded: AtomicU64,
    /// Datagrams that were not, because that process is behind or gone.
    pub(crate) forward_dropped: AtomicU64,
    /// Datagrams that a younger process forwarded to this one.
    pub(crate) received: AtomicU64,
}

/// The parts that all workers' sockets of a node share.
#[derive(Clone)]
pub(crate) struct WorkerSocketContext {
    /// Which of several processes that share the listening addresses this is.
    pub(crate) generation: u8,
    pub(crate) key: CidKey,
    pub(crate) forward_counters: Arc<ForwardCounters>,
    pub(crate) predecessors: Arc<Predecessors>,
    /// Another process reads the sockets.
    pub(crate) reading_paused: Arc<AtomicBool>,
}

/// The owner of a datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DatagramOwner {
    /// The worker's socket that received it.
    Here,
    /// The worker's socket of another core.
    Core(usize),
    /// An older process.
    Predecessor(usize),
}

/// A worker's socket of a listening address.
pub(crate) struct WorkerSocket {
    /// The socket through which it sends; it reads this one, too.
    socket: Arc<dyn AsyncUdpSocket>,
    /// Further sockets of the address that it reads: the process before had more workers.
    others: Vec<Arc<dyn AsyncUdpSocket>>,
    /// Which socket is read first, so that no flood at one keeps the others unread.
    turn: AtomicUsize,
    listening: SocketAddr,
    core: u8,
    /// The inboxes of all workers' sockets, in the order of their cores.
    inboxes: Arc<[SocketInbox]>,
    context: WorkerSocketContext,
}

impl WorkerSocket {
    /// Joins the sockets of one listening address: for each core in order, those that it reads, of which
    /// it sends through the first. A core without any ends the address's sockets.
    pub(crate) fn join(
        sockets: Vec<Vec<Arc<dyn AsyncUdpSocket>>>,
        listening: SocketAddr,
        context: &WorkerSocketContext,
    ) -> Vec<Arc<Self>> {
        let inboxes: Arc<[SocketInbox]> = sockets.iter().map(|_| SocketInbox::default()).collect();
        let socket_of = |(core, sockets): (u8, Vec<_>)| {
            let mut sockets = sockets.into_iter();
            Some(Arc::new(Self {
                socket: sockets.next()?,
                others: sockets.collect(),
                turn: AtomicUsize::new(0),
                listening,
                core,
                inboxes: Arc::clone(&inboxes),
                context: context.clone(),
            }))
        };
        (0..=u8::MAX).zip(sockets).map_while(socket_of).collect()
    }

    /// The listening address of this socket.
    pub(crate) fn listening(&self) -> SocketAddr {
        self.listening
    }

    /// Wakes the endpoint, which then checks again what it may read.
    pub(crate) fn wake(&self) {
        self.inboxes[usize::from(self.core)].wake();
    }

    /// Takes in datagrams of one sender that another process received for this one, at any socket of their
    /// listening address.
    pub(crate) fn accept_forwarded(&self, datagrams: &[u8], meta: &RecvMeta) {
        let passed = &self.context.forward_counters;
        for datagram in datagrams.chunks(meta.stride.max(1)) {
            let route = cid::destination(datagram).and_then(|id| self.context.key.open_route(id));
            let inbox = route
                .filter(|route| route.generation == self.context.generation)
                .and_then(|route| self.inboxes.get(usize::from(route.core)));
            let taken = inbox.is_some_and(|inbox| inbox.push(datagram, meta));
            let counter = if taken { &passed.received } else { &passed.rerouted_dropped };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The owner of a datagram. `last` is the ID of the datagram before it in the batch, which usually is the
    /// same.
    fn owner_of<'a>(
        &self,
        datagram: &'a [u8],
        last: &mut Option<(&'a [u8; cid::CID_LEN], DatagramOwner)>,
    ) -> DatagramOwner {
        let Some(id) = cid::destination(datagram) else { return DatagramOwner::Here };
        if let Some((seen, verdict)) = last
            && *seen == id
        {
            return *verdict;
        }
        let verdict = self
            .context
            .key
            .open_route(id)
            .map_or(DatagramOwner::Here, |at| self.owner_of_route(at));
        *last = Some((id, verdict));
        verdict
    }

    fn owner_of_route(&self, route: CidRoute) -> DatagramOwner {
        if route.generation != self.context.generation
            && let Some(elder) = self.context.predecessors.find(route.generation)
        {
            return DatagramOwner::Predecessor(elder);
        }
        let core = usize::from(route.core);
        if route.core != self.core && core < self.inboxes.len() {
            DatagramOwner::Core(core)
        } else {
            DatagramOwner::Here
        }
    }

    /// Takes out of a received buffer what belongs elsewhere, and closes the gaps.
    ///
    /// The buffer holds datagrams of one sender, `stride` bytes each but for the last (GRO); they need
    /// not all belong to one connection, nor to one process.
    fn keep_own(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        if self.inboxes.len() == 1 && self.context.predecessors.is_empty() {
            return;
        }
        let received = &buffer[..meta.len];
        // quinn takes a stride of nothing for one datagram, too.
        let stride = if meta.stride == 0 { meta.len.max(1) } else { meta.stride };
        let mut last = None;
        let here = |datagram| self.owner_of(datagram, &mut last) == DatagramOwner::Here;
        if received.chunks(stride).all(here) {
            return;
        }
        self.split_off(buffer, meta, stride);
    }

    /// The rarer half of [`WorkerSocket::keep_own`].
    #[cold]
    fn split_off(&self, buffer: &mut [u8], meta: &mut RecvMeta, stride: usize) {
        let mut kept = 0;
        let mut start = 0;
        while start < meta.len {
            let mut end = (start + stride).min(meta.len);
            match self.owner_of(&buffer[start..end], &mut None) {
                DatagramOwner::Here => {
                    buffer.copy_within(start..end, kept);
                    kept += end - start;
                }
                DatagramOwner::Core(core) => self.reroute(core, &buffer[start..end], meta),
                elsewhere @ DatagramOwner::Predecessor(elder) => {
                    // What belongs together travels together: one system call for up to 64 datagrams.
                    while end < meta.len {
                        let next = (end + stride).min(meta.len);
                        if self.owner_of(&buffer[end..next], &mut None) != elsewhere {
                            break;
                        }
                        end = next;
                    }
                    self.forward(elder, &buffer[start..end], &RecvMeta { stride, ..*meta });
                }
            }
            start = end;
        }
        meta.len = kept;
    }

    fn reroute(&self, core: usize, datagram: &[u8], meta: &RecvMeta) {
        let passed = &self.context.forward_counters;
        let handed = self.inboxes[core].push(datagram, meta);
        let counter = if handed { &passed.rerouted } else { &passed.rerouted_dropped };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn forward(&self, elder: usize, run: &[u8], meta: &RecvMeta) {
        let passed = &self.context.forward_counters;
        let count = run.len().div_ceil(meta.stride) as u64;
        let counter = match self.context.predecessors.forward(elder, self.listening, run, meta) {
            RelayOutcome::Sent => &passed.forwarded,
            RelayOutcome::Full | RelayOutcome::NoReader => &passed.forward_dropped,
        };
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Reads the sockets into these buffers, sorts, and gives the number of filled buffers.
    fn read(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = self.others.len() + 1;
        let first = if count == 1 { 0 } else { self.turn.fetch_add(1, Ordering::Relaxed) % count };
        let sockets = std::iter::once(&self.socket).chain(&self.others).cycle();
        let mut filled = 0;
        for socket in sockets.skip(first).take(count) {
            if filled == bufs.len() {
                break;
            }
            match socket.poll_recv(cx, &mut bufs[filled..], &mut meta[filled..]) {
                Poll::Ready(Ok(received)) => {
                    let received = filled..filled + received;
                    filled = received.end;
                    for (buffer, meta) in bufs[received.clone()].iter_mut().zip(&mut meta[received])
                    {
                        self.keep_own(buffer, meta);
                    }
                }
                Poll::Ready(Err(error)) if filled == 0 => return Poll::Ready(Err(error)),
                Poll::Ready(Err(_)) | Poll::Pending => {}
            }
        }
        if filled == 0 { Poll::Pending } else { Poll::Ready(Ok(filled)) }
    }
}

impl AsyncUdpSocket for WorkerSocket {
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let inbox = &self.inboxes[usize::from(self.core)];
        let aside = self.context.reading_paused.load(Ordering::Acquire);
        let handed = inbox.drain_into(bufs, meta);
        let read = if aside || handed == bufs.len() {
            Poll::Pending
        } else {
            self.read(cx, &mut bufs[handed..], &mut meta[handed..])
        };
        match read {
            Poll::Ready(Ok(received)) => Poll::Ready(Ok(handed + received)),
            Poll::Pending | Poll::Ready(Err(_)) if handed > 0 => Poll::Ready(Ok(handed)),
            failed @ Poll::Ready(Err(_)) => failed,
            Poll::Pending => {
                if !inbox.register_waker(cx)
                    || self.context.reading_paused.load(Ordering::Acquire) != aside
                {
                    // Something changed after the check: check again.
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
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

impl fmt::Debug for WorkerSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerSocket").field("core", &self.core).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
