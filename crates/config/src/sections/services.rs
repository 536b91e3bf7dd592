//! `imports`, `exports` and `workloads`: what is used here, what others may use, and by whom.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_core::announce;
use adit_core::name::{ClusterName, PortName, ServiceName};
use adit_core::policy::{Grant, Pattern, WorkloadPattern};
use adit_core::snapshot::{
    Backend, Class, Export, ExportPort, HoldLimits, Hop, Import, ImportPort,
};
use adit_core::spiffe::Workload;
use adit_core::wire::state::message::{MAX_GRANTS, MAX_PORTS};
use adit_core::wire::state::{self as wire, MAX_EXPORTS};

use super::cross_refs::{CrossRefs, UniqueNames};
use super::when_empty::when_empty;
use super::{each, entries};
use crate::problem::{ProblemKind, ValueProblem};
use crate::reader::{MapReader, ValueReader};
use crate::value;

const PROBE_INTERVAL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);

pub(super) fn imports(item: Option<ValueReader<'_>>, refs: &mut CrossRefs) -> Option<Vec<Import>> {
    each(entries(item.as_ref())?, |item| import(&item, refs))
}

fn import(item: &ValueReader<'_>, refs: &mut CrossRefs) -> Option<Import> {
    let mut fields = item.fields()?;
    let service = service(&mut fields).map(|(service, item)| {
        refs.imported.claim(Some((&item, &service)), "the import of");
        service
    });
    let from = exporting_cluster(&mut fields, refs);
    let ports = ports(&mut fields, |fields, name, number| {
        let listen = fields.required("listen", "a local IP:PORT, or a list of them")?;
        let items = listen.one_or_more()?;
        if items.is_empty() {
            listen
                .error(ValueProblem::new(ProblemKind::MissingKey, "expected at least one address"));
        }
        let listen = each(items, |item| listener(&item, refs));
        Some(ImportPort { name: name?, number: number?, listen: listen? })
    });
    let allow = match fields.optional("allow") {
        None => service.as_ref().map(|service| {
            let namespace = Pattern::Exact(service.namespace.clone());
            vec![WorkloadPattern { namespace, service_account: Pattern::Any }]
        }),
        Some(item) => workload_patterns(&item),
    };
    fields.finish();
    Some(Import {
        service: service?,
        from: from?,
        ports: ports?,
        allow: allow?,
        displaced_by: None,
    })
}

/// The exporting cluster.
pub(super) fn exporting_cluster(
    fields: &mut MapReader<'_>,
    refs: &CrossRefs,
) -> Option<ClusterName> {
    let item = fields.required("from", "the cluster of a link")?;
    let from = item.value(value::name::<ClusterName>)?;
    refs.require_linked(&item, &from, "services of this cluster are reached without Adit");
    Some(from)
}

/// Local workloads that may use an import.
pub(super) fn workload_patterns(item: &ValueReader<'_>) -> Option<Vec<WorkloadPattern>> {
    let items = item.list()?;
    if items.is_empty() {
        warn_nobody_allowed(item);
    }
    each(items, |item| workloads_entry(&item))
}

/// An entry of a list of local workloads.
pub(super) fn workloads_entry(item: &ValueReader<'_>) -> Option<WorkloadPattern> {
    let mut fields = item.fields()?;
    let workloads = workload_pattern(&mut fields);
    fields.finish();
    workloads
}

/// An address that stands for a port of an import.
fn listener(item: &ValueReader<'_>, refs: &mut CrossRefs) -> Option<SocketAddr> {
    let address = item.value(value::address)?;
    let wrong = if address.ip().is_unspecified() {
        Some(format!("{address} is a wildcard: expected one address"))
    } else if address.port() == 0 {
        Some("port 0 is any free port: expected 1 to 65535".to_owned())
    } else {
        None
    };
    if let Some(message) = wrong {
        let hint = "the local address of a connection says which import is meant";
        item.error(ValueProblem::new(ProblemKind::Invalid, message).hint(hint.to_owned()));
        return None;
    }
    refs.sockets.bind_tcp(item, address);
    Some(address)
}

pub(super) fn exports(item: Option<ValueReader<'_>>, refs: &CrossRefs) -> Option<Vec<Export>> {
    let mut services = UniqueNames::default();
    let items = entries(item.as_ref())?;
    if let Some(item) = item.as_ref().filter(|_| items.len() > MAX_EXPORTS) {
        let message = format!("{} exports: a cluster has {MAX_EXPORTS} at most", items.len());
        item.error(ValueProblem::new(ProblemKind::OutOfRange, message));
    }
    each(items, |item| export(&item, refs, &mut services))
}

/// Refuses an export that is too large for one message to a peer, since that would end the link.
pub(super) fn check_announceable(item: &ValueReader<'_>, export: &Export) {
    let clusters: BTreeSet<_> = export.allow.iter().map(|grant| &grant.cluster).collect();
    for cluster in clusters.into_iter().filter(|cluster| !announce::export_fits(export, cluster)) {
        let message = format!(
            "too large to be told to cluster {cluster}: at most {MAX_PORTS} ports, {MAX_GRANTS} grants, {} KiB in all",
            wire::MAX_MESSAGE_LEN / 1024
        );
        let hint = "one grant with \"*\" stands for many".to_owned();
        item.error(ValueProblem::new(ProblemKind::OutOfRange, message).hint(hint));
    }
}

fn export(item: &ValueReader<'_>, refs: &CrossRefs, services: &mut UniqueNames) -> Option<Export> {
    let mut fields = item.fields()?;
    let service = service(&mut fields).map(|(service, item)| {
        claim_export(&item, &service, refs, services);
        service
    });
    let ports = ports(&mut fields, |fields, name, number| {
        let app_protocol = match fields.optional("appProtocol") {
            Some(item) => item.value(value::name).map(Some),
            None => Some(None),
        };
        let backends = fields.required("backends", "a list of IP:PORT")?;
        let backends = self::backends(&backends, refs);
        let app_protocol = app_protocol?;
        Some(ExportPort {
            name: name?,
            number: number?,
            app_protocol,
            backends: backends?,
            has_foreign: false,
        })
    });
    let terms = export_terms(item, &mut fields, refs);
    fields.finish();
    let ExportTerms { allow, hop, class, replay, probe, hold } = terms?;
    let (service, ports) = (service?, ports?);
    let export = Export { service, ports, allow, hop, class, replay, probe, hold };
    check_announceable(item, &export);
    Some(export)
}

/// A service that is exported: once, and not imported.
pub(super) fn claim_export(
    item: &ValueReader<'_>,
    service: &ServiceName,
    refs: &CrossRefs,
    services: &mut UniqueNames,
) {
    services.claim(Some((item, service)), "the export of");
    reject_imported(item, service, refs);
}

/// Refuses to export a service that is imported.
pub(super) fn reject_imported(item: &ValueReader<'_>, service: &ServiceName, refs: &CrossRefs) {
    if let Some(import) = refs.imported.origin(service) {
        let at = import.relative_to(item);
        let message = format!("{service} is imported {at}: it cannot be exported too");
        item.error(ValueProblem::new(ProblemKind::Conflict, message));
    }
}

/// The keys of an export beside its service: the same wherever exports are written.
pub(super) struct ExportTerms {
    pub(super) allow: Vec<Grant>,
    pub(super) hop: Hop,
    pub(super) class: Class,
    pub(super) replay: bool,
    pub(super) probe: Option<Duration>,
    pub(super) hold: Option<HoldLimits>,
}

/// The keys of [`ExportTerms`]; `export` is where they stand.
pub(super) fn export_terms(
    export: &ValueReader<'_>,
    fields: &mut MapReader<'_>,
    refs: &CrossRefs,
) -> Option<ExportTerms> {
    let allow = fields.optional("allow");
    let allow = entries(allow.as_ref()).and_then(|items| {
        if items.is_empty() {
            warn_nobody_allowed(allow.as_ref().unwrap_or(export));
        }
        each(items, |item| grant(&item, refs))
    });
    let hop = fields.choice("hop", &[("any", Hop::Any), ("sameNode", Hop::SameNode)]);
    let classes = Class::ALL.map(|class| (class.name(), class));
    let class = fields.choice("class", &classes);
    let replay = fields.optional("replay").map_or(Some(false), |item| item.boolean());
    let probe = match fields.optional("probe") {
        None => Some(None),
        Some(item) => item.fields().and_then(|mut fields| {
            let interval = fields.required("interval", "a duration, such as 5s");
            fields.finish();
            interval?.value(|text| value::duration(text, &PROBE_INTERVAL)).map(Some)
        }),
    };
    let hold = when_empty(fields, hop);
    Some(ExportTerms {
        allow: allow?,
        hop: hop?,
        class: class?,
        replay: replay?,
        probe: probe?,
        hold: hold?,
    })
}

fn backends(list: &ValueReader<'_>, refs: &CrossRefs) -> Option<Vec<Backend>> {
    let items = list.list()?;
    if items.is_empty() {
        let message = "no backends: every connection will be refused";
        list.warn(ValueProblem::new(ProblemKind::Doubtful, message));
    }
    let mut once = UniqueNames::default();
    each(items, |item| {
        if !item.is_map() {
            return backend(&item, None, refs, &mut once);
        }
        let mut fields = item.fields()?;
        let address = fields.required("address", "the backend's IP:PORT");
        let node = fields.optional("node");
        fields.finish();
        backend(&address?, node, refs, &mut once)
    })
}

fn backend(
    item: &ValueReader<'_>,
    node: Option<ValueReader<'_>>,
    refs: &CrossRefs,
    once: &mut UniqueNames,
) -> Option<Backend> {
    let address = item.value(|text| value::address(text).and_then(value::dialable));
    let node = match node {
        None => refs.own.node.clone(),
        Some(item) => {
            let node = item.value(value::name)?;
            refs.nodes.require(&item, &node, "node of this cluster named");
            Some(node)
        }
    };
    let address = address?;
    once.claim(Some((item, &address)), "backend");
    if node == refs.own.node || !address.ip().is_loopback() {
        refs.sockets.backend(item, address);
    }
    let link_local = match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if link_local {
        let message =
            format!("{address} is link-local, where clouds keep their metadata and credentials");
        item.warn(ValueProblem::new(ProblemKind::Doubtful, message));
    }
    Some(Backend { address, node: node?, explicit: true })
}

fn grant(item: &ValueReader<'_>, refs: &CrossRefs) -> Option<Grant> {
    let mut fields = item.fields()?;
    let cluster = fields.required("cluster", "the cluster of a link").and_then(|item| {
        let cluster = item.value(|text| {
            let hint = (text == "*").then(|| "write one grant for each cluster".to_owned());
            value::name::<ClusterName>(text).map_err(|finding| finding.hint(hint))
        })?;
        refs.require_linked(&item, &cluster, "workloads of this cluster need no grant");
        Some(cluster)
    });
    let workloads = workload_pattern(&mut fields);
    fields.finish();
    Some(Grant { cluster: cluster?, workloads: workloads? })
}

/// `namespace` and `serviceAccount`, each of which may be `*`.
fn workload_pattern(fields: &mut MapReader<'_>) -> Option<WorkloadPattern> {
    let namespace = fields.required("namespace", "a namespace, or \"*\" for any");
    let namespace = namespace.and_then(|item| item.value(value::name));
    let account = fields.required("serviceAccount", "a ServiceAccount, or \"*\" for any");
    let account = account.and_then(|item| item.value(value::name));
    Some(WorkloadPattern { namespace: namespace?, service_account: account? })
}

fn warn_nobody_allowed(item: &ValueReader<'_>) {
    let finding = ValueProblem::new(ProblemKind::Doubtful, "no allow: nobody may use it");
    item.warn(finding);
}

pub(super) fn service<'a>(fields: &mut MapReader<'a>) -> Option<(ServiceName, ValueReader<'a>)> {
    let item = fields.required("service", "NAMESPACE/NAME")?;
    Some((item.value(value::name)?, item))
}

/// `ports`, with what imports and exports have in common: `name` and `port`, each once.
fn ports<'a, T>(
    fields: &mut MapReader<'a>,
    mut read: impl FnMut(&mut MapReader<'a>, Option<PortName>, Option<u16>) -> Option<T>,
) -> Option<Vec<T>> {
    let list = fields.required("ports", "a list of {name, port, …}")?;
    let items = list.list()?;
    if items.is_empty() {
        list.error(ValueProblem::new(ProblemKind::MissingKey, "expected at least one port"));
    }
    let single = items.len() == 1;
    let (mut names, mut numbers) = (UniqueNames::default(), UniqueNames::default());
    each(items, |item| {
        let mut fields = item.fields()?;
        let name = if single {
            let unnamed = || "".parse::<PortName>().ok();
            fields.optional("name").map_or_else(unnamed, |item| item.value(value::name))
        } else {
            let item = fields.required("name", "a name, since there are several ports");
            item.and_then(|item| {
                let name = item.value(value::name)?;
                names.claim(Some((&item, &name)), "port");
                Some(name)
            })
        };
        let number = fields.required("port", "the Service's port number").and_then(|item| {
            let number = item.number(|text| value::number(text, &(1..=u16::MAX)))?;
            numbers.claim(Some((&item, &number)), "port");
            Some(number)
        });
        let port = read(&mut fields, name, number);
        fields.finish();
        port
    })
}

pub(super) fn workloads(item: Option<ValueReader<'_>>) -> Option<HashMap<IpAddr, Workload>> {
    let mut once = UniqueNames::default();
    let read = each(entries(item.as_ref())?, |item| {
        let mut fields = item.fields()?;
        let address = fields.required("address", "the workload's IP address").and_then(|item| {
            let address = item.value(value::ip)?.to_canonical();
            if address.is_unspecified() || address.is_multicast() {
                let message = format!("{address} is no workload's address");
                item.error(ValueProblem::new(ProblemKind::Invalid, message));
            }
            once.claim(Some((&item, &address)), "address");
            Some(address)
        });
        let namespace = fields.required("namespace", "the workload's namespace");
        let namespace = namespace.and_then(|item| item.value(value::name));
        let account = fields.required("serviceAccount", "the workload's ServiceAccount");
        let account = account.and_then(|item| item.value(value::name));
        fields.finish();
        Some((address?, Workload { namespace: namespace?, service_account: account? }))
    });
    read.map(|workloads| workloads.into_iter().collect())
}
