//! TCP sockets towards workloads: listeners, keepalive, and closing with a reset.
//!
//! **Invariant:** no `TCP_USER_TIMEOUT` is ever set. It ends a connection whose peer merely stopped
//! reading (measured: 5 s of it killed a live one), and an agent may think for ten minutes. Keepalive
//! finds a peer that is gone; one that is slow is left alone.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Connections that may wait to be accepted, clipped by the system to `net.core.somaxconn`.
///
/// A full queue drops the handshake's last packet, which the client sees as a delay of a second or
/// more; an entry costs memory only while it is used.
pub const BACKLOG: i32 = 4096;

/// A silent connection is probed after this long.
pub const KEEPALIVE_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Probes follow each other by this much.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// After this many unanswered probes the connection is dead: two minutes of silence in all.
pub const KEEPALIVE_PROBES: u32 = 6;

/// Opens a non-blocking listener. `SO_REUSEADDR` is set, so that connections in `TIME_WAIT` from an
/// earlier run do not hold the address.
///
/// With `share_port` several listeners may have one address (`SO_REUSEPORT`), one per worker, and the
/// system spreads new connections over them by a hash. Mind what that costs at the end: connections
/// that wait in the queue of a shared listener are reset when it is closed, even though its siblings
/// live on (measured: 536 of 1200). Such a listener is emptied, or its descriptor handed on, and
/// never just dropped while clients arrive.
///
/// # Errors
/// Those of `socket`, `bind` and `listen`: the address is taken, is not local, or needs privilege.
pub fn listen(address: SocketAddr, share_port: bool) -> io::Result<TcpListener> {
    open(address, share_port, false)
}

/// Opens a listener as [`listen`] does, for an address of the node-local range ([`crate::routes`]), which
/// the kernel takes for nobody's: it lets only `IP_TRANSPARENT` sockets bind it and answer from it. Such a
/// socket binds any address, so one that is not local either is not noticed here.
///
/// # Errors
/// Those of `socket`, `bind` and `listen`; without `CAP_NET_ADMIN` it says so.
pub fn listen_transparent(address: SocketAddr, share_port: bool) -> io::Result<TcpListener> {
    open(address, share_port, true)
}

fn open(address: SocketAddr, share_port: bool, transparent: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if share_port {
        socket.set_reuse_port(true)?;
    }
    if transparent {
        // On an IPv6 socket as well: there is one flag for both (Linux: `ipv6_setsockopt` hands it on).
        socket.set_ip_transparent_v4(true).map_err(|error| {
            let hint = "a listener in the node-local range needs the capability CAP_NET_ADMIN";
            io::Error::new(error.kind(), format!("{error}: {hint}"))
        })?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sets the options of every accepted or dialled connection: no delay for small writes, and keepalive.
///
/// # Errors
/// If the socket is closed already or is no TCP socket.
pub fn tune(stream: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE_TIMEOUT)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )
}

/// From here on closing this socket sends RST and discards what was not yet sent, whoever closes it:
/// the kernel does so for a process that was killed. Without it, such an end is a FIN, which the
/// application takes for the end of a whole answer.
///
/// On a listener it is inherited by what is accepted (Linux: `sk_clone_lock` copies the flag).
///
/// # Errors
/// If the socket is closed already.
pub fn reset_on_close(stream: &impl AsFd) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// From here on an urgent byte (`MSG_OOB`) stays in its place among the others. Without it the system takes
/// the byte out of the stream, where a reader of ordinary data never sees it: telnet and FTP send such bytes.
/// That it was urgent is not handed on.
///
/// On a listener it is inherited by what is accepted, as the flag of [`reset_on_close`] is.
///
/// # Errors
/// If the socket is closed already.
pub fn keep_urgent_inline(stream: &impl AsFd) -> io::Result<()> {
    SockRef::from(stream).set_out_of_band_inline(true)
}

/// Takes [`reset_on_close`] back: both sides have said that they are done.
///
/// # Errors
/// If the socket is closed already.
pub fn close_quietly(stream: &impl AsFd) -> io::Result<()> {
    SockRef::from(stream).set_linger(None)
}

/// Sends FIN: nothing more will be written, and reading goes on.
///
/// # Errors
/// If the connection is broken already.
pub fn finish(stream: &impl AsFd) -> io::Result<()> {
    SockRef::from(stream).shutdown(std::net::Shutdown::Write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn a_connection_is_tuned() {
        let (client, _server) = pair();
        tune(&client).unwrap();
        let socket = SockRef::from(&client);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE_TIMEOUT);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    }

    #[test]
    fn closing_is_an_end_and_a_reset_is_a_reset() {
        let (mut client, server) = pair();
        drop(server);
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);

        let (mut client, mut server) = pair();
        server.write_all(b"unread").unwrap();
        reset_on_close(&server).unwrap();
        drop(server);
        let error = loop {
            match client.read(&mut [0; 8]) {
                Ok(n) => assert_ne!(n, 0, "a reset looked like an end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_port_is_shared_only_on_request() {
        let any = "127.0.0.1:0".parse().unwrap();
        let alone = listen(any, false).unwrap();
        let taken = alone.local_addr().unwrap();
        assert_eq!(listen(taken, true).unwrap_err().kind(), ErrorKind::AddrInUse);

        let first = listen(any, true).unwrap();
        let second = listen(first.local_addr().unwrap(), true).unwrap();
        assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
    }
}
