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
//! **Hand-overs.** A packet of another generation belongs to another process of this node. While that one
//! lives, its packets are forwarded to it ([`elders`]); once it is gone they go by their core like any other,
//! where they are answered with a stateless reset. A process that has handed over reads no socket of these
//! any more: its inboxes are filled from what its successors forward, and it goes on sending by itself.

mod elders;
mod frame;
mod inbox;
mod thrifty;

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

pub(crate) use self::elders::ElderProcesses;
pub(crate) use self::frame::{LONGEST as LONGEST_FRAME, read as read_frame};
use self::inbox::Inbox;
pub(crate) use self::thrifty::{Scratch, Thrifty};
use crate::cid::{self, CidKey, Route};

/// What the legs of a node have passed among each other, and to and from other processes of it.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// Datagrams that reached their connection over another leg's socket.
    pub(crate) handed: AtomicU64,
    /// Datagrams that did not, because the inbox was full.
    pub(crate) dropped: AtomicU64,
    /// Datagrams that were forwarded to an older process.
    pub(crate) forwarded: AtomicU64,
    /// Datagrams that were not, because that process is behind or gone.
    pub(crate) forward_dropped: AtomicU64,
    /// Datagrams that a younger process forwarded to this one.
    pub(crate) received: AtomicU64,
}

/// What all legs of a node have in common.
#[derive(Clone)]
pub(crate) struct LegContext {
    /// Which of several processes that share the listening addresses this is.
    pub(crate) generation: u8,
    pub(crate) key: CidKey,
    pub(crate) passed: Arc<Passed>,
    pub(crate) elders: Arc<ElderProcesses>,
    /// Another process reads the sockets.
    pub(crate) aside: Arc<AtomicBool>,
}

/// Where a datagram belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DatagramPlace {
    /// To the leg that received it.
    Here,
    /// To the leg of another core.
    Core(usize),
    /// To an older process.
    Elder(usize),
}

/// One worker's part of a listening address.
pub(crate) struct Leg {
    /// What it sends through; and it reads this one, too.
    socket: Arc<dyn AsyncUdpSocket>,
    /// Further sockets of the address that it reads: the process before had more workers.
    others: Vec<Arc<dyn AsyncUdpSocket>>,
    /// Which socket is read first, so that no flood at one keeps the others unread.
    turn: AtomicUsize,
    listening: SocketAddr,
    core: u8,
    /// Every leg's, in the order of their cores.
    inboxes: Arc<[Inbox]>,
    context: LegContext,
}

impl Leg {
    /// Joins the sockets of one listening address: for each core in order, those that it reads, of which
    /// it sends through the first. A core without any ends the address's legs.
    pub(crate) fn join(
        sockets: Vec<Vec<Arc<dyn AsyncUdpSocket>>>,
        listening: SocketAddr,
        context: &LegContext,
    ) -> Vec<Arc<Self>> {
        let inboxes: Arc<[Inbox]> = sockets.iter().map(|_| Inbox::default()).collect();
        let leg = |(core, sockets): (u8, Vec<_>)| {
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
        (0..=u8::MAX).zip(sockets).map_while(leg).collect()
    }

    /// Whose socket this is.
    pub(crate) fn listening(&self) -> SocketAddr {
        self.listening
    }

    /// Has the endpoint look again at what it may read.
    pub(crate) fn wake(&self) {
        self.inboxes[usize::from(self.core)].wake();
    }

    /// Takes in datagrams of one sender that another process received for this one, at any leg of their
    /// listening address.
    pub(crate) fn take_in(&self, datagrams: &[u8], meta: &RecvMeta) {
        let passed = &self.context.passed;
        for datagram in datagrams.chunks(meta.stride.max(1)) {
            let route = cid::destination(datagram).and_then(|id| self.context.key.open(id));
            let inbox = route
                .filter(|route| route.generation == self.context.generation)
                .and_then(|route| self.inboxes.get(usize::from(route.core)));
            let taken = inbox.is_some_and(|inbox| inbox.put(datagram, meta));
            let counter = if taken { &passed.received } else { &passed.dropped };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where a datagram belongs. `last` is the ID of the datagram before it in the batch, which usually is
    /// the same.
    fn place<'a>(
        &self,
        datagram: &'a [u8],
        last: &mut Option<(&'a [u8; cid::LEN], DatagramPlace)>,
    ) -> DatagramPlace {
        let Some(id) = cid::destination(datagram) else { return DatagramPlace::Here };
        if let Some((seen, verdict)) = last
            && *seen == id
        {
            return *verdict;
        }
        let verdict = self.context.key.open(id).map_or(DatagramPlace::Here, |at| self.place_of(at));
        *last = Some((id, verdict));
        verdict
    }

    fn place_of(&self, route: Route) -> DatagramPlace {
        if route.generation != self.context.generation
            && let Some(elder) = self.context.elders.of(route.generation)
        {
            return DatagramPlace::Elder(elder);
        }
        let core = usize::from(route.core);
        if route.core != self.core && core < self.inboxes.len() {
            DatagramPlace::Core(core)
        } else {
            DatagramPlace::Here
        }
    }

    /// Takes out of a received buffer what belongs elsewhere, and closes the gaps.
    ///
    /// The buffer holds datagrams of one sender, `stride` bytes each but for the last (GRO); they need
    /// not all belong to one connection, nor to one process.
    fn sort(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        if self.inboxes.len() == 1 && self.context.elders.is_empty() {
            return;
        }
        let received = &buffer[..meta.len];
        // quinn takes a stride of nothing for one datagram, too.
        let stride = if meta.stride == 0 { meta.len.max(1) } else { meta.stride };
        let mut last = None;
        let here = |datagram| self.place(datagram, &mut last) == DatagramPlace::Here;
        if received.chunks(stride).all(here) {
            return;
        }
        self.part(buffer, meta, stride);
    }

    /// The rarer half of [`Leg::sort`].
    #[cold]
    fn part(&self, buffer: &mut [u8], meta: &mut RecvMeta, stride: usize) {
        let mut kept = 0;
        let mut start = 0;
        while start < meta.len {
            let mut end = (start + stride).min(meta.len);
            match self.place(&buffer[start..end], &mut None) {
                DatagramPlace::Here => {
                    buffer.copy_within(start..end, kept);
                    kept += end - start;
                }
                DatagramPlace::Core(core) => self.hand(core, &buffer[start..end], meta),
                elsewhere @ DatagramPlace::Elder(elder) => {
                    // What belongs together travels together: one system call for up to 64 datagrams.
                    while end < meta.len {
                        let next = (end + stride).min(meta.len);
                        if self.place(&buffer[end..next], &mut None) != elsewhere {
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

    fn hand(&self, core: usize, datagram: &[u8], meta: &RecvMeta) {
        let passed = &self.context.passed;
        let handed = self.inboxes[core].put(datagram, meta);
        let counter = if handed { &passed.handed } else { &passed.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn forward(&self, elder: usize, run: &[u8], meta: &RecvMeta) {
        let passed = &self.context.passed;
        let count = run.len().div_ceil(meta.stride) as u64;
        let counter = match self.context.elders.forward(elder, self.listening, run, meta) {
            RelayOutcome::Sent => &passed.forwarded,
            RelayOutcome::Full | RelayOutcome::Gone => &passed.forward_dropped,
        };
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Reads the sockets into these buffers, sorts, and says how many are filled.
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
                        self.sort(buffer, meta);
                    }
                }
                Poll::Ready(Err(error)) if filled == 0 => return Poll::Ready(Err(error)),
                Poll::Ready(Err(_)) | Poll::Pending => {}
            }
        }
        if filled == 0 { Poll::Pending } else { Poll::Ready(Ok(filled)) }
    }
}

impl AsyncUdpSocket for Leg {
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let inbox = &self.inboxes[usize::from(self.core)];
        let aside = self.context.aside.load(Ordering::Acquire);
        let handed = inbox.take(bufs, meta);
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
                if !inbox.wait(cx) || self.context.aside.load(Ordering::Acquire) != aside {
                    // Something changed after it was looked at: look again.
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

impl fmt::Debug for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leg").field("core", &self.core).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
