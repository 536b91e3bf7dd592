//! The state of a cluster as its API server shows it: for `adit status` with a context.
//!
//! Each item has its first problem, in words; items with a problem come first. An item that is not
//! ready because of another item's problem is counted there, so that each problem is told once.
//!
//! * `objects`: everything that is read. * `report`: the result.
//! * `items` judges links, exports and imports by their conditions, `controller` the controller and nodes' certificates;
//!   `nodes` adds what nodes report, `pods` which of our pods do not start,
//!   `backends` what stands behind exports that nobody answers for, `rollout` whether a new version is on its way.

mod backends;
mod controller;
mod items;
mod nodes;
mod objects;
mod pods;
mod report;
mod rollout;

use std::time::Duration;

use adit_config::cluster::ClusterConfig;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::ListParams;
use tokio::time::sleep;

use self::controller::{certificate_problems, controller_problem, holder, staleness};
use self::items::{export_items, import_items, link_items};
pub(super) use self::nodes::read_summary;
use self::objects::{ClusterObjects, pods_of_daemon_set, pods_of_deployment};
use self::pods::pod_problems;
pub use self::report::{ClusterStatus, PodCounts, StatusItem};
use self::rollout::{note_of_daemon_set, note_of_deployment};
use super::context::{ConfigDocument, Context, ContextError};
use super::pod_state::NAME_LABEL;
use crate::api::{CONTROLLER, NODE, SIGNER, SLICE_MANAGED_BY};

/// From one look at a lease to the next, within which its holder must have renewed it.
const RENEWAL_CHECK_DELAY: Duration = Duration::from_secs(6);

/// Reads the state of a cluster.
///
/// # Errors
/// If it cannot be asked.
pub async fn query(context: &Context) -> Result<ClusterStatus, ContextError> {
    let reading = Box::pin(ClusterReading::read(context)).await?;
    Ok(summarize(&context.name, reading.configuration, &reading.objects))
}

/// The ConfigMap and the objects of a cluster, as they were read.
#[derive(Debug)]
pub(super) struct ClusterReading {
    configuration: ReadConfiguration,
    pub(super) objects: ClusterObjects,
    pub(super) daemon_set: Option<DaemonSet>,
}

impl ClusterReading {
    /// Reads the ConfigMap and Adit's own objects.
    pub(super) async fn read(context: &Context) -> Result<Self, ContextError> {
        let document = context.document().await?;
        let all = ListParams::default();
        let own_requests = all.clone().fields(&format!("spec.signerName={SIGNER}"));
        let slices = all.clone().labels(&format!("{}={}", SLICE_MANAGED_BY.0, SLICE_MANAGED_BY.1));
        let deployment = context.system_api::<Deployment>().get_opt(CONTROLLER).await;
        let daemon_set = context.system_api::<DaemonSet>().get_opt(NODE).await;
        let deployment =
            deployment.map_err(context.request_error("read Deployment adit-controller"))?;
        let daemon_set = daemon_set.map_err(context.request_error("read DaemonSet adit-node"))?;
        let mut unread = Vec::new();
        let lease = unless_forbidden(read_lease(context).await, &mut unread)?;
        let requests = context.list(&own_requests, "CertificateSigningRequests").await;
        let requests = unless_forbidden(requests, &mut unread)?.unwrap_or_default();
        let of_ours = format!("{NAME_LABEL} in ({CONTROLLER},{NODE})");
        let pods = context.system_api::<Pod>().list(&all.clone().labels(&of_ours)).await;
        let pods = pods.map_err(context.request_error("list the pods in namespace adit-system"));
        let pods = unless_forbidden(pods, &mut unread)?.map(|pods| pods.items).unwrap_or_default();
        let exports = context.list(&all, "Exports").await?;
        let objects = ClusterObjects {
            behind: backends::read_behind(context, &exports).await,
            at: Timestamp::now(),
            pods,
            controller: pods_of_deployment(deployment.as_ref()),
            lease,
            requests,
            unread,
            nodes: pods_of_daemon_set(daemon_set.as_ref()),
            rolling: (
                note_of_deployment(deployment.as_ref()),
                note_of_daemon_set(daemon_set.as_ref()),
            ),
            links: context.list(&all, "Links").await?,
            exports,
            imports: context.list(&all, "Imports").await?,
            slices: context.list(&slices, "EndpointSlices").await?,
        };
        Ok(Self { configuration: read_configuration(&document), objects, daemon_set })
    }

    /// The name of the cluster, if its configuration says one.
    pub(super) fn cluster(&self) -> Option<String> {
        self.configuration.cluster()
    }

    /// Errors of the ConfigMap, each with its place.
    pub(super) fn configuration_errors(&self) -> &[String] {
        &self.configuration.errors
    }

    /// Returns why the controller does not do its work.
    pub(super) fn controller_problem(&self) -> Option<String> {
        let PodCounts { installed, ready, total } = self.objects.controller;
        match (installed, ready) {
            (false, _) => Some(format!("Deployment {CONTROLLER} is not installed")),
            (true, 0) => Some(format!("{ready} of {total} controller pods are ready")),
            (true, _) => controller_problem(&self.objects, &self.configuration.errors),
        }
    }

    /// Returns the nodes that wait for a certificate, or were denied one.
    pub(super) fn certificate_problems(&self) -> Vec<String> {
        certificate_problems(&self.objects)
    }
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

/// Returns whether a lease was renewed within its own length.
fn is_fresh(lease: Option<&Lease>, now: Timestamp) -> bool {
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref());
    let length = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
    let length = SignedDuration::from_secs(length.into());
    renewed.is_some_and(|renewed| now.duration_since(renewed.0).abs() <= length)
}

/// The configuration that a ConfigMap holds, if it is good, and what is said of it.
#[derive(Debug)]
struct ReadConfiguration {
    config: Option<ClusterConfig>,
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl ReadConfiguration {
    fn cluster(&self) -> Option<String> {
        self.config.as_ref().map(|config| config.cluster.to_string())
    }
}

fn read_configuration(document: &ConfigDocument) -> ReadConfiguration {
    let (config, report) = match document.parse() {
        Ok((config, report)) => (Some(config), report),
        Err(report) => (None, report),
    };
    let text = |(fragment, problem): (&adit_config::ConfigReport, &adit_config::ConfigProblem)| {
        format!("{}: {problem}", fragment.location(problem))
    };
    let mut errors: Vec<_> = report.errors().map(text).collect();
    if report.unnamed {
        errors.push(adit_config::ClusterReport::UNNAMED.to_owned());
    }
    ReadConfiguration { config, errors, warnings: report.warnings().map(text).collect() }
}

fn summarize(
    context: &str,
    configuration: ReadConfiguration,
    objects: &ClusterObjects,
) -> ClusterStatus {
    let cluster = configuration.cluster();
    let ReadConfiguration { config, errors, warnings } = configuration;
    let mut troubles: Vec<_> = controller_problem(objects, &errors).into_iter().collect();
    troubles.extend(certificate_problems(objects));
    troubles.extend(pod_problems(
        &objects.pods,
        (objects.rolling.0.is_some(), objects.rolling.1.is_some()),
    ));
    let mut status = ClusterStatus {
        context: context.to_owned(),
        cluster,
        controller: objects.controller,
        nodes: objects.nodes,
        errors,
        warnings: warnings
            .into_iter()
            .chain(
                objects.unread.iter().chain(&objects.rolling.0).chain(&objects.rolling.1).cloned(),
            )
            .collect(),
        troubles,
        stale: staleness(objects),
        links: link_items(config.as_ref(), objects),
        exports: export_items(config.as_ref(), objects),
        imports: import_items(config.as_ref(), objects),
    };
    let lease = objects.lease.as_ref().and_then(|(lease, _)| lease.as_ref());
    nodes::add_items(&mut status, &read_summary(lease));
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

#[cfg(test)]
mod tests;
