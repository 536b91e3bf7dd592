//! The state of a cluster as its API server shows it: for `adit status` with a context.
//!
//! Each item has its first problem, in words; items with a problem come first. An item that is not
//! ready because of another item's problem is counted there, so that each problem is told once.

mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use adit_config::cluster::{ClusterConfig, ServiceSelection};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest as Request;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::ListParams;
use serde::Serialize;
use tokio::time::sleep;

use super::context::{ConfigDocument, Context, ContextError};
use crate::api::{
    CONTROLLER, Condition, Export, Import, Link, NODE, ObjectStatus, SIGNER, SLICE_MANAGED_BY,
    SLICE_SERVICE, TROUBLE,
};
use crate::certificate_answer::CertificateAnswer;

/// Age at which a certificate request without an answer becomes a problem, from its creation.
const UNANSWERED_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);
/// From one look at a lease to the next, within which its holder must have renewed it.
const RENEWAL_CHECK_DELAY: Duration = Duration::from_secs(6);
/// Number of nodes without a certificate that are told one by one.
const MAX_NODES_SHOWN: usize = 10;

/// State of one cluster.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The context by which it was asked.
    pub context: String,
    /// Its name; `None` if it has none yet, or its configuration is wrong.
    pub cluster: Option<String>,
    /// The pods of its controller.
    pub controller: PodCounts,
    /// The pods of its nodes.
    pub nodes: PodCounts,
    /// Errors of its configuration, each with key, line and column.
    pub errors: Vec<String>,
    /// Warnings of its configuration.
    pub warnings: Vec<String>,
    /// Problems of the controller, and of the nodes' certificates.
    pub troubles: Vec<String>,
    /// Its links.
    pub links: Vec<StatusItem>,
    /// Its exports.
    pub exports: Vec<StatusItem>,
    /// Its imports.
    pub imports: Vec<StatusItem>,
}

/// Number of pods that there should be, and of those that are ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PodCounts {
    /// True if the Deployment or DaemonSet exists.
    pub installed: bool,
    /// Ready pods.
    pub ready: i32,
    /// All pods that there should be.
    pub total: i32,
}

/// A link, export or import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusItem {
    /// Its name: a cluster, or `NAMESPACE/NAME`.
    pub name: String,
    /// A detail in a few words: to whom, from where, at which address.
    pub detail: String,
    /// Its first problem, and what else nodes report of it.
    pub problem: Option<String>,
    /// The cause that it waits for, if that is its only problem: the cause is told there.
    pub waits_for: Option<String>,
    /// The cluster that an import is from.
    #[serde(skip)]
    from: Option<String>,
    /// True if its problem is that a link is down.
    #[serde(skip)]
    is_down: bool,
    /// Conditions about problems that only nodes know, for when the nodes' own reports cannot be
    /// read.
    #[serde(skip)]
    fallback: Option<String>,
    /// Refused callers, if something else is wrong as well: how many, and since when.
    #[serde(skip)]
    refused: Option<(u64, String)>,
}

impl StatusItem {
    /// Returns the order: items with a problem come first, then those that wait for another.
    fn sort_rank(&self) -> u8 {
        match (&self.problem, &self.waits_for) {
            (Some(_), _) => 0,
            (None, Some(_)) => 1,
            (None, None) => 2,
        }
    }

    /// Returns an item with this problem, or without one.
    #[must_use]
    pub fn new(name: String, detail: String, problem: Option<String>) -> Self {
        Self {
            name,
            detail,
            problem,
            waits_for: None,
            from: None,
            is_down: false,
            fallback: None,
            refused: None,
        }
    }
}

impl ClusterStatus {
    /// Returns whether nothing is wrong.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        let items = self.links.iter().chain(&self.exports).chain(&self.imports);
        self.problems().is_empty() && items.into_iter().all(|item| item.problem.is_none())
    }

    /// Returns the problems of the cluster as a whole.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.errors.clone();
        for (what, pods) in [("controller", self.controller), ("node", self.nodes)] {
            let PodCounts { installed, ready, total } = pods;
            if !installed {
                problems.push(format!("adit-{what} is not installed"));
            } else if total == 0 {
                problems.push(format!("adit-{what} has no pods"));
            } else if ready < total {
                problems.push(format!("{ready} of {total} {what} pods are ready"));
            }
        }
        problems.extend(self.troubles.iter().cloned());
        problems
    }
}

/// Reads the state of a cluster.
///
/// # Errors
/// If it cannot be asked.
pub async fn query(context: &Context) -> Result<ClusterStatus, ContextError> {
    let document = context.document().await?;
    let all = ListParams::default();
    let ours = all.clone().fields(&format!("spec.signerName={SIGNER}"));
    let slices = all.clone().labels(&format!("{}={}", SLICE_MANAGED_BY.0, SLICE_MANAGED_BY.1));
    let deployment = context.system_api::<Deployment>().get_opt(CONTROLLER).await;
    let daemon_set = context.system_api::<DaemonSet>().get_opt(NODE).await;
    let deployment =
        deployment.map_err(context.request_error("read Deployment adit-controller"))?;
    let mut unread = Vec::new();
    let lease = unless_forbidden(read_lease(context).await, &mut unread)?;
    let requests = context.list(&ours, "CertificateSigningRequests").await;
    let requests = unless_forbidden(requests, &mut unread)?.unwrap_or_default();
    let seen = ClusterObjects {
        at: Timestamp::now(),
        controller: pods_of_deployment(deployment.as_ref()),
        lease,
        requests,
        unread,
        nodes: pods_of_daemon_set(
            daemon_set.map_err(context.request_error("read DaemonSet adit-node"))?.as_ref(),
        ),
        links: context.list(&all, "Links").await?,
        exports: context.list(&all, "Exports").await?,
        imports: context.list(&all, "Imports").await?,
        slices: context.list(&slices, "EndpointSlices").await?,
    };
    Ok(summarize(&context.name, &document, &seen))
}

/// Returns `None` and notes the error if reading is forbidden: not everybody may read everything.
fn unless_forbidden<T>(
    read: Result<T, ContextError>,
    unread: &mut Vec<String>,
) -> Result<Option<T>, ContextError> {
    match read {
        Err(error) if error.is_forbidden() => {
            unread.push(error.to_string());
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// Reads the controller's lease, and whether its holder is silent. Our clock may differ from the
/// cluster's, so a lease that looks too old is read a second time.
async fn read_lease(context: &Context) -> Result<(Option<Lease>, bool), ContextError> {
    let read = async || {
        let lease = context.system_api::<Lease>().get_opt(CONTROLLER).await;
        lease.map_err(context.request_error("read Lease adit-controller"))
    };
    let before = read().await?;
    if holder(before.as_ref()).is_none() || is_fresh(before.as_ref(), Timestamp::now()) {
        return Ok((before, false));
    }
    sleep(RENEWAL_CHECK_DELAY).await;
    let now = read().await?;
    let silent = now == before;
    Ok((now, silent))
}

/// Returns the pod that holds a lease.
fn holder(lease: Option<&Lease>) -> Option<&str> {
    let identity = lease?.spec.as_ref()?.holder_identity.as_deref()?;
    let pod = identity.rsplit_once('_').map_or(identity, |(pod, _)| pod);
    (!pod.is_empty()).then_some(pod)
}

/// Returns whether a lease was renewed within its own length.
fn is_fresh(lease: Option<&Lease>, now: Timestamp) -> bool {
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref());
    let length = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
    let length = SignedDuration::from_secs(length.into());
    renewed.is_some_and(|renewed| now.duration_since(renewed.0).abs() <= length)
}

/// The objects that were read.
#[derive(Debug, Default)]
struct ClusterObjects {
    at: Timestamp,
    controller: PodCounts,
    /// The controller's lease, and whether its holder fails to renew it; `None` if it may not be
    /// read.
    lease: Option<(Option<Lease>, bool)>,
    requests: Vec<Request>,
    /// The kinds that may not be read.
    unread: Vec<String>,
    nodes: PodCounts,
    links: Vec<Link>,
    exports: Vec<Export>,
    imports: Vec<Import>,
    slices: Vec<EndpointSlice>,
}

fn pods_of_deployment(deployment: Option<&Deployment>) -> PodCounts {
    let Some(deployment) = deployment else { return PodCounts::default() };
    let ready = deployment.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    let total = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    PodCounts { installed: true, ready, total }
}

fn pods_of_daemon_set(set: Option<&DaemonSet>) -> PodCounts {
    let Some(set) = set else { return PodCounts::default() };
    let numbers = set.status.as_ref().map(|s| (s.number_ready, s.desired_number_scheduled));
    let (ready, total) = numbers.unwrap_or_default();
    PodCounts { installed: true, ready, total }
}

fn summarize(context: &str, document: &ConfigDocument, seen: &ClusterObjects) -> ClusterStatus {
    let (config, report) = match document.parse() {
        Ok((config, report)) => (Some(config), report),
        Err(report) => (None, report),
    };
    let said = |(fragment, problem): (&adit_config::ConfigReport, &adit_config::ConfigProblem)| {
        format!("{}: {problem}", fragment.location(problem))
    };
    let mut errors: Vec<_> = report.errors().map(said).collect();
    if report.unnamed {
        errors.push(adit_config::ClusterReport::UNNAMED.to_owned());
    }
    let mut troubles: Vec<_> = controller_problem(seen, &errors).into_iter().collect();
    troubles.extend(certificate_problems(seen));
    let mut status = ClusterStatus {
        context: context.to_owned(),
        cluster: config.as_ref().map(|config| config.cluster.to_string()),
        controller: seen.controller,
        nodes: seen.nodes,
        errors,
        warnings: report.warnings().map(said).chain(seen.unread.iter().cloned()).collect(),
        troubles,
        links: link_items(config.as_ref(), seen),
        exports: export_items(config.as_ref(), seen),
        imports: import_items(config.as_ref(), seen),
    };
    let lease = seen.lease.as_ref().and_then(|(lease, _)| lease.as_ref());
    nodes::add_items(&mut status, &nodes::read_summary(lease));
    nodes::group_waiting(&mut status);
    for all in [&mut status.links, &mut status.exports, &mut status.imports] {
        for item in all.iter_mut() {
            let fallback = item.fallback.take().filter(|_| item.waits_for.is_none());
            item.problem = item.problem.take().or(fallback);
        }
        all.sort_by(|a, b| (a.sort_rank(), &a.name).cmp(&(b.sort_rank(), &b.name)));
    }
    status
}

/// Returns the problem of the controller, unless it is among `errors` already.
fn controller_problem(seen: &ClusterObjects, errors: &[String]) -> Option<String> {
    if !seen.controller.installed {
        return None;
    }
    let (lease, silent) = seen.lease.as_ref()?;
    let lease = lease.as_ref();
    let Some(pod) = holder(lease) else {
        return Some(format!("no controller is active (nobody holds Lease {CONTROLLER})"));
    };
    if *silent {
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref());
        let since = renewed.map(|time| format!(" since {}", time.0)).unwrap_or_default();
        return Some(format!(
            "no controller is active ({pod} has not renewed Lease {CONTROLLER}{since})"
        ));
    }
    let trouble = lease?.annotations().get(TROUBLE)?;
    let said = errors.iter().any(|error| trouble.starts_with(error.as_str()));
    (!said).then(|| format!("the controller says: {trouble}"))
}

/// Returns the nodes that wait for a certificate, or were denied one: by the last request of each.
fn certificate_problems(seen: &ClusterObjects) -> Vec<String> {
    let node = |request: &Request| {
        let extra = request.spec.extra.as_ref();
        let node = extra.and_then(|e| e.get("authentication.kubernetes.io/node-name")?.first());
        node.map_or_else(|| format!("of request {}", request.name_any()), Clone::clone)
    };
    let age = |request: &Request| (request.creation_timestamp(), request.name_any());
    let mut last: BTreeMap<String, &Request> = BTreeMap::new();
    for request in &seen.requests {
        let known = last.entry(node(request)).or_insert(request);
        if age(known) < age(request) {
            *known = request;
        }
    }
    let mut troubles: Vec<_> = last
        .iter()
        .filter_map(|(node, request)| certificate_problem(node, request, seen.at))
        .collect();
    let more = troubles.len().saturating_sub(MAX_NODES_SHOWN);
    if more > 0 {
        troubles.truncate(MAX_NODES_SHOWN);
        troubles.push(format!("{more} nodes more wait for a certificate, or were refused one"));
    }
    troubles
}

fn certificate_problem(node: &str, request: &Request, now: Timestamp) -> Option<String> {
    let name = request.name_any();
    match CertificateAnswer::of(request) {
        CertificateAnswer::Issued(_) => None,
        CertificateAnswer::Refused(why) => {
            Some(format!("node {node} was refused a certificate: {why} ({name})"))
        }
        CertificateAnswer::Pending => {
            let since = request.creation_timestamp()?.0;
            (now.duration_since(since) >= UNANSWERED_TIMEOUT)
                .then(|| format!("node {node} waits for a certificate since {since} ({name})"))
        }
    }
}

/// Returns what a condition says that should be true and is not.
fn unless_true(conditions: &[Condition], kind: &str) -> Option<String> {
    match conditions.iter().find(|condition| condition.type_ == kind) {
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(format!("{} ({})", condition.message, condition.reason)),
        None => Some("the controller has said nothing of it yet".to_owned()),
    }
}

/// Returns what a condition says that is false; `None` if there is no such condition.
fn message_if_false(conditions: &[Condition], kind: &str) -> Option<String> {
    let condition = conditions.iter().find(|c| c.type_ == kind && c.status == "False")?;
    Some(format!("{} ({})", condition.message, condition.reason))
}

/// Returns what a condition says that exists only while something is wrong.
fn message_if_true(conditions: &[Condition], kind: &str) -> Option<String> {
    let condition = conditions.iter().find(|c| c.type_ == kind && c.status == "True")?;
    Some(format!("{} ({})", condition.message, condition.reason))
}

/// Returns whether an import is not ready because its link is down.
fn waits_for_link(conditions: &[Condition]) -> bool {
    let condition = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "False");
    condition.is_some_and(|c| c.reason == "LinkDown")
}

/// Returns whether a link is down, for whatever reason.
fn is_down(conditions: &[Condition]) -> bool {
    let condition = conditions.iter().find(|c| c.type_ == "Up" && c.status == "False");
    condition.is_some_and(|c| c.reason != "NotReporting")
}

const NOT_TAKEN_UP: &str = "declared, and not taken up by the controller yet";

fn link_items(config: Option<&ClusterConfig>, seen: &ClusterObjects) -> Vec<StatusItem> {
    let mut items: BTreeMap<String, StatusItem> = BTreeMap::new();
    for link in &seen.links {
        let conditions = ObjectStatus::conditions(link.status.as_ref());
        let name = link.name_any();
        let problem =
            unless_true(conditions, "Up").or_else(|| message_if_true(conditions, "TooManyImports"));
        // A cluster may export what nobody here wants: that is no problem.
        let unused = message_if_true(conditions, "NotImported").map(|said| format!("; {said}"));
        let detail = link.spec.trust_domain.clone() + &unused.unwrap_or_default();
        let is_down = is_down(conditions);
        // Silent nodes are a problem of the cluster as a whole.
        let fallback =
            message_if_true(conditions, "NodesDown").filter(|s| !s.ends_with("(NodesSilent)"));
        items.insert(
            name.clone(),
            StatusItem { is_down, fallback, ..StatusItem::new(name, detail, problem) },
        );
    }
    for link in config.into_iter().flat_map(|config| &config.links) {
        let name = link.cluster.to_string();
        items.entry(name.clone()).or_insert_with(|| {
            let detail = link.trust_domain.to_string();
            StatusItem::new(name, detail, Some(NOT_TAKEN_UP.to_owned()))
        });
    }
    items.into_values().collect()
}

fn export_items(config: Option<&ClusterConfig>, seen: &ClusterObjects) -> Vec<StatusItem> {
    let mut items: BTreeMap<String, StatusItem> = BTreeMap::new();
    for export in &seen.exports {
        let name = format!("{}/{}", export.spec.service.namespace, export.spec.service.name);
        let clusters: BTreeSet<_> = export.spec.allow.iter().map(|g| g.cluster.as_str()).collect();
        let clusters: Vec<_> = clusters.into_iter().collect();
        let detail = if clusters.is_empty() {
            "to nobody".into()
        } else {
            format!("to {}", clusters.join(", "))
        };
        let conditions = ObjectStatus::conditions(export.status.as_ref());
        let differ = conditions.iter().find(|c| c.type_ == "Ready" && c.reason == "NodesDiffer");
        let detail = differ.map_or_else(|| detail.clone(), |c| format!("{detail}; {}", c.message));
        let problem = unless_true(conditions, "Valid")
            .or_else(|| message_if_false(conditions, "Linked"))
            .or_else(|| message_if_false(conditions, "Ready"));
        let fallback = message_if_true(conditions, "Refusing");
        items.insert(
            name.clone(),
            StatusItem { fallback, ..StatusItem::new(name, detail, problem) },
        );
    }
    for rule in config.into_iter().flat_map(|config| &config.exports) {
        let ServiceSelection::Named(service) = &rule.services else { continue };
        let name = service.to_string();
        items
            .entry(name.clone())
            .or_insert_with(|| StatusItem::new(name, String::new(), Some(NOT_TAKEN_UP.to_owned())));
    }
    items.into_values().collect()
}

fn import_items(config: Option<&ClusterConfig>, seen: &ClusterObjects) -> Vec<StatusItem> {
    let mut items: BTreeMap<String, StatusItem> = BTreeMap::new();
    for import in seen.imports.iter().filter(|import| import.spec.released_at.is_none()) {
        let (namespace, name) = (&import.spec.service.namespace, &import.spec.service.name);
        let of_it = |slice: &&EndpointSlice| {
            slice.namespace().as_ref() == Some(namespace)
                && slice.labels().get(SLICE_SERVICE) == Some(name)
        };
        let slices: Vec<_> = seen.slices.iter().filter(of_it).collect();
        let ready = |slice: &&EndpointSlice| {
            let conditions = slice.endpoints.iter().filter_map(|e| e.conditions.as_ref());
            conditions.into_iter().any(|c| c.ready == Some(true))
        };
        let conditions = ObjectStatus::conditions(import.status.as_ref());
        let problem = unless_true(conditions, "Ready").or_else(|| {
            if slices.is_empty() {
                Some(format!(
                    "ready, and its Service {namespace}/{name} has no EndpointSlice of ours"
                ))
            } else if !slices.iter().any(ready) {
                Some("ready, and its EndpointSlice says it is not".to_owned())
            } else {
                message_if_true(conditions, "Conflict")
            }
        });
        let addresses: BTreeSet<_> =
            slices.iter().flat_map(|s| &s.endpoints).flat_map(|e| &e.addresses).cloned().collect();
        let addresses: Vec<_> = addresses.into_iter().collect();
        let at = if addresses.is_empty() { "no slice".to_owned() } else { addresses.join(", ") };
        let name = format!("{namespace}/{name}");
        let detail = format!("from {} at {at}", import.spec.from);
        let is_down = waits_for_link(conditions);
        let fallback = message_if_true(conditions, "Refusing")
            .or_else(|| message_if_true(conditions, "NotServed"));
        let from = Some(import.spec.from.clone());
        let item = StatusItem {
            is_down,
            fallback,
            from,
            ..StatusItem::new(name.clone(), detail, problem)
        };
        items.insert(name, item);
    }
    for rule in config.into_iter().flat_map(|config| &config.imports) {
        let name = rule.service.to_string();
        items.entry(name.clone()).or_insert_with(|| {
            StatusItem::new(name, format!("from {}", rule.from), Some(NOT_TAKEN_UP.to_owned()))
        });
    }
    items.into_values().collect()
}

#[cfg(test)]
mod tests;
