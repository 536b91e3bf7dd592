//! Decides which Services of linked clusters are imported, and why.
//!
//! A rule that names a Service takes precedence over an annotation, and either over what a link
//! imports automatically. If several links would import the same Service automatically, the one
//! that does so already goes on; else the first by name begins.
//!
//! A link imports automatically only into namespaces that were opened to it, and only into Services
//! that cannot have pods of their own and that this cluster never served. Otherwise a linked
//! cluster could export the right name and get the callers of whatever is down here for a moment,
//! or has not started yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use adit_config::cluster::{ClusterConfig, ClusterLink, NamePattern};
use adit_core::name::{ClusterName, ServiceName};
use adit_core::snapshot::{ClusterView, PeerExport};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use tokio::time::Instant;

use super::decision::{ImportDecisions, ImportFacts, WantedImport};
use super::quota::{ImportCost, LinkBudget, LinkQuotas, MAX_IMPORTS};
use super::unused::UnusedExports;
use super::{callers, withdrawn};
use crate::api::{Import, MADE_FOR, annotation, truncated};
use crate::controller::cluster_state::{ClusterState, is_ours};
use crate::controller::conditions::ConditionVerdict;
use crate::controller::debounce::NOT_READY_DELAY;
use crate::controller::export::ExportOrigin;
use crate::controller::peers::LinkedClusters;

/// Time for which a Service that we made stays after its export ended, from the first pass that
/// misses the export: with the Service goes the address that its clients have.
const STUB_REMOVAL_DELAY: Duration = Duration::from_secs(60);

/// Since when exports of other clusters are missing from their views. One may come back in a
/// moment: a node of theirs has only just started, or its Service was created anew.
#[derive(Debug, Default)]
pub(crate) struct Absences {
    since: BTreeMap<(ClusterName, ServiceName), Instant>,
    before: BTreeMap<(ClusterName, ServiceName), Instant>,
}

impl Absences {
    fn since(&mut self, cluster: &ClusterName, service: &ServiceName, now: Instant) -> Instant {
        let key = (cluster.clone(), service.clone());
        let since = self.before.get(&key).copied().unwrap_or(now);
        *self.since.entry(key).or_insert(since)
    }
}

/// Returns the reason why a Service that a linked cluster exports is not imported automatically.
fn why_by_name_only(
    state: &ClusterState,
    service: &ServiceName,
    from: &ClusterName,
) -> ConditionVerdict {
    let by_name = format!("`adit import {service} --from {from}` says that {from} is to serve it");
    if state.was_served(service) {
        let message = format!(
            "{from} exports {service}, which this cluster has served itself, so it is not imported unasked: {by_name}"
        );
        return ConditionVerdict::bad("ServedHere", message);
    }
    let message = format!(
        "{from} exports {service}, whose Service here has a selector and so may have pods of its own; it is not imported \
         unasked: {by_name} (by itself it is filled without a selector, or if a kagent Agent with replicas: 0 owns it)"
    );
    ConditionVerdict::bad("HasSelector", message)
}

/// State that is kept from one decision to the next.
#[derive(Debug, Default)]
pub(crate) struct ImportHistory {
    absences: Absences,
    quotas: LinkQuotas,
    unused: UnusedExports,
}

type LinkBudgets<'a> = BTreeMap<ClusterName, LinkBudget<'a>>;

/// Decides.
pub(crate) fn decide(facts: ImportFacts<'_>, history: &mut ImportHistory) -> ImportDecisions {
    let ImportFacts { config, state, at, clock, .. } = facts;
    let ImportHistory { absences, quotas, unused } = history;
    absences.before = std::mem::take(&mut absences.since);
    let mut budgets = quotas.budgets(config, state, (at, clock));
    let mut imports = ImportDecisions::default();
    for rule in &config.imports {
        let wanted = WantedImport {
            from: rule.from.clone(),
            allow: callers::callers_of_rule(config, rule),
            create_service: rule.create_service,
            named: true,
            agent: rule.agent.clone(),
            others: Vec::new(),
        };
        imports.all.entry(rule.service.clone()).or_insert(wanted);
    }
    add_annotated(facts, &mut budgets, &mut imports);
    add_automatic(facts, absences, &mut budgets, &mut imports);
    for (cluster, budget) in budgets {
        let (left_out, wake) = budget.finish(at);
        imports.left_out.extend(left_out.map(|left_out| (cluster, left_out)));
        imports.wake = imports.wake.into_iter().chain(wake).min();
    }
    imports.only_by_name.retain(|service, _| !imports.all.contains_key(service));
    unused.report(facts, &mut imports);
    imports
}

/// Adds imports that Services ask for by annotation.
fn add_annotated(
    facts: ImportFacts<'_>,
    budgets: &mut LinkBudgets<'_>,
    imports: &mut ImportDecisions,
) {
    let ImportFacts { config, state, exported, .. } = facts;
    for service in state.services.keys() {
        let is_exported = exported.get(service) == Some(&ExportOrigin::Named);
        if is_exported || imports.all.contains_key(service) {
            continue;
        }
        if state.is_undecided(service) {
            let unchanged = state
                .import_of(service)
                .and_then(|import| unchanged_import(state, service, import));
            imports.all.extend(unchanged.map(|wanted| (service.clone(), wanted)));
            continue;
        }
        let Some(asked) = state.annotations_of(service).annotation(annotation::IMPORT_FROM) else {
            continue;
        };
        let wanted = annotated_import(config, service, asked.trim()).and_then(|wanted| {
            let from = &wanted.from;
            let budget =
                budgets.get_mut(from).ok_or_else(|| format!("there is no link to {from}"))?;
            let cost = import_cost(facts, service, &wanted);
            let full =
                || format!("there is no room for more imports from {from}: its Link says why");
            if budget.admit(service, cost) { Ok(wanted) } else { Err(full()) }
        });
        match wanted {
            Ok(wanted) => drop(imports.all.insert(service.clone(), wanted)),
            Err(why) => drop(imports.refused.insert(service.clone(), truncated(&why).into_owned())),
        }
    }
}

/// Adds imports that links make automatically.
fn add_automatic(
    facts: ImportFacts<'_>,
    absences: &mut Absences,
    budgets: &mut LinkBudgets<'_>,
    imports: &mut ImportDecisions,
) {
    let ImportFacts { config, state, peers, exported, at, .. } = facts;
    let named: BTreeSet<ServiceName> = imports.all.keys().cloned().collect();
    let mut links: Vec<&ClusterLink> = config.links.iter().collect();
    links.sort_by(|a, b| a.cluster.cmp(&b.cluster));
    let mut offers = Vec::new();
    for link in links {
        let offer = link_offer(link, state, peers, exported, imports, (absences, at));
        offers.push((link, offer));
    }
    // Existing imports come first, whichever their cluster: a cluster that begins to export a
    // Service must not take it from another.
    let existing = offers.iter().map(|(link, offer)| (*link, &offer.existing));
    let all = existing.chain(offers.iter().map(|(link, offer)| (*link, &offer.starting)));
    for (link, services) in all {
        let Some(budget) = budgets.get_mut(&link.cluster) else { continue };
        for service in services.iter().filter(|service| !named.contains(service)) {
            if let Some(wanted) = imports.all.get_mut(service) {
                if wanted.from != link.cluster {
                    wanted.others.push(link.cluster.clone());
                }
                continue;
            }
            let wanted = automatic_import(config, link, service);
            if budget.admit(service, import_cost(facts, service, &wanted)) {
                imports.all.insert(service.clone(), wanted);
            }
        }
    }
    // Last, so that a cluster that exports such a Service now takes precedence over one that no
    // longer does.
    for (link, offer) in offers {
        let Some(budget) = budgets.get_mut(&link.cluster) else { continue };
        for service in withdrawn::oldest_first(state, offer.withdrawn) {
            let wanted = automatic_import(config, link, &service);
            if !imports.all.contains_key(&service)
                && budget.admit_withdrawn(import_cost(facts, &service, &wanted))
            {
                imports.all.insert(service, wanted);
            }
        }
    }
}

/// Returns an import that a link makes automatically.
fn automatic_import(
    config: &ClusterConfig,
    link: &ClusterLink,
    service: &ServiceName,
) -> WantedImport {
    WantedImport {
        from: link.cluster.clone(),
        allow: callers::default_callers(config, service, &link.cluster),
        create_service: link.create_services,
        named: false,
        agent: None,
        others: Vec::new(),
    }
}

/// Returns the cost of an import that nobody named.
fn import_cost(facts: ImportFacts<'_>, service: &ServiceName, wanted: &WantedImport) -> ImportCost {
    let stored = facts.state.import_of(service).filter(|i| i.spec.from == wanted.from.as_str());
    let announced = facts.peers.live_view(&wanted.from).and_then(|view| view.exports.get(service));
    let ports = match announced {
        Some(export) => wanted.port_use(facts.state, service).select_of_export(export).used.len(),
        None => stored.map_or(0, |import| import.spec.ports.len()),
    };
    ImportCost { ports, exists: stored.is_some() }
}

/// Returns an import as it was.
fn unchanged_import(
    state: &ClusterState,
    service: &ServiceName,
    import: &Import,
) -> Option<WantedImport> {
    Some(WantedImport {
        from: import.spec.from.parse().ok()?,
        allow: import.spec.allow.clone(),
        create_service: state.services.get(service).is_some_and(|s| is_ours(s)),
        named: false,
        agent: None,
        others: Vec::new(),
    })
}

fn annotated_import(
    config: &ClusterConfig,
    service: &ServiceName,
    asked: &str,
) -> Result<WantedImport, String> {
    let from: ClusterName =
        asked.parse().map_err(|error| format!("{}: {error}", annotation::IMPORT_FROM))?;
    let namespace = &service.namespace;
    if !config.opted_in(namespace).any(|o| o.import_from.contains(&from)) {
        return Err(format!(
            "namespace {namespace} may not import from {from} by annotation (optIn.importFrom)"
        ));
    }
    let allow = callers::default_callers(config, service, &from);
    Ok(WantedImport {
        from,
        allow,
        create_service: false,
        named: false,
        agent: None,
        others: Vec::new(),
    })
}

/// Services that a link would import automatically.
#[derive(Default)]
struct LinkOffer {
    /// Imported from it already.
    existing: Vec<ServiceName>,
    /// Not imported yet.
    starting: Vec<ServiceName>,
    /// Served from it earlier, and no longer exported.
    withdrawn: Vec<ServiceName>,
}

/// Decides what a link imports automatically: exports of its namespaces, for Services that can be
/// filled. While that cluster cannot be heard, existing imports from it stay.
fn link_offer(
    link: &ClusterLink,
    state: &ClusterState,
    peers: &LinkedClusters,
    exported: &BTreeMap<ServiceName, ExportOrigin>,
    imports: &mut ImportDecisions,
    (absences, now): (&mut Absences, Instant),
) -> LinkOffer {
    if link.import.is_empty() {
        return LinkOffer::default();
    }
    let fits = |s: &ServiceName| NamePattern::any_matches(&link.import, &s.namespace);
    let imported = |service: &ServiceName| is_imported(link, state, exported, service);
    let names = state.imports.values().filter_map(|import| import.spec.service.parse().ok());
    let existing: Vec<ServiceName> = names.filter(|s| fits(s) && imported(s)).collect();
    let mut stubs = made_services(link, state);
    let Some(view) = peers.live_view(&link.cluster) else {
        imports.stubs.append(&mut stubs);
        return LinkOffer { existing, ..LinkOffer::default() };
    };
    let mut lasts = |service: &ServiceName, rest: Duration| {
        if view.exports.contains_key(service) {
            return true;
        }
        let end = absences.since(&link.cluster, service, now) + rest;
        let lasts = now < end;
        imports.wake = imports.wake.into_iter().chain(lasts.then_some(end)).min();
        lasts
    };
    let (existing, mut missed): (Vec<_>, Vec<_>) =
        existing.into_iter().partition(|service| lasts(service, NOT_READY_DELAY));
    missed.retain(|service| withdrawn::stays_listed(state, service));
    stubs.retain(|service| lasts(service, STUB_REMOVAL_DELAY));
    imports.stubs.append(&mut stubs);
    let offered = || view.exports.iter().filter(|(service, _)| fits(service));
    // Before their Services exist, so that these need not wait once they are created.
    imports.candidates.extend(offered().map(|(s, _)| s).take(MAX_IMPORTS).cloned());
    let here = offered().map(|(s, _)| s).filter(|s| state.services.contains_key(*s));
    imports.candidates.extend(here.cloned());
    let idle = |s: &&ServiceName| {
        let known =
            state.services.contains_key(*s) && state.observed_services.contains(&s.to_string());
        let waits_for_a_name = state.was_served(s) || (known && !state.is_stub(s));
        waits_for_a_name && !imported(s) && !state.is_undecided(s) && !exported.contains_key(*s)
    };
    let idle = offered().map(|(s, _)| s).filter(idle);
    let why = |s: &ServiceName| (s.clone(), why_by_name_only(state, s, &link.cluster));
    imports.only_by_name.extend(idle.map(why));
    let starting = offered()
        .filter(|(s, export)| !imported(s) && may_start(link, state, (view, s, export), exported));
    let starting = starting.map(|(service, _)| service.clone()).collect();
    LinkOffer { existing, starting, withdrawn: missed }
}

/// Returns whether a link imports a Service already, and may go on.
fn is_imported(
    link: &ClusterLink,
    state: &ClusterState,
    exported: &BTreeMap<ServiceName, ExportOrigin>,
    service: &ServiceName,
) -> bool {
    let import = state.import_of(service).filter(|i| i.spec.from == link.cluster.as_str());
    // A Service that gets pods of its own is served by these alone from then on, and a Service that we export and once
    // served is ours again. Endpoints of somebody else in a Service that cannot have pods are no such statement: our
    // endpoints are taken out, and the import stays, not ready, with that reason.
    let is_own = exported.contains_key(service) && state.was_served(service);
    let fillable = state.is_stub(service) || !state.services.contains_key(service);
    import.is_some() && fillable && !is_own
}

/// Returns the Services that were made for a link and that it may still have made.
fn made_services(link: &ClusterLink, state: &ClusterState) -> BTreeSet<ServiceName> {
    let is_made = |(service, object): &(&ServiceName, &Arc<Service>)| {
        let made_for = object.annotations().get(MADE_FOR);
        let is_own = is_ours(object) && made_for.is_some_and(|c| c == link.cluster.as_str());
        let fits = NamePattern::any_matches(&link.import, &service.namespace);
        link.create_services && is_own && fits
    };
    let made = state.services.iter().filter(is_made).map(|(service, _)| service);
    made.cloned().collect()
}

/// Returns whether a Service that is not imported yet may be, without anybody having named it.
fn may_start(
    link: &ClusterLink,
    state: &ClusterState,
    (view, service, export): (&ClusterView, &ServiceName, &PeerExport),
    exported: &BTreeMap<ServiceName, ExportOrigin>,
) -> bool {
    // Two clusters that export one Service by the same labels would alternate while neither has a
    // backend, so the one that has a backend is imported from.
    let ours_to_give = match exported.get(service) {
        Some(ExportOrigin::Named) => true,
        Some(ExportOrigin::Implied) => !view.has_ready_backend(export),
        None => false,
    };
    let waits = if state.services.contains_key(service) {
        let known = state.observed_services.contains(&service.to_string());
        known && state.is_stub(service) && !state.was_served(service)
    } else {
        link.create_services && state.namespaces.contains(service.namespace.as_str())
    };
    waits && !ours_to_give && !state.is_undecided(service)
}

#[cfg(test)]
mod tests;
