//! How the API server is reached.

use std::time::Duration;

use kube::{Client, Config};

/// What a connection to the API server may take, and an answer that is no watch.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than a watch is silent: the server sends a bookmark each minute.
const SILENCE: Duration = Duration::from_secs(120);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
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
/// [`ClientError`], see there.
pub fn in_cluster() -> Result<Client, ClientError> {
    Ok(Client::try_from(patient(Config::incluster()?))?)
}

fn patient(mut config: Config) -> Config {
    config.connect_timeout = Some(PATIENCE);
    config.read_timeout = Some(SILENCE);
    config.write_timeout = Some(PATIENCE);
    config
}
