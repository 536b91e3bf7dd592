//! Links on a network in memory and a paused clock.
//!
//! * [`state`]: what clusters learn of each other, from whom, and what that costs;
//! * [`dialling`]: when, where and how often is dialled;
//! * [`streams`]: which connection a stream takes, and what happens to it when connections come and go;
//! * [`denied`]: whom the deny list ends, and when;
//! * [`trust`]: an authority that is not believed any more;
//! * [`disconnects`]: what is said of a link that lost a connection;
//! * [`faults`]: which way packets are lost, and which side refuses whose certificate;
//! * [`duplicates`]: two processes that have one name;
//! * [`hostile`]: peers that are not what they say, or speak out of turn; [`publishers`]: whose view is nonsense;
//! * [`reports`]: what a node says to its own controller;
//! * [`connection_limits`]: peers that make more connections than anybody needs;
//! * [`floods`]: peers that say too much.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it must be")]

#[path = "links/connection_limits.rs"]
mod connection_limits;
#[path = "links/denied.rs"]
mod denied;
#[path = "links/dialling.rs"]
mod dialling;
#[path = "links/disconnects.rs"]
mod disconnects;
#[path = "links/duplicates.rs"]
mod duplicates;
#[path = "links/faults.rs"]
mod faults;
#[path = "links/floods.rs"]
mod floods;
#[path = "links/hostile.rs"]
mod hostile;
#[path = "links/publishers.rs"]
mod publishers;
#[path = "links/reports.rs"]
mod reports;
#[path = "links/state.rs"]
mod state;
#[path = "links/streams.rs"]
mod streams;
#[path = "links/trust.rs"]
mod trust;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::snapshot::Link;
use adit_tests::net::memory::MemoryNetwork;
use adit_tests::sites::{RunningNode, Site, start};
use adit_transport::Tuning;
use adit_transport::links::LinkSettings;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A network on which hosts can be cut off.
pub(crate) struct LinkWorld {
    pub(crate) network: MemoryNetwork,
    cut: Arc<Mutex<Vec<IpAddr>>>,
    apart: Arc<Mutex<Vec<(IpAddr, IpAddr)>>>,
    blocked: Arc<Mutex<Vec<(IpAddr, IpAddr)>>>,
}

impl LinkWorld {
    pub(crate) fn new() -> Self {
        Self::far(Duration::from_millis(10))
    }

    /// Datagrams are so long under way.
    pub(crate) fn far(delay: Duration) -> Self {
        let network = MemoryNetwork::new(delay);
        let cut: Arc<Mutex<Vec<IpAddr>>> = Arc::default();
        let apart: Arc<Mutex<Vec<(IpAddr, IpAddr)>>> = Arc::default();
        let blocked: Arc<Mutex<Vec<(IpAddr, IpAddr)>>> = Arc::default();
        let (off, divided) = (Arc::clone(&cut), Arc::clone(&apart));
        let one_way = Arc::clone(&blocked);
        network.set_filter(move |(_, from, to, _), _| {
            let (off, divided) = (off.lock().unwrap(), divided.lock().unwrap());
            let (from, to) = (from.ip(), to.ip());
            let cut = off.contains(&from) || off.contains(&to);
            !cut && !one_way.lock().unwrap().contains(&(from, to))
                && !divided.contains(&(from, to))
                && !divided.contains(&(to, from))
        });
        Self { network, cut, apart, blocked }
    }

    /// Nothing reaches these hosts or comes from them.
    pub(crate) fn cut(&self, hosts: &[IpAddr]) {
        *self.cut.lock().unwrap() = hosts.to_vec();
    }

    /// Nothing that the first of these hosts sends reaches the second, for each pair.
    pub(crate) fn block(&self, pairs: &[(IpAddr, IpAddr)]) {
        *self.blocked.lock().unwrap() = pairs.to_vec();
    }

    /// Nothing passes between these two hosts.
    pub(crate) fn divide(&self, a: IpAddr, b: IpAddr) {
        self.apart.lock().unwrap().push((a, b));
    }

    /// Starts a node that is linked with others, each with its seeds.
    pub(crate) fn run(&self, site: &Site, n: u8, others: &[(&Site, &[u8])]) -> RunningNode {
        let links: Vec<Link> = others.iter().map(|(other, seeds)| other.link(seeds)).collect();
        let others: Vec<&Site> = others.iter().map(|(other, _)| *other).collect();
        self.run_with(site, n, &others, &links, LinkSettings::default(), Tuning::default())
    }

    /// Starts a node that believes these clusters.
    pub(crate) fn run_with(
        &self,
        site: &Site,
        n: u8,
        others: &[&Site],
        links: &[Link],
        settings: LinkSettings,
        tuning: Tuning,
    ) -> RunningNode {
        let believed: Vec<_> = others.iter().map(|other| &other.authority).collect();
        let identity = site.authority.node(site.node(n).as_str(), &believed);
        let snapshot = site.snapshot(n, links);
        start(self.network.host(site.ip(n)), &identity, snapshot, n, settings, tuning)
    }
}

/// `edge` and `bank`, with so many nodes each.
pub(crate) fn two(edge: u8, bank: u8) -> (Site, Site) {
    (Site::new("edge", 1, edge), Site::new("bank", 2, bank))
}
