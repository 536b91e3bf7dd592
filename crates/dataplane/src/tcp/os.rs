//! The operating system's TCP.

use std::io::{self, IoSlice};
use std::net::SocketAddr;

use bytes::{Buf, Bytes};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{Listener, Net, Room, Tcp};

/// Chunks that one system call writes.
const VECTORS: usize = 32;

/// TCP as tokio gives it.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsNet;

/// A TCP connection of the operating system.
#[derive(Debug)]
pub struct OsTcp {
    stream: TcpStream,
    local: SocketAddr,
    remote: SocketAddr,
}

impl OsTcp {
    fn new(stream: TcpStream) -> io::Result<Self> {
        adit_host::tcp::tune(&stream)?;
        let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        let local = canonical(stream.local_addr()?);
        let remote = canonical(stream.peer_addr()?);
        Ok(Self { stream, local, remote })
    }
}

impl Tcp for OsTcp {
    fn local(&self) -> SocketAddr {
        self.local
    }

    fn remote(&self) -> SocketAddr {
        self.remote
    }

    async fn read(&self, room: &mut Room) -> io::Result<Option<Bytes>> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read_buf(room.get()) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(room.take())),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => room.release(),
                Err(e) => return Err(e),
            }
        }
    }

    async fn write(&self, chunks: &mut [Bytes]) -> io::Result<()> {
        let mut done = 0;
        while done < chunks.len() {
            let left = &mut chunks[done..];
            let mut vectors = [IoSlice::new(&[]); VECTORS];
            let used = left.len().min(VECTORS);
            for (vector, chunk) in vectors.iter_mut().zip(&*left) {
                *vector = IoSlice::new(chunk);
            }
            let mut written = match self.stream.try_write_vectored(&vectors[..used]) {
                Ok(written) => written,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.writable().await?;
                    continue;
                }
                Err(e) => return Err(e),
            };
            for chunk in left {
                let step = written.min(chunk.len());
                chunk.advance(step);
                written -= step;
                if !chunk.is_empty() {
                    break;
                }
                // The memory goes back at once, not when the whole batch is through.
                *chunk = Bytes::new();
                done += 1;
            }
        }
        Ok(())
    }

    async fn finish(&self) -> io::Result<()> {
        adit_host::tcp::finish(&self.stream)
    }

    async fn broken(&self) {
        loop {
            match self.stream.ready(Interest::ERROR).await {
                Ok(ready) if ready.is_error() => return,
                // Cleared, or never set: look again when the system says so.
                Ok(_) => tokio::task::yield_now().await,
                Err(_) => return,
            }
        }
    }

    fn reset(&self) {
        // Fails only on a socket that is gone already, which needs no reset.
        drop(adit_host::tcp::reset_on_close(&self.stream));
    }
}

impl Net for OsNet {
    type Stream = OsTcp;
    type Listener = TcpListener;

    fn listen(&self, address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
        TcpListener::from_std(adit_host::tcp::listen(address, shared)?)
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<OsTcp> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        OsTcp::new(socket.connect(address).await?)
    }
}

impl Listener for TcpListener {
    type Stream = OsTcp;

    async fn accept(&self) -> io::Result<OsTcp> {
        loop {
            let (stream, _) = self.accept().await?;
            // A connection that is gone before it could be looked at is nobody's.
            if let Ok(tcp) = OsTcp::new(stream) {
                return Ok(tcp);
            }
        }
    }
}
