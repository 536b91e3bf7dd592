//! The kernel's side of it: what is there, and changing it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel has dozens of attributes, and every release adds some"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::pin;

use adit_core::prefix::IpPrefix;
use futures_util::future::{Either, select};
use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use super::entry::{EntryMessage, RouteEntry};
use super::{HostAddresses, PROTOCOL, TABLE};

/// Runs `work` on a connection to the kernel that lasts as long.
pub(super) async fn with_kernel<T>(
    work: impl AsyncFnOnce(&Kernel) -> io::Result<T>,
) -> io::Result<T> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let kernel = Kernel(handle);
    match select(pin!(work(&kernel)), connection).await {
        Either::Left((done, _)) => done,
        Either::Right(((), _)) => Err(io::Error::other("the kernel closed the netlink connection")),
    }
}

pub(super) struct Kernel(Handle);

/// A rule or route of ours that the kernel has.
pub(super) struct InstalledEntry {
    /// The rule or route; `None` if we would not make it so.
    pub(super) entry: Option<RouteEntry>,
    /// As the kernel has it, which is also how to delete it.
    message: EntryMessage,
}

impl fmt::Display for InstalledEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.entry, &self.message) {
            (Some(entry), _) => entry.fmt(f),
            (None, EntryMessage::Rule(_)) => f.write_str("a rule that is not as we make it"),
            (None, EntryMessage::Route(_)) => f.write_str("a route that is not as we make it"),
        }
    }
}

/// The node's interfaces and addresses.
pub(super) struct NodeInterfaces {
    /// The names of those by which strangers come in.
    pub(super) uplinks: BTreeSet<String>,
    /// All addresses that an interface carries.
    addresses: BTreeSet<IpAddr>,
}

impl NodeInterfaces {
    /// Where the node's own connections into the range come from: an address of the node that it really
    /// carries, because the kernel takes no other.
    pub(super) fn source(&self, node: &[IpAddr], to: &IpPrefix) -> Option<IpAddr> {
        let fits = |a: &&IpAddr| a.is_ipv4() == to.is_ipv4() && self.addresses.contains(a);
        node.iter().find(fits).copied()
    }
}

impl Kernel {
    pub(super) async fn interfaces(&self, node: &[IpAddr]) -> io::Result<NodeInterfaces> {
        let mut names = BTreeMap::new();
        for link in all("links", self.0.link().get().execute()).await? {
            let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            if !link.header.flags.contains(LinkFlags::Loopback) {
                names.extend(name.map(|name| (link.header.index, name)));
            }
        }
        let mut uplinks = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for message in all("addresses", self.0.address().get().execute()).await? {
            for attribute in message.attributes {
                // On a point-to-point device the first is the other end's.
                let (AddressAttribute::Local(address) | AddressAttribute::Address(address)) =
                    attribute
                else {
                    continue;
                };
                addresses.insert(address);
                if node.contains(&address) {
                    uplinks.insert(message.header.index);
                }
            }
        }
        for route in self.routes().await? {
            let default = route.header.destination_prefix_length == 0
                && table(&route) == u32::from(RouteHeader::RT_TABLE_MAIN)
                && route.header.kind == RouteType::Unicast;
            if default {
                uplinks.extend(outgoing(&route));
            }
        }
        let uplinks = uplinks.iter().filter_map(|index| names.get(index).cloned()).collect();
        Ok(NodeInterfaces { uplinks, addresses })
    }

    /// Reads the addresses of this machine, and those right beside it.
    pub(super) async fn host_addresses(&self) -> io::Result<HostAddresses> {
        let mut found = HostAddresses::default();
        for message in all("addresses", self.0.address().get().execute()).await? {
            let (mut local, mut address) = (None, None);
            for attribute in message.attributes {
                match attribute {
                    AddressAttribute::Local(ip) => local = Some(ip),
                    // On a point-to-point device that is the other end's, which may be a pod's.
                    AddressAttribute::Address(ip) => address = Some(ip),
                    _ => {}
                }
            }
            found.own.extend(local.or(address));
        }
        for route in self.routes().await? {
            let whole = if route.header.address_family == AddressFamily::Inet { 32 } else { 128 };
            let leads_to_one = route.header.destination_prefix_length == whole
                && table(&route) == u32::from(RouteHeader::RT_TABLE_MAIN)
                && route.header.kind == RouteType::Unicast;
            let to = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
                RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
                _ => None,
            });
            if let (true, Some(ip), [device]) = (leads_to_one, to, outgoing(&route).as_slice()) {
                found.devices.insert(ip, *device);
            }
        }
        Ok(found)
    }

    /// Reads the rules and routes that carry our mark.
    pub(super) async fn installed(&self) -> io::Result<Vec<InstalledEntry>> {
        let mut found = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let family = family(&version);
            let rules = all("rules", self.0.rule().get(version).execute()).await?;
            // A kernel without that family answers with all that it has.
            for message in rules.into_iter().filter(|m| m.header.family == family && is_ours(m)) {
                let entry = RouteEntry::from_rule(&message);
                found.push(InstalledEntry { entry, message: EntryMessage::Rule(message) });
            }
        }
        for message in self.routes().await? {
            if table(&message) == TABLE && message.header.protocol == RouteProtocol::Other(PROTOCOL)
            {
                let entry = RouteEntry::from_route(&message);
                found.push(InstalledEntry { entry, message: EntryMessage::Route(message) });
            }
        }
        Ok(found)
    }

    async fn routes(&self) -> io::Result<Vec<RouteMessage>> {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut routes = Vec::new();
        for request in [v4, v6] {
            let family = request.header.address_family;
            let of_family = all("routes", self.0.route().get(request).execute()).await?;
            routes.extend(of_family.into_iter().filter(|r| r.header.address_family == family));
        }
        Ok(routes)
    }

    /// Adds it; false if somebody else was faster.
    pub(super) async fn add(&self, entry: &RouteEntry) -> io::Result<bool> {
        let done = match entry.message() {
            EntryMessage::Route(message) => self.0.route().add(message).execute().await,
            EntryMessage::Rule(message) => {
                let mut request = self.0.rule().add();
                *request.message_mut() = message;
                request.execute().await
            }
        };
        match done.map_err(|e| cause(&e)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(failed("add", entry, &error)),
        }
    }

    /// Deletes it, where it is not gone already.
    pub(super) async fn delete(&self, found: &InstalledEntry) -> io::Result<()> {
        let done = match &found.message {
            EntryMessage::Route(message) => self.0.route().del(message.clone()).execute().await,
            EntryMessage::Rule(message) => self.0.rule().del(message.clone()).execute().await,
        };
        match done.map_err(|e| cause(&e)) {
            Ok(()) => Ok(()),
            Err(e) if [Some(ENOENT), Some(ESRCH)].contains(&e.raw_os_error()) => Ok(()),
            Err(error) => Err(failed("remove", found, &error)),
        }
    }
}

/// The error of deleting a rule that is not there, and a route likewise.
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;

fn family(version: &IpVersion) -> AddressFamily {
    match version {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    }
}

fn is_ours(rule: &RuleMessage) -> bool {
    rule.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)))
}

/// The route's table, whose number does not fit the header where it is above 255.
fn table(route: &RouteMessage) -> u32 {
    let attribute = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or_else(|| route.header.table.into())
}

/// The interfaces that a route leads to.
fn outgoing(route: &RouteMessage) -> Vec<u32> {
    let mut found = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => found.push(*index),
            RouteAttribute::MultiPath(hops) => found.extend(hops.iter().map(|h| h.interface_index)),
            _ => {}
        }
    }
    found
}

async fn all<T>(
    what: &str,
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> io::Result<Vec<T>> {
    pin!(stream)
        .map(|item| item.map_err(|e| cause(&e)))
        .try_collect()
        .await
        .map_err(|e| failed("list", &what, &e))
}

fn cause(error: &rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

fn failed(verb: &str, what: &dyn fmt::Display, error: &io::Error) -> io::Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => " (it needs the capability CAP_NET_ADMIN)",
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot {verb} {what}: {error}{hint}"))
}
