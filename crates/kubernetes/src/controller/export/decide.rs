//! Decides which Services of this cluster others may use, and what is wrong with one that cannot be
//! exported.
//!
//! A rule that names a Service takes precedence over one that selects it by labels, and either over
//! an annotation. Annotations count in namespaces that the administrator opened, for the clusters
//! that he opened them to. A Service that cannot be exported gets an Export that grants nobody
//! anything, so that its owner can see the reason.
//!
//! Exports are found by the name that other clusters know: the Service's own, or its alias.

use std::collections::{BTreeMap, BTreeSet};

use adit_config::cluster::{
    AppProtocols, ClusterConfig, ExportRule, NamePattern, ServiceSelection,
};
use adit_core::name::{AppProtocol, PortName, ServiceName};
use adit_core::snapshot::{Class, Hop};
use k8s_openapi::api::core::v1::ServicePort;

use super::aliases;
use super::annotations::{annotated_offer, error_text};
use super::external_name;
use super::limits;
use super::offer::{ExportDecisions, ExportOffer, ExportOrigin, ResolvedExport};
use super::quota;
use crate::api::{ExportPort, ExportSpec, ServiceRef, annotation, truncated};
use crate::controller::cluster_state::{ClusterState, ServiceAnnotations, is_alias};
use crate::controller::conditions::ConditionVerdict;
use crate::service::tcp_ports;

/// Decides. `imported` are Services that stand for another cluster's: they are never exported.
pub(crate) fn decide(
    config: &ClusterConfig,
    state: &ClusterState,
    imported: &BTreeSet<ServiceName>,
) -> ExportDecisions {
    let mut exports = ExportDecisions::default();
    let mut offers = collect_offers(config, state, &mut exports);
    limits::enforce_limits(&mut offers, state, &mut exports);
    for (name, offer) in offers {
        let resolved = resolve(&offer, state, imported);
        exports.all.insert(name, resolved);
    }
    quota::enforce_quotas(&mut exports, state);
    exports
}

/// Returns the Services that somebody wants to export, whether or not that is possible, by their own
/// names and by those that other clusters know.
pub(crate) fn wanted_exports(
    config: &ClusterConfig,
    state: &ClusterState,
) -> BTreeMap<ServiceName, ExportOrigin> {
    let offers = collect_offers(config, state, &mut ExportDecisions::default());
    let mut all = BTreeMap::new();
    for (name, ExportOffer { origin, backend, .. }) in offers {
        for service in [name, backend] {
            let known = all.entry(service).or_insert(origin);
            if origin == ExportOrigin::Named {
                *known = origin;
            }
        }
    }
    all
}

fn collect_offers(
    config: &ClusterConfig,
    state: &ClusterState,
    exports: &mut ExportDecisions,
) -> BTreeMap<ServiceName, ExportOffer> {
    let (mut offers, mut named, mut aliased) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
    for rule in &config.exports {
        if let ServiceSelection::Named(service) = &rule.services {
            let offer = ExportOffer::from_rule(rule, service, ExportOrigin::Named);
            offers.entry(offer.exported_name().clone()).or_insert(offer);
            named.insert(service);
        }
    }
    for (service, object) in &state.services {
        if named.contains(service) || state.is_undecided(service) || is_alias(object) {
            continue;
        }
        let annotations = state.annotations_of(service);
        let offer = match config.exports.iter().find(|rule| selects(rule, service, annotations)) {
            Some(rule) => Ok(ExportOffer::from_rule(rule, service, ExportOrigin::Implied)),
            None => match annotations.annotation(annotation::EXPORT) {
                Some(asked) => annotated_offer(config, service, asked, annotations),
                None => continue,
            },
        };
        match offer {
            Ok(offer) if offer.alias.is_some() => aliased.push(offer),
            Ok(offer) => aliases::add_under_own_name(&mut offers, offer, exports),
            Err(why) => drop(exports.refused.insert(service.clone(), truncated(&why).into_owned())),
        }
    }
    aliases::add_aliased(&mut offers, aliased, state, exports);
    offers
}

fn selects(rule: &ExportRule, service: &ServiceName, annotations: ServiceAnnotations<'_>) -> bool {
    match &rule.services {
        ServiceSelection::Named(_) => false,
        ServiceSelection::Selected { namespaces, labels } => {
            NamePattern::any_matches(namespaces, &service.namespace)
                && annotations.has_labels(labels)
        }
    }
}

/// Decides one export.
fn resolve(
    offer: &ExportOffer,
    state: &ClusterState,
    imported: &BTreeSet<ServiceName>,
) -> ResolvedExport {
    let (name, service) = (offer.exported_name(), &offer.backend);
    let target = external_name::target(offer, state);
    let leads_to = target.as_ref().ok().and_then(Option::as_ref).unwrap_or(service);
    let imported = [name, service, leads_to].into_iter().find(|s| imported.contains(*s));
    let ports = target.clone().and_then(|_| offered_ports(offer, leads_to, state, imported));
    let ports = ports.and_then(|ports| offer.renumber(ports)).and_then(|ports| {
        let wrong = limits::why_unannounceable(name, &ports, &offer.allow);
        wrong.map_or(Ok(ports), Err)
    });
    let (ports, verdict) = match ports {
        Err(verdict) => (Vec::new(), verdict),
        Ok(ports) => {
            let note = match (&offer.trouble, offer.allow.is_empty()) {
                (Some(trouble), _) => ConditionVerdict::bad("BadAnnotation", trouble),
                (None, true) => ConditionVerdict::good(
                    "NobodyAllowed",
                    format!("{service} is exported, and no grant lets anybody use it"),
                ),
                (None, false) if offer.alias.is_some() => {
                    ConditionVerdict::good("Exported", format!("{service} is exported as {name}"))
                }
                (None, false) => {
                    ConditionVerdict::good("Exported", format!("{service} is exported"))
                }
            };
            (ports, note)
        }
    };
    let rule = offer.rule.as_ref();
    // An export without ports must not be announced either.
    let allow = if ports.is_empty() { Vec::new() } else { offer.allow.clone() };
    let spec = ExportSpec {
        service: ServiceRef::from(name),
        backend_service: (name != leads_to).then(|| ServiceRef::from(leads_to)),
        ports,
        allow: allow.iter().map(Into::into).collect(),
        // Only the node of a pod knows who has an address, and a tenant may have written any
        // address.
        hop: (offer.origin == ExportOrigin::Implied
            || rule.is_some_and(|r| r.hop == Hop::SameNode))
        .then(|| "sameNode".into()),
        class: rule.filter(|r| r.class == Class::Bulk).map(|r| r.class.name().into()),
        replay: rule.is_some_and(|r| r.replay),
        any_endpoint: offer.origin == ExportOrigin::Named,
        probe_ms: rule
            .and_then(|r| r.probe)
            .map(|p| u64::try_from(p.as_millis()).unwrap_or(u64::MAX)),
        hold: rule.and_then(|r| r.hold).map(Into::into),
    };
    let (backend, make_alias) = (service.clone(), offer.make_alias);
    ResolvedExport { spec, verdict, backend, make_alias }
}

/// Returns the ports under which a Service can be exported: those of the Service that it leads to.
fn offered_ports(
    offer: &ExportOffer,
    leads_to: &ServiceName,
    state: &ClusterState,
    imported: Option<&ServiceName>,
) -> Result<Vec<ExportPort>, ConditionVerdict> {
    let (service, protocols) = (&offer.backend, &offer.protocols);
    let object = state.services.get(leads_to).ok_or_else(|| {
        ConditionVerdict::bad("NoService", format!("there is no Service {leads_to}"))
    })?;
    if let Some(imported) = imported {
        let message =
            format!("{imported} stands for another cluster's Service, and is not passed on");
        return Err(ConditionVerdict::bad("Imported", message));
    }
    let port = |port: &ServicePort| {
        let text = port.name.as_deref().unwrap_or_default();
        let name: PortName = text.parse().map_err(error_text)?;
        let own = port.app_protocol.as_deref().map(str::parse::<AppProtocol>).transpose();
        let configured = match protocols {
            AppProtocols::Own => None,
            AppProtocols::All(protocol) => Some(protocol.clone()),
            AppProtocols::Ports(ports) => ports.get(&name).cloned(),
        };
        Ok(ExportPort {
            name: text.to_owned(),
            number: u16::try_from(port.port).map_err(error_text)?,
            app_protocol: own.map_err(error_text)?.or(configured).map(|p| p.to_string()),
        })
    };
    let ports: Result<Vec<ExportPort>, String> = tcp_ports(object).map(port).collect();
    let ports = ports.map_err(|why| {
        ConditionVerdict::bad(
            "BadPort",
            format!("{service} cannot be exported: one of its ports: {why}"),
        )
    })?;
    if ports.is_empty() {
        let message = format!("{service} has no TCP port, and only TCP is carried");
        return Err(ConditionVerdict::bad("NoTcpPort", message));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests;
