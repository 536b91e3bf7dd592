//! A node's certificate: requested through the API server, with a key that never leaves the node.
//!
//! The request names our own signer. The controller verifies by the API server's word that it comes
//! from this very node's pod, and signs it. Meanwhile the node can only wait.

use std::time::Duration;

use adit_core::name::NodeName;
use adit_core::spiffe::TrustDomain;
use adit_pki::authority::AuthorityError;
use adit_pki::{KeyKind, SigningRequest};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use tokio::time::{Instant, sleep};

use crate::api::{NAMESPACE, SIGNER};
use crate::certificate_answer::CertificateAnswer;
use crate::ownership::namespace_owner;

/// Lifetime that is requested for a certificate: it is renewed at half of that.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// From one look at an open request to the next, at first and at most.
const FIRST_POLL_INTERVAL: Duration = Duration::from_millis(200);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// From one log line about a request without an answer to the next.
const REMINDER_INTERVAL: Duration = Duration::from_secs(60);

/// A certificate and its key, as PEM.
pub struct NodeCertificate {
    /// The chain, leaf first.
    pub chain: Vec<u8>,
    /// The key.
    pub key: zeroize::Zeroizing<String>,
}

impl std::fmt::Debug for NodeCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeCertificate").finish_non_exhaustive()
    }
}

/// The reason why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateRequestError {
    /// No key or request could be made.
    #[error(transparent)]
    Key(#[from] AuthorityError),
    /// The API server refused, or cannot be reached.
    #[error("CertificateSigningRequest: {0}")]
    Api(#[from] kube::Error),
    /// The controller denied the request.
    #[error("certificate request {name} was denied: {message}")]
    Denied {
        /// The request.
        name: String,
        /// Why.
        message: String,
    },
}

/// Requests a certificate of `node` and waits for it, however long that takes: another request
/// would only be one more to answer.
///
/// # Errors
/// See [`CertificateRequestError`]; all of them are worth another attempt.
pub async fn request_certificate(
    client: &Client,
    domain: &TrustDomain,
    node: &NodeName,
) -> Result<NodeCertificate, CertificateRequestError> {
    let request = SigningRequest::new(&domain.node_id(node), KeyKind::P256)?;
    let owner = Api::<Namespace>::all(client.clone()).get(NAMESPACE).await?;
    let all: Api<CertificateSigningRequest> = Api::all(client.clone());
    let made = all.create(&PostParams::default(), &request_object(&request, node, &owner)).await?;
    let (name, mut reminder) = (made.name_any(), Instant::now() + REMINDER_INTERVAL);
    let mut wait = FIRST_POLL_INTERVAL;
    loop {
        sleep(wait).await;
        wait = (wait * 2).min(MAX_POLL_INTERVAL);
        if Instant::now() > reminder {
            tracing::warn!(
                request = name,
                "no answer to the certificate request; does the controller run?"
            );
            reminder = Instant::now() + REMINDER_INTERVAL;
        }
        let now = match all.get(&name).await {
            // An API server that is down comes back, and the request with it.
            Err(error) if !matches!(error, kube::Error::Api(_)) => continue,
            found => found?,
        };
        match CertificateAnswer::of(&now) {
            CertificateAnswer::Pending => {}
            CertificateAnswer::Issued(chain) => {
                return Ok(NodeCertificate { chain: chain.to_vec(), key: request.key_pem() });
            }
            CertificateAnswer::Refused(why) => {
                let message = why.to_owned();
                return Err(CertificateRequestError::Denied { name, message });
            }
        }
    }
}

fn request_object(
    request: &SigningRequest,
    node: &NodeName,
    owner: &Namespace,
) -> CertificateSigningRequest {
    let owner = namespace_owner(owner.uid());
    CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some(format!("adit-node-{node}-")),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.pem().as_bytes().to_vec()),
            signer_name: SIGNER.into(),
            expiration_seconds: i32::try_from(CERTIFICATE_LIFETIME.as_secs()).ok(),
            usages: Some(
                ["digital signature", "client auth", "server auth"].map(str::to_owned).into(),
            ),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}
