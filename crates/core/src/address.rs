//! Addresses that no workload can have, whoever claims so.
//!
//! An address is compared in its canonical form, and so is one that carries another: `::ffff:10.0.0.1`,
//! `64:ff9b::10.0.0.1` and `2002:a00:1::` all lead to `10.0.0.1` somewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses at which clouds serve metadata and credentials, beside the link-local addresses where most of
/// them do: Amazon, Google, Oracle and Scaleway over IPv6, Azure's host agent, Alibaba, and Oracle's older
/// one.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// The 32-bit prefix that holds all of Amazon's services of an instance: metadata, DNS, time, pods'
/// credentials.
const AMAZON_V6: u128 = 0xfd00_0ec2;

/// The address that a packet to `ip` may end at: what is mapped, translated or tunnelled in it, or itself.
#[must_use]
pub fn effective_ip(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4((u32::from(high) << 16 | u32::from(low)).into());
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0] if g != 0 => v4(g, h),
        [0x2002, high, low, ..] => v4(high, low),
        _ => ip,
    }
}

/// True if a machine's own services answer at this address, or those of the cloud that it runs in: loopback,
/// link-local, broadcast and metadata addresses, in whatever form.
#[must_use]
pub fn is_reserved_for_machine(ip: IpAddr) -> bool {
    match effective_ip(ip) {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_link_local()
                || ip.is_broadcast()
                // "This network": what Linux makes of it is the machine itself.
                || ip.octets()[0] == 0
                || METADATA_V4.contains(&ip)
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.to_bits() >> 96 == AMAZON_V6
                || METADATA_V6.contains(&ip)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_in_another_ones_clothes_is_known() {
        for (dressed, plain) in [
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("64:ff9b::10.0.0.1", "10.0.0.1"),
            ("2002:a00:1::5", "10.0.0.1"),
            ("::10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
            ("::", "::"),
            ("fd00::10.0.0.1", "fd00::a00:1"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(effective_ip(ip(dressed)), ip(plain), "{dressed}");
        }
    }

    #[test]
    fn what_a_machine_or_its_cloud_serves_is_special() {
        for special in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.1.2.3",
            "255.255.255.255",
            "169.254.169.254",
            "169.254.170.2",
            "fe80::a9fe:a9fe",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
        ] {
            assert!(is_reserved_for_machine(ip(special)), "{special}");
        }
        for plain in [
            "10.244.0.5",
            "172.18.0.2",
            "100.64.0.1",
            "fd00:10:244::5",
            "2001:db8::1",
            "fd00:ec3::254",
            "fd00:c2::a9fe:a9fe",
            "64:ff9b::10.0.0.1",
        ] {
            assert!(!is_reserved_for_machine(ip(plain)), "{plain}");
        }
    }
}
