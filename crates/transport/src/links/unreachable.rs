//! Explains why a linked cluster, or all of its nodes, cannot be reached, as far as this side can know it.
//!
//! The results of dialling it say most. If its nodes do not answer, the results of the handshakes that they
//! began show whether packets pass in the other direction, and which side refuses whose certificate.

use adit_core::code::Code;
use adit_core::name::{ClusterName, NodeKey, NodeName};
use tokio::time::Instant;

use super::certificate_refusal::refusal_hint;
use super::connections::Disconnect;
use super::dialer::{DialFailure, DialRecord};
use super::inner::LinksInner;
use super::status::LinkStatus;

impl LinksInner {
    /// The reason why a whole cluster cannot be dialled, while that is known.
    pub(super) fn why_unreachable(&self, cluster: &ClusterName) -> Option<DialFailure> {
        let snapshot = self.snapshot();
        if *cluster == snapshot.local.cluster {
            return None;
        }
        let Some(link) = snapshot.links.get(cluster) else {
            let text = format!("there is no link with {cluster}");
            return Some(DialFailure::new(Code::Unlinked, text));
        };
        if self.connections.is_connected(cluster) {
            return None;
        }
        let record = self.dialer.history.record_of(cluster);
        let lost = self.connections.disconnects.last(cluster);
        if link.seeds.is_empty() {
            let (code, why) = self.explain_disconnect(cluster, &record, lost.as_ref());
            let mut text =
                format!("no node of {cluster} is connected, and the link has no address to dial");
            if let Some(count) = self.peers.handshake_faults.recent_claims(cluster) {
                text += &format!(
                    "; {count} certificates that claim its name were refused, from addresses at which \
                     nobody is known"
                );
            }
            if !why.is_empty() {
                text = format!("{text}; {why}");
            }
            return Some(DialFailure::new(code, text));
        }
        let stale = self.knowledge.views.get(cluster).is_none_or(|view| view.is_stale());
        if record.unreachable || (stale && record.failures > 0) {
            let (code, why) = self.explain_disconnect(cluster, &record, lost.as_ref());
            let text = format!("no node of {cluster} can be reached: {why}");
            return Some(DialFailure::new(code, text));
        }
        None
    }

    /// The reason why nothing can be sent although dialling has not failed yet: the last usable connection
    /// was lost, and a stream to any node that is known would be refused. A hub dials again what it lost, and
    /// until then it is lost; any other node dials when a stream asks for it.
    pub(super) fn why_cut_off(&self, link: &LinkStatus) -> Option<DialFailure> {
        let cluster = &link.cluster;
        let lost = self.connections.disconnects.last(cluster);
        let lost = lost.filter(|_| !self.connections.is_connected(cluster))?;
        let mut known = link.view.iter().flat_map(|v| v.view.nodes.keys());
        let is_gone = |node: &NodeName| {
            let node = NodeKey::new(cluster, node);
            (link.hub && self.connections.disconnects.get(&node).is_some()) || !self.may_dial(&node)
        };
        if !known.all(is_gone) {
            return None;
        }
        let (code, why) = self.explain_disconnect(cluster, &link.dials, Some(&lost));
        let text = format!("no node of {cluster} is connected: {why}");
        Some(DialFailure::new(code, text))
    }

    /// The reason why there is no connection with a cluster, or with the node of it that was lost: the most
    /// likely cause first.
    pub(super) fn explain_disconnect(
        &self,
        cluster: &ClusterName,
        dials: &DialRecord,
        lost: Option<&(NodeName, Disconnect)>,
    ) -> (Code, String) {
        let is_later = |at: Instant| lost.is_none_or(|(_, loss)| at >= loss.at);
        let since = dials.failed_at.is_some_and(|at| dials.failures > 0 && is_later(at));
        let dialled = dials.last_code.filter(|_| since);
        let disconnect = lost.map(|(node, loss)| (loss.at, format!("node {node}: {loss}")));
        let why = dials.explanation(disconnect).unwrap_or_default();
        let fault =
            self.peers.handshake_faults.last(cluster).filter(|(_, fault)| is_later(fault.at));
        match (dialled, fault) {
            (Some(code @ Code::CertificateRefused), _) => {
                let hint = refusal_hint(dials.certificate_refusal(), "this node", cluster.as_str());
                (code, format!("this node refuses the certificate of {cluster}{hint}: {why}"))
            }
            (Some(code @ Code::RefusedByPeer), _) => {
                let hint = refusal_hint(dials.certificate_refusal(), cluster.as_str(), "this node");
                (code, format!("{cluster} refuses this node's certificate{hint}: {why}"))
            }
            (
                Some(
                    code @ (Code::DeniedIdentity
                    | Code::IdentityMismatch
                    | Code::VersionMismatch
                    | Code::Draining
                    | Code::Unlinked),
                ),
                _,
            ) => (code, why),
            (_, Some((code, fault))) => {
                let sentence = fault.sentence(code, cluster);
                let rest = if why.is_empty() { why } else { format!("; {why}") };
                (super::certificate_refusal::refusal_code(code, &fault.why), sentence + &rest)
            }
            (Some(_), None) if dials.is_silent => {
                let cause = format!(
                    "nothing comes back from {cluster}: its nodes are away, or UDP is blocked"
                );
                (Code::LinkDown, format!("{cause}: {why}"))
            }
            (None, None) if lost.is_some_and(|(_, loss)| loss.is_leaving()) => {
                (Code::Draining, why)
            }
            (_, None) => (Code::LinkDown, why),
        }
    }
}
