//! Nodes that a command follows: the daemon of this machine, or all nodes of clusters by `kubectl exec` in their pods.

use std::io::{Read, Write};
use std::path::PathBuf;

use adit_daemon::admin::client::AdminAddress;
use adit_kubernetes::operator::context::Context;
use adit_kubernetes::operator::node_lines::{FollowedPod, node_pods};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::cluster_args::KubeconfigArgs;
use crate::status::admin_address;

/// The most nodes of one cluster that are followed: each costs a process here.
const MAX_NODES: usize = 32;

/// The nodes that a command follows.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct WatchArgs {
    /// The node's admin socket, or the loopback address that its admin server listens on; without it /run/adit/admin.sock
    #[arg(long, env = "ADIT_ADMIN", value_name = "SOCKET|IP:PORT")]
    admin: Option<String>,
    /// The node's configuration file, which says where its admin server is
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// Follow the nodes of a cluster instead, by its kubeconfig context; may be given for both sides of a link
    #[arg(long, value_name = "CONTEXT", conflicts_with = "config")]
    context: Vec<String>,
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
}

/// A node that is followed.
#[derive(Debug, Clone)]
pub(crate) enum WatchedNode {
    /// By its admin server.
    Local(AdminAddress),
    /// By a command in its pod.
    Pod(Context, FollowedPod),
}

/// The nodes that were found, and sentences about those that are not followed.
#[derive(Debug)]
pub(crate) struct WatchedNodes {
    pub(crate) nodes: Vec<WatchedNode>,
    pub(crate) errors: Vec<String>,
}

impl WatchedNode {
    /// Returns the name by which it is known before it says its own.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Local(address) => address.to_string(),
            Self::Pod(context, pod) => format!("{}/{}", context.name, pod.node),
        }
    }
}

impl WatchArgs {
    /// Returns where the daemon of this machine is.
    ///
    /// # Errors
    /// If the configuration file does not say it.
    pub(crate) fn local(&self) -> anyhow::Result<AdminAddress> {
        match admin_address(self.admin.as_deref(), self.config.as_deref()) {
            Ok((address, _)) => Ok(address),
            Err(report) => {
                anyhow::bail!("the configuration does not say where the daemon is\n{report}")
            }
        }
    }

    /// Finds the nodes.
    ///
    /// # Errors
    /// If the configuration file does not say where the daemon is.
    pub(crate) async fn find(&self) -> anyhow::Result<WatchedNodes> {
        let mut found = WatchedNodes { nodes: Vec::new(), errors: Vec::new() };
        if self.context.is_empty() {
            found.nodes.push(WatchedNode::Local(self.local()?));
        }
        for name in &self.context {
            let asked = async {
                let context = self.kubeconfig.connect(Some(name)).await?;
                let pods = node_pods(&context).await?;
                Ok::<_, adit_kubernetes::operator::context::ContextError>((context, pods))
            };
            match Box::pin(asked).await {
                Ok((context, pods)) => found.add(&context, pods),
                Err(error) => found.errors.push(error.to_string()),
            }
        }
        Ok(found)
    }
}

impl WatchedNodes {
    fn add(&mut self, context: &Context, pods: Vec<FollowedPod>) {
        let name = &context.name;
        match pods.len() {
            0 => self.errors.push(format!("context {name}: no node has a pod of adit-node")),
            all if all > MAX_NODES => self.errors.push(format!(
                "context {name}: {MAX_NODES} of {all} nodes are followed, the first by their names"
            )),
            _ => {}
        }
        let pods = pods.into_iter().take(MAX_NODES);
        self.nodes.extend(pods.map(|pod| WatchedNode::Pod(context.clone(), pod)));
    }
}

/// Returns when somebody wants the command to end.
///
/// # Errors
/// If the system gives no signals.
pub(crate) async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// Returns when standard input has ended: whoever started this command at a distance is gone. A thread waits for it, since nothing
/// else may be waited for while it is read.
pub(crate) async fn input_ended() {
    let (ended, wait) = oneshot::channel();
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut some = [0; 256];
        while input.read(&mut some).is_ok_and(|read| read > 0) {}
        // Nobody waits any more if the command ends for another reason.
        ended.send(()).ok();
    });
    wait.await.ok();
}

/// Writes a line for whoever follows this command. Returns false if nobody reads it any more.
pub(crate) fn print_line(line: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}
