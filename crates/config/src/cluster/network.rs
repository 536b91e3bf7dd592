//! The network of a cluster's configuration: addresses and ports on the nodes, the same on all of them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use adit_core::prefix::IpPrefix;

use crate::metrics_readers::MetricsReaders;

/// Addresses and ports on the nodes; the same on all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// `mode`, default `localRange`: what stands for an import on a node.
    pub mode: NetworkMode,
    /// `range`, default `198.18.0.0/15`: the node-local IPv4 range, /8 to /30.
    pub range: IpPrefix,
    /// `range6`, default `fd00:ad17::/64`: the node-local IPv6 range, /48 to /124.
    pub range6: IpPrefix,
    /// `port`, default 7843: the UDP port of QUIC on every node.
    pub port: u16,
    /// `listenerPort`, default 15080: the TCP port at which nodes take connections to an import's first
    /// port; its n-th port has the n-th after it. Below 30000 less 128, since NodePorts begin there.
    pub listener_port: u16,
    /// `metrics`, default `127.0.0.1:7844`: where each node serves `/livez`, `/readyz` and `/metrics`.
    pub metrics: SocketAddr,
    /// `metricsFrom`, default `[pods, nodes]`, or nobody where `metrics` is written and is a loopback address, or
    /// everybody where it is written and is another: who may read them from outside the machine. Where `metrics` is a
    /// loopback address, those are served at the node's own addresses, too, at the same port.
    pub metrics_from: MetricsReaders,
}

impl NetworkConfig {
    /// Bounds of the length of [`range`](Self::range).
    pub const RANGE: RangeInclusive<u8> = 8..=30;
    /// Bounds of the length of [`range6`](Self::range6).
    pub const RANGE6: RangeInclusive<u8> = 48..=124;
    /// The number of ports that are ours from [`listener_port`](Self::listener_port) on: those of an import, and those
    /// that it had until its ports changed.
    pub const LISTENER_PORTS: u16 = 128;
    /// Bounds of [`listener_port`](Self::listener_port): none of them is a NodePort.
    pub const LISTENER_PORT: RangeInclusive<u16> = 1024..=30_000 - Self::LISTENER_PORTS;

    /// The keys in which `other` differs, as the ConfigMap names them.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let Self { mode, range, range6, port, listener_port, metrics, metrics_from } = self;
        // Where they are served decides for whom, unless that is said.
        let other_readers = *metrics == other.metrics && *metrics_from != other.metrics_from;
        let keys = [
            ("network.mode", *mode != other.mode),
            ("network.range", *range != other.range),
            ("network.range6", *range6 != other.range6),
            ("network.port", *port != other.port),
            ("network.listenerPort", *listener_port != other.listener_port),
            ("network.metrics", *metrics != other.metrics),
            ("network.metricsFrom", other_readers),
        ];
        keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }

    /// The keys that matter to more than one node, in one line for machines; [`from_line`](Self::from_line) reads it.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { mode, range, range6, port, listener_port, metrics: _, metrics_from: _ } = self;
        let mode = mode.name();
        let [v4, v6] = [range, range6].map(|range| format!("{} {}", range.first(), range.length()));
        format!("{mode} {v4} {v6} {port} {listener_port}")
    }

    /// Reads what [`line`](Self::line) gave; the rest is that of `self`.
    #[must_use]
    pub fn from_line(&self, line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let mut next = || words.next();
        let mode = next()?;
        Some(Self {
            mode: NetworkMode::ALL.into_iter().find(|known| known.name() == mode)?,
            range: IpPrefix::new(next()?.parse::<Ipv4Addr>().ok()?, next()?.parse().ok()?),
            range6: IpPrefix::new(next()?.parse::<Ipv6Addr>().ok()?, next()?.parse().ok()?),
            port: next()?.parse().ok()?,
            listener_port: next()?.parse().ok()?,
            metrics: self.metrics,
            metrics_from: self.metrics_from.clone(),
        })
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            mode: NetworkMode::default(),
            range: IpPrefix::new(Ipv4Addr::new(198, 18, 0, 0), 15),
            range6: IpPrefix::new(Ipv6Addr::new(0xfd00, 0xad17, 0, 0, 0, 0, 0, 0), 64),
            port: 7843,
            listener_port: 15_080,
            metrics: SocketAddr::from((Ipv4Addr::LOCALHOST, 7844)),
            metrics_from: MetricsReaders::cluster(),
        }
    }
}

/// The kind of address that stands for an import on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkMode {
    /// `localRange`: an address of a range that is local to every node.
    #[default]
    LocalRange,
    /// `nodeAddress`: the addresses of the nodes themselves, with ports of our own for each import. For platforms
    /// on which a node-local range is not possible. A workload's source address may be lost on the way, and
    /// slices change with the nodes.
    NodeAddress,
}

impl NetworkMode {
    /// All modes.
    pub const ALL: [Self; 2] = [Self::LocalRange, Self::NodeAddress];

    /// The word for it in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LocalRange => "localRange",
            Self::NodeAddress => "nodeAddress",
        }
    }
}
