//! The transport's seam over turmoil: hosts that crash and come back, links that break, one seed.
//!
//! Each host of a simulation makes its own [`Simulated`] inside its own task, because sockets belong to
//! the host that runs. turmoil breaks links as a whole; single datagrams are lost here.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_transport::network::{ListeningSocket, ResolveFuture, SocketOptions, UdpNetwork};
use futures_util::FutureExt;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use turmoil::net::UdpSocket;

use super::Sent;
use super::memory::AlwaysWritable;

/// The datagrams of a simulated network, for all hosts together.
pub type SentTrace = Arc<Mutex<Vec<Sent>>>;

/// Runs a simulation to its end, and has `act` change it once, when `at` has passed.
///
/// # Panics
/// Where one of its clients fails.
pub fn run_with(sim: &mut turmoil::Sim<'_>, at: Duration, act: impl FnOnce(&mut turmoil::Sim<'_>)) {
    let mut act = Some(act);
    while !sim.step().unwrap() {
        if let Some(act) = act.take_if(|_| sim.elapsed() >= at) {
            act(sim);
        }
    }
}

/// The network as one simulated host sees it.
pub struct Simulated {
    host: IpAddr,
    run: u64,
    trace: SentTrace,
    lose_every: usize,
}

impl Simulated {
    /// For the host that is running: `run` is the simulation's seed, and one in `lose_every` datagrams
    /// is lost (0: none).
    #[must_use]
    pub fn on(host: &str, run: u64, trace: &SentTrace, lose_every: usize) -> Arc<dyn UdpNetwork> {
        let host = turmoil::lookup(host);
        Arc::new(Self { host, run, trace: Arc::clone(trace), lose_every })
    }

    fn bind(&self, port: u16) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        // turmoil's bind is a function in an async coat: it never waits.
        let bound = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).now_or_never();
        let socket = Arc::new(bound.ok_or(io::ErrorKind::WouldBlock)??);
        let local = SocketAddr::new(self.host, socket.local_addr()?.port());
        let (trace, lose_every) = (Arc::clone(&self.trace), self.lose_every);
        Ok(Arc::new(SimulatedSocket { socket, local, trace, lose_every, ready: Mutex::new(None) }))
    }
}

impl UdpNetwork for Simulated {
    fn listen(&self, address: SocketAddr, _: &SocketOptions) -> io::Result<ListeningSocket> {
        let socket = self.bind(address.port())?;
        Ok(ListeningSocket { socket, inode: None, receive_buffer: None, descriptor: None })
    }

    fn dial(&self, _: SocketAddr, _: &SocketOptions) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.bind(0)
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> ResolveFuture<'a> {
        Box::pin(async move { Ok(vec![SocketAddr::new(turmoil::lookup(host), port)]) })
    }

    fn system_time(&self) -> SystemTime {
        UNIX_EPOCH + turmoil::since_epoch().unwrap_or_default()
    }

    fn rng_seed(&self, nth: u64) -> Option<[u8; 32]> {
        Some(super::seed(self.run, self.host, nth))
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Simulated({})", self.host)
    }
}

type ReadyFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

struct SimulatedSocket {
    socket: Arc<UdpSocket>,
    local: SocketAddr,
    trace: SentTrace,
    lose_every: usize,
    ready: Mutex<Option<ReadyFuture>>,
}

impl AsyncUdpSocket for SimulatedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        let sent = (at, self.local, transmit.destination, transmit.contents.len());
        let mut trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner);
        trace.push(sent);
        let lost = self.lose_every != 0 && trace.len().is_multiple_of(self.lose_every);
        drop(trace);
        if lost {
            return Ok(());
        }
        match self.socket.try_send_to(transmit.contents, transmit.destination) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            // Whatever else went wrong, the datagram is lost, as on a real network.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.socket.try_recv_from(&mut bufs[0]) {
                Ok((len, addr)) => {
                    meta[0] = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
                    return Poll::Ready(Ok(1));
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                Err(_) => {}
            }
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = ready.get_or_insert_with(|| {
                let socket = Arc::clone(&self.socket);
                Box::pin(async move { socket.readable().await })
            });
            match waiting.as_mut().poll(cx) {
                Poll::Ready(_) => *ready = None,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl fmt::Debug for SimulatedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.local)
    }
}

/// The longest that a simulation may run, in its own time.
pub const LONGEST_RUN_TIMEOUT: Duration = Duration::from_secs(600);
