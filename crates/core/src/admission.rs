//! Admission of peers: by the identity that the certificate proved, then by what the hello says.
//!
//! That the certificate is genuine has been checked before (`adit-pki`). Here the question is whether its
//! holder is a peer by this node's links, and whether its hello fits the certificate. [`connection_limits`]
//! says how many connections there may be, and [`rate_limit`] how fast they may come.

pub mod connection_limits;
pub mod rate_limit;

use crate::code::Code;
use crate::name::{NodeKey, NodeName};
use crate::snapshot::{Class, Snapshot};
use crate::spiffe::{Role, SpiffeId};
use crate::wire::control::{Hello, negotiate};

/// The reason why a connection is closed before it is used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct PeerRefusal {
    /// The code of its close.
    pub code: Code,
    /// For people on both sides: names only what both know.
    pub reason: String,
}

impl PeerRefusal {
    fn identity_mismatch(reason: String) -> Self {
        Self { code: Code::IdentityMismatch, reason }
    }
}

/// The node that holds `id`: of the cluster whose link has its trust domain, or of our own cluster. Our own
/// cluster's controller counts as a node that only subscribes ([`NodeName::controller`]); another cluster's
/// controller is no peer.
///
/// # Errors
/// [`Code::Unlinked`] for a trust domain that is neither; [`Code::IdentityMismatch`] if the holder is no
/// node, or is this very node.
pub fn identify_peer(snapshot: &Snapshot, id: &SpiffeId) -> Result<NodeKey, PeerRefusal> {
    let domain = id.trust_domain();
    let linked = || snapshot.links.values().find(|l| l.trust_domain == *domain).map(|l| &l.cluster);
    let ours = (snapshot.local.trust_domain == *domain).then_some(&snapshot.local.cluster);
    let cluster = ours.or_else(linked).ok_or_else(|| PeerRefusal {
        code: Code::Unlinked,
        reason: format!("no link to trust domain {domain} is configured"),
    })?;
    let node = match id.role() {
        Ok(Role::Node(node)) if !node.is_controller() => node,
        Ok(Role::Controller) if ours.is_some() => NodeName::controller(),
        Ok(Role::Node(_) | Role::Controller | Role::Workload(_)) | Err(_) => {
            return Err(PeerRefusal::identity_mismatch(format!(
                "{id} is not a node, and only nodes are peers"
            )));
        }
    };
    if ours.is_some() && node == snapshot.local.node {
        return Err(PeerRefusal::identity_mismatch(format!(
            "{id} is the node that was asked, itself"
        )));
    }
    Ok(NodeKey { cluster: cluster.clone(), node })
}

/// The version to speak with this peer, whose connection was made for `class`.
///
/// # Errors
/// [`Code::VersionMismatch`] with both sides' ranges; [`Code::IdentityMismatch`] if the hello names another
/// cluster or node than the peer's certificate; [`Code::ProtocolError`] if it names another class.
pub fn check_hello(
    versions: (u64, u64),
    NodeKey { cluster, node }: &NodeKey,
    class: Class,
    hello: &Hello,
) -> Result<u64, PeerRefusal> {
    let version = negotiate(versions, hello.versions)
        .map_err(|reason| PeerRefusal { code: Code::VersionMismatch, reason })?;
    if hello.cluster != *cluster || hello.node != *node {
        return Err(PeerRefusal::identity_mismatch(format!(
            "hello says node {} of cluster {}, but the certificate is that of node {node} of cluster {cluster}",
            hello.node, hello.cluster
        )));
    }
    if hello.class != class {
        let reason = "the hello names another class than the handshake".into();
        return Err(PeerRefusal { code: Code::ProtocolError, reason });
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Link, tests::edge};
    use std::sync::Arc;

    fn linked() -> Snapshot {
        let mut snapshot = edge();
        let bank = Link {
            cluster: "bank".parse().unwrap(),
            trust_domain: "bank.trustusbank.example".parse().unwrap(),
            seeds: vec![],
        };
        snapshot.links = [(bank.cluster.clone(), Arc::new(bank))].into();
        snapshot
    }

    fn ask(id: &str) -> Result<(String, String), Code> {
        let found =
            identify_peer(&linked(), &id.parse().unwrap()).map_err(|refusal| refusal.code)?;
        Ok((found.cluster.to_string(), found.node.to_string()))
    }

    #[test]
    fn nodes_of_linked_clusters_and_siblings_are_peers() {
        let found = |cluster: &str, node: &str| Ok((cluster.into(), node.into()));
        assert_eq!(ask("spiffe://bank.trustusbank.example/adit/node/b1"), found("bank", "b1"));
        assert_eq!(ask("spiffe://edge.trustusbank.example/adit/node/e2"), found("edge", "e2"));
    }

    #[test]
    fn our_own_controller_listens_and_no_node_passes_for_it() {
        let controller = "controller.adit.internal";
        let ours = ask("spiffe://edge.trustusbank.example/adit/controller");
        assert_eq!(ours, Ok(("edge".into(), controller.into())));
        let posing = format!("spiffe://edge.trustusbank.example/adit/node/{controller}");
        assert_eq!(ask(&posing), Err(Code::IdentityMismatch));
    }

    #[test]
    fn no_other_identity_is_a_peer() {
        for (id, code) in [
            ("spiffe://lab.example/adit/node/l1", Code::Unlinked),
            ("spiffe://bank.trustusbank.example/adit/controller", Code::IdentityMismatch),
            ("spiffe://bank.trustusbank.example/ns/a/sa/b", Code::IdentityMismatch),
            ("spiffe://bank.trustusbank.example/else", Code::IdentityMismatch),
            ("spiffe://edge.trustusbank.example/adit/node/e1", Code::IdentityMismatch),
        ] {
            assert_eq!(ask(id), Err(code), "{id}");
        }
        let mut snapshot = linked();
        snapshot.links.clear();
        let id = "spiffe://bank.trustusbank.example/adit/node/b1".parse().unwrap();
        assert_eq!(
            identify_peer(&snapshot, &id).unwrap_err().code,
            Code::Unlinked,
            "the link was removed"
        );
    }

    #[test]
    fn a_hello_fits_its_certificate_and_its_connection() {
        let key = NodeKey::new(&"bank".parse().unwrap(), &"b1".parse().unwrap());
        let good = Hello {
            versions: (1, 3),
            capabilities: 0,
            cluster: "bank".parse().unwrap(),
            node: "b1".parse().unwrap(),
            boot: [0; 16],
            class: Class::Interactive,
            clock_ms: 0,
            slot: 0,
            stream_window: 0,
        };
        let check = |h: &Hello| check_hello((1, 2), &key, Class::Interactive, h);
        assert_eq!(check(&good), Ok(2));
        let refused = |h: Hello| check(&h).unwrap_err();
        let newer = refused(Hello { versions: (3, 4), ..good.clone() });
        assert_eq!(newer.code, Code::VersionMismatch);
        assert!(newer.reason.contains("1 to 2") && newer.reason.contains("3 to 4"), "{newer}");
        let other_node = refused(Hello { node: "b2".parse().unwrap(), ..good.clone() });
        let other_cluster = refused(Hello { cluster: "shop".parse().unwrap(), ..good.clone() });
        assert_eq!(other_node.code, Code::IdentityMismatch);
        assert_eq!(other_cluster.code, Code::IdentityMismatch);
        assert_eq!(refused(Hello { class: Class::Bulk, ..good }).code, Code::ProtocolError);
    }
}
