//! Arguments of `adit link` and `adit unlink`.

use std::path::PathBuf;
use std::time::Duration;

use adit_config::cluster::NamePattern;
use adit_core::name::ClusterName;
use adit_core::policy::WorkloadPattern;
use adit_kubernetes::operator::link::LinkImportOptions;

use crate::cluster_args::{ClusterArgs, KubeconfigArgs, parse_duration};

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
    pub(super) by_hand: Option<BundleCommand>,
    /// The one cluster's kubeconfig context
    #[arg(required = true, value_name = "CONTEXT_A")]
    pub(super) a: Option<String>,
    /// The other's
    #[arg(required = true, value_name = "CONTEXT_B")]
    pub(super) b: Option<String>,
    /// Name of the first cluster, if it has none yet; otherwise it is named after its context
    #[arg(long, value_name = "NAME")]
    pub(super) name_a: Option<ClusterName>,
    /// The same for the second
    #[arg(long, value_name = "NAME")]
    pub(super) name_b: Option<ClusterName>,
    #[command(flatten)]
    pub(super) import: ImportOptions,
    /// Print the YAML of both ConfigMaps instead, for a repository; write nothing
    #[arg(long)]
    pub(super) print: bool,
    /// Time to wait for CAs and for the link, as 60s or 2m
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub(super) wait: Duration,
    #[command(flatten)]
    pub(super) kubeconfig: KubeconfigArgs,
}

/// Options for automatic imports from the other cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportOptions {
    /// Namespaces that are open to the other cluster, separated by commas; "*" stands for any characters, and alone
    /// for all. What it exports there fills Services of the same name that cannot have pods of their own: without a
    /// selector, or of a kagent Agent with replicas: 0. At first none
    #[arg(long, value_name = "NAMESPACES", value_delimiter = ',')]
    pub(super) import: Vec<NamePattern>,
    /// Make a Service in those namespaces where such an import has none; otherwise only Services that are there are
    /// filled
    #[arg(long)]
    pub(super) create_services: bool,
    /// Make no Services any more, and remove those that were made, but for Services that somebody took over and those
    /// of imports by name
    #[arg(long, conflicts_with = "create_services")]
    pub(super) no_create_services: bool,
    /// Workloads of this cluster that may use whatever is imported from the other, beside those of each Service's own
    /// namespace: NAMESPACE/SERVICEACCOUNT, separated by commas; "*" is any. In place of those that were named before.
    /// Not for imports that name callers themselves (adit import --allow)
    #[arg(long, value_name = "SERVICEACCOUNT", value_delimiter = ',')]
    pub(super) also_allow: Vec<WorkloadPattern>,
    /// Take back --also-allow
    #[arg(long, conflicts_with = "also_allow")]
    pub(super) no_also_allow: bool,
    /// Import nothing by itself; do not ask
    #[arg(long, conflicts_with_all = ["import", "create_services"])]
    pub(super) no_import: bool,
}

impl ImportOptions {
    /// Returns whether none of the options was given.
    pub(crate) fn is_default(&self) -> bool {
        let LinkImportOptions { namespaces, create_services, also_allow } = self.to_request();
        namespaces.is_none() && create_services.is_none() && also_allow.is_none()
    }

    /// Returns the options as the operator wishes them.
    pub(crate) fn to_request(&self) -> LinkImportOptions {
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

/// Without access to both clusters: carry a bundle by hand, each way
#[derive(Debug, clap::Subcommand)]
pub(super) enum BundleCommand {
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
    pub(super) contexts: Vec<String>,
    /// Without access to both: the other cluster's name
    #[arg(long, value_name = "CLUSTER", conflicts_with = "contexts")]
    pub(super) cluster: Option<ClusterName>,
    #[command(flatten)]
    pub(super) one: ClusterArgs,
    /// Print what would change; write nothing
    #[arg(long)]
    pub(super) print: bool,
}
