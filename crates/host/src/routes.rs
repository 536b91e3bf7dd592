//! The node-local range: addresses that are local to this node, for its pods and itself, and for nobody else.
//!
//! A route `local RANGE` in table local would answer the whole neighbourhood, because the rule of that table
//! comes before any that could guard it. So the range has a routing table of its own, and rules around it
//! (for each IP family of the node):
//!
//! ```text
//! ip rule add pref 103 iif UPLINK to RANGE blackhole      # for each uplink
//! ip rule add pref 104 to RANGE lookup 1984
//! ip route add local RANGE dev lo table 1984 src NODEADDRESS
//! ip route add unreachable RANGE table 1984 metric 4278198272
//! ```
//!
//! While the local route is made anew the other one answers, so that nothing leaves the node instead.
//!
//! An uplink is an interface that carries an address of the node or a default route; what comes in by any
//! other is taken for a pod's. Without `src` the node's own connections fail with `ENETUNREACH`.
//!
//! **Invariant:** we touch what carries our routing protocol number ([`PROTOCOL`]) and nothing else.
//!
//! What the kernel does not do for addresses that only such a table has (seen on Linux 6.18):
//!
//! * A plain `bind` fails; listeners are [`crate::tcp::listen_transparent`].
//! * Without a listener an IPv4 address stays silent, so a client waits instead of being refused: the reset's
//!   source is looked up in table local, where it is not. IPv6 looks nothing up, and refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;

mod entry;
mod netlink;
mod watch;

pub use self::watch::NetworkWatch;

use adit_core::prefix::IpPrefix;

use self::entry::RouteEntry;
use self::netlink::{Kernel, with_kernel};

/// The routing table that holds the range.
pub const TABLE: u32 = 1984;
/// The preference of the rules that guard the range; they come before [`LOOKUP_PREFERENCE`].
///
/// Both are less than those of the rules by which CNIs lead whatever comes from a pod into a table of its
/// own, past ours: 109 to 112 of Cilium (`linux_defaults.RulePriorityEgress` and others), 512 to 1536 of
/// Amazon's and those like it (`toContainerRulePriority`, `fromContainerRulePriority`). Cilium moves the
/// rule for table local to 100, and others' rules before that are known to be in its way.
pub const GUARD_PREFERENCE: u32 = 103;
/// The preference of the rules that lead to [`TABLE`].
pub const LOOKUP_PREFERENCE: u32 = 104;
/// The metric of the routes that answer where the local one is not: as bad as that of others who do the same.
const LAST_METRIC: u32 = 4_278_198_272;
/// Marks rules and routes as ours (`proto 173` in what `ip` prints). Other routing daemons have other numbers.
pub const PROTOCOL: u8 = 173;

/// The range that is to be local, for each IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocalRange {
    /// The IPv4 range.
    pub v4: Option<IpPrefix>,
    /// The IPv6 range.
    pub v6: Option<IpPrefix>,
}

impl LocalRange {
    /// The ranges of those families that the node itself has an address of.
    fn prefixes(&self, node: &[IpAddr]) -> Vec<IpPrefix> {
        let has = |range: &IpPrefix| node.iter().any(|a| a.is_ipv4() == range.is_ipv4());
        self.v4.into_iter().chain(self.v6).filter(has).collect()
    }
}

/// The changes that were needed, as `ip` would print them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteChanges {
    /// Rules and routes that were missing.
    pub added: Vec<String>,
    /// Rules and routes that were ours and wanted no more.
    pub removed: Vec<String>,
}

impl RouteChanges {
    /// True if nothing had to be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl fmt::Display for RouteChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let added = self.added.iter().map(|text| ("added", text));
        let removed = self.removed.iter().map(|text| ("removed", text));
        for (n, (verb, text)) in added.chain(removed).enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            write!(f, "{comma}{verb} {text}")?;
        }
        Ok(())
    }
}

/// Makes `range` local to the node that has the addresses `node`, guards it, and removes what an earlier call
/// made and is wanted no more. Changes nothing where all is as it should be.
///
/// A family of which the node has no address is left out: there are no pods of it either.
///
/// # Errors
/// Those of netlink, with what was tried; without `CAP_NET_ADMIN` it says so.
pub async fn ensure(range: &LocalRange, node: &[IpAddr]) -> io::Result<RouteChanges> {
    with_kernel(async |kernel| {
        let interfaces = kernel.interfaces(node).await?;
        let mut wanted = BTreeSet::new();
        for to in range.prefixes(node) {
            wanted.insert(RouteEntry::Lookup { to });
            wanted.insert(RouteEntry::Unreachable { to });
            wanted.insert(RouteEntry::Local { to, source: interfaces.source(node, &to) });
            for iif in interfaces.uplinks.iter().cloned() {
                wanted.insert(RouteEntry::Guard { to, iif });
            }
        }
        converge(kernel, &wanted).await
    })
    .await
}

/// Removes all that [`ensure`] ever made here.
///
/// # Errors
/// Those of netlink, with what was tried.
pub async fn remove() -> io::Result<RouteChanges> {
    with_kernel(async |kernel| converge(kernel, &BTreeSet::new()).await).await
}

/// The addresses of this machine, and those right beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostAddresses {
    /// The addresses that its interfaces carry, those of the pods' bridge among them: what listens there is the
    /// machine itself.
    pub own: BTreeSet<IpAddr>,
    /// By address that has a route for itself alone, as pods have in most networks: the index of the device that
    /// leads there. Each pod has a device of its own, and the kernel counts indexes up.
    pub devices: BTreeMap<IpAddr, u32>,
}

/// Reads the machine's addresses. Needs no capability.
///
/// # Errors
/// Those of netlink, with what was tried.
pub async fn host_addresses() -> io::Result<HostAddresses> {
    with_kernel(async |kernel| kernel.host_addresses().await).await
}

async fn converge(kernel: &Kernel, wanted: &BTreeSet<RouteEntry>) -> io::Result<RouteChanges> {
    let found = kernel.installed().await?;
    let missing =
        wanted.iter().filter(|entry| !found.iter().any(|f| f.entry.as_ref() == Some(*entry)));
    let stale = found.iter().filter(|f| f.entry.as_ref().is_none_or(|e| !wanted.contains(e)));
    let mut changes = RouteChanges::default();
    // What keeps others out and what is ours in, the least of entries, is the first to come and the last to
    // go, so that no address is ever local and open. A route with another source must go before its
    // successor can come; all else goes after.
    let (locals, rest): (Vec<_>, Vec<_>) =
        stale.partition(|f| matches!(f.entry, Some(RouteEntry::Local { .. })));
    let (guards, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|f| {
        matches!(f.entry, Some(RouteEntry::Guard { .. } | RouteEntry::Unreachable { .. }))
    });
    for old in locals {
        kernel.delete(old).await?;
        changes.removed.push(old.to_string());
    }
    for entry in missing {
        if kernel.add(entry).await? {
            changes.added.push(entry.to_string());
        }
    }
    for old in rest.into_iter().chain(guards) {
        kernel.delete(old).await?;
        changes.removed.push(old.to_string());
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_worker_may_do_it() {
        fn send<T: Send>(_: &T) {}
        let range = LocalRange::default();
        send(&ensure(&range, &[]));
        send(&remove());
        send(&host_addresses());
        send(&async { NetworkWatch::new()?.changed().await });
    }
}
