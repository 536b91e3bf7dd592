//! The installation of Adit that a node belongs to.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};

use crate::api::{NAMESPACE, NODE};

/// Number of denials after which rights are believed to be gone, and below the pause after each.
const MAX_DENIALS: u32 = 3;
const DENIAL_BACKOFF: Duration = Duration::from_secs(1);

/// Returns the UID of Adit's namespace, which is another one after a new installation.
///
/// # Errors
/// If the API server cannot be asked.
pub async fn installation_uid(client: &Client) -> Result<Option<String>, kube::Error> {
    Ok(Api::<Namespace>::all(client.clone()).get(NAMESPACE).await?.uid())
}

/// Returns whether Adit is being removed from this cluster: the DaemonSet that runs this node is
/// gone, or the right to read it is, which is removed together with it. An API server that has just
/// started denies rights, too, so a denial counts only if it lasts.
///
/// An invalid token is no such denial: it ends with its pod, and a pod that is deleted with force
/// is gone before its process is.
///
/// # Errors
/// If the API server cannot be asked.
pub async fn is_uninstalled(client: &Client) -> Result<bool, kube::Error> {
    let all: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
    for _ in 0..MAX_DENIALS {
        match all.get(NODE).await {
            Ok(found) => return Ok(found.metadata.deletion_timestamp.is_some()),
            Err(kube::Error::Api(answer)) if answer.code == 404 => return Ok(true),
            Err(kube::Error::Api(answer)) if answer.code == 403 => {
                tokio::time::sleep(DENIAL_BACKOFF).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_api_server::{FakeApiServer, Fault};

    #[tokio::test(start_paused = true)]
    async fn a_node_whose_own_pod_is_gone_does_not_take_that_for_the_end_of_adit() {
        let server = FakeApiServer::default();
        let leaves = async |status| {
            server.heal();
            server.fail(move |_, _| Some(Fault::Status(status)));
            is_uninstalled(&server.client()).await.ok()
        };
        assert_eq!(leaves(401).await, None, "the token ends with its pod: nobody can say");
        assert_eq!(leaves(403).await, Some(true));
        assert_eq!(leaves(404).await, Some(true));
    }
}
