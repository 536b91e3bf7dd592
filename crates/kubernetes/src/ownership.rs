//! Marks of ownership on the objects that we make.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::api::{MANAGED_BY, NAMESPACE};

/// Returns the reference to Adit's namespace, which has this UID, as an owner: what it owns is deleted with it.
pub(crate) fn namespace_owner(uid: Option<String>) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "Namespace".into(),
        name: NAMESPACE.into(),
        uid: uid.unwrap_or_default(),
        ..OwnerReference::default()
    }
}

/// Returns the metadata of an object that the controller makes.
pub(crate) fn owned_metadata(
    name: impl Into<String>,
    namespace: Option<&str>,
    owner: Option<&OwnerReference>,
) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: namespace.map(str::to_owned),
        labels: Some([(MANAGED_BY.0.into(), MANAGED_BY.1.into())].into()),
        owner_references: owner.map(|owner| vec![owner.clone()]),
        ..ObjectMeta::default()
    }
}
