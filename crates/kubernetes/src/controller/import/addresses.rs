//! Allocation of node-local addresses, and of listener ports where nodes' own addresses stand for
//! imports. An allocation lasts.
//!
//! The lowest free one is taken. An import keeps its addresses until the Import object is deleted,
//! a day after it was released: a client that still has one cached must not reach another Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_core::prefix::IpPrefix;

/// First NodePort: none of our ports may be among them.
pub(crate) const FIRST_NODE_PORT: u16 = 30_000;

/// The addresses of a range that may be allocated.
#[derive(Debug, Clone)]
pub(crate) struct AddressPool {
    first: u128,
    last: u128,
    v6: bool,
    taken: BTreeSet<u128>,
    next: u128,
}

impl AddressPool {
    /// Returns the pool of a range, without its first and last address: some programs take these
    /// for something else.
    pub(crate) fn new(range: IpPrefix) -> Self {
        let (network, v6) = match range.first() {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()), false),
            IpAddr::V6(ip) => (ip.to_bits(), true),
        };
        let last = network.saturating_add(range.size().saturating_sub(2));
        let first = network.saturating_add(1);
        Self { first, last, v6, taken: BTreeSet::new(), next: first }
    }

    /// Takes this address. False if it is of another range, or taken already.
    fn take(&mut self, address: IpAddr) -> bool {
        let bits = match address {
            IpAddr::V4(ip) if !self.v6 => u128::from(ip.to_bits()),
            IpAddr::V6(ip) if self.v6 => ip.to_bits(),
            IpAddr::V4(_) | IpAddr::V6(_) => return false,
        };
        (self.first..=self.last).contains(&bits) && self.taken.insert(bits)
    }

    /// Takes the lowest free address.
    fn take_lowest(&mut self) -> Option<IpAddr> {
        while self.next <= self.last {
            let bits = self.next;
            self.next += 1;
            if self.taken.insert(bits) {
                return Some(if self.v6 {
                    Ipv6Addr::from_bits(bits).into()
                } else {
                    Ipv4Addr::from_bits(u32::try_from(bits).ok()?).into()
                });
            }
        }
        None
    }
}

/// The IP families that an import needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct IpFamilies {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

/// Addresses of an import.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Allocation {
    /// IPv4 first.
    pub(crate) addresses: Vec<IpAddr>,
    /// True if an address that it needs could not be had.
    pub(crate) exhausted: bool,
}

/// Allocates addresses to every import in `need`. `held` is what Import objects have, released ones
/// included.
pub(crate) fn allocate(
    (mut v4, mut v6): (AddressPool, AddressPool),
    held: &BTreeMap<String, Vec<IpAddr>>,
    need: &BTreeMap<String, IpFamilies>,
) -> BTreeMap<String, Allocation> {
    let mut kept: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
    // Everything held comes first, so that nothing new takes it. If two hold one address, the first
    // keeps it.
    for (name, addresses) in held {
        for address in addresses {
            if v4.take(*address) || v6.take(*address) {
                kept.entry(name).or_default().push(*address);
            }
        }
    }
    let mut allocated = BTreeMap::new();
    for (name, families) in need {
        let mut own = kept.remove(name.as_str()).unwrap_or_default();
        let mut exhausted = false;
        let mut want = |is: fn(&IpAddr) -> bool, pool: &mut AddressPool, wanted: bool| {
            if wanted && !own.iter().any(is) {
                match pool.take_lowest() {
                    Some(address) => own.push(address),
                    None => exhausted = true,
                }
            }
        };
        want(IpAddr::is_ipv4, &mut v4, families.v4);
        want(IpAddr::is_ipv6, &mut v6, families.v6);
        own.sort_unstable();
        allocated.insert(name.clone(), Allocation { addresses: own, exhausted });
    }
    allocated
}

/// Allocates to each import a listener port of its own for each port that `need[import]` names,
/// from `first` up, below `end`; a port gets none when they are used up. A port keeps the one that
/// it holds, and a new port never gets a held one: a client that still connects to it must not
/// reach another port.
pub(crate) fn allocate_ports(
    (first, end): (u16, u16),
    held: &BTreeMap<String, BTreeMap<String, u16>>,
    need: &BTreeMap<String, Vec<String>>,
) -> BTreeMap<String, BTreeMap<String, u16>> {
    let mut taken: BTreeSet<u16> = BTreeSet::new();
    let mut kept: BTreeMap<(&str, &str), u16> = BTreeMap::new();
    for (import, ports) in held {
        for (port, listen) in ports {
            if (first..end).contains(listen) && taken.insert(*listen) {
                kept.insert((import, port), *listen);
            }
        }
    }
    let mut allocated: BTreeMap<String, BTreeMap<String, u16>> = BTreeMap::new();
    for (import, ports) in need {
        let own = allocated.entry(import.clone()).or_default();
        for port in ports {
            let free = || (first..end).find(|listen| !taken.contains(listen));
            let listen = kept.get(&(import, port)).copied().or_else(free);
            taken.extend(listen);
            own.extend(listen.map(|listen| (port.clone(), listen)));
        }
    }
    allocated
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pools(length: u8) -> (AddressPool, AddressPool) {
        let v4 = AddressPool::new(IpPrefix::new(Ipv4Addr::new(198, 18, 0, 0), length));
        (v4, AddressPool::new("fd00:ad17::/120".parse().unwrap()))
    }

    fn held(all: &[(&str, &[&str])]) -> BTreeMap<String, Vec<IpAddr>> {
        let parse = |a: &&str| a.parse().unwrap();
        all.iter().map(|(n, a)| ((*n).to_owned(), a.iter().map(parse).collect())).collect()
    }

    fn need(names: &[&str], v4: bool, v6: bool) -> BTreeMap<String, IpFamilies> {
        names.iter().map(|n| ((*n).to_owned(), IpFamilies { v4, v6 })).collect()
    }

    fn texts(allocated: &Allocation) -> Vec<String> {
        allocated.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_lowest_free_is_given_and_what_is_held_stays() {
        let held = held(&[("b", &["198.18.0.1"]), ("resting", &["198.18.0.2"])]);
        let allocated = allocate(pools(29), &held, &need(&["a", "b"], true, true));
        assert_eq!(texts(&allocated["a"]), ["198.18.0.3", "fd00:ad17::1"]);
        assert_eq!(texts(&allocated["b"]), ["198.18.0.1", "fd00:ad17::2"]);
    }

    #[test]
    fn a_range_that_is_full_gives_nothing() {
        let allocated = allocate(pools(30), &BTreeMap::new(), &need(&["a", "b", "c"], true, false));
        assert_eq!(texts(&allocated["b"]), ["198.18.0.2"]);
        assert_eq!(allocated["c"], Allocation { addresses: vec![], exhausted: true });
    }

    #[test]
    fn what_is_of_another_range_or_held_twice_is_given_anew() {
        let held = held(&[("a", &["10.0.0.1"]), ("b", &["198.18.0.5"]), ("c", &["198.18.0.5"])]);
        let allocated = allocate(pools(24), &held, &need(&["a", "b", "c"], true, false));
        assert_eq!(texts(&allocated["a"]), ["198.18.0.1"]);
        assert_eq!(texts(&allocated["b"]), ["198.18.0.5"]);
        assert_eq!(texts(&allocated["c"]), ["198.18.0.2"]);
    }

    #[test]
    fn ports_are_each_imports_own() {
        let held = BTreeMap::from([("b".to_owned(), [("http".to_owned(), 15080)].into())]);
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let need = BTreeMap::from([
            ("a".to_owned(), names(&["http", "grpc"])),
            ("b".to_owned(), names(&["admin", "http"])),
            ("c".to_owned(), names(&["1", "2", "3"])),
        ]);
        let allocated = allocate_ports((15080, 15085), &held, &need);
        let of = |import: &str| {
            allocated[import].iter().map(|(n, p)| (n.as_str(), *p)).collect::<Vec<_>>()
        };
        assert_eq!(of("a"), [("grpc", 15082), ("http", 15081)]);
        assert_eq!(of("b"), [("admin", 15083), ("http", 15080)], "what it has it keeps");
        assert_eq!(of("c"), [("1", 15084)], "there are no more");
    }

    #[test]
    fn a_new_port_gets_none_that_another_had_until_now() {
        let held = BTreeMap::from([("a".to_owned(), [("http".to_owned(), 15080)].into())]);
        let need = BTreeMap::from([("a".to_owned(), vec!["admin".to_owned()])]);
        assert_eq!(allocate_ports((15080, 15090), &held, &need)["a"]["admin"], 15081);
    }

    proptest! {
        #[test]
        fn nobody_shares_and_nobody_moves(first in proptest::collection::btree_set("[a-f]", 0..6),
                                          then in proptest::collection::btree_set("[a-f]", 0..6)) {
            let families = |names: &BTreeSet<String>| -> BTreeMap<_, _> {
                names.iter().map(|n| (n.clone(), IpFamilies { v4: true, v6: false })).collect()
            };
            let before = allocate(pools(28), &BTreeMap::new(), &families(&first));
            let held = before.iter().map(|(n, g)| (n.clone(), g.addresses.clone())).collect();
            let after = allocate(pools(28), &held, &families(&then));
            for name in first.intersection(&then) {
                prop_assert_eq!(&before[name], &after[name]);
            }
            let new = after.iter().filter(|(name, _)| !first.contains(*name)).map(|(_, g)| g);
            let all: Vec<_> = before.values().chain(new).flat_map(|g| &g.addresses).collect();
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        }
    }
}
