//! A network inside one process, on tokio's clock.
//!
//! Every datagram takes [`MemoryNetwork::set_delay`] to arrive, unless the test's filter takes it. Nothing is
//! reordered. Several sockets may listen on one address; each sender's port chooses among them, as
//! `SO_REUSEPORT` would, but by a rule that a test can foresee: port modulo number of sockets.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use adit_transport::network::{ListeningSocket, ResolveFuture, SocketOptions, UdpNetwork};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Instant, Sleep};

use super::Sent;

/// Says of a datagram whether it is carried.
pub type Filter = Box<dyn FnMut(&Sent, &[u8]) -> bool + Send>;

/// A network inside one process. Clones are the same network.
#[derive(Clone)]
pub struct MemoryNetwork(Arc<Mutex<MemoryState>>);

struct MemoryState {
    begun: Instant,
    delay: Duration,
    /// Bytes a second that fit through to each host, and how long they may wait for it, …
    rate: Option<(u32, Duration)>,
    /// … and until when what was sent to a host takes.
    busy: HashMap<IpAddr, Instant>,
    sockets: HashMap<SocketAddr, Vec<Arc<Mutex<Mailbox>>>>,
    /// Where senders seem to be, by where they are.
    nat: HashMap<SocketAddr, SocketAddr>,
    names: HashMap<String, Vec<IpAddr>>,
    filter: Filter,
    sent: Vec<Sent>,
    next_port: u16,
}

#[derive(Default)]
struct Mailbox {
    arriving: VecDeque<(Instant, SocketAddr, Box<[u8]>)>,
    reader: Option<Waker>,
}

impl MemoryNetwork {
    /// A network whose datagrams take `delay`.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        Self(Arc::new(Mutex::new(MemoryState {
            begun: Instant::now(),
            delay,
            rate: None,
            busy: HashMap::new(),
            sockets: HashMap::new(),
            nat: HashMap::new(),
            names: HashMap::new(),
            filter: Box::new(|_, _| true),
            sent: Vec::new(),
            next_port: 20_000,
        })))
    }

    /// The network as a host at `address` sees it.
    #[must_use]
    pub fn host(&self, address: IpAddr) -> Arc<dyn UdpNetwork> {
        Arc::new(MemoryHost { network: self.clone(), address })
    }

    /// Datagrams take this long from now on; those under way keep their time.
    pub fn set_delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// So many bytes a second fit through to each host from now on. What would wait for longer than
    /// `queue` is lost.
    pub fn set_rate(&self, bytes_a_second: u32, queue: Duration) {
        self.state().rate = Some((bytes_a_second, queue));
    }

    /// Carries only what `filter` allows from now on.
    pub fn set_filter(&self, filter: impl FnMut(&Sent, &[u8]) -> bool + Send + 'static) {
        self.state().filter = Box::new(filter);
    }

    /// Makes a NAT forget: what `from` sends seems to come from `seen` from now on, and answers to
    /// where it seemed to be before are lost.
    pub fn rebind(&self, from: SocketAddr, seen: SocketAddr) {
        self.state().nat.insert(from, seen);
    }

    /// Gives a name to addresses.
    pub fn name(&self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        self.state().names.insert(name.to_owned(), addresses.into_iter().collect());
    }

    /// Every datagram that was sent so far, carried or not.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.state().sent.clone()
    }

    /// Forgets what was sent so far.
    pub fn forget_sent(&self) {
        self.state().sent = Vec::new();
    }

    /// Puts a datagram on the network as if `from` had sent it.
    pub fn inject(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        self.state().carry(from, to, datagram);
    }

    /// The number of sockets that are open.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.state().sockets.values().map(Vec::len).sum()
    }

    fn state(&self) -> MutexGuard<'_, MemoryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bind(&self, address: SocketAddr, share: bool) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let mut state = self.state();
        let mut local = address;
        while local.port() == 0 || (address.port() == 0 && state.sockets.contains_key(&local)) {
            local.set_port(state.next_port);
            state.next_port += 1;
        }
        let there = state.sockets.entry(local).or_default();
        if !there.is_empty() && !share {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let mailbox = Arc::new(Mutex::new(Mailbox::default()));
        there.push(Arc::clone(&mailbox));
        drop(state);
        let network = self.clone();
        Ok(Arc::new(MemorySocket { local, mailbox, network, timer: Mutex::new(None) }))
    }
}

impl MemoryState {
    fn carry(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let now = Instant::now();
        let from = self.nat.get(&from).copied().unwrap_or(from);
        let sent = (now - self.begun, from, to, datagram.len());
        let carried = (self.filter)(&sent, datagram);
        self.sent.push(sent);
        let behind = self.nat.iter().find_map(|(inner, seen)| (*seen == to).then_some(*inner));
        let hidden = self.nat.contains_key(&to);
        let Some(sockets) = self.sockets.get(&behind.unwrap_or(to)) else { return };
        if !carried || hidden || sockets.is_empty() {
            return;
        }
        let Some(through) = Self::queue(&mut self.busy, self.rate, to.ip(), datagram.len()) else {
            return;
        };
        let chosen = &sockets[usize::from(from.port()) % sockets.len()];
        let mut mailbox = chosen.lock().unwrap_or_else(PoisonError::into_inner);
        mailbox.arriving.push_back((through + self.delay, from, datagram.into()));
        if let Some(reader) = mailbox.reader.take() {
            reader.wake();
        }
    }
}

/// Links of limited rate.
impl MemoryState {
    /// When a datagram is through the link to a host; `None` where its queue is full.
    fn queue(
        busy: &mut HashMap<IpAddr, Instant>,
        rate: Option<(u32, Duration)>,
        to: IpAddr,
        len: usize,
    ) -> Option<Instant> {
        let now = Instant::now();
        let Some((rate, queue)) = rate else { return Some(now) };
        let until = busy.entry(to).or_insert(now);
        if *until > now + queue {
            return None;
        }
        *until = (*until).max(now) + Duration::from_secs(1) * u32::try_from(len).ok()? / rate;
        Some(*until)
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

#[derive(Debug)]
struct MemoryHost {
    network: MemoryNetwork,
    address: IpAddr,
}

impl UdpNetwork for MemoryHost {
    fn listen(&self, address: SocketAddr, options: &SocketOptions) -> io::Result<ListeningSocket> {
        let local = SocketAddr::new(self.address, address.port());
        let socket = self.network.bind(local, options.share_port)?;
        Ok(ListeningSocket { socket, inode: None, receive_buffer: None, descriptor: None })
    }

    fn dial(&self, _: SocketAddr, _: &SocketOptions) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.network.bind(SocketAddr::new(self.address, 0), false)
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> ResolveFuture<'a> {
        let known = self.network.state().names.get(host).cloned();
        Box::pin(async move {
            let known = known.ok_or(io::ErrorKind::NotFound)?;
            Ok(known.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
        })
    }

    fn rng_seed(&self, nth: u64) -> Option<[u8; 32]> {
        Some(super::seed(0, self.address, nth))
    }
}

struct MemorySocket {
    local: SocketAddr,
    mailbox: Arc<Mutex<Mailbox>>,
    network: MemoryNetwork,
    timer: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl AsyncUdpSocket for MemorySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.network.state().carry(self.local, transmit.destination, transmit.contents);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut mailbox = self.mailbox.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((due, ..)) = mailbox.arriving.front() else {
            mailbox.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let mut timer = Box::pin(tokio::time::sleep_until(*due));
        if timer.as_mut().poll(cx).is_pending() {
            *self.timer.lock().unwrap_or_else(PoisonError::into_inner) = Some(timer);
            return Poll::Pending;
        }
        let mut received = 0;
        let now = Instant::now();
        for (buf, slot) in bufs.iter_mut().zip(meta) {
            if mailbox.arriving.front().is_none_or(|(due, ..)| *due > now) {
                break;
            }
            let Some((_, addr, datagram)) = mailbox.arriving.pop_front() else { break };
            buf[..datagram.len()].copy_from_slice(&datagram);
            let len = datagram.len();
            *slot = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
            received += 1;
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl Drop for MemorySocket {
    fn drop(&mut self) {
        let mut state = self.network.state();
        if let Some(there) = state.sockets.get_mut(&self.local) {
            there.retain(|mailbox| !Arc::ptr_eq(mailbox, &self.mailbox));
            if there.is_empty() {
                state.sockets.remove(&self.local);
            }
        }
    }
}

impl fmt::Debug for MemorySocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.local)
    }
}

#[derive(Debug)]
pub(super) struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
