//! The node-local range of a node on Kubernetes: taken before it starts, kept while it runs, and left
//! behind when it ends, unless Adit leaves the cluster.
//!
//! Between two lives of the daemon the range has to stay: without it, what pods send to an import would
//! leave the node in plain text, towards wherever its default route leads.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use adit_config::cluster::{NetworkConfig, NetworkMode};
use adit_config::config::NodeConfig;
use adit_host::routes::{self, LocalRange, NetworkWatch};
use adit_kubernetes::{Client, node};
use adit_runtime::Tasks;
use tokio::time::{sleep, timeout};

use super::cache;
use crate::node::handover::HandoverState;
use crate::readiness::Readiness;

/// The range is checked this often even if the kernel reports no change.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// Asking whether Adit is being uninstalled may take this long; then the question is repeated.
const REMOVAL_CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes it so, and has one of `tasks` keep it so. While it is not, the node is not ready.
///
/// # Errors
/// What the operating system said.
pub(in crate::node) async fn install(
    network: &NetworkConfig,
    node: &NodeConfig,
    readiness: &Readiness,
    handover: &HandoverState,
    tasks: &mut Tasks,
) -> Result<(), String> {
    if network.mode == NetworkMode::NodeAddress {
        // What an earlier configuration made, and its process may still keep.
        let replaced = remove_when_taken_over(readiness.clone());
        tasks.spawn(
            "removing the node-local range",
            handover.clone().run_until_taken_over(replaced),
        );
        return routes::remove().await.map(drop).map_err(explain);
    }
    let range = LocalRange { v4: Some(network.range), v6: Some(network.range6) };
    let addresses: Vec<IpAddr> = node.advertise.iter().map(|a| a.ip()).collect();
    ensure(&range, &addresses).await.map_err(explain)?;
    let keeping = maintain(range, addresses, readiness.clone());
    // Two processes that keep different ranges would never end.
    tasks.spawn("keeping the node-local range", handover.clone().run_until_taken_over(keeping));
    Ok(())
}

/// Takes it away, and what is kept in `folder`, if Adit leaves the cluster: its DaemonSet is gone. Nobody
/// keeps the range any more.
pub(in crate::node) async fn remove_if_uninstalled(client: &Client, folder: &Path) {
    match timeout(REMOVAL_CHECK_TIMEOUT, node::is_uninstalled(client)).await {
        Ok(Ok(true)) => {
            match routes::remove().await {
                Ok(_) => tracing::info!("Adit leaves the cluster: the range is taken away"),
                Err(error) => tracing::error!(%error, "the node-local range is left behind"),
            }
            if let Err(error) = cache::clear_state(folder) {
                tracing::error!("{error}");
            }
        }
        Ok(Ok(false)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the node-local range stays"),
        Err(_) => tracing::warn!("the API server does not answer: the node-local range stays"),
    }
}

/// Once this process has taken over.
async fn remove_when_taken_over(readiness: Readiness) {
    readiness.ready().await;
    if let Err(error) = routes::remove().await {
        tracing::error!(%error, "the node-local range is left behind");
    }
    std::future::pending().await
}

/// Once this process is to end, or has a successor: asks whether Adit leaves, after which nobody comes any more.
pub(in crate::node) async fn check_removal(client: Client, handover: HandoverState) {
    tokio::select! {
        () = handover.taken_over.cancelled() => {}
        () = handover.ending.cancelled() => {}
    }
    while !matches!(
        timeout(REMOVAL_CHECK_TIMEOUT, node::is_uninstalled(&client)).await,
        Ok(Ok(true))
    ) {
        sleep(REMOVAL_CHECK_TIMEOUT).await;
    }
    tracing::info!("Adit leaves the cluster: nobody comes after this process");
    handover.removed.cancel();
    std::future::pending().await
}

async fn maintain(range: LocalRange, addresses: Vec<IpAddr>, readiness: Readiness) {
    let mut watch = None;
    let mut missing = None;
    loop {
        if watch.is_none() {
            watch = NetworkWatch::new()
                .inspect_err(|error| tracing::warn!(%error, "routes are looked at every 10 s only"))
                .ok();
        }
        let changed = async {
            match &mut watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        // Whether something was heard or not, it is looked again.
        if let Ok(Err(error)) = timeout(POLL_INTERVAL, changed).await {
            tracing::warn!(%error, "changes of routes are not heard");
            watch = None;
            sleep(POLL_INTERVAL).await;
        }
        match ensure(&range, &addresses).await {
            Ok(()) => missing = None,
            Err(error) if missing.is_none() => {
                tracing::error!(%error, "the node-local range is not as it should be");
                missing = Some(readiness.wait_for("the node-local range"));
            }
            Err(_) => {}
        }
    }
}

async fn ensure(range: &LocalRange, addresses: &[IpAddr]) -> io::Result<()> {
    let changes = routes::ensure(range, addresses).await?;
    if !changes.is_empty() {
        let (added, removed) = (changes.added.join(", "), changes.removed.join(", "));
        tracing::info!(added, removed, "the node-local range");
    }
    Ok(())
}

fn explain(error: io::Error) -> String {
    format!("the node-local range: {error}")
}
