//! Nodes' certificates: each request is checked against the very pod that made it, then signed or
//! denied.
//!
//! The request's own statements are not believed. The API server wrote into it who made it: the
//! ServiceAccount, and the pod and node that its token is bound to. What that pod is, the API
//! server says as well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use adit_core::name::NodeName;
use adit_pki::authority::{
    AuthorityError, DEFAULT_CERT_LIFETIME, IssuedCertificate, MIN_CERT_LIFETIME,
};
use adit_pki::{ClusterAuthority, UnixTime};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest as Request, CertificateSigningRequestCondition as Condition,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};

use super::request::with_timeout;
use super::stores::ControllerStores;
use crate::api::{NAMESPACE, NODE, SIGNER};
use crate::certificate_answer::CertificateAnswer;

/// Shortest lifetime that a request may ask for: Kubernetes' own bound.
const MIN_LIFETIME: Duration = Duration::from_secs(600);

/// The requester, as the API server names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequesterClaims {
    pub(super) node: NodeName,
    pub(super) pod: String,
    pub(super) uid: String,
}

/// The reason why a request is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CsrDenial {
    /// The reason as one word for machines.
    pub(super) reason: &'static str,
    /// The reason as one sentence.
    pub(super) why: String,
}

impl CsrDenial {
    /// The request was not made by a node of ours.
    fn not_our_node(why: impl Into<String>) -> Self {
        Self { reason: "NotOurNode", why: why.into() }
    }

    /// Whoever made the request, it asks for what nobody may have.
    fn bad_request(why: impl Into<String>) -> Self {
        Self { reason: "BadRequest", why: why.into() }
    }
}

/// The reason why a request stays open.
#[derive(Debug, thiserror::Error)]
pub(super) enum CsrError {
    /// The API server refused, or cannot be reached.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The CA cannot sign now, which is no fault of the request.
    #[error(transparent)]
    Ca(AuthorityError),
}

/// Returns whether a request still waits for us.
fn is_open(request: &Request) -> bool {
    request.spec.signer_name == SIGNER
        && CertificateAnswer::of(request) == CertificateAnswer::Pending
}

fn has_condition(request: &Request, kind: &str) -> bool {
    let conditions = request.status.as_ref().and_then(|s| s.conditions.as_deref());
    conditions.unwrap_or_default().iter().any(|c| c.type_ == kind && c.status == "True")
}

/// Returns the open requests in the order in which they are to be answered, each with whether it is
/// superseded: first the newest of each node, which the node waits for, then those that nobody
/// waits for any more. A node that gets no answer asks again and again; the requests that pile up
/// must not keep it from its certificate.
pub(super) fn answer_order(all: Vec<Arc<Request>>) -> Vec<(Arc<Request>, bool)> {
    let mut newest: BTreeMap<NodeName, Arc<Request>> = BTreeMap::new();
    let mut rest = Vec::new();
    let age = |r: &Request| (r.metadata.creation_timestamp.clone(), r.name_any());
    for request in all {
        let Ok(claims) = read_claims(&request) else {
            rest.push((request, false));
            continue;
        };
        let older = match newest.get(&claims.node) {
            Some(known) if age(known) > age(&request) => Some(request),
            Some(_) | None => newest.insert(claims.node, request),
        };
        rest.extend(older.map(|r| (r, true)));
    }
    let queue = newest.into_values().map(|r| (r, false)).chain(rest);
    queue.filter(|(request, _)| is_open(request)).collect()
}

/// Reads who made a request.
///
/// # Errors
/// The reason why no node of ours can have made it.
pub(super) fn read_claims(request: &Request) -> Result<RequesterClaims, CsrDenial> {
    let spec = &request.spec;
    let node_account = format!("system:serviceaccount:{NAMESPACE}:{NODE}");
    let user = spec.username.as_deref().unwrap_or_default();
    if user != node_account {
        let why = format!("made by {user}; only {node_account} may ask for a node's certificate");
        return Err(CsrDenial::not_our_node(why));
    }
    let mut usages = spec.usages.clone().unwrap_or_default();
    usages.sort();
    if usages != ["client auth", "digital signature", "server auth"] {
        let why = "usages must be digital signature, client auth and server auth";
        return Err(CsrDenial::bad_request(why));
    }
    let extra = |key: &str| {
        let name = format!("authentication.kubernetes.io/{key}");
        match spec.extra.as_ref().and_then(|e| e.get(&name)).map(Vec::as_slice) {
            Some([one]) => Ok(one.clone()),
            Some(_) | None => {
                let why = format!("its token is not bound to a pod on a node: no {name}");
                Err(CsrDenial::not_our_node(why))
            }
        }
    };
    let node = extra("node-name")?.parse::<NodeName>();
    let node = node.map_err(|e| CsrDenial::bad_request(e.to_string()))?;
    if node.is_controller() {
        return Err(CsrDenial::bad_request(format!("{node} is a name that no node may have")));
    }
    Ok(RequesterClaims { node, pod: extra("pod-name")?, uid: extra("pod-uid")? })
}

/// Checks that the pod which made a request is a node's daemon.
///
/// # Errors
/// One sentence that says what it is instead.
pub(super) fn confirm(claims: &RequesterClaims, pod: Option<&Pod>) -> Result<(), String> {
    let RequesterClaims { node, pod: name, uid } = claims;
    let pod = pod.filter(|p| p.uid().as_ref() == Some(uid));
    let pod = pod.ok_or_else(|| format!("there is no pod {name} with UID {uid} in {NAMESPACE}"))?;
    let runs_on = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    if runs_on != node.as_str() {
        return Err(format!("pod {name} runs on node {runs_on:?}, not on {node}"));
    }
    let daemon = |o: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
        o.kind == "DaemonSet" && o.name == NODE && o.controller == Some(true)
    };
    if !pod.owner_references().iter().any(daemon) {
        return Err(format!("pod {name} is not one of DaemonSet {NODE}"));
    }
    Ok(())
}

/// Answers a request; one that is `superseded` is denied. Returns a warning for operators.
///
/// # Errors
/// Those of the API server, and of the CA; the request stays open then.
pub(super) async fn answer(
    client: &Client,
    stores: &ControllerStores,
    authority: &ClusterAuthority,
    request: &Request,
    superseded: bool,
) -> Result<Option<String>, CsrError> {
    let api = Api::<Request>::all(client.clone());
    let (params, name) = (PostParams::default(), request.name_any());
    let answer = match read_claims(request) {
        Ok(_) if superseded => Err(CsrDenial {
            reason: "Superseded",
            why: "its node has made another request since".into(),
        }),
        Err(refusal) => Err(refusal),
        Ok(claims) => {
            let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
            let pod = with_timeout(pods.get_opt(&claims.pod)).await?;
            match confirm(&claims, pod.as_ref()).map(|()| sign(authority, request, &claims.node)) {
                Err(why) => Err(CsrDenial::not_our_node(why)),
                Ok(Ok(signed)) => Ok((claims.node, signed)),
                Ok(Err(AuthorityError::Request(why))) => Err(CsrDenial::bad_request(why)),
                Ok(Err(error)) => return Err(CsrError::Ca(error)),
            }
        }
    };
    let mut fresh = request.clone();
    match answer {
        Err(CsrDenial { reason, why }) if has_condition(request, "Approved") => {
            // Somebody approved it by hand. That cannot be taken back, but we do not sign it.
            add_condition(&mut fresh, "Failed", reason, &why);
            stores.requests.put(with_timeout(api.replace_status(&name, &params, &fresh)).await?);
            Ok((!superseded).then_some(why))
        }
        Err(CsrDenial { reason, why }) => {
            add_condition(&mut fresh, "Denied", reason, &why);
            let replaced = api.replace_subresource("approval", &name, &params, &fresh);
            stores.requests.put(with_timeout(replaced).await?);
            Ok((!superseded).then_some(why))
        }
        Ok((node, signed)) => {
            if !has_condition(request, "Approved") {
                let message = format!("the request is that of the daemon on node {node}");
                add_condition(&mut fresh, "Approved", "OurNode", &message);
                let replaced = api.replace_subresource("approval", &name, &params, &fresh);
                fresh = with_timeout(replaced).await?;
            }
            let status = fresh.status.get_or_insert_default();
            status.certificate = Some(ByteString(signed.to_pem().into_bytes()));
            stores.requests.put(with_timeout(api.replace_status(&name, &params, &fresh)).await?);
            tracing::info!(%node, request = name, "signed a node's certificate");
            Ok(None)
        }
    }
}

fn sign(
    authority: &ClusterAuthority,
    request: &Request,
    node: &NodeName,
) -> Result<IssuedCertificate, AuthorityError> {
    let asked = request.spec.expiration_seconds.and_then(|s| u64::try_from(s).ok());
    let life = asked.map_or(DEFAULT_CERT_LIFETIME, Duration::from_secs);
    let life = life.clamp(MIN_LIFETIME.max(MIN_CERT_LIFETIME), DEFAULT_CERT_LIFETIME);
    authority.sign_pem_request(&request.spec.request.0, node, life, UnixTime::now())
}

fn add_condition(request: &mut Request, kind: &str, reason: &str, message: &str) {
    let now = Some(Time(Timestamp::now()));
    let condition = Condition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: now.clone(),
        last_transition_time: now,
    };
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
}
