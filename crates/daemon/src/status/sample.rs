//! A node at one moment, as whoever watches it sees it (`adit top`): short, whatever the node has.
//!
//! Made from the status document and the counts of its traffic. It names the first of each kind, and how many more there are.

use adit_core::traffic::NodeTraffic;
use serde::{Deserialize, Serialize};

use super::{Link, LinkHealth, Reason, StatusDocument, StatusProblem};

/// The most links and problems of a sample.
const MAX_LINKS: usize = 64;
const MAX_PROBLEMS: usize = 16;

/// A node at one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSample {
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub node: String,
    /// The version of the daemon.
    pub version: String,
    /// The links with other clusters, those first that are not up.
    pub links: Vec<LinkSample>,
    /// The number of links that are not told.
    pub more_links: u64,
    /// Ports of imports, and those of them that serve requests.
    pub imports: ReadyCount,
    /// The same of exports.
    pub exports: ReadyCount,
    /// Problems, worst first.
    pub problems: Vec<StatusProblem>,
    /// The number of problems that are not told.
    pub more_problems: u64,
    /// The conversations that it carries.
    pub traffic: NodeTraffic,
}

/// A number of things, and how many of them are ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadyCount {
    /// All.
    pub total: u64,
    /// Those that are ready.
    pub ready: u64,
}

/// The link with a cluster at one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LinkSample {
    /// The other cluster.
    pub cluster: String,
    /// The health of the link.
    pub state: LinkHealth,
    /// Why it is not up.
    pub reason: Option<Reason>,
    /// Connections with nodes of that cluster.
    pub connections: u64,
    /// The longest smoothed round-trip time among them; absent without one.
    pub rtt_ms: Option<f64>,
    /// The largest part of packets lost among them, in percent.
    pub loss_percent: Option<f64>,
}

impl NodeSample {
    /// The sample of a node that says this of itself.
    #[must_use]
    pub fn new(status: StatusDocument, traffic: NodeTraffic) -> Self {
        let count = |ready: &mut dyn Iterator<Item = bool>| {
            let mut count = ReadyCount::default();
            for is_ready in ready {
                count.total += 1;
                count.ready += u64::from(is_ready);
            }
            count
        };
        let imports = status.imports.iter().flat_map(|import| &import.ports);
        let exports = status.exports.iter().flat_map(|export| &export.ports);
        let (imports, exports) = (
            count(&mut imports.map(|port| port.ready)),
            count(&mut exports.map(|port| port.ready)),
        );
        let mut links: Vec<_> = status.links.iter().map(LinkSample::from).collect();
        links.sort_by_key(|link| link.state == LinkHealth::Up);
        let more_links = links.len().saturating_sub(MAX_LINKS) as u64;
        links.truncate(MAX_LINKS);
        let mut problems = status.problems;
        let more_problems = problems.len().saturating_sub(MAX_PROBLEMS) as u64;
        problems.truncate(MAX_PROBLEMS);
        Self {
            cluster: status.node.cluster,
            node: status.node.node,
            version: status.node.version,
            links,
            more_links,
            imports,
            exports,
            problems,
            more_problems,
            traffic,
        }
    }
}

impl From<&Link> for LinkSample {
    fn from(link: &Link) -> Self {
        let connections = || link.nodes.iter().flat_map(|node| &node.connections);
        let largest = |all: &mut dyn Iterator<Item = f64>| all.reduce(f64::max);
        Self {
            cluster: link.cluster.clone(),
            state: link.state,
            reason: link.reason.clone(),
            connections: connections().count() as u64,
            rtt_ms: largest(&mut connections().map(|one| one.rtt_ms)),
            loss_percent: largest(&mut connections().map(|one| one.loss_percent)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ConnectionReport, Export, ExportPort, Import, ImportPort, PeerNode};
    use super::*;

    #[test]
    fn a_sample_is_short_whatever_the_node_has() {
        let link = |n: usize, state| Link { cluster: format!("c{n}"), state, ..Link::default() };
        let links = (0..100).map(|n| link(n, LinkHealth::Up)).collect();
        let mut status = StatusDocument { links, ..StatusDocument::default() };
        let connection = |rtt_ms, loss_percent| ConnectionReport {
            rtt_ms,
            loss_percent,
            ..ConnectionReport::default()
        };
        let connections = vec![connection(1.0, 2.0), connection(20.0, 0.5)];
        status.links[0].nodes = vec![PeerNode { connections, ..PeerNode::default() }];
        status.links.push(link(100, LinkHealth::Down));
        let port = |ready| ImportPort { ready, ..ImportPort::default() };
        status.imports = vec![Import { ports: vec![port(true), port(false)], ..Import::default() }];
        let port = ExportPort { ready: true, ..ExportPort::default() };
        status.exports = vec![Export { ports: vec![port], ..Export::default() }];
        status.problems = vec![StatusProblem::default(); 100];
        let sample = NodeSample::new(status, NodeTraffic::default());
        assert_eq!((sample.links.len(), sample.more_links), (MAX_LINKS, 101 - MAX_LINKS as u64));
        assert_eq!(sample.links[0].cluster, "c100", "the one that is down comes first");
        let first = &sample.links[1];
        let worst = (first.connections, first.rtt_ms, first.loss_percent);
        assert_eq!(worst, (2, Some(20.0), Some(2.0)));
        assert_eq!((sample.imports.ready, sample.imports.total, sample.exports.ready), (1, 2, 1));
        let problems = (sample.problems.len(), sample.more_problems);
        assert_eq!(problems, (MAX_PROBLEMS, 100 - MAX_PROBLEMS as u64));
    }
}
