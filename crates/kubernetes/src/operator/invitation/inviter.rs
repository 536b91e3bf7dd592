//! The inviting side: every ready node knows the invitation, and one command decides for all of them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use adit_config::cluster::{ClusterLink, render};
use adit_core::invitation::{
    InvitationTerms, InviterCommand, InviterEvent, JoinApplication, MAX_LINE_LEN,
};
use adit_core::snapshot::Seed;
use adit_pki::{InvitationSecret, InvitationToken, UnixTime};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::{InvitationError, fingerprint};
use crate::api::NODE;
use crate::operator::bundle::seeds;
use crate::operator::context::Context;
use crate::operator::node_process::{NodeInput, NodeOutput, start};
use crate::operator::pod_state::{is_pod_ready, named};

/// The time in which a node has to take the invitation.
const OFFER_TIMEOUT: Duration = Duration::from_secs(30);
/// The time in which a node has to pass an answer on, and whoever asked to receive it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The most nodes that are given an invitation: more addresses do not fit into a token.
const MAX_NODES: usize = InvitationToken::MAX_ADDRESSES;

/// The most events that wait: a process waits with further ones.
const MAX_EVENTS: usize = 64;

type NodeEvents = mpsc::Receiver<(String, Result<InviterEvent, String>)>;

/// An invitation that nodes know. It ends when this is dropped.
#[derive(Debug)]
pub struct Invitation {
    nodes: BTreeMap<String, NodeInput>,
    events: NodeEvents,
    /// The readers of what processes say; they end with this.
    readers: JoinSet<()>,
    /// Events that came while something else was waited for.
    early: VecDeque<(String, Result<InviterEvent, String>)>,
}

/// A cluster that asks to be linked, at one of our nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoiningCluster {
    /// The pod of the node that it reached.
    pub pod: String,
    /// The words of that cluster.
    pub application: JoinApplication,
}

/// News of an invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplicationNews {
    /// Somebody asks.
    Asked(JoiningCluster),
    /// Whoever asked at this pod's node has gone.
    Gone(String),
    /// This pod's node does not know the invitation any more.
    NodeLost {
        /// The pod.
        pod: String,
        /// Why.
        why: String,
    },
    /// No node does.
    AllLost,
}

impl Invitation {
    /// Makes an invitation to the cluster that `own` describes, until `until`, and gives it to its ready nodes. Returns it,
    /// its token, and what nodes said that do not take it.
    ///
    /// # Errors
    /// If no node takes it.
    pub async fn open(
        context: &Context,
        own: &ClusterLink,
        until: UnixTime,
    ) -> Result<(Self, InvitationToken, Vec<String>), InvitationError> {
        let pods = context.system_api::<Pod>().list(&named(NODE)).await;
        let pods = pods.map_err(context.request_error("list the pods of nodes"))?;
        let ready: Vec<Pod> = pods.items.into_iter().filter(is_pod_ready).take(MAX_NODES).collect();
        let no_node = |why: String| InvitationError::NoNode { context: context.name.clone(), why };
        if ready.is_empty() {
            return Err(no_node("none is ready".to_owned()));
        }
        let secret =
            InvitationSecret::generate().map_err(|e| InvitationError::Key(e.to_string()))?;
        let key = secret.key().map_err(|e| InvitationError::Key(e.to_string()))?;
        let document = render::link(own);
        let terms = InvitationTerms { key: key.to_string(), until: until.as_secs(), document };
        let names: Vec<_> = ready.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
        let (invitation, failed) = Self::offer(context, &names, &terms).await;
        let port = context.document().await?.parse().map_or(7843, |(c, _)| c.network.port);
        let is_taken = |pod: &Pod| {
            pod.metadata.name.as_ref().is_some_and(|name| invitation.nodes.contains_key(name))
        };
        let at: Vec<Pod> = ready.into_iter().filter(is_taken).collect();
        let addresses = seeds(&at, port).into_iter().filter_map(|seed| match seed {
            Seed::Address(address) => Some(address),
            Seed::Name { .. } => None,
        });
        let addresses: Vec<_> = addresses.take(InvitationToken::MAX_ADDRESSES).collect();
        if addresses.is_empty() {
            return Err(no_node(failed.join("; ")));
        }
        let token = InvitationToken {
            secret,
            fingerprint: fingerprint(own)?,
            until,
            cluster: own.cluster.clone(),
            trust_domain: own.trust_domain.clone(),
            addresses,
        };
        Ok((invitation, token, failed))
    }

    /// Gives an invitation to the nodes of these pods, and waits until each has taken it, or not. Returns what those said
    /// that have not, too.
    async fn offer(
        context: &Context,
        pods: &[String],
        terms: &InvitationTerms,
    ) -> (Self, Vec<String>) {
        let (reporting, events) = mpsc::channel(MAX_EVENTS);
        let mut invitation = Self {
            nodes: BTreeMap::new(),
            events,
            readers: JoinSet::new(),
            early: VecDeque::new(),
        };
        let mut failed = Vec::new();
        for pod in pods {
            match start(context, pod, &["invitation", "serve"], MAX_LINE_LEN) {
                Ok((mut input, output)) => {
                    match input.send(&InviterCommand::Offer(terms.clone())).await {
                        Ok(()) => {
                            invitation.readers.spawn(report(
                                pod.clone(),
                                output,
                                reporting.clone(),
                            ));
                            invitation.nodes.insert(pod.clone(), input);
                        }
                        Err(why) => failed.push(format!("pod {pod}: {why}")),
                    }
                }
                Err(why) => failed.push(format!("pod {pod}: {why}")),
            }
        }
        invitation.wait_until_offered(&mut failed).await;
        (invitation, failed)
    }

    /// Waits until each node has taken the invitation, or not; forgets those that have not.
    async fn wait_until_offered(&mut self, failed: &mut Vec<String>) {
        let deadline = Instant::now() + OFFER_TIMEOUT;
        let mut offered = Vec::new();
        while offered.len() < self.nodes.len() {
            let Ok(Some((pod, event))) = timeout_at(deadline, self.events.recv()).await else {
                break;
            };
            let why = match event {
                Ok(InviterEvent::Offered) => {
                    offered.push(pod);
                    continue;
                }
                Ok(InviterEvent::Failed(why)) | Err(why) => why,
                Ok(other) => {
                    self.early.push_back((pod, Ok(other)));
                    continue;
                }
            };
            self.nodes.remove(&pod);
            failed.push(format!("pod {pod}: {why}"));
        }
        for pod in self.nodes.keys().filter(|pod| !offered.contains(pod)) {
            failed.push(format!("pod {pod}: no answer within {} s", OFFER_TIMEOUT.as_secs()));
        }
        self.nodes.retain(|pod, _| offered.contains(pod));
    }

    /// Waits for news. May be cancelled.
    pub async fn next(&mut self) -> ApplicationNews {
        loop {
            if self.nodes.is_empty() {
                return ApplicationNews::AllLost;
            }
            let event = match self.early.pop_front() {
                Some(early) => Some(early),
                None => self.events.recv().await,
            };
            let Some((pod, event)) = event else { return ApplicationNews::AllLost };
            if !self.nodes.contains_key(&pod) {
                continue;
            }
            match event {
                Ok(InviterEvent::Application(application)) => {
                    return ApplicationNews::Asked(JoiningCluster { pod, application });
                }
                Ok(InviterEvent::Gone) => return ApplicationNews::Gone(pod),
                Ok(InviterEvent::Offered | InviterEvent::Answered { .. }) => {}
                Ok(InviterEvent::Failed(why)) | Err(why) => {
                    self.nodes.remove(&pod);
                    return ApplicationNews::NodeLost { pod, why };
                }
            }
        }
    }

    /// Returns whether a cluster that asked has gone meanwhile, as far as its node has said.
    pub fn has_gone(&mut self, asking: &JoiningCluster) -> bool {
        while let Ok(event) = self.events.try_recv() {
            self.early.push_back(event);
        }
        let is_end = |event: &Result<InviterEvent, String>| {
            matches!(event, Ok(InviterEvent::Gone | InviterEvent::Failed(_)) | Err(_))
        };
        self.early.iter().any(|(pod, event)| *pod == asking.pod && is_end(event))
    }

    /// Answers a cluster that asks; `refusal` says why it is not linked. Returns true if it has received the answer.
    pub async fn answer(&mut self, asking: &JoiningCluster, refusal: Option<String>) -> bool {
        let JoiningCluster { pod, application } = asking;
        let number = application.number;
        let Some(input) = self.nodes.get_mut(pod) else { return false };
        if input.send(&InviterCommand::Answer { number, refusal }).await.is_err() {
            return false;
        }
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while let Ok(Some((from, event))) = timeout_at(deadline, self.events.recv()).await {
            match event {
                Ok(InviterEvent::Answered { number: answered, is_delivered })
                    if from == *pod && answered == number =>
                {
                    return is_delivered;
                }
                Err(_) | Ok(InviterEvent::Failed(_)) if from == *pod => {
                    self.nodes.remove(pod);
                    return false;
                }
                other => self.early.push_back((from, other)),
            }
        }
        false
    }

    /// Ends the invitation at all nodes: whoever comes later, or waits, is told that it was used, or withdrawn.
    pub async fn end(mut self, is_used: bool) {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        for input in self.nodes.values_mut() {
            input.send(&InviterCommand::End { is_used }).await.ok();
        }
        // Each process ends when it has told its node.
        let mut left = self.nodes.len();
        while left > 0
            && let Ok(Some((_, event))) = timeout_at(deadline, self.events.recv()).await
        {
            left -= usize::from(event.is_err());
        }
    }
}

/// Reports what a process says, to its end.
async fn report(
    pod: String,
    mut output: NodeOutput,
    events: mpsc::Sender<(String, Result<InviterEvent, String>)>,
) {
    loop {
        let event = output.receive::<InviterEvent>().await;
        let is_end = event.is_err();
        if events.send((pod.clone(), event)).await.is_err() || is_end {
            return;
        }
    }
}
