//! The operating system's TCP.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::{Buf, Bytes};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{ReadBuffer, Tcp, TcpAcceptor, TcpNetwork};

/// Chunks that one system call writes.
const VECTORS: usize = 32;

/// TCP as tokio gives it.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsTcpNetwork {
    /// True if listeners are in the node-local range (`adit_host::routes`), which wants privilege.
    pub local_range: bool,
}

/// A TCP connection of the operating system.
#[derive(Debug)]
pub struct OsTcp {
    stream: TcpStream,
    local: SocketAddr,
    remote: SocketAddr,
    /// A write failed. The system tells of a reset once: a reader would see an end behind it.
    failed: AtomicBool,
}

impl OsTcp {
    fn new(stream: TcpStream) -> io::Result<Self> {
        adit_host::tcp::tune(&stream)?;
        let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        let local = canonical(stream.local_addr()?);
        let remote = canonical(stream.peer_addr()?);
        Ok(Self { stream, local, remote, failed: AtomicBool::new(false) })
    }

    /// On its own, so that the half kilobyte of vectors is no part of a waiting stream's memory.
    fn try_write(&self, chunks: &[Bytes]) -> io::Result<usize> {
        let mut vectors = [IoSlice::new(&[]); VECTORS];
        let used = chunks.len().min(VECTORS);
        for (vector, chunk) in vectors.iter_mut().zip(chunks) {
            *vector = IoSlice::new(chunk);
        }
        self.stream.try_write_vectored(&vectors[..used])
    }

    /// Notes a failed write, and waits until what came before the break can be read: the write may know of
    /// it before the reader has been woken for an answer.
    async fn failed(&self, error: io::Error) -> io::Error {
        self.failed.store(true, Relaxed);
        while let Ok(ready) = self.stream.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                break;
            }
            tokio::task::yield_now().await;
        }
        error
    }
}

impl Tcp for OsTcp {
    fn local(&self) -> SocketAddr {
        self.local
    }

    fn remote(&self) -> SocketAddr {
        self.remote
    }

    async fn read(&self, buffer: &mut ReadBuffer) -> io::Result<Option<Bytes>> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read_buf(buffer.buffer_mut()) {
                Ok(0) if self.failed.load(Relaxed) => {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(buffer.take())),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => buffer.release(),
                Err(e) => return Err(e),
            }
        }
    }

    async fn write(&self, chunks: &mut [Bytes]) -> io::Result<()> {
        let mut done = 0;
        while done < chunks.len() {
            let left = &mut chunks[done..];
            let mut written = match self.try_write(left) {
                Ok(written) => written,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.writable().await?;
                    continue;
                }
                Err(e) => return Err(self.failed(e).await),
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

    fn close_gracefully(&self) {
        // Fails only on a socket that is gone already, which no longer sends anything.
        drop(adit_host::tcp::close_quietly(&self.stream));
    }
}

impl TcpNetwork for OsTcpNetwork {
    type Stream = OsTcp;
    type Listener = TcpListener;

    fn listen(&self, address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
        let listener = if self.local_range {
            adit_host::tcp::listen_transparent(address, shared)
        } else {
            adit_host::tcp::listen(address, shared)
        }?;
        // Handed down to what it accepts, so that there is no moment in which a kill would be an end.
        adit_host::tcp::reset_on_close(&listener)?;
        adit_host::tcp::keep_urgent_inline(&listener)?;
        TcpListener::from_std(listener)
    }

    fn adopt(&self, socket: OwnedFd) -> io::Result<TcpListener> {
        // Its options are the socket's own, whoever made it.
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<OsTcp> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        adit_host::tcp::reset_on_close(&socket)?;
        adit_host::tcp::keep_urgent_inline(&socket)?;
        OsTcp::new(socket.connect(address).await?)
    }
}

impl TcpAcceptor for TcpListener {
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

    fn share(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::SendFlags;
    use std::io::ErrorKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// The bytes that the other end reads when this end is dropped.
    async fn end(tcp: OsTcp, mut other: TcpStream, settle: bool) -> io::Result<usize> {
        if settle {
            other.shutdown().await.unwrap();
            assert_eq!(tcp.read(&mut ReadBuffer::new()).await.unwrap(), None);
            tcp.close_gracefully();
        }
        drop(tcp);
        other.read(&mut [0; 8]).await
    }

    #[tokio::test]
    async fn only_what_has_settled_ends_without_a_reset() {
        let net = OsTcpNetwork::default();
        let node = net.listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for settle in [false, true] {
            let client = TcpStream::connect(node.local_addr().unwrap()).await.unwrap();
            let accepted = TcpAcceptor::accept(&node).await.unwrap();
            let dialled = net.dial(backend.local_addr().unwrap()).await.unwrap();
            let (server, _) = backend.accept().await.unwrap();
            for (tcp, other) in [(accepted, client), (dialled, server)] {
                let seen = end(tcp, other, settle).await.map_err(|e| e.kind());
                let expected = if settle { Ok(0) } else { Err(ErrorKind::ConnectionReset) };
                assert_eq!(seen, expected);
            }
        }
    }

    #[tokio::test]
    async fn an_urgent_byte_stays_in_its_place_on_both_legs() {
        let net = OsTcpNetwork::default();
        let node = net.listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(node.local_addr().unwrap()).await.unwrap();
        let accepted = TcpAcceptor::accept(&node).await.unwrap();
        let dialled = net.dial(backend.local_addr().unwrap()).await.unwrap();
        let (server, _) = backend.accept().await.unwrap();
        for (tcp, mut other) in [(accepted, client), (dialled, server)] {
            other.write_all(b"before").await.unwrap();
            assert_eq!(rustix::net::send(&other, b"!", SendFlags::OOB).unwrap(), 1);
            other.write_all(b"after").await.unwrap();
            other.shutdown().await.unwrap();
            let mut got = Vec::new();
            while let Some(bytes) = tcp.read(&mut ReadBuffer::new()).await.unwrap() {
                got.extend_from_slice(&bytes);
            }
            assert_eq!(String::from_utf8(got).unwrap(), "before!after");
        }
    }
}
