//! The joining side: a node's pod dials, because the other side's nodes are reached from there.

use std::time::Duration;

use adit_config::cluster::{ClusterLink, render};
use adit_core::invitation::{JoinerCommand, JoinerEvent, MAX_LINE_LEN};
use adit_pki::InvitationToken;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::timeout;

use super::InvitationError;
use super::checks::{OtherClusterError, check_other_cluster};
use crate::api::NODE;
use crate::operator::context::{ConfigDocument, Context};
use crate::operator::link::ClusterIdentity;
use crate::operator::node_process::{NodeInput, NodeOutput, start};
use crate::operator::pod_state::{is_pod_ready, named};

/// The time in which somebody of the other side has to answer: each address of a token is tried for some seconds.
const DIAL_TIMEOUT: Duration = Duration::from_secs(150);

/// A connection with the cluster that made a token. Nothing was said to it yet.
#[derive(Debug)]
pub struct Joining {
    input: NodeInput,
    output: NodeOutput,
    /// The other cluster, as it says and as it was checked.
    pub other: ClusterLink,
    /// The address at which it answers.
    pub address: String,
}

/// The reason why the other side did not link its cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinFailure {
    /// The other side refused and has changed nothing.
    #[error("{0}")]
    Refused(String),
    /// The other side may have linked its cluster, or not.
    #[error("{0}")]
    Unknown(String),
}

impl Joining {
    /// Dials the cluster that made `token` from a ready node, has it prove itself, and checks what it says.
    ///
    /// # Errors
    /// [`InvitationError`], see there. Nothing was changed on either side.
    pub async fn dial(
        context: &Context,
        token: &InvitationToken,
        own: &ClusterIdentity,
        document: &ConfigDocument,
    ) -> Result<Self, InvitationError> {
        let pods = context.system_api::<Pod>().list(&named(NODE)).await;
        let pods = pods.map_err(context.request_error("list the pods of nodes"))?;
        let ready = pods.items.into_iter().find(is_pod_ready).and_then(|pod| pod.metadata.name);
        let no_node = |why: String| InvitationError::NoNode { context: context.name.clone(), why };
        let pod = ready.ok_or_else(|| no_node("none is ready".to_owned()))?;
        let lost = |why: String| no_node(format!("pod {pod}: {why}"));
        let (mut input, mut output) =
            start(context, &pod, &["invitation", "use"], MAX_LINE_LEN).map_err(lost)?;
        let token_text = token.to_text();
        input.send(&JoinerCommand::Dial { token: token_text.to_string() }).await.map_err(lost)?;
        let event = timeout(DIAL_TIMEOUT, output.receive()).await;
        let event = event.map_err(|_| lost("it does not answer".to_owned()))?.map_err(lost)?;
        let (address, text) = match event {
            JoinerEvent::Offer { address, document } => (address, document),
            JoinerEvent::Failed { sentence: why, .. } | JoinerEvent::Refused(why) => {
                let context = context.name.clone();
                return Err(InvitationError::NotReached { context, pod, why });
            }
            JoinerEvent::Accepted => return Err(lost("it skips a step".to_owned())),
        };
        let other = check_other_cluster(&text, own, document)?;
        if (&other.cluster, &other.trust_domain) != (&token.cluster, &token.trust_domain) {
            let named = format!("{} ({})", token.cluster, token.trust_domain);
            let found = format!("{} ({})", other.cluster, other.trust_domain);
            return Err(OtherClusterError::NotAsNamed { named, found }.into());
        }
        Ok(Self { input, output, other, address })
    }

    /// Asks it to link its cluster with this one, which `own` describes, and waits for its operator's answer.
    ///
    /// # Errors
    /// [`JoinFailure`], see there.
    pub async fn ask(mut self, own: &ClusterLink) -> Result<(), JoinFailure> {
        let ask = JoinerCommand::Ask { document: render::link(own) };
        self.input.send(&ask).await.map_err(JoinFailure::Refused)?;
        match self.output.receive().await {
            Ok(JoinerEvent::Accepted) => Ok(()),
            Ok(JoinerEvent::Failed { sentence, is_unknown: true }) => {
                Err(JoinFailure::Unknown(sentence))
            }
            Ok(JoinerEvent::Refused(why) | JoinerEvent::Failed { sentence: why, .. }) => {
                Err(JoinFailure::Refused(why))
            }
            Ok(JoinerEvent::Offer { .. }) => {
                Err(JoinFailure::Unknown("it skips a step".to_owned()))
            }
            Err(why) => Err(JoinFailure::Unknown(why)),
        }
    }
}
