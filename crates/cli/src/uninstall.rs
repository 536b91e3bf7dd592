//! `adit uninstall`: takes Adit out of clusters, and says what stays.
//!
//! Here is the order of the steps; the steps themselves are in [`adit_kubernetes::operator::install::remove`].

use std::process::ExitCode;
use std::time::Duration;

use adit_core::name::ClusterName;
use adit_core::text::count_noun;
use adit_kubernetes::operator::context::{Context, ContextError};
use adit_kubernetes::operator::install::manifests::{self, ManifestObject, ManifestOptions};
use adit_kubernetes::operator::install::preflight::check_rights;
use adit_kubernetes::operator::install::remove::{RemovalPlan, plan_removal, remove};
use tokio::time::Instant;

use crate::cluster_args::{KubeconfigArgs, block_on, confirm, exit_status, parse_duration};
use crate::output::print;
use crate::progress::ProgressLine;

/// Take Adit out of one cluster or several, and wait until nothing of it is left
///
/// First the nodes, which take away their routes and rules, then all else: configuration and CA, links, exports, imports,
/// and the slices and Services that were made. Streams end. A cluster that is installed again later has a new CA and has
/// to be linked again.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 nothing is left, 1 refused and nothing was changed, 2 used wrongly, 3 begun and not finished (run it again)."
)]
pub(crate) struct Args {
    /// A cluster's kubeconfig context; may be given several times
    #[arg(long, value_name = "CONTEXT", required = true)]
    context: Vec<String>,
    /// Keep the definitions of Link, Import and Export
    #[arg(long)]
    keep_definitions: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Time in which everything has to be gone, as 60s or 2m
    #[arg(long, value_name = "TIME", default_value = "3m", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
}

/// A cluster with what goes from it.
struct Removal {
    context: Context,
    plan: RemovalPlan,
    /// Its name, if it has one.
    cluster: Option<ClusterName>,
    /// The clusters that it is linked with.
    links: Vec<ClusterName>,
}

/// Uninstalls.
///
/// # Errors
/// If it was refused before anything was changed.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut objects = manifests::render(&ManifestOptions::default())?;
    objects.retain(|object| {
        !(args.keep_definitions && object.kind.kind == "CustomResourceDefinition")
    });
    block_on(async {
        let mut is_changed = false;
        let done = Box::pin(carry_out(args, &objects, &mut is_changed)).await;
        exit_status(done, is_changed)
    })
}

async fn carry_out(
    args: &Args,
    objects: &[ManifestObject],
    is_changed: &mut bool,
) -> anyhow::Result<()> {
    let mut removals = Vec::new();
    for name in &args.context {
        let removal = Box::pin(examine(args, name, objects)).await?;
        print(&describe(&removal))?;
        if !removal.plan.is_empty() {
            removals.push(removal);
        }
    }
    if removals.is_empty() {
        return Ok(());
    }
    if !args.yes && !confirm()? {
        anyhow::bail!("nobody said yes\n  hint: --yes goes on without a question");
    }
    let removed: Vec<_> = removals.iter().filter_map(|one| one.cluster.clone()).collect();
    let deadline = Instant::now() + args.timeout;
    for Removal { context, plan, links, .. } in &removals {
        *is_changed = true;
        let mut progress = ProgressLine::start();
        Box::pin(remove(context, plan, deadline, |waiting| progress.tell(waiting))).await?;
        print(&format!(
            "context {}: nothing of Adit is left\n{}",
            context.name,
            describe_rest(links, &removed, args.keep_definitions)
        ))?;
    }
    Ok(())
}

async fn examine(args: &Args, name: &str, objects: &[ManifestObject]) -> anyhow::Result<Removal> {
    let context = args.kubeconfig.connect(Some(name)).await?;
    check_rights(&context, objects, &["get", "delete"]).await?;
    let config = match context.document().await {
        Ok(document) => document.parse().ok().map(|(config, _)| config),
        Err(ContextError::NotInstalled { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let links = config.iter().flat_map(|config| &config.links);
    let links = links.map(|link| link.cluster.clone()).collect();
    let plan = Box::pin(plan_removal(&context, objects.to_vec())).await?;
    Ok(Removal { context, plan, cluster: config.map(|config| config.cluster), links })
}

fn describe(removal: &Removal) -> String {
    let Removal { context, plan, links, .. } = removal;
    let name = &context.name;
    let foreign = match &plan.foreign[..] {
        [] => String::new(),
        some => format!("context {name}: not Adit's, stays: {}\n", some.join(", ")),
    };
    if plan.is_empty() {
        return format!("context {name}: nothing to remove\n{foreign}");
    }
    let links: Vec<_> = links.iter().map(ClusterName::as_str).collect();
    let links = if links.is_empty() { "none".to_owned() } else { links.join(", ") };
    let count = count_noun(u64::try_from(plan.count()).unwrap_or(u64::MAX), "object");
    format!(
        "context {name}: {count} of the manifests, the configuration, the CA, and all that the controller made will go; \
         links: {links}\n{foreign}"
    )
}

/// Describes what an uninstalled cluster leaves behind. Clusters that go by the same command keep no link with it.
fn describe_rest(
    links: &[ClusterName],
    removed: &[ClusterName],
    keeps_definitions: bool,
) -> String {
    let mut text = String::from(
        "  stays: on each node /var/lib/adit/NODE/node.secret, by which peers notice a restart\n",
    );
    if keeps_definitions {
        text += "  stays: the definitions of Link, Import and Export\n";
    }
    for link in links.iter().filter(|link| !removed.contains(link)) {
        text += &format!(
            "  stays: the link in cluster {link}, which says that this one is down; `adit unlink` there ends it\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_only_in_a_cluster_that_stays() {
        let names = |names: &[&str]| -> Vec<ClusterName> {
            names.iter().map(|name| name.parse().unwrap()).collect()
        };
        let links = names(&["bank", "lab"]);
        let text = describe_rest(&links, &names(&["edge", "bank"]), false);
        assert!(text.contains("the link in cluster lab") && !text.contains("bank"), "{text}");
        assert!(describe_rest(&links, &names(&["edge"]), true).contains("cluster bank"));
    }
}
