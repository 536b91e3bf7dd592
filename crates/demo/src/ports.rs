//! Ports that are known before the process that will listen on them is started.
//!
//! Nodes name each other's ports in their files, so the demo chooses them. It chooses outside the range
//! from which the system serves those who ask for any port, and holds each one until its node is about
//! to bind it; so neither the gap in between nor the time while a node is down lets another take it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

/// A port held for somebody; dropping it lets that somebody bind it.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) address: SocketAddr,
    _held: HeldSocket,
}

#[derive(Debug)]
enum HeldSocket {
    Udp(#[expect(dead_code, reason = "held, never used")] UdpSocket),
    Tcp(#[expect(dead_code, reason = "held, never used")] TcpListener),
}

/// The range in which ports are chosen: neither well known nor Kubernetes' NodePorts, and on most systems below those
/// that are given to whoever asks for any.
const CHOICE: RangeInclusive<u16> = 10_240..=29_999;

/// Far more than are taken on any machine in a range of thousands.
const TRIES: usize = 200;

/// Holds a UDP port of `ip`.
pub(crate) fn udp(ip: IpAddr) -> io::Result<Reservation> {
    reserve(ip, |address| UdpSocket::bind(address).map(HeldSocket::Udp))
}

/// Holds a TCP port of `ip`.
pub(crate) fn tcp(ip: IpAddr) -> io::Result<Reservation> {
    reserve(ip, |address| TcpListener::bind(address).map(HeldSocket::Tcp))
}

fn reserve(
    ip: IpAddr,
    bind: impl Fn(SocketAddr) -> io::Result<HeldSocket>,
) -> io::Result<Reservation> {
    let ephemeral = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| range(&text));
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let address = SocketAddr::new(ip, choose(ephemeral.as_ref(), random()));
        match bind(address) {
            Ok(held) => return Ok(Reservation { address, _held: held }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ends = text.split_whitespace().map(str::parse);
    Some(ends.next()?.ok()?..=ends.next()?.ok()?)
}

/// The `n`-th port, counted round, that the system does not give to others of itself; any port of
/// [`CHOICE`] where it gives them all.
fn choose(ephemeral: Option<&RangeInclusive<u16>>, n: u64) -> u16 {
    let mut ports: Vec<u16> =
        CHOICE.filter(|port| ephemeral.is_none_or(|taken| !taken.contains(port))).collect();
    if ports.is_empty() {
        ports = CHOICE.collect();
    }
    ports[(n % ports.len() as u64) as usize]
}

/// The standard library seeds each hasher's keys from the system's randomness.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn ports_lie_outside_what_the_system_gives_away() {
        let wide = range("16384\t60999\n").unwrap();
        for n in (0..200_000).step_by(1_999) {
            let port = choose(Some(&wide), n);
            assert!(CHOICE.contains(&port) && !wide.contains(&port), "{port}");
        }
        assert!(CHOICE.contains(&choose(Some(&(1024..=65_535)), 5)));
        assert!(CHOICE.contains(&choose(None, u64::MAX)));
        assert_eq!(range("nothing"), None);
    }

    #[test]
    fn a_reservation_holds_until_it_is_dropped() {
        let ip = Ipv4Addr::new(127, 0, 3, 1).into();
        let (u, t) = (udp(ip).unwrap(), tcp(ip).unwrap());
        assert_eq!(UdpSocket::bind(u.address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(TcpListener::bind(t.address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let (udp_at, tcp_at) = (u.address, t.address);
        drop((u, t));
        UdpSocket::bind(udp_at).unwrap();
        TcpListener::bind(tcp_at).unwrap();
    }
}
