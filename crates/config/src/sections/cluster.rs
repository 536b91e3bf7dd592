//! The ConfigMap's document: its fragments as one, and each of its sections.
//!
//! Lists of all fragments are joined, and what is no list stands in one of them. A link, export or import
//! is read here as far as it differs from a node's file; what they share is in the files beside. What the
//! fields mean is documented at [`crate::cluster`].

mod alias;
mod imports;
mod network;

use std::collections::BTreeMap;

use adit_core::deny_list::DenyEntry;
use adit_core::name::{ClusterName, PortName};
use adit_core::policy::WorkloadPattern;
use adit_core::snapshot::Export;
use adit_core::spiffe::TrustDomain;

use self::alias::{AliasTerms, alias_terms};
use self::imports::{also_allow, import, import_callers, namespaces};
use self::network::network;
use super::cross_refs::{CrossRefs, UniqueNames};
use super::nodes::{self, LinkPeer};
use super::services::{self, ExportTerms};
use super::{denied, each, entries, process};
use crate::cluster::{
    AppProtocols, ClusterConfig, ClusterLink, ExportRule, ImportRule, NamePattern,
    NamespaceCallers, NetworkConfig, OptIn, ServiceSelection, default_trust_domain,
};
use crate::config::{LimitsConfig, LogConfig};
use crate::problem::{ProblemKind, ValueProblem};
use crate::reader::{MapReader, ValueReader};
use crate::value;

/// An API server shows a pod's address half a second after its process began, or much later where a hook is slow.
const UNKNOWN_SOURCE_HOLD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// The sections of a document that could be read, each by itself.
#[derive(Debug, Default)]
pub(crate) struct ClusterParts {
    /// True if the document surely does not say `cluster`.
    pub(crate) unnamed: bool,
    pub(crate) links: Option<Vec<ClusterLink>>,
    pub(crate) exports: Option<Vec<ExportRule>>,
    pub(crate) imports: Option<Vec<ImportRule>>,
    cluster: Option<ClusterName>,
    trust_domain: Option<TrustDomain>,
    import_callers: Option<Vec<NamespaceCallers>>,
    opt_in: Option<Vec<OptIn>>,
    denied: Option<Vec<DenyEntry>>,
    network: Option<NetworkConfig>,
    limits: Option<LimitsConfig>,
    log: Option<LogConfig>,
}

impl ClusterParts {
    /// The whole of it, where all was read.
    pub(crate) fn config(self) -> Option<ClusterConfig> {
        Some(ClusterConfig {
            cluster: self.cluster?,
            trust_domain: self.trust_domain?,
            links: self.links?,
            exports: self.exports?,
            imports: self.imports?,
            import_callers: self.import_callers?,
            opt_in: self.opt_in?,
            denied: self.denied?,
            network: self.network?,
            limits: self.limits?,
            log: self.log?,
        })
    }
}

/// The fragments of one document.
struct FragmentSet<'a>(Vec<MapReader<'a>>);

impl<'a> FragmentSet<'a> {
    /// A key that stands in one fragment at most.
    fn single(&mut self, key: &'static str) -> Option<ValueReader<'a>> {
        let items: Vec<_> = self.0.iter_mut().filter_map(|f| f.optional(key)).collect();
        let mut items = items.into_iter();
        let first = items.next()?;
        for second in items {
            let at = first.origin().relative_to(&second);
            let message = format!("{key} is already {at}");
            let hint = "what is no list stands in one fragment only; take one of them out";
            second.error(ValueProblem::new(ProblemKind::Conflict, message).hint(hint.to_owned()));
        }
        Some(first)
    }

    /// A map that stands in one fragment at most. Its keys are read in any case.
    fn section(&mut self, key: &'static str) -> Option<MapReader<'a>> {
        match self.single(key) {
            Some(item) => item.fields(),
            None => self.0.first_mut()?.section(key),
        }
    }

    /// The lists of all fragments.
    fn lists(&mut self, key: &'static str) -> Vec<ValueReader<'a>> {
        self.0.iter_mut().filter_map(|fields| fields.optional(key)).collect()
    }

    fn finish(self) {
        self.0.into_iter().for_each(MapReader::finish);
    }
}

/// Reads all fragments; `whole` says whether there is none that could not be read at all.
pub(crate) fn read(fragments: &[ValueReader<'_>], whole: bool) -> ClusterParts {
    let refs = &mut CrossRefs { links_may_follow: true, ..CrossRefs::default() };
    let maps: Vec<_> =
        fragments.iter().filter(|item| !item.is_empty()).map(ValueReader::fields).collect();
    let whole = whole && maps.iter().all(Option::is_some);
    if !whole {
        nodes::mark_unreadable_link(refs);
    }
    let mut document = FragmentSet(maps.into_iter().flatten().collect());
    let cluster = document.single("cluster");
    let trust_domain = document.single("trustDomain");
    let links = document.lists("links");
    let exports = document.lists("exports");
    let imports = document.lists("imports");
    let callers = document.lists("importCallers");
    let opt_in = document.lists("optIn");
    let denied = document.lists("denied");
    let network = document.section("network");
    let limits = document.section("limits");
    let log = document.section("log");
    document.finish();

    let unnamed = whole && cluster.is_none();
    refs.own.cluster = cluster.and_then(|item| item.value(value::name));
    refs.own.trust_domain = match trust_domain {
        Some(item) => item.value(value::trust_domain),
        None => refs.own.cluster.as_ref().and_then(|name| default_trust_domain(name).ok()),
    };
    let links = self::links(&links, refs);
    let imports = joined(&imports, |item| import(&item, refs));
    let mut services = UniqueNames::default();
    let exports = joined(&exports, |item| export(&item, refs, &mut services));
    let import_callers = joined(&callers, |item| import_callers(&item));
    let opt_in = joined(&opt_in, |item| self::opt_in(&item, refs));
    let defaults = LimitsConfig {
        unknown_source_hold: UNKNOWN_SOURCE_HOLD_TIMEOUT,
        ..LimitsConfig::default()
    };
    ClusterParts {
        unnamed,
        links,
        exports,
        imports,
        cluster: refs.own.cluster.clone(),
        trust_domain: refs.own.trust_domain.clone(),
        import_callers,
        opt_in,
        denied: denied::denied(&denied, refs),
        network: network.and_then(self::network),
        limits: limits.map(|fields| process::limits(fields, defaults)),
        log: log.and_then(process::log),
    }
}

/// Reads the entries of all lists, also after one that is wrong.
fn joined<'a, T>(
    lists: &[ValueReader<'a>],
    mut read: impl FnMut(ValueReader<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let each_list: Vec<_> = lists.iter().map(|list| each(list.list()?, &mut read)).collect();
    each_list
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .map(|lists| lists.into_iter().flatten().collect())
}

fn links(lists: &[ValueReader<'_>], refs: &mut CrossRefs) -> Option<Vec<ClusterLink>> {
    let mut domains = UniqueNames::default();
    let read = joined(lists, |item| {
        let mut fields = item.fields()?;
        let end = nodes::link_peer(&mut fields, refs, &mut domains);
        let bundle = fields.required("trustBundle", "the other cluster's CA certificates, PEM");
        let bundle = bundle.and_then(|item| item.value(trust_bundle));
        let import = fields.section("import").and_then(link_import);
        fields.finish();
        let LinkPeer { cluster, trust_domain, addresses } = end?;
        let LinkImports { namespaces: import, create_services, also_allow } = import?;
        let trust_bundle = bundle?;
        Some(ClusterLink {
            cluster,
            trust_domain,
            trust_bundle,
            addresses,
            import,
            create_services,
            also_allow,
        })
    });
    if read.is_none() {
        nodes::mark_unreadable_link(refs);
    }
    read
}

/// Certificates are looked at by whoever uses them; here they only have to be there.
fn trust_bundle(text: &str) -> Result<String, ValueProblem> {
    if text.trim().is_empty() {
        let message =
            "expected the other cluster's CA certificates (PEM or SPIFFE JSON), found nothing";
        return Err(ValueProblem::new(ProblemKind::Invalid, message));
    }
    Ok(text.to_owned())
}

/// The section `import` of a link.
struct LinkImports {
    namespaces: Vec<NamePattern>,
    create_services: bool,
    also_allow: Vec<WorkloadPattern>,
}

fn link_import(mut fields: MapReader<'_>) -> Option<LinkImports> {
    let namespaces = fields.optional("namespaces");
    let create = fields.optional("createServices");
    let allow = fields.optional("alsoAllow");
    fields.finish();
    let namespaces =
        entries(namespaces.as_ref()).and_then(|items| each(items, |item| item.value(value::name)));
    let create = create.map_or(Some(false), |item| item.boolean());
    let also_allow = allow.as_ref().map_or_else(|| Some(Vec::new()), also_allow);
    Some(LinkImports { namespaces: namespaces?, create_services: create?, also_allow: also_allow? })
}

fn export(item: &ValueReader<'_>, refs: &CrossRefs, taken: &mut UniqueNames) -> Option<ExportRule> {
    let mut fields = item.fields()?;
    let alias = alias_terms(&mut fields);
    let services = services(item, &mut fields, refs, (taken, alias.as_ref()));
    let app_protocol = match fields.optional("appProtocol") {
        None => Some(AppProtocols::Own),
        Some(item) => app_protocols(&item),
    };
    let terms = services::export_terms(item, &mut fields, refs);
    fields.finish();
    let ExportTerms { allow, hop, class, replay, probe, hold } = terms?;
    alias::reject_hold(item, hold, services.as_ref());
    let (services, app_protocol) = (services?, app_protocol?);
    let AliasTerms { alias, make_alias, .. } = alias?;
    let rule = ExportRule {
        services,
        alias,
        make_alias,
        allow,
        app_protocol,
        hop,
        class,
        replay,
        probe,
        hold,
    };
    if let Some(service) = rule.exported_name() {
        let (service, allow) = (service.clone(), rule.allow.clone());
        let ports = Vec::new();
        services::check_announceable(
            item,
            &Export { service, ports, allow, hop, class, replay, probe, hold },
        );
    }
    Some(rule)
}

/// `service` or `select`.
fn services(
    item: &ValueReader<'_>,
    fields: &mut MapReader<'_>,
    refs: &CrossRefs,
    (taken, alias): (&mut UniqueNames, Option<&AliasTerms<'_>>),
) -> Option<ServiceSelection> {
    let service = fields.optional("service");
    let select = fields.optional("select");
    let named = service.as_ref().map(|item| {
        let service = item.value(value::name)?;
        alias::claim(item, &service, refs, (taken, alias));
        Some(ServiceSelection::Named(service))
    });
    if let (Some(alias), Some(_)) = (alias, &select) {
        alias.reject_selection();
    }
    let selected = select.as_ref().map(self::select);
    match (named, selected) {
        (Some(named), None) => named,
        (None, Some(selected)) => selected,
        (Some(_), Some(_)) => {
            let finding = ValueProblem::new(
                ProblemKind::Conflict,
                "expected either service or select, found both",
            );
            select?.error(finding);
            None
        }
        (None, None) => {
            let message = "missing: expected service (NAMESPACE/NAME) or select";
            item.error(ValueProblem::new(ProblemKind::MissingKey, message));
            None
        }
    }
}

fn select(item: &ValueReader<'_>) -> Option<ServiceSelection> {
    let mut fields = item.fields()?;
    let namespaces = namespaces(&mut fields);
    let labels = fields.required("labels", "KEY: VALUE of at least one label").and_then(|item| {
        let labels = item.map()?;
        if labels.is_empty() {
            item.error(ValueProblem::new(ProblemKind::MissingKey, "expected at least one label"));
        }
        let read = |(key, item): (&str, ValueReader<'_>)| {
            let key = item.check(value::label_key(key));
            let value = item.value(value::label_value);
            Some((key?, value?))
        };
        let read: Vec<_> = labels.into_iter().map(read).collect();
        read.into_iter().collect::<Option<BTreeMap<_, _>>>()
    });
    fields.finish();
    Some(ServiceSelection::Selected { namespaces: namespaces?, labels: labels? })
}

fn app_protocols(item: &ValueReader<'_>) -> Option<AppProtocols> {
    if !item.is_map() {
        return item.value(value::name).map(AppProtocols::All);
    }
    let read = |(key, item): (&str, ValueReader<'_>)| {
        let port = item.check(value::name::<PortName>(key));
        let protocol = item.value(value::name);
        Some((port?, protocol?))
    };
    let read: Vec<_> = item.map()?.into_iter().map(read).collect();
    read.into_iter().collect::<Option<_>>().map(AppProtocols::Ports)
}

fn opt_in(item: &ValueReader<'_>, refs: &CrossRefs) -> Option<OptIn> {
    let mut fields = item.fields()?;
    let namespaces = namespaces(&mut fields);
    let export_to = fields.optional("exportTo");
    let import_from = fields.optional("importFrom");
    fields.finish();
    let export = clusters(export_to.as_ref(), refs);
    let import = clusters(import_from.as_ref(), refs);
    let (export_to, import_from) = (export?, import?);
    if export_to.is_empty() && import_from.is_empty() {
        let message = "neither exportTo nor importFrom: annotations there still count for nothing";
        item.warn(ValueProblem::new(ProblemKind::Doubtful, message));
    }
    Some(OptIn { namespaces: namespaces?, export_to, import_from })
}

/// Clusters that are linked, or will be.
fn clusters(item: Option<&ValueReader<'_>>, refs: &CrossRefs) -> Option<Vec<ClusterName>> {
    let items = item.map_or_else(|| Some(Vec::new()), ValueReader::one_or_more)?;
    each(items, |item| {
        let cluster = item.value(value::name::<ClusterName>)?;
        refs.require_linked(&item, &cluster, "name the other cluster");
        Some(cluster)
    })
}

#[cfg(test)]
mod tests;
