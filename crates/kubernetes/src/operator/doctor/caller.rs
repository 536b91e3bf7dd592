//! The caller: a pod or ServiceAccount that somebody names, or one that may use the import.

use adit_core::doctor::facts::{CallerFacts, PodFacts};
use adit_core::doctor::may_use;
use adit_core::name::ServiceName;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::ListParams;

use super::if_readable;
use super::service::pod_facts;
use crate::operator::context::{Context, ContextError};

fn account(pod: &PodFacts) -> String {
    let namespace = pod.name.split_once('/').map_or("", |(namespace, _)| namespace);
    format!("{namespace}/{}", pod.service_account)
}

fn of_pod(asked: &str, pod: PodFacts) -> CallerFacts {
    let account = Some(account(&pod));
    CallerFacts { asked: asked.to_owned(), account, pod: Some(pod), ..CallerFacts::default() }
}

/// The pod or ServiceAccount `NAMESPACE/NAME`, or `NAME` in the Service's namespace.
pub(super) async fn named(
    context: &Context,
    asked: &str,
    service: &ServiceName,
) -> Result<CallerFacts, ContextError> {
    let (namespace, name) = asked.split_once('/').unwrap_or((service.namespace.as_str(), asked));
    let pod = context.namespaced_api::<Pod>(namespace).get_opt(name).await;
    let pod = if_readable(pod.map_err(context.request_error(&format!("read pod {asked}"))))?;
    if let Some(pod) = pod.flatten() {
        return Ok(of_pod(asked, pod_facts(&pod)));
    }
    let running = pods_as(context, namespace, Some(name)).await?;
    if let Some(pod) = running.into_iter().next() {
        return Ok(of_pod(asked, pod));
    }
    let exists = context.namespaced_api::<ServiceAccount>(namespace).get_opt(name).await;
    let exists = exists.map_err(context.request_error(&format!("read ServiceAccount {asked}")));
    let exists = if_readable(exists)?.is_none_or(|found| found.is_some());
    let missing = (!exists).then(|| {
        format!(
            "there is no pod and no ServiceAccount {namespace}/{name} in context {}",
            context.name
        )
    });
    let account = Some(format!("{namespace}/{name}"));
    Ok(CallerFacts { asked: asked.to_owned(), missing, account, ..CallerFacts::default() })
}

/// Pods that run in a namespace, as `account` if one is named: ready ones first, and those with a network of their own.
async fn pods_as(
    context: &Context,
    namespace: &str,
    account: Option<&str>,
) -> Result<Vec<PodFacts>, ContextError> {
    let mut wanted = ListParams::default();
    if let Some(account) = account {
        wanted = wanted.fields(&format!("spec.serviceAccountName={account}"));
    }
    let pods = context.namespaced_api::<Pod>(namespace).list(&wanted).await;
    let pods = if_readable(pods.map_err(context.request_error("list pods")))?;
    let living = pods.into_iter().flat_map(|list| list.items);
    let living = living.filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let mut found: Vec<_> = living.map(|pod| pod_facts(&pod)).collect();
    found.retain(|pod| pod.ip.is_some() && account.is_none_or(|a| pod.service_account == a));
    found.sort_by_key(|pod| (pod.host_network, !pod.ready, pod.name.clone()));
    Ok(found)
}

/// A pod that the import and the export are for, or else one of the import alone, or else any of the Service's
/// namespace; without any an account that is named.
pub(super) async fn chosen(
    context: &Context,
    service: &ServiceName,
    allow: &[String],
    granted: &[String],
) -> Result<CallerFacts, ContextError> {
    let mut namespaces = vec![service.namespace.to_string()];
    let named = allow.iter().chain(granted).filter_map(|pattern| pattern.split_once('/'));
    for (namespace, _) in named.filter(|(namespace, _)| *namespace != "*") {
        if !namespaces.iter().any(|known| known == namespace) {
            namespaces.push(namespace.to_owned());
        }
    }
    let mut pods = Vec::new();
    for namespace in namespaces.iter().take(5) {
        pods.extend(pods_as(context, namespace, None).await?);
    }
    let fits = |pod: &PodFacts, patterns: &[String]| may_use(patterns, &account(pod));
    let rank = |pod: &&PodFacts| (fits(pod, allow) && fits(pod, granted), fits(pod, allow));
    pods.retain(|pod| !pod.host_network);
    // Of equals the first, which `max_by_key` would not give.
    let best =
        pods.iter().rev().max_by_key(rank).filter(|pod| fits(pod, allow) || allow.is_empty());
    if let Some(pod) = best {
        return Ok(of_pod("", pod.clone()));
    }
    let exact = |pattern: &&String| !pattern.contains('*');
    let account = granted.iter().chain(allow).find(exact).cloned();
    let missing = account.is_none().then(|| {
        format!("no pod runs in context {} that the import of {service} is for", context.name)
    });
    Ok(CallerFacts { account, missing, ..CallerFacts::default() })
}
