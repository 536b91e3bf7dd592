//! `adit link`: each cluster learns the other's name, trust bundle and first addresses, and nothing
//! else.
//!
//! Everything exchanged is public: no key, and no access to the other's API server. A bundle that
//! is carried by hand is the very fragment that the other side's ConfigMap gets
//! ([`adit_config::cluster::render::link`]).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_config::cluster::{
    ClusterConfig, ClusterLink, NamePattern, default_trust_domain, parse_fragment, render,
};
use adit_core::name::ClusterName;
use adit_core::policy::WorkloadPattern;
use adit_core::snapshot::{ClusterView, Seed};
use adit_core::spiffe::TrustDomain;
use adit_pki::TrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::ListParams;
use tokio::time::{Instant, sleep};

use super::context::{ConfigDocument, Context, ContextError};
use super::edit::{ConfigChanges, EditError, EditOutcome, edit};
use crate::api::{Link, NODE, TRUST_BUNDLE_KEY, TRUST_CONFIG_MAP};
use crate::interleave::interleave;

/// The key that names a cluster.
pub const CLUSTER_KEY: &str = "cluster.yaml";
/// From one look at something awaited to the next.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The reason why clusters were not linked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A ConfigMap could not be changed.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// Both clusters have the same name.
    #[error("both clusters would be called {0}")]
    SameName(ClusterName),
    /// Both clusters have the same trust domain.
    #[error(
        "both clusters have trust domain {0}: either could speak for the other\n  hint: write another trustDomain \
         into one side's ConfigMap before its CA is made"
    )]
    SameTrustDomain(TrustDomain),
    /// The cluster has another name already.
    #[error("context {context}: this cluster is called {name} already")]
    NameConflict {
        /// The context.
        context: String,
        /// Its name.
        name: ClusterName,
    },
    /// No cluster name can be derived from the context's name.
    #[error("no cluster name can be made of context {0:?}")]
    NoUsableName(String),
    /// Something did not happen in time.
    #[error("context {context}: {what}\n  hint: {hint}")]
    TimedOut {
        /// The context.
        context: String,
        /// The missing thing.
        what: String,
        /// The command that shows more.
        hint: String,
    },
    /// A file is not a valid bundle.
    #[error("this is no bundle of a cluster: {0}")]
    InvalidBundle(String),
}

impl From<ContextError> for LinkError {
    fn from(error: ContextError) -> Self {
        Self::Edit(error.into())
    }
}

/// Options for automatic imports from the other cluster; `None` keeps what is configured, which is
/// nothing for a new link.
#[derive(Debug, Clone, Default)]
pub struct LinkImportOptions {
    /// The namespaces that are open to it.
    pub namespaces: Option<Vec<NamePattern>>,
    /// True if Services are created.
    pub create_services: Option<bool>,
    /// The workloads here that may use whatever is imported from it.
    pub also_allow: Option<Vec<WorkloadPattern>>,
}

/// Returns the key of a link.
#[must_use]
pub fn link_key(other: &ClusterName) -> String {
    format!("link-{other}.yaml")
}

/// Derives a cluster's name from its context's: `kind-edge` is `edge`.
#[must_use]
pub fn name_of_context(context: &str) -> Option<ClusterName> {
    let last = context.rsplit(['/', '@', ':']).find(|part| !part.is_empty())?;
    let lower = last.strip_prefix("kind-").unwrap_or(last).to_lowercase();
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let label: String = lower.chars().map(plain).collect();
    let label = label.trim_matches('-');
    let label = label.get(..63).unwrap_or(label).trim_matches('-');
    label.parse().ok()
}

/// Identity of a cluster that may have no CA yet.
#[derive(Debug, Clone)]
pub struct ClusterIdentity {
    /// Its name.
    pub name: ClusterName,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// The changes to be written if it has no name yet.
    pub changes: ConfigChanges,
}

/// Returns the name that a cluster has, or is to get: `wish`, or one derived from its context.
///
/// # Errors
/// If its configuration is wrong, or no name can be derived.
pub fn identify(
    context: &str,
    document: &ConfigDocument,
    wish: Option<&ClusterName>,
) -> Result<ClusterIdentity, LinkError> {
    match document.parse() {
        Ok((config, _)) => match wish {
            Some(wish) if *wish != config.cluster => {
                Err(LinkError::NameConflict { context: context.to_owned(), name: config.cluster })
            }
            _ => Ok(ClusterIdentity {
                name: config.cluster,
                trust_domain: config.trust_domain,
                changes: ConfigChanges::new(),
            }),
        },
        Err(report) if report.unnamed && report.errors().next().is_none() => {
            let unnameable = || LinkError::NoUsableName(context.to_owned());
            let name = wish.cloned().or_else(|| name_of_context(context)).ok_or_else(unnameable)?;
            let trust_domain = default_trust_domain(&name).map_err(|_| unnameable())?;
            let text = render::cluster(&name, &trust_domain);
            let changes = ConfigChanges::from([(CLUSTER_KEY.to_owned(), Some(text))]);
            Ok(ClusterIdentity { name, trust_domain, changes })
        }
        Err(report) => Err(EditError::Configuration {
            context: context.to_owned(),
            what: "the configuration is wrong already; mend it first:",
            report: report.into(),
        }
        .into()),
    }
}

/// Checks that two clusters have different names and trust domains.
///
/// # Errors
/// If they do not.
pub fn check_distinct(a: &ClusterIdentity, b: &ClusterIdentity) -> Result<(), LinkError> {
    if a.name == b.name {
        return Err(LinkError::SameName(a.name.clone()));
    }
    if a.trust_domain == b.trust_domain {
        return Err(LinkError::SameTrustDomain(a.trust_domain.clone()));
    }
    Ok(())
}

/// Writes a cluster's name, if it has none.
///
/// # Errors
/// If it cannot be written.
pub async fn write_name(
    context: &Context,
    named: &ClusterIdentity,
) -> Result<EditOutcome, LinkError> {
    Ok(edit(context, false, |_| Ok(named.changes.clone())).await?)
}

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

fn seeds(pods: &[Pod], port: u16) -> Vec<Seed> {
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

/// Returns the changes that link a cluster with another. Options for imports that the link has
/// already are kept unless `wish` sets them.
///
/// # Errors
/// If another key holds a different link with that cluster.
pub fn link_changes(
    context: &str,
    document: &ConfigDocument,
    other: &ClusterLink,
    wish: &LinkImportOptions,
) -> Result<ConfigChanges, EditError> {
    let key = link_key(&other.cluster);
    let present = document.data.get(&key).and_then(|text| {
        let links = parse_fragment(&key, text).ok()?.links;
        links.into_iter().find(|link| link.cluster == other.cluster)
    });
    if present.is_none()
        && let Some((key, link)) = find_link(document, &other.cluster)
    {
        let same = link.trust_bundle.trim() == other.trust_bundle.trim()
            && link.trust_domain == other.trust_domain;
        let LinkImportOptions { namespaces, create_services, also_allow } = wish;
        if same && namespaces.is_none() && create_services.is_none() && also_allow.is_none() {
            return Ok(ConfigChanges::new());
        }
        let what = format!("the link with {}", other.cluster);
        return Err(EditError::DeclaredElsewhere { context: context.to_owned(), what, key });
    }
    // A new link may fill no Service unless somebody says so.
    let (import, create, allow) =
        present.map(|l| (l.import, l.create_services, l.also_allow)).unwrap_or_default();
    // Field by field: what a bundle says of imports is the other side's word and counts for nothing
    // here.
    let link = ClusterLink {
        cluster: other.cluster.clone(),
        trust_domain: other.trust_domain.clone(),
        trust_bundle: other.trust_bundle.clone(),
        addresses: other.addresses.clone(),
        import: wish.namespaces.clone().unwrap_or(import),
        create_services: wish.create_services.unwrap_or(create),
        also_allow: wish.also_allow.clone().unwrap_or(allow),
    };
    Ok(ConfigChanges::from([(key, Some(render::link(&link)))]))
}

/// Returns whether a cluster is linked with another already, in whichever key.
#[must_use]
pub fn is_linked(document: &ConfigDocument, other: &ClusterName) -> bool {
    find_link(document, other).is_some()
}

/// Returns the key that holds a link, and the link.
fn find_link(document: &ConfigDocument, other: &ClusterName) -> Option<(String, ClusterLink)> {
    document.fragments().find_map(|(key, fragment)| {
        let link = fragment.links.into_iter().find(|link| link.cluster == *other)?;
        Some((key.clone(), link))
    })
}

/// Returns the changes that remove a link.
///
/// # Errors
/// If another key holds the link.
pub fn unlink_changes(
    context: &str,
    document: &ConfigDocument,
    other: &ClusterName,
) -> Result<ConfigChanges, EditError> {
    let key = link_key(other);
    match find_link(document, other) {
        Some((place, _)) if place != key => {
            let what = format!("the link with {other}");
            Err(EditError::DeclaredElsewhere { context: context.to_owned(), what, key: place })
        }
        _ => Ok(ConfigChanges::from([(key, None)])),
    }
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

/// Waits until a cluster says that its link with `other` is up.
///
/// # Errors
/// If it does not by `deadline`, with what it says instead.
pub async fn wait_until_up(
    context: &Context,
    other: &ClusterName,
    deadline: Instant,
) -> Result<(), LinkError> {
    loop {
        let link = context.cluster_api::<Link>().get_opt(other.as_str()).await;
        let link = link.map_err(context.request_error(&format!("read Link {other}")))?;
        let conditions = link.and_then(|link| link.status).map(|status| status.conditions);
        let up = conditions.and_then(|all| all.into_iter().find(|c| c.type_ == "Up"));
        let what = match up {
            Some(up) if up.status == "True" => return Ok(()),
            Some(up) => format!("the link with {other} is not up: {} ({})", up.message, up.reason),
            None => format!("its controller says nothing of the link with {other} yet"),
        };
        if Instant::now() >= deadline {
            let hint = format!(
                "what was written stays, so it may still come up: `adit status --context {0}`. Why it does not, a node \
                 says: `kubectl --context {0} -n adit-system exec ds/adit-node -- /adit status`. Does UDP pass between \
                 the nodes?",
                context.name
            );
            return Err(LinkError::TimedOut { context: context.name.clone(), what, hint });
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Describes which Services a linked cluster may fill by its exports, and who may use them.
#[must_use]
pub fn describe_import(config: &ClusterConfig, other: &ClusterName) -> String {
    let link = config.links.iter().find(|link| link.cluster == *other);
    let allowed: Vec<_> =
        link.iter().flat_map(|link| &link.also_allow).map(ToString::to_string).collect();
    let allowed = match &allowed[..] {
        [] => String::new(),
        some => format!("; what is imported from it is for {} everywhere, too", some.join(", ")),
    };
    let Some(link) = link.filter(|link| !link.import.is_empty()) else {
        return format!(
            "{other} may fill no Service by itself, only those that `adit import` names; \
             `adit link … --import NAMESPACES` opens namespaces to it{allowed}"
        );
    };
    let namespaces: Vec<_> = link.import.iter().map(NamePattern::as_str).collect();
    let all = link.import.iter().any(|pattern| pattern.as_str() == "*");
    let which = match &namespaces[..] {
        _ if all => "all namespaces but kube-* and adit-system".to_owned(),
        [one] if !one.contains('*') => format!("namespace {one}"),
        several => format!("namespaces {}", several.join(", ")),
    };
    let made = if link.create_services {
        "; where there is no Service of that name, one is made"
    } else {
        ""
    };
    format!(
        "by what it exports {other} may fill Services in {which} that cannot have pods of their own (without a selector, \
         or a kagent Agent's with replicas: 0) and never had an endpoint{made}; others only if `adit import` names them{allowed}"
    )
}

#[cfg(test)]
mod tests;
