//! Rules and routes as values: to be compared, printed, and told to the kernel.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel has dozens of attributes, and every release adds some"
)]

use std::fmt;
use std::net::IpAddr;

use adit_core::prefix::IpPrefix;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, route::RouteHeader};

use super::{GUARD_PREFERENCE, LAST_METRIC, LOOKUP_PREFERENCE, PROTOCOL, TABLE};

/// The index of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;

/// The IP family of a range.
fn family(range: &IpPrefix) -> AddressFamily {
    if range.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// A rule or route of ours. In the order in which they are made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RouteEntry {
    /// Drops packets for the range that come in by an uplink.
    Guard { to: IpPrefix, iif: String },
    /// Where the range is not local there is no way to it.
    Unreachable { to: IpPrefix },
    /// The range is local; the node's own connections come from `source`.
    Local { to: IpPrefix, source: Option<IpAddr> },
    /// Whoever else wants the range is led to our table.
    Lookup { to: IpPrefix },
}

impl fmt::Display for RouteEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guard { to, iif } => write!(f, "rule iif {iif} to {to} blackhole"),
            Self::Unreachable { to } => write!(f, "route unreachable {to} table {TABLE}"),
            Self::Local { to, source: Some(source) } => {
                write!(f, "route local {to} dev lo table {TABLE} src {source}")
            }
            Self::Local { to, source: None } => write!(f, "route local {to} dev lo table {TABLE}"),
            Self::Lookup { to } => write!(f, "rule to {to} lookup {TABLE}"),
        }
    }
}

/// A message to the kernel.
pub(super) enum EntryMessage {
    Rule(RuleMessage),
    Route(RouteMessage),
}

impl RouteEntry {
    pub(super) fn message(&self) -> EntryMessage {
        match self {
            Self::Guard { to, iif } => {
                let mut message = rule(to, GUARD_PREFERENCE, RuleAction::Blackhole);
                message.attributes.push(RuleAttribute::Iifname(iif.clone()));
                EntryMessage::Rule(message)
            }
            Self::Lookup { to } => {
                let mut message = rule(to, LOOKUP_PREFERENCE, RuleAction::ToTable);
                message.attributes.push(RuleAttribute::Table(TABLE));
                EntryMessage::Rule(message)
            }
            Self::Unreachable { to } => {
                let mut message = route(to, RouteType::Unreachable, RouteScope::Universe);
                message.attributes.push(RouteAttribute::Priority(LAST_METRIC));
                EntryMessage::Route(message)
            }
            Self::Local { to, source } => {
                let mut message = route(to, RouteType::Local, RouteScope::Host);
                message.attributes.push(RouteAttribute::Oif(LOOPBACK));
                let source = source.map(|a| RouteAttribute::PrefSource(a.into()));
                message.attributes.extend(source);
                EntryMessage::Route(message)
            }
        }
    }

    /// The rule of ours that the kernel shows; `None` if it is one that we would not make so.
    pub(super) fn from_rule(message: &RuleMessage) -> Option<Self> {
        let (mut to, mut preference, mut table, mut iif) = (None, None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Destination(address) => {
                    to = Some(IpPrefix::new(*address, message.header.dst_len));
                }
                RuleAttribute::Priority(n) => preference = Some(*n),
                RuleAttribute::Table(n) => table = Some(*n),
                RuleAttribute::Iifname(name) => iif = Some(name.clone()),
                RuleAttribute::Source(_)
                | RuleAttribute::Oifname(_)
                | RuleAttribute::FwMark(_)
                | RuleAttribute::IpProtocol(_)
                | RuleAttribute::SourcePortRange(_)
                | RuleAttribute::DestinationPortRange(_)
                | RuleAttribute::UidRange(_) => return None,
                _ => {}
            }
        }
        match (message.header.action, preference?, iif) {
            (RuleAction::Blackhole, GUARD_PREFERENCE, Some(iif)) => {
                Some(Self::Guard { to: to?, iif })
            }
            (RuleAction::ToTable, LOOKUP_PREFERENCE, None) if table == Some(TABLE) => {
                Some(Self::Lookup { to: to? })
            }
            _ => None,
        }
    }

    /// The route of ours that the kernel shows; `None` if it is one that we would not make so.
    pub(super) fn from_route(message: &RouteMessage) -> Option<Self> {
        let (mut to, mut source, mut oif, mut metric) = (None, None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => to = ip(address),
                RouteAttribute::PrefSource(address) => source = ip(address),
                RouteAttribute::Oif(index) => oif = Some(*index),
                RouteAttribute::Priority(n) => metric = Some(*n),
                _ => {}
            }
        }
        let to = IpPrefix::new(to?, message.header.destination_prefix_length);
        match message.header.kind {
            RouteType::Local if oif == Some(LOOPBACK) => Some(Self::Local { to, source }),
            RouteType::Unreachable if metric == Some(LAST_METRIC) => Some(Self::Unreachable { to }),
            _ => None,
        }
    }
}

fn route(to: &IpPrefix, kind: RouteType, scope: RouteScope) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(to),
        destination_prefix_length: to.length(),
        protocol: RouteProtocol::Other(PROTOCOL),
        scope,
        kind,
        ..RouteHeader::default()
    };
    message.attributes =
        vec![RouteAttribute::Table(TABLE), RouteAttribute::Destination(to.first().into())];
    message
}

fn rule(to: &IpPrefix, preference: u32, action: RuleAction) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(to);
    message.header.dst_len = to.length();
    message.header.action = action;
    message.attributes = vec![
        RuleAttribute::Destination(to.first()),
        RuleAttribute::Priority(preference),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ];
    message
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_to_the_kernel_is_recognised_again() {
        let v4: IpPrefix = "198.19.3.4/15".parse().unwrap();
        assert_eq!(v4.to_string(), "198.18.0.0/15");
        let v6: IpPrefix = "fd00:ad17::1/64".parse().unwrap();
        for to in [v4, v6] {
            for entry in [
                RouteEntry::Guard { to, iif: "eth0".into() },
                RouteEntry::Unreachable { to },
                RouteEntry::Local { to, source: None },
                RouteEntry::Local { to, source: Some(to.first()) },
                RouteEntry::Lookup { to },
            ] {
                let again = match entry.message() {
                    EntryMessage::Rule(message) => RouteEntry::from_rule(&message),
                    EntryMessage::Route(message) => RouteEntry::from_route(&message),
                };
                assert_eq!(again, Some(entry));
            }
        }
    }

    #[test]
    fn a_rule_that_we_would_not_make_so_is_not_taken_for_ours() {
        let to = "198.18.0.0/15".parse().unwrap();
        let EntryMessage::Rule(mut message) = (RouteEntry::Lookup { to }).message() else {
            unreachable!()
        };
        message.attributes.push(RuleAttribute::FwMark(7));
        assert_eq!(RouteEntry::from_rule(&message), None);
        let message = rule(&to, GUARD_PREFERENCE, RuleAction::Blackhole);
        assert_eq!(RouteEntry::from_rule(&message), None, "a guard that drops everybody");
    }
}
