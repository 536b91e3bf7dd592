//! Adit's own objects, and the names by which its parts know each other's.
//!
//! Three cluster-scoped kinds, all written by the controller and by nobody else, hold what must last and
//! be seen: [`Link`], [`Import`] and [`Export`]. People write the ConfigMap [`CONFIG_MAP`], annotations and
//! labels; nodes read all of it. `adit crds` prints the definitions, and `daemonset/crds` holds them.

use std::borrow::Cow;
use std::time::Duration;

use adit_core::name::{NameError, ServiceName};
use adit_core::policy::{self, WorkloadPattern};
use adit_core::snapshot::{HoldLimits, PeerPort};
use adit_core::text::shorten;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The annotation of a Service that was made for an import: the cluster that it is imported from.
pub const MADE_FOR: &str = "adit.dev/imported-from";
/// The annotation of a Service that was made for the alias of an export: the Service that is exported, as
/// `NAMESPACE/NAME`.
pub const ALIAS_OF: &str = "adit.dev/alias-of";
/// Namespace of every object of Adit that is not cluster-scoped.
pub const NAMESPACE: &str = "adit-system";
/// The operator's configuration. Each of its keys is a fragment of one document.
pub const CONFIG_MAP: &str = "adit";
/// This cluster's trust bundle, made by the controller: key [`TRUST_BUNDLE_KEY`].
pub const TRUST_CONFIG_MAP: &str = "adit-trust";
/// PEM certificates, no keys.
pub const TRUST_BUNDLE_KEY: &str = "ca.pem";
/// The Secret of this cluster's CA, of type `kubernetes.io/tls`: `tls.crt`, `tls.key`.
pub const CA_SECRET: &str = "adit-ca";
/// The headless Service of the nodes, by which they find each other. Also their ServiceAccount and
/// DaemonSet.
pub const NODE: &str = "adit-node";
/// The controller's ServiceAccount and Deployment, and the Lease by which one of its pods is active.
pub const CONTROLLER: &str = "adit-controller";
/// The signer that nodes name in their certificate requests.
pub const SIGNER: &str = "adit.dev/node";
/// Label on every object that the controller made.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "adit-controller");
/// Label of an EndpointSlice that names its writer.
pub const SLICE_MANAGED_BY: (&str, &str) =
    ("endpointslice.kubernetes.io/managed-by", "adit-controller.adit.dev");
/// The writer, by that label, of slices that hold a Service's own pods.
pub const SLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";
/// The Service of an EndpointSlice.
pub const SLICE_SERVICE: &str = "kubernetes.io/service-name";

/// Annotations by which an owner of a Service, or of a kagent Agent, asks for something. They count only in
/// namespaces for which the administrator's configuration says so (`optIn`).
pub mod annotation {
    /// On a Service: the clusters that it is exported to, separated by commas.
    pub const EXPORT: &str = "adit.dev/export";
    /// On a Service that is exported: who may use it, as `CLUSTER/NAMESPACE/SERVICEACCOUNT` separated by
    /// commas; `*` is any namespace or ServiceAccount.
    pub const ALLOW: &str = "adit.dev/allow";
    /// On a Service that is exported: its name for other clusters, in its own namespace, as `NAME`, `NAME:PORT`
    /// or `NAME:PORTNAME=PORT` with several separated by commas.
    pub const EXPORT_AS: &str = "adit.dev/export-as";
    /// On a Service that is exported: what its ports speak, as `PORTNAME=VALUE` separated by commas, or one
    /// VALUE for all; for Services that do not say so themselves.
    pub const APP_PROTOCOL: &str = "adit.dev/app-protocol";
    /// On a Service: the cluster whose Service of the same name stands behind it.
    pub const IMPORT_FROM: &str = "adit.dev/import-from";
}

/// Annotation of the controller's Lease: what is wrong with the controller that holds it, for
/// people.
pub const TROUBLE: &str = "adit.dev/trouble";
/// Annotation of the controller's Lease: the release of the controller that holds it.
pub const RELEASE: &str = "adit.dev/release";
/// Annotation of the controller's Lease: what its nodes report of themselves, as JSON of a
/// [`crate::summary::NodesSummary`].
pub const NODES: &str = "adit.dev/nodes";
/// Longest text written for people, in bytes: the limit of an Event's note.
const MAX_TEXT_BYTES: usize = 1024;

/// Returns as much of a text as is written into an object: [`MAX_TEXT_BYTES`] at most.
pub(crate) fn truncated(text: &str) -> Cow<'_, str> {
    shorten(text, MAX_TEXT_BYTES)
}

/// The definitions of our kinds.
#[must_use]
pub fn definitions() -> [CustomResourceDefinition; 3] {
    [Link::crd(), Import::crd(), Export::crd()].map(|mut definition| {
        // The same from whatever packs them, so that they can be kept when all else is deleted.
        let labels = [("component", "definitions"), ("part-of", "adit")];
        let labels = labels.map(|(key, value)| (format!("app.kubernetes.io/{key}"), value.into()));
        definition.metadata.labels = Some(labels.into());
        definition
    })
}

/// A namespaced name as it stands in an object.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRef {
    /// The namespace.
    pub namespace: String,
    /// The Service's own name.
    pub name: String,
}

impl ServiceRef {
    /// The name of the cluster-scoped object that stands for it: neither part has a dot.
    #[must_use]
    pub fn object_name(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }

    /// Returns the name as the rest of Adit writes it.
    ///
    /// # Errors
    /// If it is not a valid name of a Service.
    pub fn parse(&self) -> Result<ServiceName, NameError> {
        format!("{}/{}", self.namespace, self.name).parse()
    }
}

/// Returns the Service `name` in the namespace of `meta`.
pub(crate) fn service_name(meta: &ObjectMeta, name: &str) -> Option<ServiceName> {
    format!("{}/{name}", meta.namespace.as_deref()?).parse().ok()
}

impl From<&ServiceName> for ServiceRef {
    fn from(service: &ServiceName) -> Self {
        Self { namespace: service.namespace.to_string(), name: service.name().to_owned() }
    }
}

/// Workloads of a cluster that the context names; `*` is any.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Workloads {
    /// Their namespace, or `*`.
    pub namespace: String,
    /// Their ServiceAccount, or `*`.
    pub service_account: String,
}

impl From<&WorkloadPattern> for Workloads {
    fn from(pattern: &WorkloadPattern) -> Self {
        Self {
            namespace: pattern.namespace.to_string(),
            service_account: pattern.service_account.to_string(),
        }
    }
}

impl TryFrom<&Workloads> for WorkloadPattern {
    type Error = NameError;

    fn try_from(workloads: &Workloads) -> Result<Self, NameError> {
        Ok(Self {
            namespace: workloads.namespace.parse()?,
            service_account: workloads.service_account.parse()?,
        })
    }
}

/// A grant of an export: workloads of one cluster that may use it.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// The cluster of the workloads.
    pub cluster: String,
    /// The workloads there.
    #[serde(flatten)]
    pub workloads: Workloads,
}

impl From<&policy::Grant> for Grant {
    fn from(grant: &policy::Grant) -> Self {
        Self { cluster: grant.cluster.to_string(), workloads: (&grant.workloads).into() }
    }
}

/// A Service of a linked cluster that can be used here. Its name is `NAMESPACE.NAME`.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "adit.dev",
    version = "v1alpha1",
    kind = "Import",
    plural = "imports",
    status = "ObjectStatus",
    category = "adit",
    derive = "PartialEq",
    printcolumn = r#"{"name":"From","type":"string","jsonPath":".spec.from"}"#,
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".spec.addresses[0]"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ImportSpec {
    /// The Service, named as in the exporting cluster.
    pub service: ServiceRef,
    /// The exporting cluster.
    pub from: String,
    /// Node-local addresses that stand for it, one for each IP family of its Service. Allocated
    /// once.
    pub addresses: Vec<String>,
    /// Its ports.
    #[serde(default)]
    pub ports: Vec<ImportPort>,
    /// Local workloads that may use it.
    #[serde(default)]
    pub allow: Vec<Workloads>,
    /// The EndpointSlice that serves in its place in this cluster, in words. While it is set, no
    /// traffic goes to the import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub displaced_by: Option<String>,
    /// Set (RFC 3339) when it is no longer imported. Nodes then ignore it; its addresses stay
    /// reserved for a day, after which the object is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
}

/// A port of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportPort {
    /// Its name in the exporting cluster; may be empty.
    #[serde(default)]
    pub name: String,
    /// Its number there.
    pub number: u16,
    /// Its application protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// The port that nodes listen on.
    pub listen: u16,
}

impl From<&PeerPort> for ImportPort {
    /// No port to listen on is allocated yet.
    fn from(port: &PeerPort) -> Self {
        Self {
            name: port.name.to_string(),
            number: port.number,
            app_protocol: port.app_protocol.as_ref().map(ToString::to_string),
            listen: 0,
        }
    }
}

/// A Service of this cluster that others may use. Its name is `NAMESPACE.NAME`.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "adit.dev",
    version = "v1alpha1",
    kind = "Export",
    plural = "exports",
    status = "ObjectStatus",
    category = "adit",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Valid","type":"string","jsonPath":".status.conditions[?(@.type=='Valid')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Valid')].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ExportSpec {
    /// The Service, as other clusters name it.
    pub service: ServiceRef,
    /// The Service of this cluster that it leads to, if that has another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_service: Option<ServiceRef>,
    /// Its TCP ports.
    #[serde(default)]
    pub ports: Vec<ExportPort>,
    /// Workloads that may use it.
    #[serde(default)]
    pub allow: Vec<Grant>,
    /// Where a stream may enter this cluster: `any` (default) or `sameNode`. Without `anyEndpoint`
    /// it is always `sameNode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<String>,
    /// Class of its streams: `interactive` (default) or `bulk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// True if a stream whose outcome is unknown may be sent again.
    #[serde(default)]
    pub replay: bool,
    /// True if a node may dial more than its own pods of the Service's namespace, because an
    /// administrator named this very Service and not a label or an annotation.
    #[serde(default)]
    pub any_endpoint: bool,
    /// Interval between probes of healthy backends, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_ms: Option<u64>,
    /// Bounds within which streams wait for the first backend; without it they are refused at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<ExportHold>,
}

/// Bounds within which streams wait for the first backend of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExportHold {
    /// Longest wait of a stream, in milliseconds.
    pub timeout_ms: u64,
    /// Most streams of one cluster that wait on one node.
    pub streams: u32,
}

impl From<HoldLimits> for ExportHold {
    fn from(limits: HoldLimits) -> Self {
        let timeout_ms = u64::try_from(limits.timeout.as_millis()).unwrap_or(u64::MAX);
        Self { timeout_ms, streams: limits.streams }
    }
}

impl From<ExportHold> for HoldLimits {
    fn from(hold: ExportHold) -> Self {
        Self {
            timeout: Duration::from_millis(hold.timeout_ms).min(Self::MAX_TIMEOUT),
            streams: hold.streams.min(Self::MAX_STREAMS),
        }
    }
}

impl ExportSpec {
    /// Returns the Service of this cluster that the export leads to.
    #[must_use]
    pub fn backend(&self) -> &ServiceRef {
        self.backend_service.as_ref().unwrap_or(&self.service)
    }
}

/// A port of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExportPort {
    /// Its name; empty for the one port of a Service that names none.
    #[serde(default)]
    pub name: String,
    /// Its number, as other clusters know it.
    pub number: u16,
    /// Its application protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

/// The standing relation with another cluster. Its name is the other cluster's.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "adit.dev",
    version = "v1alpha1",
    kind = "Link",
    plural = "links",
    status = "ObjectStatus",
    category = "adit",
    derive = "PartialEq",
    printcolumn = r#"{"name":"TrustDomain","type":"string","jsonPath":".spec.trustDomain"}"#,
    printcolumn = r#"{"name":"Up","type":"string","jsonPath":".status.conditions[?(@.type=='Up')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Up')].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct LinkSpec {
    /// Its trust domain.
    pub trust_domain: String,
    /// Last known addresses of its nodes, 16 at most: seeds beside those of the configuration.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// Status of one of our objects.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// Of a Link: `Up` (a node of ours has heard from that cluster recently) and `Configured`. Of
    /// an Export: `Valid` (its Service exists and can be exported), `Linked` (all clusters that it
    /// is granted to are linked), `Ready` (a backend answers) and `Alias` (the Service that was asked
    /// for under its other name is there). Of an Import: `Ready` (a request
    /// is served) and `Served` (stays once a request was served).
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

impl ObjectStatus {
    /// Returns the conditions of an object that may have no status yet.
    #[must_use]
    pub fn conditions(status: Option<&Self>) -> &[Condition] {
        status.map_or(&[], |status| &status.conditions)
    }

    /// Returns the condition of that type.
    #[must_use]
    pub fn condition<'a>(status: Option<&'a Self>, kind: &str) -> Option<&'a Condition> {
        Self::conditions(status).iter().find(|condition| condition.type_ == kind)
    }
}
