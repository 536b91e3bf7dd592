//! The cluster's objects at one moment, found by Service. The pure parts ([`super::export`], [`super::import`],
//! [`super::link`]) read the cluster through this value only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use adit_core::name::{NodeName, ServiceName};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;

use super::kagent::{self, AgentState};
use crate::api::{
    ALIAS_OF, Export, Import, Link, MANAGED_BY, SLICE_CONTROLLER, SLICE_MANAGED_BY, SLICE_SERVICE,
    ServiceRef, service_name,
};
use crate::service::{do_all_leave, is_endpoint_ready};

/// Everything that a plan is made from.
#[derive(Debug, Clone, Default)]
pub(super) struct ClusterState {
    /// All Services.
    pub(super) services: BTreeMap<ServiceName, Arc<Service>>,
    /// kagent's Agents.
    pub(super) agents: AgentState,
    /// Namespaces in which objects can be created.
    pub(super) namespaces: BTreeSet<String>,
    /// EndpointSlices that we wrote, by namespace and name.
    pub(super) slices: BTreeMap<(String, String), Arc<EndpointSlice>>,
    /// Services whose endpoints of others are known, `NAMESPACE/NAME`: `local_endpoints` is complete for
    /// these.
    pub(super) observed_services: Arc<BTreeSet<String>>,
    /// Services that have, or had, endpoints which are not ours.
    pub(super) local_endpoints: BTreeMap<ServiceName, LocalEndpoints>,
    /// The EndpointSlice of those endpoints, and who manages it, in words.
    pub(super) served_by: BTreeMap<ServiceName, String>,
    /// The EndpointSlice of endpoints that are on their way out, likewise.
    pub(super) leaving: BTreeMap<ServiceName, String>,
    /// By name of the object.
    pub(super) imports: BTreeMap<String, Arc<Import>>,
    /// By name of the object.
    pub(super) exports: BTreeMap<String, Arc<Export>>,
    /// By name of the object.
    pub(super) links: BTreeMap<String, Arc<Link>>,
    /// Our own nodes and their addresses.
    pub(super) nodes: BTreeMap<NodeName, Vec<IpAddr>>,
    /// Owner of everything that we make, so that it is deleted with the installation.
    pub(super) owner: Option<OwnerReference>,
}

impl ClusterState {
    /// Returns the labels and annotations that count for a Service. If it belongs to a kagent
    /// Agent, the Agent's count: kagent copies them to the Service late, and never removes them.
    pub(super) fn annotations_of(&self, service: &ServiceName) -> ServiceAnnotations<'_> {
        let object = self.services.get(service).map(|s| &s.metadata);
        let agent = self.agents.all.get(service).filter(|_| self.belongs_to_agent(service));
        ServiceAnnotations { object, agent }
    }

    /// Returns whether the annotations of a Service are unknown now, because its Agent cannot be
    /// read.
    pub(super) fn is_undecided(&self, service: &ServiceName) -> bool {
        self.agents.is_unknown && self.belongs_to_agent(service)
    }

    fn belongs_to_agent(&self, service: &ServiceName) -> bool {
        let object = self.services.get(service);
        let mut owners = object.iter().flat_map(|o| o.owner_references());
        owners.any(|o| o.kind == "Agent" && o.name == service.name())
    }

    /// Returns whether a Service cannot have pods of its own: it has no selector, or that of a
    /// kagent Agent that runs without any pod. Such a Service exists to be filled.
    pub(super) fn is_stub(&self, service: &ServiceName) -> bool {
        let Some(object) = self.services.get(service) else { return false };
        let selector = object.spec.as_ref().and_then(|s| s.selector.as_ref());
        let Some(selector) = selector.filter(|selector| !selector.is_empty()) else { return true };
        let selects_the_agents = selector.get("kagent").is_some_and(|v| v == service.name());
        let uid = self.agents.all.get(service).and_then(|agent| agent.uid.as_ref());
        let is_the_agents = object.owner_references().iter().any(|owner| {
            let group = owner.api_version.split('/').next();
            owner.controller == Some(true)
                && (group, owner.kind.as_str()) == (Some(kagent::GROUP), "Agent")
                && owner.name == service.name()
                && Some(&owner.uid) == uid
        });
        selects_the_agents && is_the_agents && self.agents.without_pods.contains(service)
    }

    /// Returns the Import that stands for a Service, unless it was released.
    pub(super) fn import_of(&self, service: &ServiceName) -> Option<&Import> {
        let import = self.imports.get(&ServiceRef::from(service).object_name())?;
        import.spec.released_at.is_none().then_some(&**import)
    }

    /// Returns whether a Service has a ready endpoint that is not ours.
    pub(super) fn is_served(&self, service: &ServiceName) -> bool {
        self.local_endpoints.get(service) == Some(&LocalEndpoints::Ready)
    }

    /// Returns whether a Service has an endpoint that is not ours and stays, ready or not.
    pub(super) fn has_endpoints(&self, service: &ServiceName) -> bool {
        self.local_endpoints.get(service).is_some_and(|serving| *serving > LocalEndpoints::Leaving)
    }

    /// Returns whether a Service was ever meant to be served by this cluster. Another cluster may
    /// not take it over, because its clients expect the local one, unless somebody says so. A
    /// Service without a selector waits for somebody to fill it.
    pub(super) fn was_served(&self, service: &ServiceName) -> bool {
        let Some(serving) = self.local_endpoints.get(service) else { return false };
        let spec = self.services.get(service).and_then(|s| s.spec.as_ref());
        let selects = spec.and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty());
        selects || *serving > LocalEndpoints::Former
    }

    /// Returns the Service of a slice of ours.
    pub(super) fn service_of(slice: &EndpointSlice) -> Option<ServiceName> {
        let name = slice.labels().get(SLICE_SERVICE)?;
        service_name(&slice.metadata, name)
    }
}

/// Describes a slice that is not ours.
pub(super) fn describe_slice(slice: &EndpointSlice) -> String {
    let by = slice.labels().get(SLICE_MANAGED_BY.0);
    let by =
        by.map_or_else(|| "which nobody says to manage".into(), |by| format!("managed by {by}"));
    format!("EndpointSlice {} ({by})", slice.name_any())
}

/// State of a Service's endpoints that are not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LocalEndpoints {
    /// There were endpoints once.
    Former,
    /// There are endpoints that somebody takes out of service: kube-proxy uses them only while there is no ready one.
    Leaving,
    /// There are endpoints, and none is ready.
    Unready,
    /// An endpoint is ready.
    Ready,
}

impl LocalEndpoints {
    /// Reads the state of one slice. The API server increments a slice's generation when its
    /// endpoints change, so an empty slice that was never changed never had any.
    pub(super) fn from_slice(slice: &EndpointSlice) -> Option<Self> {
        if slice.endpoints.iter().any(is_endpoint_ready) {
            Some(Self::Ready)
        } else if !slice.endpoints.is_empty() {
            Some(if is_leaving(slice) { Self::Leaving } else { Self::Unready })
        } else {
            (slice.metadata.generation > Some(1)).then_some(Self::Former)
        }
    }
}

/// Labels and annotations of a Service, its own or its Agent's.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServiceAnnotations<'a> {
    object: Option<&'a ObjectMeta>,
    agent: Option<&'a ObjectMeta>,
}

impl<'a> ServiceAnnotations<'a> {
    /// Returns the value of an annotation.
    pub(super) fn annotation(&self, key: &str) -> Option<&'a str> {
        let annotations = self.agent.or(self.object)?.annotations.as_ref()?;
        annotations.get(key).map(String::as_str)
    }

    /// Returns whether it has all of these labels; an Agent's labels count beside its Service's.
    pub(super) fn has_labels(&self, wanted: &BTreeMap<String, String>) -> bool {
        let has = |meta: Option<&ObjectMeta>, key: &String, value: &String| {
            meta.and_then(|m| m.labels.as_ref()?.get(key)) == Some(value)
        };
        wanted.iter().all(|(k, v)| has(self.agent, k, v) || has(self.object, k, v))
    }
}

/// Returns whether we made this Service for an import, and nobody took it over, as an Agent of its
/// name would.
pub(super) fn is_ours(service: &Service) -> bool {
    is_made(service) && !service.annotations().contains_key(ALIAS_OF)
}

/// Returns whether we made this Service for the alias of an export, and nobody took it over.
pub(super) fn is_alias(service: &Service) -> bool {
    is_made(service) && service.annotations().contains_key(ALIAS_OF)
}

fn is_made(service: &Service) -> bool {
    service.labels().get(MANAGED_BY.0).is_some_and(|v| v == MANAGED_BY.1)
        && service.owner_references().iter().all(|o| o.controller != Some(true))
}

/// Returns whether somebody takes the endpoints of a slice out of service, as `adit migrate` does. Pods of the Service itself
/// that end say nothing: others come after them.
fn is_leaving(slice: &EndpointSlice) -> bool {
    let of_pods = slice.labels().get(SLICE_MANAGED_BY.0).is_some_and(|by| by == SLICE_CONTROLLER);
    !of_pods && do_all_leave(slice)
}
