//! The bundle of a cluster: everything that another one has to know of it in order to be linked with it.
//!
//! It holds no secret. Carried by hand it is the very fragment that the other side's ConfigMap gets
//! ([`adit_config::cluster::render::link`]).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use adit_config::cluster::{ClusterLink, parse_fragment};
use adit_core::snapshot::{ClusterView, Seed};
use adit_pki::TrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::ListParams;
use tokio::time::{Instant, sleep};

use super::context::Context;
use super::link::{ClusterIdentity, LinkError, POLL_INTERVAL};
use crate::api::{NODE, TRUST_BUNDLE_KEY, TRUST_CONFIG_MAP};
use crate::interleave::interleave;

/// Returns what another cluster has to know of this one, as soon as its controller has created the
/// CA and its nodes run. Waits until `deadline`.
///
/// # Errors
/// If that does not happen in time.
pub async fn wait_for_bundle(
    context: &Context,
    named: &ClusterIdentity,
    deadline: Instant,
) -> Result<ClusterLink, LinkError> {
    let trust_bundle = wait_for_trust_bundle(context, named, deadline).await?;
    let addresses = loop {
        let port = context.document().await?.parse().map_or(7843, |(c, _)| c.network.port);
        let addresses = node_addresses(context, port).await?;
        if !addresses.is_empty() {
            break addresses;
        }
        if Instant::now() >= deadline {
            return Err(LinkError::TimedOut {
                context: context.name.clone(),
                what: "no pod of DaemonSet adit-node has been given a node, so there is nothing to dial".into(),
                hint: format!(
                    "kubectl --context {} -n adit-system describe daemonset adit-node",
                    context.name
                ),
            });
        }
        sleep(POLL_INTERVAL).await;
    };
    Ok(ClusterLink {
        cluster: named.name.clone(),
        trust_domain: named.trust_domain.clone(),
        trust_bundle,
        addresses,
        import: Vec::new(),
        create_services: false,
        also_allow: Vec::new(),
    })
}

async fn wait_for_trust_bundle(
    context: &Context,
    named: &ClusterIdentity,
    deadline: Instant,
) -> Result<String, LinkError> {
    loop {
        let map = context.system_api::<ConfigMap>().get_opt(TRUST_CONFIG_MAP).await;
        let map = map.map_err(context.request_error("read ConfigMap adit-system/adit-trust"))?;
        let text = map.and_then(|map| map.data?.remove(TRUST_BUNDLE_KEY));
        let trouble = match text.filter(|text| !text.trim().is_empty()) {
            None => {
                "its controller has published no trust bundle (ConfigMap adit-trust)".to_owned()
            }
            Some(text) => match TrustBundle::parse(named.trust_domain.clone(), text.as_bytes()) {
                Ok(_) => return Ok(text),
                Err(error) => format!("ConfigMap adit-trust holds no trust bundle: {error}"),
            },
        };
        if Instant::now() >= deadline {
            let hint = format!(
                "kubectl --context {} -n adit-system logs deployment/adit-controller",
                context.name
            );
            return Err(LinkError::TimedOut { context: context.name.clone(), what: trouble, hint });
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Returns addresses of the nodes that run our pods: the first of each, then the next.
async fn node_addresses(context: &Context, port: u16) -> Result<Vec<Seed>, LinkError> {
    let pods = context.system_api::<Pod>().list(&ListParams::default()).await;
    let pods = pods.map_err(context.request_error("list the pods in namespace adit-system"))?;
    Ok(seeds(&pods.items, port))
}

pub(super) fn seeds(pods: &[Pod], port: u16) -> Vec<Seed> {
    let of_node = |pod: &&Pod| {
        let owners = pod.metadata.owner_references.iter().flatten();
        owners.into_iter().any(|owner| owner.kind == "DaemonSet" && owner.name == NODE)
    };
    let mut nodes: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
    for pod in pods.iter().filter(of_node) {
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) else {
            continue;
        };
        let Some(status) = &pod.status else { continue };
        let several = status.host_ips.iter().flatten().map(|ip| ip.ip.as_str());
        let addresses: Vec<IpAddr> =
            several.chain(status.host_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
        nodes.insert(node, addresses);
    }
    let nodes: Vec<Vec<IpAddr>> = nodes.into_values().collect();
    let first = interleave(&nodes).take(ClusterView::MAX_ADDRESSES);
    first.map(|ip| Seed::Address(SocketAddr::new(ip, port))).collect()
}

/// Parses the bundle in a file that was carried here.
///
/// # Errors
/// If there is none, or an invalid one.
pub fn parse_bundle(text: &str) -> Result<ClusterLink, LinkError> {
    let fragment = parse_fragment("bundle.yaml", text)
        .map_err(|report| LinkError::InvalidBundle(report.to_string()))?;
    let [link] = <[ClusterLink; 1]>::try_from(fragment.links)
        .map_err(|links| LinkError::InvalidBundle(format!("it has {} links", links.len())))?;
    TrustBundle::parse(link.trust_domain.clone(), link.trust_bundle.as_bytes())
        .map_err(|error| LinkError::InvalidBundle(format!("its certificates are bad: {error}")))?;
    Ok(link)
}
