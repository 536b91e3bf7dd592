//! A node's configuration and state, made from what is observed of its cluster.
//!
//! The ConfigMap becomes a [`Config`], and the rest a [`NodeState`]. A ConfigMap's text is parsed once a change:
//! whoever needs what it says gets it from [`KubernetesSource`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use adit_config::cluster::{ClusterConfig, NetworkConfig, NodeFacts};
use adit_config::{ClusterReport, Config, ConfigReport};
use adit_core::name::ClusterName;
use adit_core::spiffe::TrustDomain;
use adit_host::routes;
use adit_kubernetes::config_map::{self, link_bundle};
use adit_kubernetes::node::NodeLocation;
use adit_kubernetes::node::observed::ObservedCluster;
use adit_kubernetes::node::state::{NodeState, node_state};
use adit_runtime::Mutex;
use tokio::sync::watch;

use super::pod_addresses::PodAddressFilter;
use crate::node::config_update::{LoadedConfig, sha256_hex};

/// The folder with other clusters' bundles.
pub(super) const BUNDLES_FOLDER: &str = "bundles";

/// The warning about a change that sockets, routes and rules do not follow.
const RESTART_HINT: &str = "network: changes count when the nodes are restarted: \
    kubectl -n adit-system rollout restart daemonset/adit-node";

/// The place of a node on Kubernetes: its machine, its pod, its folder.
#[derive(Debug, Clone)]
pub struct KubernetesNodeOptions {
    /// The folder with what it keeps: certificate, bundles, the cluster as it was observed last.
    pub state_folder: PathBuf,
    /// The Kubernetes node.
    pub node: NodeLocation,
    /// The UID of the pod.
    pub pod_uid: String,
}

/// The cluster that a node runs in, as it is observed now.
#[derive(Debug)]
pub(in crate::node) struct KubernetesSource {
    pub(super) options: KubernetesNodeOptions,
    pub(super) observed: watch::Receiver<Arc<ObservedCluster>>,
    /// The network that sockets, routes and rules were made from.
    pub(super) network: OnceLock<NetworkConfig>,
    /// The machine's own word on its pods' addresses, as it was read last.
    pod_addresses: Mutex<PodAddressFilter>,
    /// The ConfigMap that was parsed last.
    parsed: Mutex<Option<Arc<ParsedConfigMap>>>,
    /// Trust domain and bundle of each link, as they were when they last belonged together.
    good_trust: Mutex<BTreeMap<ClusterName, (TrustDomain, String)>>,
}

/// The fragments of a ConfigMap, and what they say.
#[derive(Debug)]
pub(super) struct ParsedConfigMap {
    fragments: BTreeMap<String, String>,
    result: Result<(ClusterConfig, ClusterReport), ClusterReport>,
}

impl KubernetesSource {
    /// The name of the configuration in the status.
    pub(in crate::node) const CONFIG_NAME: &str = "ConfigMap adit-system/adit";

    pub(super) fn new(
        options: KubernetesNodeOptions,
        observed: watch::Receiver<Arc<ObservedCluster>>,
    ) -> Self {
        Self {
            options,
            observed,
            network: OnceLock::new(),
            pod_addresses: Mutex::default(),
            parsed: Mutex::default(),
            good_trust: Mutex::default(),
        }
    }

    /// The configuration as it is now.
    pub(in crate::node) fn load(&self) -> LoadedConfig {
        let observed = self.observed.borrow().clone();
        self.read(&observed.config)
            .map(|(_, config, reports)| (Box::new(config), reports))
            .map_err(rejected_reports)
    }

    /// SHA-256 over all fragments, in the order of their keys.
    pub(in crate::node) fn digest(&self) -> String {
        let observed = self.observed.borrow();
        let all: Vec<u8> = observed.config.values().flat_map(|text| text.bytes()).collect();
        sha256_hex(&all)
    }

    /// Keys of the ConfigMap that have changed and do not count before a restart.
    pub(in crate::node) fn needs_restart(&self) -> Vec<String> {
        let observed = self.observed.borrow().clone();
        let parsed = self.parsed(&observed.config);
        let Ok((settings, _)) = &parsed.result else { return Vec::new() };
        let differences = self.network.get().map(|now| now.differences(&settings.network));
        differences.into_iter().flatten().map(str::to_owned).collect()
    }

    /// Parses the fragments, unless they are those that were parsed last.
    pub(super) fn parsed(&self, fragments: &BTreeMap<String, String>) -> Arc<ParsedConfigMap> {
        let mut last = self.parsed.lock();
        match &*last {
            Some(same) if same.fragments == *fragments => same.clone(),
            _ => {
                let (fragments, result) = (fragments.clone(), config_map::read_config(fragments));
                last.insert(Arc::new(ParsedConfigMap { fragments, result })).clone()
            }
        }
    }

    /// The configuration that `fragments` give this node, with the network that it runs on.
    pub(super) fn read(
        &self,
        fragments: &BTreeMap<String, String>,
    ) -> Result<(ClusterConfig, Config, Vec<ConfigReport>), ClusterReport> {
        let (mut settings, mut report) = self.parsed(fragments).result.clone()?;
        self.keep_good_trust(&mut settings);
        if let Some(network) = self.network.get().filter(|now| **now != settings.network) {
            settings.network = network.clone();
            report.add_warning(RESTART_HINT);
        }
        let KubernetesNodeOptions { state_folder, node, pod_uid: _ } = &self.options;
        let config = settings.node(NodeFacts {
            name: node.node.clone(),
            addresses: node.addresses.clone(),
            identity: state_folder.clone(),
            bundles: state_folder.join(BUNDLES_FOLDER),
        });
        Ok((settings, config, report.fragments))
    }

    /// True if everything that `fragments` say can be used, the trust bundle of each link included.
    pub(super) fn is_wholly_good(&self, fragments: &BTreeMap<String, String>) -> bool {
        self.parsed(fragments)
            .result
            .as_ref()
            .is_ok_and(|(settings, _)| settings.links.iter().all(|link| link_bundle(link).is_ok()))
    }

    /// Puts back what was last good where a link's trust bundle cannot be used. The trust domain with it: an empty
    /// trust domain ends the connections that the bundle was to keep.
    fn keep_good_trust(&self, settings: &mut ClusterConfig) {
        let mut good = self.good_trust.lock();
        for link in &mut settings.links {
            if link_bundle(link).is_ok() {
                let trust = (link.trust_domain.clone(), link.trust_bundle.clone());
                good.insert(link.cluster.clone(), trust);
            } else if let Some(trust) = good.get(&link.cluster) {
                (link.trust_domain, link.trust_bundle) = trust.clone();
            }
        }
        good.retain(|cluster, _| settings.links.iter().any(|link| link.cluster == *cluster));
    }

    /// The state that Kubernetes adds, with what only the machine knows. The machine is asked each time, because the
    /// pods' network gets its bridge with the first pod.
    pub(super) async fn node_state(
        &self,
        observed: &ObservedCluster,
        settings: &ClusterConfig,
    ) -> NodeState {
        let found = routes::host_addresses().await;
        let mut pods = self.pod_addresses.lock();
        match found {
            Ok(found) => pods.host = found,
            Err(error) => tracing::warn!(%error, "what is around this machine is not known anew"),
        }
        let mut now = node_state(&pods.without_stale(observed), settings, &self.options.node);
        now.forbidden.extend(&pods.host.own);
        now.forbidden.extend(api_server_address());
        now
    }
}

/// The cluster's address of its API server, which the kubelet tells every pod.
fn api_server_address() -> Option<IpAddr> {
    std::env::var("KUBERNETES_SERVICE_HOST").ok()?.parse().ok()
}

/// The reports on a ConfigMap that cannot be used; a cluster without a name is one, too.
pub(super) fn rejected_reports(mut report: ClusterReport) -> Vec<ConfigReport> {
    if report.unnamed {
        report.add_error(ClusterReport::UNNAMED);
    }
    report.fragments
}
