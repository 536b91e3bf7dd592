//! The agents of the example, made with the official Rust A2A SDK, and the listeners they serve on.
//!
//! They know nothing of Adit: an agent binds a TCP listener and answers HTTP, as it would in a pod.
//! What each one says is in [`fraud`] and [`triage`]; who calls them is in [`crate::caller`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use a2a::{AgentCapabilities, AgentCard, AgentInterface, AgentSkill};
use a2a_server::agent_card::agent_card_router;
use a2a_server::jsonrpc::jsonrpc_router;
use a2a_server::rest::rest_router;
use a2a_server::{AgentExecutor, DefaultRequestHandler, InMemoryTaskStore, StaticAgentCard};
use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(crate) mod fraud;
pub(crate) mod triage;

/// The namespace of all agents and callers, in both clusters.
pub(crate) const NAMESPACE: &str = "trustusbank-bank-agents";

/// The name under which an agent is called in either cluster: its Service's.
pub(crate) fn host(agent: &str) -> String {
    format!("{agent}.{NAMESPACE}")
}

/// An agent's description of itself.
pub(crate) struct AgentDescription {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) skill: &'static str,
}

/// The agents that serve in this process; dropping them ends them.
#[derive(Debug, Default)]
pub(crate) struct AgentServers {
    serving: JoinSet<std::io::Result<()>>,
}

impl AgentServers {
    /// Serves an agent at a free port of `ip` and returns where.
    pub(crate) async fn serve(
        &mut self,
        ip: IpAddr,
        about: &AgentDescription,
        executor: impl AgentExecutor,
    ) -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind((ip, 0))
            .await
            .with_context(|| format!("{} cannot listen on {ip}", about.name))?;
        let address = listener.local_addr()?;
        let card = card(about);
        let handler = DefaultRequestHandler::new(executor, InMemoryTaskStore::new())
            .with_capabilities(card.capabilities.clone());
        let handler = Arc::new(handler);
        let router = agent_card_router(Arc::new(StaticAgentCard::new(card)))
            .merge(jsonrpc_router(handler.clone()))
            .merge(rest_router(handler));
        self.serving.spawn(async move { axum::serve(listener, router).await });
        Ok(address)
    }
}

/// The card names the Service, never an address: it reads the same in every cluster.
fn card(about: &AgentDescription) -> AgentCard {
    let url = format!("http://{}", host(about.name));
    AgentCard {
        name: about.name.into(),
        description: about.description.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        supported_interfaces: vec![
            AgentInterface::new(format!("{url}/"), a2a::TRANSPORT_PROTOCOL_JSONRPC),
            AgentInterface::new(url, a2a::TRANSPORT_PROTOCOL_HTTP_JSON),
        ],
        capabilities: AgentCapabilities { streaming: Some(true), ..Default::default() },
        default_input_modes: vec!["text/plain".into()],
        default_output_modes: vec!["text/plain".into()],
        skills: vec![AgentSkill {
            id: about.skill.replace(' ', "-"),
            name: about.skill.into(),
            description: about.description.into(),
            tags: vec!["payments".into()],
            examples: None,
            input_modes: None,
            output_modes: None,
            security_requirements: None,
        }],
        provider: None,
        documentation_url: None,
        icon_url: None,
        security_schemes: None,
        security_requirements: None,
        signatures: None,
    }
}

/// The payment that a message is about: its first two whole numbers are its number and its amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Payment {
    pub(crate) number: u64,
    /// In whole euros.
    pub(crate) amount: u64,
}

impl Payment {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|w| w.parse().ok());
        Some(Self { number: numbers.next()?, amount: numbers.next()? })
    }

    /// The question that a caller asks.
    pub(crate) fn question(self) -> String {
        format!("Is payment {} over {} EUR in order?", self.number, self.amount)
    }
}

#[cfg(test)]
mod tests;
