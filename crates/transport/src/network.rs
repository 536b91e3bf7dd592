//! The seam between this crate and the network.
//!
//! Everything that touches a socket or the resolver goes through [`UdpNetwork`]. [`OsUdpNetwork`] is the real one;
//! the test package has others, over a simulated network and in memory. Time is tokio's everywhere, so a
//! paused or simulated clock needs no seam; only the calendar does ([`UdpNetwork::system_time`]).

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use adit_host::udp;
use quinn::{AsyncUdpSocket, Runtime};

/// Options of a socket; see [`adit_host::udp::UdpOptions`].
pub type SocketOptions = udp::UdpOptions;

/// Addresses, some time later.
pub type ResolveFuture<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// A socket of a listening address, as [`UdpNetwork::listen`] makes it.
#[derive(Debug)]
pub struct ListeningSocket {
    /// Its socket.
    pub socket: Arc<dyn AsyncUdpSocket>,
    /// The number by which [`udp::drops`] knows it, if the network is the system's.
    pub inode: Option<u64>,
    /// The receive buffer that was granted, in bytes, if that can be less than was asked for.
    pub receive_buffer: Option<usize>,
    /// A duplicate of the socket, for a process that takes it over, if the network is the system's.
    pub descriptor: Option<OwnedFd>,
}

/// A network: sockets and names.
///
/// The sockets are quinn's abstraction, since it is quinn that drives them. Both makers are called
/// inside the context of the runtime on which the socket will live.
pub trait UdpNetwork: fmt::Debug + Send + Sync + 'static {
    /// Binds one socket of a listening address. For a node with several workers it is called once for
    /// each: first with the address asked for, then with the one that the first socket got, with
    /// [`SocketOptions::share_port`] set each time.
    ///
    /// # Errors
    /// The system's: the address is taken, is not local, or needs privilege.
    fn listen(&self, address: SocketAddr, options: &SocketOptions) -> io::Result<ListeningSocket>;

    /// Takes over a socket that another process listened at before: [`ListeningSocket::descriptor`] of its.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if the network is not the system's; else it is no UDP socket.
    fn adopt(&self, socket: OwnedFd) -> io::Result<ListeningSocket> {
        drop(socket);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Binds a socket to dial `remote` from, at a port that was not used a moment ago.
    ///
    /// # Errors
    /// The system's: no port, no descriptor, or no such address family.
    fn dial(
        &self,
        remote: SocketAddr,
        options: &SocketOptions,
    ) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// The addresses of a DNS name, in the resolver's order.
    ///
    /// The system's resolver does not tell how long an answer holds, so callers ask again at each
    /// failed dial and keep the last good answer.
    ///
    /// # Errors
    /// The resolver's: no such name, no answer.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> ResolveFuture<'a>;

    /// The calendar: what tokens that prove a peer's address are dated by.
    fn system_time(&self) -> SystemTime {
        SystemTime::now()
    }

    /// The seed of quinn's choices (packet numbers, padding); `nth` counts the endpoints of this node. `None`
    /// is the system's randomness; a simulation that is to be repeated gives a value.
    fn rng_seed(&self, nth: u64) -> Option<[u8; 32]> {
        let _ = nth;
        None
    }
}

fn listening_socket(
    socket: UdpSocket,
    receive_buffer: Option<usize>,
) -> io::Result<ListeningSocket> {
    Ok(ListeningSocket {
        inode: udp::inode(&socket).ok(),
        receive_buffer,
        descriptor: Some(socket.as_fd().try_clone_to_owned()?),
        socket: quinn::TokioRuntime.wrap_udp_socket(socket)?,
    })
}

/// The operating system's network.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsUdpNetwork;

impl UdpNetwork for OsUdpNetwork {
    fn listen(&self, address: SocketAddr, options: &SocketOptions) -> io::Result<ListeningSocket> {
        let bound = udp::bind(address, options)?;
        listening_socket(bound.socket, Some(bound.receive_buffer))
    }

    fn adopt(&self, socket: OwnedFd) -> io::Result<ListeningSocket> {
        let socket = UdpSocket::from(socket);
        socket.set_nonblocking(true)?;
        listening_socket(socket, None)
    }

    fn dial(
        &self,
        remote: SocketAddr,
        options: &SocketOptions,
    ) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let any = match remote {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        quinn::TokioRuntime.wrap_udp_socket(udp::bind(any, options)?.socket)
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> ResolveFuture<'a> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}
