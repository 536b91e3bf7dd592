//! Ranges of IP addresses, `ADDRESS/LENGTH`: which addresses are in one, and how many.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses of one IP family: those whose first bits are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPrefix {
    first: IpAddr,
    length: u8,
}

impl IpPrefix {
    /// The range of which `address` is one, by its first `length` bits. A length that the family does not have is
    /// that of a single address.
    #[must_use]
    pub fn new(address: impl Into<IpAddr>, length: u8) -> Self {
        let address = address.into();
        let length = length.min(width(address));
        let first = match address {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Ipv4Addr::from_bits(ip.to_bits() & mask).into()
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & mask).into()
            }
        };
        Self { first, length }
    }

    /// The first address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The number of bits that are the same, at most 32 or 128.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// True if the addresses are IPv4 addresses.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// True if `address` is in the range. An IPv4 address in the form of an IPv6 one is not in a range of IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.is_ipv4() == address.is_ipv4() && Self::new(address, self.length) == *self
    }

    /// The number of addresses; `u128::MAX` for all of IPv6, which is one less than there are.
    #[must_use]
    pub fn size(&self) -> u128 {
        let bits = width(self.first) - self.length;
        1_u128.checked_shl(bits.into()).unwrap_or(u128::MAX)
    }
}

/// The number of bits of an address.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A text is no range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a range of addresses: expected ADDRESS/LENGTH")]
pub struct PrefixError;

impl FromStr for IpPrefix {
    type Err = PrefixError;

    /// Reads `ADDRESS/LENGTH`, whatever address of the range is written.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = text.split_once('/').ok_or(PrefixError)?;
        let address: IpAddr = address.parse().map_err(|_| PrefixError)?;
        let length: u8 = length.parse().map_err(|_| PrefixError)?;
        if length > width(address) {
            return Err(PrefixError);
        }
        Ok(Self::new(address, length))
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> IpPrefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_has_the_addresses_with_its_first_bits_and_no_others() {
        for (text, inside, outside) in [
            ("198.18.0.0/15", "198.19.255.255", "198.20.0.0"),
            ("10.0.0.8/30", "10.0.0.11", "10.0.0.12"),
            ("10.0.0.8/32", "10.0.0.8", "10.0.0.9"),
            ("0.0.0.0/0", "255.255.255.255", "::"),
            ("fd00:ad17::/64", "fd00:ad17::ffff:0:0:1", "fd00:ad17:0:1::"),
            ("fd00::1/128", "fd00::1", "fd00::"),
            ("::/0", "ffff::", "10.0.0.1"),
            ("10.0.0.0/8", "10.1.2.3", "::ffff:10.0.0.1"),
        ] {
            assert!(range(text).contains(inside.parse().unwrap()), "{text} has {inside}");
            assert!(!range(text).contains(outside.parse().unwrap()), "{text} has no {outside}");
        }
    }

    #[test]
    fn a_range_is_the_same_by_whatever_address_of_it_is_written() {
        assert_eq!(range("198.19.3.4/15"), range("198.18.0.0/15"));
        assert_eq!(range("198.19.3.4/15").to_string(), "198.18.0.0/15");
        assert_eq!(range("fd00::1:2/112").to_string(), "fd00::1:0/112");
        assert_eq!(IpPrefix::new(Ipv4Addr::LOCALHOST, 200).length(), 32);
    }

    #[test]
    fn a_range_says_how_many_addresses_it_has() {
        let sizes = ["10.0.0.0/30", "10.0.0.1/32", "0.0.0.0/0", "fd00::/64", "::/0"]
            .map(|text| range(text).size());
        assert_eq!(sizes, [4, 1, 1 << 32, 1 << 64, u128::MAX]);
    }

    #[test]
    fn text_that_is_no_range_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "/8",
            "10.0.0/8",
            "10.0.0.0/8 ",
        ] {
            assert_eq!(text.parse::<IpPrefix>(), Err(PrefixError), "{text:?}");
        }
    }
}
