//! UDP sockets for QUIC: big buffers, shared ports, and how many datagrams the system dropped.
//!
//! The system's default buffer of 208 KiB loses a burst of 50 handshakes (measured: 83 to 130 a second
//! and some time-outs, against 430 to 520 with 4 MiB), so buffers are asked for by force first and
//! what was granted is told, for a warning at start.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

/// The options of a UDP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpOptions {
    /// Receive buffer, in bytes of memory (headers and overhead count too).
    pub receive_buffer: usize,
    /// Send buffer, in bytes of memory.
    pub send_buffer: usize,
    /// Let several sockets have the same address (`SO_REUSEPORT`): one per core.
    pub share_port: bool,
}

/// A bound, non-blocking UDP socket and what the system granted it.
#[derive(Debug)]
pub struct BoundUdpSocket {
    /// The socket.
    pub socket: UdpSocket,
    /// The receive buffer granted, in the unit of [`UdpOptions::receive_buffer`].
    pub receive_buffer: usize,
    /// The send buffer granted.
    pub send_buffer: usize,
}

/// Binds a socket. An IPv6 one carries IPv4 too, as mapped addresses, where its address is the
/// wildcard.
///
/// Buffers beyond `net.core.rmem_max` and `wmem_max` need `CAP_NET_ADMIN`; without it the sockets get
/// what the system allows, which is not an error.
///
/// # Errors
/// Those of `socket` and `bind`: the address is taken or is not local.
pub fn bind(address: SocketAddr, options: &UdpOptions) -> io::Result<BoundUdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if options.share_port {
        socket.set_reuse_port(true)?;
    }
    if sockopt::set_socket_recv_buffer_size_force(&socket, options.receive_buffer).is_err() {
        socket.set_recv_buffer_size(options.receive_buffer)?;
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, options.send_buffer).is_err() {
        socket.set_send_buffer_size(options.send_buffer)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // Linux doubles what is set, for its own overhead, and reports the double (socket(7)).
    let receive_buffer = socket.recv_buffer_size()? / 2;
    let send_buffer = socket.send_buffer_size()? / 2;
    Ok(BoundUdpSocket { socket: socket.into(), receive_buffer, send_buffer })
}

/// Lets further sockets have the address of one that is bound already, if they ask for it, too.
///
/// # Errors
/// The system's: it is no socket.
pub fn share(socket: &impl AsFd) -> io::Result<()> {
    socket2::SockRef::from(socket).set_reuse_port(true)
}

/// The number by which the system's tables know a socket; give it to [`drops`].
///
/// # Errors
/// If the descriptor is closed already.
pub fn inode(socket: &impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}

/// Datagrams that each of these sockets lost because its buffer was full, since it was opened.
///
/// `None` if the system's table is not readable or has no such socket. The table lists every UDP
/// socket of the network namespace: read it once per scrape, for all sockets together.
#[must_use]
pub fn drops(inodes: &[u64]) -> Vec<Option<u64>> {
    let mut found = vec![None; inodes.len()];
    for table in ["/proc/self/net/udp", "/proc/self/net/udp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for (inode, dropped) in text.lines().skip(1).filter_map(row) {
            for (i, _) in inodes.iter().enumerate().filter(|(_, wanted)| **wanted == inode) {
                found[i] = Some(dropped);
            }
        }
    }
    found
}

/// Inode and drops of one row: the tenth field and the last (`udp4_seq_show` in the kernel).
fn row(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let inode = fields.nth(9)?.parse().ok()?;
    Some((inode, fields.next_back()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    const SMALL: UdpOptions =
        UdpOptions { receive_buffer: 64 << 10, send_buffer: 32 << 10, share_port: false };

    #[test]
    fn buffers_are_granted_and_told() {
        let bound = bind("127.0.0.1:0".parse().unwrap(), &SMALL).unwrap();
        assert_eq!((bound.receive_buffer, bound.send_buffer), (64 << 10, 32 << 10));
        let huge = UdpOptions { receive_buffer: 1 << 40, ..SMALL };
        assert!(bind("127.0.0.1:0".parse().unwrap(), &huge).is_ok_and(|b| b.receive_buffer > 0));
    }

    #[test]
    fn a_port_is_shared_only_on_request() {
        let any = "127.0.0.1:0".parse().unwrap();
        let shared = UdpOptions { share_port: true, ..SMALL };
        let first = bind(any, &shared).unwrap();
        let address = first.socket.local_addr().unwrap();
        assert!(bind(address, &shared).is_ok());
        assert_eq!(bind(address, &SMALL).unwrap_err().kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn the_ipv6_wildcard_carries_ipv4() {
        let Ok(bound) = bind("[::]:0".parse().unwrap(), &SMALL) else {
            assert!(std::env::var_os("CI").is_none(), "no IPv6 here");
            eprintln!("SKIP the_ipv6_wildcard_carries_ipv4: no IPv6 here");
            return;
        };
        bound.socket.set_nonblocking(false).unwrap();
        bound.socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let port = bound.socket.local_addr().unwrap().port();
        let client = bind("127.0.0.1:0".parse().unwrap(), &SMALL).unwrap();
        client.socket.send_to(b"x", ("127.0.0.1", port)).unwrap();
        let (_, from) = bound.socket.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(from.ip().to_canonical(), client.socket.local_addr().unwrap().ip());
    }

    #[test]
    fn dropped_datagrams_are_counted() {
        let tiny = UdpOptions { receive_buffer: 4 << 10, ..SMALL };
        let bound = bind("127.0.0.1:0".parse().unwrap(), &tiny).unwrap();
        let inode = inode(&bound.socket).unwrap();
        assert_eq!(drops(&[inode, 0]), [Some(0), None]);
        let client = bind("127.0.0.1:0".parse().unwrap(), &SMALL).unwrap();
        let address = bound.socket.local_addr().unwrap();
        for _ in 0..200 {
            client.socket.send_to(&[0; 1200], address).unwrap();
        }
        let dropped = drops(&[inode])[0].unwrap();
        assert!((1..200).contains(&dropped), "{dropped}");
    }
}
