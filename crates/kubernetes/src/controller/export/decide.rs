//! Decides which Services of this cluster others may use, and what is wrong with one that cannot be
//! exported.
//!
//! A rule that names a Service takes precedence over one that selects it by labels, and either over
//! an annotation. Annotations count in namespaces that the administrator opened, for the clusters
//! that he opened them to. A Service that cannot be exported gets an Export that grants nobody
//! anything, so that its owner can see the reason.

use std::collections::{BTreeMap, BTreeSet};

use adit_config::cluster::{
    AppProtocols, ClusterConfig, ExportRule, NamePattern, ServiceSelection,
};
use adit_core::name::{AppProtocol, PortName, ServiceName};
use adit_core::snapshot::{Class, Hop};
use k8s_openapi::api::core::v1::{Service, ServicePort};

use super::annotations::{annotated_offer, error_text};
use super::limits;
use super::offer::{ExportDecisions, ExportOffer, ExportOrigin, ResolvedExport};
use crate::api::{ExportPort, ExportSpec, ServiceRef, annotation};
use crate::controller::cluster_state::{ClusterState, ServiceAnnotations, tcp_ports, why_unusable};
use crate::controller::conditions::ConditionVerdict;

/// Decides. `imported` are Services that stand for another cluster's: they are never exported.
pub(crate) fn decide(
    config: &ClusterConfig,
    state: &ClusterState,
    imported: &BTreeSet<ServiceName>,
) -> ExportDecisions {
    let mut exports = ExportDecisions::default();
    let mut offers = collect_offers(config, state, &mut exports.refused);
    limits::enforce_limits(&mut offers, state, &mut exports);
    for (service, offer) in offers {
        let resolved = resolve(&offer, &service, state, imported.contains(&service));
        exports.all.insert(service, resolved);
    }
    exports
}

/// Returns the Services that somebody wants to export, whether or not that is possible.
pub(crate) fn wanted_exports(
    config: &ClusterConfig,
    state: &ClusterState,
) -> BTreeMap<ServiceName, ExportOrigin> {
    let offers = collect_offers(config, state, &mut BTreeMap::new());
    offers.into_iter().map(|(service, offer)| (service, offer.origin)).collect()
}

fn collect_offers(
    config: &ClusterConfig,
    state: &ClusterState,
    refused: &mut BTreeMap<ServiceName, String>,
) -> BTreeMap<ServiceName, ExportOffer> {
    let mut offers = BTreeMap::new();
    for rule in &config.exports {
        if let ServiceSelection::Named(service) = &rule.services {
            offers
                .entry(service.clone())
                .or_insert_with(|| ExportOffer::from_rule(rule, ExportOrigin::Named));
        }
    }
    for service in state.services.keys() {
        if offers.contains_key(service) || state.is_undecided(service) {
            continue;
        }
        let said = state.annotations_of(service);
        if let Some(rule) = config.exports.iter().find(|rule| selects(rule, service, said)) {
            offers.insert(service.clone(), ExportOffer::from_rule(rule, ExportOrigin::Implied));
        } else if let Some(asked) = said.annotation(annotation::EXPORT) {
            match annotated_offer(config, service, asked, said) {
                Ok(offer) => drop(offers.insert(service.clone(), offer)),
                Err(why) => drop(refused.insert(service.clone(), why)),
            }
        }
    }
    offers
}

fn selects(rule: &ExportRule, service: &ServiceName, said: ServiceAnnotations<'_>) -> bool {
    match &rule.services {
        ServiceSelection::Named(_) => false,
        ServiceSelection::Selected { namespaces, labels } => {
            NamePattern::any_matches(namespaces, &service.namespace) && said.has_labels(labels)
        }
    }
}

/// Decides one export.
fn resolve(
    offer: &ExportOffer,
    service: &ServiceName,
    state: &ClusterState,
    imported: bool,
) -> ResolvedExport {
    let object = state.services.get(service);
    let ports = offered_ports(service, object.map(|o| &**o), imported, &offer.protocols);
    let ports = ports.and_then(|ports| {
        let wrong = limits::why_unannounceable(service, &ports, &offer.allow);
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
        service: ServiceRef::from(service),
        ports,
        allow: allow.iter().map(Into::into).collect(),
        // Only the node of a pod knows who has an address, and a tenant may have written any
        // address.
        hop: (offer.origin == ExportOrigin::Implied
            || rule.is_some_and(|r| r.hop == Hop::SameNode))
        .then(|| "sameNode".into()),
        class: rule.filter(|r| r.class == Class::Bulk).map(|_| "bulk".into()),
        replay: rule.is_some_and(|r| r.replay),
        any_endpoint: offer.origin == ExportOrigin::Named,
        probe_ms: rule
            .and_then(|r| r.probe)
            .map(|p| u64::try_from(p.as_millis()).unwrap_or(u64::MAX)),
    };
    ResolvedExport { spec, verdict }
}

/// Returns the ports under which a Service can be exported.
fn offered_ports(
    service: &ServiceName,
    object: Option<&Service>,
    imported: bool,
    protocols: &AppProtocols,
) -> Result<Vec<ExportPort>, ConditionVerdict> {
    let object = object.ok_or_else(|| {
        ConditionVerdict::bad("NoService", format!("there is no Service {service}"))
    })?;
    if imported {
        let message =
            format!("{service} stands for another cluster's Service, and is not passed on");
        return Err(ConditionVerdict::bad("Imported", message));
    }
    if let Some(why) = why_unusable(object) {
        let message = format!("{service} cannot be exported: {why}");
        return Err(ConditionVerdict::bad("UnsupportedService", message));
    }
    let port = |port: &ServicePort| {
        let text = port.name.as_deref().unwrap_or_default();
        let name: PortName = text.parse().map_err(error_text)?;
        let own = port.app_protocol.as_deref().map(str::parse::<AppProtocol>).transpose();
        let told = match protocols {
            AppProtocols::Own => None,
            AppProtocols::All(protocol) => Some(protocol.clone()),
            AppProtocols::Ports(ports) => ports.get(&name).cloned(),
        };
        Ok(ExportPort {
            name: text.to_owned(),
            number: u16::try_from(port.port).map_err(error_text)?,
            app_protocol: own.map_err(error_text)?.or(told).map(|p| p.to_string()),
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
