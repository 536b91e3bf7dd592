//! A node's part of a cluster's configuration, for the process that runs from either.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use adit_core::name::NodeName;
use adit_core::snapshot::ClusterView;

use super::ClusterConfig;
use crate::config::{AdminConfig, Config, LinkConfig, MetricsAccess, NodeConfig};
use crate::sections::nodes::default_endpoints;

/// Facts that a node knows of itself and the ConfigMap does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: NodeName,
    /// Its IP addresses, where others dial it.
    pub addresses: Vec<IpAddr>,
    /// The folder of its certificate and key.
    pub identity: PathBuf,
    /// The folder of the linked clusters' trust bundles: `CLUSTER.pem` each, and `TRUSTDOMAIN.last.pem` with what
    /// was good last.
    pub bundles: PathBuf,
}

impl ClusterConfig {
    /// The configuration of one node, as a file would have it. Siblings, imports, exports and workloads are
    /// left out: the API server tells them.
    #[must_use]
    pub fn node(&self, facts: NodeFacts) -> Config {
        let NodeFacts { name, addresses, identity, bundles } = facts;
        let port = self.network.port;
        // The IPv6 wildcard carries IPv4 as well, and two sockets for one port would exclude each other.
        let any: IpAddr = if addresses.iter().any(IpAddr::is_ipv6) {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let advertise =
            addresses.iter().map(|ip| SocketAddr::new(*ip, port)).take(ClusterView::MAX_ADDRESSES);
        let network = &self.network;
        let reader_listen = if network.metrics.ip().to_canonical().is_loopback()
            && !network.metrics_from.is_empty()
        {
            let at = |ip: &IpAddr| SocketAddr::new(*ip, network.metrics.port());
            addresses.iter().map(at).collect()
        } else {
            Vec::new()
        };
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let links = self.links.iter().map(|link| LinkConfig {
            cluster: link.cluster.clone(),
            trust_domain: link.trust_domain.clone(),
            trust_bundle: bundles.join(format!("{}.pem", link.cluster)),
            last_bundle: Some(bundles.join(format!("{}.last.pem", link.trust_domain))),
            addresses: link.addresses.clone(),
        });
        Config {
            cluster: self.cluster.clone(),
            trust_domain: self.trust_domain.clone(),
            node: NodeConfig {
                name,
                listen: vec![SocketAddr::new(any, port)],
                advertise: advertise.collect(),
                identity,
                endpoints: default_endpoints(cores),
            },
            siblings: BTreeMap::new(),
            links: links.collect(),
            imports: Vec::new(),
            exports: Vec::new(),
            workloads: HashMap::new(),
            denied: self.denied.clone(),
            limits: self.limits.clone(),
            admin: AdminConfig::default(),
            metrics: Some(network.metrics),
            metrics_access: Some(MetricsAccess {
                listen: reader_listen,
                readers: network.metrics_from.clone(),
                own: addresses,
            }),
            log: self.log,
        }
    }
}
