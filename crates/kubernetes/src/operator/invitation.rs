//! `adit invite` and `adit join`: two operators link their clusters, each with access to his own alone.
//!
//! Commands reach their own cluster's nodes as `kubectl exec` does; the clusters reach each other over the nodes' UDP
//! port. What they say to each other is [`adit_core::wire::join`]; the pods' side is `adit_daemon`'s `invitation`.
//!
//! * [`Invitation`]: the inviting side. * [`Joining`]: the joining side.
//! * [`checks`]: whether a cluster that another names may be linked; pure.

mod checks;
mod inviter;
mod joiner;

use adit_config::cluster::ClusterLink;
use adit_pki::{BundleFingerprint, TrustBundle};

pub use self::checks::{OtherClusterError, check_other_cluster, check_token};
pub use self::inviter::{ApplicationNews, Invitation, JoiningCluster};
pub use self::joiner::{JoinFailure, Joining};
use super::context::ContextError;
use super::link::LinkError;

/// The reason why there is no invitation, or why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvitationError {
    /// The cluster cannot be asked.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The cluster cannot be linked as it is.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The other cluster may not be linked with this one.
    #[error(transparent)]
    OtherCluster(#[from] OtherClusterError),
    /// No node can be used.
    #[error(
        "context {context}: no node of Adit can be asked there: {why}\n  hint: `adit status --context {context}` says how \
         its nodes are; commands reach them as `kubectl exec` does, so the right to create pods/exec in namespace \
         adit-system is needed"
    )]
    NoNode {
        /// The context.
        context: String,
        /// The words of each.
        why: String,
    },
    /// Keys cannot be made; not met in practice.
    #[error("cannot make a key: {0}")]
    Key(String),
    /// The other side is not there, or does not let this side in. Nothing was changed on either side.
    #[error(
        "cannot reach the cluster that made the token, from node pod {pod} of context {context}: {why}\n  hint: nodes of \
         this cluster must reach the UDP port of a node there. If only its nodes reach this side's, invite from here and \
         join from there"
    )]
    NotReached {
        /// The context.
        context: String,
        /// The pod that dialled.
        pod: String,
        /// Why not.
        why: String,
    },
    /// The bundle of a cluster is none.
    #[error("its certificates are bad: {0}")]
    Bundle(String),
}

/// Returns the fingerprint of a cluster's trust bundle.
///
/// # Errors
/// If the bundle is none.
pub fn fingerprint(link: &ClusterLink) -> Result<BundleFingerprint, InvitationError> {
    let bundle = TrustBundle::parse(link.trust_domain.clone(), link.trust_bundle.as_bytes());
    let bundle = bundle.map_err(|error| InvitationError::Bundle(error.to_string()))?;
    Ok(BundleFingerprint::of(&bundle))
}

#[cfg(test)]
mod tests;
