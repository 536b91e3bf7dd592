//! `node`, `siblings` and `links`: who we are, and whom we are connected with.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;

use adit_core::name::{ClusterName, NodeName};
use adit_core::snapshot::{ClusterView, Seed};
use adit_core::spiffe::TrustDomain;

use super::cross_refs::{CrossRefs, UniqueNames};
use super::{NodeEnv, each, entries};
use crate::config::{LinkConfig, NodeConfig};
use crate::problem::{ProblemKind, ValueProblem};
use crate::reader::{MapReader, ValueReader};
use crate::source::ReferenceKind;
use crate::value;

/// More endpoints than cores win nothing, and few machines have more.
const MAX_ENDPOINTS: u16 = 64;
/// Beyond four, one node's traffic was never what ran out of cores.
const DEFAULT_ENDPOINTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);

/// The number of endpoints of a machine with so many cores.
pub(crate) fn default_endpoints(cores: NonZeroUsize) -> NonZeroUsize {
    cores.min(DEFAULT_ENDPOINTS)
}

pub(super) fn node(
    item: &ValueReader<'_>,
    env: NodeEnv<'_>,
    refs: &mut CrossRefs,
) -> Option<NodeConfig> {
    let mut fields = item.fields()?;
    let name = fields.required("name", "this node's name").and_then(|item| {
        let name: NodeName = item.value(value::name)?;
        refs.nodes.claim(Some((&item, &name)), "node");
        Some(name)
    });
    refs.own.node.clone_from(&name);
    let listen = fields.required("listen", "IP:PORT, or a list of them").and_then(|item| {
        let items = item.one_or_more()?;
        if items.is_empty() {
            item.error(ValueProblem::new(ProblemKind::MissingKey, "expected at least one address"));
        }
        each(items, |item| {
            let address = item.value(value::address)?;
            refs.sockets.bind_udp(&item, address);
            Some(address)
        })
    });
    let advertise = match fields.optional("advertise") {
        Some(item) => advertise(&item, refs),
        None => listen
            .as_ref()
            .map(|listen| listen.iter().copied().filter(|a| value::dialable(*a).is_ok()).collect()),
    };
    let identity = fields.required("identity", "the folder of node.pem").and_then(|item| {
        let folder = item.file(env.base)?;
        item.add_reference(&folder, ReferenceKind::Identity);
        Some(folder)
    });
    let endpoints = match fields.optional("endpoints") {
        Some(item) => item
            .number(|text| value::number(text, &(1..=MAX_ENDPOINTS)))
            .and_then(|n| NonZeroUsize::new(n.into())),
        None => Some(default_endpoints(env.cores)),
    };
    fields.finish();
    Some(NodeConfig {
        name: name?,
        listen: listen?,
        advertise: advertise?,
        identity: identity?,
        endpoints: endpoints?,
    })
}

fn advertise(item: &ValueReader<'_>, refs: &mut CrossRefs) -> Option<Vec<SocketAddr>> {
    let items = item.list()?;
    if items.len() > ClusterView::MAX_ADDRESSES {
        let message =
            format!("{} addresses: expected at most {}", items.len(), ClusterView::MAX_ADDRESSES);
        item.error(ValueProblem::new(ProblemKind::OutOfRange, message));
    }
    let mut once = UniqueNames::default();
    each(items, |item| {
        let address = item.value(|text| value::address(text).and_then(value::dialable))?;
        once.claim(Some((&item, &address)), "address");
        refs.sockets.advertise(&item, address);
        Some(address)
    })
}

/// Warns where others are meant to dial this node and cannot be told where.
pub(super) fn warn_if_unreachable(item: &ValueReader<'_>, node: &NodeConfig, others: bool) {
    let wildcard = node.listen.iter().any(|a| a.ip().is_unspecified() && a.port() != 0);
    if others && wildcard && node.advertise.is_empty() {
        let message = "listens at a wildcard address and advertises none: nobody can be told where to dial this node";
        let hint = "add advertise: [\"IP:PORT\"], unless this node only dials";
        item.warn(ValueProblem::new(ProblemKind::Doubtful, message).hint(hint.to_owned()));
    }
}

pub(super) fn siblings(
    item: Option<ValueReader<'_>>,
    refs: &mut CrossRefs,
) -> Option<BTreeMap<NodeName, Vec<SocketAddr>>> {
    let read = each(entries(item.as_ref())?, |item| {
        let mut fields = item.fields()?;
        let name = fields.required("name", "the other node's name");
        let name = name.and_then(|item| Some((item.value(value::name::<NodeName>)?, item)));
        refs.nodes.claim(name.as_ref().map(|(name, item)| (item, name)), "node");
        let addresses = fields.optional("addresses");
        let addresses = each(entries(addresses.as_ref())?, |item| {
            let address = item.value(|text| value::address(text).and_then(value::dialable))?;
            refs.sockets.dial(&item, &address);
            Some(address)
        });
        fields.finish();
        Some((name?.0, addresses?))
    });
    read.map(|siblings| siblings.into_iter().collect())
}

pub(super) fn links(
    item: Option<ValueReader<'_>>,
    base: &Path,
    refs: &mut CrossRefs,
) -> Option<Vec<LinkConfig>> {
    let items = match item {
        None => Vec::new(),
        Some(item) => item.list().or_else(|| {
            mark_unreadable_link(refs);
            None
        })?,
    };
    let mut domains = UniqueNames::default();
    each(items, |item| {
        let Some(mut fields) = item.fields() else {
            mark_unreadable_link(refs);
            return None;
        };
        let end = link_peer(&mut fields, refs, &mut domains);
        let trust_bundle = fields.required("trustBundle", "a file with the other cluster's CA");
        let trust_bundle = trust_bundle.and_then(|item| {
            let file = item.file(base)?;
            item.add_reference(&file, ReferenceKind::Bundle);
            Some(file)
        });
        fields.finish();
        let LinkPeer { cluster, trust_domain, addresses } = end?;
        let trust_bundle = trust_bundle?;
        Some(LinkConfig { cluster, trust_domain, trust_bundle, last_bundle: None, addresses })
    })
}

/// A link that could not be read: nothing can be said any more about names that seem to have none.
pub(super) fn mark_unreadable_link(refs: &mut CrossRefs) {
    refs.clusters.claim::<ClusterName>(None, "cluster");
}

/// The other cluster of a link and its addresses: the same wherever links are written.
pub(super) struct LinkPeer {
    pub(super) cluster: ClusterName,
    pub(super) trust_domain: TrustDomain,
    pub(super) addresses: Vec<Seed>,
}

pub(super) fn link_peer(
    fields: &mut MapReader<'_>,
    refs: &mut CrossRefs,
    domains: &mut UniqueNames,
) -> Option<LinkPeer> {
    let cluster = fields.required("cluster", "the other cluster's name");
    let cluster = cluster.and_then(|item| Some((item.value(value::name::<ClusterName>)?, item)));
    let trust_domain = fields.required("trustDomain", "the other cluster's trust domain");
    let trust_domain = trust_domain.and_then(|item| Some((item.value(value::trust_domain)?, item)));
    let addresses = fields.optional("addresses");
    let addresses = entries(addresses.as_ref()).and_then(|items| {
        each(items, |item| {
            let seed = item.value(value::seed)?;
            refs.sockets.dial(&item, &seed);
            Some(seed)
        })
    });

    own_or_new_cluster(cluster.as_ref(), refs);
    own_or_new_domain(trust_domain.as_ref(), refs, domains);
    Some(LinkPeer { cluster: cluster?.0, trust_domain: trust_domain?.0, addresses: addresses? })
}

fn own_or_new_cluster(cluster: Option<&(ClusterName, ValueReader<'_>)>, refs: &mut CrossRefs) {
    match cluster {
        Some((name, item)) if refs.own.cluster.as_ref() == Some(name) => {
            let message = format!("{name} is this cluster itself: expected another cluster");
            let hint = "the other nodes of this cluster are its siblings";
            item.error(ValueProblem::new(ProblemKind::Conflict, message).hint(hint.to_owned()));
        }
        named => refs.clusters.claim(named.map(|(name, item)| (item, name)), "cluster"),
    }
}

fn own_or_new_domain(
    domain: Option<&(TrustDomain, ValueReader<'_>)>,
    refs: &CrossRefs,
    domains: &mut UniqueNames,
) {
    match domain {
        Some((name, item)) if refs.own.trust_domain.as_ref() == Some(name) => {
            let message = format!("{name} is this cluster's own trust domain: expected another");
            let hint =
                "each cluster has its own CA and trust domain, or either could speak for both";
            item.error(ValueProblem::new(ProblemKind::Conflict, message).hint(hint.to_owned()));
        }
        named => domains.claim(named.map(|(name, item)| (item, name)), "trust domain"),
    }
}
