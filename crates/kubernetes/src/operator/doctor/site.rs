//! A cluster that was asked, and Adit in it.

use std::collections::BTreeMap;
use std::time::Duration;

use adit_core::doctor::facts::{
    CallerFacts, CallerNode, CardFacts, ConditionFacts, ExportObject, ExportSide, ImportObject,
    ImportSide, InstallationFacts, PortFacts,
};
use adit_core::name::ServiceName;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::ListParams;

use super::{caller, early, exec, if_readable, policies, service};
use crate::api::{Export, Import, NAMESPACE, NODE, ObjectStatus, Workloads, definitions};
use crate::operator::card;
use crate::operator::context::{Context, ContextError};
use crate::operator::pod_state::{NAME_LABEL, is_pod_ready};
use crate::operator::status::ClusterReading;

/// A cluster that was asked.
#[derive(Debug)]
pub struct ClusterSite {
    pub(super) context: Context,
    installation: InstallationFacts,
    /// Absent if Adit is not there.
    reading: Option<ClusterReading>,
    /// Ready pods of the DaemonSet by node, which are asked by exec.
    node_pods: BTreeMap<String, String>,
    /// Addresses of its nodes.
    pub(super) node_addresses: Vec<String>,
}

impl ClusterSite {
    /// Reads what does not depend on a Service.
    ///
    /// # Errors
    /// If the cluster cannot be asked.
    pub async fn read(context: Context) -> Result<Self, ContextError> {
        let mut installation =
            InstallationFacts { context: context.name.clone(), ..InstallationFacts::default() };
        installation.missing = missing(&context).await?;
        let mut site = Self {
            context,
            installation,
            reading: None,
            node_pods: BTreeMap::new(),
            node_addresses: Vec::new(),
        };
        if !site.installation.missing.is_empty() {
            return Ok(site);
        }
        let reading = Box::pin(ClusterReading::read(&site.context)).await?;
        site.installation.cluster = reading.cluster();
        site.installation.configuration = reading.configuration_errors().to_vec();
        site.installation.controller = reading.controller_problem();
        site.installation.certificates = reading.certificate_problems();
        site.read_node_pods(&reading);
        let nodes = site.context.list::<Node>(&ListParams::default(), "nodes").await;
        let nodes = if_readable(nodes)?.unwrap_or_default();
        let addresses = nodes.iter().flat_map(|node| node.status.iter()).flat_map(|s| &s.addresses);
        let internal = addresses.flatten().filter(|address| address.type_ == "InternalIP");
        site.node_addresses = internal.map(|address| address.address.clone()).collect();
        let set = reading.daemon_set.as_ref();
        site.installation.node_pods_away = set.and_then(|set| kept_away(set, &nodes));
        site.reading = Some(reading);
        Ok(site)
    }

    fn read_node_pods(&mut self, reading: &ClusterReading) {
        let is_of_node = |pod: &&Pod| pod.labels().get(NAME_LABEL).is_some_and(|name| name == NODE);
        for pod in reading.objects.pods.iter().filter(is_of_node) {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            let Some(node) = node.filter(|_| pod.metadata.deletion_timestamp.is_none()) else {
                continue;
            };
            let is_ready = is_pod_ready(pod);
            *self.installation.node_pods.entry(node.clone()).or_default() |= is_ready;
            if is_ready || !self.node_pods.contains_key(&node) {
                self.node_pods.insert(node, pod.name_any());
            }
        }
    }

    /// The name of the cluster, if its configuration says one.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        self.installation.cluster.as_deref()
    }

    /// The Services that are imported here.
    #[must_use]
    pub fn imports(&self) -> Vec<ServiceName> {
        self.current_imports().filter_map(|import| import.spec.service.parse().ok()).collect()
    }

    /// True if the Service is imported here.
    #[must_use]
    pub fn does_import(&self, service: &ServiceName) -> bool {
        self.imports().contains(service)
    }

    /// The importing side of a Service.
    ///
    /// # Errors
    /// If the cluster cannot be asked.
    pub async fn import_side(
        &self,
        service: &ServiceName,
        from: Option<&str>,
    ) -> Result<ImportSide, ContextError> {
        let import = self.import(service);
        let from = import.as_ref().map(|import| import.from.as_str()).or(from);
        let link = from.and_then(|from| self.link(from));
        let installation = self.installation.clone();
        if !installation.missing.is_empty() {
            return Ok(ImportSide { installation, ..ImportSide::default() });
        }
        let namespaces = self.context.cluster_api::<Namespace>();
        let namespace = namespaces.get_opt(service.namespace.as_str()).await;
        let namespace = namespace.map_err(self.context.request_error("read the namespace"));
        // Whoever may not read it is not told that it is missing.
        let has_namespace = if_readable(namespace)?.is_none_or(|found| found.is_some());
        Ok(ImportSide {
            installation,
            has_namespace,
            service: Box::pin(service::facts(&self.context, service)).await?,
            slices: service::slices(&self.context, service).await?,
            import,
            link,
        })
    }

    /// The exporting side of a Service, as far as it concerns cluster `to`.
    ///
    /// # Errors
    /// If the cluster cannot be asked.
    pub async fn export_side(
        &self,
        service: &ServiceName,
        to: &str,
    ) -> Result<ExportSide, ContextError> {
        let installation = self.installation.clone();
        if !installation.missing.is_empty() {
            return Ok(ExportSide { installation, ..ExportSide::default() });
        }
        let behind = self.behind(service);
        let found = Box::pin(service::facts(&self.context, &behind)).await?;
        let ingress_policies = match &found {
            Some(found) => Box::pin(policies::against_nodes(self, &behind, found)).await?,
            None => Vec::new(),
        };
        Ok(ExportSide {
            installation,
            backend: (behind != *service).then(|| behind.to_string()),
            service: found,
            slices: service::slices(&self.context, &behind).await?,
            export: self.export(service),
            link: self.link(to),
            ingress_policies,
            clock: None,
            imports_from: self.current_imports().map(|import| import.spec.from.clone()).collect(),
        })
    }

    /// The caller that was asked for, or one that may use the import.
    ///
    /// # Errors
    /// If the cluster cannot be asked.
    pub async fn caller(
        &self,
        asked: Option<&str>,
        service: &ServiceName,
        here: &ImportSide,
        granted: &[String],
    ) -> Result<CallerFacts, ContextError> {
        let allow = here.import.as_ref().map(|import| &*import.allow).unwrap_or_default();
        let mut caller = match asked {
            Some(asked) => Box::pin(caller::named(&self.context, asked, service)).await?,
            None => Box::pin(caller::chosen(&self.context, service, allow, granted)).await?,
        };
        caller.kept_in_by =
            Box::pin(policies::keeping_in(&self.context, &caller, &here.slices)).await?;
        caller.early = Box::pin(early::early_agent(&self.context, service)).await?;
        Ok(caller)
    }

    /// Asks the daemon of the caller's node, or any if the caller has none.
    pub async fn ask_node(
        &self,
        caller: &CallerFacts,
        service: &str,
        port: Option<&str>,
    ) -> CallerNode {
        let of_caller = caller.pod.as_ref().map(|pod| &*pod.node).filter(|node| !node.is_empty());
        let any = || self.node_pods.keys().next().map(String::as_str);
        let Some(node) = of_caller.or_else(any) else { return CallerNode::NotAsked };
        let Some(pod) = self.node_pods.get(node) else {
            // Whoever may not list pods does not know.
            return if self.installation.node_pods.is_empty() && self.node_addresses.is_empty() {
                CallerNode::NotAsked
            } else {
                CallerNode::NoDaemon { node: node.to_owned() }
            };
        };
        let address = caller.pod.as_ref().and_then(|pod| pod.ip.as_deref());
        match address.or(caller.account.as_deref()) {
            Some(from) => exec::ask(&self.context, pod, service, port, Some(from)).await,
            None => exec::ask(&self.context, pod, service, port, None).await,
        }
    }

    /// The clusters that it is linked with.
    #[must_use]
    pub fn links(&self) -> Vec<String> {
        let links = self.reading.iter().flat_map(|reading| &reading.objects.links);
        links.map(ResourceExt::name_any).collect()
    }

    /// Its side of the link with a cluster.
    #[must_use]
    pub fn link_side(&self, to: &str) -> ImportSide {
        ImportSide {
            installation: self.installation.clone(),
            link: self.link(to),
            ..ImportSide::default()
        }
    }

    /// The same as the other end of a link.
    #[must_use]
    pub fn other_end(&self, to: &str) -> ExportSide {
        ExportSide {
            installation: self.installation.clone(),
            link: self.link(to),
            ..ExportSide::default()
        }
    }

    /// Asks the daemon of one of its nodes about the link with a cluster.
    pub async fn ask_link(&self, to: &str) -> CallerNode {
        match self.node_pods.values().next() {
            Some(pod) => exec::ask_link(&self.context, pod, to).await,
            None => CallerNode::NotAsked,
        }
    }

    /// The clock of one of its nodes and ours at the same time, in seconds since 1970, and its version.
    pub async fn clock(&self, service: &str) -> Option<(u64, u64, String)> {
        let pod = self.node_pods.values().next()?;
        match exec::ask(&self.context, pod, service, None, None).await {
            CallerNode::Answered(node) => Some((node.clock, node.asker_clock, node.version)),
            CallerNode::NotAsked | CallerNode::NoDaemon { .. } | CallerNode::Unreachable { .. } => {
                None
            }
        }
    }

    /// The Service that an export leads to: the one of its name, unless it is exported under that name.
    fn behind(&self, service: &ServiceName) -> ServiceName {
        let backend = self.export_of(service).and_then(|export| export.spec.backend().parse().ok());
        backend.unwrap_or_else(|| service.clone())
    }

    /// The agent's card, by way of the API server of its own cluster, within ten seconds or less.
    pub async fn card(
        &self,
        service: &ServiceName,
        port: Option<&str>,
        within: Duration,
    ) -> CardFacts {
        let within = within.min(card::CARD_TIMEOUT);
        let card = card::fetch(&self.context, &self.behind(service), port, within).await;
        let ports = || self.export_of(service).into_iter().flat_map(|export| &export.spec.ports);
        CardFacts {
            ports: ports().map(|port| port.number).collect(),
            app_protocols: ports().filter_map(|port| port.app_protocol.clone()).collect(),
            ..card
        }
    }

    /// Its exports.
    pub(in crate::operator) fn exports(&self) -> impl Iterator<Item = &Export> {
        self.reading.iter().flat_map(|reading| &reading.objects.exports)
    }

    /// The name of its context.
    pub(in crate::operator) fn context_name(&self) -> &str {
        &self.context.name
    }

    /// The imports that were not released.
    pub(in crate::operator) fn current_imports(&self) -> impl Iterator<Item = &Import> {
        let imports = self.reading.iter().flat_map(|reading| &reading.objects.imports);
        imports.filter(|import| import.spec.released_at.is_none())
    }

    fn export_of(&self, service: &ServiceName) -> Option<&Export> {
        self.exports().find(|export| export.spec.service.parse().as_ref() == Ok(service))
    }

    fn import(&self, service: &ServiceName) -> Option<ImportObject> {
        let is_it = |import: &&Import| import.spec.service.parse().as_ref() == Ok(service);
        let import = self.current_imports().find(is_it)?;
        let status = import.status.as_ref();
        let port = |port: &crate::api::ImportPort| PortFacts {
            name: port.name.clone(),
            number: port.number,
            target: port.listen.to_string(),
        };
        Some(ImportObject {
            from: import.spec.from.clone(),
            allow: import.spec.allow.iter().map(pattern).collect(),
            ports: import.spec.ports.iter().map(port).collect(),
            ready: condition(status, "Ready"),
        })
    }

    fn export(&self, service: &ServiceName) -> Option<ExportObject> {
        let export = self.export_of(service)?;
        let status = export.status.as_ref();
        let port = |port: &crate::api::ExportPort| PortFacts {
            name: port.name.clone(),
            number: port.number,
            target: String::new(),
        };
        let allow = export.spec.allow.iter();
        Some(ExportObject {
            allow: allow.map(|g| (g.cluster.clone(), pattern(&g.workloads))).collect(),
            ports: export.spec.ports.iter().map(port).collect(),
            valid: condition(status, "Valid"),
            ready: condition(status, "Ready"),
        })
    }

    fn link(&self, to: &str) -> Option<ConditionFacts> {
        let mut links = self.reading.iter().flat_map(|reading| &reading.objects.links);
        let link = links.find(|link| link.name_any() == to)?;
        let status = link.status.as_ref();
        Some(condition(status, "Up").unwrap_or_else(|| ConditionFacts {
            is_true: false,
            reason: "NotReporting".to_owned(),
            message: "the controller has said nothing of it yet".to_owned(),
        }))
    }
}

fn pattern(workloads: &Workloads) -> String {
    format!("{}/{}", workloads.namespace, workloads.service_account)
}

fn condition(status: Option<&ObjectStatus>, kind: &str) -> Option<ConditionFacts> {
    let condition = ObjectStatus::condition(status, kind)?;
    Some(ConditionFacts {
        is_true: condition.status == "True",
        reason: condition.reason.clone(),
        message: condition.message.clone(),
    })
}

/// The parts of an installation that are not there.
async fn missing(context: &Context) -> Result<Vec<String>, ContextError> {
    let mut missing = Vec::new();
    let namespace = context.cluster_api::<Namespace>().get_opt(NAMESPACE).await;
    let namespace = namespace.map_err(context.request_error("read namespace adit-system"));
    if if_readable(namespace)?.is_some_and(|found| found.is_none()) {
        missing.push(format!("namespace {NAMESPACE}"));
    }
    for definition in definitions() {
        let name = definition.name_any();
        let found = context.cluster_api::<CustomResourceDefinition>().get_opt(&name).await;
        let found = found.map_err(context.request_error("read CustomResourceDefinitions"));
        if if_readable(found)?.is_some_and(|found| found.is_none()) {
            missing.push(format!("CustomResourceDefinition {name}"));
        }
    }
    if missing.is_empty() {
        let set = context.system_api::<DaemonSet>().get_opt(NODE).await;
        if set.map_err(context.request_error("read DaemonSet adit-node"))?.is_none() {
            missing.push(format!("DaemonSet {NODE}"));
        }
    }
    Ok(missing)
}

/// Returns why the DaemonSet has no pod on some node: its own selector.
fn kept_away(set: &DaemonSet, nodes: &[Node]) -> Option<String> {
    let spec = set.spec.as_ref()?.template.spec.as_ref()?;
    let wanted = spec.node_selector.as_ref()?;
    let unmet = wanted
        .iter()
        .find(|(key, value)| nodes.iter().any(|node| node.labels().get(*key) != Some(*value)));
    unmet.map(|(key, value)| format!("its nodeSelector {key}={value} does not fit every node"))
}
