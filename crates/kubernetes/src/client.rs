//! How the API server is reached.

use std::time::Duration;

use kube::{Client, Config};

/// What a connection to the API server may take, and an answer that is no watch.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than a watch is silent: the server sends a bookmark each minute.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum KubeClientError {
    /// This is no pod, or one without a ServiceAccount's token.
    #[error("this process is in no pod of a cluster: {0}")]
    NotInCluster(#[from] kube::config::InClusterError),
    /// It cannot be made from what there is.
    #[error("no client for the API server: {0}")]
    Client(#[from] kube::Error),
}

/// A client of the cluster that this process is a pod of.
///
/// # Errors
/// [`KubeClientError`], see there.
pub fn in_cluster() -> Result<Client, KubeClientError> {
    Ok(Client::try_from(with_timeouts(Config::incluster()?))?)
}

fn with_timeouts(mut config: Config) -> Config {
    config.connect_timeout = Some(REQUEST_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.write_timeout = Some(REQUEST_TIMEOUT);
    config
}
