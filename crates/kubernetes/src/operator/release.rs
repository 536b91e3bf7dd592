//! The releases that clusters run, and which of them go together.
//!
//! Two neighbouring minor versions always speak with each other, on the wire and through the objects of a cluster; of others
//! nothing is promised. Nodes tell their release to their controller, which writes it on its Lease beside its own.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use serde::Serialize;

use super::context::{Context, ContextError};
use super::install::upgrade::running_image;
use super::status::read_summary;
use crate::api::{CONTROLLER, RELEASE};
use crate::summary::OTHER_RELEASES;

/// The release of this program.
pub const OWN_RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The releases of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterReleases {
    /// The context by which it was asked.
    pub context: String,
    /// Its name; `None` if it has none.
    pub cluster: Option<String>,
    /// The version of its API server.
    pub kubernetes: String,
    /// The image of its nodes; `None` if Adit is not installed there.
    pub image: Option<String>,
    /// The release of its active controller; `None` if there is none, or one from before it was told.
    pub controller: Option<String>,
    /// Number of nodes that run each release, of those that answered the controller. A node that does not say is of an
    /// empty release.
    pub nodes: BTreeMap<String, usize>,
    /// Number of nodes that do not answer the controller.
    pub silent: usize,
    /// The clusters that it is linked with.
    pub links: Vec<String>,
}

/// Reads the releases of a cluster.
///
/// # Errors
/// If it cannot be asked, or Adit is not installed there.
pub async fn read_releases(context: &Context) -> Result<ClusterReleases, ContextError> {
    let document = context.document().await?;
    let config = document.parse().ok().map(|(config, _)| config);
    let version = context.client().apiserver_version().await;
    let version = version.map_err(context.request_error("ask for the server's version"))?;
    let lease = context.system_api::<Lease>().get_opt(CONTROLLER).await;
    let lease = lease.map_err(context.request_error("read Lease adit-controller"))?;
    let summary = read_summary(lease.as_ref());
    let links = config.iter().flat_map(|config| &config.links).map(|link| link.cluster.to_string());
    Ok(ClusterReleases {
        context: context.name.clone(),
        cluster: config.as_ref().map(|config| config.cluster.to_string()),
        kubernetes: version.git_version,
        image: running_image(context).await?.map(|running| running.image),
        controller: lease.and_then(|lease| lease.annotations().get(RELEASE).cloned()),
        nodes: summary.releases.clone(),
        silent: summary.silent,
        links: links.collect(),
    })
}

impl ClusterReleases {
    /// Returns the name for people.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.cluster.as_deref().unwrap_or(&self.context)
    }

    /// Returns every release that is known to run there, oldest first.
    #[must_use]
    pub fn running(&self) -> Vec<&str> {
        let nodes = self.nodes.keys().map(String::as_str);
        let known = nodes.filter(|name| !name.is_empty() && *name != OTHER_RELEASES);
        let mut all: Vec<_> = known.chain(self.controller.as_deref()).collect();
        all.sort_by_key(|release| number(release));
        all.dedup();
        all
    }
}

/// Returns major, minor and patch of a release; `None` if it is not one.
fn number(release: &str) -> Option<(u64, u64, u64)> {
    let plain = release.split(['-', '+']).next().unwrap_or_default();
    let mut parts = plain.split('.').map(|part| part.parse::<u64>().ok());
    let number = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(number)
}

/// Returns whether two releases are sure to speak with each other. Nothing is sure of what is not a release.
#[must_use]
pub fn are_neighbours(a: &str, b: &str) -> bool {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.0 == b.0 && a.1.abs_diff(b.1) <= 1,
        _ => a == b,
    }
}

/// Returns whether release `a` is older than `b`.
#[must_use]
pub fn is_older(a: &str, b: &str) -> bool {
    matches!((number(a), number(b)), (Some(a), Some(b)) if a < b)
}

/// Returns what is doubtful about the releases of these clusters and of this program.
#[must_use]
pub fn skew_warnings(own: &str, clusters: &[ClusterReleases]) -> Vec<String> {
    let mut warnings = Vec::new();
    for cluster in clusters {
        warnings.extend(cluster_warnings(own, cluster));
    }
    for (number, a) in clusters.iter().enumerate() {
        for b in &clusters[number + 1..] {
            let (all, others) = (a.running(), b.running());
            let pairs = all.iter().flat_map(|x| others.iter().map(move |y| (*x, *y)));
            let far = pairs.into_iter().find(|(x, y)| !are_neighbours(x, y));
            if let Some((x, y)) = far {
                let behind = if is_older(x, y) { a } else { b };
                warnings.push(format!(
                    "{} runs {x} and {} runs {y}: only neighbouring minor versions are sure to speak with each other; \
                     `adit upgrade --context {}` first",
                    a.shown(),
                    b.shown(),
                    behind.context
                ));
            }
        }
    }
    warnings
}

fn cluster_warnings(own: &str, cluster: &ClusterReleases) -> Vec<String> {
    let (name, mut warnings) = (cluster.shown(), Vec::new());
    if cluster.image.is_none() {
        return vec![format!(
            "{name}: no nodes are installed; `adit install --context {}`",
            cluster.context
        )];
    }
    let running = cluster.running();
    if running.len() > 1 {
        warnings.push(format!(
            "{name} runs {}: an update is under way there, or stuck",
            running.join(" and ")
        ));
    }
    let mute = cluster.nodes.get("").copied().unwrap_or(0);
    if mute > 0 || (cluster.controller.is_none() && !cluster.nodes.is_empty()) {
        warnings.push(format!("{name} runs a release that does not tell its version yet"));
    }
    if cluster.silent > 0 {
        warnings.push(format!("{name}: {} nodes do not tell their release", cluster.silent));
    }
    if running.is_empty() && mute == 0 && cluster.silent == 0 {
        warnings.push(format!("{name}: no controller has told which releases run there"));
    }
    if let Some(far) = running.iter().find(|release| !are_neighbours(own, release)) {
        warnings.push(format!(
            "this command is {own} and {name} runs {far}: use the command of a neighbouring minor version there"
        ));
    }
    warnings
}

/// Returns the reason why a cluster must not be upgraded to release `to` while the others run what they run.
#[must_use]
pub fn upgrade_obstacle(
    to: &str,
    cluster: &ClusterReleases,
    others: &[ClusterReleases],
) -> Option<String> {
    if let Some(far) = cluster.running().iter().find(|running| !are_neighbours(to, running)) {
        return Some(format!(
            "{} runs {far}, and this is {to}: upgrade by one minor version at a time, since old and new pods run beside each other",
            cluster.shown()
        ));
    }
    let linked = others.iter().filter(|other| {
        other.context != cluster.context
            && other.cluster.as_ref().is_some_and(|name| cluster.links.contains(name))
    });
    linked.into_iter().find_map(|other| {
        let far = other.running().into_iter().find(|running| !are_neighbours(to, running))?;
        Some(format!(
            "{} is linked with {}, which runs {far} and may not understand {to}: upgrade {} first, by one minor version at a time",
            cluster.shown(),
            other.shown(),
            other.shown()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str, controller: &str, nodes: &[(&str, usize)]) -> ClusterReleases {
        ClusterReleases {
            context: format!("kind-{name}"),
            cluster: Some(name.to_owned()),
            image: Some("adit:1".to_owned()),
            controller: (!controller.is_empty()).then(|| controller.to_owned()),
            nodes: nodes.iter().map(|(release, count)| ((*release).to_owned(), *count)).collect(),
            links: vec!["edge".to_owned(), "bank".to_owned()],
            ..ClusterReleases::default()
        }
    }

    #[test]
    fn neighbours_are_one_minor_version_apart() {
        for (a, b, expected) in [
            ("0.1.0", "0.1.9", true),
            ("0.1.0", "0.2.0-rc.1", true),
            ("0.3.0", "0.1.0", false),
            ("0.1.0", "1.1.0", false),
            ("dev", "dev", true),
            ("dev", "0.1.0", false),
            ("0.1", "0.1.0", false),
        ] {
            assert_eq!(are_neighbours(a, b), expected, "{a} {b}");
            assert_eq!(are_neighbours(b, a), expected, "{b} {a}");
        }
        assert!(
            is_older("0.9.0", "0.10.0") && !is_older("0.1.0", "0.1.0") && !is_older("x", "1.0.0")
        );
    }

    #[test]
    fn skew_is_told_within_a_cluster_between_two_and_of_the_command() {
        let well =
            [cluster("edge", "0.1.0", &[("0.1.0", 2)]), cluster("bank", "0.2.0", &[("0.2.0", 1)])];
        assert_eq!(skew_warnings("0.1.0", &well), [""; 0]);
        let mixed = [cluster("edge", "0.2.0", &[("0.1.0", 1), ("0.2.0", 1)])];
        assert_eq!(
            skew_warnings("0.2.0", &mixed),
            ["edge runs 0.1.0 and 0.2.0: an update is under way there, or stuck"]
        );
        let far =
            [cluster("edge", "0.1.0", &[("0.1.0", 1)]), cluster("bank", "0.3.0", &[("0.3.0", 1)])];
        let told = skew_warnings("0.2.0", &far);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("`adit upgrade --context kind-edge` first"), "{told:?}");
        let told = skew_warnings("0.3.0", &far[..1]);
        assert!(told[0].starts_with("this command is 0.3.0 and edge runs 0.1.0"), "{told:?}");
        let old = [cluster("edge", "", &[("", 2)])];
        let told = skew_warnings("0.1.0", &old);
        assert_eq!(told, ["edge runs a release that does not tell its version yet"]);
        let absent = [ClusterReleases { context: "c".to_owned(), ..ClusterReleases::default() }];
        assert_eq!(
            skew_warnings("0.1.0", &absent),
            ["c: no nodes are installed; `adit install --context c`"]
        );
    }

    #[test]
    fn an_upgrade_that_leaves_a_peer_behind_is_refused() {
        let edge = cluster("edge", "0.2.0", &[("0.2.0", 1)]);
        let bank = cluster("bank", "0.1.0", &[("0.1.0", 1)]);
        let all = [edge.clone(), bank.clone()];
        assert_eq!(upgrade_obstacle("0.2.0", &edge, &all), None);
        let why = upgrade_obstacle("0.3.0", &edge, &all).unwrap();
        assert!(why.contains("bank, which runs 0.1.0 and may not understand 0.3.0"), "{why}");
        let stranger = ClusterReleases { links: Vec::new(), ..edge };
        assert_eq!(upgrade_obstacle("0.3.0", &stranger, &all), None);
        let why = upgrade_obstacle("0.3.0", &bank, &all[1..]).unwrap();
        assert!(why.contains("one minor version at a time"), "{why}");
    }
}
