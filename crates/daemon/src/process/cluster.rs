//! A node that runs on Kubernetes: what its cluster tells becomes what a node from a file would be told.
//!
//! The ConfigMap becomes a [`Config`], bundles and certificate become the files that it refers to, and the
//! rest becomes a [`NodeState`]. All that was seen is kept on disk, so that a node that starts while the API
//! server is away serves what it knew. Before a node can start, its cluster has to have a name and the node
//! a certificate: it waits for both ([`prepare`]), and says so.

pub(super) mod certificate;
mod pod_addresses;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use adit_config::cluster::{ClusterConfig, NetworkConfig, NodeFacts};
use adit_config::{ClusterReport, Config, ConfigReport};
use adit_core::name::NodeName;
use adit_host::routes::{self, NetworkWatch};
use adit_kubernetes::Client;
use adit_kubernetes::config_map;
use adit_kubernetes::node::observed::ObservedCluster;
use adit_kubernetes::node::state::{NodeState, node_state};
use adit_kubernetes::node::{NodeLocation, installation_uid, watch as seeing};
use adit_runtime::Tasks;
use adit_pki::UnixTime;
use adit_pki::files::{self, IfExists};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::pod_addresses::PodAddressFilter;
use super::config_source::{ConfigUpdate, LoadedConfig};
use super::handover::{self, HandoverState};
use crate::compose::publish_if_changed;

/// Where and as what a node runs.
#[derive(Debug, Clone)]
pub struct KubernetesNodeOptions {
    /// The folder of what it keeps: certificate, bundles, what it saw last.
    pub state_folder: PathBuf,
    /// The Kubernetes node.
    pub node: NodeLocation,
    /// The UID of the pod.
    pub pod_uid: String,
}

/// The file with what was seen last.
const CACHE_FILE: &str = "seen.json";
/// The folder with other clusters' bundles.
const BUNDLES_FOLDER: &str = "bundles";
/// The file with the network that this pod began with: a pod's containers come and go, and all have the same.
const NETWORK_FILE: &str = "network";
/// What the first look at everything may take before a node begins with what it has; a node that has
/// something takes [`API_SERVER_TIMEOUT`].
const FIRST_LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// What is said of a change that sockets, routes and rules do not follow.
const RESTART_HINT: &str = "network: changes count when the nodes are restarted: \
    kubectl -n adit-system rollout restart daemonset/adit-node";
/// What asking the API server may take before what was seen last counts.
const API_SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// What a successor may take to write what it and this process see.
const SUCCESSOR_WRITE_DELAY: Duration = Duration::from_secs(2);
/// What was seen is written this long after it changed.
const CACHE_WRITE_DELAY: Duration = Duration::from_secs(1);

/// The cluster that a node runs in, as it is seen now.
#[derive(Debug)]
pub(super) struct KubernetesSource {
    options: KubernetesNodeOptions,
    observed: watch::Receiver<Arc<ObservedCluster>>,
    /// What sockets, routes and rules were made from.
    network: OnceLock<NetworkConfig>,
    /// What this machine says of its pods, as it was known last.
    pod_addresses: Mutex<PodAddressFilter>,
}

/// A node that can start.
pub(super) struct PreparedNode {
    pub(super) source: Arc<KubernetesSource>,
    /// What it begins with, with a configuration that is good.
    pub(super) observed: Arc<ObservedCluster>,
    pub(super) settings: ClusterConfig,
    pub(super) config: Config,
    pub(super) reports: Vec<ConfigReport>,
    /// What Kubernetes adds, as it is at first.
    pub(super) state: NodeState,
}

impl KubernetesSource {
    /// What the status calls the configuration.
    pub(super) const CONFIG_NAME: &str = "ConfigMap adit-system/adit";

    /// Reads the configuration as it is now.
    pub(super) fn load(&self) -> LoadedConfig {
        let seen = self.observed.borrow().clone();
        self.read(&seen.config)
            .map(|(_, config, reports)| (Box::new(config), reports))
            .map_err(rejected_reports)
    }

    /// SHA-256 over all fragments, in the order of their keys.
    pub(super) fn digest(&self) -> String {
        let seen = self.observed.borrow();
        let all: Vec<u8> = seen.config.values().flat_map(|text| text.bytes()).collect();
        super::sha256_hex(&all)
    }

    /// What has changed and does not count before a restart, as the ConfigMap names it.
    pub(super) fn needs_restart(&self) -> Vec<String> {
        let seen = self.observed.borrow().clone();
        let Ok((settings, _)) = config_map::read_config(&seen.config) else { return Vec::new() };
        let differences = self.network.get().map(|now| now.differences(&settings.network));
        differences.into_iter().flatten().map(str::to_owned).collect()
    }

    /// What the node has, where `settings` say another one.
    fn network_in_use(&self, settings: &ClusterConfig) -> Option<&NetworkConfig> {
        self.network.get().filter(|network| **network != settings.network)
    }

    fn read(
        &self,
        fragments: &BTreeMap<String, String>,
    ) -> Result<(ClusterConfig, Config, Vec<ConfigReport>), ClusterReport> {
        let (mut settings, mut report) = config_map::read_config(fragments)?;
        if let Some(network) = self.network_in_use(&settings) {
            settings.network = network.clone();
            report.add_warning(RESTART_HINT);
        }
        let KubernetesNodeOptions { state_folder: state, node: place, pod_uid: _ } = &self.options;
        let config = settings.node(NodeFacts {
            name: place.node.clone(),
            addresses: place.addresses.clone(),
            identity: state.clone(),
            bundles: state.join(BUNDLES_FOLDER),
        });
        Ok((settings, config, report.fragments))
    }

    /// With what only the machine knows. It is asked each time, since the pods' network gets its bridge with the
    /// first pod.
    async fn node_state(&self, seen: &ObservedCluster, settings: &ClusterConfig) -> NodeState {
        let found = routes::host_addresses().await;
        let mut known = self.pod_addresses.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(found) => known.host = found,
            Err(error) => tracing::warn!(%error, "what is around this machine is not known anew"),
        }
        let mut now = node_state(&known.without_stale(seen), settings, &self.options.node);
        now.forbidden.extend(&known.host.own);
        now.forbidden.extend(api_server_address());
        now
    }
}

/// The cluster's address of its API server, which the kubelet tells every pod.
fn api_server_address() -> Option<IpAddr> {
    std::env::var("KUBERNETES_SERVICE_HOST").ok()?.parse().ok()
}

/// A report that stands for a document without a name, too.
fn rejected_reports(mut report: ClusterReport) -> Vec<ConfigReport> {
    if report.unnamed {
        report.add_error(ClusterReport::UNNAMED);
    }
    report.fragments
}

/// Waits until a node can start: its cluster has a name, and it a certificate. What is seen is kept up to
/// date by one of `tasks`.
///
/// # Errors
/// What waiting will not mend: a folder that cannot be written, a task that ended.
pub(super) async fn prepare(
    client: &Client,
    options: KubernetesNodeOptions,
    tasks: &mut Tasks,
) -> Result<PreparedNode, String> {
    let folder = &options.state_folder;
    files::make_folder(folder).map_err(|e| e.to_string())?;
    restrict_permissions(folder);
    let last = load_cache(client, folder, &options.node.node).await?;
    files::make_folder(&folder.join(BUNDLES_FOLDER)).map_err(|e| e.to_string())?;
    let good = last.config.clone();
    let (out, seen) = watch::channel(Arc::new(last));
    tasks.spawn("watching the cluster", seeing::run(client.clone(), options.node.clone(), out));
    tokio::select! {
        prepared = wait_until_prepared(client, options, seen, good) => prepared,
        ended = tasks.ended() => Err(ended.to_string()),
    }
}

/// Closes the folder to everybody else, where an earlier version left it open: a key lies in it.
fn restrict_permissions(folder: &Path) {
    let closed = std::fs::metadata(folder).and_then(|found| {
        let open = found.permissions().mode() & 0o077 != 0;
        if open { std::fs::set_permissions(folder, Permissions::from_mode(0o700)) } else { Ok(()) }
    });
    if let Err(error) = closed {
        tracing::warn!(%error, folder = %folder.display(), "cannot be closed to others: chmod 700");
    }
}

/// Waits for all that is needed among what is `seen`; `good` was the configuration when it was last seen.
async fn wait_until_prepared(
    client: &Client,
    options: KubernetesNodeOptions,
    seen: watch::Receiver<Arc<ObservedCluster>>,
    good: BTreeMap<String, String>,
) -> Result<PreparedNode, String> {
    // An API server that is away is not waited for; what it has is, so that a peer is told nothing but that.
    let patience = if good.is_empty() { FIRST_LIST_TIMEOUT } else { API_SERVER_TIMEOUT };
    if timeout(patience, wait_until_complete(seen.clone())).await.is_err() {
        tracing::warn!("the API server does not answer; beginning with what was seen last");
    }

    let cluster = Arc::new(KubernetesSource {
        options,
        observed: seen.clone(),
        network: OnceLock::new(),
        pod_addresses: Mutex::default(),
    });
    let (settings, config, _, good) = wait_for_config(&cluster, seen.clone(), &good).await;
    let network = pin_network(&cluster.options, &settings.network)?;
    cluster.network.get_or_init(|| network);
    // A CA may be replaced meanwhile, because it cannot sign.
    let present = async || {
        wait_for_trust_bundle(seen.clone(), &config).await?;
        Ok(cluster.load().map_or_else(|_| config.clone(), |(config, _)| *config))
    };
    certificate::ensure_certificate(client, present).await?;
    let (settings, config, reports, good) = wait_for_config(&cluster, seen.clone(), &good).await;
    let bundle = wait_for_trust_bundle(seen.clone(), &config).await?;
    write_bundles(&config, &settings)?;
    let now = seen.borrow().as_ref().clone();
    let begun = Arc::new(ObservedCluster { config: good, bundle: Some(bundle), ..now });
    let state = cluster.node_state(&begun, &settings).await;
    Ok(PreparedNode { source: cluster, observed: begun, settings, config, reports, state })
}

/// The network that the pod began with, kept for its next container.
fn pin_network(
    options: &KubernetesNodeOptions,
    wanted: &NetworkConfig,
) -> Result<NetworkConfig, String> {
    let file = options.state_folder.join(NETWORK_FILE);
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    let of_this_pod = kept.split_once('\n').filter(|(pod, _)| *pod == options.pod_uid);
    if let Some(network) = of_this_pod.and_then(|(_, line)| wanted.from_line(line)) {
        return Ok(network);
    }
    write_if_changed(&file, &format!("{}\n{}", options.pod_uid, wanted.line()))?;
    Ok(wanted.clone())
}

/// What was seen last of this installation. What another one left here goes, its certificate with it.
async fn load_cache(
    client: &Client,
    folder: &Path,
    node: &NodeName,
) -> Result<ObservedCluster, String> {
    let mut last = read_cache(&folder.join(CACHE_FILE));
    last.begin_boot(boot_id(), node);
    let Ok(Ok(now)) = timeout(API_SERVER_TIMEOUT, installation_uid(client)).await else {
        // It was this one, as far as is known.
        return Ok(last);
    };
    if last.installation != now {
        clear_state(folder)?;
        last = ObservedCluster { installation: now, run: last.run, ..ObservedCluster::default() };
    }
    Ok(last)
}

/// Removes all that is kept, but for what tells peers of a restart.
pub(super) fn clear_state(folder: &Path) -> Result<(), String> {
    let gone = |path: PathBuf, result: std::io::Result<()>| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    };
    let handing = [handover::SOCKET, handover::TURNS, handover::TURNS_LOCK];
    for name in [CACHE_FILE, NETWORK_FILE, files::NODE_CHAIN, files::NODE_KEY, files::BUNDLE]
        .into_iter()
        .chain(handing)
    {
        let file = folder.join(name);
        let result = std::fs::remove_file(&file);
        gone(file, result)?;
    }
    let bundles = folder.join(BUNDLES_FOLDER);
    let result = std::fs::remove_dir_all(&bundles);
    gone(bundles, result)
}

/// The kernel's name for this run of the machine.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What was seen last, or nothing: a file that cannot be read is as good as none.
fn read_cache(file: &Path) -> ObservedCluster {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return ObservedCluster::default();
        }
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "what was seen last cannot be read");
            return ObservedCluster::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, file = %file.display(), "what was seen last is of no use");
        ObservedCluster::default()
    })
}

/// Waits for a configuration that can be used. While the present one cannot, the one that was last good will
/// do.
async fn wait_for_config(
    cluster: &KubernetesSource,
    mut seen: watch::Receiver<Arc<ObservedCluster>>,
    good: &BTreeMap<String, String>,
) -> (ClusterConfig, Config, Vec<ConfigReport>, BTreeMap<String, String>) {
    let mut told = None;
    loop {
        let now = seen.borrow_and_update().clone();
        let wrong = match cluster.read(&now.config) {
            Ok((settings, config, reports)) => {
                return (settings, config, reports, now.config.clone());
            }
            Err(report) => report.to_string(),
        };
        if let Ok((settings, config, mut reports)) = cluster.read(good) {
            let mut report = ClusterReport::default();
            report.add_warning(format!(
                "the last good one is in force, since this one is wrong: {wrong}"
            ));
            reports.extend(report.fragments);
            return (settings, config, reports, good.clone());
        }
        if told.as_ref() != Some(&wrong) {
            tracing::warn!("waiting for {}: {wrong}", KubernetesSource::CONFIG_NAME);
            told = Some(wrong);
        }
        wait_for_change(&mut seen).await;
    }
}

/// Waits for this cluster's own trust bundle, and writes it where the node reads it.
async fn wait_for_trust_bundle(
    mut seen: watch::Receiver<Arc<ObservedCluster>>,
    config: &Config,
) -> Result<String, String> {
    let mut told = false;
    loop {
        let bundle = seen.borrow_and_update().bundle.clone();
        if let Some(bundle) = bundle {
            write_if_changed(&config.node.identity.join(files::BUNDLE), &bundle)?;
            return Ok(bundle);
        }
        if !told {
            tracing::info!("waiting for the controller to make this cluster's CA");
            told = true;
        }
        wait_for_change(&mut seen).await;
    }
}

async fn wait_until_complete(mut seen: watch::Receiver<Arc<ObservedCluster>>) {
    while !seen.borrow_and_update().is_complete {
        wait_for_change(&mut seen).await;
    }
}

async fn wait_for_change(seen: &mut watch::Receiver<Arc<ObservedCluster>>) {
    if seen.changed().await.is_err() {
        // Nothing more will be seen; whoever waits for this is ended from outside.
        std::future::pending::<Infallible>().await;
    }
}

/// Takes what is seen after `last`: the configuration through `tell`, the rest through `out`. A bad
/// configuration is told, too, and the last good one stays.
pub(super) async fn follow(
    cluster: Arc<KubernetesSource>,
    mut last: Arc<ObservedCluster>,
    (mut settings, mut config): (ClusterConfig, Config),
    tell: mpsc::Sender<ConfigUpdate>,
    out: watch::Sender<Arc<NodeState>>,
    custody: HandoverState,
) {
    let mut seen = cluster.observed.clone();
    let mut good = last.config.clone();
    // What there is now may not be what the node began with.
    seen.mark_changed();
    let mut problems: Vec<String> = Vec::new();
    let mut write_at = Some(Instant::now());
    let mut writing = JoinSet::new();
    let mut network = NetworkWatch::new().ok();
    loop {
        tokio::select! {
            // A pod's device may have gone, which the API server says later.
            () = pod_addresses::changed(&mut network) => {}
            changed = seen.changed() => if changed.is_err() {
                std::future::pending::<Infallible>().await;
            },
            // One after the other, and beside: the disk may be slow.
            () = sleep_until(write_at.unwrap_or_else(Instant::now)), if write_at.is_some() && writing.is_empty() => {
                write_at = None;
                if custody.taken_over.is_cancelled() {
                    continue;
                }
                let (file, seen) = (cluster.options.state_folder.join(CACHE_FILE), last.clone());
                let good = good.clone();
                writing.spawn_blocking(move || write_cache(&file, &seen, &good));
                continue;
            }
            Some(_) = writing.join_next() => continue,
        }
        let now = seen.borrow_and_update().clone();
        if now.config != last.config {
            let input = match cluster.read(&now.config) {
                Ok((new_settings, new_config, reports)) => {
                    good.clone_from(&now.config);
                    if custody.taken_over.is_cancelled() {
                        // The successor writes them, and another version may name them otherwise.
                        sleep(SUCCESSOR_WRITE_DELAY).await;
                    } else if let Err(error) = write_bundles(&new_config, &new_settings) {
                        tracing::error!("trust bundles: {error}");
                    }
                    (settings, config) = (new_settings, new_config.clone());
                    Ok((Box::new(new_config), reports))
                }
                Err(report) => Err(rejected_reports(report)),
            };
            // The receiver is gone only when the process ends.
            drop(tell.send(ConfigUpdate::Config(input)).await);
        }
        if let Some(bundle) = now.bundle.as_ref().filter(|_| now.bundle != last.bundle) {
            let file = config.node.identity.join(files::BUNDLE);
            let written = if custody.taken_over.is_cancelled() {
                sleep(SUCCESSOR_WRITE_DELAY).await;
                Ok(())
            } else {
                write_if_changed(&file, bundle)
            };
            match written {
                Ok(()) => drop(tell.send(ConfigUpdate::Files(vec![file])).await),
                Err(error) => tracing::error!("{error}"),
            }
        }
        let state = cluster.node_state(&now, &settings).await;
        if state.problems != problems {
            for problem in state.problems.iter().filter(|p| !problems.contains(p)) {
                tracing::error!("{problem}");
            }
            problems.clone_from(&state.problems);
        }
        publish_if_changed(&out, state);
        if !Arc::ptr_eq(&now, &last) {
            write_at = write_at.or_else(|| Some(Instant::now() + CACHE_WRITE_DELAY));
        }
        last = now;
    }
}

fn write_cache(file: &Path, seen: &ObservedCluster, good: &BTreeMap<String, String>) {
    let seen = &ObservedCluster { config: good.clone(), ..seen.clone() };
    let written = serde_json::to_vec(seen)
        .map_err(|e| e.to_string())
        .and_then(|text| files::write(file, &text, IfExists::Replace).map_err(|e| e.to_string()));
    if let Err(error) = written {
        tracing::error!("what was seen cannot be kept for the next start: {error}");
    }
}

/// Other clusters' bundles, as files; and beside each what was good last. Nothing stays of clusters that are linked no
/// more: who is linked anew begins anew.
fn write_bundles(config: &Config, settings: &ClusterConfig) -> Result<(), String> {
    let mut ours = BTreeSet::new();
    for (link, from) in config.links.iter().zip(&settings.links) {
        write_if_changed(&link.trust_bundle, &from.trust_bundle)?;
        let good = config_map::link_bundle(from).is_ok_and(|b| b.is_current(UnixTime::now()));
        if let Some(last) = link.last_bundle.as_ref().filter(|_| good) {
            write_if_changed(last, &from.trust_bundle)?;
        }
        ours.extend(link.last_bundle.iter().chain([&link.trust_bundle]));
    }
    let files = std::fs::read_dir(config.node.identity.join(BUNDLES_FOLDER)).into_iter().flatten();
    for file in files.filter_map(Result::ok).map(|file| file.path()) {
        if file.extension().is_some_and(|e| e == "pem") && !ours.contains(&file) {
            std::fs::remove_file(&file)
                .map_err(|e| format!("cannot remove {}: {e}", file.display()))?;
        }
    }
    Ok(())
}

/// Writes a public file, unless it is so already.
fn write_if_changed(file: &Path, text: &str) -> Result<(), String> {
    if std::fs::read(file).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    files::write(file, text.as_bytes(), IfExists::Replace).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
