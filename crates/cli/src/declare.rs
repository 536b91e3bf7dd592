//! `adit export` and `adit import`: declares one Service, or takes the declaration back.

use std::process::ExitCode;

use adit_config::ClusterReport;
use adit_config::cluster::ExportAlias;
use adit_core::name::{AppProtocol, ClusterName, NameError, Namespace, ServiceName};
use adit_core::policy::WorkloadPattern;
use adit_core::snapshot::Class;
use adit_kubernetes::operator::context::Context;
use adit_kubernetes::operator::declare::{self, ExportRequest, ImportRequest};
use adit_kubernetes::operator::edit::{EditOutcome, edit};

use crate::cluster_args::{ClusterArgs, block_on, report_edit};

/// Let workloads of a linked cluster use a Service of this one
///
/// Adds to what was said of the Service before; with --remove it takes grants away, and without any left the
/// export.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    service: ServiceArg,
    /// Export it under another name: NAMESPACE/NAME, or NAME in its own namespace; with :PORT if its one port has
    /// another number there, or :PORTNAME=PORT,… The other cluster imports it by that name
    #[arg(long = "as", value_name = "NAME[:PORT]")]
    alias: Option<String>,
    /// Make a Service of that name in this cluster, too, so that one URL is valid in both. It goes with the export
    #[arg(long, requires = "alias", conflicts_with = "remove")]
    make_alias: bool,
    /// The cluster whose workloads may use it; may be given several times
    #[arg(long, value_name = "CLUSTER", value_delimiter = ',', required_unless_present = "remove")]
    to: Vec<ClusterName>,
    /// A ServiceAccount there that may use it, NAMESPACE/NAME or NAME in the Service's own namespace; "*" is any. May
    /// be given several times
    #[arg(
        long,
        value_name = "SERVICEACCOUNT",
        value_delimiter = ',',
        required_unless_present = "remove"
    )]
    allow: Vec<String>,
    /// Application protocol of its ports, such as kgateway.dev/a2a, for a Service that does not say
    /// so itself
    #[arg(long, value_name = "PROTOCOL")]
    app_protocol: Option<AppProtocol>,
    /// Class of its streams: requests and events, or large transfers, which get large windows on
    /// connections of their own. Stays as it is unless given; at first interactive
    #[arg(long, value_enum, value_name = "CLASS", conflicts_with = "remove")]
    class: Option<TrafficClass>,
    /// Take back the grants that --to and --allow name; without them the export
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    how: OutputArgs,
}

/// The traffic classes, as words of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum TrafficClass {
    Interactive,
    Bulk,
}

impl From<TrafficClass> for Class {
    fn from(class: TrafficClass) -> Self {
        match class {
            TrafficClass::Interactive => Self::Interactive,
            TrafficClass::Bulk => Self::Bulk,
        }
    }
}

/// Use a Service of a linked cluster under its own name here
///
/// Not needed for stubs in namespaces that are open to that cluster (`adit link --import`).
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    service: ServiceArg,
    /// The cluster that exports it
    #[arg(long, value_name = "CLUSTER", required_unless_present = "remove")]
    from: Option<ClusterName>,
    /// A local ServiceAccount that may use it, NAMESPACE/NAME or NAME in the Service's own namespace; "*" is any. May
    /// be given several times. Without it all of the Service's namespace, and those of `adit link --also-allow`
    #[arg(long, value_name = "SERVICEACCOUNT", value_delimiter = ',')]
    allow: Vec<String>,
    /// Only fill a Service that is there; make none
    #[arg(long)]
    no_create_service: bool,
    /// Make an Agent of kagent without pods for it, with this description, which callers' models read; kagent makes its
    /// Service then. Where kagent is not installed, nothing is made until it is
    #[arg(long, value_name = "DESCRIPTION")]
    kagent_agent: Option<String>,
    /// Import it no more
    #[arg(long, conflicts_with_all = ["allow", "no_create_service", "kagent_agent"])]
    remove: bool,
    #[command(flatten)]
    how: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServiceArg {
    /// The Service, NAMESPACE/NAME, or NAME with --namespace
    #[arg(value_name = "SERVICE")]
    service: String,
    /// Its namespace
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<Namespace>,
}

#[derive(Debug, clap::Args)]
struct OutputArgs {
    #[command(flatten)]
    one: ClusterArgs,
    /// Print the YAML of the ConfigMap instead, for a repository; write nothing
    #[arg(long)]
    print: bool,
}

impl ServiceArg {
    pub(crate) fn parse(&self) -> anyhow::Result<ServiceName> {
        let text = &self.service;
        match (&self.namespace, text.split_once('/')) {
            (None, None) => {
                anyhow::bail!("which namespace? write NAMESPACE/{text}, or add --namespace")
            }
            (Some(given), Some((written, _))) if given.as_str() != written => {
                anyhow::bail!("{text} is not in namespace {given}: leave out one of them")
            }
            (Some(given), None) => Ok(format!("{given}/{text}").parse()?),
            (_, Some(_)) => Ok(text.parse()?),
        }
    }
}

pub(crate) fn parse_all_workloads(
    texts: &[String],
    service: &ServiceName,
) -> Result<Vec<WorkloadPattern>, NameError> {
    texts.iter().map(|text| WorkloadPattern::parse_in(text, &service.namespace)).collect()
}

/// Exports.
///
/// # Errors
/// Everything that prevents it.
pub(crate) fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let service = args.service.parse()?;
    let alias = args.alias.as_deref().map(|text| ExportAlias::parse_in(text, &service.namespace));
    let request = ExportRequest {
        allow: parse_all_workloads(&args.allow, &service)?,
        service,
        alias: alias.transpose()?,
        make_alias: args.make_alias,
        to: args.to.clone(),
        app_protocol: args.app_protocol.clone(),
        class: args.class.map(Class::from),
        remove: args.remove,
    };
    block_on(async {
        let (context, print_only) = (args.how.one.connect().await?, args.how.print);
        let edited = edit(&context, print_only, |document| {
            declare::export_changes(&context.name, document, &request)
        })
        .await?;
        let verb = if request.remove { "takes back" } else { "lets" };
        let to: Vec<_> = request.to.iter().map(ClusterName::as_str).collect();
        let done = match (&to[..], request.remove) {
            ([], _) => format!("{} is not exported any more", request.service),
            (to, true) => {
                format!("{verb} what {} was granted on {}", to.join(", "), request.service)
            }
            (to, false) => {
                let alias = request.alias.as_ref().map(|alias| format!(" as {alias}"));
                format!(
                    "{verb} {} of {} use {}{}",
                    args.allow.join(", "),
                    to.join(", "),
                    request.service,
                    alias.unwrap_or_default()
                )
            }
        };
        report_edit(&context, &edited, print_only, &done)?;
        if !request.remove {
            warn_unlinked(&context, &edited, &request.to);
            if !edited.after.exports_as(&request.service)
                && !declare::service_exists(&context, &request.service).await?
            {
                let Context { name, .. } = &context;
                eprintln!("warning: there is no Service {} in context {name} yet", request.service);
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Imports.
///
/// # Errors
/// Everything that prevents it.
pub(crate) fn import(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let service = args.service.parse()?;
    let request = ImportRequest {
        allow: parse_all_workloads(&args.allow, &service)?,
        service,
        from: args.from.clone(),
        create_service: args.no_create_service.then_some(false),
        agent: args.kagent_agent.clone(),
        remove: args.remove,
    };
    block_on(async {
        let (context, print_only) = (args.how.one.connect().await?, args.how.print);
        let edited = edit(&context, print_only, |document| {
            declare::import_changes(&context.name, document, &request)
        })
        .await?;
        let done = match &request.from {
            Some(from) if !request.remove => format!("imports {} from {from}", request.service),
            _ => format!("imports {} no more", request.service),
        };
        report_edit(&context, &edited, print_only, &done)?;
        if !request.remove {
            warn_unlinked(&context, &edited, request.from.as_slice());
            if request.create_service == Some(false)
                && !declare::service_exists(&context, &request.service).await?
            {
                let Context { name, .. } = &context;
                eprintln!(
                    "warning: there is no Service {} in context {name} to fill",
                    request.service
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Warns of a declaration that cannot work yet.
fn warn_unlinked(context: &Context, edited: &EditOutcome, clusters: &[ClusterName]) {
    let Context { name, .. } = context;
    match edited.after.parse() {
        Ok((config, _)) => {
            let linked = |cluster: &ClusterName| config.links.iter().any(|l| l.cluster == *cluster);
            for cluster in clusters.iter().filter(|cluster| !linked(cluster)) {
                eprintln!("warning: context {name} is not linked with {cluster} yet: adit link");
            }
        }
        Err(report) if report.unnamed && report.errors().next().is_none() => {
            eprintln!("warning: context {name}: {}", ClusterReport::UNNAMED);
        }
        Err(report) => eprintln!(
            "warning: context {name}: this does not count until the configuration is mended:\n{report}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct ExportCli {
        #[command(flatten)]
        args: ExportArgs,
    }

    #[test]
    fn a_service_has_one_namespace() {
        let read = |text: &str| {
            let words = format!("export --to bank --allow a {text}");
            ExportCli::try_parse_from(words.split_whitespace()).unwrap().args.service.parse()
        };
        for good in ["n/s", "s -n n", "n/s --namespace n"] {
            assert_eq!(read(good).unwrap().to_string(), "n/s", "{good}");
        }
        for bad in ["s", "n/s -n m", "n/S", "n/s/t"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_export_says_to_whom_unless_it_is_taken_back() {
        let read =
            |text: &str| ExportCli::try_parse_from(format!("export {text}").split_whitespace());
        assert!(read("n/s --remove").is_ok());
        assert_eq!(read("n/s --to a --to b --allow x,y").unwrap().args.allow, ["x", "y"]);
        for bad in ["n/s", "n/s --to a", "n/s --allow a", "--to a --allow b"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
