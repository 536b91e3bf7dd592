//! `adit version`: the releases of this command and, with contexts, of controllers and nodes, and whether they go together.
//!
//! Reading and judging are [`adit_kubernetes::operator::release`]'s.

use std::process::ExitCode;

use adit_core::text::{count_noun, escape};
use adit_kubernetes::operator::release::{
    ClusterReleases, OWN_RELEASE, read_releases, skew_warnings,
};
use serde::Serialize;

use crate::cluster_args::{KubeconfigArgs, UNREACHABLE, block_on};
use crate::output::print;

/// Show the version of this command and, with --context, of controllers and nodes on all sides
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 they go together, 1 something is doubtful (said on standard error), 2 a cluster cannot be asked."
)]
pub(crate) struct Args {
    /// A cluster's kubeconfig context; may be given several times
    #[arg(long, value_name = "CONTEXT")]
    context: Vec<String>,
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// All releases, as JSON has them.
#[derive(Serialize)]
struct ReleasePage<'a> {
    command: &'a str,
    clusters: &'a [ClusterReleases],
    warnings: &'a [String],
}

/// Shows the releases.
///
/// # Errors
/// If they cannot be printed.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (mut clusters, mut is_unreachable) = (Vec::new(), false);
    block_on(async {
        for name in &args.context {
            let asked = async {
                let context = args.kubeconfig.connect(Some(name)).await?;
                read_releases(&context).await
            };
            match Box::pin(asked).await {
                Ok(cluster) => clusters.push(cluster),
                Err(error) => {
                    is_unreachable = true;
                    eprintln!("adit: {error}");
                }
            }
        }
        Ok(())
    })?;
    let warnings = skew_warnings(OWN_RELEASE, &clusters);
    if args.json {
        let page = ReleasePage { command: OWN_RELEASE, clusters: &clusters, warnings: &warnings };
        print(&(serde_json::to_string_pretty(&page)? + "\n"))?;
    } else {
        print(&render(&clusters))?;
        for warning in &warnings {
            eprintln!("! {}", escape(warning));
        }
    }
    Ok(match (is_unreachable, warnings.is_empty()) {
        (true, _) => ExitCode::from(UNREACHABLE),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    })
}

fn render(clusters: &[ClusterReleases]) -> String {
    let mut page = format!("adit {OWN_RELEASE}, this command\n");
    for cluster in clusters {
        let nodes: Vec<_> = cluster
            .nodes
            .iter()
            .map(|(release, count)| format!("{} ({count})", or_untold(release)))
            .collect();
        let silent = match cluster.silent {
            0 => String::new(),
            n => format!(", {} silent", count_noun(u64::try_from(n).unwrap_or(u64::MAX), "node")),
        };
        let nodes = if nodes.is_empty() { "not told".to_owned() } else { nodes.join(", ") };
        page += &format!(
            "{}, context {}: controller {}, nodes {}{silent}, image {}, Kubernetes {}\n",
            escape(cluster.shown()),
            escape(&cluster.context),
            escape(or_untold(cluster.controller.as_deref().unwrap_or_default())),
            escape(&nodes),
            escape(cluster.image.as_deref().unwrap_or("none")),
            escape(&cluster.kubernetes)
        );
    }
    page
}

fn or_untold(release: &str) -> &str {
    if release.is_empty() { "not told" } else { release }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_line_for_each_side() {
        let edge = ClusterReleases {
            context: "kind-edge".to_owned(),
            cluster: Some("edge".to_owned()),
            kubernetes: "v1.34.0".to_owned(),
            image: Some("localhost/adit:dev".to_owned()),
            controller: Some("0.1.0".to_owned()),
            nodes: [("0.1.0".to_owned(), 2), (String::new(), 1)].into(),
            silent: 1,
            ..ClusterReleases::default()
        };
        let absent = ClusterReleases { context: "c".to_owned(), ..ClusterReleases::default() };
        assert_eq!(
            render(&[edge, absent]),
            format!(
                "adit {OWN_RELEASE}, this command\n\
                 edge, context kind-edge: controller 0.1.0, nodes not told (1), 0.1.0 (2), 1 node silent, image \
                 localhost/adit:dev, Kubernetes v1.34.0\n\
                 c, context c: controller not told, nodes not told, image none, Kubernetes \n"
            )
        );
    }
}
