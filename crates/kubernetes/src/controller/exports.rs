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
use adit_core::name::{AppProtocol, ClusterName, PortName, ServiceName};
use adit_core::policy::{Grant, WorkloadPattern};
use adit_core::snapshot::{Class, Hop};
use k8s_openapi::api::core::v1::{Service, ServicePort};

use super::cluster_state::{
    ClusterState, ServiceAnnotations, service_ref, tcp_ports, why_unusable,
};
use crate::api::{self, ExportPort, ExportSpec, annotation};

/// An export, as its object should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResolvedExport {
    pub(super) spec: ExportSpec,
    pub(super) verdict: ConditionVerdict,
}

/// Value of a condition: true or false, with a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConditionVerdict {
    pub(super) good: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl ConditionVerdict {
    pub(super) fn good(reason: &'static str, message: impl Into<String>) -> Self {
        Self { good: true, reason, message: message.into() }
    }

    pub(super) fn bad(reason: &'static str, message: impl Into<String>) -> Self {
        Self { good: false, reason, message: message.into() }
    }
}

/// All exports by Service; what annotations ask for without permission; and what exceeds a limit.
#[derive(Default)]
pub(super) struct ExportDecisions {
    pub(super) all: BTreeMap<ServiceName, ResolvedExport>,
    pub(super) refused: BTreeMap<ServiceName, String>,
    pub(super) left_out: BTreeMap<ServiceName, String>,
}

impl ExportDecisions {
    /// True if an Export stays as it is though nobody is known to want it, because its Agent cannot
    /// be read.
    pub(super) fn keeps_stored(&self, world: &ClusterState, stored: &api::Export) -> bool {
        let service = stored.spec.service.parse();
        service.is_ok_and(|s| !self.all.contains_key(&s) && world.is_undecided(&s))
    }
}

/// Decides. `imported` are Services that stand for another cluster's: they are never exported.
pub(super) fn decide(
    config: &ClusterConfig,
    world: &ClusterState,
    imported: &BTreeSet<ServiceName>,
) -> ExportDecisions {
    let mut exports = ExportDecisions::default();
    let mut offers = collect_offers(config, world, &mut exports.refused);
    limits::enforce_limits(&mut offers, world, &mut exports);
    for (service, offer) in offers {
        let resolved = offer.resolve(&service, world, imported.contains(&service));
        exports.all.insert(service, resolved);
    }
    exports
}

/// Returns the Services that somebody wants to export, whether or not that is possible.
pub(super) fn wanted_exports(
    config: &ClusterConfig,
    world: &ClusterState,
) -> BTreeMap<ServiceName, ExportOrigin> {
    let offers = collect_offers(config, world, &mut BTreeMap::new());
    offers.into_iter().map(|(service, offer)| (service, offer.strength)).collect()
}

/// Source of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExportOrigin {
    /// By name in the configuration.
    Named,
    /// By labels or an annotation.
    Implied,
}

struct ExportOffer {
    strength: ExportOrigin,
    allow: Vec<Grant>,
    protocols: AppProtocols,
    rule: Option<ExportRule>,
    trouble: Option<String>,
}

fn collect_offers(
    config: &ClusterConfig,
    world: &ClusterState,
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
    for service in world.services.keys() {
        if offers.contains_key(service) || world.is_undecided(service) {
            continue;
        }
        let said = world.annotations_of(service);
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

/// Reads what annotations ask for, and reduces it to what the namespace may do.
fn annotated_offer(
    config: &ClusterConfig,
    service: &ServiceName,
    asked: &str,
    said: ServiceAnnotations<'_>,
) -> Result<ExportOffer, String> {
    let namespace = &service.namespace;
    let open: BTreeSet<&ClusterName> =
        config.opted_in(namespace).flat_map(|o| &o.export_to).collect();
    let mut trouble = Vec::new();
    let mut to = BTreeSet::new();
    for name in split_list(asked) {
        match name.parse::<ClusterName>() {
            Ok(cluster) if open.contains(&cluster) => drop(to.insert(cluster)),
            Ok(cluster) => trouble.push(format!(
                "namespace {namespace} may not export to {cluster} by annotation (optIn.exportTo)"
            )),
            Err(error) => trouble.push(format!("{}: {error}", annotation::EXPORT)),
        }
    }
    if to.is_empty() {
        return Err(trouble.join("; "));
    }
    let mut allow = BTreeSet::new();
    for entry in said.annotation(annotation::ALLOW).into_iter().flat_map(split_list) {
        match parse_grant(entry) {
            Ok(grant) if to.contains(&grant.cluster) => drop(allow.insert(grant)),
            Ok(grant) => trouble.push(format!(
                "{}: {entry}: it is not exported to {}",
                annotation::ALLOW,
                grant.cluster
            )),
            Err(error) => trouble.push(format!("{}: {entry}: {error}", annotation::ALLOW)),
        }
    }
    let protocols =
        said.annotation(annotation::APP_PROTOCOL).map_or(Ok(AppProtocols::Own), |text| {
            parse_protocols(text).map_err(|error| format!("{}: {error}", annotation::APP_PROTOCOL))
        });
    let protocols = protocols.unwrap_or_else(|error| {
        trouble.push(error);
        AppProtocols::Own
    });
    let trouble = (!trouble.is_empty()).then(|| trouble.join("; "));
    let allow = allow.into_iter().collect();
    Ok(ExportOffer { strength: ExportOrigin::Implied, allow, protocols, rule: None, trouble })
}

fn split_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Parses `CLUSTER/NAMESPACE/SERVICEACCOUNT`.
fn parse_grant(text: &str) -> Result<Grant, String> {
    let mut parts = text.split('/');
    let (Some(cluster), Some(namespace), Some(account), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("write CLUSTER/NAMESPACE/SERVICEACCOUNT".into());
    };
    let workloads = WorkloadPattern {
        namespace: namespace.parse().map_err(error_text)?,
        service_account: account.parse().map_err(error_text)?,
    };
    Ok(Grant { cluster: cluster.parse().map_err(error_text)?, workloads })
}

/// Parses `PORT=VALUE,…`, or one value for all ports.
fn parse_protocols(text: &str) -> Result<AppProtocols, String> {
    if !text.contains('=') {
        return text.trim().parse().map(AppProtocols::All).map_err(error_text);
    }
    let mut ports = BTreeMap::new();
    for item in split_list(text) {
        let (port, value) = item.split_once('=').ok_or("write PORTNAME=VALUE")?;
        let port: PortName = port.trim().parse().map_err(error_text)?;
        ports.insert(port, value.trim().parse().map_err(error_text)?);
    }
    Ok(AppProtocols::Ports(ports))
}

fn error_text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl ExportOffer {
    fn from_rule(rule: &ExportRule, strength: ExportOrigin) -> Self {
        Self {
            strength,
            allow: rule.allow.clone(),
            protocols: rule.app_protocol.clone(),
            rule: Some(rule.clone()),
            trouble: None,
        }
    }

    fn resolve(
        &self,
        service: &ServiceName,
        world: &ClusterState,
        imported: bool,
    ) -> ResolvedExport {
        let object = world.services.get(service);
        let ports = offered_ports(service, object.map(|o| &**o), imported, &self.protocols);
        let ports = ports.and_then(|ports| {
            let wrong = limits::why_unannounceable(service, &ports, &self.allow);
            wrong.map_or(Ok(ports), Err)
        });
        let (ports, verdict) = match ports {
            Err(verdict) => (Vec::new(), verdict),
            Ok(ports) => {
                let note = match (&self.trouble, self.allow.is_empty()) {
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
        let rule = self.rule.as_ref();
        // An export without ports must not be announced either.
        let allow = if ports.is_empty() { Vec::new() } else { self.allow.clone() };
        let spec = ExportSpec {
            service: service_ref(service),
            ports,
            allow: allow.iter().map(api_grant).collect(),
            // Only the node of a pod knows who has an address, and a tenant may have written any
            // address.
            hop: (self.strength == ExportOrigin::Implied
                || rule.is_some_and(|r| r.hop == Hop::SameNode))
            .then(|| "sameNode".into()),
            class: rule.filter(|r| r.class == Class::Bulk).map(|_| "bulk".into()),
            replay: rule.is_some_and(|r| r.replay),
            any_endpoint: self.strength == ExportOrigin::Named,
            probe_ms: rule
                .and_then(|r| r.probe)
                .map(|p| u64::try_from(p.as_millis()).unwrap_or(u64::MAX)),
        };
        ResolvedExport { spec, verdict }
    }
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

fn api_grant(grant: &Grant) -> api::Grant {
    api::Grant { cluster: grant.cluster.to_string(), workloads: api_workloads(&grant.workloads) }
}

/// Returns the workloads as our objects write them.
pub(super) fn api_workloads(pattern: &WorkloadPattern) -> api::Workloads {
    api::Workloads {
        namespace: pattern.namespace.to_string(),
        service_account: pattern.service_account.to_string(),
    }
}

pub(super) mod limits;
#[cfg(test)]
mod tests;
