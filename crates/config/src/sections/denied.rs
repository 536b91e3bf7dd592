//! `denied`: the peers that are refused, whatever a certificate proves.
//!
//! An entry is plain text, or a map where there is more to say of it. The same in a node's file and in a
//! ConfigMap; there the lists of all fragments are joined.

use adit_core::deny_list::{DeniedPeer, DenyEntry, MAX_REASON_LEN};
use adit_core::name::{ClusterName, NodeName};

use super::cross_refs::{CrossRefs, UniqueNames};
use super::{each, entries};
use crate::problem::{ProblemKind, ValueProblem, quoted};
use crate::reader::ValueReader;
use crate::value;

/// Reads the `denied` of all texts; needs to know links and nodes.
pub(super) fn denied(items: &[ValueReader<'_>], refs: &CrossRefs) -> Option<Vec<DenyEntry>> {
    let mut once = UniqueNames::default();
    let mut all = Some(Vec::new());
    for item in items {
        let read = deny_entry(item, refs, &mut once);
        all = all.zip(read).map(|(mut all, read)| {
            all.extend(read);
            all
        });
    }
    all
}

fn deny_entry(
    item: &ValueReader<'_>,
    refs: &CrossRefs,
    once: &mut UniqueNames,
) -> Option<Vec<DenyEntry>> {
    let mut fields = item.fields()?;
    let clusters = entry_list(fields.optional("clusters"), "cluster", once, |item, _| {
        let cluster = item.value(value::name::<ClusterName>)?;
        check_cluster(item, &cluster, refs, true);
        Some(DeniedPeer::Cluster(cluster))
    });
    let nodes = entry_list(fields.optional("nodes"), "node", once, |item, _| {
        let (cluster, node) = item.value(node_of)?;
        check_cluster(item, &cluster, refs, false);
        check_own_node(item, &cluster, &node, refs);
        Some(DeniedPeer::Node(cluster, node))
    });
    let serials = entry_list(fields.optional("serials"), "serial", once, |item, cluster| {
        let serial = item.value(value::name);
        let cluster = match cluster {
            None => None,
            Some(item) => {
                let cluster = item.value(value::name::<ClusterName>)?;
                check_cluster(item, &cluster, refs, false);
                Some(cluster)
            }
        };
        Some(DeniedPeer::Serial(serial?, cluster))
    });
    let keys = entry_list(fields.optional("keys"), "key", once, |item, _| {
        item.value(value::name).map(DeniedPeer::Key)
    });
    fields.finish();
    Some([clusters?, nodes?, serials?, keys?].concat())
}

/// The entries of one list: text, or a map with the text under `key`. `read` gets both, and what else of a map says
/// which peer is meant.
fn entry_list<'a>(
    item: Option<ValueReader<'a>>,
    key: &'static str,
    once: &mut UniqueNames,
    mut read: impl FnMut(&ValueReader<'a>, Option<&ValueReader<'a>>) -> Option<DeniedPeer>,
) -> Option<Vec<DenyEntry>> {
    each(entries(item.as_ref())?, |item| {
        let (peer, reason) = if item.is_map() {
            let mut fields = item.fields()?;
            let named = fields.required(key, "whom to deny");
            let cluster = (key == "serial").then(|| fields.optional("cluster")).flatten();
            let reason = fields.optional("reason");
            fields.finish();
            let reason = match reason {
                None => Some(None),
                Some(item) => item.value(one_line).map(Some),
            };
            (named.and_then(|item| read(&item, cluster.as_ref())), reason)
        } else {
            (read(&item, None), Some(None))
        };
        let peer = peer?;
        once.claim(Some((&item, &peer)), "the entry");
        Some(DenyEntry { peer, reason: reason? })
    })
}

/// `CLUSTER/NODE`.
fn node_of(text: &str) -> Result<(ClusterName, NodeName), ValueProblem> {
    let Some((cluster, node)) = text.split_once('/') else {
        let message = format!("{} is not a node: expected CLUSTER/NODE", quoted(text));
        return Err(ValueProblem::new(ProblemKind::Invalid, message));
    };
    Ok((value::name(cluster)?, value::name(node)?))
}

fn one_line(text: &str) -> Result<Box<str>, ValueProblem> {
    if text.chars().count() > MAX_REASON_LEN || text.chars().any(char::is_control) {
        let message = format!("expected one line of {MAX_REASON_LEN} characters at most");
        return Err(ValueProblem::new(ProblemKind::Invalid, message));
    }
    Ok(text.into())
}

/// A cluster of an entry, which is ours or linked; `whole` where all of it would be denied.
fn check_cluster(item: &ValueReader<'_>, cluster: &ClusterName, refs: &CrossRefs, whole: bool) {
    if refs.own.cluster.as_ref() != Some(cluster) {
        // An entry may outlive its link, or come before it; one that is misspelt denies nobody.
        refs.warn_if_misspelled(item, cluster);
    } else if whole {
        let message =
            format!("{cluster} is this cluster itself: its nodes would refuse each other");
        let hint = "a single node of it is denied under denied.nodes".to_owned();
        item.error(ValueProblem::new(ProblemKind::Conflict, message).hint(hint));
    }
}

/// Its siblings refuse a node that is denied, and it does not refuse itself.
fn check_own_node(
    item: &ValueReader<'_>,
    cluster: &ClusterName,
    node: &NodeName,
    refs: &CrossRefs,
) {
    if refs.own.cluster.as_ref() == Some(cluster) && refs.own.node.as_ref() == Some(node) {
        let message = format!("{node} is this node itself: only others can refuse it");
        let hint = "its siblings need the same entry".to_owned();
        item.warn(ValueProblem::new(ProblemKind::Doubtful, message).hint(hint));
    }
}
