//! `adit install`: puts Adit into clusters, from the manifests that this program carries, and links them.
//!
//! Here is the order of the steps; the steps themselves are in [`adit_kubernetes::operator::install`]. Everything that
//! can be refused is looked at in all clusters before anything is changed in one of them.

use std::process::ExitCode;
use std::time::Duration;

use adit_config::cluster::NamePattern;
use adit_core::name::ClusterName;
use adit_kubernetes::operator::context::{ConfigDocument, Context, ContextError};
use adit_kubernetes::operator::install::apply::apply;
use adit_kubernetes::operator::install::error::InstallError;
use adit_kubernetes::operator::install::manifests::{
    self, ManifestObject, ManifestOptions, default_image,
};
use adit_kubernetes::operator::install::plan::{InstallPlan, plan};
use adit_kubernetes::operator::install::preflight::{check_rights, check_server};
use adit_kubernetes::operator::install::rollout::wait_until_ready;
use adit_kubernetes::operator::link::{self as steps, ClusterIdentity};
use tokio::time::Instant;

use crate::cluster_args::{
    KubeconfigArgs, MISUSED, NEXT_STEP, block_on, exit_status, parse_duration,
};
use crate::link::{ImportOptions, PairOptions, ask_once, explained, link_pair, write_name};
use crate::output::print;
use crate::progress::ProgressLine;

/// Install Adit in one cluster or several, wait until it is ready, and link them
///
/// Applies the manifests that this program carries, as kubectl apply --server-side does, names each cluster after its
/// context where it has no name yet, and waits until controller and nodes are ready. Loads no image: load it first, or
/// name one that the clusters can pull. Two contexts or more are linked pairwise, as adit link does. Run again, it does
/// what is missing and changes nothing else.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 done, 1 refused and nothing was changed, 2 used wrongly, 3 begun and not finished, or not ready in time (run it again: it does the rest)."
)]
pub(crate) struct Args {
    /// A cluster's kubeconfig context; may be given several times
    #[arg(long, value_name = "CONTEXT", required_unless_present = "print")]
    context: Vec<String>,
    /// Name of a cluster that has none yet, as CONTEXT=NAME; otherwise it is named after its context
    #[arg(long, value_name = "CONTEXT=NAME", value_parser = parse_name)]
    name: Vec<(String, ClusterName)>,
    /// The image of controller and nodes; without it the one that daemonset/image/build makes, which has to be loaded
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// When a node pulls the image
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    #[command(flatten)]
    import: ImportOptions,
    /// Take over fields that others have set, and objects of the same names that are not Adit's
    #[arg(long)]
    force_conflicts: bool,
    /// Print the manifests as YAML instead, for a repository; change nothing
    #[arg(long)]
    print: bool,
    /// Time in which controller, nodes and links have to be ready, as 60s or 2m
    #[arg(long, value_name = "TIME", default_value = "3m", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
}

fn parse_name(text: &str) -> Result<(String, ClusterName), String> {
    // Contexts may have a = in their names, clusters may not.
    let (context, name) = text.rsplit_once('=').ok_or("expected CONTEXT=NAME")?;
    Ok((context.to_owned(), name.parse().map_err(|error| format!("{error}"))?))
}

/// A cluster with everything that was found out about it before the first change.
struct InstallTarget {
    context: Context,
    identity: ClusterIdentity,
    document: ConfigDocument,
    plan: InstallPlan,
}

/// Installs.
///
/// # Errors
/// If it was refused before anything was changed.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let image = match &args.image {
        Some(image) => image.clone(),
        None => default_image()?,
    };
    let pull_policy = Some(args.image_pull_policy.clone());
    let objects = manifests::render(&ManifestOptions { image: Some(image), pull_policy })?;
    if args.print {
        print(&manifests::to_yaml(&objects)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(wrong) = misuse(args) {
        eprintln!("adit: {wrong}");
        return Ok(ExitCode::from(MISUSED));
    }
    block_on(async {
        let targets = Box::pin(examine(args, &objects)).await?;
        let answer = question(args, &targets)?;
        let mut is_changed = false;
        let done = Box::pin(carry_out(args, &targets, answer, &mut is_changed)).await;
        exit_status(done, is_changed)
    })
}

/// Returns what is wrong with the arguments, beyond what their types say.
fn misuse(args: &Args) -> Option<String> {
    let mut seen = args.context.clone();
    seen.sort();
    seen.dedup();
    if seen.len() < args.context.len() {
        return Some("a context is named twice".to_owned());
    }
    let unknown = args.name.iter().find(|(context, _)| !args.context.contains(context));
    if let Some((context, _)) = unknown {
        return Some(format!("--name is for context {context}, which is not among --context"));
    }
    if args.context.len() < 2 && !args.import.is_default() {
        return Some("options of links need two contexts or more".to_owned());
    }
    None
}

/// Looks at all clusters. Changes nothing.
async fn examine(args: &Args, objects: &[ManifestObject]) -> anyhow::Result<Vec<InstallTarget>> {
    let (mut targets, mut errors): (Vec<InstallTarget>, Vec<anyhow::Error>) = Default::default();
    for name in &args.context {
        match Box::pin(examine_one(args, name, objects)).await {
            Ok(target) => targets.push(target),
            Err(error) => errors.push(error),
        }
    }
    for (number, a) in targets.iter().enumerate() {
        for b in &targets[number + 1..] {
            let distinct = steps::check_distinct(&a.identity, &b.identity);
            errors.extend(distinct.map_err(explained).err());
        }
    }
    match errors.pop() {
        None => Ok(targets),
        Some(last) => {
            for error in &errors {
                eprintln!("adit: {error:#}");
            }
            Err(last.context("nothing was changed"))
        }
    }
}

async fn examine_one(
    args: &Args,
    name: &str,
    objects: &[ManifestObject],
) -> anyhow::Result<InstallTarget> {
    let context = args.kubeconfig.connect(Some(name)).await?;
    check_server(&context).await?;
    check_rights(&context, objects, &["get", "create", "patch"]).await?;
    let document = match context.document().await {
        Err(ContextError::NotInstalled { .. }) => ConfigDocument::default(),
        document => document?,
    };
    let chosen = args.name.iter().find(|(context, _)| context == name).map(|(_, name)| name);
    let identity = steps::identify(name, &document, chosen).map_err(explained)?;
    let plan = plan(&context, objects.to_vec(), args.force_conflicts).await?;
    let (_, differing) = plan.counts();
    if differing > 0 && !args.force_conflicts {
        let context = context.name.clone();
        return Err(InstallError::InstalledOtherwise { context, differing }.into());
    }
    Ok(InstallTarget { context, identity, document, plan })
}

/// Asks which namespaces are open, before a person has to wait, if a link will be new.
fn question(args: &Args, targets: &[InstallTarget]) -> anyhow::Result<Option<Vec<NamePattern>>> {
    let is_new = targets.iter().any(|one| {
        let mut others = targets.iter().map(|other| &other.identity.name);
        others.any(|other| *other != one.identity.name && !steps::is_linked(&one.document, other))
    });
    match is_new && args.import.to_request().namespaces.is_none() {
        true => ask_once(),
        false => Ok(None),
    }
}

/// Makes the changes, waits, and links. `is_changed` is set once anything was written.
async fn carry_out(
    args: &Args,
    targets: &[InstallTarget],
    mut answer: Option<Vec<NamePattern>>,
    is_changed: &mut bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + args.timeout;
    for InstallTarget { context, identity, plan, .. } in targets {
        let applied = apply(context, plan).await;
        *is_changed |= !matches!(&applied, Err(error) if !error.is_half_done());
        applied?;
        let done = if plan.is_empty() {
            "the manifests are applied already".to_owned()
        } else {
            format!("applied the manifests: {}", plan.describe_counts())
        };
        print(&format!("context {}: {done}\n", context.name))?;
        if !identity.changes.is_empty() {
            write_name(context, identity).await?;
        }
    }
    let contexts: Vec<_> = targets.iter().map(|target| target.context.clone()).collect();
    let mut progress = ProgressLine::start();
    wait_until_ready(&contexts, deadline, |waiting| progress.tell(waiting)).await?;
    for context in &contexts {
        print(&format!("context {}: controller and nodes are ready\n", context.name))?;
    }
    for (number, a) in contexts.iter().enumerate() {
        for b in &contexts[number + 1..] {
            let options = PairOptions {
                names: [None, None],
                import: args.import.to_request(),
                print: false,
                wait: deadline.saturating_duration_since(Instant::now()),
            };
            Box::pin(link_pair(a, b, &options, &mut answer)).await?;
        }
    }
    print(NEXT_STEP)
}
