//! The record that a migration keeps of a lateral hack, for the way back: a ConfigMap beside the importing Service.

use std::collections::BTreeMap;

use adit_core::name::ServiceName;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde::{Deserialize, Serialize};

use super::MigrationError;
use crate::operator::context::{Context, post_parameters};

/// The ConfigMap's key.
const KEY: &str = "before.json";

/// Slices and node ports as they were.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MigrationRecord {
    /// The slices, in service.
    pub(super) slices: Vec<EndpointSlice>,
    /// The node ports that they led to; `None` if they led elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node_ports: Option<SavedNodePorts>,
}

/// The node ports of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SavedNodePorts {
    /// By the Service's own port.
    pub(super) ports: BTreeMap<i32, i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) external_traffic_policy: Option<String>,
}

impl MigrationRecord {
    /// Returns the names of the slices, for people.
    pub(super) fn slice_names(&self) -> String {
        let names: Vec<String> = self.slices.iter().map(ResourceExt::name_any).collect();
        format!("EndpointSlice {}", names.join(", "))
    }
}

impl SavedNodePorts {
    /// Reads those of a Service of type NodePort; `None` for any other.
    pub(super) fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() != Some("NodePort") {
            return None;
        }
        let ports = spec.ports.iter().flatten();
        let ports = ports.filter_map(|port| Some((port.port, port.node_port?))).collect();
        Some(Self { ports, external_traffic_policy: spec.external_traffic_policy.clone() })
    }
}

/// Returns the name of the ConfigMap.
pub(super) fn name(service: &ServiceName) -> String {
    format!("adit-migration-{}", service.name())
}

/// Reads what was kept.
pub(super) async fn read(
    context: &Context,
    service: &ServiceName,
) -> Result<Option<MigrationRecord>, MigrationError> {
    let maps = context.namespaced_api::<ConfigMap>(service.namespace.as_str());
    let doing = format!("read ConfigMap {}/{}", service.namespace, name(service));
    let map = maps.get_opt(&name(service)).await.map_err(context.request_error(&doing))?;
    let Some(text) = map.and_then(|map| map.data?.remove(KEY)) else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| MigrationError::Refused {
        context: context.name.clone(),
        what: format!(
            "ConfigMap {}/{} does not hold what a migration keeps: {error}",
            service.namespace,
            name(service)
        ),
        hint: "delete it, if the hack is as it was".to_owned(),
    })
}

/// Writes what is kept, in place of what was kept before.
pub(super) async fn write(
    context: &Context,
    service: &ServiceName,
    record: &MigrationRecord,
) -> Result<(), MigrationError> {
    let maps = context.namespaced_api::<ConfigMap>(service.namespace.as_str());
    let doing = format!("write ConfigMap {}/{}", service.namespace, name(service));
    let text = serde_json::to_string_pretty(record).map_err(|error| MigrationError::Refused {
        context: context.name.clone(),
        what: format!("what is there cannot be kept: {error}"),
        hint: "please report this".to_owned(),
    })?;
    let mut map = ConfigMap { data: Some([(KEY.to_owned(), text)].into()), ..ConfigMap::default() };
    map.metadata.name = Some(name(service));
    map.metadata.namespace = Some(service.namespace.to_string());
    map.metadata.labels = Some([("app.kubernetes.io/part-of".into(), "adit".into())].into());
    let done = match maps.create(&post_parameters(), &map).await {
        // Without a version: in place of whatever is there.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            maps.replace(&name(service), &post_parameters(), &map).await
        }
        done => done,
    };
    done.map_err(context.request_error(&doing))?;
    Ok(())
}

/// Deletes what was kept.
pub(super) async fn forget(context: &Context, service: &ServiceName) -> Result<(), MigrationError> {
    let maps = context.namespaced_api::<ConfigMap>(service.namespace.as_str());
    let doing = format!("delete ConfigMap {}/{}", service.namespace, name(service));
    match maps.delete(&name(service), &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        done => {
            done.map_err(context.request_error(&doing))?;
            Ok(())
        }
    }
}
