//! `adit node`: runs the daemon.
//!
//! Exit status: 0 it has drained, 1 it could not start (with everything that was in the way), 128 + N it
//! was ended at once by signal N, the second one.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use adit_core::name::NodeName;
use adit_daemon::node::{self, KubernetesNodeOptions};
use adit_daemon::process::ProcessExit;
use adit_kubernetes::node::NodeLocation;

/// Run a node: carry streams between this cluster and those it is linked with
///
/// Ends on SIGTERM or SIGINT: serves on until no stream is open or limits.leave is over, then resets what is left.
/// Where another process takes over, which on Kubernetes is the rule, takes nothing new and lets streams finish for
/// limits.drain. A second signal ends it at once. SIGHUP reads the file again, which happens by itself when it
/// changes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 it was asked to end and has drained, 1 it could not start, 128 + N it was \
                  ended at once by a second signal N."
)]
pub(crate) struct Args {
    /// The node's configuration file; adit check FILE says what is wrong with one
    #[arg(long, value_name = "FILE", required_unless_present = "kubernetes")]
    config: Option<PathBuf>,
    /// Take over from the node that runs with the same identity folder, and hand over to the next
    ///
    /// No connection is refused meanwhile. The admin server of each of them needs a place of its own (admin.socket).
    #[arg(long, requires = "config")]
    take_over: bool,
    /// Run as what the cluster around this pod says, instead of a file
    #[arg(long, conflicts_with = "config", requires = "node_name", requires = "node_ips")]
    kubernetes: bool,
    /// With --kubernetes: the folder of what the node keeps over restarts
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/adit")]
    state: PathBuf,
    /// With --kubernetes: the name of this node
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: Option<NodeName>,
    /// With --kubernetes: the addresses of this node
    #[arg(long, env = "NODE_IPS", value_name = "IP,…", value_delimiter = ',')]
    node_ips: Vec<IpAddr>,
    /// With --kubernetes: the UID of this pod
    #[arg(long, env = "POD_UID", value_name = "UID", default_value = "")]
    pod_uid: String,
}

/// Runs it until it has drained.
///
/// # Errors
/// Everything that prevents the start.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let ended = match (args.config, args.node_name) {
        (Some(file), _) => node::run(&file, args.take_over),
        (None, Some(name)) => {
            let location = NodeLocation { node: name, addresses: args.node_ips };
            node::run_in_cluster(KubernetesNodeOptions {
                state_folder: args.state,
                node: location,
                pod_uid: args.pod_uid,
            })
        }
        // The rules of the arguments exclude this.
        (None, None) => anyhow::bail!("either --config FILE or --kubernetes with --node-name"),
    };
    Ok(match ended {
        Ok(ProcessExit::Drained { .. }) => ExitCode::SUCCESS,
        Ok(ProcessExit::Immediate { signal }) => ExitCode::from(128 + signal),
        // The log has the reason.
        Err(_) => ExitCode::FAILURE,
    })
}
