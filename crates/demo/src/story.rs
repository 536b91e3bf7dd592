//! The steps, in order. Each says what it does, does it, and checks what came of it.
//!
//! * [`setup`]: clusters, agents, nodes, link. [`calls`]: what an agent of one cluster can do with an
//!   agent of another. [`crash`]: a node is killed and comes back. [`timing`]: what it all cost.
//! * [`mod@hold`]: what a reader can try afterwards.

use std::fmt::Display;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::time::timeout;

use crate::DemoOptions;
use crate::agents::AgentServers;
use crate::agents::fraud::StepGate;
use crate::agents::triage::TriageBot;
use crate::caller::Caller;
use crate::folder::{AgentService, DemoFolder, NodeSetup};
use crate::log::NodeLog;
use crate::narrate::Narrator;
use crate::node::DemoNode;

mod calls;
mod crash;
mod hold;
mod setup;
mod timing;

pub(crate) use self::hold::hold;

/// The time that anything may take that takes milliseconds when all is well, from its beginning.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// The processes and files to end and remove, however the story ends.
#[derive(Debug)]
pub(crate) struct DemoResources {
    stage: DemoFolder,
    /// Nodes that are not started yet.
    places: Vec<NodeSetup>,
    nodes: Vec<DemoNode>,
    agents: AgentServers,
}

/// The agents and their callers.
#[derive(Debug)]
pub(crate) struct DemoActors {
    services: Vec<AgentService>,
    triage: TriageBot,
    pace: StepGate,
    /// `support-bot` on `edge`, which finds the agents behind Adit.
    support: Caller,
    /// The same caller as if it were in `bank`, for comparison.
    direct: Caller,
    /// `report-bot` on `edge`, which nobody granted anything.
    report: Caller,
    /// The log of the node where their calls begin.
    log: NodeLog,
}

/// Tells the whole story.
pub(crate) async fn tell(
    world: &mut DemoResources,
    tell: &mut Narrator,
    options: &DemoOptions,
) -> anyhow::Result<DemoActors> {
    setup::clusters(world, tell)?;
    let mut cast = setup::agents(world, tell).await?;
    setup::nodes(world, tell, options).await?;
    setup::link(world, tell).await?;
    let fraud = calls::card(&mut cast, tell).await?;
    calls::message(world, &mut cast, &fraud, tell).await?;
    calls::events(&mut cast, &fraud, tell).await?;
    calls::escalation(&mut cast, &fraud, tell).await?;
    calls::refusal(&mut cast, tell).await?;
    let killed = crash::kill(world, &mut cast, &fraud, tell).await?;
    crash::restart(world, killed, tell).await?;
    timing::measure(world, &mut cast, &fraud, tell).await?;
    Ok(cast)
}

impl DemoResources {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            stage: DemoFolder::new()?,
            places: Vec::new(),
            nodes: Vec::new(),
            agents: AgentServers::default(),
        })
    }

    /// The node of that name.
    fn node(&mut self, name: &str) -> anyhow::Result<&mut DemoNode> {
        let found = self.nodes.iter_mut().find(|node| node.place.name == name);
        found.with_context(|| format!("there is no node {name:?}"))
    }

    /// Ends all nodes.
    ///
    /// # Errors
    ///
    /// If one did not end when asked, or not cleanly; all are ended nevertheless.
    pub(crate) async fn stop_nodes(&mut self) -> anyhow::Result<()> {
        let mut unclean = Vec::new();
        for node in &mut self.nodes {
            match node.stop().await {
                Ok(Some(status)) if !status.success() => {
                    unclean.push(format!("{} left with {status}", node.place.name));
                }
                Ok(_) => {}
                Err(error) => unclean.push(error.to_string()),
            }
        }
        if unclean.is_empty() { Ok(()) } else { Err(anyhow!("{}", unclean.join("; "))) }
    }

    /// Keeps all files and says where.
    pub(crate) fn keep(mut self) -> PathBuf {
        self.stage.keep();
        self.stage.folder().to_owned()
    }
}

/// Waits for what should come soon.
async fn within_timeout<T, E: Display>(
    what: &str,
    work: impl Future<Output = Result<T, E>>,
) -> anyhow::Result<T> {
    match timeout(STEP_TIMEOUT, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(anyhow!("{what}: {error}")),
        Err(_) => Err(anyhow!("{what}: nothing within {} s", STEP_TIMEOUT.as_secs())),
    }
}
