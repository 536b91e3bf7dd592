//! The time limit of every request to the API server that is not a watch.

use std::time::Duration;

use tokio::time::timeout;

/// Longest time for one request, for the lease or for a write.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// Returns the result of a request, or an error if it takes longer than [`REQUEST_TIMEOUT`].
pub(super) async fn with_timeout<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    timeout(REQUEST_TIMEOUT, request).await.unwrap_or_else(|_| {
        let silent =
            std::io::Error::new(std::io::ErrorKind::TimedOut, "the API server did not answer");
        Err(kube::Error::Service(silent.into()))
    })
}
