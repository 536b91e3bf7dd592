//! `adit upgrade`: brings clusters to the manifests that this program carries, and says before what will change.
//!
//! Here is the order of the steps; the steps themselves are in [`adit_kubernetes::operator::install`]. All clusters are
//! looked at before the first is changed, and each is ready before the next is.

use std::process::ExitCode;
use std::time::Duration;

use adit_core::text::escape;
use adit_kubernetes::operator::context::Context;
use adit_kubernetes::operator::install::apply::apply;
use adit_kubernetes::operator::install::manifests::{ManifestOptions, render};
use adit_kubernetes::operator::install::plan::{InstallPlan, ManifestChange, plan};
use adit_kubernetes::operator::install::preflight::{check_rights, check_server};
use adit_kubernetes::operator::install::rollout::wait_until_ready;
use adit_kubernetes::operator::install::upgrade::{restart, running_image};
use adit_kubernetes::operator::release::{
    ClusterReleases, OWN_RELEASE, is_older, read_releases, upgrade_obstacle,
};
use tokio::time::Instant;

use crate::cluster_args::{KubeconfigArgs, block_on, confirm, exit_status, parse_duration};
use crate::output::print;
use crate::progress::ProgressLine;

/// Upgrade Adit where it is installed: say what will change, then change it
///
/// Applies the manifests that this program carries, with the image that each cluster has unless another is named. Keys of
/// the ConfigMap stay. Nodes are replaced one at a time; open streams finish on the old pod for up to limits.drain.
/// Refuses what a linked cluster of an older version would not understand: name the contexts of both.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 done, 1 refused and nothing was changed, 2 used wrongly, 3 begun and not finished, or not ready in time (run it again: it does the rest)."
)]
pub(crate) struct Args {
    /// A cluster's kubeconfig context; may be given several times, and clusters are upgraded in this order
    #[arg(long, value_name = "CONTEXT", required = true)]
    context: Vec<String>,
    /// The new image of controller and nodes; without it each cluster keeps the name of its image
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// When a node pulls the image; without it as before
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: Option<String>,
    /// Replace all pods even if their manifests stay the same, as after loading another image of the same name
    #[arg(long)]
    restart: bool,
    /// Go back to an older version, too
    #[arg(long)]
    allow_older: bool,
    /// Take over fields that others have set
    #[arg(long)]
    force_conflicts: bool,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Time in which all has to be ready again, as 60s or 2m
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
}

/// A cluster with what an upgrade changes there.
struct UpgradeTarget {
    context: Context,
    releases: ClusterReleases,
    plan: InstallPlan,
}

/// Upgrades.
///
/// # Errors
/// If it was refused before anything was changed.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    block_on(async {
        let mut is_changed = false;
        let done = Box::pin(carry_out(args, &mut is_changed)).await;
        exit_status(done, is_changed)
    })
}

async fn carry_out(args: &Args, is_changed: &mut bool) -> anyhow::Result<()> {
    let mut targets = Vec::new();
    for name in &args.context {
        targets.push(Box::pin(examine(args, name)).await?);
    }
    check_releases(args, &targets)?;
    for target in &targets {
        print(&describe(target, args.restart))?;
    }
    targets.retain(|target| args.restart || !target.plan.is_empty());
    if targets.is_empty() || args.dry_run {
        return Ok(());
    }
    if !args.yes && !confirm()? {
        anyhow::bail!("nobody said yes\n  hint: --yes goes on without a question");
    }
    let deadline = Instant::now() + args.timeout;
    for UpgradeTarget { context, plan, .. } in &targets {
        let applied = Box::pin(apply(context, plan)).await;
        *is_changed |= !matches!(&applied, Err(error) if !error.is_half_done());
        applied?;
        if args.restart && !plan.replaces_pods() {
            restart(context).await?;
        }
        let mut progress = ProgressLine::start();
        let one = std::slice::from_ref(context);
        Box::pin(wait_until_ready(one, deadline, |waiting| progress.tell(waiting))).await?;
        print(&format!("context {}: upgraded, controller and nodes are ready\n", context.name))?;
    }
    Ok(())
}

/// Looks at a cluster. Changes nothing.
async fn examine(args: &Args, name: &str) -> anyhow::Result<UpgradeTarget> {
    let context = args.kubeconfig.connect(Some(name)).await?;
    check_server(&context).await?;
    let document = context.document().await?;
    // A node that starts waits while the configuration has errors, and an older version may have taken what this one does
    // not.
    if let Err(report) = document.parse()
        && report.errors().next().is_some()
    {
        anyhow::bail!(
            "context {name}: its configuration has errors by this version, with which nodes that start would wait:\n{report}"
        );
    }
    let Some(running) = running_image(&context).await? else {
        anyhow::bail!(
            "context {name}: no nodes are installed there\n  hint: `adit install --context {name}` does the rest of an \
             installation that was begun"
        );
    };
    let objects = render(&ManifestOptions {
        image: Some(args.image.clone().unwrap_or(running.image)),
        pull_policy: args.image_pull_policy.clone().or(running.pull_policy),
    })?;
    check_rights(&context, &objects, &["get", "create", "patch"]).await?;
    let releases = read_releases(&context).await?;
    let plan = Box::pin(plan(&context, objects, args.force_conflicts)).await?;
    Ok(UpgradeTarget { context, releases, plan })
}

/// Refuses releases that would not understand each other.
fn check_releases(args: &Args, targets: &[UpgradeTarget]) -> anyhow::Result<()> {
    let all: Vec<_> = targets.iter().map(|target| target.releases.clone()).collect();
    for releases in &all {
        let newer = releases.running().into_iter().find(|running| is_older(OWN_RELEASE, running));
        if let (Some(newer), false) = (newer, args.allow_older) {
            anyhow::bail!(
                "{} runs {newer}, and this command is {OWN_RELEASE}\n  hint: use the command of the newer version; to go \
                 back, take out of the ConfigMap what only the newer knows, and say --allow-older",
                releases.shown()
            );
        }
        // Clusters that are upgraded by this command, too, count with what they run now: a link has both for a while.
        if let Some(obstacle) = upgrade_obstacle(OWN_RELEASE, releases, &all) {
            anyhow::bail!(obstacle);
        }
        for link in &releases.links {
            if !all.iter().any(|other| other.cluster.as_ref() == Some(link)) {
                eprintln!(
                    "! {} is linked with {}, whose version is not known from here: name its context, too, or ask `adit version` \
                     there; it has to be within one minor version of {OWN_RELEASE}",
                    escape(releases.shown()),
                    escape(link)
                );
            }
        }
    }
    Ok(())
}

/// Describes the changes of a cluster.
fn describe(target: &UpgradeTarget, restarts: bool) -> String {
    let UpgradeTarget { context, releases, plan } = target;
    let running = releases.running();
    let running = if running.is_empty() {
        "a release that is not told".to_owned()
    } else {
        running.join(" and ")
    };
    let mut text = format!(
        "context {}: {running} → {OWN_RELEASE}: {}\n",
        context.name,
        plan.describe_counts()
    );
    for planned in &plan.objects {
        match &planned.change {
            ManifestChange::Keep => {}
            ManifestChange::Create => text += &format!("  + {}\n", planned.object.shown()),
            ManifestChange::Update(fields) => {
                text += &format!("  ~ {}\n", planned.object.shown());
                text.extend(fields.iter().map(|field| format!("      {}\n", escape(field))));
            }
        }
    }
    text += if plan.replaces_pods() || restarts {
        "  pods are replaced, one node at a time: new connections wait for nothing, open streams finish on the old pod for \
         up to limits.drain\n"
    } else {
        "  pods stay as they are: the image has the same name; after loading another one, --restart replaces them\n"
    };
    text
}
