//! `adit controller`: runs the controller of a cluster.

use std::net::SocketAddr;
use std::process::ExitCode;

use adit_daemon::controller;
use adit_daemon::process::ProcessExit;

/// Run the controller of a cluster: give out certificates and addresses, keep EndpointSlices
///
/// Runs in a pod; of several, one is active. Ends on SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where /livez, /readyz and /metrics are served
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7845")]
    listen: SocketAddr,
    /// The name of this pod
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod_name: String,
    /// The UID of this pod
    #[arg(long, env = "POD_UID", value_name = "UID")]
    pod_uid: String,
}

/// Runs it until it is asked to end.
///
/// # Errors
/// Everything that prevents the start.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { listen, pod_name, pod_uid } = args;
    let namespace = adit_kubernetes::api::NAMESPACE.to_owned();
    let settings = adit_kubernetes::controller::ControllerPod { pod_name, pod_uid, namespace };
    Ok(match controller::run(controller::ControllerOptions { settings, listen }) {
        Ok(ProcessExit::Drained { .. }) => ExitCode::SUCCESS,
        Ok(ProcessExit::Immediate { signal }) => ExitCode::from(128 + signal),
        // The log has the reason.
        Err(_) => ExitCode::FAILURE,
    })
}
