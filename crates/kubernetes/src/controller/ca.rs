//! The cluster's CA: created at the first start, or provided by the operator; with its bundle, and
//! the controller's identity.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use adit_core::spiffe::TrustDomain;
use adit_pki::authority::{AuthorityError, DEFAULT_CA_LIFETIME, DEFAULT_CERT_LIFETIME};
use adit_pki::bundle::BundleError;
use adit_pki::identity::IdentityError;
use adit_pki::{ClusterAuthority, Identity, KeyKind, TrustBundle, UnixTime};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};

use super::request::with_timeout;
use super::stores::ControllerStores;
use crate::api::{CA_SECRET, NAMESPACE, TRUST_BUNDLE_KEY, TRUST_CONFIG_MAP};
use crate::ownership::owned_metadata;

/// Entry of the Secret with further CA certificates that are trusted: the next CA, before it signs,
/// and the previous one, as long as its certificates are valid.
const ALSO_TRUSTED: &str = "also-trusted.pem";

/// The reason why there is no usable CA.
#[derive(Debug, thiserror::Error)]
pub(super) enum CaError {
    #[error("Secret {CA_SECRET} cannot be used: {0}")]
    Unusable(#[from] AuthorityError),
    #[error("Secret {CA_SECRET} has no {0}")]
    MissingEntry(&'static str),
    #[error(
        "Secret {CA_SECRET} is the CA of trust domain {found}, but the configuration says {wanted}: \
         set trustDomain to {found}, or replace the Secret, which ends all links until their other \
         ends have the new bundle"
    )]
    TrustDomain { found: TrustDomain, wanted: TrustDomain },
    #[error(
        "Secret {CA_SECRET} is gone, but nodes and linked clusters believe the CA that it held \
         (ConfigMap {TRUST_CONFIG_MAP}): put it back from a backup; or delete the ConfigMap, too, to have a \
         new CA made, which ends all links until their other ends have the new bundle"
    )]
    Lost,
    #[error("the bundle cannot be made of tls.crt and {ALSO_TRUSTED} of Secret {CA_SECRET}: {0}")]
    Bundle(#[from] BundleError),
    #[error("our own certificate cannot be made: {0}")]
    Identity(#[from] IdentityError),
    #[error("{0}")]
    Client(#[from] kube::Error),
}

impl CaError {
    /// Returns the reason as one word for machines.
    pub(super) fn reason(&self) -> &'static str {
        if matches!(self, Self::Lost) { "CaMissing" } else { "UnusableCa" }
    }
}

/// The CA, and what was made with it.
#[derive(Debug)]
pub(super) struct ClusterCa {
    pub(super) authority: ClusterAuthority,
    pub(super) bundle: TrustBundle,
    pub(super) identity: Arc<Identity>,
    secret: Arc<Secret>,
}

impl ClusterCa {
    /// Returns the CA that the Secret holds now. `before` is returned while nothing has changed and
    /// our own certificate is in the first half of its life. Without a configuration (`domain` is
    /// `None`) the trust domain is the Secret's, and without a Secret there is no CA.
    pub(super) async fn load_or_create(
        before: Option<&Arc<Self>>,
        client: &Client,
        stores: &ControllerStores,
        domain: Option<&TrustDomain>,
        now: UnixTime,
    ) -> Result<Option<Arc<Self>>, CaError> {
        let secret = match (stores.secret.get(Some(NAMESPACE), CA_SECRET), domain) {
            (Some(secret), _) => secret,
            (None, Some(domain)) => {
                let secret = match published_bundle(stores) {
                    None => generate_secret(domain, now)?,
                    // Whoever deleted it did not mean to end all links.
                    Some(bundle) => match before.filter(|ca| ca.bundle.to_pem() == bundle) {
                        Some(ca) => secret_with(ca.secret.data.clone()),
                        None => return Err(CaError::Lost),
                    },
                };
                Arc::new(create_secret(client, stores, &secret, domain).await?)
            }
            (None, None) => return Ok(None),
        };
        let fits = |ca: &Arc<Self>| domain.is_none_or(|domain| ca.authority.domain() == domain);
        let same = before.filter(|ca| ca.secret.data == secret.data && fits(ca));
        match same.filter(|ca| has_half_its_life(&ca.identity, now)) {
            Some(ca) => Ok(Some(ca.clone())),
            None => Self::from_secret(secret, domain, now).map(|ca| Some(Arc::new(ca))),
        }
    }

    fn from_secret(
        secret: Arc<Secret>,
        wanted: Option<&TrustDomain>,
        now: UnixTime,
    ) -> Result<Self, CaError> {
        let entry = |key| {
            let data = secret.data.as_ref().and_then(|data| data.get(key));
            data.map(|bytes| bytes.0.as_slice()).ok_or(CaError::MissingEntry(key))
        };
        let authority = ClusterAuthority::from_pem(entry("tls.crt")?, entry("tls.key")?)?;
        let found = authority.domain().clone();
        if let Some(wanted) = wanted.filter(|wanted| found != **wanted) {
            return Err(CaError::TrustDomain { found, wanted: wanted.clone() });
        }
        let mut pem = authority.bundle()?.to_pem();
        if let Some(more) = secret.data.as_ref().and_then(|data| data.get(ALSO_TRUSTED)) {
            pem.push_str(&String::from_utf8_lossy(&more.0));
        }
        let bundle = TrustBundle::from_pem(found.clone(), pem.as_bytes())?;
        let own = authority.issue_controller(KeyKind::P256, DEFAULT_CERT_LIFETIME, now)?;
        let key = own.key();
        let controller_ids = BTreeSet::from([found.controller_id()]);
        let identity = Identity::new(own.certificate.chain, key, &bundle, &controller_ids, now)?;
        Ok(Self { authority, bundle, identity: Arc::new(identity), secret })
    }
}

fn has_half_its_life(identity: &Identity, now: UnixTime) -> bool {
    let (from, to) = (identity.not_before().as_secs(), identity.not_after().as_secs());
    // The clock may be set back as well, to where the CA itself is not valid yet.
    (from..from + to.saturating_sub(from) / 2).contains(&now.as_secs())
}

/// Returns the bundle that nodes and linked clusters were given.
fn published_bundle(stores: &ControllerStores) -> Option<String> {
    trust_record(stores).remove(TRUST_BUNDLE_KEY).filter(|bundle| !bundle.trim().is_empty())
}

/// Creates a CA.
fn generate_secret(domain: &TrustDomain, now: UnixTime) -> Result<Secret, CaError> {
    let made = ClusterAuthority::create(domain.clone(), KeyKind::P256, DEFAULT_CA_LIFETIME, now)?;
    let certificate = ByteString(made.bundle()?.to_pem().into_bytes());
    let key = ByteString(made.key_pem().as_bytes().to_vec());
    Ok(secret_with(Some([("tls.crt".into(), certificate), ("tls.key".into(), key)].into())))
}

/// Returns the Secret with this content.
fn secret_with(data: Option<BTreeMap<String, ByteString>>) -> Secret {
    let mut secret = Secret { type_: Some("kubernetes.io/tls".into()), data, ..Secret::default() };
    secret.metadata = owned_metadata(CA_SECRET, None, None);
    secret
}

/// Writes the Secret with `create`: of two controllers that try, one fails and takes the other's.
async fn create_secret(
    client: &Client,
    stores: &ControllerStores,
    secret: &Secret,
    domain: &TrustDomain,
) -> Result<Secret, CaError> {
    let api = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    let secret = match with_timeout(api.create(&PostParams::default(), secret)).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            with_timeout(api.get(CA_SECRET)).await?
        }
        created => {
            let created = created?;
            tracing::info!(trust_domain = %domain, "wrote this cluster's CA, Secret {CA_SECRET}");
            created
        }
    };
    stores.secret.put(secret.clone());
    Ok(secret)
}

/// Returns the data of ConfigMap [`TRUST_CONFIG_MAP`].
pub(super) fn trust_record(stores: &ControllerStores) -> BTreeMap<String, String> {
    let stored = stores.trust.get(Some(NAMESPACE), TRUST_CONFIG_MAP);
    stored.and_then(|stored| stored.data.clone()).unwrap_or_default()
}

/// Writes the ConfigMap from which nodes and `adit link` read the bundle, if it differs.
///
/// # Errors
/// Those of the API server.
pub(super) async fn publish_trust(
    client: &Client,
    stores: &ControllerStores,
    data: BTreeMap<String, String>,
) -> Result<(), kube::Error> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    let params = PostParams::default();
    let written = match stores.trust.get(Some(NAMESPACE), TRUST_CONFIG_MAP) {
        Some(stored) if stored.data.as_ref() == Some(&data) => return Ok(()),
        Some(stored) => {
            let fresh = ConfigMap { data: Some(data), ..(*stored).clone() };
            with_timeout(api.replace(&fresh.name_any(), &params, &fresh)).await?
        }
        None => {
            let metadata = owned_metadata(TRUST_CONFIG_MAP, None, None);
            let fresh = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
            with_timeout(api.create(&params, &fresh)).await?
        }
    };
    stores.trust.put(written);
    Ok(())
}
