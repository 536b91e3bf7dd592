//! The stores of an active controller, and the cluster's state that is read from them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use adit_core::name::{NodeName, ServiceName};
use adit_runtime::Tasks;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};

use super::cluster_state::{ClusterState, LocalEndpoints, describe_slice};
use super::kagent::{AgentState, KagentAgent};
use super::network_migration::NodePod;
use crate::api::{
    CA_SECRET, CONFIG_MAP, Export, Import, Link, NAMESPACE, NODE, SIGNER, SLICE_MANAGED_BY,
    SLICE_SERVICE, TRUST_CONFIG_MAP, service_name,
};
use crate::ownership::namespace_owner;
use crate::service::is_our_slice;
use crate::store::{ChangeSignal, Selector, Store};

/// Name of the tasks that keep the stores up to date.
const WATCHING: &str = "watching the cluster";

/// A store of each kind.
#[derive(Debug, Clone)]
pub(super) struct ControllerStores {
    pub(super) services: Store<Service>,
    pub(super) agents: Store<KagentAgent>,
    pub(super) namespaces: Store<PartialObjectMeta<Namespace>>,
    /// The slices that we write.
    pub(super) slices: Store<EndpointSlice>,
    /// The slices of Services that we import, or may import.
    pub(super) other_slices: Store<EndpointSlice>,
    /// The slices of our own nodes.
    pub(super) nodes: Store<EndpointSlice>,
    pub(super) links: Store<Link>,
    pub(super) imports: Store<Import>,
    pub(super) exports: Store<Export>,
    pub(super) config: Store<ConfigMap>,
    pub(super) trust: Store<ConfigMap>,
    pub(super) secret: Store<Secret>,
    pub(super) requests: Store<CertificateSigningRequest>,
}

impl ControllerStores {
    /// Starts to watch; ends with `tasks`.
    pub(super) fn watch(client: &Client, changed: &ChangeSignal, tasks: &mut Tasks) -> Self {
        let all = Selector::default;
        let named = |name| Selector::named(name);
        macro_rules! store {
            ($api:expr, $selection:expr) => {{
                let (store, task) = Store::new($api, $selection, changed);
                tasks.spawn(WATCHING, task);
                store
            }};
        }
        let (agents, task) = Store::optional(Api::all(client.clone()), all(), changed);
        tasks.spawn(WATCHING, task);
        let system = |name| Selector::labels(format!("{SLICE_SERVICE}={name}"));
        let (manager_label, own_manager) = SLICE_MANAGED_BY;
        Self {
            services: store!(Api::all(client.clone()), all()),
            agents,
            namespaces: store!(Api::all(client.clone()), all()),
            slices: store!(
                Api::all(client.clone()),
                Selector::labels(format!("{manager_label}={own_manager}"))
            ),
            other_slices: store!(Api::all(client.clone()), Selector::slices_of_services([])),
            nodes: store!(Api::namespaced(client.clone(), NAMESPACE), system(NODE)),
            links: store!(Api::all(client.clone()), all()),
            imports: store!(Api::all(client.clone()), all()),
            exports: store!(Api::all(client.clone()), all()),
            config: store!(Api::namespaced(client.clone(), NAMESPACE), named(CONFIG_MAP)),
            trust: store!(Api::namespaced(client.clone(), NAMESPACE), named(TRUST_CONFIG_MAP)),
            secret: store!(Api::namespaced(client.clone(), NAMESPACE), named(CA_SECRET)),
            requests: store!(
                Api::all(client.clone()),
                Selector::fields(format!("spec.signerName={SIGNER}"))
            ),
        }
    }

    /// Returns whether nodes' certificate requests can be answered: nothing else is needed for
    /// that.
    pub(super) fn can_sign(&self) -> bool {
        self.secret.was_listed() && self.requests.was_listed()
    }

    /// Returns the kinds that were never listed yet. Nothing else may be decided before all were.
    /// Agents are not among them: they are somebody else's kind.
    pub(super) fn unlisted(&self) -> Vec<&'static str> {
        [
            (self.services.was_listed(), "Services"),
            (self.namespaces.was_listed(), "Namespaces"),
            (self.slices.was_listed() && self.nodes.was_listed(), "EndpointSlices"),
            (self.links.was_listed(), "Links"),
            (self.imports.was_listed(), "Imports"),
            (self.exports.was_listed(), "Exports"),
            (self.config.was_listed() && self.trust.was_listed(), "ConfigMaps"),
            (self.secret.was_listed(), "Secrets"),
            (self.requests.was_listed(), "CertificateSigningRequests"),
        ]
        .into_iter()
        .filter_map(|(known, what)| (!known).then_some(what))
        .collect()
    }

    /// Returns the reason why Agents are unknown.
    pub(super) fn agents_trouble(&self) -> Option<String> {
        let why = self.agents.stale().map(|s| format!(": {}", s.reason)).unwrap_or_default();
        (!self.agents.was_listed()).then(|| {
            format!("kagent's Agents cannot be listed, what they may ask for stays as it was{why}")
        })
    }

    /// Returns the reason of the first store that cannot be refreshed.
    pub(super) fn stale(&self) -> Option<String> {
        let stale = [
            self.services.stale(),
            self.slices.stale(),
            self.other_slices.stale(),
            self.imports.stale(),
            self.exports.stale(),
            self.config.stale(),
        ];
        stale.into_iter().flatten().next().map(|stale| stale.reason)
    }

    /// Returns the cluster's state as it is known now.
    pub(super) fn cluster_state(&self) -> ClusterState {
        let service = |s: Arc<Service>| Some((service_name(&s.metadata, &s.name_any())?, s));
        let namespaces = self.namespaces.objects();
        let owner = namespaces.iter().find(|n| n.name_any() == NAMESPACE);
        let LocalSlices { serving, by, leaving } = self.local_slices();
        ClusterState {
            services: self.services.objects().into_iter().filter_map(service).collect(),
            agents: AgentState::read(&self.agents),
            namespaces: namespaces
                .iter()
                .filter(|n| n.metadata.deletion_timestamp.is_none())
                .map(|n| n.name_any())
                .collect(),
            slices: self
                .slices
                .objects()
                .into_iter()
                .map(|s| ((s.namespace().unwrap_or_default(), s.name_any()), s))
                .collect(),
            observed_services: self
                .other_slices
                .held_selector()
                .map(|selection| selection.services)
                .unwrap_or_default(),
            local_endpoints: serving,
            served_by: by,
            leaving,
            imports: self.imports.objects().into_iter().map(|o| (o.name_any(), o)).collect(),
            exports: self.exports.objects().into_iter().map(|o| (o.name_any(), o)).collect(),
            links: self.links.objects().into_iter().map(|o| (o.name_any(), o)).collect(),
            nodes: self.nodes(),
            owner: owner.map(|namespace| namespace_owner(namespace.uid())),
        }
    }

    /// Returns our own nodes and their addresses.
    pub(super) fn nodes(&self) -> BTreeMap<NodeName, Vec<IpAddr>> {
        let mut nodes: BTreeMap<NodeName, BTreeSet<IpAddr>> = BTreeMap::new();
        for slice in self.nodes.objects() {
            for endpoint in &slice.endpoints {
                let name = endpoint.node_name.as_deref().and_then(|name| name.parse().ok());
                let Some(node) = name else { continue };
                let addresses = endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok());
                nodes.entry(node).or_default().extend(addresses);
            }
        }
        nodes.into_iter().map(|(node, all)| (node, all.into_iter().collect())).collect()
    }

    /// Returns our own nodes' pods, without those that are terminating, or that a dead machine
    /// cannot terminate.
    pub(super) fn node_pods(&self) -> BTreeSet<NodePod> {
        let slices = self.nodes.objects();
        let pod = |endpoint: &Endpoint| {
            let says = endpoint.conditions.as_ref();
            // `ready` is always true: their addresses are published whether or not they are ready.
            let ready = says.and_then(|c| c.serving) != Some(false);
            let going = !ready && says.and_then(|c| c.terminating) == Some(true);
            let uid = endpoint.target_ref.as_ref()?.uid.clone()?;
            (!going).then_some(NodePod { uid, ready })
        };
        slices.iter().flat_map(|slice| &slice.endpoints).filter_map(pod).collect()
    }

    fn local_slices(&self) -> LocalSlices {
        let mut found = LocalSlices::default();
        for slice in self.other_slices.objects().iter().filter(|s| !is_our_slice(s)) {
            let (Some(service), Some(says)) =
                (ClusterState::service_of(slice), LocalEndpoints::from_slice(slice))
            else {
                continue;
            };
            let of_its_kind = match says {
                LocalEndpoints::Former => None,
                LocalEndpoints::Leaving => Some(&mut found.leaving),
                LocalEndpoints::Unready | LocalEndpoints::Ready => Some(&mut found.by),
            };
            if let Some(named) = of_its_kind {
                let text = describe_slice(slice);
                let first = named.entry(service.clone()).or_insert_with(|| text.clone());
                if text < *first {
                    *first = text;
                }
            }
            let known = found.serving.entry(service).or_insert(says);
            *known = says.max(*known);
        }
        found
    }
}

/// Slices of others: what they say of each Service, and the first of them by name.
#[derive(Default)]
struct LocalSlices {
    serving: BTreeMap<ServiceName, LocalEndpoints>,
    /// Those with endpoints that stay.
    by: BTreeMap<ServiceName, String>,
    /// Those whose endpoints are on their way out.
    leaving: BTreeMap<ServiceName, String>,
}
