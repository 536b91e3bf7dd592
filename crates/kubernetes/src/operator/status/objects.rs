//! The objects of a cluster that its status is made from.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest as Request;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;

use super::report::PodCounts;
use crate::api::{Export, Import, Link};

/// The objects that were read.
#[derive(Debug, Default)]
pub(in crate::operator) struct ClusterObjects {
    pub(super) at: Timestamp,
    pub(super) controller: PodCounts,
    /// The controller's lease, and whether its holder fails to renew it; `None` if it may not be
    /// read.
    pub(super) lease: Option<(Option<Lease>, bool)>,
    pub(super) requests: Vec<Request>,
    /// The kinds that may not be read.
    pub(super) unread: Vec<String>,
    pub(super) nodes: PodCounts,
    /// Rollouts under way, of the controller and of the nodes.
    pub(super) rolling: (Option<String>, Option<String>),
    /// Our pods.
    pub(in crate::operator) pods: Vec<Pod>,
    pub(in crate::operator) links: Vec<Link>,
    pub(in crate::operator) exports: Vec<Export>,
    /// Pods and selectors behind exports that no backend answers for, by the name of the object.
    pub(super) behind: BTreeMap<String, String>,
    pub(in crate::operator) imports: Vec<Import>,
    pub(super) slices: Vec<EndpointSlice>,
}

pub(super) fn pods_of_deployment(deployment: Option<&Deployment>) -> PodCounts {
    let Some(deployment) = deployment else { return PodCounts::default() };
    let ready = deployment.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    let total = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    PodCounts { installed: true, ready, total }
}

pub(super) fn pods_of_daemon_set(set: Option<&DaemonSet>) -> PodCounts {
    let Some(set) = set else { return PodCounts::default() };
    let numbers = set.status.as_ref().map(|s| (s.number_ready, s.desired_number_scheduled));
    let (ready, total) = numbers.unwrap_or_default();
    PodCounts { installed: true, ready, total }
}
