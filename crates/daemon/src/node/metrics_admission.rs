//! The admission to a node's public server: this machine, and those whom `network.metricsFrom` names.
//!
//! On Kubernetes the node's own address is on a network with strangers. A connection proves its address, since it takes
//! an answer to be made: so whoever has an address of this cluster's is let in by that, and everybody else is closed
//! unread.

use std::net::IpAddr;
use std::sync::Arc;

use adit_config::config::MetricsAccess;
use adit_config::metrics_readers::MetricsReader;
use adit_core::snapshot::{SiblingTable, Snapshot};
use adit_kubernetes::node::ReaderPods;
use tokio::sync::watch;

use crate::admin::serve::Admission;

/// Admits those whom `access` names, by this cluster's nodes in the snapshot and by `pods`.
pub(super) fn admission(
    access: MetricsAccess,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    pods: Option<ReaderPods>,
) -> Admission {
    let pods = pods.filter(|_| access.readers.has(MetricsReader::Pods));
    Admission::new(move |ip| {
        if is_named(&access, &snapshot.borrow().siblings, ip) {
            return Box::pin(std::future::ready(true));
        }
        match pods.clone() {
            Some(pods) => Box::pin(async move { pods.admits(ip).await }),
            None => Box::pin(std::future::ready(false)),
        }
    })
}

/// True if an address in canonical form is this machine's, in one of the ranges, or a sibling's where those count.
fn is_named(access: &MetricsAccess, siblings: &SiblingTable, ip: IpAddr) -> bool {
    let is_own = ip.is_loopback() || access.own.iter().any(|own| own.to_canonical() == ip);
    is_own
        || access.readers.has_address(ip)
        || (access.readers.has(MetricsReader::Nodes) && siblings.is_at(ip))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn this_machine_its_siblings_and_ranges_are_let_in_and_strangers_are_not() {
        let at: SocketAddr = "172.18.1.3:7843".parse().unwrap();
        let mut siblings = SiblingTable::default();
        siblings.insert("e2".parse().unwrap(), vec![at]);
        let named = |readers: &[&str], ip: &str| {
            let readers = readers.iter().map(|text| text.parse().unwrap()).collect();
            let own = vec!["172.18.1.2".parse().unwrap()];
            let access = MetricsAccess { listen: Vec::new(), readers, own };
            is_named(&access, &siblings, ip.parse::<IpAddr>().unwrap().to_canonical())
        };
        for ip in ["127.0.0.1", "::1", "172.18.1.2", "::ffff:172.18.1.2"] {
            assert!(named(&[], ip), "{ip} is this machine");
        }
        for sibling in ["172.18.1.3", "::ffff:172.18.1.3"] {
            assert!(named(&["pods", "nodes"], sibling), "{sibling}");
            assert!(!named(&["pods"], sibling), "{sibling}");
        }
        for stranger in ["172.18.2.2", "10.244.0.7", "fe80::1", "::ffff:172.18.2.2"] {
            assert!(!named(&["pods", "nodes"], stranger), "{stranger}");
        }
        assert!(named(&["172.18.2.0/24"], "::ffff:172.18.2.2"), "a range has it");
    }
}
