//! `adit link`: each cluster learns the other's name, trust bundle and first addresses, and nothing
//! else.
//!
//! Everything exchanged is public (`bundle`): no key, and no access to the other's API server.

use std::time::Duration;

use adit_config::cluster::{
    ClusterLink, NamePattern, default_trust_domain, parse_fragment, render,
};
use adit_core::name::ClusterName;
use adit_core::policy::WorkloadPattern;
use adit_core::spiffe::TrustDomain;
use tokio::time::{Instant, sleep};

use super::context::{ConfigDocument, Context, ContextError};
use super::edit::{ConfigChanges, EditError, EditOutcome, edit};
use crate::api::{Link, ObjectStatus};

/// The key that names a cluster.
pub const CLUSTER_KEY: &str = "cluster.yaml";
/// From one look at something awaited to the next.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(500);

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

/// Returns the name that a cluster has, or is to get: `chosen`, or one derived from its context.
///
/// # Errors
/// If its configuration is wrong, or no name can be derived.
pub fn identify(
    context: &str,
    document: &ConfigDocument,
    chosen: Option<&ClusterName>,
) -> Result<ClusterIdentity, LinkError> {
    match document.parse() {
        Ok((config, _)) => match chosen {
            Some(chosen) if *chosen != config.cluster => {
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
            let name =
                chosen.cloned().or_else(|| name_of_context(context)).ok_or_else(unnameable)?;
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

/// Returns the changes that link a cluster with another. Options for imports that the link has
/// already are kept unless `options` sets them.
///
/// # Errors
/// If another key holds a different link with that cluster.
pub fn link_changes(
    context: &str,
    document: &ConfigDocument,
    other: &ClusterLink,
    options: &LinkImportOptions,
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
        let LinkImportOptions { namespaces, create_services, also_allow } = options;
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
        import: options.namespaces.clone().unwrap_or(import),
        create_services: options.create_services.unwrap_or(create),
        also_allow: options.also_allow.clone().unwrap_or(allow),
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
        let status = link.as_ref().and_then(|link| link.status.as_ref());
        let what = match ObjectStatus::condition(status, "Up") {
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

#[cfg(test)]
mod tests;
