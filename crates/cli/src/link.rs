//! `adit link` and `adit unlink`: links two clusters, or one with a bundle that was carried here.
//!
//! Here is the order of the steps; the steps themselves are in [`adit_kubernetes::operator::link`].

mod args;
mod description;
mod question;
mod removed_services;

use std::io::{stderr, stdin};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use adit_config::cluster::{ClusterLink, NamePattern, render};
use adit_core::name::ClusterName;
use adit_kubernetes::operator::bundle;
use adit_kubernetes::operator::context::{ConfigDocument, Context};
use adit_kubernetes::operator::edit::{ConfigChanges, EditOutcome, edit};
use adit_kubernetes::operator::link::{
    self as steps, ClusterIdentity, LinkError, LinkImportOptions,
};
use anyhow::Context as _;
use tokio::time::Instant;

use self::args::BundleCommand;
pub(crate) use self::args::{ImportOptions, LinkArgs, UnlinkArgs};
use self::description::describe_import;
use crate::cluster_args::{ClusterArgs, NEXT_STEP, block_on, report_edit};
use crate::output::print;

/// Returns the options for a cluster's link with `other`; asks for them once, if a new link has
/// none.
pub(crate) fn ask_namespaces(
    options: &LinkImportOptions,
    document: &ConfigDocument,
    other: &ClusterName,
    answer: &mut Option<Vec<NamePattern>>,
) -> anyhow::Result<LinkImportOptions> {
    let mut options = options.clone();
    if options.namespaces.is_some() || steps::is_linked(document, other) {
        return Ok(options);
    }
    if answer.is_none() {
        *answer = ask_once()?;
    }
    options.namespaces.clone_from(answer);
    Ok(options)
}

/// Asks which namespaces are open to the other cluster, where somebody can be asked.
///
/// # Errors
/// If the terminal cannot be read or written.
pub(crate) fn ask_once() -> anyhow::Result<Option<Vec<NamePattern>>> {
    if !question::can_ask() {
        return Ok(None);
    }
    Ok(Some(question::ask(&mut stdin().lock(), &mut stderr())?))
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
pub(crate) fn explained(error: LinkError) -> anyhow::Error {
    let hint = match &error {
        LinkError::SameName(_) => {
            "name one of them with --name-a or --name-b (adit install: --name CONTEXT=NAME); a cluster that has a name \
             keeps it"
        }
        LinkError::NameConflict { .. } => "leave the option out",
        LinkError::NoUsableName(_) => {
            "choose one with --name-a or --name-b; with --name where there is one context (adit install: --name \
             CONTEXT=NAME)"
        }
        LinkError::InvalidBundle(_) => "`adit link export` on the other side writes one",
        LinkError::Edit(_) | LinkError::SameTrustDomain(_) | LinkError::TimedOut { .. } => {
            return error.into();
        }
    };
    anyhow::anyhow!("{error}\n  hint: {hint}")
}

/// Options for linking two clusters.
#[derive(Debug, Clone)]
pub(crate) struct PairOptions<'a> {
    /// Names of the clusters, if they have none yet.
    pub(crate) names: [Option<&'a ClusterName>; 2],
    /// Options for automatic imports, on both sides.
    pub(crate) import: LinkImportOptions,
    /// True if the changes are only printed.
    pub(crate) print: bool,
    /// Time to wait for CAs, and again for the link.
    pub(crate) wait: Duration,
}

async fn link_both(args: &LinkArgs, a: &str, b: &str) -> anyhow::Result<()> {
    let a = args.kubeconfig.connect(Some(a)).await?;
    let b = args.kubeconfig.connect(Some(b)).await?;
    let options = PairOptions {
        names: [args.name_a.as_ref(), args.name_b.as_ref()],
        import: args.import.to_request(),
        print: args.print,
        wait: args.wait,
    };
    if link_pair(&a, &b, &options, &mut None).await? {
        print(NEXT_STEP)?;
    }
    Ok(())
}

/// Links two clusters, and returns whether anything was changed. `answer` is what somebody has said to the question of
/// namespaces, and gets what is said here.
pub(crate) async fn link_pair(
    a: &Context,
    b: &Context,
    options: &PairOptions<'_>,
    answer: &mut Option<Vec<NamePattern>>,
) -> anyhow::Result<bool> {
    let name_a =
        steps::identify(&a.name, &a.document().await?, options.names[0]).map_err(explained)?;
    let name_b =
        steps::identify(&b.name, &b.document().await?, options.names[1]).map_err(explained)?;
    steps::check_distinct(&name_a, &name_b).map_err(explained)?;
    let unnamed: Vec<_> =
        [(a, &name_a), (b, &name_b)].into_iter().filter(|(_, n)| !n.changes.is_empty()).collect();
    if options.print && !unnamed.is_empty() {
        print_names(&unnamed)?;
        return Ok(false);
    }
    for (context, named) in unnamed {
        write_name(context, named).await?;
    }
    let import = &options.import;
    let options_a = ask_namespaces(import, &a.document().await?, &name_b.name, answer)?;
    let options_b = ask_namespaces(import, &b.document().await?, &name_a.name, answer)?;
    let deadline = Instant::now() + options.wait;
    let bundle_a = bundle::wait_for_bundle(a, &name_a, deadline).await?;
    let bundle_b = bundle::wait_for_bundle(b, &name_b, deadline).await?;
    let first = link_one_side(a, &bundle_b, &options_a, options.print).await?;
    if options.print {
        print("---\n")?;
    }
    let second = link_one_side(b, &bundle_a, &options_b, options.print).await?;
    if options.print {
        return Ok(false);
    }
    let deadline = Instant::now() + options.wait;
    steps::wait_until_up(a, &bundle_b.cluster, deadline).await?;
    steps::wait_until_up(b, &bundle_a.cluster, deadline).await?;
    print(&format!("{} and {} are linked: both say the link is up\n", name_a.name, name_b.name))?;
    Ok(first || second)
}

fn print_names(unnamed: &[(&Context, &ClusterIdentity)]) -> anyhow::Result<()> {
    for (context, named) in unnamed {
        let changes = named.changes.clone();
        report_edit(context, &EditOutcome { changes, ..EditOutcome::default() }, true, "")?;
        print("---\n")?;
    }
    print(
        "# A CA is made when its cluster has a name. Apply this, and run the same command again for the links.\n",
    )
}

pub(crate) async fn write_name(context: &Context, named: &ClusterIdentity) -> anyhow::Result<()> {
    let edited = steps::write_name(context, named).await?;
    let done = format!("named this cluster {}, trust domain {}", named.name, named.trust_domain);
    report_edit(context, &edited, false, &done)
}

/// Writes one side's link. Returns whether anything changed.
pub(crate) async fn link_one_side(
    context: &Context,
    other: &ClusterLink,
    options: &LinkImportOptions,
    print_only: bool,
) -> anyhow::Result<bool> {
    let edited = edit(context, print_only, |document| {
        steps::link_changes(&context.name, document, other, options)
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
        let imports = describe_import(&config, &other.cluster);
        print(&format!("context {}: {imports}\n", context.name))?;
    }
    removed_services::report_removed(context, &edited, &other.cluster, print_only).await?;
    Ok(!edited.changes.is_empty())
}

async fn export_bundle(
    one: &ClusterArgs,
    output: Option<&PathBuf>,
    chosen: Option<&ClusterName>,
    wait: Duration,
) -> anyhow::Result<()> {
    let context = one.connect().await?;
    let named =
        steps::identify(&context.name, &context.document().await?, chosen).map_err(explained)?;
    if !named.changes.is_empty() {
        let edited = steps::write_name(&context, &named).await?;
        if !edited.changes.is_empty() {
            eprintln!("context {}: named this cluster {}", context.name, named.name);
        }
    }
    let bundle = bundle::wait_for_bundle(&context, &named, Instant::now() + wait).await?;
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
    chosen: Option<&ClusterName>,
    import: &LinkImportOptions,
    print_only: bool,
) -> anyhow::Result<()> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let other = bundle::parse_bundle(&text).map_err(explained)?;
    let context = one.connect().await?;
    let named =
        steps::identify(&context.name, &context.document().await?, chosen).map_err(explained)?;
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
