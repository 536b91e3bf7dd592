//! `adit link` and `adit unlink`: links two clusters, or one with a bundle that was carried here.
//!
//! Here is the order of the steps; the steps themselves are in [`adit_kubernetes::operator::link`].

mod question;
mod removed_services;

use std::io::{stderr, stdin};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use adit_config::cluster::{ClusterLink, NamePattern, render};
use adit_core::name::ClusterName;
use adit_core::policy::WorkloadPattern;
use adit_kubernetes::operator::context::{ConfigDocument, Context};
use adit_kubernetes::operator::edit::{ConfigChanges, EditOutcome, edit};
use adit_kubernetes::operator::link::{
    self as steps, ClusterIdentity, LinkError, LinkImportOptions,
};
use anyhow::Context as _;
use tokio::time::Instant;

use crate::cluster_args::{ClusterArgs, KubeconfigArgs, block_on, report_edit};
use crate::output::print;

/// Join two clusters: exchange their trust bundles and addresses, and wait until both say the link is up
///
/// Names a cluster after its context where it has no name yet. Gives neither cluster access to the other's
/// API, and exports nothing: that is said by `adit export`. Asks once, on a terminal, which namespaces are open to
/// what the other cluster exports; --import says it beforehand, and without either none is. Run again, it changes
/// nothing.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct LinkArgs {
    #[command(subcommand)]
    by_hand: Option<BundleCommand>,
    /// The one cluster's kubeconfig context
    #[arg(required = true, value_name = "CONTEXT_A")]
    a: Option<String>,
    /// The other's
    #[arg(required = true, value_name = "CONTEXT_B")]
    b: Option<String>,
    /// Name of the first cluster, if it has none yet; otherwise it is named after its context
    #[arg(long, value_name = "NAME")]
    name_a: Option<ClusterName>,
    /// The same for the second
    #[arg(long, value_name = "NAME")]
    name_b: Option<ClusterName>,
    #[command(flatten)]
    import: ImportOptions,
    /// Print the YAML of both ConfigMaps instead, for a repository; write nothing
    #[arg(long)]
    print: bool,
    /// Time to wait for CAs and for the link, in seconds or as 60s, 2m
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    wait: Duration,
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
}

/// Options for automatic imports from the other cluster.
#[derive(Debug, clap::Args)]
struct ImportOptions {
    /// Namespaces that are open to the other cluster, separated by commas; "*" stands for any characters, and alone
    /// for all. What it exports there fills Services of the same name that cannot have pods of their own: without a
    /// selector, or of a kagent Agent with replicas: 0. At first none
    #[arg(long, value_name = "NAMESPACES", value_delimiter = ',')]
    import: Vec<NamePattern>,
    /// Make a Service in those namespaces where such an import has none; otherwise only Services that are there are
    /// filled
    #[arg(long)]
    create_services: bool,
    /// Make no Services any more, and remove those that were made, but for Services that somebody took over and those
    /// of imports by name
    #[arg(long, conflicts_with = "create_services")]
    no_create_services: bool,
    /// Workloads of this cluster that may use whatever is imported from the other, beside those of each Service's own
    /// namespace: NAMESPACE/SERVICEACCOUNT, separated by commas; "*" is any. In place of those that were named before.
    /// Not for imports that name callers themselves (adit import --allow)
    #[arg(long, value_name = "SERVICEACCOUNT", value_delimiter = ',', value_parser = parse_workload)]
    also_allow: Vec<WorkloadPattern>,
    /// Take back --also-allow
    #[arg(long, conflicts_with = "also_allow")]
    no_also_allow: bool,
    /// Import nothing by itself; do not ask
    #[arg(long, conflicts_with_all = ["import", "create_services"])]
    no_import: bool,
}

/// Parses `NAMESPACE/SERVICEACCOUNT`, where `*` is any.
fn parse_workload(text: &str) -> Result<WorkloadPattern, String> {
    let (namespace, account) = text.split_once('/').ok_or("expected NAMESPACE/SERVICEACCOUNT")?;
    let namespace = namespace.parse().map_err(|e| format!("{e}"))?;
    let service_account = account.parse().map_err(|e| format!("{e}"))?;
    Ok(WorkloadPattern { namespace, service_account })
}

impl ImportOptions {
    fn to_request(&self) -> LinkImportOptions {
        let named = (!self.also_allow.is_empty()).then(|| self.also_allow.clone());
        let also_allow = if self.no_also_allow { Some(Vec::new()) } else { named };
        if self.no_import {
            let (namespaces, create_services) = (Some(Vec::new()), Some(false));
            return LinkImportOptions { namespaces, create_services, also_allow };
        }
        let namespaces = (!self.import.is_empty()).then(|| self.import.clone());
        let create_services = match (self.create_services, self.no_create_services) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        };
        LinkImportOptions { namespaces, create_services, also_allow }
    }
}

/// Returns the options for a cluster's link with `other`; asks for them once, if a new link has
/// none.
fn ask_namespaces(
    wish: &LinkImportOptions,
    document: &ConfigDocument,
    other: &ClusterName,
    answer: &mut Option<Vec<NamePattern>>,
) -> anyhow::Result<LinkImportOptions> {
    let mut wish = wish.clone();
    if wish.namespaces.is_some() || steps::is_linked(document, other) {
        return Ok(wish);
    }
    if answer.is_none() && question::can_ask() {
        *answer = Some(question::ask(&mut stdin().lock(), &mut stderr())?);
    }
    wish.namespaces.clone_from(answer);
    Ok(wish)
}

/// Without access to both clusters: carry a bundle by hand, each way
#[derive(Debug, clap::Subcommand)]
enum BundleCommand {
    /// Write what another cluster has to know of this one: name, trust domain, CA certificates, addresses
    ///
    /// Names a cluster after its context where it has no name yet, and changes nothing else. What it writes holds
    /// no secret; compare it with its sender's over a way that you trust.
    Export {
        #[command(flatten)]
        one: ClusterArgs,
        /// The file; without it standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Name of this cluster, if it has none yet
        #[arg(long, value_name = "NAME")]
        name: Option<ClusterName>,
        /// Time to wait for its CA
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
        wait: Duration,
    },
    /// Link a cluster with the one that a bundle is of
    ///
    /// The link comes up when the other side has this cluster's bundle, too. A bundle of later (another CA, other
    /// addresses) takes the place of the one before.
    Import {
        /// The file that `adit link export` wrote on the other side
        file: PathBuf,
        #[command(flatten)]
        one: ClusterArgs,
        /// Name of this cluster, if it has none yet
        #[arg(long, value_name = "NAME")]
        name: Option<ClusterName>,
        #[command(flatten)]
        import: ImportOptions,
        /// Print the YAML of the ConfigMap instead, for a repository; write nothing
        #[arg(long)]
        print: bool,
    },
}

/// Undo adit link: two clusters, or one of them, do not know each other any more
///
/// Open streams between them end. Clusters keep their names. Services that were made for imports of the other's go,
/// and are named. What names the other cluster in exports and imports stays, and counts again once they are linked.
#[derive(Debug, clap::Args)]
pub(crate) struct UnlinkArgs {
    /// Both kubeconfig contexts; leave them out for --context and --cluster
    #[arg(
        value_names = ["CONTEXT_A", "CONTEXT_B"],
        num_args = 2,
        required_unless_present = "cluster"
    )]
    contexts: Vec<String>,
    /// Without access to both: the other cluster's name
    #[arg(long, value_name = "CLUSTER", conflicts_with = "contexts")]
    cluster: Option<ClusterName>,
    #[command(flatten)]
    one: ClusterArgs,
    /// Print what would change; write nothing
    #[arg(long)]
    print: bool,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        _ => {
            return Err(
                "expected a whole number of seconds (s) or minutes (m), as in 60s".to_owned()
            );
        }
    };
    let number: u64 = number.parse().map_err(|_| "expected a time, as in 60s or 2m".to_owned())?;
    Ok(Duration::from_secs(number.saturating_mul(factor).min(86_400)))
}

/// Links.
///
/// # Errors
/// Everything that prevents it.
pub(crate) fn link(args: &LinkArgs) -> anyhow::Result<ExitCode> {
    match (&args.by_hand, &args.a, &args.b) {
        (Some(BundleCommand::Export { one, output, name, wait }), _, _) => {
            block_on(export_bundle(one, output.as_ref(), name.as_ref(), *wait))?;
        }
        (Some(BundleCommand::Import { file, one, name, import, print }), _, _) => {
            block_on(import_bundle(file, one, name.as_ref(), &import.to_request(), *print))?;
        }
        (None, Some(a), Some(b)) => block_on(link_both(args, a, b))?,
        (None, _, _) => anyhow::bail!("expected two contexts"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Adds to an error what to do about it by the arguments of these commands.
fn explained(error: LinkError) -> anyhow::Error {
    let hint = match &error {
        LinkError::SameName(_) => {
            "name one of them with --name-a or --name-b; a cluster that has a name keeps it"
        }
        LinkError::NameConflict { .. } => "leave the option out",
        LinkError::NoUsableName(_) => {
            "choose one with --name-a or --name-b; with --name where there is one context"
        }
        LinkError::InvalidBundle(_) => "`adit link export` on the other side writes one",
        LinkError::Edit(_) | LinkError::SameTrustDomain(_) | LinkError::TimedOut { .. } => {
            return error.into();
        }
    };
    anyhow::anyhow!("{error}\n  hint: {hint}")
}

async fn link_both(args: &LinkArgs, a: &str, b: &str) -> anyhow::Result<()> {
    let a = args.kubeconfig.connect(Some(a)).await?;
    let b = args.kubeconfig.connect(Some(b)).await?;
    let name_a =
        steps::identify(&a.name, &a.document().await?, args.name_a.as_ref()).map_err(explained)?;
    let name_b =
        steps::identify(&b.name, &b.document().await?, args.name_b.as_ref()).map_err(explained)?;
    steps::check_distinct(&name_a, &name_b).map_err(explained)?;
    let unnamed: Vec<_> =
        [(&a, &name_a), (&b, &name_b)].into_iter().filter(|(_, n)| !n.changes.is_empty()).collect();
    if args.print && !unnamed.is_empty() {
        for (context, named) in unnamed {
            report_edit(
                context,
                &EditOutcome { changes: named.changes.clone(), ..EditOutcome::default() },
                true,
                "",
            )?;
            print("---\n")?;
        }
        return print(
            "# A CA is made when its cluster has a name. Apply this, and run the same command again for the links.\n",
        );
    }
    for (context, named) in unnamed {
        write_name(context, named).await?;
    }
    let (wish, mut answer) = (args.import.to_request(), None);
    let wish_a = ask_namespaces(&wish, &a.document().await?, &name_b.name, &mut answer)?;
    let wish_b = ask_namespaces(&wish, &b.document().await?, &name_a.name, &mut answer)?;
    let deadline = Instant::now() + args.wait;
    let bundle_a = steps::wait_for_bundle(&a, &name_a, deadline).await?;
    let bundle_b = steps::wait_for_bundle(&b, &name_b, deadline).await?;
    let first = link_one_side(&a, &bundle_b, &wish_a, args.print).await?;
    if args.print {
        print("---\n")?;
    }
    let second = link_one_side(&b, &bundle_a, &wish_b, args.print).await?;
    if args.print {
        return Ok(());
    }
    let deadline = Instant::now() + args.wait;
    steps::wait_until_up(&a, &bundle_b.cluster, deadline).await?;
    steps::wait_until_up(&b, &bundle_a.cluster, deadline).await?;
    print(&format!("{} and {} are linked: both say the link is up\n", name_a.name, name_b.name))?;
    if first || second {
        let hint = "next: `adit export NAMESPACE/NAME --context CONTEXT --to CLUSTER --allow SERVICEACCOUNT`\n";
        print(hint)?;
    }
    Ok(())
}

async fn write_name(context: &Context, named: &ClusterIdentity) -> anyhow::Result<()> {
    let edited = steps::write_name(context, named).await?;
    let done = format!("named this cluster {}, trust domain {}", named.name, named.trust_domain);
    report_edit(context, &edited, false, &done)
}

/// Writes one side's link. Returns whether anything changed.
async fn link_one_side(
    context: &Context,
    other: &ClusterLink,
    wish: &LinkImportOptions,
    print_only: bool,
) -> anyhow::Result<bool> {
    let edited = edit(context, print_only, |document| {
        steps::link_changes(&context.name, document, other, wish)
    })
    .await?;
    let addresses: Vec<_> = other.addresses.iter().map(ToString::to_string).collect();
    let addresses = if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") };
    let done = format!("linked with {}, to be dialled at {addresses}", other.cluster);
    report_edit(context, &edited, print_only, &done)?;
    if let Ok((config, _)) = edited.after.parse()
        && !edited.changes.is_empty()
        && !print_only
    {
        let imports = steps::describe_import(&config, &other.cluster);
        print(&format!("context {}: {imports}\n", context.name))?;
    }
    removed_services::report_removed(context, &edited, &other.cluster, print_only).await?;
    Ok(!edited.changes.is_empty())
}

async fn export_bundle(
    one: &ClusterArgs,
    output: Option<&PathBuf>,
    wish: Option<&ClusterName>,
    wait: Duration,
) -> anyhow::Result<()> {
    let context = one.connect().await?;
    let named =
        steps::identify(&context.name, &context.document().await?, wish).map_err(explained)?;
    if !named.changes.is_empty() {
        let edited = steps::write_name(&context, &named).await?;
        if !edited.changes.is_empty() {
            eprintln!("context {}: named this cluster {}", context.name, named.name);
        }
    }
    let bundle = steps::wait_for_bundle(&context, &named, Instant::now() + wait).await?;
    let text = format!(
        "# Cluster {} as others link with it: adit link import FILE --context THEIRS. Holds no secret; carry it so\n\
         # that nobody can change it on the way.\n{}",
        bundle.cluster,
        render::link(&bundle)
    );
    match output {
        None => print(&text),
        Some(file) => {
            std::fs::write(file, text)
                .with_context(|| format!("cannot write {}", file.display()))?;
            print(&format!(
                "wrote {}; on the other side: adit link import {0} --context CONTEXT\n",
                file.display()
            ))
        }
    }
}

async fn import_bundle(
    file: &PathBuf,
    one: &ClusterArgs,
    wish: Option<&ClusterName>,
    import: &LinkImportOptions,
    print_only: bool,
) -> anyhow::Result<()> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let other = steps::parse_bundle(&text).map_err(explained)?;
    let context = one.connect().await?;
    let named =
        steps::identify(&context.name, &context.document().await?, wish).map_err(explained)?;
    let there = ClusterIdentity {
        name: other.cluster.clone(),
        trust_domain: other.trust_domain.clone(),
        changes: ConfigChanges::new(),
    };
    if named.name == there.name {
        let ClusterIdentity { name, .. } = &named;
        anyhow::bail!(
            "the bundle is of a cluster called {name}, and so is the one of context {}\n  hint: take the other \
             side's bundle, or another --name if this cluster has none yet",
            context.name
        );
    }
    steps::check_distinct(&named, &there).map_err(explained)?;
    if print_only && !named.changes.is_empty() {
        report_edit(
            &context,
            &EditOutcome { changes: named.changes.clone(), ..EditOutcome::default() },
            true,
            "",
        )?;
        print("---\n")?;
    } else if !named.changes.is_empty() {
        write_name(&context, &named).await?;
    }
    let import = ask_namespaces(import, &context.document().await?, &other.cluster, &mut None)?;
    link_one_side(&context, &other, &import, print_only).await?;
    if !print_only {
        print(
            "the link comes up when the other side has this cluster's bundle too: adit link export\n",
        )?;
    }
    Ok(())
}

/// Unlinks.
///
/// # Errors
/// Everything that prevents it.
pub(crate) fn unlink(args: &UnlinkArgs) -> anyhow::Result<ExitCode> {
    block_on(async {
        match (&args.contexts[..], &args.cluster) {
            ([a, b], _) => {
                let a = args.one.kubeconfig.connect(Some(a)).await?;
                let b = args.one.kubeconfig.connect(Some(b)).await?;
                let name_a = steps::identify(&a.name, &a.document().await?, None)?.name;
                let name_b = steps::identify(&b.name, &b.document().await?, None)?.name;
                remove_link(&a, &name_b, args.print).await?;
                if args.print {
                    print("---\n")?;
                }
                remove_link(&b, &name_a, args.print).await?;
            }
            (_, Some(cluster)) => {
                remove_link(&args.one.connect().await?, cluster, args.print).await?
            }
            _ => anyhow::bail!("expected two contexts, or --cluster"),
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn remove_link(
    context: &Context,
    other: &ClusterName,
    print_only: bool,
) -> anyhow::Result<()> {
    let edited =
        edit(context, print_only, |document| steps::unlink_changes(&context.name, document, other))
            .await?;
    report_edit(context, &edited, print_only, &format!("not linked with {other} any more"))?;
    removed_services::report_removed(context, &edited, other, print_only).await
}

#[cfg(test)]
mod tests;
