//! Exports by annotation: what an owner of a Service asks for, reduced to what his namespace may.

use std::collections::{BTreeMap, BTreeSet};

use adit_config::cluster::{AliasPorts, AppProtocols, ClusterConfig, ExportAlias};
use adit_core::name::{ClusterName, PortName, ServiceName};
use adit_core::policy::{Grant, WorkloadPattern};

use super::offer::{ExportOffer, ExportOrigin};
use crate::api::{annotation, truncated};
use crate::controller::cluster_state::ServiceAnnotations;

/// The most entries of an annotation that are read: more than any export may have grants.
const MAX_ENTRIES: usize = 1024;
/// Faults of an annotation that are named; the rest is counted.
const NAMED_FAULTS: usize = 5;

/// The faults of annotations. A tenant may write 256 KiB of them.
#[derive(Debug, Default)]
struct Troubles {
    named: Vec<String>,
    more: usize,
}

impl Troubles {
    fn add(&mut self, describe: impl FnOnce() -> String) {
        if self.named.len() < NAMED_FAULTS {
            self.named.push(truncated(&describe()).into_owned());
        } else {
            self.more += 1;
        }
    }

    fn text(self) -> Option<String> {
        let named = self.named.join("; ");
        match (named.is_empty(), self.more) {
            (true, _) => None,
            (false, 0) => Some(named),
            (false, more) => Some(format!("{named}; and {more} more")),
        }
    }
}

/// Reads what annotations ask for, and reduces it to what the namespace may do.
pub(crate) fn annotated_offer(
    config: &ClusterConfig,
    service: &ServiceName,
    asked: &str,
    annotations: ServiceAnnotations<'_>,
) -> Result<ExportOffer, String> {
    let namespace = &service.namespace;
    let open: BTreeSet<&ClusterName> =
        config.opted_in(namespace).flat_map(|o| &o.export_to).collect();
    let mut trouble = Troubles::default();
    let mut to = BTreeSet::new();
    for name in split_list(asked) {
        match name.parse::<ClusterName>() {
            Ok(cluster) if open.contains(&cluster) => drop(to.insert(cluster)),
            Ok(cluster) => trouble.add(|| format!(
                "namespace {namespace} may not export to {cluster} by annotation (optIn.exportTo)"
            )),
            Err(error) => trouble.add(|| format!("{}: {error}", annotation::EXPORT)),
        }
    }
    if to.is_empty() {
        return Err(trouble.text().unwrap_or_default());
    }
    let alias =
        annotations.annotation(annotation::EXPORT_AS).map(|text| parse_alias(text, service));
    let alias = alias.transpose()?.filter(|alias| *alias != own_name(service));
    let mut allow = BTreeSet::new();
    for entry in annotations.annotation(annotation::ALLOW).into_iter().flat_map(split_list) {
        match parse_grant(entry) {
            Ok(grant) if to.contains(&grant.cluster) => drop(allow.insert(grant)),
            Ok(grant) => trouble.add(|| {
                format!("{}: {entry}: it is not exported to {}", annotation::ALLOW, grant.cluster)
            }),
            Err(error) => trouble.add(|| format!("{}: {entry}: {error}", annotation::ALLOW)),
        }
    }
    let protocols =
        annotations.annotation(annotation::APP_PROTOCOL).map_or(Ok(AppProtocols::Own), |text| {
            parse_protocols(text).map_err(|error| format!("{}: {error}", annotation::APP_PROTOCOL))
        });
    let protocols = protocols.unwrap_or_else(|error| {
        trouble.add(|| error);
        AppProtocols::Own
    });
    let trouble = trouble.text();
    let allow = allow.into_iter().collect();
    Ok(ExportOffer {
        origin: ExportOrigin::Implied,
        backend: service.clone(),
        alias,
        make_alias: false,
        allow,
        protocols,
        rule: None,
        trouble,
    })
}

/// Parses the name under which a Service asks to be exported. A name of another namespace is not its
/// owner's to give.
fn parse_alias(text: &str, service: &ServiceName) -> Result<ExportAlias, String> {
    let alias = ExportAlias::parse_in(text.trim(), &service.namespace)
        .map_err(|error| format!("{}: {error}", annotation::EXPORT_AS))?;
    if alias.service.namespace != service.namespace {
        return Err(format!(
            "{}: {} is in another namespace: an annotation gives names in its own only, and `adit export {service} --as \
             {}` any",
            annotation::EXPORT_AS,
            alias.service,
            alias.service
        ));
    }
    Ok(alias)
}

/// Returns the alias that says nothing.
fn own_name(service: &ServiceName) -> ExportAlias {
    ExportAlias { service: service.clone(), ports: AliasPorts::Own }
}

/// The entries of a list; those beyond [`MAX_ENTRIES`] are not read.
fn split_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).take(MAX_ENTRIES)
}

/// Parses `CLUSTER/NAMESPACE/SERVICEACCOUNT`.
fn parse_grant(text: &str) -> Result<Grant, String> {
    if text.split('/').count() != 3 {
        return Err("write CLUSTER/NAMESPACE/SERVICEACCOUNT".into());
    }
    let (cluster, workloads) = text.split_once('/').unwrap_or_default();
    let workloads: WorkloadPattern = workloads.parse().map_err(error_text)?;
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

/// Returns an error as text.
pub(crate) fn error_text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
