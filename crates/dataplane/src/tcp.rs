//! TCP as the data path needs it, and no more.
//!
//! Behind a trait, so that the same path runs over the operating system's TCP ([`os`]) and over a
//! simulated one. All methods take `&self`: the two directions of a flow are two futures of one task
//! that share the connection.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use bytes::{Bytes, BytesMut};

pub mod os;

/// A TCP connection. Dropping it sends RST, and so does the end of the process, however it comes:
/// only [`Tcp::close_gracefully`] ends it without one.
pub trait Tcp: Send + Sync + 'static {
    /// Our end's address. On an accepted connection it says which import is meant.
    fn local(&self) -> SocketAddr;

    /// The other end's address. On an accepted connection it says which workload asks.
    fn remote(&self) -> SocketAddr;

    /// Waits until there is something to read, and only then allocates room for it. None at the end.
    /// Cancel-safe: a dropped call has read nothing.
    ///
    /// # Errors
    /// Those of the socket; a reset by the other end among them.
    fn read(
        &self,
        buffer: &mut ReadBuffer,
    ) -> impl Future<Output = io::Result<Option<Bytes>>> + Send;

    /// Writes all chunks and leaves them empty.
    ///
    /// # Errors
    /// Those of the socket.
    fn write(&self, chunks: &mut [Bytes]) -> impl Future<Output = io::Result<()>> + Send;

    /// Says that nothing more will be written; reading goes on.
    ///
    /// # Errors
    /// Those of the socket.
    fn finish(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// Waits until the connection is broken, whether or not anybody reads or writes.
    fn broken(&self) -> impl Future<Output = ()> + Send;

    /// Says that both directions have come to their ends: dropping the connection sends no RST.
    fn close_gracefully(&self);
}

/// Listens, and dials backends.
pub trait TcpNetwork: Send + Sync + 'static {
    /// Its connections.
    type Stream: Tcp;
    /// Its listeners.
    type Listener: TcpAcceptor<Stream = Self::Stream>;

    /// Listens at `address`. Must be called on the worker that will accept; with `shared` each of
    /// several workers has a listener of its own there.
    ///
    /// # Errors
    /// Those of the operating system: in use, not local, not permitted.
    fn listen(&self, address: SocketAddr, shared: bool) -> io::Result<Self::Listener>;

    /// Takes a socket that listens already, from the process before this one. Must be called on the worker
    /// that will accept.
    ///
    /// # Errors
    /// It is of no use, or this network has no descriptors.
    fn adopt(&self, socket: OwnedFd) -> io::Result<Self::Listener> {
        drop(socket);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Connects to `address`, for as long as the operating system tries.
    ///
    /// # Errors
    /// Those of the operating system.
    fn dial(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// A TCP listener.
pub trait TcpAcceptor: Send + Sync + 'static {
    /// Its connections.
    type Stream: Tcp;

    /// Waits for the next connection.
    ///
    /// # Errors
    /// Those of the operating system; out of descriptors among them.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The same socket again, for the process that comes after this one: what waits in its queue is whoever's
    /// that accepts first.
    ///
    /// # Errors
    /// Out of descriptors, or this network has none.
    fn share(&self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Room to read into, sized by what the last reads brought. An idle connection holds none.
#[derive(Debug)]
pub struct ReadBuffer {
    buffer: BytesMut,
    size: usize,
}

impl ReadBuffer {
    /// The smallest room. An agent's request fits.
    const MIN: usize = 2 * 1024;
    /// The largest room. Larger ones measured no faster.
    const MAX: usize = 64 * 1024;

    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self { buffer: BytesMut::new(), size: Self::MIN }
    }

    /// A buffer with capacity to read into.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        if self.buffer.capacity() - self.buffer.len() < Self::MIN {
            self.buffer.reserve(self.size);
        }
        &mut self.buffer
    }

    /// Takes the bytes that were read. The next buffer is larger if this one was filled.
    pub fn take(&mut self) -> Bytes {
        if self.buffer.len() == self.buffer.capacity() {
            self.size = (self.size * 4).min(Self::MAX);
        }
        self.buffer.split().freeze()
    }

    /// Bytes of what was allocated that nothing was read into: whoever holds what was read holds them as well.
    #[must_use]
    pub fn spare(&self) -> usize {
        self.buffer.capacity()
    }

    /// Gives the memory back, because there is nothing to read.
    pub fn release(&mut self) {
        self.buffer = BytesMut::new();
        self.size = Self::MIN.max(self.size / 2);
    }
}

impl Default for ReadBuffer {
    fn default() -> Self {
        Self::new()
    }
}
