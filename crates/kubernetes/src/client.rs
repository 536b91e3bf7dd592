//! The client for the API server of the cluster that this process runs in.

use std::time::Duration;

use kube::{Client, Config};

/// Longest time for connecting to the API server, and for an answer that is not a watch.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a watch before it is given up. The server sends a bookmark each minute.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// The reason why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum KubeClientError {
    /// The process is not a pod, or a pod without a ServiceAccount's token.
    #[error("this process is in no pod of a cluster: {0}")]
    NotInCluster(#[from] kube::config::InClusterError),
    /// A client cannot be made from the pod's settings.
    #[error("no client for the API server: {0}")]
    Client(#[from] kube::Error),
}

/// Returns a client of the cluster that this process is a pod of.
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

/// Describes what an API server says or why it was not reached, without the form in which the library keeps it.
pub(crate) fn describe_error(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error
        && !status.message.is_empty()
    {
        return status.message.clone();
    }
    // The outermost error of a connection says only that there was one.
    let mut described = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !described.contains(&text) {
            described += &format!(": {text}");
        }
        cause = inner.source();
    }
    described
}
