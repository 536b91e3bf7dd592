//! The agents of one cluster or several: what is exported and imported, and what each says of itself at this moment.
//!
//! A card is fetched in the cluster where its agent runs, if that is one of those that are asked; nothing is stored. If it would
//! work from elsewhere is judged by [`adit_core::doctor::card`]. One agent that does not answer hides no other: at most
//! [`MAX_AT_ONCE`] are asked at a time, and all of them within [`CATALOGUE_TIMEOUT`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use adit_core::doctor::card::{CardPlace, CardWarning, card_warnings};
use adit_core::doctor::facts::CardFacts;
use adit_core::name::ServiceName;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::time::Instant;

use super::doctor::ClusterSite;
use crate::api::{Export, ExportPort, Import, ObjectStatus, Workloads};

/// The most cards that are fetched at a time.
const MAX_AT_ONCE: usize = 8;
/// The longest wait for all cards together, from the first request.
const CATALOGUE_TIMEOUT: Duration = Duration::from_secs(60);

/// An agent, or another service of which nobody can say yet that it is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentEntry {
    /// The Service as other clusters name it, `NAMESPACE/NAME`.
    pub service: String,
    /// The cluster where it runs.
    pub cluster: String,
    /// The Service that it leads to there, if that has another name.
    pub behind: Option<String>,
    /// The workloads that may call it, as `CLUSTER: NAMESPACE/SERVICEACCOUNT`; where only an importing cluster was asked, those
    /// that this one lets out.
    pub callers: Vec<String>,
    /// The clusters among those that were asked which import it.
    pub imports: Vec<AgentImport>,
    /// The card, or why there is none; absent if the cluster where it runs was not asked.
    pub card: Option<CardFacts>,
    /// The condition of the export that is not as it should be, in words.
    pub problem: Option<String>,
    /// The things about its card that do not work from other clusters.
    pub warnings: Vec<CardWarning>,
}

/// An import of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentImport {
    /// The importing cluster.
    pub cluster: String,
    /// The reason why it does not serve requests; absent if it does.
    pub problem: Option<String>,
}

/// The answer of an agent, as far as it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentAnswer {
    /// With a card.
    Card,
    /// Without: it may be no agent.
    NoCard,
    /// Nothing answers.
    Silent,
    /// Nobody could be asked: its cluster is none of those that were named.
    NotAsked,
}

impl AgentEntry {
    /// The answer of the agent.
    #[must_use]
    pub fn answer(&self) -> AgentAnswer {
        match &self.card {
            None => AgentAnswer::NotAsked,
            Some(card) if card.error.is_none() => AgentAnswer::Card,
            Some(card) if card.is_answered => AgentAnswer::NoCard,
            Some(_) => AgentAnswer::Silent,
        }
    }

    /// True if nothing has to be done about it.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.answer() != AgentAnswer::Silent
            && self.problem.is_none()
            && self.warnings.is_empty()
            && self.imports.iter().all(|import| import.problem.is_none())
    }
}

/// Lists what the clusters export and import, by service, and fetches the cards of what they export.
pub async fn catalogue(sites: &[ClusterSite]) -> Vec<AgentEntry> {
    let mut entries = BTreeMap::new();
    for site in sites {
        for export in site.exports() {
            if let Ok(service) = export.spec.service.parse() {
                let entry = exported(site, export);
                entries.insert((service, entry.cluster.clone()), entry);
            }
        }
    }
    let owned: Vec<_> = entries.keys().cloned().collect();
    for site in sites {
        for import in site.current_imports() {
            let Ok(service) = import.spec.service.parse() else { continue };
            let key = (service, import.spec.from.clone());
            let entry = entries.entry(key).or_insert_with(|| imported(site, import));
            entry.imports.push(AgentImport {
                cluster: name(site).to_owned(),
                problem: unless_true(import.status.as_ref(), "Ready"),
            });
        }
    }
    let until = Instant::now() + CATALOGUE_TIMEOUT;
    let fetched = stream::iter(owned)
        .map(|key| async move { (fetch(sites, &key, until).await, key) })
        .buffered(MAX_AT_ONCE);
    let cards: Vec<_> = fetched.collect().await;
    for (card, key) in cards {
        if let (Some(entry), Some(card)) = (entries.get_mut(&key), card) {
            entry.warnings = warnings(sites, &key, &card);
            entry.card = Some(card);
        }
    }
    entries.into_values().collect()
}

fn name(site: &ClusterSite) -> &str {
    site.cluster().unwrap_or_else(|| site.context_name())
}

fn exported(site: &ClusterSite, export: &Export) -> AgentEntry {
    let spec = &export.spec;
    let status = export.status.as_ref();
    let service =
        |service: &crate::api::ServiceRef| format!("{}/{}", service.namespace, service.name);
    let grants = spec.allow.iter();
    AgentEntry {
        service: service(&spec.service),
        cluster: name(site).to_owned(),
        behind: spec.backend_service.as_ref().map(service),
        callers: grants.map(|grant| caller(&grant.cluster, &grant.workloads)).collect(),
        imports: Vec::new(),
        card: None,
        problem: unless_true(status, "Valid").or_else(|| unless_true(status, "Ready")),
        warnings: Vec::new(),
    }
}

fn imported(site: &ClusterSite, import: &Import) -> AgentEntry {
    let spec = &import.spec;
    AgentEntry {
        service: format!("{}/{}", spec.service.namespace, spec.service.name),
        cluster: spec.from.clone(),
        behind: None,
        callers: spec.allow.iter().map(|workloads| caller(name(site), workloads)).collect(),
        imports: Vec::new(),
        card: None,
        problem: None,
        warnings: Vec::new(),
    }
}

fn caller(cluster: &str, workloads: &Workloads) -> String {
    format!("{cluster}: {}/{}", workloads.namespace, workloads.service_account)
}

/// The message of a condition that is there and is not true. Backends that only some nodes reach are no matter of the agent's.
fn unless_true(status: Option<&ObjectStatus>, kind: &str) -> Option<String> {
    let condition = ObjectStatus::condition(status, kind)?;
    let is_fine = condition.status == "True" || condition.reason == "NodesDiffer";
    (!is_fine).then(|| format!("{} ({})", condition.message, condition.reason))
}

async fn fetch(
    sites: &[ClusterSite],
    (service, cluster): &(ServiceName, String),
    until: Instant,
) -> Option<CardFacts> {
    let site = sites.iter().find(|site| name(site) == cluster)?;
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        let seconds = CATALOGUE_TIMEOUT.as_secs();
        let error = format!("not asked: those before it took {seconds} s");
        return Some(CardFacts { error: Some(error), ..CardFacts::default() });
    }
    let mut exports = site.exports();
    let export = exports.find(|export| export.spec.service.parse().as_ref() == Ok(service))?;
    let port = agent_port(&export.spec.ports).map(|port| &*port.name);
    let port = port.filter(|name| !name.is_empty());
    Some(Box::pin(site.card(service, port, left)).await)
}

/// The port that looks most like an agent's.
fn agent_port(ports: &[ExportPort]) -> Option<&ExportPort> {
    let speaks =
        |port: &&ExportPort| port.app_protocol.as_ref().is_some_and(|p| p.ends_with("/a2a"));
    let begins = |with: &'static str| ports.iter().find(move |port| port.name.starts_with(with));
    let marked = ports.iter().find(speaks);
    marked.or_else(|| begins("a2a")).or_else(|| begins("http")).or_else(|| ports.first())
}

/// The warnings, for each cluster whose workloads may call it.
fn warnings(
    sites: &[ClusterSite],
    (service, cluster): &(ServiceName, String),
    card: &CardFacts,
) -> Vec<CardWarning> {
    let Some(site) = sites.iter().find(|site| name(site) == cluster) else { return Vec::new() };
    if card.error.is_some() {
        return Vec::new();
    }
    let mut exports = site.exports();
    let export = exports.find(|export| export.spec.service.parse().as_ref() == Ok(service));
    let grants = export.into_iter().flat_map(|export| &export.spec.allow);
    let callers: BTreeSet<&str> = grants.map(|grant| &*grant.cluster).collect();
    let option = |cluster: &str| match sites.iter().find(|site| name(site) == cluster) {
        Some(site) => format!(" --context {}", site.context_name()),
        None => format!(" --context {}'S-CONTEXT", cluster.to_uppercase()),
    };
    let mut all: Vec<CardWarning> = Vec::new();
    for here in callers {
        let has_way_back = site.current_imports().any(|import| import.spec.from == here);
        let (here_option, there_option) = (option(here), option(cluster));
        let place = CardPlace {
            namespace: service.namespace.as_str(),
            name: service.name(),
            here: (here, &here_option),
            there: (cluster, &there_option),
            has_way_back,
        };
        for warning in card_warnings(card, &place) {
            if !all.iter().any(|one| one.seen == warning.seen) {
                all.push(warning);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests;
