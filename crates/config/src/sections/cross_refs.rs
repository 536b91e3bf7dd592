//! Names and addresses of earlier sections, for the references of later ones.
//!
//! Duplicates, unknown names and listeners in each other's way are found here, since each of them
//! needs to know what came before.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;

use adit_core::name::{ClusterName, NodeName};
use adit_core::spiffe::TrustDomain;

use crate::problem::{Position, ProblemKind, ValueProblem};
use crate::reader::{ValueOrigin, ValueReader};
use crate::suggest::closest;

/// Names and addresses that earlier sections have taken.
#[derive(Debug, Default)]
pub(super) struct CrossRefs {
    pub(super) own: OwnNames,
    /// The nodes of this cluster.
    pub(super) nodes: UniqueNames,
    /// The clusters of links.
    pub(super) clusters: UniqueNames,
    /// The services of imports.
    pub(super) imported: UniqueNames,
    pub(super) sockets: SocketClaims,
    /// A link may be made after what needs it, so that a cluster without one is only doubtful.
    pub(super) links_may_follow: bool,
}

/// This node's own names, as far as they could be read.
#[derive(Debug, Default)]
pub(super) struct OwnNames {
    pub(super) cluster: Option<ClusterName>,
    pub(super) trust_domain: Option<TrustDomain>,
    pub(super) node: Option<NodeName>,
}

impl CrossRefs {
    /// A cluster that must be one of our links'.
    pub(super) fn require_linked(
        &self,
        item: &ValueReader<'_>,
        cluster: &ClusterName,
        use_of_own: &str,
    ) {
        if self.own.cluster.as_ref() == Some(cluster) {
            let message = format!("{cluster} is this cluster itself: expected a linked cluster");
            item.error(
                ValueProblem::new(ProblemKind::Conflict, message).hint(use_of_own.to_owned()),
            );
        } else if let Some(finding) = self.clusters.missing(cluster, "link with cluster") {
            if self.links_may_follow { item.warn(finding) } else { item.error(finding) }
        }
    }

    /// A cluster that may have no link, but then no name like one that has.
    pub(super) fn warn_if_misspelled(&self, item: &ValueReader<'_>, cluster: &ClusterName) {
        let lacks = self.clusters.missing(cluster, "link with cluster");
        if let Some(finding) = lacks.filter(|finding| finding.hint.is_some()) {
            item.warn(finding);
        }
    }
}

/// A file with more names than this must not get slow for the sake of hints.
const MAX_CANDIDATES: usize = 256;

/// Values that may be used once each, and where they were.
#[derive(Debug, Default)]
pub(super) struct UniqueNames {
    claimed: BTreeMap<String, ValueOrigin>,
    /// An entry has no readable name, so that a name that is not among `taken` may be fine.
    has_unreadable: bool,
}

impl UniqueNames {
    /// Takes the name in `item`, unless it is taken. `None` marks an entry whose name is unreadable.
    pub(super) fn claim<T: Display>(&mut self, named: Option<(&ValueReader<'_>, &T)>, what: &str) {
        let Some((item, name)) = named else {
            self.has_unreadable = true;
            return;
        };
        let name = name.to_string();
        if let Some(first) = self.claimed.get(&name) {
            let message = format!("{what} {name} is already {}", first.relative_to(item));
            item.error(ValueProblem::new(ProblemKind::Duplicate, message));
        } else {
            self.claimed.insert(name, item.origin());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.claimed.is_empty() && !self.has_unreadable
    }

    pub(super) fn origin<T: Display>(&self, name: &T) -> Option<&ValueOrigin> {
        self.claimed.get(&name.to_string())
    }

    /// Expects the name in `item` to be taken.
    pub(super) fn require<T: Display>(&self, item: &ValueReader<'_>, name: &T, what: &str) {
        if let Some(finding) = self.missing(name, what) {
            item.error(finding);
        }
    }

    /// The finding that `name` has to be taken and is not.
    fn missing<T: Display>(&self, name: &T, what: &str) -> Option<ValueProblem> {
        let name = name.to_string();
        if self.has_unreadable || self.claimed.contains_key(&name) {
            return None;
        }
        let names = || self.claimed.keys().map(String::as_str);
        let expected = match self.claimed.len() {
            0 => "there is none".to_owned(),
            1..=5 => format!("expected {}", names().collect::<Vec<_>>().join(" or ")),
            many => format!("expected one of {many}"),
        };
        let hint = closest(&name, names().take(MAX_CANDIDATES))
            .map(|meant| format!("did you mean {meant}?"));
        let message = format!("no {what} {name:?}: {expected}");
        Some(ValueProblem::new(ProblemKind::UnknownName, message).hint(hint))
    }
}

/// The addresses at which this node listens, and those at which others are dialled.
#[derive(Debug, Default)]
pub(super) struct SocketClaims {
    /// Our UDP addresses.
    udp: Vec<BoundSocket>,
    /// Our TCP addresses.
    tcp: Vec<BoundSocket>,
    /// The addresses of siblings and peers.
    dialled: UniqueNames,
}

#[derive(Debug)]
struct BoundSocket {
    address: SocketAddr,
    path: String,
    position: Position,
}

/// The ports that Kubernetes uses for the NodePorts of Services, unless configured otherwise.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

impl BoundSocket {
    fn new(item: &ValueReader<'_>, address: SocketAddr) -> Self {
        Self { address, path: item.path().to_owned(), position: item.position() }
    }

    /// True if the operating system would refuse to bind both. What an IPv6 wildcard does to IPv4
    /// depends on the socket's options, which are not known here.
    fn conflicts_with(&self, other: SocketAddr) -> bool {
        let address = self.address;
        let wildcard = address.ip().is_unspecified() || other.ip().is_unspecified();
        address.port() == other.port()
            && address.port() != 0
            && address.is_ipv4() == other.is_ipv4()
            && (address.ip() == other.ip() || wildcard)
    }
}

impl SocketClaims {
    /// A UDP address of this node.
    pub(super) fn bind_udp(&mut self, item: &ValueReader<'_>, address: SocketAddr) {
        bind(&mut self.udp, item, address);
    }

    /// A TCP address of this node.
    pub(super) fn bind_tcp(&mut self, item: &ValueReader<'_>, address: SocketAddr) {
        bind(&mut self.tcp, item, address);
    }

    /// An address at which this node can be dialled, beside those it listens at.
    pub(super) fn advertise(&mut self, item: &ValueReader<'_>, address: SocketAddr) {
        if !self.udp.iter().any(|bound| bound.address == address) {
            self.udp.push(BoundSocket::new(item, address));
        }
    }

    /// An address of a sibling or peer: neither our own nor that of another one.
    pub(super) fn dial<T: Display>(&mut self, item: &ValueReader<'_>, address: &T) {
        let text = address.to_string();
        if let Some(own) = self.udp.iter().find(|bound| bound.address.to_string() == text) {
            let message =
                format!("{text} is this node itself ({}, line {})", own.path, own.position.line);
            item.error(ValueProblem::new(ProblemKind::Conflict, message));
        } else {
            self.dialled.claim(Some((item, address)), "address");
        }
    }

    /// A backend on this node: not one of our own TCP listeners, or a stream would come back to us.
    pub(super) fn backend(&self, item: &ValueReader<'_>, address: SocketAddr) {
        let own_ip = |ip| self.udp.iter().any(|bound| bound.address.ip() == ip);
        let reaches = |bound: &&BoundSocket| {
            bound.address == address
                || (bound.conflicts_with(address)
                    && (address.ip().is_loopback() || own_ip(address.ip())))
        };
        if let Some(own) = self.tcp.iter().find(reaches) {
            let message = format!(
                "{address} is this node's own listener ({}, line {}): a stream would come back to us",
                own.path, own.position.line
            );
            item.error(ValueProblem::new(ProblemKind::Conflict, message));
        }
    }
}

fn bind(bound: &mut Vec<BoundSocket>, item: &ValueReader<'_>, address: SocketAddr) {
    if let Some(other) = bound.iter().find(|bound| bound.conflicts_with(address)) {
        let message = format!(
            "{address} excludes {} ({}, line {})",
            other.address, other.path, other.position.line
        );
        item.error(ValueProblem::new(ProblemKind::Duplicate, message));
        return;
    }
    if NODE_PORTS.contains(&address.port()) {
        let message =
            format!("port {} is in Kubernetes' NodePort range, 30000 to 32767", address.port());
        let hint = "on a Kubernetes node a Service may take it; choose one outside the range";
        item.warn(ValueProblem::new(ProblemKind::Doubtful, message).hint(hint.to_owned()));
    }
    bound.push(BoundSocket::new(item, address));
}
