//! Problems of the controller, and of nodes' certificates.

use std::collections::BTreeMap;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest as Request;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::objects::ClusterObjects;
use crate::api::{CONTROLLER, TROUBLE};
use crate::certificate_answer::CertificateAnswer;

/// Age at which a certificate request without an answer becomes a problem, from its creation.
const UNANSWERED_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);
/// Number of nodes without a certificate that are told one by one.
const MAX_NODES_SHOWN: usize = 10;

/// Returns the pod that holds a lease.
pub(super) fn holder(lease: Option<&Lease>) -> Option<&str> {
    let identity = lease?.spec.as_ref()?.holder_identity.as_deref()?;
    let pod = identity.rsplit_once('_').map_or(identity, |(pod, _)| pod);
    (!pod.is_empty()).then_some(pod)
}

/// Returns the problem of the controller, unless it is among `errors` already.
pub(super) fn controller_problem(objects: &ClusterObjects, errors: &[String]) -> Option<String> {
    // A controller without pods is told with its mend.
    if !objects.controller.installed || objects.controller.total == 0 {
        return None;
    }
    let (lease, silent) = objects.lease.as_ref()?;
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
    let is_listed = errors.iter().any(|error| trouble.starts_with(error.as_str()));
    (!is_listed).then(|| format!("the controller says: {trouble}"))
}

/// Describes since when nobody updates what only the controller updates; `None` while one is active, or if that is
/// not known.
pub(super) fn staleness(objects: &ClusterObjects) -> Option<String> {
    if !objects.controller.installed {
        return None;
    }
    let (lease, silent) = objects.lease.as_ref()?;
    if holder(lease.as_ref()).is_some() && !silent {
        return None;
    }
    let renewed = lease.as_ref().and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref());
    Some(match renewed {
        Some(time) => format!("as of {}; no controller since", time.0),
        None => "no controller has been active yet".to_owned(),
    })
}

/// Returns the nodes that wait for a certificate, or were denied one: by the last request of each.
pub(super) fn certificate_problems(objects: &ClusterObjects) -> Vec<String> {
    let node = |request: &Request| {
        let extra = request.spec.extra.as_ref();
        let node = extra.and_then(|e| e.get("authentication.kubernetes.io/node-name")?.first());
        node.map_or_else(|| format!("of request {}", request.name_any()), Clone::clone)
    };
    let age = |request: &Request| (request.creation_timestamp(), request.name_any());
    let mut last: BTreeMap<String, &Request> = BTreeMap::new();
    for request in &objects.requests {
        let known = last.entry(node(request)).or_insert(request);
        if age(known) < age(request) {
            *known = request;
        }
    }
    let mut troubles: Vec<_> = last
        .iter()
        .filter_map(|(node, request)| certificate_problem(node, request, objects.at))
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
