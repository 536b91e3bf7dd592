//! Addresses of peers: which may be dialled, and in which order.

use std::net::SocketAddr;

use crate::snapshot::Seed;

/// Those of a peer's announced addresses that may be dialled. Loopback and link-local addresses mean another
/// machine there than here, so they count only if our own seeds are such, too: on one machine.
#[must_use]
pub fn dialable_addresses(announced: &[SocketAddr], seeds: &[Seed]) -> Vec<SocketAddr> {
    let seeds_are_near = are_machine_local(seeds);
    announced.iter().filter(|a| may_dial(a, seeds_are_near)).copied().collect()
}

/// True if any of a peer's announced addresses may be dialled; see [`dialable_addresses`].
#[must_use]
pub fn is_dialable(announced: &[SocketAddr], seeds: &[Seed]) -> bool {
    let mut far = announced.iter().filter(|a| may_dial(a, true));
    // Most addresses need no look at the seeds.
    far.any(|a| !is_machine_local(a) || are_machine_local(seeds))
}

fn may_dial(address: &SocketAddr, seeds_are_near: bool) -> bool {
    let ip = address.ip().to_canonical();
    let never = ip.is_unspecified() || ip.is_multicast() || address.port() == 0;
    !never && (seeds_are_near || !is_machine_local(address))
}

fn is_machine_local(address: &SocketAddr) -> bool {
    match address.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        std::net::IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

fn are_machine_local(seeds: &[Seed]) -> bool {
    seeds.iter().any(|seed| match seed {
        Seed::Address(address) => is_machine_local(address),
        Seed::Name { host, .. } => &**host == "localhost",
    })
}

/// Addresses in the order in which to race them: IPv6 and IPv4 take turns (RFC 8305 §4).
#[must_use]
pub fn interleave_families(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let (v6, v4): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().copied().partition(SocketAddr::is_ipv6);
    let longest = v6.len().max(v4.len());
    (0..longest).flat_map(|i| [v6.get(i), v4.get(i)]).flatten().copied().collect()
}
