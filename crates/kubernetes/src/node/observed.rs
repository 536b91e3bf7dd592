//! All that a node has seen of its cluster, with no more of each object than it needs.
//!
//! It is cached on disk as JSON, so that a node that starts while the API server is down serves
//! what it knew. No field holds a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use adit_core::name::NodeName;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use crate::api::{ExportSpec, ImportSpec, SLICE_SERVICE, ServiceRef};
use crate::service::{is_endpoint_ready, is_our_slice};

/// The cluster's objects as the node has seen them. Keys are names of objects, `NAMESPACE/NAME` if
/// they have a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedCluster {
    /// The UID of Adit's namespace. Data from another installation is not used.
    #[serde(default)]
    pub installation: Option<String>,
    /// The boot ID of the machine when it was seen.
    #[serde(default)]
    pub boot_id: String,
    /// True if all of it was listed since the process started.
    #[serde(skip)]
    pub is_complete: bool,
    /// The data of ConfigMap [`crate::api::CONFIG_MAP`]; on disk, the last good data.
    pub config: BTreeMap<String, String>,
    /// This cluster's trust bundle, PEM; `None` before the controller has made one.
    pub bundle: Option<String>,
    /// Last known addresses of each linked cluster's nodes.
    pub links: BTreeMap<String, Vec<String>>,
    /// The Import objects.
    pub imports: BTreeMap<String, ImportSpec>,
    /// The Export objects.
    pub exports: BTreeMap<String, ExportSpec>,
    /// The EndpointSlices of exported Services, of the nodes' own Service, and of the API server.
    pub slices: BTreeMap<String, ObservedSlice>,
    /// This node's pods.
    pub pods: BTreeMap<String, ObservedPod>,
    /// The prefixes of Services' addresses, as the cluster's ServiceCIDRs name them.
    #[serde(default)]
    pub service_ranges: BTreeSet<String>,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedSlice {
    /// Its Service.
    pub service: ServiceRef,
    /// TCP ports by name, empty where unnamed.
    pub ports: Vec<(String, u16)>,
    /// Its endpoints.
    pub endpoints: Vec<ObservedEndpoint>,
}

/// An endpoint of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedEndpoint {
    /// Its address in canonical form. Of several addresses the first counts, as it does for
    /// kube-proxy.
    pub address: IpAddr,
    /// True if it claims to be a pod of its Service's namespace: nobody has checked that.
    #[serde(default)]
    pub pod: bool,
    /// The node that it claims to run on: nobody has checked that either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// True if new connections may go there.
    pub ready: bool,
}

/// A pod of this node that can open connections of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedPod {
    /// Distinguishes it from another pod of the same name.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// The ServiceAccount that it runs as.
    pub service_account: String,
    /// Its addresses, in their canonical form.
    pub addresses: Vec<IpAddr>,
    /// True if it is terminating: another pod may have its addresses already.
    #[serde(default)]
    pub ending: bool,
    /// When the last of its containers started (RFC 3339): a pod whose network is set up anew
    /// starts all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
}

impl ObservedCluster {
    /// Forgets what a reboot of the machine has made untrue: pods on `node` have other addresses
    /// now, and theirs may belong to others.
    pub fn begin_boot(&mut self, run: String, node: &NodeName) {
        if self.boot_id == run {
            return;
        }
        self.pods.clear();
        for slice in self.slices.values_mut() {
            slice.endpoints.retain(|e| e.node.as_deref() != Some(node.as_str()));
        }
        self.boot_id = run;
    }
}

impl ObservedSlice {
    /// Reads a slice; `None` if it belongs to no Service, or is our own: endpoints that stand for
    /// an import are never backends.
    #[must_use]
    pub fn from_slice(slice: &EndpointSlice) -> Option<Self> {
        if is_our_slice(slice) {
            return None;
        }
        let labels = slice.labels();
        let service =
            ServiceRef { namespace: slice.namespace()?, name: labels.get(SLICE_SERVICE)?.clone() };
        let ports = slice.ports.iter().flatten();
        let tcp = ports.filter(|p| p.protocol.as_deref().is_none_or(|p| p == "TCP"));
        let port = |p: &k8s_openapi::api::discovery::v1::EndpointPort| {
            Some((p.name.clone().unwrap_or_default(), u16::try_from(p.port?).ok()?))
        };
        let endpoint = |e: &k8s_openapi::api::discovery::v1::Endpoint| {
            Some(ObservedEndpoint {
                address: canonical(e.addresses.first()?)?,
                pod: e.target_ref.as_ref().is_some_and(|r| {
                    r.kind.as_deref() == Some("Pod") && r.namespace == slice.namespace()
                }),
                node: e.node_name.clone(),
                ready: is_endpoint_ready(e),
            })
        };
        Some(Self {
            service,
            ports: tcp.filter_map(port).collect(),
            endpoints: slice.endpoints.iter().filter_map(endpoint).collect(),
        })
    }
}

fn canonical(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

impl ObservedPod {
    /// Reads a pod; `None` if it has no address of its own (yet), or has ended, so that its address
    /// is free for the next pod. A pod that is being deleted has ended with the last of its
    /// containers, which is before its phase says so.
    #[must_use]
    pub fn from_pod(pod: &Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        let ending = pod.metadata.deletion_timestamp.is_some();
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
            || (ending && have_containers_ended(status));
        if ended || spec.host_network == Some(true) {
            return None;
        }
        let addresses: Vec<IpAddr> =
            status.pod_ips.iter().flatten().filter_map(|ip| canonical(&ip.ip)).collect();
        (!addresses.is_empty()).then(|| Self {
            uid: pod.uid().unwrap_or_default(),
            namespace: pod.namespace().unwrap_or_default(),
            service_account: spec.service_account_name.clone().unwrap_or_else(|| "default".into()),
            addresses,
            ending,
            started_at: last_container_start(status),
        })
    }
}

/// Returns when the last of a pod's containers started.
fn last_container_start(status: &PodStatus) -> Option<String> {
    let running = |c: &ContainerStatus| c.state.as_ref()?.running.as_ref()?.started_at.clone();
    let last = status.container_statuses.iter().flatten().filter_map(running).max();
    last.map(|time| time.0.to_string())
}

/// Returns whether a pod has containers and all of them have ended.
fn have_containers_ended(status: &PodStatus) -> bool {
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let before = status.init_container_statuses.as_deref().unwrap_or_default();
    let ended = |c: &ContainerStatus| c.state.as_ref().is_some_and(|s| s.terminated.is_some());
    !containers.is_empty() && containers.iter().chain(before).all(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_restart_of_the_machine_no_address_on_it_counts() {
        let (here, there) = ("n1", "n2");
        let endpoint = |address: &str, node: Option<&str>| ObservedEndpoint {
            address: address.parse().unwrap(),
            pod: true,
            node: node.map(str::to_owned),
            ready: true,
        };
        let endpoints = vec![
            endpoint("10.0.1.5", Some(here)),
            endpoint("10.0.2.5", Some(there)),
            endpoint("10.0.9.9", None),
        ];
        let service = ServiceRef { namespace: "ml".into(), name: "bot".into() };
        let slice = ObservedSlice { service, ports: vec![], endpoints: endpoints.clone() };
        let workload = ObservedPod {
            uid: "u".into(),
            namespace: "ml".into(),
            service_account: "bot".into(),
            addresses: vec!["10.0.1.5".parse().unwrap()],
            ending: false,
            started_at: None,
        };
        let mut observed = ObservedCluster {
            boot_id: "one".into(),
            slices: [("ml/bot-1".to_owned(), slice)].into(),
            pods: [("ml/bot".to_owned(), workload)].into(),
            ..ObservedCluster::default()
        };
        let before = observed.clone();
        observed.begin_boot("one".into(), &here.parse().unwrap());
        assert_eq!(observed, before);
        observed.begin_boot("two".into(), &here.parse().unwrap());
        assert_eq!(observed.slices["ml/bot-1"].endpoints, endpoints[1..]);
        assert!(observed.pods.is_empty());
        assert_eq!(observed.boot_id, "two");
    }
}
