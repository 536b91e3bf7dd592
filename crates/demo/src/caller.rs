//! A workload that calls agents: an HTTP client with a source address and its cluster's names.
//!
//! The source address is how a node tells workloads apart. The names stand for a cluster's DNS and
//! Services: `fraud-bot.trustusbank-bank-agents` leads to the pod in `bank` and to a listener of
//! Adit in `edge`, and neither the caller nor the agent's card knows the difference.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use a2a::{
    A2AError, AgentCard, Message, Part, Role, SendMessageRequest, SendMessageResponse,
    StreamResponse, SubscribeToTaskRequest, Task,
};
use a2a_client::agent_card::AgentCardResolver;
use a2a_client::jsonrpc::JsonRpcTransportFactory;
use a2a_client::{A2AClient, A2AClientFactory, BoxStream, Transport};
use anyhow::Context as _;

use crate::agents::{Payment, host};

/// The key in a message's metadata with which a caller asks the agent to keep step with it.
pub(crate) const IN_STEP: &str = "adit-demo/in-step";

/// Far more than a connection on loopback takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A workload that calls agents.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    http: reqwest::Client,
}

/// A conversation with one agent, negotiated from its card.
pub(crate) struct Conversation {
    pub(crate) card: AgentCard,
    client: A2AClient<Box<dyn Transport>>,
}

/// The events of one task, as they arrive.
pub(crate) type TaskEvents = BoxStream<'static, Result<StreamResponse, A2AError>>;

impl Caller {
    /// A workload at `source` that finds each agent of `names` at the address beside it.
    ///
    /// # Errors
    ///
    /// If the HTTP client cannot be built.
    pub(crate) fn new(source: IpAddr, names: &[(&str, SocketAddr)]) -> anyhow::Result<Self> {
        // The SDK's default client asks the system for trusted certificates and fails where there are
        // none (a `scratch` image), and it heeds proxies of the environment. Neither has a place here:
        // plain HTTP to addresses that we chose.
        let mut http = reqwest::Client::builder()
            .local_address(source)
            .no_proxy()
            .tls_certs_only([])
            .connect_timeout(CONNECT_TIMEOUT)
            // A connection per call: one call is then one stream, with a line of its own in the logs.
            .pool_max_idle_per_host(0);
        for (agent, address) in names {
            http = http.resolve(&host(agent), *address);
        }
        Ok(Self { http: http.build().context("the HTTP client cannot be built")? })
    }

    /// Fetches an agent's card and settles with it how to talk.
    pub(crate) async fn agent(&self, name: &str) -> Result<Conversation, A2AError> {
        let url = format!("http://{}", host(name));
        let card = AgentCardResolver::new(Some(self.http.clone())).resolve(&url).await?;
        let client = A2AClientFactory::builder()
            .no_defaults()
            .register(Arc::new(JsonRpcTransportFactory::new(Some(self.http.clone()))))
            .build()
            .create_from_card(&card)
            .await?;
        Ok(Conversation { card, client })
    }

    /// The bytes of an agent's card.
    pub(crate) async fn card_bytes(&self, name: &str) -> Result<Vec<u8>, reqwest::Error> {
        let url = format!("http://{}{}", host(name), a2a_server::WELL_KNOWN_AGENT_CARD_PATH);
        let answer = self.http.get(url).send().await?.error_for_status()?;
        Ok(answer.bytes().await?.to_vec())
    }
}

impl Conversation {
    /// Asks about a payment and waits for the whole answer.
    pub(crate) async fn ask(&self, payment: Payment) -> Result<String, A2AError> {
        let answer = match self.client.send_message(&request(payment, false)).await? {
            SendMessageResponse::Message(message) => message.text().map(str::to_owned),
            SendMessageResponse::Task(task) => verdict(&task),
        };
        answer.ok_or_else(|| A2AError::internal("the answer has no text"))
    }

    /// Asks about a payment and follows what the agent does about it, in step with it.
    pub(crate) async fn follow(&self, payment: Payment) -> Result<TaskEvents, A2AError> {
        self.client.send_streaming_message(&request(payment, true)).await
    }

    /// Follows a task that is under way already.
    pub(crate) async fn resume(&self, task: &str) -> Result<TaskEvents, A2AError> {
        let request = SubscribeToTaskRequest { id: task.to_owned(), tenant: None };
        self.client.subscribe_to_task(&request).await
    }
}

fn request(payment: Payment, in_step: bool) -> SendMessageRequest {
    let mut message = Message::new(Role::User, vec![Part::text(payment.question())]);
    message.metadata = in_step.then(|| [(IN_STEP.to_owned(), true.into())].into());
    SendMessageRequest { message, configuration: None, metadata: None, tenant: None }
}

fn verdict(task: &Task) -> Option<String> {
    let artifact = task.artifacts.as_ref()?.last()?;
    artifact.parts.iter().find_map(Part::as_text).map(str::to_owned)
}

/// An event in a few words.
pub(crate) fn words(event: &StreamResponse) -> String {
    let text = |message: Option<&Message>| message.and_then(Message::text).map(str::to_owned);
    match event {
        StreamResponse::Task(task) => format!("task is {:?}", task.status.state).to_lowercase(),
        StreamResponse::Message(message) => text(Some(message)).unwrap_or_default(),
        StreamResponse::StatusUpdate(update) => text(update.status.message.as_ref())
            .unwrap_or_else(|| format!("task is {:?}", update.status.state).to_lowercase()),
        StreamResponse::ArtifactUpdate(update) => {
            update.artifact.parts.iter().find_map(Part::as_text).unwrap_or_default().to_owned()
        }
    }
}

/// The task that an event belongs to.
pub(crate) fn task_of(event: &StreamResponse) -> Option<&str> {
    match event {
        StreamResponse::Task(task) => Some(&task.id),
        StreamResponse::StatusUpdate(update) => Some(&update.task_id),
        StreamResponse::ArtifactUpdate(update) => Some(&update.task_id),
        StreamResponse::Message(_) => None,
    }
}
