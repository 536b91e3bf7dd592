//! What the cluster holds at one moment, found by Service.
//!
//! The pure parts ([`super::exports`], [`super::imports`], [`super::plan`]) read this and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use adit_core::name::{NodeName, ServiceName};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;

use super::kagent;
use crate::api::{Export, Import, Link, MANAGED_BY, SLICE_MANAGED_BY, SLICE_SERVICE, ServiceRef};

/// All that the plan is made from.
#[derive(Debug, Clone, Default)]
pub(super) struct ClusterState {
    /// All Services.
    pub(super) services: BTreeMap<ServiceName, Arc<Service>>,
    /// What kagent's Agents say of themselves.
    pub(super) agents: BTreeMap<ServiceName, ObjectMeta>,
    /// Those of them that run without any pod.
    pub(super) agents_without_pods: BTreeSet<ServiceName>,
    /// Whether it is not known what Agents there are: what they may have asked for stays as it was.
    pub(super) agents_unknown: bool,
    /// Namespaces in which objects can be made.
    pub(super) namespaces: BTreeSet<String>,
    /// EndpointSlices that we wrote, by namespace and name.
    pub(super) slices: BTreeMap<(String, String), Arc<EndpointSlice>>,
    /// Names of Services of which it is known whether they are `served`.
    pub(super) observed_services: Arc<BTreeSet<String>>,
    /// Services that have, or had, endpoints which are not from us.
    pub(super) local_endpoints: BTreeMap<ServiceName, LocalEndpoints>,
    /// What those endpoints are from, where there are some: an EndpointSlice and who manages it, in words.
    pub(super) served_by: BTreeMap<ServiceName, String>,
    /// By name of the object.
    pub(super) imports: BTreeMap<String, Arc<Import>>,
    /// By name of the object.
    pub(super) exports: BTreeMap<String, Arc<Export>>,
    /// By name of the object.
    pub(super) links: BTreeMap<String, Arc<Link>>,
    /// Our own nodes and their addresses.
    pub(super) nodes: BTreeMap<NodeName, Vec<IpAddr>>,
    /// Who owns all that we make, so that it goes with the installation.
    pub(super) owner: Option<OwnerReference>,
}

impl ClusterState {
    /// The labels and annotations that count for a Service. Where a kagent Agent stands behind it, the
    /// Agent's annotations do: kagent copies them to the Service late, and never takes them off again.
    pub(super) fn annotations_of(&self, service: &ServiceName) -> ServiceAnnotations<'_> {
        let object = self.services.get(service).map(|s| &s.metadata);
        let agent = self.agents.get(service).filter(|_| self.belongs_to_agent(service));
        ServiceAnnotations { object, agent }
    }

    /// Whether it cannot be known now what counts for a Service: its Agent would say.
    pub(super) fn is_undecided(&self, service: &ServiceName) -> bool {
        self.agents_unknown && self.belongs_to_agent(service)
    }

    fn belongs_to_agent(&self, service: &ServiceName) -> bool {
        let object = self.services.get(service);
        let mut owners = object.iter().flat_map(|o| o.owner_references());
        owners.any(|o| o.kind == "Agent" && o.name == service.name())
    }

    /// True if a Service cannot have pods of its own: it selects none, or those of a kagent Agent that runs without
    /// any. Such a one stands there to be filled.
    pub(super) fn is_stub(&self, service: &ServiceName) -> bool {
        let Some(object) = self.services.get(service) else { return false };
        let selector = object.spec.as_ref().and_then(|s| s.selector.as_ref());
        let Some(selector) = selector.filter(|selector| !selector.is_empty()) else { return true };
        let selects_the_agents = selector.get("kagent").is_some_and(|v| v == service.name());
        let uid = self.agents.get(service).and_then(|agent| agent.uid.as_ref());
        let is_the_agents = object.owner_references().iter().any(|owner| {
            let group = owner.api_version.split('/').next();
            owner.controller == Some(true)
                && (group, owner.kind.as_str()) == (Some(kagent::GROUP), "Agent")
                && owner.name == service.name()
                && Some(&owner.uid) == uid
        });
        selects_the_agents && is_the_agents && self.agents_without_pods.contains(service)
    }

    /// The Import that stands for a Service, unless it was released.
    pub(super) fn import_of(&self, service: &ServiceName) -> Option<&Import> {
        let import = self.imports.get(&service_ref(service).object_name())?;
        import.spec.released_at.is_none().then_some(&**import)
    }

    /// Whether a Service has a ready endpoint that is not from us.
    pub(super) fn is_served(&self, service: &ServiceName) -> bool {
        self.local_endpoints.get(service) == Some(&LocalEndpoints::Ready)
    }

    /// True if a Service has an endpoint that is not from us, ready or not.
    pub(super) fn has_endpoints(&self, service: &ServiceName) -> bool {
        self.local_endpoints.get(service).is_some_and(|serving| *serving > LocalEndpoints::Former)
    }

    /// Whether a Service was ever meant to be served by this cluster: what its clients expect there is not for
    /// another cluster to be, unless somebody says so. One without a selector waits for somebody to fill it.
    pub(super) fn was_served(&self, service: &ServiceName) -> bool {
        let Some(serving) = self.local_endpoints.get(service) else { return false };
        let spec = self.services.get(service).and_then(|s| s.spec.as_ref());
        let selects = spec.and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty());
        selects || *serving > LocalEndpoints::Former
    }

    /// The Service that a slice of ours is for.
    pub(super) fn service_of(slice: &EndpointSlice) -> Option<ServiceName> {
        let name = slice.labels().get(SLICE_SERVICE)?;
        service_name(&slice.metadata, name)
    }
}

/// A slice that is not ours and has endpoints, in words; none where it has none.
pub(super) fn displacing_slice(slice: &EndpointSlice) -> Option<String> {
    if slice.endpoints.is_empty() {
        return None;
    }
    let by = slice.labels().get(SLICE_MANAGED_BY.0);
    let by =
        by.map_or_else(|| "which nobody says to manage".into(), |by| format!("managed by {by}"));
    Some(format!("EndpointSlice {} ({by})", slice.name_any()))
}

/// What a Service's endpoints say that are not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LocalEndpoints {
    /// There were some once.
    Former,
    /// There are some, and none is ready.
    Unready,
    /// One is ready.
    Ready,
}

impl LocalEndpoints {
    /// What one slice says. The API server counts a slice's generation up when its endpoints change: one that
    /// is empty and was never changed never had any.
    pub(super) fn from_slice(slice: &EndpointSlice) -> Option<Self> {
        if has_ready_endpoint(slice) {
            Some(Self::Ready)
        } else if !slice.endpoints.is_empty() {
            Some(Self::Unready)
        } else {
            (slice.metadata.generation > Some(1)).then_some(Self::Former)
        }
    }
}

/// What is said of a Service, by itself or by its Agent.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServiceAnnotations<'a> {
    object: Option<&'a ObjectMeta>,
    agent: Option<&'a ObjectMeta>,
}

impl<'a> ServiceAnnotations<'a> {
    /// An annotation.
    pub(super) fn annotation(&self, key: &str) -> Option<&'a str> {
        let annotations = self.agent.or(self.object)?.annotations.as_ref()?;
        annotations.get(key).map(String::as_str)
    }

    /// Whether it has all of these labels; an Agent's count beside its Service's.
    pub(super) fn has_labels(&self, wanted: &BTreeMap<String, String>) -> bool {
        let has = |meta: Option<&ObjectMeta>, key: &String, value: &String| {
            meta.and_then(|m| m.labels.as_ref()?.get(key)) == Some(value)
        };
        wanted.iter().all(|(k, v)| has(self.agent, k, v) || has(self.object, k, v))
    }
}

/// The Service `name` in the namespace of `meta`.
pub(super) fn service_name(meta: &ObjectMeta, name: &str) -> Option<ServiceName> {
    format!("{}/{name}", meta.namespace.as_deref()?).parse().ok()
}

/// As it stands in our objects.
pub(super) fn service_ref(service: &ServiceName) -> ServiceRef {
    ServiceRef { namespace: service.namespace.to_string(), name: service.name().to_owned() }
}

/// Whether we made this Service and nobody took it over: an Agent of its name would.
pub(super) fn is_ours(service: &Service) -> bool {
    service.labels().get(MANAGED_BY.0).is_some_and(|v| v == MANAGED_BY.1)
        && service.owner_references().iter().all(|o| o.controller != Some(true))
}

/// Whether we wrote this slice.
pub(super) fn is_our_slice(slice: &EndpointSlice) -> bool {
    slice.labels().get(SLICE_MANAGED_BY.0).is_some_and(|v| v == SLICE_MANAGED_BY.1)
}

/// Whether somebody answers there.
fn has_ready_endpoint(slice: &EndpointSlice) -> bool {
    let ready = |c: &k8s_openapi::api::discovery::v1::EndpointConditions| c.ready != Some(false);
    slice.endpoints.iter().any(|e| e.conditions.as_ref().is_none_or(ready))
}

/// The TCP ports of a Service.
pub(super) fn tcp_ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    ports.iter().filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP")
}

/// Why a Service can be neither exported nor imported, whatever its name stands for.
pub(super) fn why_unusable(service: &Service) -> Option<&'static str> {
    let spec = service.spec.as_ref()?;
    (spec.type_.as_deref() == Some("ExternalName")).then_some("it is an ExternalName")
}
